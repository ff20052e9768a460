"""What the command lines of uv ask for, as actions.

Source: uv's manual of its commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from msgspec.structs import replace

from wain.actions import Action, NeedsEngine, Nothing, PipInstall, UvSync, Venv

_COMMON_VALUES = {"--cache-dir": "ignored", "--link-mode": "ignored", "--color": "ignored", "--config-file": ""}
_COMMON_SWITCHES = dict.fromkeys(
    "--no-cache --no-cache-dir -n -q --quiet -v --verbose --no-progress --system-certs --native-tls "
    "--no-python-downloads".split(),
    "ignored",
)
_INDEX_VALUES = {
    "-i": "index-url",
    "--index-url": "index-url",
    "--default-index": "index-url",
    "--index": "extra-index-url",
    "--extra-index-url": "extra-index-url",
    "-f": "find-links",
    "--find-links": "find-links",
    "--index-strategy": "ignored",
    "--keyring-provider": "keyring-provider",
}
_PIP_VALUES = {
    **_COMMON_VALUES,
    **_INDEX_VALUES,
    "-r": "file",
    "--requirements": "file",
    "--requirement": "file",
    "-c": "constraint",
    "--constraints": "constraint",
    "--constraint": "constraint",
    "-e": "editable",
    "--editable": "editable",
    "-p": "python",
    "--python": "python",
    "-t": "target",
    "--target": "target",
    "--prefix": "prefix",
    "--only-binary": "only-binary",
    "--no-binary": "no-binary",
    "--prerelease": "prerelease",
    "--extra": "extra",
}
_PIP_SWITCHES = {
    **_COMMON_SWITCHES,
    "--all-extras": "all-extras",
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
}
_VENV_VALUES = {**_COMMON_VALUES, **_INDEX_VALUES, "-p": "python", "--python": "python", "--prompt": "prompt"}
_VENV_SWITCHES = {
    **_COMMON_SWITCHES,
    "--system-site-packages": "system-site",
    "--clear": "clear",
    "--seed": "seed",
    "--no-project": "no-project",
    "--no-index": "ignored",
}
_SYNC_VALUES = {
    **_COMMON_VALUES,
    **_INDEX_VALUES,
    "--extra": "extra",
    "--no-extra": "no-extra",
    "--group": "group",
    "--no-group": "no-group",
    "--only-group": "only-group",
    "--no-install-package": "no-install-package",
    "--package": "package",
    "-p": "python",
    "--python": "python",
    "--project": "folder",
    "--directory": "folder",
}
_SYNC_SWITCHES = {
    **_COMMON_SWITCHES,
    **{
        f"--{name}": name
        for name in (
            "frozen locked all-extras no-dev only-dev all-groups no-default-groups no-editable no-install-project "
            "no-install-workspace no-install-local inexact active exact"
        ).split()
    },
    "--dev": "ignored",
    "--compile-bytecode": "compile",
    "--compile": "compile",
    "--no-compile-bytecode": "no-compile",
    "--no-index": "no-index",
}


def uv_action(argv: Sequence[str]) -> Action:
    """What a command of uv asks for.

    :raises NeedsEngine: when that is not known, or takes running it.
    """
    at = 1
    before: list[str] = []
    while at < len(argv) and argv[at].startswith("-"):
        if argv[at] in {"--version", "-V", "--help", "-h"}:
            return Nothing(told="tells the version")
        before.append(argv[at])
        if argv[at] in _SYNC_VALUES and at + 1 < len(argv):
            at += 1
            before.append(argv[at])
        at += 1
    words = tuple(argv[at : at + 2])
    if words[:1] == ("sync",):
        return _sync((*before, *argv[at + 1 :]), argv[0])
    if words[:1] == ("venv",):
        return _venv((*before, *argv[at + 1 :]), argv[0])
    if words in {("cache", "clean"), ("cache", "prune"), ("cache", "dir")}:
        return Nothing(told="there is no cache to clean")
    if words in {("pip", "list"), ("pip", "freeze"), ("pip", "show"), ("pip", "check"), ("pip", "tree")}:
        return Nothing(told="tells of what is installed")
    if words[:1] == ("version",) or words == ("self", "version"):
        return Nothing(told="tells the version")
    if words == ("pip", "install"):
        return _pip_install((*before, *argv[at + 2 :]), argv[0])
    if words == ("pip", "sync"):
        # What it is given are files, and their lines are all that there is to be.
        options, files = _options((*before, *argv[at + 2 :]), _PIP_VALUES, _PIP_SWITCHES)
        if not files or {"file", "editable", "target", "prefix", "upgrade", "no-deps", "prerelease"} & set(options):
            raise NeedsEngine("uv pip sync with these options has to be run")
        made = _pip_install((*before, *(f"-r{file}" for file in files), *_without(argv[at + 2 :], files)), argv[0])
        return replace(made, no_deps=True, exact=True)
    raise NeedsEngine(f"uv {' '.join(words)[:40]} has to be run")


def _options(
    words: Sequence[str], values: Mapping[str, str], switches: Mapping[str, str]
) -> tuple[Mapping[str, list[str]], list[str]]:
    """Options by their meaning with their values, and operands."""
    found: dict[str, list[str]] = {}
    operands: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2 and word[:2] in values:
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
        if values.get(name):
            if not equals:
                if index >= len(words):
                    raise NeedsEngine(f"uv's {name} has no value, and uv would fail")
                value = words[index]
                index += 1
            found.setdefault(values[name], []).append(value)
        elif switches.get(name) and not equals:
            found.setdefault(switches[name], []).append("")
        else:
            raise NeedsEngine(f"uv's {name} is for uv itself")
    return MappingProxyType(found), operands


def _without(words: Sequence[str], operands: Sequence[str]) -> tuple[str, ...]:
    left = list(operands)
    kept = []
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            kept.append(word)
    return tuple(kept)


def _index(options: Mapping[str, list[str]]) -> dict[str, str]:
    names = ("index-url", "extra-index-url", "find-links", "only-binary", "no-binary", "keyring-provider")
    index = {name: " ".join(options[name]) for name in names if name in options}
    if "no-index" in options:
        index["no-index"] = "true"
    return index


def _last(options: Mapping[str, list[str]], name: str) -> str | None:
    return options[name][-1] if name in options else None


def _compile(options: Mapping[str, list[str]]) -> bool | None:
    return True if "compile" in options else False if "no-compile" in options else None


def _venv(words: Sequence[str], program: str) -> Venv:
    options, operands = _options(words, _VENV_VALUES, _VENV_SWITCHES)
    if len(operands) > 1:
        raise NeedsEngine("uv venv with these arguments has to be run")
    return Venv(
        told="makes a virtual environment",
        python=_last(options, "python") or "",
        folders=tuple(operands) or (".venv",),
        with_pip="seed" in options,
        system_site="system-site" in options,
        clear="clear" in options,
        is_uv=True,
        program=program,
        prompt=_last(options, "prompt"),
        is_named=bool(operands),
        has_project="no-project" not in options,
    )


def _pip_install(words: Sequence[str], program: str) -> PipInstall:
    options, operands = _options(words, _PIP_VALUES, _PIP_SWITCHES)
    if options.get("prerelease", ["allow"]) != ["allow"]:
        raise NeedsEngine("uv's --prerelease is for uv itself")
    if not operands and not options.get("file") and not options.get("editable"):
        raise NeedsEngine("uv pip install has nothing to install, and would fail")
    index = _index(options)
    if "prerelease" in options:
        index["pre"] = "true"
    return PipInstall(
        told="installs distributions",
        program=program,
        is_uv=True,
        requirements=tuple(operands),
        files=tuple(options.get("file", ())),
        constraints=tuple(options.get("constraint", ())),
        editables=tuple(options.get("editable", ())),
        options=index,
        upgrade="upgrade" in options,
        eager="upgrade" in options,
        no_deps="no-deps" in options,
        force="force" in options,
        target=_last(options, "target"),
        prefix=_last(options, "prefix"),
        require_hashes="require-hashes" in options,
        compile=_compile(options),
        break_system_packages="break" in options,
        python=_last(options, "python"),
        system="system" in options,
        extras=("*",) if "all-extras" in options else tuple(options.get("extra", ())),
    )


def _sync(words: Sequence[str], program: str) -> UvSync:
    options, operands = _options(words, _SYNC_VALUES, _SYNC_SWITCHES)
    if operands:
        raise NeedsEngine(f"uv sync {operands[0]} has to be run")
    return UvSync(
        told="makes the project's environment",
        program=program,
        folder=_last(options, "folder"),
        switches=frozenset(name for name in options if f"--{name}" in _SYNC_SWITCHES),
        extras=tuple(options.get("extra", ())),
        no_extras=tuple(options.get("no-extra", ())),
        groups=tuple(options.get("group", ())),
        no_groups=tuple(options.get("no-group", ())),
        only_groups=(*options.get("only-group", ()), *(("dev",) if "only-dev" in options else ())),
        no_install=tuple(options.get("no-install-package", ())),
        package=_last(options, "package"),
        python=_last(options, "python"),
        options=_index(options),
        compile=_compile(options),
    )
