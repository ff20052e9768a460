"""pip's switches, held to the real pip as a table; the cache folders of the other tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wain.installers import cache_use
from wain.invocation import CacheUse, Invocation
from wain.pip_commands import pip_cache, pip_call

VALUES = ["1", "0", "on", "off", "true", "false", "yes", "no", "y", "n", "t", "f", "TRUE", "No", "", "junk", "2", " "]
ARGUMENTS = [
    [],
    ["--no-cache-dir"],
    ["--no-cache"],
    ["--no-ca"],
    ["--cache-dir", "/f"],
    ["--cache-dir=/f"],
    ["--no-cache-dir", "--cache-dir", "/f"],
    ["--cache-dir", "/f", "--no-cache-dir"],
]
FILES = [
    None,
    "[global]\nno-cache-dir = true\n",
    "[global]\nno-cache-dir = false\n",
    "[global]\nno_cache_dir = 1\n",
    "[global]\nNO-CACHE-DIR = off\n",
    "[global]\nno-cache-dir =\n",
    "[install]\nno-cache-dir = true\n",
    "[wheel]\nno-cache-dir = true\n",
    "[global]\ncache-dir = /g\n",
    "[global]\ncache-dir = /g\n[install]\ncache-dir = /i\n",
    "[global]\nno-cache-dir = true\n[install]\ncache-dir = /i\n",
]
ENVIRONMENTS = [
    *({"PIP_NO_CACHE_DIR": value} for value in VALUES),
    *({"PIP_NO_CACHE_DIR": value, "PIP_CACHE_DIR": "/c"} for value in ("1", "off", "")),
    {},
    {"PIP_CACHE_DIR": "/c"},
    {"PIP_CACHE_DIR": ""},
    {"PIP_CACHE_DIR": "~/c"},
    {"XDG_CACHE_HOME": "/x"},
    {"XDG_CACHE_HOME": ""},
]

# Asks pip's own parser, with its own configuration, for many rows in one process.
ASK = """
import json, os, sys
from pip._internal.commands import create_command
for line in sys.stdin:
    env, arguments = json.loads(line)
    for name in [name for name in os.environ if name.startswith(("PIP_", "XDG_"))]:
        del os.environ[name]
    os.environ.update(env)
    import contextlib, io
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            options, _ = create_command("install").parser.parse_args(arguments)
        print(json.dumps(options.cache_dir))
    except SystemExit:
        print(json.dumps("refused"))
