"""What one command of a RUN does, where that is known without running it.

Sources: the manuals of pip, uv and venv; POSIX.1-2024 and GNU coreutils for the commands on files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wain.installers import PipCall, is_pip, is_python, pip_call, python_module


class NeedsEngine(Exception):
    """A command that has to be run: `reason` says why, in words that follow "because"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a command does; `told` is for people."""

    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing(Action):
    """Changes no file: true, set -e, pip cache purge where nothing is ever cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fails(Action):
    """Is known to fail, whatever the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Action):
    """Writes `text` to where its output goes."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCommand(Action):
    """A command of coreutils with its short flags; operands are indexes into argv."""

    name: str
    flags: frozenset[str]
    mode: str | None
    operands: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Venv(Action):
    """Makes virtual environments."""

    python: str
    """As called: decides the base interpreter."""
    folders: tuple[str, ...]
    with_pip: bool
    system_site: bool
    clear: bool
    is_uv: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PipConfig(Action):
    """`pip config set name value`, in the scope user, global or site."""

    scope: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipInstall(Action):
    """An installation: what pip's or uv's flags ask for, unexpanded paths as written."""

    program: str
    """As called: `pip`, `/opt/venv/bin/pip`, `python3`, `uv`."""
    is_uv: bool
    requirements: tuple[str, ...]
    files: tuple[str, ...]
    constraints: tuple[str, ...]
    editables: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the index, by pip's name; lists separated by white space."""
    upgrade: bool = False
    eager: bool = False
    no_deps: bool = False
    force: bool = False
    user: bool = False
    target: str | None = None
    prefix: str | None = None
    require_hashes: bool = False
    compile: bool | None = None
    break_system_packages: bool = False
    python: str | None = None
    """uv's --python, or None."""
    system: bool = False
    """uv's --system."""


_SETS = frozenset("e u x v o a f".split())
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


def classify(argv: Sequence[str], env: Mapping[str, str], cwd: str, *, writes: bool = False) -> Action:
    """What a command does.

    :param writes: its output goes to a file of the image.
    :raises NeedsEngine: when that is not known, or takes running it.
    """
    program = argv[0].rpartition("/")[2]
    if program in {"true", ":"} and not writes:
        return Nothing(told="does nothing")
    if program == "set" and not writes:
        letters = "".join(word[1:] for word in argv[1:] if word[:1] in "-+")
        rest = [word for word in argv[1:] if word[:1] not in ("-", "+")]
        if set(letters) <= _SETS and set(rest) <= {"pipefail", "errexit", "nounset", "xtrace"}:
            return Nothing(told="does nothing")
        raise NeedsEngine("set with these options has to be run by a shell")
    if program in {"cd", "export", "unset"}:
        return Nothing(told="sets the shell")
    if program in {"echo", "printf"}:
        return _echo(program, argv, writes)
    if writes:
        raise NeedsEngine(f"the output of {program} has to be found by running it")
    if program in _FILE_COMMANDS:
        return _file_command(program, argv)
    pip = pip_call(argv)
    if pip is not None:
        return _pip(pip, argv, env)
    if program == "uv":
        return _uv(argv)
    if is_python(program):
        module = python_module(argv)
        if module is not None and module[0] == "venv":
            return _venv(argv, module[1] + 1)
        if list(argv[1:]) in (["--version"], ["-V"]):
            return Nothing(told="tells the version")
        raise NeedsEngine(f"{' '.join(argv[:3])[:60]} has to be run")
    raise NeedsEngine(f"{program} has to be run")


def _echo(program: str, argv: Sequence[str], writes: bool) -> Action:
    if not writes:
        return Nothing(told="tells something")
    words = list(argv[1:])
    if any("\\" in word for word in words):
        raise NeedsEngine(f"{program} treats backslashes as its shell does")
    if program == "echo":
        end = "\n"
        if words[:1] == ["-n"]:
            words, end = words[1:], ""
        if words and words[0].startswith("-"):
            raise NeedsEngine("echo treats options as its shell does")
        return Echo(told="writes a file", text=" ".join(words) + end)
    if len(words) == 1 and "%" not in words[0]:
        return Echo(told="writes a file", text=words[0])
    raise NeedsEngine("printf with a format has to be run")


