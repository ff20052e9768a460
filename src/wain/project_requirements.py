"""What a project says that it needs: requirements.txt, or [project] with extras and groups.

Source: PyPA specifications, pyproject.toml, dependency groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from wain.errors import ProjectError
from wain.index_credentials import strip_credentials
from wain.requirements import RequirementLine, Requirements, parse_requirement, read_requirements
from wain.settings import normalize_name, read_pyproject


class ProjectRequirements(Struct, frozen=True, kw_only=True):
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
    source: str = "pyproject.toml"
    """The file of the project that tells, or whose back end does."""

    @property
    def origin(self) -> str:
        return self.requirements.path.name if self.requirements else self.source


def asks_back_end(project: Path, pyproject: Mapping[str, Any]) -> bool:
    """Whether only a build back end knows what a project is: a `[build-system]` or a setup.py, and no `[project]`.

    A setup.py beside a requirements.txt does not count: such a folder is a program, not a distribution.
    """
    if "project" in pyproject:
        return False
    if "build-system" in pyproject:
        return True
    return (project / "setup.py").is_file() and not (project / "requirements.txt").is_file()


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
    asks = asks_back_end(project, pyproject)
    if not isinstance(table, dict) and not asks and not groups:
        raise ProjectError(
            f"{project} has neither requirements.txt nor [project] in a pyproject.toml",
            hint="Write the dependencies into one of them.",
        )
    table = table if isinstance(table, dict) else {}
    told = table.get("dynamic", [])
    dynamic = asks or "dependencies" in told or "optional-dependencies" in told
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
        source="setup.py" if asks and "build-system" not in pyproject else "pyproject.toml",
    )


def pyproject_lines(
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


def lock_notes(needed: ProjectRequirements) -> list[str]:
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


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
