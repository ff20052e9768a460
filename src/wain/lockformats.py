"""Locks of other tools: uv.lock is read, pinned and hashed requirements are one, others are refused by name.

Source: uv's documentation, "Project structure: the lockfile"; uv.lock versions 1.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from wain.compatibility import evaluate_marker
from wain.errors import LockError
from wain.index import LockedFile, PackageIndexes
from wain.index_credentials import strip_credentials
from wain.lock import Dependency, DirectorySource, Lock, LockedPackage, VcsSource
from wain.settings import normalize_name

if TYPE_CHECKING:
    from wain.platforms import Target
    from wain.requirements import RequirementLine, Requirements

logger = logging.getLogger(__name__)

_MAX_LOCK_BYTES = 256 << 20

FOREIGN_LOCKS = {
    "poetry.lock": "poetry export --all-groups --output requirements.txt",
    "pdm.lock": "pdm export --format requirements --output requirements.txt",
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
}
"""Lock files that wain does not read -> the command that makes one which it does."""


def refuse_foreign_lock(path: Path) -> LockError:
    """The error for a lock file of a kind that is not read."""
    return LockError(
        f"{path.name} is a lock that wain does not read",
        hint=f"Export it with its hashes: {FOREIGN_LOCKS[path.name]}",
    )


def read_uv_lock(path: Path, *, project: Path | None = None) -> Lock:
    """A uv.lock, as a graph from the project in a folder of its workspace.

    :param project: the project's folder; the lock's own where None.
    :raises LockError: when it is malformed, of an unknown version, or does not hold the project.
    """
    import tomllib

    folder = path.parent.absolute()
    try:
        if path.stat().st_size > _MAX_LOCK_BYTES:
            raise LockError(f"{path} is larger than 256 MiB", hint="It is no lock file.")
        document = tomllib.loads(path.read_text("utf-8"))
        if document.get("version") != 1:
            raise LockError(
                f"{path} is of version {document.get('version')!r}, and wain knows version 1",
                hint="Export it: uv export --format pylock.toml --output-file pylock.toml",
            )
        tables = document.get("package", [])
        root_folder = os.path.normpath((project or folder).absolute())
        packages: list[LockedPackage] = []
        root: LockedPackage | None = None
        root_table: Mapping[str, Any] = {}
        for table in tables:
            package = _uv_package(table, folder)
            source = table.get("source", {})
            local = source.get("virtual") or source.get("editable") or source.get("directory")
            if local and os.path.normpath(folder / local) == root_folder:
                root, root_table = package, table
            else:
                packages.append(package)
        if root is None:
            manifest = document.get("manifest", {})
            raise LockError(
                f"{path} does not hold the project in {root_folder}"
                + (f" but {', '.join(manifest['members'])}" if manifest.get("members") else ""),
                hint="Lock it again: uv lock",
            )
        groups = {
            normalize_name(name): tuple(_uv_dependency(item) for item in items)
            for name, items in root_table.get("dev-dependencies", {}).items()
        }
        extras = tuple(normalize_name(name) for name in root_table.get("optional-dependencies", {}))
        provided = root_table.get("metadata", {}).get("provides-extras", [])
        markers = document.get("supported-markers", [])
        return Lock(
            packages=tuple(packages),
            environments=tuple(map(str, markers)),
            requires_python=document.get("requires-python"),
            extras=tuple(dict.fromkeys((*extras, *map(normalize_name, provided)))),
            groups=tuple(groups),
            root=root,
            root_groups=groups,
            created_by="uv",
            path=path,
            origin=path.name,
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LockError(f"{path} cannot be read: {reason}", hint="Lock it again: uv lock") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise LockError(
            f"{path} is malformed ({type(error).__name__}: {error})", hint="Lock it again: uv lock"
        ) from error


def uv_metadata(path: Path, name: str | None, *, project: Path) -> Mapping[str, Any] | None:
    """`[package.metadata]` of a project in a uv.lock: what it required when it was locked."""
    import tomllib

    document = tomllib.loads(path.read_text("utf-8"))
    folder = path.parent.absolute()
    for table in document.get("package", []):
        source = table.get("source", {})
        local = source.get("virtual") or source.get("editable") or source.get("directory")
        if local and os.path.normpath(folder / local) == os.path.normpath(project.absolute()):
            if name is not None and normalize_name(str(table.get("name"))) != name:
                return None
            metadata = table.get("metadata", {})
            return metadata if isinstance(metadata, Mapping) else {}
    return None


def _uv_package(table: Mapping[str, Any], folder: Path) -> LockedPackage:
    source = table.get("source", {})
    name = normalize_name(table["name"])
    registry = source.get("registry")
    base = _registry_folder(registry, folder)
    wheels = tuple(_uv_file(item, base, source) for item in table.get("wheels", []))
    sdist = _uv_file(table["sdist"], base, source) if "sdist" in table else None
    archive: LockedFile | None = None
    vcs: VcsSource | None = None
    directory: DirectorySource | None = None
    if "git" in source:
        vcs = _git_source(source["git"])
        wheels, sdist = (), None
    elif "url" in source or "path" in source:
        archive = sdist or (wheels[0] if wheels else None)
        if archive is None:
            raise LockError(f"{name} in uv.lock has no file", hint="Lock it again: uv lock")
        wheels, sdist = (), None
    elif local := source.get("directory") or source.get("editable") or source.get("virtual"):
        path = os.path.normpath(folder / local)
        directory = DirectorySource(path=path, editable="editable" in source, virtual="virtual" in source)
    markers = table.get("resolution-markers", [])
    return LockedPackage(
        name=name,
        version=table.get("version"),
        marker=" or ".join(f"({_uv_marker(marker)})" for marker in markers) or None,
        wheels=wheels,
        sdist=sdist,
        archive=archive,
        vcs=vcs,
        directory=directory,
        subdirectory=source.get("subdirectory"),
        index=strip_credentials(registry) if registry and "://" in registry else None,
        dependencies=tuple(_uv_dependency(item) for item in table.get("dependencies", [])),
        extra_dependencies={
            normalize_name(extra): tuple(_uv_dependency(item) for item in items)
            for extra, items in table.get("optional-dependencies", {}).items()
        },
    )


def _registry_folder(registry: str | None, folder: Path) -> Path:
    if not registry or registry.startswith(("http:", "https:")):
        return folder
    if registry.startswith("file:"):
        return Path(unquote(urlsplit(registry).path))
    return folder / registry


def _uv_dependency(item: Mapping[str, Any]) -> Dependency:
    marker = item.get("marker")
    return Dependency(
        name=normalize_name(item["name"]),
        version=item.get("version"),
        extras=tuple(normalize_name(extra) for extra in item.get("extra", ())),
        marker=_uv_marker(str(marker)) if marker else None,
    )


def _uv_marker(text: str) -> str:
    """A marker on extras, as pylock.toml spells it: uv asks for one extra that is an encoded name."""
    text = re.sub(r"extra == ('[^']*')", r"\1 in extras", text)
    return re.sub(r"extra != ('[^']*')", r"\1 not in extras", text)


def _uv_file(item: Mapping[str, Any], base: Path, source: Mapping[str, Any]) -> LockedFile:
    url = item.get("url") or (source.get("url") if "path" not in item else None)
    path = item.get("path") or (source.get("path") if url is None else None)
    filename = item.get("filename") or unquote(urlsplit(url).path.rpartition("/")[2] if url else Path(path or "").name)
    algorithm, _, digest = str(item.get("hash", "")).partition(":")
    size = item.get("size")
    if "/" in filename or not filename:
        raise LockError(f"{filename!r} in uv.lock is no file's name", hint="Lock it again: uv lock")
    if url and url.startswith("file:"):
        path, url = unquote(urlsplit(url).path), None
    return LockedFile(
        filename=filename,
        url=strip_credentials(url) if url else None,
        path=os.path.normpath(base / path) if path and not url else None,
        size_bytes=size if isinstance(size, int) else None,
        hashes=((algorithm, digest.lower()),) if digest else (),
    )


def _git_source(text: str) -> VcsSource:
    parts = urlsplit(text)
    query = parse_qs(parts.query)
    revision = next((query[key][0] for key in ("rev", "tag", "branch") if key in query), None)
    return VcsSource(
        type="git",
        url=strip_credentials(parts._replace(query="", fragment="").geturl()),
        commit=parts.fragment,
        requested_revision=revision,
        subdirectory=query.get("subdirectory", [None])[0],
    )


def lock_of_requirements(requirements: Requirements, *, targets: Iterable[Target], indexes: PackageIndexes) -> Lock:
    """The lock that a requirements file is whose lines are all pinned and hashed.

    The index is asked once which files the hashes are of; after that the store knows.

    :raises HashMismatch: when no file of a version has one of its hashes.
    :raises UnknownDistribution: when no index has a name.
    :raises LockError: when a name is pinned twice for one target.
    """
    targets = tuple(targets)
    none: frozenset[str] = frozenset()
    wanted = [
        line
        for line in requirements.lines
        if not line.marker or any(evaluate_marker(line.marker, target, none, none) for target in targets)
    ]
    if not wanted:
        return Lock(packages=(), path=requirements.path, origin=requirements.path.name)
    with ThreadPoolExecutor(min(8, len(wanted))) as pool:
        packages = tuple(pool.map(lambda line: _pinned_package(line, indexes), wanted))
    merged: dict[tuple[str, str | None, str | None], LockedPackage] = {}
    for package in packages:
        merged.setdefault((package.name, package.version, package.marker), package)
    return Lock(packages=tuple(merged.values()), path=requirements.path, origin=requirements.path.name)


def _pinned_package(line: RequirementLine, indexes: PackageIndexes) -> LockedPackage:
    version = line.pinned_version
    if version is not None and line.name is not None:
        files = indexes.locate(line.name, version, line.hashes)
        sdists = [file for file in files if not file.filename.endswith(".whl")]
        return LockedPackage(
            name=line.name,
            version=version,
            marker=line.marker,
            wheels=tuple(file for file in files if file.filename.endswith(".whl")),
            sdist=sdists[0] if sdists else None,
        )
    url = line.url or ""
    local = not re.match(r"https?:", url)
    filename = unquote(re.split("[#?]", url)[0].rpartition("/")[2])
    from wain.index_pages import distribution_of

    name = line.name or distribution_of(filename)
    if name is None:
        raise LockError(
            f"{line.origin}: the file {filename!r} does not say its distribution",
            hint="Write it as name @ URL.",
        )
    path = url.removeprefix("file://").partition("#")[0]
    archive = LockedFile(
        filename=filename,
        url=None if local else strip_credentials(url),
        path=os.path.normpath(indexes.folder / unquote(path)) if local else None,
        hashes=(_as_pair(line.hashes[0]),) if len(line.hashes) == 1 else (),
        accepted=line.hashes if len(line.hashes) > 1 else (),
    )
    parts = filename.split("-")
    return LockedPackage(
        name=name,
        version=parts[1] if filename.endswith(".whl") and len(parts) > 4 else None,
        marker=line.marker,
        archive=archive,
    )


def _as_pair(text: str) -> tuple[str, str]:
    algorithm, _, digest = text.partition(":")
    return algorithm, digest
