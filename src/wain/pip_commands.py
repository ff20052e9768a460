"""pip's command lines: what is asked of it, and whether and where it caches, by flags, variables and files.

Pure functions of arguments, environment, home and configuration; nothing is run.

Source: `pip help`, pip's manual (caching, configuration); a test holds the switches to pip itself.
"""

from __future__ import annotations

import configparser
import functools
from collections.abc import Iterator, Sequence

from msgspec import Struct

from wain.invocation import CacheUse, Invocation, Setting, Tool, is_pip, is_python, python_module

PIP_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
PIP_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})


class PipCall(Struct, frozen=True, kw_only=True):
    """pip's command line: `start` is the index of the first argument after `pip`, `verb_at` that of the subcommand."""

    verb: str
    start: int
    verb_at: int
    options: tuple[tuple[str, str | None, int], ...]
    operands: tuple[str | None, ...]

    def has(self, *names: str) -> bool:
        """Whether one of the long options was given."""
        return any(name in names for name, _, _ in self.options)


# Options that take a value, of pip's main parser and of install, wheel and download.
_VALUES = frozenset(
    "--log --proxy --retries --timeout --exists-action --trusted-host --cert --client-cert --cache-dir --python "
    "--keyring-provider --use-feature --use-deprecated --requirement --constraint --build-constraint --editable "
    "--target --platform --python-version --implementation --abi --root --prefix --src --upgrade-strategy "
    "--config-settings --global-option --build-option --install-option --no-binary --only-binary --progress-bar "
    "--root-user-action --index-url --extra-index-url --find-links --report --wheel-dir --dest --group "
    "--resume-retries --color --uploaded-prior-to --pypi-url --hash --format --name --only-final --all-releases "
    "--requirements-from-script --source --source-dir --source-directory "
    "--refresh-package --log-file --local-log --default-timeout --destination-dir --destination-directory".split()
)
_SWITCHES = frozenset(
    "--no-cache-dir --help --debug --isolated --require-virtualenv --verbose --version --quiet --no-input --no-color "
    "--disable-pip-version-check --no-python-version-warning --dry-run --user --no-deps --pre --upgrade "
    "--force-reinstall --ignore-installed --ignore-requires-python --no-build-isolation --use-pep517 --no-use-pep517 "
    "--check-build-dependencies --break-system-packages --compile --no-compile --no-warn-script-location "
    "--no-warn-conflicts --prefer-binary --require-hashes --no-clean --no-index --process-dependency-links "
    "--no-verify --global --site --editor".split()
)
_SHORT_VALUES = {
    "r": "--requirement",
    "c": "--constraint",
    "e": "--editable",
    "t": "--target",
    "i": "--index-url",
    "f": "--find-links",
    "C": "--config-settings",
    "w": "--wheel-dir",
    "d": "--dest",
    "b": "--build",
}
_SHORT_SWITCHES = {
    "U": "--upgrade",
    "I": "--ignore-installed",
    "q": "--quiet",
    "v": "--verbose",
    "h": "--help",
    "V": "--version",
}
_FILLING = frozenset({"install", "wheel", "download", "lock", "index"})


def pip_call(argv: Sequence[str | None]) -> PipCall | None:
    """pip's command line in `pip ...`, `python -m pip ...` or `pipenv run pip ...`'s argv; None where it is not pip."""
    if not argv or argv[0] is None:
        return None
    program = argv[0].rpartition("/")[2]
    return _pip_call(tuple(argv), program) if is_pip(program) or is_python(program) else None


