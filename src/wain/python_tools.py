"""What command lines of uv, Poetry, PDM, pipenv and pipx say of their caches.

Source: the manuals of uv (caching), Poetry, PDM, pipenv and pipx; tests build images with each and look.
"""

from __future__ import annotations

import tomllib

from msgspec.structs import replace

from wain.invocation import TRUE, CacheUse, Invocation, Setting, Tool, begins_with, options, verb_of
from wain.pip_commands import pip_boolean, pip_cache, pip_call

_UV_VALUES = frozenset(
    "--cache-dir --directory --project --python -p --index-url -i --extra-index-url --find-links -f --requirement "
    "--requirements -r --constraint -c --override --target --prefix --extra --group --index --default-index --color "
    "--config-file --with --link-mode --index-strategy --keyring-provider --config-setting --package --from".split()
)
_UV_PIP = frozenset({"install", "sync", "compile"})
_UV_FILLING = frozenset({"sync", "add", "run", "lock", "build", "remove", "venv"})


def _uv_use(call: Invocation) -> CacheUse | None:
    found, operands = options(call.argv, _UV_VALUES)
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
    elif no_cache.lower() in TRUE:
        enabled, switch = False, Setting(kind="variable", name="UV_NO_CACHE")
    for path, text in call.files.items():
        if not path.endswith("uv.toml"):
            continue
        settings = _toml(text)
        if settings is None:
            enabled = None if enabled else enabled
        elif settings.get("no-cache") is True:
            enabled, switch = False, Setting(kind="file", name=path)
        elif place.kind != "variable" and isinstance(named := settings.get("cache-dir"), str):
            folder, place = call.path(named), Setting(kind="file", name=path)
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


def _toml(text: str | None) -> dict[str, object] | None:
    """A configuration file's tables; None where its text is unknown or no TOML."""
    if text is None:
        return None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _virtualenv_folder(call: Invocation) -> tuple[str, ...]:
    """Where virtualenv, which Poetry and pipenv make environments with, keeps pip unpacked to copy it from."""
    folder, _, known = call.variable_place("VIRTUALENV_OVERRIDE_APP_DATA", call.cache_home("virtualenv"))
    return (folder,) if known else ()


_POETRY_VALUES = frozenset({"-C", "--directory", "-P", "--project", "--only", "--with", "-E"})
POETRY_CONFIG = "pypoetry/config.toml"
"""Where below the folder of configurations `poetry config` writes."""


def _poetry_setting(call: Invocation, variable: str, *keys: str) -> tuple[object, bool]:
    """What a variable, poetry.toml or Poetry's own file says (None: nothing), and whether that is known."""
    if variable in call.env:
        value = call.env[variable]
        if value is None or value:
            return value, value is not None
    for path in (call.path("poetry.toml"), call.config_home(POETRY_CONFIG)):
        if path not in call.files:
            continue
        found: object = _toml(call.files[path])
        if found is None:
            return None, False
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return found, True
    return None, True


def _poetry_folder(call: Invocation) -> tuple[str, Setting, bool | None]:
    folder, place, known = call.variable_place("POETRY_CACHE_DIR", call.cache_home("pypoetry"))
    named, is_known = _poetry_setting(call, "POETRY_CACHE_DIR", "cache-dir")
    if place.kind == "default" and isinstance(named, str):
        return call.path(named), Setting(kind="file", name="poetry config cache-dir"), True
    return folder, place, known if is_known else None


def _poetry_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, _POETRY_VALUES)
    if verb not in {"install", "add", "update", "sync", "self", "lock"} or ("--dry-run", None) in found:
        return None
    folder, place, enabled = _poetry_folder(call)
    # --no-cache keeps out index pages, not what was downloaded.
    names = ("artifacts",) if ("--no-cache", None) in found else ("cache", "artifacts")
    folders = tuple(f"{folder}/{name}" for name in names)
    creates, is_known = _poetry_setting(call, "POETRY_VIRTUALENVS_CREATE", "virtualenvs", "create")
    makes_environment = is_known and (creates is None or str(creates).lower() in {"true", "1"})
    if makes_environment and verb != "self" and "VIRTUAL_ENV" not in call.env:
        folders += _virtualenv_folder(call)
    return CacheUse(
        tool="poetry",
        verb=verb,
        enabled=enabled,
        folders=folders,
        home=folder,
        switch=None,
        place=place,
    )


def _pdm_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, frozenset({"-p", "--project", "-G", "--group", "-c", "--config"}))
    if verb not in {"install", "sync", "add", "update", "lock"}:
        return None
    folder, place, enabled = call.variable_place("PDM_CACHE_DIR", call.cache_home("pdm"))
    switch = None
    off = call.env.get("PDM_NO_CACHE", "")
    if off is None:
        enabled = None
    elif off.lower() in TRUE:
        enabled, switch = False, Setting(kind="variable", name="PDM_NO_CACHE")
    if any(name == "--no-cache" for name, _ in found):
        enabled, switch = False, Setting(kind="flag", name="--no-cache")
    return CacheUse(tool="pdm", verb=verb, enabled=enabled, folders=(folder,), home=folder, switch=switch, place=place)


