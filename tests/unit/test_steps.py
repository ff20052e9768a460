from __future__ import annotations

from pathlib import Path

import pytest

from wain.actions import (
    Action,
    Activate,
    Echo,
    Fails,
    FileCommand,
    NeedsEngine,
    Nothing,
    PipConfig,
    PipInstall,
    UvSync,
    Venv,
)
from wain.classify import classify
from wain.dockerfile import decode, parse
from wain.errors import DockerfileError
from wain.steps import ShellVariables, find_target, plan, run_commands

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


def takers(text: str, **options: str) -> list[str]:
    return [step.taker for step in plan(parse(text), **options).steps]  # type: ignore[arg-type]


def test_what_needs_no_command_is_native() -> None:
    text = (
        "FROM python:3.13\nARG A=1\nENV B=$A\nLABEL c=d\nWORKDIR /app\nCOPY . .\nADD x.tar.gz /y\nUSER 1\nEXPOSE 80\n"
        "VOLUME /v\nSTOPSIGNAL INT\nHEALTHCHECK NONE\nRUN pip install -r requirements.txt && mkdir /x\n"
        'SHELL ["/bin/bash", "-c"]\nENTRYPOINT ["a"]\nCMD b\nONBUILD RUN make\n'
    )
    assert set(takers(text)) == {"native"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("apt-get update", "apt-get has to be run"),
        ("curl -o x https://host.example/x", "curl has to be run"),
        ("make && pip install x", "make has to be run"),
        ("pip install x | tee log", "a pipe has to be run"),
        ("if true; then mkdir x; fi", "a condition has to be run"),
        ("for x in a b; do mkdir $x; done", "a loop has to be run"),
        ("mkdir $(date +%s)", "output of a command"),
        ("cat a > b", "output of cat"),
        ("uv lock", "uv lock has to be run"),
        ("env A=1 make", "env has to be run"),
        ("printenv A", "printenv has to be run"),
        ("find -name x -delete", "find without a folder"),
        ("find /x -newer y", "find -newer"),
        ("find /x -exec sed -i s/a/b/ {} +", "find -exec sed"),
        ("useradd -p x y", "useradd -p"),
        ("usermod -G x y", "usermod with these arguments"),
        ("pip uninstall x", "pip uninstall with these arguments"),
        (". ./settings.sh", "has to be read by a shell"),
        ("install -s a b", "install -s"),
        ("uv sync --script x.py", "--script"),
        ("uv sync extra", "uv sync extra"),
        ("(cd /x && mkdir y)", "subshell"),
        ("mkdir /{a,b}", "expanded by some shells"),
        ("false || mkdir x", "|| depends"),
        ("cp --reflink a b", "cp --reflink"),
        ("python setup.py install", "has to be run"),
    ],
)
def test_what_must_be_run_says_why(command: str, reason: str) -> None:
    step = plan(parse(f"FROM x\nRUN {command}\n")).steps[1]
    assert step.taker == "engine"
    assert reason in step.why


def test_uv_says_what_it_syncs() -> None:
    action = classify(
        (
            "/bin/uv",
            "--quiet",
            "--project",
            "/p",
            "sync",
            "--frozen",
            "--no-dev",
            "--extra=a",
            "--extra",
            "b",
            "-p3.13",
        ),
        {},
        "/",
    )
    assert isinstance(action, UvSync)
    assert (action.program, action.folder, action.extras, action.python) == ("/bin/uv", "/p", ("a", "b"), "3.13")
    assert action.switches == {"frozen", "no-dev"}
    only = classify(("uv", "sync", "--only-group", "lint", "--compile-bytecode"), {}, "/")
    assert isinstance(only, UvSync)
    assert (only.only_groups, only.compile) == (("lint",), True)
    venv = classify(("uv", "venv", "--seed", "--prompt", "x", "/v"), {}, "/")
    assert isinstance(venv, Venv)
    assert (venv.folders, venv.with_pip, venv.prompt, venv.is_uv) == (("/v",), True, "x", True)


def test_editables_are_what_pip_and_uv_are_asked_for() -> None:
    for words in (("pip", "install", "-e", ".[dev]"), ("uv", "pip", "install", "--editable", ".[dev]")):
        action = classify(words, {}, "/")
        assert isinstance(action, PipInstall)
        assert (action.editables, action.requirements) == ((".[dev]",), ())


def test_uv_pip_takes_projects_and_makes_environments_exact() -> None:
    action = classify("uv pip install --system -r pyproject.toml --extra a --extra b".split(), {}, "/")
    assert isinstance(action, PipInstall)
    assert (action.files, action.extras, action.exact) == (("pyproject.toml",), ("a", "b"), False)
    action = classify("uv pip sync --system requirements.txt -p 3.13".split(), {}, "/")
    assert isinstance(action, PipInstall)
    assert (action.files, action.requirements, action.python) == (("requirements.txt",), (), "3.13")
    assert (action.exact, action.no_deps, action.system) == (True, True, True)
    with pytest.raises(NeedsEngine, match="uv pip sync"):
        classify("uv pip sync --target /t requirements.txt".split(), {}, "/")


