"""Which folder the store stands in, and which flag, variable or file line decided it.

Strongest first: the flags (the last one given), WAIN_NO_CACHE_DIR, WAIN_CACHE_DIR, `[tool.wain]`; for
`wain install` then pip's own variables and files, with pip's meaning; then the platform's cache folder.
`wain build` does not look at pip's: nobody's store ever gets into an image, so that a developer's or a
Dockerfile's `PIP_NO_CACHE_DIR=1` has no reason to slow it down.

Sources: XDG Base Directory Specification 0.8; Apple's File System Programming Guide; pip's documentation,
"Configuration" and "Caching".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.errors import UsageError
from wain.store import Store
from wain.store_folder import user_name
from wain.store_upkeep import DEFAULT_MAX_SIZE_BYTES

if TYPE_CHECKING:
    from wain.settings import WainSettings


class CacheChoice(Struct, frozen=True, kw_only=True):
    """What was decided, and by what."""

    path: Path | None
    """Absolute; None when no cache is wanted, or when `problem` forbids the one that would be."""
    origin: str
    """A flag, a variable, `file:line`, or in words why it is the platform's own."""
    problem: str = ""
    """Why the platform's folder cannot be used; empty when nothing is wrong."""
    makes_parent: bool = False
    """Whether the folder's parent may be made too."""
    max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES
    """What `cache-max-size` says."""


def choose_cache(
    *,
    flag_dir: str | None = None,
    flag_none: bool = False,
    wain: WainSettings | None = None,
    follows_pip: bool = False,
    environ: Mapping[str, str] | None = None,
) -> CacheChoice:
    """Decides. Looks at the home folder, but neither makes nor opens anything.

    :param flag_none: `--no-cache-dir`, when it came after any `--cache-dir`.
    :param wain: what pyproject.toml says, where there is a project.
    :param follows_pip: whether pip's switches count (`wain install`).
    :raises UsageError: when a value is no boolean, no size, or pip's configuration does not parse.
    """
    environ = os.environ if environ is None else environ
    size = _max_size(wain, environ)
    pip = None
    if follows_pip:
        from wain.pipconf import read_pip_configuration

        # Before the flags, because pip complains of a malformed value even where a flag outdoes it.
        pip = read_pip_configuration(environ).cache_folder()
    if flag_none:
        return CacheChoice(path=None, origin="--no-cache-dir", max_size_bytes=size)
    if flag_dir is not None:
        # As with pip, an empty name means none.
        path = Path(flag_dir).expanduser().absolute() if flag_dir else None
        return CacheChoice(path=path, origin="--cache-dir", max_size_bytes=size)
    from wain.pipconf import Setting, parse_boolean

    text = environ.get("WAIN_NO_CACHE_DIR")
    if text and parse_boolean(Setting(value=text, origin="WAIN_NO_CACHE_DIR")):
        return CacheChoice(path=None, origin="WAIN_NO_CACHE_DIR", max_size_bytes=size)
    if text := environ.get("WAIN_CACHE_DIR"):
        return CacheChoice(path=Path(text).expanduser().absolute(), origin="WAIN_CACHE_DIR", max_size_bytes=size)
    if wain is not None and wain.path is not None:
        if wain.no_cache_dir:
            return CacheChoice(path=None, origin=_line(wain.path, "no-cache-dir"), max_size_bytes=size)
        if wain.cache_dir:
            path = (wain.path.parent / Path(wain.cache_dir).expanduser()).absolute()
            return CacheChoice(path=path, origin=_line(wain.path, "cache-dir"), max_size_bytes=size)
    if pip is not None:
        if pip.disabled:
            return CacheChoice(path=None, origin=pip.origin, max_size_bytes=size)
        if pip.path is not None:
            path = pip.path.absolute() / "wain"
            return CacheChoice(path=path, origin=pip.origin, makes_parent=True, max_size_bytes=size)
    return _platform_choice(environ, size)


def open_store(choice: CacheChoice) -> Store:
    """The store that was decided on, or a temporary one: silently where no cache is wanted, else with one
    warning that says why.

    :raises StoreError: when not even a temporary folder can be made.
    """
    return Store.open(choice.path, make_parent=choice.makes_parent, problem=choice.problem)


def _platform_choice(environ: Mapping[str, str], size: int) -> CacheChoice:
    named = environ.get("XDG_CACHE_HOME", "")
    if sys.platform == "win32":
        base, origin = Path(environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser()), "the user's folder"
        path = base / "wain" / "Cache"
        return CacheChoice(path=path, origin=origin, makes_parent=True, max_size_bytes=size)
    if sys.platform != "darwin" and named and Path(named).is_absolute():
        path, origin = Path(named) / "wain", "XDG_CACHE_HOME"
        problem = _stranger(Path(named), origin)
    else:
        home, origin = _home(environ)
        path = home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "wain"
        problem = _stranger(home, origin, must_exist=True) or _stranger(path.parent, "the cache folder")
    return CacheChoice(
        path=None if problem else path, origin=origin, problem=problem, makes_parent=True, max_size_bytes=size
    )


def _home(environ: Mapping[str, str]) -> tuple[Path, str]:
    if named := environ.get("HOME"):
        return Path(named).absolute(), "the home folder, HOME"
    try:
        import pwd

        return Path(pwd.getpwuid(os.geteuid()).pw_dir).absolute(), "the home folder by the user database"
    except (ImportError, KeyError):
        return Path("/nonexistent"), "a home folder that neither HOME nor the user database names"


def _stranger(folder: Path, origin: str, *, must_exist: bool = False) -> str:
    """Why nothing of this user's should be put there; empty when it may."""
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{origin} ({folder}) does not exist" if must_exist else ""
    except OSError as error:
        return f"{origin} ({folder}) cannot be read: {error.strerror}"
    me = os.geteuid()
    if found.st_uid != me:
        return f"{origin} ({folder}) belongs to {user_name(found.st_uid)}, and this runs as {user_name(me)}"
    return ""


def _max_size(wain: WainSettings | None, environ: Mapping[str, str]) -> int:
    from wain.quantities import parse_size

    if text := environ.get("WAIN_CACHE_MAX_SIZE"):
        return parse_size(text, what="WAIN_CACHE_MAX_SIZE")
    if wain is not None and wain.cache_max_size is not None:
        return parse_size(wain.cache_max_size, what="cache-max-size")
    return DEFAULT_MAX_SIZE_BYTES


def _line(path: Path, key: str) -> str:
    """`path:line` of a key of `[tool.wain]`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="Check its mode and encoding.") from error
    table = ""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("["):
            table = text.strip("[] ")
        elif table == "tool.wain" and text.partition("=")[0].strip().strip("\"'") == key:
            return f"{path}:{number}"
    return f"{path} [tool.wain]"
