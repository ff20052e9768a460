"""A project's lock: found and checked against the project, or resolved and remembered for ten minutes."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import LockError, ProjectError
from wain.fetching import Progress, fetch
from wain.index import PackageIndexes
from wain.index_credentials import strip_credentials
from wain.interpreters import find_interpreter
from wain.lock import Lock, Selected, parse_pylock
from wain.lock_fit import check_pylock, check_python, check_uv_lock
from wain.lockformats import (
    FOREIGN_LOCKS,
    lock_of_requirements,
    read_uv_lock,
    refuse_foreign_lock,
)
from wain.project_requirements import ProjectRequirements, lock_notes, project_requirements
from wain.requirements import refuse_unhashed
from wain.settings import IndexSettings, WainSettings, index_settings, normalize_name, read_pyproject
from wain.store import Store, recipe_key

if TYPE_CHECKING:
    from wain.oci import JSON
    from wain.platforms import Target
    from wain.requirements import Requirements
    from wain.resolve import ResolutionInput
    from wain.transport import Transport

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 600


def find_lock(project: Path) -> Path | None:
    """The lock file that counts for a project: pylock.toml, else uv.lock of it or its workspace.

    :raises LockError: when only a lock of a kind that is not read is there; the export command is named.
    """
    for name in ("pylock.toml", "uv.lock"):
        if (project / name).is_file():
            return project / name
    if (project / "pyproject.toml").is_file():
        for parent in list(project.absolute().parents)[:8]:
            if (parent / "uv.lock").is_file() and (parent / "pyproject.toml").is_file():
                workspace = read_pyproject(parent).get("tool", {}).get("uv", {}).get("workspace")
                if workspace:
                    return parent / "uv.lock"
    return None


class LockRequest(Struct, frozen=True, kw_only=True):
    """Whose lock is asked for, what it must fit, and with what it may be made."""

    project: Path
    targets: Sequence[Target]
    store: Store
    transport: Transport
    extras: Sequence[str] = ()
    groups: Sequence[str] = ()
    settings: IndexSettings | None = None
    """Those of the project where None."""
    refresh: bool = False
    """Whether a remembered resolution does not count."""

    def normalized(self) -> LockRequest:
        """The same with normalised names."""
        return replace(
            self,
            extras=tuple(map(normalize_name, self.extras)),
            groups=tuple(map(normalize_name, self.groups)),
        )

    def needed(self) -> ProjectRequirements:
        """What the project says that it needs.

        :raises PythonError: when it does not allow a target's Python.
        :raises LockError: when its requirements are hashed in part.
        """
        needed = project_requirements(self.project, extras=self.extras, groups=self.groups)
        check_python(needed, self.targets)
        if needed.requirements is not None:
            refuse_unhashed(needed.requirements)
        return needed

    def indexes(self, needed: ProjectRequirements) -> PackageIndexes:
        """The indexes that settings and requirements name."""
        settings = _with_file_options(self.settings or index_settings(self.project), needed)
        return PackageIndexes(settings, store=self.store, transport=self.transport, folder=self.project.absolute())


def lock_for(asked: LockRequest, *, locked: bool = False, offline: bool = False) -> Lock:
    """The lock of a project: its lock file, checked to fit it, or a resolution.

    The order: pylock.toml, uv.lock, a requirements.txt that is all pinned and hashed, requirements.txt,
    [project]. A resolution is remembered for ten minutes.

    :param locked: nothing may be resolved.
    :raises LockError: when the lock does not fit the project or the targets, or `locked` and there is none;
        the hint says how to renew it.
    :raises PythonError: when the project does not allow a target's Python.
    :raises ResolutionError: when nothing fits; `UnknownDistribution` and `NoWheel` are more exact.
    :raises HashMismatch: when the user's hashes leave no file.
    :raises Offline: when the network is needed and `offline`.
    """
    asked = asked.normalized()
    if offline and not asked.transport.offline:
        from wain.transport import Transport

        asked = replace(asked, transport=Transport(asked.transport.settings, offline=True))
    project = asked.project
    path = find_lock(project)
    if path is not None:
        return _lock_file(path, asked)
    needed = asked.needed()
    indexes = asked.indexes(needed)
    if needed.requirements is not None and needed.requirements.is_locked:
        return lock_of_requirements(needed.requirements, targets=asked.targets, indexes=indexes)
    for name in FOREIGN_LOCKS:
        if (project / name).is_file():
            raise refuse_foreign_lock(project / name)
    if locked:
        raise LockError(f"{project} has no lock file, and --locked was given", hint="Make one with wain lock.")
    return _resolved(asked, needed, indexes)


def lock_for_requirements(
    requirements: Requirements,
    *,
    targets: Sequence[Target],
    settings: IndexSettings,
    store: Store,
    transport: Transport,
    refresh: bool = False,
) -> Lock:
    """The lock of requirements that belong to no project: themselves where all are pinned and hashed, else a
    resolution, which is remembered for ten minutes.

    :raises ResolutionError: when nothing fits; `UnknownDistribution` and `NoWheel` are more exact.
    :raises HashMismatch: when the user's hashes leave no file.
    """
    folder = requirements.path.parent.absolute()
    asked = LockRequest(
        project=folder, targets=targets, settings=settings, store=store, transport=transport, refresh=refresh
    )
    needed = ProjectRequirements(folder=folder, requirements=requirements, lines=requirements.lines)
    indexes = asked.indexes(needed)
    if requirements.is_locked:
        return lock_of_requirements(requirements, targets=targets, indexes=indexes)
    return _resolved(asked, needed, indexes)


def make_lock(asked: LockRequest, *, before: Lock | None = None, upgrade: Sequence[str] | None = None) -> Lock:
    """A fresh lock of a project, for `wain lock`: never read from its lock file.

    :param before: the lock whose versions are kept where they still fit; where None, the project's uv.lock.
    :param upgrade: names that may change; None for none, empty for all.
    :raises LockError: when the project has a lock of another tool.
    """
    asked = asked.normalized()
    needed = asked.needed()
    indexes = asked.indexes(needed)
    if needed.requirements is not None and needed.requirements.is_locked:
        lock = lock_of_requirements(needed.requirements, targets=asked.targets, indexes=indexes)
    else:
        from wain.resolve import resolve

        lock = resolve(
            _resolution_input(asked, needed),
            asked.targets,
            settings=indexes.settings,
            store=asked.store,
            indexes=indexes,
            preferences=(before or _uv_lock_of(asked.project)) if upgrade is None or upgrade else None,
            upgrade=upgrade,
            refresh=asked.refresh,
        )
    tool: dict[str, JSON] = {"requires": [*lock_notes(needed)]}
    if asked.extras:
        tool["extras"] = [*sorted(asked.extras)]
    if asked.groups:
        tool["groups"] = [*sorted(asked.groups)]
    return replace(lock, tool=tool)


def _uv_lock_of(project: Path) -> Lock | None:
    """The lock that uv keeps of a project, whose versions are tried; None where there is none that can be read."""
    path = find_lock(project)
    if path is None or path.name != "uv.lock":
        return None
    try:
        return read_uv_lock(path, project=project)
    except LockError as error:
        logger.debug("the versions of uv.lock are not kept: %s", error.message)
        return None


def as_made(lock: Lock) -> Lock:
    """A lock of wain's with the extras and groups that it was made with, which its table says, as those it knows."""
    return replace(
        lock,
        extras=tuple(map(str, _list(lock.tool.get("extras")))),
        groups=tuple(map(str, _list(lock.tool.get("groups")))),
    )