_FILE_COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "mkdir": ("pv", {"--parents": "p", "--verbose": "v", "--mode": "m"}),
    "rm": ("rRfvd", {"--recursive": "r", "--force": "f", "--verbose": "v", "--dir": "d"}),
    "rmdir": ("pv", {"--parents": "p"}),
    "ln": ("sfvnT", {"--symbolic": "s", "--force": "f", "--no-dereference": "n", "--no-target-directory": "T"}),
    "cp": (
        "rRapfvTdL",
        {"--recursive": "r", "--archive": "a", "--force": "f", "--no-target-directory": "T", "--verbose": "v"},
    ),
    "mv": ("fvTn", {"--force": "f", "--verbose": "v", "--no-target-directory": "T"}),
    "chmod": ("Rvfc", {"--recursive": "R", "--verbose": "v"}),
    "chown": ("Rvfch", {"--recursive": "R", "--verbose": "v", "--no-dereference": "h"}),
    "chgrp": ("Rvfch", {"--recursive": "R", "--verbose": "v", "--no-dereference": "h"}),
    "touch": ("c", {"--no-create": "c"}),
}
_TOLD = {
    "mkdir": "makes folders",
    "rm": "removes files",
    "rmdir": "removes folders",
    "ln": "makes links",
    "cp": "copies files",
    "mv": "moves files",
    "chmod": "changes modes",
    "chown": "changes owners",
    "chgrp": "changes owners",
    "touch": "touches files",
}


def _file_command(program: str, argv: Sequence[str]) -> FileCommand:
    letters, longs = _FILE_COMMANDS[program]
    flags: set[str] = set()
    operands: list[int] = []
    mode: str | None = None
    only = False
    index = 1
    while index < len(argv):
        word = argv[index]
        at = index
        index += 1
        if only or not word.startswith("-") or word == "-":
            operands.append(at)
        elif word == "--":
            only = True
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            letter = longs.get(name)
            if letter == "m" and equals:
                mode = value
            elif letter is None or equals:
                raise NeedsEngine(f"{program} {name} has to be run")
            else:
                flags.add(letter)
        elif program == "chmod" and set(word[1:]) <= set("rwxXst,=+-ugoa"):
            operands.append(at)
        else:
            for position, letter in enumerate(word[1:], 1):
                if program == "mkdir" and letter == "m":
                    mode = word[position + 1 :] or (argv[index] if index < len(argv) else None)
                    index += not word[position + 1 :]
                    break
                if letter not in letters:
                    raise NeedsEngine(f"{program} -{letter} has to be run")
                flags.add(letter)
    least = {"mkdir": 1, "rm": 0 if "f" in flags else 1, "rmdir": 1, "touch": 1}.get(program, 2)
    if program == "ln" and ("s" not in flags or len(operands) < 2):
        raise NeedsEngine("ln without -s and two names has to be run")
    if len(operands) < least:
        raise NeedsEngine(f"{program} lacks an operand, and would fail")
    return FileCommand(told=_TOLD[program], name=program, flags=frozenset(flags), mode=mode, operands=tuple(operands))


def _pip(pip: PipCall, argv: Sequence[str], env: Mapping[str, str]) -> Action:
    program = argv[0]
    if pip.verb == "install":
        return _pip_install(pip, program)
    if pip.verb == "cache" and pip.operands[:1] in {("purge",), ("info",), ("list",), ("dir",)}:
        if env.get("PIP_NO_CACHE_DIR") or pip.has("--no-cache-dir"):
            return Fails(told="pip cache fails where the cache is off")
        return Nothing(told="there is no cache to clean")
    if pip.verb == "config":
        return _pip_config(pip)
    if pip.verb in _QUERIES:
        return Nothing(told="tells of what is installed")
    raise NeedsEngine(f"pip {pip.verb} has to be run")


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
    if editables:
        raise NeedsEngine("an editable installation has to be run")
    requirements = tuple(word or "" for word in pip.operands)
    if not requirements and not files:
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


_UV_VALUES = {
    "-r": "file",
    "--requirements": "file",
    "--requirement": "file",
    "-c": "constraint",
    "--constraints": "constraint",
    "--constraint": "constraint",
    "-e": "editable",
    "--editable": "editable",
    "-i": "index-url",
    "--index-url": "index-url",
    "--default-index": "index-url",
    "--index": "extra-index-url",
    "--extra-index-url": "extra-index-url",
    "-f": "find-links",
    "--find-links": "find-links",
    "-p": "python",
    "--python": "python",
    "-t": "target",
    "--target": "target",
    "--prefix": "prefix",
    "--only-binary": "only-binary",
    "--no-binary": "no-binary",
    "--index-strategy": "ignored",
    "--cache-dir": "ignored",
    "--link-mode": "ignored",
    "--prerelease": "prerelease",
}
_UV_SWITCHES = {
    "--system": "system",
    "--upgrade": "upgrade",
    "-U": "upgrade",
    "--no-deps": "no-deps",
    "--reinstall": "force",
    "--require-hashes": "require-hashes",
    "--break-system-packages": "break",
    "--compile-bytecode": "compile",
    "--compile": "compile",
    "--no-compile-bytecode": "no-compile",
    "--no-index": "no-index",
    "--no-cache": "ignored",
    "--no-cache-dir": "ignored",
    "-n": "ignored",
    "-q": "ignored",
    "--quiet": "ignored",
    "-v": "ignored",
    "--verbose": "ignored",
    "--no-progress": "ignored",
    "--offline": "",
}


