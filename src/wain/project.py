"""What to build: a project's name, entry point, files and times, read from its folder. No network.

Sources: PyPA specifications, pyproject.toml and entry points.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import ProjectError
from wain.ignore import Found
from wain.layers import Entry, Layer, files_layer, remember_layer, remembered_layer
from wain.oci import JSON
from wain.platforms import parse_python_minor
from wain.project_requirements import asks_back_end
from wain.settings import normalize_name, read_pyproject
from wain.store import Store, recipe_key

APP = "app"
"""Where a project's files stand in the image, without the leading slash."""


_MAX_OWN_MODULES = 2000
_REMEMBERED_BYTES = 4 << 20
"""Layers of fewer bytes are made in the time that asking whether they are there takes."""
_RACY_NS = 2_000_000_000


class Project(Struct, frozen=True, kw_only=True):
    """A folder that an image is made of."""

    path: Path
    name: str
    """Normalised; the folder's name where `[project]` has none."""
    version: str | None = None
    requires_python: str | None = None
    python_minor: str | None = None
    """From .python-version."""
    has_build_system: bool = False
    """Whether it goes in as a wheel of its own: a `[build-system]`, or a setup.py and nothing else that counts."""
    scripts: Mapping[str, str] | None = field(default_factory=dict)
    """Console scripts: name -> `module:function`; None where only the built wheel tells."""
    has_project_table: bool = False


def load_project(path: Path) -> Project:
    """The project in a folder.

    :raises ProjectError: when the folder is not there, pyproject.toml is malformed, or there is nothing to build.
    """
    if not path.is_dir():
        raise ProjectError(f"{path} is not a folder", hint="Name the folder of the project; -f names a Dockerfile.")
    document = read_pyproject(path)
    table = document.get("project", {})
    if not isinstance(table, dict):
        raise ProjectError("[project] in pyproject.toml is no table", hint="See the pyproject.toml specification.")
    name = table.get("name") or _tool_name(document) or path.resolve().name or "app"
    has_build_system = "build-system" in document or asks_back_end(path, document)
    scripts = table.get("scripts", {})
    is_told = bool(table) and "scripts" not in table.get("dynamic", [])
    project = Project(
        path=path,
        name=normalize_name(str(name)).strip("-") or "app",
        version=str(table["version"]) if "version" in table else None,
        requires_python=str(table["requires-python"]) if "requires-python" in table else None,
        python_minor=_python_version_file(path),
        has_build_system=has_build_system,
        scripts=_text_table(scripts) if is_told or not has_build_system else None,
        has_project_table=bool(table),
    )
    locks = ("pylock.toml", "uv.lock", "requirements.txt", "poetry.lock", "pdm.lock", "Pipfile.lock")
    if not table and not has_build_system and not any((path / lock).is_file() for lock in locks):
        raise ProjectError(
            f"nothing to build in {path}: no pyproject.toml with [project], no setup.py, no requirements.txt, no lock",
            hint="Add a requirements.txt (it may be empty) or a pyproject.toml with [project].",
        )
    return project


def _text_table(value: object) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, dict) else {}


def _tool_name(document: Mapping[str, object]) -> str | None:
    """The name that a project has where Poetry or flit kept it before there was a `[project]`."""
    tool = document.get("tool")
    for path in (("poetry", "name"), ("flit", "metadata", "dist-name"), ("flit", "metadata", "module")):
        found: object = tool
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str) and found:
            return found
    return None


def _python_version_file(path: Path) -> str | None:
    try:
        lines = (path / ".python-version").read_text().split()
    except (OSError, UnicodeDecodeError):
        return None
    return parse_python_minor(lines[0]) if lines else None