def test_an_activation_script_sets_the_shell() -> None:
    (instruction,) = parse("RUN . v/bin/activate && pip install x\n").instructions
    first, second = run_commands(instruction, ShellVariables({"PATH": "/bin"}), "/w")
    assert isinstance(first.action, Activate)
    assert (second.env["PATH"], second.env["VIRTUAL_ENV"]) == ("/w/v/bin:/bin", "/w/v")


def test_mounts_of_files_are_native() -> None:
    text = "FROM x AS a\nFROM y\nRUN --mount=from=a,target=/a --mount=type=tmpfs,target=/t cp /a/b /c\n"
    assert takers(text) == ["native"] * 3
    assert takers("FROM y\nRUN --mount=type=ssh mkdir /x\n")[1] == "engine"
    assert takers("FROM y\nRUN --mount=type=bind,target=/x,unheard=1 mkdir /x\n")[1] == "engine"


def test_a_foreign_front_end_takes_the_whole_file() -> None:
    found = plan(parse("# syntax=registry.example/front:1\nFROM x\nCOPY a b\n"))
    assert [step.taker for step in found.steps] == ["engine", "engine"]
    assert plan(parse("# syntax=docker/dockerfile:1.7\nFROM x\nCOPY a b\n")).taker == "native"


def test_stages_that_the_target_does_not_need_are_unused() -> None:
    text = "FROM a AS one\nRUN make\nFROM b AS two\nCOPY x /x\nFROM c\nCOPY --from=two /x /x\n"
    assert takers(text) == ["unused", "unused", "native", "native", "native", "native"]
    assert takers(text, target="one") == ["native", "engine", *["unused"] * 4]
    assert find_target(parse(text), "1") == 1
    with pytest.raises(DockerfileError, match="no stage 'three'"):
        find_target(parse(text), "three")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("true", Nothing),
        ("set -eux", Nothing),
        ("pip cache purge", Nothing),
        ("pip --version", Nothing),
        ("rm -rf /x", FileCommand),
        ("chmod g-w x", FileCommand),
        ("chmod -x x", FileCommand),
        ("python3 -m venv /opt/venv", Venv),
        ("pip config set global.index-url https://index.example/simple", PipConfig),
        ("/opt/venv/bin/pip3 install -U pip setuptools wheel", PipInstall),
        ("python -m pip install --no-cache-dir x==1", PipInstall),
        ("uv pip install --system -r requirements.txt", PipInstall),
    ],
)
def test_commands_are_known(words: str, kind: type[Action]) -> None:
    assert isinstance(classify(words.split(), {}, "/"), kind)


def test_pip_s_flags_are_read() -> None:
    found = classify(
        "pip install --user -r a.txt -ra2.txt --constraint=c.txt -U -i https://one.example --extra-index-url "
        "https://two.example --extra-index-url=https://three.example --no-deps --pre x".split(),
        {},
        "/",
    )
    assert isinstance(found, PipInstall)
    assert (found.files, found.constraints, found.requirements) == (("a.txt", "a2.txt"), ("c.txt",), ("x",))
    assert found.user and found.upgrade and found.no_deps
    assert found.options == {
        "index-url": "https://one.example",
        "extra-index-url": "https://two.example https://three.example",
        "pre": "true",
    }
    assert "one.example" not in repr(found)


def test_pip_cache_fails_where_the_cache_is_off() -> None:
    assert isinstance(classify(["pip", "cache", "purge"], {"PIP_NO_CACHE_DIR": "1"}, "/"), Fails)
    assert isinstance(classify(["echo", "a", "b"], {}, "/", writes=True), Echo)


def test_variables_folder_and_attempts_are_followed() -> None:
    instruction = parse('FROM x\nRUN cd /tmp && export A=b; C=d mkdir $A-$C "$D" && rm x || true\n').instructions[1]
    found = list(run_commands(instruction, ShellVariables({"HOME": "/root"}), "/", ("/bin/sh", "-c")))
    made = next(command for command in found if command.argv[0] == "mkdir")
    assert made.argv == ("mkdir", "b-", "")
    assert (made.cwd, made.env["C"]) == ("/tmp", "d")
    assert {command.attempt for command in found if command.argv[0] in ("mkdir", "rm")} == {1}


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here")
def test_every_file_of_the_corpus_has_a_plan_or_a_clear_reason() -> None:
    shares = {"native": 0, "engine": 0, "refused": 0, "wrong": 0}
    for path in sorted(CORPUS.glob("*.Dockerfile"))[::4]:
        try:
            shares[plan(parse(decode(path.read_bytes()), name=path.name)).taker] += 1
        except DockerfileError as error:
            shares["wrong"] += 1
            assert error.message.startswith(f"{path.name}:")
            assert error.hint
    print(shares)
    assert shares["wrong"] < 5
