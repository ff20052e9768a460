"""What a pip or uv of a RUN is asked to install: its requirements, with the image's files that say them at hand.

Source: pip's documentation of requirements files.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from wain.actions import NeedsEngine, PipInstall
from wain.editables import EditablePlace
from wain.filework import CommandFails, joined_raw
from wain.pipconf import Setting
from wain.settings import normalize_name
from wain.tree import Node, Tree, parts_of

if TYPE_CHECKING:
    from wain.requirements import RequirementLine, Requirements


class Asked(Struct, frozen=True, kw_only=True):
    """What is asked for; every file that says it stands below a folder of this machine."""

    requirements: Requirements
    editables: Mapping[str, EditablePlace]
    """Folders here of the projects that are editable, with where they stand in the image."""
    projects: tuple[str, ...]
    """The paths in the image of the projects that are built."""


def asked_requirements(action: PipInstall, tree: Tree, env: Mapping[str, str], cwd: str, folder: Path) -> Asked:
    """What is asked for, with the files that say it put under a folder of this machine."""
    from wain.requirements import Requirements, parse_requirement, read_requirements

    documents = tuple(name for name in action.files if action.is_uv and posixpath.basename(name) == "pyproject.toml")
    listed = tuple(name for name in action.files if name not in documents)
    if any(posixpath.basename(name) in {"setup.py", "setup.cfg", "pylock.toml"} for name in listed) or (
        action.extras and not documents
    ):
        raise NeedsEngine("uv reads requirements of another kind here")
    for name in (*listed, *action.constraints):
        _materialise(tree, joined_raw(cwd, name), env, folder, set())
    files = [read_requirements(folder / tree.resolve(joined_raw(cwd, name)), environ=env) for name in listed]
    limits = [
        read_requirements(folder / tree.resolve(joined_raw(cwd, name)), environ=env) for name in action.constraints
    ]
    lines: list[RequirementLine] = []
    editables: dict[str, EditablePlace] = {}
    projects: list[str] = []

    def local(text: str, *, editable: bool) -> None:
        """A project or wheel of the image; paths are relative to the working directory, in files too."""
        match = _LOCAL.fullmatch(text.strip())
        if match is None:
            raise NeedsEngine(f"{text[:60]} is built from files of the image")
        path, extras = match[1], match[2] or ""
        place = tree.resolve(joined_raw(cwd, path))
        write_out(tree, place, folder)
        if (folder / place).is_dir():
            projects.append(place)
        lines.append(parse_requirement(f"{folder / place}{extras}", "the command line"))
        if editable:
            written = posixpath.normpath(joined_raw(cwd, path))
            url = f"file://{quote(written)}"
            said = {"url": url, "dir_info": {"editable": True}}
            direct = json.dumps(said, separators=(",", ":")) if action.is_uv else json.dumps(said, sort_keys=True)
            editables[str(folder / place)] = EditablePlace(path=f"/{place}", direct_url=direct)

    for text in action.requirements:
        line = parse_requirement(text, "the command line")
        if line.url is not None and "://" not in line.url and not line.url.startswith("file:"):
            local(line.text, editable=False)
        elif line.url is not None and line.url.startswith("file:"):
            raise NeedsEngine(f"{line.text[:60]} is built from files of the image")
        else:
            lines.append(line)
    for text in action.editables:
        if "://" in text or text.startswith("git+"):
            raise NeedsEngine(f"{text.partition('@')[0][:60]} is cloned into the image")
        local(text, editable=True)
    for name in documents:
        lines += [parse_requirement(text, name) for text in _project_lines(tree, joined_raw(cwd, name), action.extras)]
    for file in files:
        for line in file.lines:
            if line.editable or (line.url is not None and "://" not in line.url):
                if line.hashes or line.marker or "://" in line.text:
                    raise NeedsEngine(f"{line.text[:60]} is built from files of the image")
                local(line.text, editable=line.editable)
            elif line.url is not None and line.url.startswith("file:"):
                raise NeedsEngine("a file of the image is installed")
            else:
                lines.append(line)
    path = files[0].path if files else folder / "requirements.txt"
    merged = Requirements(
        path=path,
        lines=tuple(lines),
        constraints=(
            *(line for file in files for line in file.constraints),
            *(line for file in limits for line in (*file.lines, *file.constraints)),
        ),
        options={name: setting for file in reversed(files) for name, setting in file.options.items()},
        require_hashes=action.require_hashes or any(file.require_hashes for file in files),
        files=tuple(dict.fromkeys(path for file in (*files, *limits) for path in file.files)),
    )
    if merged.require_hashes and not merged.is_locked:
        raise CommandFails("hashes are required, and not every requirement has a version and hashes")
    return Asked(requirements=merged, editables=editables, projects=tuple(dict.fromkeys(projects)))


def _project_lines(tree: Tree, path: str, extras: Sequence[str]) -> list[str]:
    """What a pyproject.toml requires, as uv takes it where it is named as a requirements file."""
    text = tree.text(path)
    if text is None:
        raise CommandFails(f"there is no requirements file {path}")
    try:
        project = tomllib.loads(text).get("project", {})
        if {"dependencies", "optional-dependencies"} & set(project.get("dynamic", ())) or not project:
            raise NeedsEngine("the project's back end says what it requires")
        optional = {normalize_name(name): items for name, items in project.get("optional-dependencies", {}).items()}
        wanted = list(optional) if "*" in extras else [normalize_name(name) for name in extras]
        lines = [*project.get("dependencies", ())]
        for name in wanted:
            if name not in optional:
                raise CommandFails(f"uv: the project has no extra {name}")
            lines += optional[name]
        own = normalize_name(str(project.get("name", "")))
        if any(normalize_name(re.split(r"[^\w.-]", line.strip())[0]) == own for line in lines):
            raise NeedsEngine("an extra of the project names the project itself")
        return lines
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise CommandFails(f"{path} does not parse: {error}") from error


def write_out_again(asked: Asked, tree: Tree, folder: Path) -> None:
    """Puts the projects there as they were: who reads their metadata leaves files in them."""
    for place in asked.projects:
        shutil.rmtree(folder / place)
    for place in asked.projects:
        write_out(tree, place, folder)


_LOCAL = re.compile(r"([^\[\];]+)(\[[\w.,\s-]+\])?")
_MAX_PROJECT_BYTES = 512 << 20


def write_out(tree: Tree, path: str, folder: Path) -> None:
    """Puts a project or wheel of the image under a folder of this machine, where it is built or read."""
    top = tree.get(path)
    if top is None:
        raise CommandFails(f"/{path} is not there")
    left = _MAX_PROJECT_BYTES
    skipped = ""
    for name, node in itertools.chain(((path, top),), tree.walk(path)):
        if skipped and name.startswith(skipped):
            continue
        if name != path and node.children is not None and _is_made(name, node):
            skipped = f"{name}/"
            continue
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if node.kind == "directory":
            place.mkdir(exist_ok=True)
        elif node.kind == "symlink":
            if node.target.startswith("/") or _leaves(posixpath.dirname(name.removeprefix(path)), node.target):
                raise NeedsEngine(f"/{name} leads out of the project that is built")
            place.symlink_to(node.target)
        elif node.kind == "file" and node.content is not None:
            left -= node.size_bytes
            if left < 0:
                raise NeedsEngine(f"/{path} is too large to be built here")
            with node.content.open() as stream, place.open("wb") as out:
                while chunk := stream.read(1 << 20):
                    out.write(chunk)
            place.chmod(node.mode & 0o777 | 0o600)


def _is_made(name: str, node: Node) -> bool:
    """Whether a folder is an environment or a cache, which are no sources."""
    return name.endswith("/__pycache__") or "pyvenv.cfg" in (node.children or {})


def uv_configuration(env: Mapping[str, str]) -> dict[str, Setting]:
    """What uv's variables say, by pip's name for it."""
    found: dict[str, Setting] = {}
    for variable, name in (
        ("UV_INDEX_URL", "index-url"),
        ("UV_DEFAULT_INDEX", "index-url"),
        ("UV_EXTRA_INDEX_URL", "extra-index-url"),
        ("UV_INDEX", "extra-index-url"),
        ("UV_FIND_LINKS", "find-links"),
        ("UV_BREAK_SYSTEM_PACKAGES", "break-system-packages"),
        ("UV_COMPILE_BYTECODE", "compile"),
    ):
        if env.get(variable):
            found[name] = Setting(value=env[variable].replace(",", " "), origin=variable)
    return found


_REFERENCE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)(?:[ \t]*=?[ \t]*)(\S+)")
_FOUND = re.compile(r"\s*(?:-f|--find-links)(?:[ \t]*=?[ \t]*)(\S+)")


def _materialise(tree: Tree, path: str, env: Mapping[str, str], folder: Path, seen: set[str]) -> None:
    resolved = tree.resolve(path)
    if resolved in seen or len(seen) > 200:
        return
    seen.add(resolved)
    if "://" in path.removeprefix("/"):
        raise NeedsEngine("a requirements file at a URL is read by pip")
    text = tree.text(resolved)
    if text is None:
        raise CommandFails(f"there is no requirements file {path}")
    place = folder / resolved
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode("utf-8", "surrogateescape"))
    for line in text.splitlines():
        expanded = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda match: env.get(match[1]) or match[0], line)
        found = _FOUND.match(expanded)
        if found is not None and "://" not in found[1]:
            raise NeedsEngine("find-links of a folder in the image has to be run")
        if (match := _REFERENCE.match(expanded)) is None:
            continue
        named = match[1].strip("'\"")
        if named.startswith(("/", "~")) or "://" in named or _leaves(posixpath.dirname(resolved), named):
            raise NeedsEngine(f"{posixpath.basename(path)} reads {named}, which pip has to look for")
        _materialise(tree, f"/{posixpath.dirname(resolved)}/{named}", env, folder, seen)


def _leaves(folder: str, path: str) -> bool:
    """Whether a relative path climbs above the root."""
    depth = len(parts_of(folder))
    for part in path.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False
