"""Lock: the exact files of a project's dependencies, and which of them a platform gets.

Source: PyPA specifications, pylock.toml (lock file format 1.0), platform compatibility tags.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from wain.compatibility import best_wheel, evaluate_marker, satisfies
from wain.digest import Digest
from wain.errors import LockError, NoWheel
from wain.index import LockedFile
from wain.index_credentials import strip_credentials
from wain.records import Record
from wain.store import Store, recipe_key

if TYPE_CHECKING:
    from wain.platforms import Target

logger = logging.getLogger(__name__)

_MAX_LOCK_BYTES = 256 << 20

__all__ = [
    "Dependency",
    "DirectorySource",
    "Lock",
    "LockedFile",
    "LockedPackage",
    "Selected",
    "VcsSource",
    "best_wheel",
    "evaluate_marker",
]


class Dependency(Struct, frozen=True, kw_only=True):
    """An edge of a lock that is a graph: on a package, under a marker."""

    name: str
    version: str | None = None
    """Where several versions of the package are locked."""
    extras: tuple[str, ...] = ()
    marker: str | None = None


class VcsSource(Struct, frozen=True, kw_only=True):
    """A commit of a repository."""

    type: str
    url: str
    commit: str
    requested_revision: str | None = None
    subdirectory: str | None = None


class DirectorySource(Struct, frozen=True, kw_only=True):
    """A project's folder on this machine."""

    path: str
    """Absolute."""
    editable: bool = False
    virtual: bool = False
    """Whether it is no package, and is never built: of uv.lock alone."""
    subdirectory: str | None = None