def select_for(
    lock: Lock,
    target: Target,
    *,
    extras: Iterable[str] = (),
    groups: Iterable[str] = (),
    settings: IndexSettings,
    store: Store,
) -> tuple[Selected, ...]:
    """What a target gets, with only-binary and no-binary as the settings have them.

    An sdist is chosen only where an interpreter of the target's minor version is on this machine.

    :raises LockError, NoWheel: as `Lock.select`.
    """
    extras, groups = tuple(extras), tuple(groups)
    key = recipe_key(
        {
            "what": "selected", "version": 1, "lock": lock.digest, "target": msgspec.to_builtins(target),
            "extras": [*extras], "groups": [*groups, "", *lock.extras, "", *lock.groups],
            "only-binary": [*settings.only_binary], "no-binary": [*settings.no_binary],
        }
    )  # fmt: skip
    if lock.digest and (memo := store.memo("selected", key)) is not None:
        return _selected_wheels(lock, memo)
    found: list[str | None] = []

    def allow(name: str) -> bool:
        if not settings.allows_sdist(name):
            return False
        if not found:
            found.append(find_interpreter(target.python.short, store))
        return found[0] is not None

    chosen = lock.select(target, extras=extras, groups=groups, allow_sdist=allow, prefer_sdist=settings.wants_sdist)
    # Which sdists may be built depends on this machine.
    if lock.digest and all(item.file in item.package.wheels for item in chosen):
        places = {id(package): number for number, package in enumerate(lock.packages)}
        wheels: list[JSON] = [
            [places[id(item.package)], item.package.wheels.index(item.file)] for item in chosen if item.file is not None
        ]
        store.put_memo("selected", key, {"wheels": wheels})
    return chosen