@functools.lru_cache(maxsize=1024)
def _pip_call(argv: tuple[str | None, ...], program: str) -> PipCall | None:
    if is_pip(program):
        start = 1
    elif is_python(program):
        module = python_module(argv)
        if module is None or module[0] != "pip":
            return None
        start = module[1] + 1
    else:
        return None
    options: list[tuple[str, str | None, int]] = []
    operands: list[str | None] = []
    verb = ""
    verb_at = len(argv)
    index = start
    only_operands = False
    while index < len(argv):
        word = argv[index]
        at = index
        index += 1
        if word is None or only_operands or not word.startswith("-") or word == "-":
            if not verb and word is not None:
                verb, verb_at = word, at
            else:
                operands.append(word)
        elif word == "--":
            only_operands = True
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            full = _pip_option(name)
            if full in _VALUES:
                if not equals:
                    options.append((full, argv[index] if index < len(argv) else None, at))
                    index += 1
                else:
                    options.append((full, value, at))
            else:
                options.append((full, None, at))
        else:
            position = 1
            while position < len(word):
                char = word[position]
                position += 1
                if char in _SHORT_VALUES:
                    if position < len(word):
                        options.append((_SHORT_VALUES[char], word[position:].removeprefix("="), at))
                    else:
                        options.append((_SHORT_VALUES[char], argv[index] if index < len(argv) else None, at))
                        index += 1
                    break
                options.append((_SHORT_SWITCHES.get(char, f"-{char}"), None, at))
    return PipCall(verb=verb, start=start, verb_at=verb_at, options=tuple(options), operands=tuple(operands))


def _pip_option(name: str) -> str:
    """A long option's full name: pip takes an unambiguous beginning for the whole."""
    if name in _VALUES or name in _SWITCHES:
        return name
    if name == "--no-dependencies":
        return "--no-deps"
    found = [option for option in _VALUES | _SWITCHES if option.startswith(name)]
    return found[0] if len(found) == 1 else name


def pip_boolean(value: str) -> bool | None:
    """What pip makes of a boolean's text; None where it refuses it."""
    lowered = value.strip().lower()
    if lowered in PIP_TRUE:
        return True
    if lowered in PIP_FALSE:
        return False
    return None


def pip_config_paths(call: Invocation) -> tuple[str, ...]:
    """The configuration files that pip reads, strongest first."""
    explicit = call.env.get("PIP_CONFIG_FILE")
    if explicit == "/dev/null":
        return ()
    paths = [explicit] if explicit else []
    venv = call.env.get("VIRTUAL_ENV")
    program = call.argv[0] or "" if call.argv else ""
    if venv:
        paths.append(f"{venv.rstrip('/')}/pip.conf")
    elif "/bin/" in program:
        paths.append(f"{program.rpartition('/bin/')[0]}/pip.conf")
    paths += ["/usr/local/pip.conf", "/usr/pip.conf"]
    paths.append(call.config_home("pip/pip.conf"))
    paths += [call.under_home(".pip/pip.conf"), "/etc/xdg/pip/pip.conf", "/etc/pip.conf"]
    return tuple(paths)


def _pip_file_settings(call: Invocation, verb: str) -> Iterator[tuple[str, str, str, str | None]]:
    """(path, section, key, value) of the files that pip reads; a key of "?" where a file's text is unknown."""
    for path in pip_config_paths(call):
        if path not in call.files:
            continue
        text = call.files[path]
        if text is None:
            yield path, "", "?", None
            continue
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(text)
        except configparser.Error:
            yield path, "", "?", None
            continue
        for section in (verb, "global"):
            if parser.has_section(section):
                for key, value in parser.items(section):
                    yield path, section, key.lower().replace("_", "-").removeprefix("--"), value


class PipCache(Struct, frozen=True, kw_only=True):
    """pip's cache for one command: `folder` None is off, `refuses` is set where pip stops with an error.

    `enabled` None is "not known".
    """

    enabled: bool | None
    folder: str | None
    switch: Setting | None
    place: Setting
    refuses: Setting | None = None


