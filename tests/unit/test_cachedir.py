from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wain.cachedir import CacheChoice, choose_cache, open_store
from wain.commands import main as command
from wain.errors import UsageError
from wain.settings import wain_settings

PIP_SCRIPT = """
import json, os, sys
from pip._internal.commands import create_command
found = []
for case in json.load(sys.stdin):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        del os.environ[name]
    os.environ.update(case["env"])
    try:
        found.append(create_command("install").parse_args(case["flags"])[0].cache_dir or None)
    except SystemExit:
        found.append("error")
json.dump(found, sys.stdout)
"""

FILES = {
    "none": "",
    "no": "[global]\nno-cache-dir = false\n",
    "dir": "[global]\ncache-dir = /in-file\n",
    "install": "[install]\ncache-dir = ~/in-install\n[global]\ncache-dir = /in-global\nno-cache-dir =\n",
    "both": "[install]\nno-cache-dir = yes\n[global]\ncache-dir = /in-global\n",
    "junk": "[global]\nno-cache-dir = junk\n[install]\nno-cache-dir = no\n",
    "junk-install": "[install]\nno_cache_dir = junk\n",
}
FLAGS: list[list[str]] = [
    [],
    ["--no-cache-dir"],
    ["--cache-dir", "/flag"],
    ["--cache-dir=/flag", "--no-cache-dir"],
    ["--no-cache-dir", "--cache-dir", "~/flag"],
    ["--cache-dir="],
]
VARIABLES = [None, "", "1", "0", "off", "yes", "junk"]
FOLDERS = [None, "", "/in-variable", "~/in-variable"]


def ours(flags: list[str], environ: dict[str, str]) -> str | None:
    """What wain decides, as pip would have put it."""
    parser = command._global_flags()
    args = parser.parse_args(flags)
    try:
        choice = choose_cache(flag_dir=args.cache_dir, flag_none=args.no_cache_dir, follows_pip=True, environ=environ)
    except UsageError:
        return "error"
    if choice.origin.startswith("the home folder"):
        return "default"
    if choice.path is None:
        return None
    return str(choice.path if choice.origin == "--cache-dir" else choice.path.parent)


def test_pips_truth_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every combination of flag, variable and file value, held against pip itself."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    cases = []
    for file, disabled, folder, flags in itertools.product(FILES, VARIABLES, FOLDERS, FLAGS):
        path = tmp_path / f"{file}.conf"
        path.write_text(FILES[file])
        env = {"PIP_CONFIG_FILE": str(path), "HOME": str(home)}
        if disabled is not None:
            env["PIP_NO_CACHE_DIR"] = disabled
        if folder is not None:
            env["PIP_CACHE_DIR"] = folder
        cases.append({"env": env, "flags": flags})
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", PIP_SCRIPT],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=clean,
        timeout=120,
        check=True,
    )
    for case, theirs in zip(cases, json.loads(done.stdout), strict=True):
        expected = "default" if theirs == str(home / ".cache" / "pip") else theirs
        assert ours(case["flags"], case["env"]) == expected, case