def _selected_wheels(lock: Lock, memo: Mapping[str, Any]) -> tuple[Selected, ...]:
    """What `select_for` remembers: for each package its place in the lock, and its wheel's place in it."""
    chosen = ((lock.packages[package], wheel) for package, wheel in memo["wheels"])
    return tuple(Selected(package=package, kind="wheel", file=package.wheels[wheel]) for package, wheel in chosen)


def fetch_selected(
    selected: Iterable[Selected],
    *,
    store: Store,
    transport: Transport,
    settings: IndexSettings | None = None,
    project: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[Selected, Path, Digest]]:
    """The files of what was selected, in the store and checked, in the order given.

    Repositories and folders have no file and are left out. What the store has is not asked for.

    :raises HashMismatch: when bytes are not those that the lock promises.
    :raises TransferError: when a file cannot be had.
    :raises Offline: when the store lacks one and the transport is offline.
    """
    chosen = [(item, item.file) for item in selected if item.file is not None]
    settings = settings or IndexSettings()
    indexes = PackageIndexes(settings, store=store, transport=transport, folder=project)
    direct = _direct_urls(project) if project else ()
    if direct:
        indexes.credentials = indexes.credentials.with_urls(direct)
    digests = fetch([file for _, file in chosen], store=store, transport=transport, indexes=indexes, progress=progress)
    result = []
    for item, file in chosen:
        digest = digests[file]
        path = store.path(digest)
        if path is None:
            digest = fetch([file], store=store, transport=transport, indexes=indexes)[file]
            path = store.path(digest)
        if path is None:
            raise LockError(
                f"{file.filename} vanished from the store", hint="Another process emptied it; run it again."
            )
        result.append((item, path, digest))
    return result


def _direct_urls(project: Path) -> tuple[str, ...]:
    """URLs with credentials in the project's own files: the lock has them without."""
    try:
        needed = project_requirements(project)
    except (ProjectError, LockError):
        return ()
    lines = (*needed.lines, *(needed.requirements.constraints if needed.requirements else ()))
    return tuple(line.url for line in lines if line.url and line.url.startswith(("http:", "https:")))


def _with_file_options(settings: IndexSettings, needed: ProjectRequirements) -> IndexSettings:
    """The settings with what stands in requirements files, which wins for the index, as with pip."""
    options = needed.requirements.options if needed.requirements else {}
    if not options:
        return settings
    given = index_settings(None, flags=options, environ={"HOME": "/nonexistent"}, wain=WainSettings())
    return replace(
        settings,
        index_url=given.index_url or settings.index_url,
        extra_index_urls=(*settings.extra_index_urls, *given.extra_index_urls),
        find_links=(*settings.find_links, *given.find_links),
        no_index=settings.no_index or given.no_index,
        pre=settings.pre or given.pre,
        prefer_binary=settings.prefer_binary or given.prefer_binary,
        only_binary=(*settings.only_binary, *given.only_binary),
        no_binary=(*settings.no_binary, *given.no_binary),
        trusted_hosts=(*settings.trusted_hosts, *given.trusted_hosts),
    )


def _lock_file(path: Path, asked: LockRequest) -> Lock:
    project, targets, store = asked.project, asked.targets, asked.store
    extras, groups = tuple(asked.extras), tuple(asked.groups)
    if path.name == "uv.lock":
        lock = read_uv_lock(path, project=project)
        check_uv_lock(path, project, targets, extras, groups)
        return lock
    lock = Lock.read(path, store=store)
    if lock.created_by == "wain":
        lock = as_made(lock)
        if sorted(extras) != sorted(lock.extras) or sorted(groups) != sorted(lock.groups):
            flags = [f"--extra {name}" for name in extras] + [f"--group {name}" for name in groups]
            had = ", ".join((*lock.extras, *lock.groups)) or "none"
            raise LockError(
                f"{path.name} was made for other extras and groups ({had}) than are asked for"
                f" ({', '.join((*extras, *groups)) or 'none'})",
                hint=f"Lock again: wain lock {' '.join(flags)}".rstrip() + ".",
            )
    key = _fit_key(lock, asked)
    if key is not None and store.memo("lock-fits", key) is not None:
        return lock
    try:
        needed = project_requirements(
            project,
            extras=[name for name in extras if not (project / "requirements.txt").is_file()],
            groups=[name for name in groups if not (project / "requirements.txt").is_file()],
        )
    except ProjectError:
        if (project / "requirements.txt").is_file() or read_pyproject(project).get("project"):
            raise
        return lock  # a lock alone is all that this folder says
    check_python(needed, targets)
    check_pylock(lock, path, needed, targets)
    if key is not None:
        store.put_memo("lock-fits", key, {})
    return lock


