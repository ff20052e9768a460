"""What the command lines of pip and venv ask for, as actions.

Sources: the manuals of pip and venv.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from wain.actions import Action, CompileAll, Fails, NeedsEngine, Nothing, PipConfig, PipInstall, PipUninstall, Venv
from wain.pip_commands import PipCall

_QUERIES = frozenset({"--version", "list", "freeze", "show", "check", "debug", "help", "inspect", ""})
_NO_EFFECT = frozenset(
    "--no-cache-dir --cache-dir --quiet --verbose --no-input --no-color --disable-pip-version-check "
    "--no-warn-script-location --no-warn-conflicts --progress-bar --root-user-action --no-python-version-warning "
    "--prefer-binary --use-pep517 --no-clean --exists-action --default-timeout --log --report --use-feature "
    "--use-deprecated --require-virtualenv --resume-retries".split()
)
_INDEX_VALUES = frozenset(
    "--index-url --extra-index-url --find-links --trusted-host --cert --client-cert --proxy --timeout --retries "
    "--only-binary --no-binary --keyring-provider --build-constraint".split()
)
_INDEX_SWITCHES = frozenset({"--no-index", "--pre"})


def pip_action(pip: PipCall, argv: Sequence[str], env: Mapping[str, str]) -> Action:
    program = argv[0]
    if pip.verb == "install":
        return _pip_install(pip, program)
    if pip.verb == "cache" and pip.operands[:1] in {("purge",), ("info",), ("list",), ("dir",)}:
        if env.get("PIP_NO_CACHE_DIR") or pip.has("--no-cache-dir"):
            return Fails(told="pip cache fails where the cache is off")
        return Nothing(told="there is no cache to clean")
    if pip.verb == "config":
        return _pip_config(pip)
    if pip.verb == "uninstall":
        return _pip_uninstall(pip, program)
    if pip.verb in _QUERIES:
        return Nothing(told="tells of what is installed")
    raise NeedsEngine(f"pip {pip.verb} has to be run")


def _pip_uninstall(pip: PipCall, program: str) -> PipUninstall:
    known = {"--yes", "-y", "--break-system-packages", "--root-user-action"} | _NO_EFFECT
    unknown = next((name for name, _, _ in pip.options if name not in known), None)
    names = tuple(word or "" for word in pip.operands)
    if (
        unknown is not None
        or not pip.has("--yes", "-y")
        or not all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    ):
        raise NeedsEngine("pip uninstall with these arguments has to be run")
    return PipUninstall(
        told="removes distributions",
        program=program,
        names=names,
        break_system_packages=pip.has("--break-system-packages"),
    )


def _pip_config(pip: PipCall) -> PipConfig:
    words = [word or "" for word in pip.operands]
    scope = "global" if pip.has("--global") else "site" if pip.has("--site") else "user"
    known = {"--global", "--site", "--user"} | _NO_EFFECT
    if words[:1] != ["set"] or len(words) != 3 or any(name not in known for name, _, _ in pip.options):
        raise NeedsEngine("pip config with these arguments has to be run")
    return PipConfig(told="writes pip's configuration", scope=scope, values=((words[1], words[2]),))


def _pip_install(pip: PipCall, program: str) -> PipInstall:
    index: dict[str, str] = {}
    files: list[str] = []
    constraints: list[str] = []
    editables: list[str] = []
    values: dict[str, str] = {}
    switches: set[str] = set()
    compiles: bool | None = None
    for name, value, _ in pip.options:
        if name in _INDEX_VALUES:
            if value is None:
                raise NeedsEngine(f"pip's {name} has no value, and pip would fail")
            key = name[2:]
            joins = key in {"extra-index-url", "find-links", "trusted-host", "only-binary", "no-binary"}
            index[key] = f"{index[key]} {value}" if joins and key in index else value
        elif name in _INDEX_SWITCHES:
            index[name[2:]] = "true"
        elif name == "--requirement":
            files.append(value or "")
        elif name == "--constraint":
            constraints.append(value or "")
        elif name == "--editable":
            editables.append(value or "")
        elif name in {"--target", "--prefix", "--upgrade-strategy"}:
            values[name] = value or ""
        elif name in {"--compile", "--no-compile"}:
            compiles = name == "--compile"
        elif name in {
            "--upgrade",
            "--no-deps",
            "--force-reinstall",
            "--ignore-installed",
            "--user",
            "--require-hashes",
            "--break-system-packages",
        }:
            switches.add(name)
        elif name not in _NO_EFFECT:
            raise NeedsEngine(f"pip's {name} is for pip itself")
    requirements = tuple(word or "" for word in pip.operands)
    if not requirements and not files and not editables:
        raise NeedsEngine("pip install has nothing to install, and would fail")
    return PipInstall(
        told="installs distributions",
        program=program,
        is_uv=False,
        requirements=requirements,
        files=tuple(files),
        constraints=tuple(constraints),
        editables=tuple(editables),
        options=index,
        upgrade="--upgrade" in switches,
        eager=values.get("--upgrade-strategy") == "eager",
        no_deps="--no-deps" in switches,
        force=bool(switches & {"--force-reinstall", "--ignore-installed"}),
        user="--user" in switches,
        target=values.get("--target"),
        prefix=values.get("--prefix"),
        require_hashes="--require-hashes" in switches,
        compile=compiles,
        break_system_packages="--break-system-packages" in switches,
    )


def venv_action(argv: Sequence[str], start: int) -> Venv:
    flags = {word for word in argv[start:] if word.startswith("-")}
    folders = tuple(word for word in argv[start:] if not word.startswith("-"))
    unknown = flags - {"--without-pip", "--system-site-packages", "--clear", "--copies", "--symlinks", "--upgrade-deps"}
    if unknown or "--copies" in flags or "--upgrade-deps" in flags or not folders:
        raise NeedsEngine(f"venv {' '.join(sorted(flags))} has to be run".replace("  ", " "))
    return Venv(
        told="makes a virtual environment",
        python=argv[0],
        folders=folders,
        with_pip="--without-pip" not in flags,
        system_site="--system-site-packages" in flags,
        clear="--clear" in flags,
        is_uv=False,
    )


def compileall_action(argv: Sequence[str], start: int) -> CompileAll:
    """What `python -m compileall` asks for.

    :raises NeedsEngine: for options that change what is compiled, or how.
    """
    folders: list[str] = []
    index = start
    while index < len(argv):
        word = argv[index]
        index += 1
        if word in {"-j", "--workers"}:
            index += 1
        elif not word.startswith("-"):
            folders.append(word)
        elif word not in {"-q", "-qq", "-f", "--quiet"} and not word.startswith(("-j", "--workers=")):
            raise NeedsEngine(f"compileall {word} has to be run")
    if not folders:
        raise NeedsEngine("compileall of all that Python finds has to be run")
    return CompileAll(told="compiles modules", python=argv[0], folders=tuple(folders))
