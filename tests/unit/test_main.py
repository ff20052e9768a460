"""The command's frame: errors become messages and exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import subprocess
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from wain.commands import main as main_module
from wain.commands.console import Console, human_size, table
from wain.commands.main import VERBS, main
from wain.errors import HashMismatch, WainError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[argparse.Namespace], int]], None]]:
    """Puts a function in the place of `wain cache`."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("wain.commands.cache")

        def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
            subparsers.add_parser("cache", help="made").set_defaults(run=run)

        module.add_parser = add_parser  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "wain.commands.cache", module)

    yield install
    logging.getLogger("wain").handlers = []
    logging.getLogger("wain").propagate = True


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wain ")


def test_the_end_of_the_process_looks_for_no_cycles() -> None:
    program = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "from wain.commands.main import main\n"
        "assert main(['--version']) == 0 and not gc.get_freeze_count(), 'a caller goes on'\n"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told.split()[-1] == "True"


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in VERBS)


def test_every_verb_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in VERBS:
        assert main([name, "--help"]) == 0, name
    assert "--cache-dir" in capsys.readouterr().out


def test_an_unknown_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["biuld"]) == 2
    assert "biuld" in capsys.readouterr().err
    assert main(["lock", "--squash"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "  See wain lock --help."
    assert main(["cache", "list", "--nothing"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "  See wain cache --help."


def _leaves(kind: type[WainError]) -> Iterator[type[WainError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _leaves(child)


def test_each_error_has_an_exit_code_of_its_own() -> None:
    leaves = [kind for kind in _leaves(WainError) if kind is not WainError and kind.__module__ == "wain.errors"]
    codes = [kind.exit_code for kind in leaves]
    assert len(set(codes)) == len(codes)
    assert min(codes) == 2
    document = sys.modules["wain.errors"].__doc__ or ""
    for kind in leaves:
        assert f"{kind.__name__}".ljust(1) in document, kind
        assert str(kind.exit_code) in document


def test_an_error_is_a_message_and_a_code(
    verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise HashMismatch("a.whl is not what was promised", hint="Lock again.\nOr not.")

    verb(run)
    assert main(["cache"]) == HashMismatch.exit_code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "wain: a.whl is not what was promised\n  Lock again.\n  Or not.\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 23, "disk is full"),
        (ValueError("odd"), 70, "defect of wain"),
    ],
)
def test_whatever_happens_there_is_no_traceback(
    verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    verb(run)
    assert main(["cache"]) == code
    told = capsys.readouterr().err
    assert text in told
    assert "Traceback" not in told


def test_warnings_are_told_and_details_only_when_asked(
    verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        logging.getLogger("wain.some").warning("look")
        logging.getLogger("wain.some").info("detail")
        return 0

    verb(run)
    assert main(["cache"]) == 0
    assert capsys.readouterr().err == "warning: look\n"
    assert main(["cache", "-v"]) == 0
    assert capsys.readouterr().err == "warning: look\ndetail\n"
    assert main(["cache", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_docker_flag_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--no-cache"]) == 2
    assert "--no-cache-dir" in capsys.readouterr().err
    assert main_module._docker_hint("unrecognized arguments: --squash")
    for flag in ("--pull", "--cache-to=type=inline", "--rm", "--memory=1g", "--ssh=default"):
        assert main(["build", flag, "."]) == 2
        told = capsys.readouterr().err
        assert f"  {flag.partition('=')[0]}" in told, told


def test_starting_imports_nothing_that_is_slow() -> None:
    slow = (
        "{'urllib3', 'uv', 'packaging', 'tree_sitter', 'pysequoia', 'zstandard', 'isal', 'deflate', 'tomllib', 'ssl'}"
    )
    code = (
        f"import sys; from wain.commands.main import main; main(['--help']); print(sorted({slow} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (191_700_000, "192 MB"),
        (1_234_567_890, "1.2 GB"),
        (99_960, "100 kB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


def test_a_table_is_aligned() -> None:
    rows = [("what", "size"), ("numpy", "16 MB"), ("x", "1 B")]
    assert table(rows, right=frozenset({1})).splitlines() == ["what    size", "numpy  16 MB", "x        1 B"]


def test_plain_progress_is_a_line_when_something_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(mode="plain")
    for done in (10, 50, 100):
        console.progress("numpy", done, 100)
    assert capsys.readouterr().err == "numpy (100 B)\n"
    Console(mode="json").progress("numpy", 100, 100)
    assert capsys.readouterr().err == '{"what": "numpy", "done": 100, "total": 100}\n'
    Console(mode="plain", quiet=True).progress("numpy", 100, 100)
    assert capsys.readouterr().err == ""


def test_what_is_quickly_done_is_counted_where_nobody_asked_for_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("wain.commands.console.time.monotonic", lambda: now[0])
    console = Console()
    console.progress("numpy", 1_000_000, 2_000_000)
    for name in ("a", "b"):
        console.progress(name, 600, 600)
        console.sending(f"layer {name}", 50, 50)
    console.say("locked")
    console.progress("c", 10, 10)
    now[0] += 2
    console.progress("numpy", 2_000_000, 2_000_000)
    console.close()
    assert capsys.readouterr().err.splitlines() == [
        "2 files fetched (1.2 kB)",
        "2 blobs written (100 B)",
        "locked",
        "numpy (2.0 MB, 1.0 MB/s)",
        "1 file fetched (10 B)",
    ]


def test_names_of_others_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("layer \x1b]0;owned\x07 größe\r")
    assert capsys.readouterr().err == "layer \\x1b]0;owned\\x07 größe\\r\n"


def test_an_interrupt_while_a_command_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wain.commands.main.importlib.import_module", interrupted)
    assert main(["build"]) == 130
    assert capsys.readouterr().err == "wain: interrupted\n"