def _fit_key(lock: Lock, asked: LockRequest) -> Digest | None:
    """What decides whether a lock fits its project; None where more does than two files of the project's folder."""
    project = asked.project
    files: dict[str, JSON] = {}
    for name in ("pyproject.toml", "requirements.txt"):
        try:
            data = (project / name).read_bytes()
        except OSError:
            continue
        # Options may name other files, and ${} variables.
        if name == "requirements.txt" and re.search(rb"^\s*-|\$\{|\x00", data, re.MULTILINE):
            return None
        files[name] = Digest.of(data)
    return recipe_key(
        {
            "what": "lock-fits", "version": 1, "lock": lock.digest, "project": str(project.absolute()), "files": files,
            "targets": [msgspec.to_builtins(target) for target in asked.targets],
            "extras": [*asked.extras], "groups": [*asked.groups],
        }
    )  # fmt: skip


def _resolution_input(asked: LockRequest, needed: ProjectRequirements) -> ResolutionInput:
    from wain.resolve import ResolutionInput

    if needed.requirements is not None:
        return ResolutionInput(
            folder=asked.project.absolute(),
            lines=needed.requirements.lines,
            constraints=needed.requirements.constraints,
            hashes=needed.requirements.hashes,
            origin=needed.origin,
        )
    return ResolutionInput(
        folder=asked.project.absolute(),
        project=True,
        extras=tuple(asked.extras),
        groups=tuple(asked.groups),
        lines=needed.lines,
        dynamic=needed.dynamic,
        origin=needed.origin,
    )


def _resolved(asked: LockRequest, needed: ProjectRequirements, indexes: PackageIndexes) -> Lock:
    extras, groups, store = tuple(asked.extras), tuple(asked.groups), asked.store
    key = _resolution_key(asked, needed, indexes.settings)
    if not asked.refresh and (lock := _remembered(store, key, asked.project)) is not None:
        return lock
    from wain.resolve import resolve

    lock = resolve(
        _resolution_input(asked, needed),
        asked.targets,
        settings=indexes.settings,
        store=store,
        indexes=indexes,
        refresh=asked.refresh,
    )
    lock = replace(lock, extras=extras, groups=groups)
    if not any(package.directory or package.vcs for package in lock.packages):
        try:
            text = replace(lock, extras=(), groups=()).to_toml(Path("/"))
        except LockError as error:
            logger.debug("the resolution is not remembered: %s", error.message)
        else:
            names: dict[str, JSON] = {"extras": [*extras], "groups": [*groups], "origin": lock.origin}
            store.put_memo("resolution", key, {"time": int(time.time()), "lock": text, **names})
    return lock


def _remembered(store: Store, key: Digest, project: Path) -> Lock | None:
    memo = store.memo("resolution", key)
    if memo is None:
        return None
    moment, text = memo.get("time"), memo.get("lock")
    if not isinstance(moment, int) or not isinstance(text, str):
        return None
    age = time.time() - moment
    if not 0 <= age < REMEMBERED_SECONDS:
        return None
    try:
        lock = parse_pylock(text, Path("/pylock.toml"))
    except LockError:
        return None
    logger.info("the resolution of %.0f s ago is used (--refresh makes a new one)", age)
    return replace(
        lock,
        path=None,
        origin=str(memo.get("origin", "")),
        extras=tuple(map(str, _list(memo.get("extras")))),
        groups=tuple(map(str, _list(memo.get("groups")))),
    )


def _resolution_key(asked: LockRequest, needed: ProjectRequirements, settings: IndexSettings) -> Digest:
    project = asked.project
    files = [project / name for name in ("pyproject.toml", "setup.py", "setup.cfg", "uv.toml")]
    if needed.requirements is not None:
        files = [*needed.requirements.files]
    files += [project / name for name in (*settings.constraints, *settings.build_constraints)]
    contents: list[JSON] = []
    if needed.requirements is not None:
        texts = "\n".join(line.text for line in (*needed.requirements.lines, *needed.requirements.constraints))
        contents.append(["lines", hashlib.sha256(texts.encode()).hexdigest()])
    for path in files:
        try:
            contents.append([path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
        except OSError:
            continue
    sources = [*settings.index_urls, *settings.find_links]
    stamps: list[JSON] = []
    for link in settings.find_links:
        try:
            stamps.append((project / Path(link.removeprefix("file://")).expanduser()).stat().st_mtime_ns)
        except OSError:
            stamps.append(None)
    return recipe_key(
        {
            "recipe": "resolution/1",
            "project": str(project.absolute()),
            "contents": contents,
            "targets": [str(target) for target in asked.targets],
            "extras": [*sorted(asked.extras)],
            "groups": [*sorted(asked.groups)],
            "sources": [strip_credentials(url) if url.startswith(("http:", "https:")) else url for url in sources],
            "stamps": stamps,
            "options": [
                settings.no_index,
                settings.uv_configuration,
                settings.pre,
                [*settings.only_binary],
                [*settings.no_binary],
            ],
        }
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
