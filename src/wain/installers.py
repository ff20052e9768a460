"""What a package tool's command line says of its cache: which folders fill, whether it is on, and what decides that.

Pure functions of arguments, environment, home and configuration; nothing is run. `None` in an argument, a variable or
a folder is "not known". A folder under an unknown home begins with `~`.

Source: the manuals of pip (caching, configuration), uv, Poetry, PDM, pipenv, pipx, conda, micromamba, pixi, apt, apk,
dnf and npm; pip's switches are held to pip itself by a test.
"""

from __future__ import annotations

import configparser
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PIP_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
PIP_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
_UV_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_PIP_PROGRAM = re.compile(r"pip(\d+(\.\d+)*)?\Z")
_PYTHON_PROGRAM = re.compile(r"(python|pypy)(\d+(\.\d+)*)?t?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What decided something: kind is flag, variable, file or default; `name` the flag, variable or path."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """A command that fills a cache, or would if it were on.

    `enabled` None is "not known". `folders` are what fills, `home` the folder that a mount should have as its target.
    `switch` is what turned the cache off, `place` what decided the folder.
    """

    tool: str
    verb: str
    enabled: bool | None
    folders: tuple[str, ...]
    home: str
    switch: Setting | None
    place: Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command after wrappers (sudo, env, sh -c, ...) are taken off: `argv[0]` is the program as called.

    `files` maps paths of configuration files written in the Dockerfile to their text, None where the text is unknown.
    """

    argv: tuple[str | None, ...]
    env: Mapping[str, str | None]
    home: str | None
    files: Mapping[str, str | None]
    cwd: str | None = None

    @property
    def program(self) -> str:
        """The program's name without its folder; "" where it is unknown."""
        first = self.argv[0] if self.argv else None
        return (first or "").rpartition("/")[2]

    def under_home(self, rest: str) -> str:
        """A path below HOME; HOME is the variable where it is set."""
        home = self.env.get("HOME", self.home)
        return f"{home.rstrip('/')}/{rest}" if home else f"~/{rest}"

    def cache_home(self, name: str) -> tuple[str, Setting]:
        """`$XDG_CACHE_HOME/name` or `~/.cache/name`."""
        xdg = self.env.get("XDG_CACHE_HOME")
        if xdg:
            return f"{xdg.rstrip('/')}/{name}", Setting(kind="variable", name="XDG_CACHE_HOME")
        return self.under_home(f".cache/{name}"), Setting(kind="default", name="")

    def path(self, value: str) -> str:
        """A path as the tool takes it: `~` expanded, relative ones under the working directory."""
        if value == "~" or value.startswith("~/"):
            return self.under_home(value[2:]).rstrip("/")
        if not value.startswith("/") and self.cwd:
            return f"{self.cwd.rstrip('/')}/{value}"
        return value.rstrip("/") or "/"


@functools.lru_cache(maxsize=4096)
def is_pip(program: str) -> bool:
    """Whether a program's name is pip's: pip, pip3, pip3.12."""
    return _PIP_PROGRAM.match(program) is not None


@functools.lru_cache(maxsize=4096)
def is_python(program: str) -> bool:
    """Whether a program's name is an interpreter's."""
    return _PYTHON_PROGRAM.match(program) is not None


def python_module(argv: Sequence[str | None]) -> tuple[str, int] | None:
    """The module of `python [options] -m module` and the index of the module's name in argv."""
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None or not word.startswith("-") or word in {"-", "--"}:
            return None
        if word == "-m":
            name = argv[index + 1] if index + 1 < len(argv) else None
            return (name, index + 1) if name else None
        if word == "-c":
            return None
        if not word.startswith("--") and "m" in word[1:]:
            flags, _, rest = word[1:].partition("m")
            if all(char in "bBdEhiIOPqRsSuvVx" for char in flags):
                if rest:
                    return rest, index
                name = argv[index + 1] if index + 1 < len(argv) else None
                return (name, index + 1) if name else None
        if word in {"-W", "-X", "--check-hash-based-pycs"}:
            index += 1
        index += 1
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipCall:
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
_PIP_VALUES = frozenset(
    "--log --proxy --retries --timeout --exists-action --trusted-host --cert --client-cert --cache-dir --python "
    "--keyring-provider --use-feature --use-deprecated --requirement --constraint --build-constraint --editable "
    "--target --platform --python-version --implementation --abi --root --prefix --src --upgrade-strategy "
    "--config-settings --global-option --build-option --install-option --no-binary --only-binary --progress-bar "
    "--root-user-action --index-url --extra-index-url --find-links --report --wheel-dir --dest --group "
    "--resume-retries --color --uploaded-prior-to --pypi-url --hash --format --name --only-final --all-releases "
    "--requirements-from-script --source --source-dir --source-directory "
    "--refresh-package --log-file --local-log --default-timeout --destination-dir --destination-directory".split()
)
_PIP_SWITCHES = frozenset(
    "--no-cache-dir --help --debug --isolated --require-virtualenv --verbose --version --quiet --no-input --no-color "
    "--disable-pip-version-check --no-python-version-warning --dry-run --user --no-deps --pre --upgrade "
    "--force-reinstall --ignore-installed --ignore-requires-python --no-build-isolation --use-pep517 --no-use-pep517 "
    "--check-build-dependencies --break-system-packages --compile --no-compile --no-warn-script-location "
    "--no-warn-conflicts --prefer-binary --require-hashes --no-clean --no-index --process-dependency-links "
    "--no-verify --global --site --editor".split()
)
_PIP_SHORT_VALUES = {
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
_PIP_SHORT_SWITCHES = {
    "U": "--upgrade",
    "I": "--ignore-installed",
    "q": "--quiet",
    "v": "--verbose",
    "h": "--help",
    "V": "--version",
}
_PIP_FILLING = frozenset({"install", "wheel", "download", "lock", "index"})


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
            if full in _PIP_VALUES:
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
                if char in _PIP_SHORT_VALUES:
                    if position < len(word):
                        options.append((_PIP_SHORT_VALUES[char], word[position:].removeprefix("="), at))
                    else:
                        options.append((_PIP_SHORT_VALUES[char], argv[index] if index < len(argv) else None, at))
                        index += 1
                    break
                options.append((_PIP_SHORT_SWITCHES.get(char, f"-{char}"), None, at))
    return PipCall(verb=verb, start=start, verb_at=verb_at, options=tuple(options), operands=tuple(operands))


def _pip_option(name: str) -> str:
    """A long option's full name: pip takes an unambiguous beginning for the whole."""
    if name in _PIP_VALUES or name in _PIP_SWITCHES:
        return name
    if name == "--no-dependencies":
        return "--no-deps"
    found = [option for option in _PIP_VALUES | _PIP_SWITCHES if option.startswith(name)]
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
    config = call.env.get("XDG_CONFIG_HOME")
    paths.append(f"{config.rstrip('/')}/pip/pip.conf" if config else call.under_home(".config/pip/pip.conf"))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PipCache:
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
    if pip is None or pip.verb not in _PIP_FILLING or pip.has("--help", "--version", "--dry-run"):
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


def options(
    argv: Sequence[str | None], valued: frozenset[str]
) -> tuple[list[tuple[str, str | None]], list[str | None]]:
    """Options (with values for those in `valued` and for `--name=value`) and operands of a command line."""
    found: list[tuple[str, str | None]] = []
    operands: list[str | None] = []
    index = 1
    while index < len(argv):
        word = argv[index]
        index += 1
        if word is None or not word.startswith("-") or word == "-":
            operands.append(word)
        elif word == "--":
            operands.extend(argv[index:])
            break
        else:
            name, equals, value = word.partition("=")
            if equals:
                found.append((name, value))
            elif name in valued:
                found.append((name, argv[index] if index < len(argv) else None))
                index += 1
            else:
                found.append((name, None))
    return found, operands


_UV_VALUES = frozenset(
    "--cache-dir --directory --project --python -p --index-url -i --extra-index-url --find-links -f --requirement "
    "--requirements -r --constraint -c --override --target --prefix --extra --group --index --default-index --color "
    "--config-file --with --link-mode --index-strategy --keyring-provider --config-setting --package --from".split()
)
_UV_PIP = frozenset({"install", "sync", "compile"})
_UV_FILLING = frozenset({"sync", "add", "run", "lock", "build", "remove", "venv"})


def _uv_use(call: Invocation) -> CacheUse | None:
    argv = call.argv
    if call.program not in {"uv", "uvx"}:
        module = python_module(argv) if is_python(call.program) else None
        if module is None or module[0] != "uv":
            return None
        argv = argv[module[1] :]
    found, operands = options(argv, _UV_VALUES)
    words = [operand for operand in operands if operand is not None]
    if call.program == "uvx":
        verb = "tool run"
    elif words[:1] == ["pip"] and len(words) > 1 and words[1] in _UV_PIP:
        verb = f"pip {words[1]}"
    elif words[:1] == ["tool"] and len(words) > 1 and words[1] in {"install", "run", "upgrade"}:
        verb = f"tool {words[1]}"
    elif words[:1] and words[0] in _UV_FILLING:
        verb = words[0]
    else:
        return None
    if (verb == "venv" and not any(name == "--seed" for name, _ in found)) or any(
        name in {"--help", "-h", "--dry-run"} for name, _ in found
    ):
        return None
    if verb == "run" and any(name in {"--no-sync", "--no-project"} for name, _ in found):
        return None
    folder, place = call.cache_home("uv")
    enabled: bool | None = True
    switch: Setting | None = None
    directory = call.env.get("UV_CACHE_DIR", "")
    if directory is None:
        enabled, place = None, Setting(kind="variable", name="UV_CACHE_DIR")
    elif directory:
        folder, place = call.path(directory), Setting(kind="variable", name="UV_CACHE_DIR")
    no_cache = call.env.get("UV_NO_CACHE", "")
    if no_cache is None:
        enabled = None
    elif no_cache.lower() in _UV_TRUE:
        enabled, switch = False, Setting(kind="variable", name="UV_NO_CACHE")
    for path, text in call.files.items():
        if path.endswith("uv.toml"):
            if text is None:
                enabled = None if enabled else enabled
            elif re.search(r"(?m)^\s*no-cache\s*=\s*true", text):
                enabled, switch = False, Setting(kind="file", name=path)
    for name, value in found:
        if name == "--cache-dir":
            if value is None:
                enabled = None
            else:
                folder, place = call.path(value), Setting(kind="flag", name="--cache-dir")
        elif name in {"--no-cache", "-n", "--no-cache-dir"}:
            enabled, switch = False, Setting(kind="flag", name="--no-cache")
    return CacheUse(
        tool="uv",
        verb=verb,
        enabled=enabled,
        folders=(folder,),
        home=folder,
        switch=switch,
        place=place,
    )


def _variable_place(call: Invocation, variable: str, default: tuple[str, Setting]) -> tuple[str, Setting, bool | None]:
    if variable in call.env:
        value = call.env[variable]
        setting = Setting(kind="variable", name=variable)
        if value is None:
            return default[0], setting, None
        if value:
            return call.path(value), setting, True
    return (*default, True)


def _verb(
    call: Invocation, valued: frozenset[str] = frozenset()
) -> tuple[str, list[str], list[tuple[str, str | None]]]:
    found, operands = options(call.argv, valued)
    words = [operand for operand in operands if operand is not None]
    return (words[0] if words else "", words[1:], found)


def _poetry_use(call: Invocation) -> CacheUse | None:
    argv = call.argv
    if call.program != "poetry":
        module = python_module(argv) if is_python(call.program) else None
        if module is None or module[0] != "poetry":
            return None
        argv = argv[module[1] :]
    found, operands = options(argv, frozenset({"-C", "--directory", "-P", "--project", "--only", "--with", "-E"}))
    verb = next((operand for operand in operands if operand is not None), "")
    if verb not in {"install", "add", "update", "sync", "self", "lock"} or ("--dry-run", None) in found:
        return None
    folder, place, enabled = _variable_place(call, "POETRY_CACHE_DIR", call.cache_home("pypoetry"))
    return CacheUse(
        tool="poetry",
        verb=verb,
        enabled=enabled,
        folders=(f"{folder}/cache", f"{folder}/artifacts"),
        home=folder,
        switch=None,
        place=place,
    )


def _pdm_use(call: Invocation) -> CacheUse | None:
    if call.program != "pdm":
        return None
    verb, _, found = _verb(call, frozenset({"-p", "--project", "-G", "--group"}))
    if verb not in {"install", "sync", "add", "update", "lock"}:
        return None
    folder, place, enabled = _variable_place(call, "PDM_CACHE_DIR", call.cache_home("pdm"))
    switch = None
    off = call.env.get("PDM_NO_CACHE", "")
    if off is None:
        enabled = None
    elif off.lower() in _UV_TRUE:
        enabled, switch = False, Setting(kind="variable", name="PDM_NO_CACHE")
    if any(name == "--no-cache" for name, _ in found):
        enabled, switch = False, Setting(kind="flag", name="--no-cache")
    return CacheUse(tool="pdm", verb=verb, enabled=enabled, folders=(folder,), home=folder, switch=switch, place=place)


def _pipenv_use(call: Invocation) -> CacheUse | None:
    if call.program != "pipenv":
        return None
    verb, _, _found = _verb(call, frozenset({"--python"}))
    if verb not in {"install", "sync", "update", "lock", "upgrade"}:
        return None
    folder, place, enabled = _variable_place(call, "PIPENV_CACHE_DIR", call.cache_home("pipenv"))
    # pipenv runs pip with its own cache folder, and pip's switches hold for that pip.
    switch = None
    off = call.env.get("PIP_NO_CACHE_DIR", "")
    if off is None:
        enabled = None
    elif off and pip_boolean(off) is not None:
        enabled, switch = False, Setting(kind="variable", name="PIP_NO_CACHE_DIR")
    return CacheUse(
        tool="pipenv", verb=verb, enabled=enabled, folders=(folder,), home=folder, switch=switch, place=place
    )


def _pipx_use(call: Invocation) -> CacheUse | None:
    argv = call.argv
    if call.program != "pipx":
        module = python_module(argv) if is_python(call.program) else None
        if module is None or module[0] != "pipx":
            return None
        argv = argv[module[1] :]
    found, operands = options(argv, frozenset({"--python", "--pip-args", "-i", "--index-url", "--suffix"}))
    verb = next((operand for operand in operands if operand is not None), "")
    if verb not in {"install", "inject", "run", "upgrade", "install-all", "reinstall", "upgrade-all"}:
        return None
    pip_args = next((value for name, value in found if name == "--pip-args"), "") or ""
    inner = Invocation(
        argv=("pip", "install", *pip_args.split()),
        env=call.env,
        home=call.home,
        files=call.files,
        cwd=call.cwd,
    )
    pip = pip_call(inner.argv)
    if pip is None:
        return None
    cache = pip_cache(inner, pip)
    folder = cache.folder or ""
    return CacheUse(
        tool="pipx",
        verb=verb,
        enabled=cache.enabled,
        folders=(folder,),
        home=folder,
        switch=cache.switch,
        place=cache.place,
    )


_CONDA_VALUES = frozenset("-n --name -p --prefix -c --channel -f --file -r --root-prefix --solver".split())


def conda_prefix(call: Invocation) -> str:
    """Where conda lives, as far as its path, variables and PATH tell; /opt/conda where they do not."""
    program = call.argv[0] or ""
    if program.startswith("/") and "/bin/" in program and call.program in {"conda", "mamba"}:
        return program.rpartition("/bin/")[0]
    root = call.env.get("MAMBA_ROOT_PREFIX") or call.env.get("CONDA_DIR") or call.env.get("CONDA_PREFIX")
    if root:
        return root.rstrip("/")
    for entry in (call.env.get("PATH") or "").split(":"):
        if entry.endswith("/bin") and any(name in entry for name in ("conda", "mamba", "forge")):
            return entry.removesuffix("/bin")
    return "/opt/conda"


def _conda_use(call: Invocation) -> CacheUse | None:
    if call.program not in {"conda", "mamba", "micromamba"}:
        return None
    verb, rest, found = _verb(call, _CONDA_VALUES)
    if verb == "env":
        verb = f"env {rest[0]}" if rest else verb
    if verb not in {"install", "create", "update", "upgrade", "env create", "env update"}:
        return None
    if any(name in {"--dry-run", "-d", "--offline"} for name, _ in found):
        return None
    folder = f"{conda_prefix(call)}/pkgs"
    if call.program == "micromamba" and not call.env.get("MAMBA_ROOT_PREFIX"):
        flag = next((value for name, value in found if name in {"-r", "--root-prefix"} and value), None)
        folder = f"{flag.rstrip('/')}/pkgs" if flag else call.under_home("micromamba/pkgs")
    place, setting, enabled = _variable_place(call, "CONDA_PKGS_DIRS", (folder, Setting(kind="default", name="")))
    place = place.split(",")[0].split(":")[0]
    return CacheUse(tool="conda", verb=verb, enabled=enabled, folders=(place,), home=place, switch=None, place=setting)


def _pixi_use(call: Invocation) -> CacheUse | None:
    if call.program != "pixi":
        return None
    verb, rest, _ = _verb(call, frozenset({"-e", "--environment", "--manifest-path"}))
    if verb == "global" and rest[:1] == ["install"]:
        verb = "global install"
    if verb not in {"install", "add", "run", "update", "reinstall", "global install", "shell-hook"}:
        return None
    folder, place, enabled = _variable_place(call, "RATTLER_CACHE_DIR", call.cache_home("rattler"))
    folder, place, enabled = _variable_place(call, "PIXI_CACHE_DIR", (folder, place))
    return CacheUse(tool="pixi", verb=verb, enabled=enabled, folders=(folder,), home=folder, switch=None, place=place)


_APT_VALUES = frozenset({"-o", "--option", "-t", "--target-release", "-c", "--config-file"})


def _apt_use(call: Invocation) -> CacheUse | None:
    if call.program not in {"apt", "apt-get"}:
        return None
    verb, _, found = _verb(call, _APT_VALUES)
    default = Setting(kind="default", name="")
    if any("Dir::" in (value or "") or "Dir::" in name for name, value in found):
        return None
    if verb == "update":
        folders = ("/var/lib/apt/lists",)
    elif (
        verb in {"install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep"}
        and call.files.get("/etc/apt/apt.conf.d/docker-clean", "") == ""
    ):
        # The official Debian and Ubuntu images delete the archives after each install, unless docker-clean is removed.
        folders = ("/var/cache/apt/archives",)
        if "/etc/apt/apt.conf.d/docker-clean" not in call.files:
            return None
    else:
        return None
    return CacheUse(tool="apt", verb=verb, enabled=True, folders=folders, home=folders[0], switch=None, place=default)


def _apk_use(call: Invocation) -> CacheUse | None:
    if call.program != "apk":
        return None
    verb, _, found = _verb(call, frozenset({"-t", "--virtual", "-X", "--repository", "-p", "--root"}))
    if verb not in {"add", "update", "upgrade"}:
        return None
    off = any(name == "--no-cache" for name, _ in found)
    return CacheUse(
        tool="apk",
        verb=verb,
        enabled=not off,
        folders=("/var/cache/apk",),
        home="/var/cache/apk",
        switch=Setting(kind="flag", name="--no-cache") if off else None,
        place=Setting(kind="default", name=""),
    )


def _dnf_use(call: Invocation) -> CacheUse | None:
    if call.program not in {"dnf", "yum", "microdnf", "dnf5"}:
        return None
    verb, _, found = _verb(call, frozenset({"-c", "--config", "--enablerepo", "--disablerepo", "--installroot"}))
    known = {"install", "update", "upgrade", "groupinstall", "group", "localinstall", "reinstall", "makecache"}
    if verb not in known or any(name == "--installroot" for name, _ in found):
        return None
    folder = "/var/cache/yum" if call.program in {"yum", "microdnf"} else "/var/cache/dnf"
    return CacheUse(
        tool="dnf",
        verb=verb,
        enabled=True,
        folders=(folder,),
        home=folder,
        switch=None,
        place=Setting(kind="default", name=""),
    )


def _npm_use(call: Invocation) -> CacheUse | None:
    if call.program != "npm":
        return None
    verb, _, found = _verb(call, frozenset({"--prefix", "--cache", "--registry", "-w", "--workspace"}))
    if verb not in {"install", "i", "ci", "add", "update", "install-test", "clean-install", "isntall"}:
        return None
    folder = call.under_home(".npm")
    place = Setting(kind="default", name="")
    enabled: bool | None = True
    for variable in ("npm_config_cache", "NPM_CONFIG_CACHE"):
        folder, place, known = _variable_place(call, variable, (folder, place))
        enabled = enabled if known else None
    for name, value in found:
        if name == "--cache":
            if value is None:
                enabled = None
            else:
                folder, place = call.path(value), Setting(kind="flag", name="--cache")
    return CacheUse(
        tool="npm",
        verb=verb,
        enabled=enabled,
        folders=(f"{folder}/_cacache",),
        home=folder,
        switch=None,
        place=place,
    )


_USES = (
    _pip_use,
    _uv_use,
    _poetry_use,
    _pdm_use,
    _pipenv_use,
    _pipx_use,
    _conda_use,
    _pixi_use,
    _apt_use,
    _apk_use,
    _dnf_use,
    _npm_use,
)
TOOLS = ("pip", "uv", "poetry", "pdm", "pipenv", "pipx", "conda", "pixi", "apt", "apk", "dnf", "npm")
_CANDIDATES = frozenset(
    "uv uvx poetry pdm pipenv pipx conda mamba micromamba pixi apt apt-get apk dnf dnf5 yum microdnf npm".split()
)


def cache_use(call: Invocation) -> CacheUse | None:
    """The cache that a command fills, or would fill were it on; None where it is no such command."""
    program = call.program
    if program not in _CANDIDATES and not is_pip(program) and not is_python(program):
        return None
    for reader in _USES:
        use = reader(call)
        if use is not None:
            return use
    return None


def cleaned_folders(call: Invocation) -> tuple[str, ...]:
    """The folders that a tool's own clean command empties: `pip cache purge`, `uv cache clean`, `apt-get clean`, ..."""
    program = call.program
    if program not in _CANDIDATES and not is_pip(program) and not is_python(program):
        return ()
    pip = pip_call(call.argv)
    if pip is not None:
        if pip.verb == "cache" and pip.operands[:1] == ("purge",):
            folder = pip_cache(call, pip).folder
            return (folder,) if folder else ()
        return ()
    words = [word for word in call.argv[1:] if word is not None and not word.startswith("-")]
    flags = {word for word in call.argv[1:] if word is not None and word.startswith("-")}
    first, second = [*words, "", ""][:2]
    if program == "uv" and (first, second) in {("cache", "clean"), ("clean", "")} and len(words) <= 2:
        use = _uv_use(
            Invocation(
                argv=("uv", "sync", *(word for word in call.argv[1:] if word and word.startswith("--cache-dir"))),
                env=call.env,
                home=call.home,
                files=call.files,
                cwd=call.cwd,
            )
        )
        return use.folders if use else ()
    if program in {"conda", "mamba", "micromamba"} and first == "clean":
        short = "".join(flag[1:] for flag in flags if not flag.startswith("--"))
        if "a" in short or "--all" in flags or ("t" in short and "p" in short) or {"--tarballs", "--packages"} <= flags:
            use = _conda_use(
                Invocation(
                    argv=(call.argv[0], "install", "x"),
                    env=call.env,
                    home=call.home,
                    files=call.files,
                    cwd=call.cwd,
                )
            )
            return use.folders if use else ()
        return ()
    if program in {"apt", "apt-get"}:
        if first in {"clean", "distclean"}:
            return ("/var/cache/apt/archives",) + (("/var/lib/apt/lists",) if first == "distclean" else ())
        return ()
    if program == "apk" and first == "cache" and second in {"clean", "purge"}:
        return ("/var/cache/apk",) if second == "purge" else ()
    if program in {"dnf", "yum", "microdnf", "dnf5"} and first == "clean" and second == "all":
        return ("/var/cache/yum", "/var/cache/dnf", "/var/cache/libdnf5")
    if (
        program == "npm"
        and first == "cache"
        and second in {"clean", "clear", "verify"}
        and "--force" in flags | ({"--force"} if "-f" in flags else set())
    ):
        use = _npm_use(Invocation(argv=("npm", "ci"), env=call.env, home=call.home, files=call.files, cwd=call.cwd))
        return use.folders if use else ()
    if program == "pdm" and (first, second) == ("cache", "clear"):
        return (_variable_place(call, "PDM_CACHE_DIR", call.cache_home("pdm"))[0],)
    if program == "pixi" and (first, second) == ("clean", "cache"):
        return (_variable_place(call, "PIXI_CACHE_DIR", call.cache_home("rattler"))[0],)
    if program == "poetry" and (first, second) == ("cache", "clear"):
        folder = _variable_place(call, "POETRY_CACHE_DIR", call.cache_home("pypoetry"))[0]
        return (f"{folder}/cache",)
    if program == "pipenv" and "--clear" in flags:
        return (_variable_place(call, "PIPENV_CACHE_DIR", call.cache_home("pipenv"))[0],)
    return ()