def _uv_words(argv: Sequence[str], start: int) -> tuple[dict[str, list[str]], list[str]]:
    options: dict[str, list[str]] = {}
    operands: list[str] = []
    index = start
    while index < len(argv):
        word = argv[index]
        index += 1
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2 and word[:2] in _UV_VALUES:
            name, equals, value = word[:2], "=", word[2:]
        if name in _UV_VALUES:
            if not equals:
                if index >= len(argv):
                    raise NeedsEngine(f"uv's {name} has no value, and uv would fail")
                value = argv[index]
                index += 1
            options.setdefault(_UV_VALUES[name], []).append(value)
        elif _UV_SWITCHES.get(name) and not equals:
            options.setdefault(_UV_SWITCHES[name], []).append("")
        else:
            raise NeedsEngine(f"uv's {name} is for uv itself")
    return options, operands


def _uv(argv: Sequence[str]) -> Action:
    words = [word for word in argv[1:] if not word.startswith("-")]
    if words[:1] == ["venv"]:
        at = argv.index("venv")
        options, operands = _uv_words(argv, at + 1)
        if set(options) - {"python", "ignored", "system"}:
            raise NeedsEngine("uv venv with these options has to be run")
        return Venv(
            told="makes a virtual environment",
            python=options.get("python", [""])[-1],
            folders=tuple(operands[:1]) or (".venv",),
            with_pip=False,
            system_site=False,
            clear=False,
            is_uv=True,
        )
    if words[:2] == ["cache", "clean"] or words[:2] == ["cache", "prune"]:
        return Nothing(told="there is no cache to clean")
    if words[:2] != ["pip", "install"] or argv[1] != "pip":
        raise NeedsEngine(f"uv {' '.join(words[:2])[:40]} has to be run")
    options, operands = _uv_words(argv, argv.index("install") + 1)
    if options.get("editable"):
        raise NeedsEngine("an editable installation has to be run")
    if options.get("prerelease", ["allow"]) != ["allow"]:
        raise NeedsEngine("uv's --prerelease is for uv itself")
    if not operands and not options.get("file"):
        raise NeedsEngine("uv pip install has nothing to install, and would fail")
    index: dict[str, str] = {
        name: " ".join(options[name])
        for name in ("index-url", "extra-index-url", "find-links", "only-binary", "no-binary")
        if name in options
    }
    if "no-index" in options:
        index["no-index"] = "true"
    if "prerelease" in options:
        index["pre"] = "true"
    return PipInstall(
        told="installs distributions",
        program=argv[0],
        is_uv=True,
        requirements=tuple(operands),
        files=tuple(options.get("file", ())),
        constraints=tuple(options.get("constraint", ())),
        editables=(),
        options=index,
        upgrade="upgrade" in options,
        eager="upgrade" in options,
        no_deps="no-deps" in options,
        force="force" in options,
        target=options.get("target", [None])[-1],
        prefix=options.get("prefix", [None])[-1],
        require_hashes="require-hashes" in options,
        compile=True if "compile" in options else None,
        break_system_packages="break" in options,
        python=options.get("python", [None])[-1],
        system="system" in options,
    )


def _venv(argv: Sequence[str], start: int) -> Venv:
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


def installation(argv: Sequence[str]) -> PipInstall:
    """What a `pip install`, `pip wheel`, `pip download` or `uv pip install` asks for, whoever runs it.

    :raises NeedsEngine: when that is not known, or it is no such command.
    """
    pip = pip_call(argv)
    if pip is not None and pip.verb in {"install", "wheel", "download"}:
        kept = tuple(option for option in pip.options if option[0] not in {"--wheel-dir", "--dest"})
        return _pip_install(replace(pip, options=kept), argv[0])
    action = _uv(argv) if pip is None else None
    if isinstance(action, PipInstall):
        return action
    raise NeedsEngine(f"{' '.join(argv[:2])[:40]} chooses its files itself")


def is_installer(argv: Sequence[str]) -> bool:
    """Whether a command is pip's or uv's."""
    program = argv[0].rpartition("/")[2] if argv else ""
    return is_pip(program) or program == "uv" or pip_call(argv) is not None