class LockedPackage(Record, frozen=True, kw_only=True):
    """One version of a distribution with its files."""

    uncompared: ClassVar = ("extra_dependencies",)

    name: str
    """Normalised."""
    version: str | None = None
    """None where the source decides it."""
    marker: str | None = None
    requires_python: str | None = None
    wheels: tuple[LockedFile, ...] = ()
    sdist: LockedFile | None = None
    archive: LockedFile | None = None
    """A file named by its URL or path rather than found on an index."""
    vcs: VcsSource | None = None
    directory: DirectorySource | None = None
    subdirectory: str | None = None
    """Of sdist or archive, where the project does not stand at its top."""
    index: str | None = None
    """The index it came from, without credentials."""
    dependencies: tuple[Dependency, ...] = ()
    extra_dependencies: Mapping[str, tuple[Dependency, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name


class Selected(Struct, frozen=True, kw_only=True):
    """What one target gets of a package."""

    package: LockedPackage
    kind: Literal["wheel", "sdist", "archive", "vcs", "directory"]
    file: LockedFile | None = None
    """The file to fetch; None for a repository or a folder."""

    @property
    def name(self) -> str:
        return self.package.name

    @property
    def version(self) -> str | None:
        return self.package.version


class Lock(Struct, frozen=True, kw_only=True):
    """The files of a project's dependencies for a set of environments.

    `packages` are a flat list under markers, or, where `root` is given, a graph that is walked from it.
    """

    packages: tuple[LockedPackage, ...]
    environments: tuple[str, ...] = ()
    """Markers, one of which must hold; empty for any environment."""
    requires_python: str | None = None
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    default_groups: tuple[str, ...] = ()
    root: LockedPackage | None = None
    root_groups: Mapping[str, tuple[Dependency, ...]] = field(default_factory=dict)
    created_by: str = ""
    path: Path | None = None
    """The file that it was read from; None for a fresh resolution."""
    origin: str = ""
    """Where it comes from, for people: `pylock.toml`, `requirements.txt, resolved by uv 0.13`."""
    tool: Mapping[str, Any] = field(default_factory=dict)
    """`[tool.wain]` of the lock file."""
    digest: str = ""
    """Of the text and the folder that it was read from; empty for a fresh resolution."""

    @classmethod
    def read(cls, path: Path, *, store: Store | None = None) -> Lock:
        """A pylock.toml.

        :param store: remembers what is in it: to parse and check TOML takes longer.
        :raises LockError: when it is malformed, of an unknown version, or not there.
        """
        return _read_pylock(_read_text(path), path, store)

    def to_toml(self, folder: Path) -> str:
        """As pylock.toml, to stand in `folder`: paths relative to it, no credentials.

        :raises LockError: when a file has no hash, or the lock is a graph of another tool.
        """
        return _format_pylock(self, folder)

    def files(self) -> tuple[LockedFile, ...]:
        """Every file that the lock names, each once."""
        found: dict[LockedFile, None] = {}
        for package in self.packages:
            for file in (*package.wheels, package.sdist, package.archive):
                if file is not None:
                    found[file] = None
        return tuple(found)

    def select(
        self,
        target: Target,
        *,
        extras: Iterable[str] = (),
        groups: Iterable[str] = (),
        allow_sdist: Callable[[str], bool] = lambda name: False,
        prefer_sdist: Callable[[str], bool] = lambda name: False,
    ) -> tuple[Selected, ...]:
        """What `target` gets, by name; for each package the wheel that fits best.

        :param extras: of the project, normalised.
        :param groups: dependency groups, normalised; none for the lock's default groups.
        :param allow_sdist: whether a package, by its normalised name, may be built where no wheel fits.
        :param prefer_sdist: whether its wheels are left aside (no-binary).
        :raises LockError: when the lock is not for the target, or does not know an extra or group.
        :raises NoWheel: when packages have no wheel that fits and may not be built; says what exists.
        """
        extras, groups = frozenset(extras), frozenset(groups) or frozenset(self.default_groups)
        self._check_target(target)
        packages = self._of_graph(target, extras, groups) if self.root else self._of_list(target, extras, groups)
        chosen: list[Selected] = []
        missing: list[LockedPackage] = []
        for package in packages:
            found = _choose(package, target, allow_sdist=allow_sdist, prefer_sdist=prefer_sdist)
            if found is None:
                missing.append(package)
            else:
                chosen.append(found)
        if missing:
            raise _no_wheel(missing, target)
        return tuple(sorted(chosen, key=lambda item: item.name))

    def _check_target(self, target: Target) -> None:
        where = self.path.name if self.path else "the lock"
        if self.requires_python and not satisfies(self.requires_python, str(target.python)):
            raise LockError(
                f"{where} is for Python {self.requires_python}, not for {target.python}",
                hint="Name another Python with --python, or lock again for this one.",
            )
        if self.environments and not any(
            evaluate_marker(marker, target, frozenset(), frozenset()) for marker in self.environments
        ):
            raise LockError(
                f"{where} is not for {target}: it holds {'; '.join(self.environments)[:400]}",
                hint=f"Lock again: wain lock --platform {target.platform}, with all others that are meant.",
            )

    def _of_list(self, target: Target, extras: frozenset[str], groups: frozenset[str]) -> list[LockedPackage]:
        self._check_names(extras, groups)
        chosen: dict[str, LockedPackage] = {}
        for package in self.packages:
            if package.marker and not evaluate_marker(package.marker, target, extras, groups):
                continue
            if package.requires_python and not satisfies(package.requires_python, str(target.python)):
                raise LockError(
                    f"{package} in {self.origin or 'the lock'} needs Python {package.requires_python},"
                    f" and the image has {target.python}",
                    hint="Name another Python with --python, or lock again for this one.",
                )
            if package.name in chosen:
                raise LockError(
                    f"{self.origin or 'the lock'} has both {chosen[package.name]} and {package} for {target}",
                    hint="Lock again; the file is malformed.",
                )
            chosen[package.name] = package
        return list(chosen.values())

    def _check_names(self, extras: frozenset[str], groups: frozenset[str]) -> None:
        unknown_extras, unknown_groups = extras - set(self.extras), groups - set(self.groups)
        if unknown_extras or unknown_groups:
            what = [f"the extra {name}" for name in sorted(unknown_extras)]
            what += [f"the group {name}" for name in sorted(unknown_groups)]
            flags = [f"--extra {name}" for name in sorted(unknown_extras)]
            flags += [f"--group {name}" for name in sorted(unknown_groups)]
            raise LockError(
                f"{self.origin or 'the lock'} was made without {' and '.join(what)}",
                hint=f"Lock again with it: wain lock {' '.join(flags)}.",
            )

    def _of_graph(self, target: Target, extras: frozenset[str], groups: frozenset[str]) -> list[LockedPackage]:
        assert self.root is not None
        by_name: dict[str, list[LockedPackage]] = {}
        for package in self.packages:
            by_name.setdefault(package.name, []).append(package)
        self._check_names(extras, groups)
        edges = list(self.root.dependencies)
        for extra in sorted(extras):
            edges += self.root.extra_dependencies.get(extra, ())
        for group in sorted(groups):
            edges += self.root_groups.get(group, ())
        # uv tells conflicting extras and groups apart by names that hold the project's.
        own = f"{len(self.root.name)}-{self.root.name}"
        extras = extras | {f"extra-{own}-{name}" for name in extras} | {f"group-{own}-{name}" for name in groups}
        chosen: dict[str, LockedPackage] = {}
        seen: set[tuple[str, str | None, str]] = set()
        while edges:
            edge = edges.pop()
            if edge.marker and not evaluate_marker(edge.marker, target, extras, groups):
                continue
            package = self._find(by_name.get(edge.name, []), edge, target, extras, groups)
            if package.name == self.root.name:
                for extra in edge.extras:
                    if (package.name, None, extra) not in seen:
                        seen.add((package.name, None, extra))
                        edges += self.root.extra_dependencies.get(extra, ())
                continue
            other = chosen.setdefault(package.name, package)
            if other is not package:
                raise LockError(f"{self.origin} has both {other} and {package} for {target}", hint="Lock again.")
            for extra in ("", *edge.extras):
                if (package.name, package.version, extra) in seen:
                    continue
                seen.add((package.name, package.version, extra))
                edges += package.extra_dependencies.get(extra, ()) if extra else package.dependencies
        return list(chosen.values())

    def _find(
        self,
        candidates: Sequence[LockedPackage],
        edge: Dependency,
        target: Target,
        extras: frozenset[str],
        groups: frozenset[str],
    ) -> LockedPackage:
        if self.root is not None and edge.name == self.root.name:
            return self.root
        fitting = [item for item in candidates if edge.version is None or item.version == edge.version]
        if len(fitting) > 1:
            fitting = [
                item for item in fitting if item.marker is None or evaluate_marker(item.marker, target, extras, groups)
            ]
        if len(fitting) != 1:
            raise LockError(
                f"{self.origin} names {edge.name} {edge.version or ''} {len(fitting)} times for {target}",
                hint="Lock again; the file is malformed.",
            )
        return fitting[0]


def _choose(
    package: LockedPackage,
    target: Target,
    *,
    allow_sdist: Callable[[str], bool],
    prefer_sdist: Callable[[str], bool],
) -> Selected | None:
    if package.directory is not None:
        return Selected(package=package, kind="directory")
    if package.vcs is not None:
        return Selected(package=package, kind="vcs")
    if package.archive is not None:
        if not package.archive.filename.endswith(".whl"):
            return Selected(package=package, kind="archive", file=package.archive)
        wheel = best_wheel([package.archive], target)
        return Selected(package=package, kind="wheel", file=wheel) if wheel else None
    sdist = package.sdist
    wheel = best_wheel(package.wheels, target)
    if sdist is not None and prefer_sdist(package.name):
        return Selected(package=package, kind="sdist", file=sdist)
    if wheel is not None:
        return Selected(package=package, kind="wheel", file=wheel)
    if sdist is not None and allow_sdist(package.name):
        logger.info("%s has no wheel for %s that may be taken: its sdist is built", package, target.platform)
        return Selected(package=package, kind="sdist", file=sdist)
    return None


def _no_wheel(packages: Sequence[LockedPackage], target: Target) -> NoWheel:
    lines = []
    for package in packages:
        files = [*package.wheels, *([package.archive] if package.archive else [])]
        tags = sorted({"-".join(file.filename.removesuffix(".whl").split("-")[-3:]) for file in files})
        shown = ", ".join(tags[:12]) + (f" and {len(tags) - 12} more" if len(tags) > 12 else "")
        exists = f"there are {shown}" if tags else "there is none at all"
        if package.sdist is not None:
            exists += ", and an sdist"
        lines.append(f"{package} has no wheel for {target}: {exists}")
    hint = "Choose another version, another Python (--python) or a base with a newer libc."
    if any(package.sdist for package in packages):
        hint += " An sdist is built only where that is allowed."
    return NoWheel("; ".join(lines), hint=hint)


def relative_path(path: str, folder: Path) -> str:
    """A path as a lock file in `folder` writes it: relative, with slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


@functools.lru_cache(maxsize=4)
def _read_pylock(text: str, path: Path, store: Store | None) -> Lock:
    key = recipe_key(
        {"what": "lock", "version": 1, "text": Digest.of(text.encode()), "folder": str(path.parent.absolute())}
    )
    memo = store.memo("lock", key) if store is not None else None
    if memo is not None:
        try:
            return replace(msgspec.convert(memo, Lock), path=path, digest=key)
        except msgspec.ValidationError:
            logger.debug("what is remembered of %s is of another version of wain", path)
    lock = parse_pylock(text, path)
    if store is not None:
        store.put_memo("lock", key, msgspec.to_builtins(replace(lock, path=None)))
    return replace(lock, digest=key)


def parse_pylock(text: str, path: Path) -> Lock:
    """A pylock.toml's text; relative paths in it are relative to the folder of `path`.

    :raises LockError: when it is malformed or of an unknown version.
    """
    import tomllib

    from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

    try:
        document = tomllib.loads(text)
        pylock = Pylock.from_dict(document)
    except PylockUnsupportedVersionError as error:
        raise LockError(
            f"{path} is of a version that wain does not know: {error}", hint="Lock again with wain lock."
        ) from error
    except (PylockValidationError, ValueError, RecursionError) as error:
        raise LockError(f"{path} is no valid lock file: {error}", hint="Lock again with wain lock.") from error
    tool = document.get("tool", {})
    wain = tool.get("wain", {}) if isinstance(tool, dict) else {}
    folder = path.parent.absolute()
    return Lock(
        packages=tuple(
            # Markers are kept as written; packaging would spell them its own way.
            replace(_from_pylock(package, folder), marker=table.get("marker"))
            for package, table in zip(pylock.packages, document["packages"], strict=True)
        ),
        environments=tuple(document.get("environments", ())),
        requires_python=str(pylock.requires_python) if pylock.requires_python else None,
        extras=tuple(map(str, pylock.extras or ())),
        groups=tuple(map(str, pylock.dependency_groups or ())),
        default_groups=tuple(map(str, pylock.default_groups or ())),
        created_by=pylock.created_by,
        path=path,
        origin=path.name,
        tool=wain if isinstance(wain, dict) else {},
    )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_LOCK_BYTES + 1)
        if len(data) > _MAX_LOCK_BYTES:
            raise LockError(f"{path} is larger than 256 MiB", hint="It is no lock file.")
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise LockError(f"there is no {path}", hint="Make it with wain lock.") from error
    except OSError as error:
        raise LockError(f"{path} cannot be read: {error.strerror}", hint="Check its mode.") from error
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is no text in UTF-8", hint="Lock again with wain lock.") from error


def _from_pylock(package: Any, folder: Path) -> LockedPackage:
    index = package.index
    vcs, directory, archive = package.vcs, package.directory, package.archive
    return LockedPackage(
        name=str(package.name),
        version=str(package.version) if package.version else None,
        requires_python=str(package.requires_python) if package.requires_python else None,
        wheels=tuple(_file_of_pylock(file, folder) for file in package.wheels or ()),
        sdist=_file_of_pylock(package.sdist, folder) if package.sdist else None,
        archive=_file_of_pylock(archive, folder) if archive else None,
        subdirectory=archive.subdirectory if archive else None,
        vcs=VcsSource(
            type=vcs.type,
            url=strip_credentials(vcs.url) if vcs.url else str(folder / vcs.path),
            commit=vcs.commit_id,
            requested_revision=vcs.requested_revision,
            subdirectory=vcs.subdirectory,
        )
        if vcs
        else None,
        directory=DirectorySource(
            path=os.path.normpath(folder / directory.path),
            editable=bool(directory.editable),
            subdirectory=directory.subdirectory,
        )
        if directory
        else None,
        index=strip_credentials(index) if index else None,
    )


def _file_of_pylock(file: Any, folder: Path) -> LockedFile:
    path, url = file.path, file.url
    filename = getattr(file, "name", None) or unquote(urlsplit(url).path.rsplit("/", 1)[-1] if url else Path(path).name)
    if "/" in filename or filename in ("", ".", ".."):
        raise LockError(f"{filename!r} in the lock is no file's name", hint="Lock again.")
    if path is None and url is not None and url.startswith("file:"):
        path, url = unquote(urlsplit(url).path), None
    hashes = tuple(sorted((str(name).lower(), str(text).lower()) for name, text in file.hashes.items()))
    for name, text in hashes:
        if name in ("sha256", "sha512") and not re.fullmatch(r"[0-9a-f]+", text):
            raise LockError(f"{filename} is locked with the hash {text[:80]!r}", hint="Lock again.")
    upload_time = getattr(file, "upload_time", None)
    return LockedFile(
        filename=filename,
        url=strip_credentials(url) if url and path is None else None,
        path=os.path.normpath(folder / path) if path is not None else None,
        size_bytes=file.size,
        hashes=hashes,
        upload_time=upload_time.isoformat() if upload_time else None,
    )


def _format_pylock(lock: Lock, folder: Path) -> str:
    import tomli_w

    if lock.root is not None:
        raise LockError(
            f"{lock.origin} is a lock of another tool and is used as it is",
            hint="Remove it to lock with wain, or update it with the tool that made it.",
        )
    document: dict[str, Any] = {"lock-version": "1.0"}
    if lock.environments:
        document["environments"] = list(lock.environments)
    if lock.requires_python:
        document["requires-python"] = lock.requires_python
    if lock.extras:
        document["extras"] = list(lock.extras)
    if lock.groups:
        document["dependency-groups"] = list(lock.groups)
    if lock.default_groups:
        document["default-groups"] = list(lock.default_groups)
    document["created-by"] = "wain"
    pieces = [tomli_w.dumps(document)]
    ordered = sorted(lock.packages, key=lambda item: (item.name, item.version or "", item.marker or ""))
    for package in ordered:
        pieces.append("\n[[packages]]\n")
        pieces += [f"{key} = {_inline(value)}\n" for key, value in _package_table(package, folder).items()]
    if not ordered:
        pieces.append("packages = []\n")
    if lock.tool:
        pieces += ["\n", tomli_w.dumps({"tool": {"wain": dict(lock.tool)}})]
    return "".join(pieces)


def _inline(value: Any) -> str:
    """A TOML value on one line; only a list of tables has one line for each."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {_inline(item)},\n" for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # Basic strings escape as JSON's do, and DEL besides.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int):
        return str(value)
    return str(value.isoformat()).replace("+00:00", "Z")


def _package_table(package: LockedPackage, folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = {"name": package.name}
    if package.version and package.directory is None:
        table["version"] = package.version
    if package.marker:
        table["marker"] = package.marker
    if package.requires_python:
        table["requires-python"] = package.requires_python
    if vcs := package.vcs:
        local = not re.match(r"[a-z+]+://", vcs.url)
        table["vcs"] = _without_none(
            type=vcs.type,
            url=None if local else strip_credentials(vcs.url),
            path=relative_path(vcs.url, folder) if local else None,
            **{"requested-revision": vcs.requested_revision, "commit-id": vcs.commit},
            subdirectory=vcs.subdirectory,
        )
    elif directory := package.directory:
        table["directory"] = _without_none(
            path=relative_path(directory.path, folder),
            editable=directory.editable or None,
            subdirectory=directory.subdirectory,
        )
    elif package.archive:
        table["archive"] = _file_table(package.archive, folder, named=False)
        if package.subdirectory:
            table["archive"]["subdirectory"] = package.subdirectory
    else:
        if package.index:
            table["index"] = strip_credentials(package.index)
        if package.sdist:
            table["sdist"] = _file_table(package.sdist, folder)
        if package.wheels:
            wheels = sorted(package.wheels, key=lambda file: file.filename)
            table["wheels"] = [_file_table(file, folder) for file in wheels]
    return table


def _file_table(file: LockedFile, folder: Path, *, named: bool = True) -> dict[str, Any]:
    if not file.hashes:
        raise LockError(f"{file.filename} has no hash to lock", hint="Use an index that tells hashes.")
    source = file.path or unquote(urlsplit(file.url or "").path)
    return _without_none(
        name=file.filename if named and source.rsplit("/", 1)[-1] != file.filename else None,
        **{"upload-time": _moment(file.upload_time)},
        url=strip_credentials(file.url) if file.url else None,
        path=relative_path(file.path, folder) if file.path else None,
        size=file.size_bytes,
        hashes=dict(file.hashes),
    )


def _moment(text: str | None) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text) if text else None


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
