"""A project's lock: found and checked against the project, or resolved and remembered for ten minutes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wain.compatibility import evaluate_marker, satisfies
from wain.digest import Digest
from wain.errors import LockError, ProjectError
from wain.index import PackageIndexes, Progress, fetch, strip_credentials
from wain.lock import Lock, LockedPackage, Selected, parse_pylock
from wain.lockformats import (
    FOREIGN_LOCKS,
    lock_of_requirements,
    read_uv_lock,
    refuse_foreign_lock,
    uv_metadata,
)
from wain.requirements import RequirementLine, Requirements, parse_requirement, read_requirements
from wain.resolve import ResolutionInput, find_interpreter, resolve
from wain.settings import IndexSettings, WainSettings, index_settings, normalize_name, read_pyproject
from wain.store import Store, recipe_key

if TYPE_CHECKING:
    from wain.oci import JSON
    from wain.platforms import Target
    from wain.transport import Transport

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRequirements:
    """What a project says that it needs."""

    folder: Path
    requirements: Requirements | None = None
    """Of requirements.txt, where it is that which counts."""
    dynamic: bool = False
    """Whether a build back end decides the dependencies."""
    lines: tuple[RequirementLine, ...] = ()
    """All direct requirements for the extras and groups that were asked for."""
    requires_python: str | None = None
    has_project: bool = False

    @property
    def origin(self) -> str:
        return self.requirements.path.name if self.requirements else "pyproject.toml"


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


def project_requirements(
    project: Path, *, extras: Iterable[str] = (), groups: Iterable[str] = ()
) -> ProjectRequirements:
    """The direct requirements of a project: requirements.txt, else [project] with extras and groups.

    :raises ProjectError: when there is neither, an extra or group is not known, or a file is malformed.
    """
    extras, groups = tuple(map(normalize_name, extras)), tuple(map(normalize_name, groups))
    path = project / "requirements.txt"
    if path.is_file():
        if extras or groups:
            raise ProjectError(
                f"{path.name} has no extras and no groups ({', '.join((*extras, *groups))})",
                hint="Remove it, so that [project] in pyproject.toml counts, or leave the flags out.",
            )
        requirements = read_requirements(path)
        return ProjectRequirements(folder=project, requirements=requirements, lines=requirements.lines)
    pyproject = read_pyproject(project)
    table = pyproject.get("project")
    if not isinstance(table, dict) and not groups:
        raise ProjectError(
            f"{project} has neither requirements.txt nor [project] in a pyproject.toml",
            hint="Write the dependencies into one of them.",
        )
    table = table if isinstance(table, dict) else {}
    dynamic = "dependencies" in table.get("dynamic", []) or "optional-dependencies" in table.get("dynamic", [])
    texts = [(text, "pyproject.toml [project]") for text in _strings(table, "dependencies")]
    optional = {normalize_name(name): value for name, value in (table.get("optional-dependencies") or {}).items()}
    own = normalize_name(str(table.get("name", "")))
    texts += _extra_texts(own, optional, extras, dynamic=dynamic)
    tables = {normalize_name(name): value for name, value in pyproject.get("dependency-groups", {}).items()}
    for group in groups:
        texts += [(text, f"pyproject.toml group {group}") for text in _group(tables, group, ())]
    lines = [parse_requirement(text, origin, folder=project) for text, origin in texts]
    requires_python = table.get("requires-python")
    return ProjectRequirements(
        folder=project,
        dynamic=dynamic,
        lines=tuple(lines),
        requires_python=requires_python if isinstance(requires_python, str) else None,
        has_project=True,
    )


def lock_for(
    project: Path,
    *,
    targets: Sequence[Target],
    extras: Iterable[str] = (),
    groups: Iterable[str] = (),
    settings: IndexSettings | None = None,
    store: Store,
    transport: Transport,
    locked: bool = False,
    offline: bool = False,
    refresh: bool = False,
) -> Lock:
    """The lock of a project: its lock file, checked to fit it, or a resolution.

    The order: pylock.toml, uv.lock, a requirements.txt that is all pinned and hashed, requirements.txt,
    [project]. A resolution is remembered for ten minutes.

    :param settings: those of the project where None.
    :param locked: nothing may be resolved.
    :param refresh: a remembered resolution does not count.
    :raises LockError: when the lock does not fit the project or the targets, or `locked` and there is none;
        the hint says how to renew it.
    :raises ResolutionError: when nothing fits; `UnknownDistribution` and `NoWheel` are more exact.
    :raises HashMismatch: when the user's hashes leave no file.
    :raises Offline: when the network is needed and `offline`.
    """
    extras, groups = tuple(map(normalize_name, extras)), tuple(map(normalize_name, groups))
    if settings is None:
        settings = index_settings(project)
    if offline and not transport.offline:
        from wain.transport import Transport

        transport = Transport(transport.settings, offline=True)
    path = find_lock(project)
    if path is not None:
        return _lock_file(path, project, targets, extras, groups)
    needed = project_requirements(project, extras=extras, groups=groups)
    settings = _with_file_options(settings, needed)
    indexes = PackageIndexes(settings, store=store, transport=transport, folder=project.absolute())
    if needed.requirements is not None and needed.requirements.is_locked:
        return lock_of_requirements(needed.requirements, targets=targets, indexes=indexes)
    for name in FOREIGN_LOCKS:
        if (project / name).is_file():
            raise refuse_foreign_lock(project / name)
    if locked:
        raise LockError(f"{project} has no lock file, and --locked was given", hint="Make one with wain lock.")
    return _resolved(
        project,
        needed,
        targets,
        extras,
        groups,
        settings=settings,
        store=store,
        indexes=indexes,
        refresh=refresh,
    )


def make_lock(
    project: Path,
    *,
    targets: Sequence[Target],
    extras: Iterable[str] = (),
    groups: Iterable[str] = (),
    settings: IndexSettings | None = None,
    store: Store,
    transport: Transport,
    before: Lock | None = None,
    upgrade: Sequence[str] | None = None,
    refresh: bool = False,
) -> Lock:
    """A fresh lock of a project, for `wain lock`: never read from its lock file.

    :param before: the lock whose versions are kept where they still fit.
    :param upgrade: names that may change; None for none, empty for all.
    :raises LockError: when the project has a lock of another tool.
    """
    extras, groups = tuple(map(normalize_name, extras)), tuple(map(normalize_name, groups))
    if settings is None:
        settings = index_settings(project)
    needed = project_requirements(project, extras=extras, groups=groups)
    settings = _with_file_options(settings, needed)
    indexes = PackageIndexes(settings, store=store, transport=transport, folder=project.absolute())
    if needed.requirements is not None and needed.requirements.is_locked:
        lock = lock_of_requirements(needed.requirements, targets=targets, indexes=indexes)
    else:
        lock = resolve(
            _resolution_input(project, needed, extras, groups),
            targets,
            settings=settings,
            store=store,
            indexes=indexes,
            preferences=before if upgrade is None or upgrade else None,
            upgrade=upgrade,
            refresh=refresh,
        )
    tool: dict[str, JSON] = {"requires": [*_requires(needed)]}
    if extras:
        tool["extras"] = [*sorted(extras)]
    if groups:
        tool["groups"] = [*sorted(groups)]
    return replace(lock, tool=tool)


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
    found: list[str | None] = []

    def allow(name: str) -> bool:
        if not settings.allows_sdist(name):
            return False
        if not found:
            found.append(find_interpreter(target.python.short, store))
        return found[0] is not None

    return lock.select(target, extras=extras, groups=groups, allow_sdist=allow, prefer_sdist=settings.wants_sdist)


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
    return tuple(line.url for line in lines if line.url and "@" in line.url and line.url.startswith("http"))


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


def _lock_file(
    path: Path, project: Path, targets: Sequence[Target], extras: tuple[str, ...], groups: tuple[str, ...]
) -> Lock:
    if path.name == "uv.lock":
        lock = read_uv_lock(path, project=project)
        _check_uv_lock(path, project, targets, extras, groups)
        return lock
    lock = Lock.read(path)
    made_with = {
        "extras": tuple(map(str, _list(lock.tool.get("extras")))),
        "groups": tuple(map(str, _list(lock.tool.get("groups")))),
    }
    if lock.created_by == "wain":
        if sorted(extras) != sorted(made_with["extras"]) or sorted(groups) != sorted(made_with["groups"]):
            flags = [f"--extra {name}" for name in extras] + [f"--group {name}" for name in groups]
            had = ", ".join((*made_with["extras"], *made_with["groups"])) or "none"
            raise LockError(
                f"{path.name} was made for other extras and groups ({had}) than are asked for"
                f" ({', '.join((*extras, *groups)) or 'none'})",
                hint=f"Lock again: wain lock {' '.join(flags)}".rstrip() + ".",
            )
        lock = replace(lock, extras=made_with["extras"], groups=made_with["groups"])
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
    _check_pylock(lock, path, needed, targets)
    return lock


def _check_pylock(lock: Lock, path: Path, needed: ProjectRequirements, targets: Sequence[Target]) -> None:
    hint = "Renew it with wain lock, or with the tool that made it."
    requires = lock.tool.get("requires")
    if isinstance(requires, list) and lock.created_by == "wain":
        now, then = set(_requires(needed)), set(map(str, requires))
        if now != then:
            more, less = sorted(now - then), sorted(then - now)
            told = [f"{needed.origin} now asks for {', '.join(more)}"] if more else []
            told += [f"it no longer asks for {', '.join(less)}"] if less else []
            raise LockError(f"{path.name} does not fit the project: {'; '.join(told)}"[:1000], hint=hint)
    none: frozenset[str] = frozenset()
    problems: dict[str, None] = {}
    for target in targets:
        held: dict[str, list[LockedPackage]] = {}
        for package in lock.packages:
            held.setdefault(package.name, []).append(package)
        for line in needed.lines:
            if line.name is None or (line.marker and not evaluate_marker(line.marker, target, none, none)):
                continue
            packages = held.get(line.name)
            if packages is None:
                problems[f"{line.origin} asks for {line.name}, which the lock lacks"] = None
            elif line.specifier and not any(
                package.version is None or satisfies(line.specifier, package.version) for package in packages
            ):
                has = ", ".join(str(package.version) for package in packages)
                problems[f"{line.origin} asks for {line.name}{line.specifier}, and the lock has {has}"] = None
    if problems:
        raise LockError(f"{path.name} does not fit the project: {'; '.join(problems)}"[:1000], hint=hint)


def _check_uv_lock(
    path: Path, project: Path, targets: Sequence[Target], extras: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    """:raises LockError: when what the project requires is not what was locked."""
    pyproject = read_pyproject(project)
    table = pyproject.get("project")
    if not isinstance(table, dict):
        return
    metadata = uv_metadata(path, normalize_name(str(table.get("name", ""))), project=project)
    hint = "Renew it: uv lock"
    if metadata is None:
        raise LockError(f"{path.name} was made for another project than {table.get('name')}", hint=hint)
    if "dependencies" in table.get("dynamic", []):
        logger.info("%s: a build back end decides the dependencies; whether it fits is not known", path.name)
        return
    sources = {normalize_name(name) for name in pyproject.get("tool", {}).get("uv", {}).get("sources", {})}
    needed = project_requirements_of_pyproject(pyproject, project, extras, groups)
    then_lines = _uv_requires(metadata, extras, groups)
    none: frozenset[str] = frozenset()
    for target in targets:
        now = {
            _identity(line, sources)
            for line in needed
            if not line.marker or evaluate_marker(line.marker, target, none, none)
        }
        then = {
            _identity(line, sources)
            for line in then_lines
            if not line.marker or evaluate_marker(_without_extra(line.marker), target, none, none)
        }
        own = normalize_name(str(table.get("name", "")))
        more = sorted(" ".join(item).strip() for item in now - then if item[0] != own)
        less = sorted(" ".join(item).strip() for item in then - now if item[0] != own)
        if more or less:
            told = [f"pyproject.toml now asks for {', '.join(more)}"] if more else []
            told += [f"it no longer asks for {', '.join(less)}"] if less else []
            raise LockError(f"{path.name} does not fit the project: {'; '.join(told)}"[:1000], hint=hint)


def project_requirements_of_pyproject(
    pyproject: Mapping[str, Any], project: Path, extras: Iterable[str], groups: Iterable[str]
) -> tuple[RequirementLine, ...]:
    """The direct requirements in pyproject.toml, whatever requirements.txt says."""
    table = pyproject.get("project", {})
    optional = {normalize_name(name): value for name, value in (table.get("optional-dependencies") or {}).items()}
    tables = {normalize_name(name): value for name, value in pyproject.get("dependency-groups", {}).items()}
    texts = [(text, "pyproject.toml") for text in _strings(table, "dependencies")]
    texts += _extra_texts(normalize_name(str(table.get("name", ""))), optional, tuple(extras), dynamic=False)
    for group in groups:
        texts += [(text, f"pyproject.toml group {group}") for text in _group(tables, group, ())]
    return tuple(parse_requirement(text, origin, folder=project) for text, origin in texts)


def _uv_requires(
    metadata: Mapping[str, Any], extras: tuple[str, ...], groups: tuple[str, ...]
) -> list[RequirementLine]:
    lines = []
    entries = [(item, "") for item in metadata.get("requires-dist", [])]
    requires_dev = {normalize_name(name): items for name, items in metadata.get("requires-dev", {}).items()}
    for group in groups:
        entries += [(item, group) for item in requires_dev.get(group, [])]
    for item, _ in entries:
        marker = item.get("marker")
        if marker and "extra ==" in marker and not any(f"extra == '{extra}'" in marker for extra in extras):
            continue
        lines.append(
            RequirementLine(
                text=str(item["name"]),
                origin="uv.lock",
                name=normalize_name(item["name"]),
                specifier=str(item.get("specifier", "")),
                extras=tuple(sorted(normalize_name(extra) for extra in item.get("extras", ()))),
                marker=marker,
            )
        )
    return lines


def _without_extra(marker: str) -> str:
    return re.sub(r"extra == '[^']*'", "python_version != '0'", marker)


def _identity(line: RequirementLine, sources: set[str]) -> tuple[str, str, str]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    name = line.name or line.text
    extras = f"[{','.join(line.extras)}]" if line.extras else ""
    if name in sources or line.url:
        return name, extras, ""
    try:
        return name, extras, str(SpecifierSet(line.specifier))
    except InvalidSpecifier:
        return name, extras, line.specifier


def _resolution_input(
    project: Path, needed: ProjectRequirements, extras: tuple[str, ...], groups: tuple[str, ...]
) -> ResolutionInput:
    if needed.requirements is not None:
        return ResolutionInput(
            folder=project.absolute(),
            lines=needed.requirements.lines,
            constraints=needed.requirements.constraints,
            hashes=needed.requirements.hashes,
            origin=needed.origin,
        )
    return ResolutionInput(
        folder=project.absolute(),
        project=True,
        extras=extras,
        groups=groups,
        lines=needed.lines,
        dynamic=needed.dynamic,
        origin=needed.origin,
    )


def _resolved(
    project: Path,
    needed: ProjectRequirements,
    targets: Sequence[Target],
    extras: tuple[str, ...],
    groups: tuple[str, ...],
    *,
    settings: IndexSettings,
    store: Store,
    indexes: PackageIndexes,
    refresh: bool,
) -> Lock:
    key = _resolution_key(project, needed, targets, extras, groups, settings)
    if not refresh and (lock := _remembered(store, key, project)) is not None:
        return lock
    lock = resolve(
        _resolution_input(project, needed, extras, groups),
        targets,
        settings=settings,
        store=store,
        indexes=indexes,
        refresh=refresh,
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


def _resolution_key(
    project: Path,
    needed: ProjectRequirements,
    targets: Sequence[Target],
    extras: tuple[str, ...],
    groups: tuple[str, ...],
    settings: IndexSettings,
) -> Digest:
    files = [project / "pyproject.toml", project / "uv.toml"]
    if needed.requirements is not None:
        files = [*needed.requirements.files]
    files += [project / name for name in (*settings.constraints, *settings.build_constraints)]
    contents: list[JSON] = []
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
            "targets": [str(target) for target in targets],
            "extras": [*sorted(extras)],
            "groups": [*sorted(groups)],
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


def _requires(needed: ProjectRequirements) -> list[str]:
    """The direct requirements as a lock notes them: normalised, sorted, without credentials."""
    found = set()
    for line in needed.lines:
        extras = f"[{','.join(line.extras)}]" if line.extras else ""
        body = f"{line.name or ''}{extras}{line.specifier}"
        if line.url:
            url = line.url
            if url.startswith("/"):
                url = Path(os.path.relpath(url, needed.folder.absolute())).as_posix()
            body = f"{line.name or ''}{extras} @ {strip_credentials(url) if '://' in url else url}".strip()
        found.add(body + (f"; {line.marker}" if line.marker else ""))
    return sorted(found)


def _extra_texts(
    own: str, optional: Mapping[str, object], extras: tuple[str, ...], *, dynamic: bool
) -> list[tuple[str, str]]:
    """Requirements of extras; an extra that names the project itself with extras is followed."""
    texts: list[tuple[str, str]] = []
    todo, seen = list(extras), set(extras)
    while todo:
        extra = todo.pop(0)
        if extra not in optional:
            if dynamic:
                continue
            known = ", ".join(sorted(optional)) or "none"
            raise ProjectError(f"the project has no extra {extra}", hint=f"It has: {known}.")
        for text in _strings(optional, extra):
            match = re.match(r"\s*([A-Za-z0-9._-]+)\s*\[([^\]]*)\]\s*$", text)
            if match and own and normalize_name(match[1]) == own:
                more = [normalize_name(name.strip()) for name in match[2].split(",") if name.strip()]
                todo += [name for name in more if name not in seen]
                seen.update(more)
            else:
                texts.append((text, f"pyproject.toml extra {extra}"))
    return texts


def _group(tables: Mapping[str, Any], name: str, path: tuple[str, ...]) -> list[str]:
    """A dependency group's requirements with those of the groups it includes.

    Source: PyPA specifications, dependency groups.
    """
    if name in path:
        raise ProjectError(f"the group {name} includes itself", hint="Remove one include-group.")
    if name not in tables:
        known = ", ".join(sorted(tables)) or "none"
        raise ProjectError(f"the project has no group {name}", hint=f"It has: {known}.")
    texts: list[str] = []
    for item in _list(tables[name]):
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, Mapping) and isinstance(item.get("include-group"), str):
            texts += _group(tables, normalize_name(item["include-group"]), (*path, name))
        else:
            raise ProjectError(f"the group {name} holds what is no requirement", hint="Mend it.")
    return texts


def _strings(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProjectError(f"{key} in pyproject.toml is no list of strings", hint="Mend it.")
    return list(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