def _pipenv_use(call: Invocation) -> CacheUse | None:
    verb, packages, found = verb_of(call, frozenset({"--python"}))
    if verb not in {"install", "sync", "update", "lock", "upgrade"}:
        return None
    names = {name for name, _ in found}
    folder, place, enabled = call.variable_place("PIPENV_CACHE_DIR", call.cache_home("pipenv"))
    folders: tuple[str, ...] = (folder,)
    # pipenv runs pip with its own cache folder, and pip's switches hold for that pip, but not for what resolves.
    switch = None
    off = call.env.get("PIP_NO_CACHE_DIR", "")
    if off is None:
        enabled = None
    elif off and pip_boolean(off) is not None:
        if verb == "sync" or names & {"--deploy", "--ignore-pipfile"}:
            enabled, switch = False, Setting(kind="variable", name="PIP_NO_CACHE_DIR")
        elif verb == "install" and not packages:
            # It resolves only where the lock is not up to date.
            enabled = None
    if not names & {"--system"} and "VIRTUAL_ENV" not in call.env and not call.env.get("PIPENV_SYSTEM"):
        folders += _virtualenv_folder(call)
    return CacheUse(tool="pipenv", verb=verb, enabled=enabled, folders=folders, home=folder, switch=switch, place=place)


_PIPX_VALUES = frozenset({"--python", "--pip-args", "-i", "--index-url", "--suffix", "--backend"})


def _pipx_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, _PIPX_VALUES)
    if verb not in {"install", "inject", "run", "upgrade", "install-all", "reinstall", "upgrade-all"}:
        return None
    backend = next((value for name, value in found if name == "--backend"), call.env.get("PIPX_DEFAULT_BACKEND", ""))
    if backend == "uv":
        use = _uv_use(call.with_argv("uv", "pip", "install", "x"))
        return replace(use, tool="pipx", verb=verb) if use is not None else None
    pip_args = next((value for name, value in found if name == "--pip-args"), "") or ""
    inner = call.with_argv("pip", "install", *pip_args.split())
    pip = pip_call(inner.argv)
    if pip is None:
        return None
    cache = pip_cache(inner, pip)
    folder = cache.folder or ""
    return CacheUse(
        tool="pipx",
        verb=verb,
        enabled=cache.enabled if backend is not None else None,
        folders=(folder,),
        home=folder,
        switch=cache.switch,
        place=cache.place,
    )


def _uv_cleaned(call: Invocation) -> tuple[str, ...]:
    found, operands = options(call.argv, _UV_VALUES)
    # With --ci what was downloaded goes; some kilobytes stay.
    prunes = operands == ["cache", "prune"] and ("--ci", None) in found
    if operands not in (["cache", "clean"], ["clean"]) and not prunes:
        return ()
    folders = [f"{name}={value}" for name, value in found if name == "--cache-dir" and value]
    use = _uv_use(call.with_argv("uv", "sync", *folders))
    return use.folders if use is not None else ()


def _poetry_cleaned(call: Invocation) -> tuple[str, ...]:
    if not begins_with(call, "cache", "clear", valued=_POETRY_VALUES):
        return ()
    return (f"{_poetry_folder(call)[0]}/cache",)


def _pdm_cleaned(call: Invocation) -> tuple[str, ...]:
    if not begins_with(call, "cache", "clear"):
        return ()
    return (call.variable_place("PDM_CACHE_DIR", call.cache_home("pdm"))[0],)


def _pipenv_cleaned(call: Invocation) -> tuple[str, ...]:
    if "--clear" not in call.argv:
        return ()
    return (call.variable_place("PIPENV_CACHE_DIR", call.cache_home("pipenv"))[0],)


def _nothing_cleaned(call: Invocation) -> tuple[str, ...]:
    return ()


UV = Tool(name="uv", programs=frozenset({"uv", "uvx"}), module="uv", use=_uv_use, cleaned=_uv_cleaned)
POETRY = Tool(name="poetry", programs=frozenset({"poetry"}), module="poetry", use=_poetry_use, cleaned=_poetry_cleaned)
PDM = Tool(name="pdm", programs=frozenset({"pdm"}), module="pdm", use=_pdm_use, cleaned=_pdm_cleaned)
PIPENV = Tool(name="pipenv", programs=frozenset({"pipenv"}), module="pipenv", use=_pipenv_use, cleaned=_pipenv_cleaned)
PIPX = Tool(name="pipx", programs=frozenset({"pipx"}), module="pipx", use=_pipx_use, cleaned=_nothing_cleaned)