class TestWainsOwn:
    def choose(self, home: Path, **environ: str) -> CacheChoice:
        return choose_cache(environ={"HOME": str(home), **environ})

    def test_the_platforms_folder(self, tmp_path: Path) -> None:
        choice = self.choose(tmp_path)
        assert (choice.path, choice.problem, choice.makes_parent) == (tmp_path / ".cache" / "wain", "", True)
        choice = self.choose(tmp_path, XDG_CACHE_HOME=str(tmp_path / "xdg"))
        assert (choice.path, choice.origin) == (tmp_path / "xdg" / "wain", "XDG_CACHE_HOME")
        choice = self.choose(tmp_path, XDG_CACHE_HOME="relative")
        assert choice.path == tmp_path / ".cache" / "wain"

    def test_variables(self, tmp_path: Path) -> None:
        choice = self.choose(tmp_path, WAIN_CACHE_DIR=str(tmp_path / "own"), XDG_CACHE_HOME="/xdg")
        assert (choice.path, choice.origin) == (tmp_path / "own", "WAIN_CACHE_DIR")
        choice = self.choose(tmp_path, WAIN_CACHE_DIR=str(tmp_path / "own"), WAIN_NO_CACHE_DIR="1")
        assert (choice.path, choice.origin, choice.problem) == (None, "WAIN_NO_CACHE_DIR", "")
        choice = self.choose(tmp_path, WAIN_CACHE_DIR=str(tmp_path / "own"), WAIN_NO_CACHE_DIR="0")
        assert choice.path == tmp_path / "own"
        with pytest.raises(UsageError, match="WAIN_NO_CACHE_DIR"):
            self.choose(tmp_path, WAIN_NO_CACHE_DIR="junk")

    def test_pips_switches_do_not_slow_a_build_down(self, tmp_path: Path) -> None:
        choice = self.choose(tmp_path, PIP_NO_CACHE_DIR="1", PIP_CACHE_DIR="/elsewhere")
        assert choice.path == tmp_path / ".cache" / "wain"

    def test_pyproject_and_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "pyproject.toml"
        path.write_text(
            '[tool.other]\ncache-dir = "x"\n[tool.wain]\n# cache\ncache-dir = ".cache"\ncache-max-size = "5GB"\n'
        )
        settings = wain_settings(tmp_path)
        choice = choose_cache(wain=settings, environ={"HOME": str(tmp_path)})
        assert (choice.path, choice.origin) == (tmp_path / ".cache", f"{path}:5")
        assert choice.max_size_bytes == 5_000_000_000
        choice = choose_cache(wain=settings, environ={"WAIN_CACHE_DIR": "/var", "WAIN_CACHE_MAX_SIZE": "1GB"})
        assert (choice.path, choice.max_size_bytes) == (Path("/var"), 1_000_000_000)
        path.write_text('[tool.wain]\nno-cache-dir = true\ncache-dir = "x"\n')
        choice = choose_cache(wain=wain_settings(tmp_path), environ={"HOME": str(tmp_path)})
        assert (choice.path, choice.origin) == (None, f"{path}:2")
        choice = choose_cache(wain=wain_settings(tmp_path), flag_dir="/flag", environ={"HOME": str(tmp_path)})
        assert choice.path == Path("/flag")


def warnings_of(choice: CacheChoice, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING), open_store(choice) as store:
        assert store.temporary
        assert store.has(store.put(b"hello", kind="wheel"))
    return [record.getMessage() for record in caplog.records]


class TestNeverInTheWay:
    def test_a_home_that_does_not_exist_is_not_made(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        choice = choose_cache(environ={"HOME": str(tmp_path / "nobody")})
        (warning,) = warnings_of(choice, caplog)
        assert f"HOME ({tmp_path / 'nobody'}) does not exist" in warning
        assert list(tmp_path.iterdir()) == []

    def test_another_users_home_is_left_alone(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        if os.geteuid():
            pytest.skip("only root can have another's home")
        os.chown(tmp_path, 12345, 12345)
        try:
            (warning,) = warnings_of(choose_cache(environ={"HOME": str(tmp_path)}), caplog)
            assert "belongs to uid 12345, and this runs as root (uid 0)" in warning
            assert list(tmp_path.iterdir()) == []
        finally:
            os.chown(tmp_path, 0, 0)

    def test_another_users_cache_folder_is_left_alone(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        (tmp_path / ".cache").mkdir()
        os.chown(tmp_path / ".cache", 12345, 12345)
        for environ in ({"HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path / ".cache")}):
            caplog.clear()
            (warning,) = warnings_of(choose_cache(environ=environ), caplog)
            assert "belongs to uid 12345" in warning
            assert list((tmp_path / ".cache").iterdir()) == []

    def test_a_cache_that_is_switched_off_needs_no_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert warnings_of(choose_cache(flag_none=True, environ={"HOME": str(tmp_path)}), caplog) == []
        assert list(tmp_path.iterdir()) == []

    def test_in_an_own_home_the_folder_is_made(self, tmp_path: Path) -> None:
        with open_store(choose_cache(environ={"HOME": str(tmp_path)})) as store:
            assert store.root == tmp_path / ".cache" / "wain"