def entry_point(project: Project, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The command that a container of the image runs.

    The setting; else the one console script of a project that is installed as a wheel, or the one of its name;
    else app.py, main.py or the package with a `__main__.py`. Where a project's scripts are not known, its wheel has
    to be built first.

    :raises ProjectError: when there is none or more than one; says what to write where.
    """
    if wanted:
        return tuple(wanted)
    if project.has_build_system and project.scripts:
        if len(project.scripts) == 1:
            return (next(iter(project.scripts)),)
        if project.name in project.scripts:
            return (project.name,)
        raise _question(project, "several console scripts", sorted(project.scripts))
    if not project.has_build_system:
        for name in ("app.py", "main.py", "__main__.py"):
            if (project.path / name).is_file():
                return ("python", name)
    packages = _packages_with_main(project)
    if len(packages) == 1:
        return ("python", "-m", packages[0])
    if packages:
        raise _question(project, "several packages with a __main__.py", [f"python -m {name}" for name in packages])
    words = '"python", "FILE.py"'
    if (project.path / "manage.py").is_file():
        words = '"python", "manage.py", "runserver", "--noreload", "0.0.0.0:8000"'
    raise ProjectError(
        f"nothing says how {project.name} starts",
        hint=f"Write entrypoint = [{words}] under [tool.wain] in pyproject.toml, or name a file app.py.",
    )


def _packages_with_main(project: Project) -> list[str]:
    found = {
        main.parent.name
        for folder in (project.path, project.path / "src")
        for main in folder.glob("*/__main__.py")
        if main.parent.name.isidentifier()
    }
    return sorted(found)


def _question(project: Project, what: str, choices: Sequence[str]) -> ProjectError:
    words = choices[0].split()
    return ProjectError(
        f"{project.name} has {what}: {', '.join(choices)}",
        hint=f"Choose one under [tool.wain] in pyproject.toml, such as entrypoint = {words!r}".replace("'", '"') + ".",
    )


def source_time(project: Project, files: Sequence[Found]) -> int:
    """The time of the files: SOURCE_DATE_EPOCH, else of their last commit when they are clean, else the newest.

    :returns: seconds since the epoch.
    :raises ProjectError: when SOURCE_DATE_EPOCH is no number.
    """
    if (text := os.environ.get("SOURCE_DATE_EPOCH")) is not None:
        if not text.strip().isdigit():
            raise ProjectError(f"SOURCE_DATE_EPOCH is {text!r}", hint="Give seconds since 1970, or unset it.")
        return int(text)
    if (committed := _commit_time(project.path)) is not None:
        return committed
    return max((int(found.stat.st_mtime) for found in files if not stat.S_ISDIR(found.stat.st_mode)), default=0)


def _commit_time(path: Path) -> int | None:
    import subprocess

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(path), *words], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    if not any((folder / ".git").exists() for folder in (path.absolute(), *path.absolute().parents)):
        return None
    try:
        if git("status", "--porcelain", "--", "."):
            return None
        return int(git("log", "-1", "--format=%ct", "--", "."))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def file_entries(files: Sequence[Found], *, mtime: int, below: str = APP) -> list[Entry]:
    """The tar entries of a project's files: owned by root, readable by all, executable where they were.

    :raises ProjectError: for sockets, devices and files that cannot be read.
    """
    entries = [Entry(path=below, kind="directory", mode=0o755, mtime=mtime)]
    for found in files:
        path = f"{below}/{found.path}"
        mode = found.stat.st_mode
        if stat.S_ISDIR(mode):
            entries.append(Entry(path=path, kind="directory", mode=0o755, mtime=mtime))
        elif stat.S_ISLNK(mode):
            entries.append(
                Entry(path=path, kind="symlink", mode=0o777, mtime=mtime, target=str(found.absolute.readlink()))
            )
        elif stat.S_ISREG(mode):
            if not os.access(found.absolute, os.R_OK):
                raise ProjectError(
                    f"{found.absolute} cannot be read", hint="Make it readable, or name it in .dockerignore."
                )
            entries.append(
                Entry(
                    path=path,
                    kind="file",
                    mode=0o755 if mode & 0o111 else 0o644,
                    mtime=mtime,
                    size_bytes=found.stat.st_size,
                    open_data=_opener(found.absolute),
                )
            )
        else:
            raise ProjectError(
                f"{found.absolute} is no file, folder or link", hint="Remove it, or name it in .dockerignore."
            )
    return entries


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def project_layer(project: Project, files: Sequence[Found], *, mtime: int, store: Store) -> tuple[Layer, bool]:
    """The layer of a project's files, and whether it is the one that was made before: no file has changed since.

    What has changed is told as git's index tells it, by inode, size and times. Files that changed within two seconds
    before the look at them may change again within one tick of the file system's clock: a layer with such a file is
    not remembered.

    :raises ProjectError: as `file_entries` does.
    """
    began = time.time_ns()
    created_by = f"wain: {project.name}, {len(files)} files in /{APP}"
    key = None
    if sum(found.stat.st_size for found in files) >= _REMEMBERED_BYTES:
        key = _state_key(project, files, mtime)
        if (known := remembered_layer(key, store=store, created_by=created_by)) is not None:
            return replace(known, annotations={}), True
    layer = files_layer(file_entries(files, mtime=mtime), store=store, created_by=created_by)
    newest = max((max(found.stat.st_mtime_ns, found.stat.st_ctime_ns) for found in files), default=0)
    if key is not None and newest < began - _RACY_NS:
        remember_layer(key, layer, store=store)
    return layer, False


def _state_key(project: Project, files: Sequence[Found], mtime: int) -> Digest:
    states: list[JSON] = []
    for found in files:
        of = found.stat
        # A folder's times and size change with what is in it, and are not in the layer.
        more = () if stat.S_ISDIR(of.st_mode) else (of.st_size, of.st_mtime_ns, of.st_ctime_ns, of.st_ino, of.st_dev)
        states.append([found.path, of.st_mode, *more])
    return recipe_key({"recipe": "project/1", "folder": str(project.path.absolute()), "mtime": mtime, "files": states})


def own_sources(project: Project, entrypoint: Sequence[str]) -> dict[str, bytes]:
    """The project's own modules that may run when it starts, by dotted name; none where the command does not tell.

    Of a script those are itself and the modules beside it; of a package its own.
    """
    if project.has_build_system:
        target = (project.scripts or {}).get(entrypoint[0], "")
        package = target.partition(":")[0].partition(".")[0]
    elif entrypoint[:2] == ("python", "-m") and len(entrypoint) > 2:
        package = entrypoint[2].partition(".")[0]
    elif len(entrypoint) > 1 and entrypoint[0] == "python" and entrypoint[1].endswith(".py"):
        package = entrypoint[1].removesuffix(".py")
    else:
        return {}
    found: dict[str, bytes] = {}
    for root in (project.path, project.path / "src"):
        places = [root / f"{package}.py", *sorted((root / package).glob("**/*.py"))] if package else []
        for path in places:
            if path.is_file() and len(found) < _MAX_OWN_MODULES:
                name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                found[name] = path.read_bytes()
    return found
