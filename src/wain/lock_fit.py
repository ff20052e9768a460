"""Whether a lock still fits its project; where it does not, what differs and how to renew it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wain.compatibility import evaluate_marker, satisfies
from wain.errors import LockError, PythonError
from wain.lock import Lock, LockedPackage
from wain.lockformats import uv_metadata
from wain.project_requirements import ProjectRequirements, lock_notes, pyproject_lines
from wain.requirements import RequirementLine
from wain.settings import normalize_name, read_pyproject

if TYPE_CHECKING:
    from wain.platforms import Target

logger = logging.getLogger(__name__)


def check_python(needed: ProjectRequirements, targets: Sequence[Target]) -> None:
    """:raises PythonError: when the project does not allow the Python of a target."""
    allowed = needed.requires_python
    for target in targets:
        if allowed and not satisfies(allowed, str(target.python)):
            raise PythonError(
                f"the project needs Python {allowed}, and the image would have {target.python}",
                hint="Choose another with --python or --base, or change requires-python.",
            )


def check_pylock(lock: Lock, path: Path, needed: ProjectRequirements, targets: Sequence[Target]) -> None:
    hint = "Renew it with wain lock, or with the tool that made it."
    requires = lock.tool.get("requires")
    if isinstance(requires, list) and lock.created_by == "wain":
        now, then = set(lock_notes(needed)), set(map(str, requires))
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


def check_uv_lock(
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
    needed = pyproject_lines(pyproject, project, extras, groups)
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
    from packaging.specifiers import SpecifierSet

    name = line.name or line.text
    extras = f"[{','.join(line.extras)}]" if line.extras else ""
    if name in sources or line.url:
        return name, extras, ""
    try:
        return name, extras, str(SpecifierSet(line.specifier))
    except ValueError:
        return name, extras, line.specifier