"""


def rows(tmp_path: Path) -> list[tuple[dict[str, str], list[str], str | None]]:
    found: list[tuple[dict[str, str], list[str], str | None]] = []
    for environment in ENVIRONMENTS:
        found.extend((environment, arguments, None) for arguments in ([], ["--cache-dir", "/f"], ["--no-cache-dir"]))
    found.extend(({}, arguments, None) for arguments in ARGUMENTS)
    for text in FILES:
        for environment in ({}, {"PIP_CACHE_DIR": "/c"}, {"PIP_NO_CACHE_DIR": ""}, {"PIP_NO_CACHE_DIR": "1"}):
            found.extend((environment, arguments, text) for arguments in ([], ["--cache-dir", "/f"]))
    return found


def test_pip_itself_agrees(tmp_path: Path) -> None:
    table = rows(tmp_path)
    lines = []
    for index, (environment, arguments, text) in enumerate(table):
        file = os.devnull
        if text is not None:
            file = str(tmp_path / f"{index}.conf")
            Path(file).write_text(text)
        lines.append(json.dumps([{**environment, "PIP_CONFIG_FILE": file, "HOME": "/h"}, arguments]))
    # XDG_CACHE_HOME is read when pip is imported: the rows of each value get a process of their own.
    answers: dict[int, object] = {}
    homes = sorted({environment.get("XDG_CACHE_HOME") for environment, _, _ in table}, key=str)
    for home in homes:
        mine = [index for index, row in enumerate(table) if row[0].get("XDG_CACHE_HOME") == home]
        told = ask([lines[index] for index in mine], {} if home is None else {"XDG_CACHE_HOME": home})
        answers.update(zip(mine, told, strict=True))
    assert len(table) > 150
    for index, (environment, arguments, text) in enumerate(table):
        answer = answers[index]
        call = Invocation(
            argv=("pip", "install", *arguments, "x"),
            env={**environment, "PIP_CONFIG_FILE": "/etc/x.conf"} if text is not None else environment,
            home="/h",
            files={"/etc/x.conf": text} if text is not None else {},
        )
        pip = pip_call(call.argv)
        assert pip is not None
        cache = pip_cache(call, pip)
        if cache.refuses is not None:
            ours: object = "refused"
        elif cache.enabled is False:
            ours = False
        else:
            ours = cache.folder
        assert ours == answer, (environment, arguments, text)


def ask(lines: list[str], environment: dict[str, str]) -> list[object]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input="\n".join(lines) + "\n",
        env={**clean, "HOME": "/h", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_option_that_takes_a_value_is_known() -> None:
    """A new pip option with a value would shift the operands: the table is held to the installed pip's."""
    code = (
        "import json\n"
        "from pip._internal.commands import create_command\n"
        "found = {}\n"
        "for name in ('install', 'wheel', 'download'):\n"
        "    parser = create_command(name).parser\n"
        "    for option in [*parser.option_list, *(o for g in parser.option_groups for o in g.option_list)]:\n"
        "        for text in option._long_opts + option._short_opts:\n"
        "            found[text] = option.takes_value()\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for text, takes_value in json.loads(done.stdout).items():
        argv = ("pip", "install", text, "one", "two")
        call = pip_call(argv)
        assert call is not None
        assert call.operands == (("two",) if takes_value else ("one", "two")), text


def use(*argv: str, home: str = "/root", **env: str) -> CacheUse | None:
    return cache_use(Invocation(argv=argv, env=env, home=home, files={}))


@pytest.mark.parametrize(
    ("argv", "env", "tool", "enabled", "home"),
    [
        (("uv", "sync"), {}, "uv", True, "/root/.cache/uv"),
        (("uv", "sync"), {"UV_CACHE_DIR": "/u"}, "uv", True, "/u"),
        (("uv", "sync", "--cache-dir", "/v"), {"UV_CACHE_DIR": "/u"}, "uv", True, "/v"),
        (("uv", "--no-cache", "sync"), {}, "uv", False, "/root/.cache/uv"),
        (("uv", "pip", "install", "-n", "x"), {}, "uv", False, "/root/.cache/uv"),
        (("poetry", "install"), {"POETRY_CACHE_DIR": "/p"}, "poetry", True, "/p"),
        (("pdm", "install"), {"XDG_CACHE_HOME": "/x"}, "pdm", True, "/x/pdm"),
        (("pipenv", "install"), {"PIPENV_CACHE_DIR": "/e"}, "pipenv", True, "/e"),
        (("pipx", "install", "x"), {"PIP_CACHE_DIR": "/c"}, "pipx", True, "/c"),
        (("conda", "install", "x"), {"CONDA_PKGS_DIRS": "/k"}, "conda", True, "/k"),
        (("/opt/mini/bin/conda", "install", "x"), {}, "conda", True, "/opt/mini/pkgs"),
        (("conda", "install", "x"), {"PATH": "/usr/bin:/root/miniconda3/bin"}, "conda", True, "/root/miniconda3/pkgs"),
        (("pixi", "install"), {"PIXI_CACHE_DIR": "/x"}, "pixi", True, "/x"),
        (("npm", "ci"), {"npm_config_cache": "/n"}, "npm", True, "/n"),
        (("apk", "add", "--no-cache", "x"), {}, "apk", False, "/var/cache/apk"),
        (("yum", "install", "x"), {}, "dnf", True, "/var/cache/yum"),
    ],
)
def test_where_other_tools_cache(
    argv: tuple[str, ...], env: dict[str, str], tool: str, enabled: bool, home: str
) -> None:
    found = use(*argv, **env)
    assert found is not None
    assert (found.tool, found.enabled, found.home) == (tool, enabled, home)


def test_what_is_not_known_is_not_guessed() -> None:
    call = Invocation(argv=("pip", "install", "x"), env={"PIP_CACHE_DIR": None}, home="/root", files={})
    found = cache_use(call)
    assert found is not None
    assert found.enabled is None
    unknown_home = Invocation(argv=("pip", "install", "x"), env={}, home=None, files={})
    found = cache_use(unknown_home)
    assert found is not None
    assert found.folders == ("~/.cache/pip",)
    assert cache_use(Invocation(argv=(None, "install"), env={}, home=None, files={})) is None