def pip_cache(call: Invocation, pip: PipCall) -> PipCache:
    """Which folder pip caches in, by flags, variables and files in pip's own order.

    Source: pip 26 `pip install --help` and configuration; a test holds this to pip's parser.
    """
    default_folder, default_place = call.cache_home("pip")
    folder = default_folder
    place = default_place
    settings = list(_pip_file_settings(call, pip.verb))
    refused = _refused(call, settings)
    if refused is not None:
        return PipCache(enabled=None, folder=folder, switch=refused, place=place, refuses=refused)
    for name, value, _ in reversed(pip.options):
        if name == "--no-cache-dir":
            return _off(Setting(kind="flag", name="--no-cache-dir"), default_folder, default_place)
        if name == "--cache-dir":
            if value is None:
                return PipCache(enabled=None, folder=folder, switch=None, place=place)
            flag = Setting(kind="flag", name="--cache-dir")
            return PipCache(enabled=True, folder=call.path(value), switch=None, place=flag)
    file_place: tuple[str, Setting] | None = None
    unknown_file = False
    for path, _section, key, value in settings:
        if key == "?":
            unknown_file = True
        elif key == "cache-dir" and value and file_place is None:
            file_place = (call.path(value), Setting(kind="file", name=path))
        elif key == "no-cache-dir" and value:
            return _off(Setting(kind="file", name=path), default_folder, default_place)
    if "PIP_NO_CACHE_DIR" in call.env:
        switch = call.env["PIP_NO_CACHE_DIR"]
        setting = Setting(kind="variable", name="PIP_NO_CACHE_DIR")
        if switch is None:
            return PipCache(enabled=None, folder=folder, switch=setting, place=place)
        if switch:
            return _off(setting, default_folder, default_place)
    if "PIP_CACHE_DIR" in call.env:
        chosen = call.env["PIP_CACHE_DIR"]
        setting = Setting(kind="variable", name="PIP_CACHE_DIR")
        if chosen is None:
            return PipCache(enabled=None, folder=folder, switch=None, place=setting)
        if chosen:
            folder, place = call.path(chosen), setting
    elif file_place is not None:
        folder, place = file_place
    return PipCache(enabled=None if unknown_file else True, folder=folder, switch=None, place=place)


def _refused(call: Invocation, settings: list[tuple[str, str, str, str | None]]) -> Setting | None:
    """The setting whose text pip takes for no boolean: it stops there, whatever the flags say."""
    for path, _section, key, value in settings:
        if key == "no-cache-dir" and value and pip_boolean(value) is None:
            return Setting(kind="file", name=path)
    switch = call.env.get("PIP_NO_CACHE_DIR")
    if switch and pip_boolean(switch) is None:
        return Setting(kind="variable", name="PIP_NO_CACHE_DIR")
    return None


def _off(setting: Setting, folder: str, place: Setting) -> PipCache:
    return PipCache(enabled=False, folder=folder, switch=setting, place=place)


def _pip_use(call: Invocation) -> CacheUse | None:
    pip = pip_call(call.argv)
    if pip is None or pip.verb not in _FILLING or pip.has("--help", "--version", "--dry-run"):
        return None
    no_index = pip.has("--no-index") or pip_boolean(call.env.get("PIP_NO_INDEX") or "") is True
    local_only = bool(pip.operands) and all(
        operand is not None and operand.endswith(".whl") and "://" not in operand for operand in pip.operands
    )
    if no_index or (local_only and pip.has("--no-deps") and not pip.has("--requirement", "--editable")):
        return None
    cache = pip_cache(call, pip)
    folder = cache.folder or ""
    return CacheUse(
        tool="pip",
        verb=pip.verb,
        enabled=cache.enabled,
        folders=(folder,),
        home=folder,
        switch=cache.switch,
        place=cache.place,
    )


def _cleaned(call: Invocation) -> tuple[str, ...]:
    pip = pip_call(call.argv)
    if pip is None or pip.verb != "cache" or pip.operands[:1] != ("purge",):
        return ()
    folder = pip_cache(call, pip).folder
    return (folder,) if folder else ()


PIP = Tool(name="pip", programs=frozenset(), module="pip", use=_pip_use, cleaned=_cleaned)
