"""What `uv sync` in a Dockerfile does, done on a stage's tree.

The project's files come from the tree, the environment is the one that uv would take or make, and the wheels are those
of uv.lock. The project itself, and what of it is editable, points to where it stands in the image.

Source: uv's documentation of projects, locking and syncing.
"""

from __future__ import annotations

import json
import os
import posixpath
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from wain.actions import NeedsEngine, UvSync
from wain.asked import uv_configuration, write_out
from wain.bases import BaseFacts
from wain.bytesteps import compile_tree, sources_below
from wain.compatibility import satisfies
from wain.editables import EditablePlace, NotEditable
from wain.errors import LockError
from wain.filework import Actor, CommandFails, joined_raw, put_text
from wain.installed import Installed, installed_in, uninstall
from wain.lock import Lock, LockedPackage, Selected
from wain.pipconf import Setting
from wain.pipsteps import Tools, compiles
from wain.pythons import Environment, environment_of, find_program, uv_interpreter
from wain.settings import normalize_name
from wain.shares import put_wheels
from wain.tree import Tree, joined
from wain.uv_venvs import is_seed, lock_venv, make_uv_venv
from wain.wheels import Wheel

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_MAX_LOCK_BYTES = 64 << 20


def uv_sync(
    action: UvSync, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, tools: Tools
) -> list[Wheel]:
    """Syncs; the caller keeps the wheels open as long as the tree is used.

    :raises CommandFails: when uv would fail.
    :raises NeedsEngine: when what uv would do is not known here.
    :raises WainError: of every kind that an index or a wheel can have.
    """
    if find_program(tree, action.program, env, actor.cwd) is None:
        raise CommandFails(f"{action.program}: there is no such program in the image")
    with tempfile.TemporaryDirectory(prefix="wain-project-") as folder:
        return _Sync(action, tree, facts, env, actor, tools, Path(folder).resolve()).run()


class _Project(Struct, frozen=True, kw_only=True):
    """A project of the image and the workspace that it belongs to; folders without a slash in front."""

    folder: str
    root: str
    document: Mapping[str, Any]
    root_document: Mapping[str, Any]

    @property
    def uv(self) -> Mapping[str, Any]:
        return _table(_table(self.root_document, "tool"), "uv")


class _Sync:
    def __init__(
        self,
        action: UvSync,
        tree: Tree,
        facts: BaseFacts,
        env: Mapping[str, str],
        actor: Actor,
        tools: Tools,
        folder: Path,
    ) -> None:
        self._action = action
        self._tree = tree
        self._facts = facts
        self._env = env
        self._actor = actor
        self._tools = tools
        self._folder = folder

    def run(self) -> list[Wheel]:
        tree, actor = self._tree, self._actor
        project = self._project()
        lock = self._lock(project)
        extras, groups = self._parts(lock, project)
        if self._action.only_groups and lock.root is not None:
            lock = replace(lock, root=replace(lock.root, dependencies=(), extra_dependencies={}))
        self._check(lock, project, extras, groups)
        environment = self._environment(project)
        wheels, local, left = self._wheels(lock, project, extras, groups)
        installed = installed_in(tree, (environment.scheme.purelib, environment.scheme.platlib))
        wanted = {wheel.name: wheel for wheel in (*wheels, *local)}
        if not self._is_on("inexact"):
            for name, there in installed.items():
                if name not in wanted and not is_seed(tree, name, environment, self._facts):
                    uninstall(tree, name, there, environment.scheme, environment)
        there_already = {wheel.name for wheel in wheels if _is_there(wheel, installed)}
        for name in wanted:
            if name in installed and name not in there_already:
                uninstall(tree, name, installed[name], environment.scheme, environment)
        put_wheels(tree, [wheel for wheel in wheels if wheel.name not in there_already], environment.scheme, actor)
        for wheel in local:
            # By itself, so that the layers of the dependencies do not change with the project.
            put_wheels(tree, [wheel], environment.scheme, actor)
        for path, text in left.items():
            put_text(tree, path, text, actor)
        asked = self._action.compile
        if asked is None and self._tools.compile is False and "UV_COMPILE_BYTECODE" not in self._env:
            asked = project.uv.get("compile-bytecode") is True
        if compiles(asked, self._env, uv_configuration(self._env), self._tools):
            site = environment.scheme.purelib
            compile_tree(tree, sources_below(tree, site), self._facts, actor, self._tools.store)
        if environment.is_venv:
            lock_venv(tree, environment.root, actor)
        return [*wheels, *local]

    # -- the project -----------------------------------------------------------------------------------------

    def _project(self) -> _Project:
        tree = self._tree
        start = joined_raw(self._actor.cwd, self._action.folder or self._env.get("UV_PROJECT") or ".")
        folder = tree.resolve(start)
        while tree.find(f"{folder}/pyproject.toml") is None:
            if not folder:
                raise CommandFails("uv finds no pyproject.toml")
            folder = posixpath.dirname(folder)
        document = self._document(folder)
        root, root_document = folder, document
        if not _table(_table(document, "tool"), "uv").get("workspace"):
            above = folder
            while above:
                above = posixpath.dirname(above)
                if tree.find(f"{above}/pyproject.toml") is None:
                    continue
                other = self._document(above)
                if _table(_table(other, "tool"), "uv").get("workspace"):
                    root, root_document = above, other
                    break
        if "project" not in document:
            raise NeedsEngine("uv syncs a workspace that is no project")
        for name in ("managed", "package"):
            if name == "managed" and _table(_table(document, "tool"), "uv").get(name) is False:
                raise CommandFails("uv does not manage this project")
        return _Project(folder=folder, root=root, document=document, root_document=root_document)

    def _document(self, folder: str) -> Mapping[str, Any]:
        data = self._read(f"{folder}/pyproject.toml")
        try:
            return tomllib.loads((data or b"").decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CommandFails(f"/{folder}/pyproject.toml does not parse: {error}") from error

    def _read(self, path: str) -> bytes | None:
        node = self._tree.find(path)
        if node is None or node.kind != "file" or node.content is None:
            return None
        if node.size_bytes > _MAX_LOCK_BYTES:
            raise NeedsEngine(f"/{path} is very large")
        with node.content.open() as stream:
            return stream.read()

    def _lock(self, project: _Project) -> Lock:
        from wain.lockformats import read_uv_lock

        data = self._read(f"{project.root}/uv.lock")
        if data is None:
            if self._is_on("frozen") or self._is_on("locked"):
                raise CommandFails("uv finds no uv.lock")
            raise NeedsEngine("there is no uv.lock, and uv would make one in the image")
        for folder in {project.folder, project.root}:
            self._put(f"{folder}/pyproject.toml")
        path = self._put(f"{project.root}/uv.lock")
        lock = read_uv_lock(path, project=self._folder / project.folder)
        if self._action.package is None:
            return lock
        name = normalize_name(self._action.package)
        if lock.root is not None and lock.root.name == name:
            return lock
        member = next((one for one in lock.packages if one.name == name and one.directory is not None), None)
        if member is None or member.directory is None:
            raise CommandFails(f"uv finds no package {name} in the workspace")
        return read_uv_lock(path, project=Path(member.directory.path))

    def _put(self, path: str) -> Path:
        data = self._read(path)
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            place.write_bytes(data)
        return place

    def _is_on(self, name: str) -> bool:
        variable = f"UV_{name.upper().replace('-', '_')}"
        return name in self._action.switches or self._env.get(variable, "").lower() in _TRUE

    def _parts(self, lock: Lock, project: _Project) -> tuple[list[str], list[str]]:
        """The extras and groups that are asked for."""
        action = self._action
        if action.only_groups:
            wanted = [normalize_name(name) for name in action.only_groups]
            self._check_known(wanted, lock.groups, "group")
            return [], wanted
        extras = {normalize_name(name) for name in action.extras}
        self._check_known(extras, lock.extras, "extra")
        if "all-extras" in action.switches:
            extras |= set(lock.extras)
        extras -= {normalize_name(name) for name in action.no_extras}
        default = project.uv.get("default-groups", ["dev"])
        groups = set(lock.groups) if default == "all" else {normalize_name(name) for name in default}
        groups &= set(lock.groups)
        if self._is_on("no-default-groups"):
            groups = set()
        asked = {normalize_name(name) for name in action.groups}
        self._check_known(asked, lock.groups, "group")
        groups |= asked
        if "all-groups" in action.switches:
            groups |= set(lock.groups)
        dropped = {normalize_name(name) for name in (*action.no_groups, *self._env.get("UV_NO_GROUP", "").split())}
        if self._is_on("no-dev"):
            dropped.add("dev")
        return sorted(extras), sorted(groups - dropped)

    def _check_known(self, names: set[str] | list[str], known: tuple[str, ...], what: str) -> None:
        for name in names:
            if name not in known:
                raise CommandFails(f"uv: the project has no {what} {name}")

    def _check(self, lock: Lock, project: _Project, extras: list[str], groups: list[str]) -> None:
        """Whether uv would take the lock as it is, and this Python."""
        from wain.lock_fit import check_uv_lock

        python = str(self._facts.python)
        table = _table(project.document, "project")
        for allowed in (lock.requires_python, table.get("requires-python")):
            if allowed and not satisfies(str(allowed), python):
                raise NeedsEngine(f"the project needs Python {allowed}, and uv would look for another than {python}")
        if self._is_on("frozen") or lock.path is None or self._action.package is not None:
            return
        try:
            check_uv_lock(lock.path, self._folder / project.folder, [self._facts.target], tuple(extras), tuple(groups))
        except LockError as error:
            if self._is_on("locked"):
                raise CommandFails(f"uv.lock has to be renewed, and --locked forbids it: {error.message}") from error
            raise NeedsEngine(f"uv would renew uv.lock in the image: {error.message}") from error

    # -- the environment -------------------------------------------------------------------------------------

    def _environment(self, project: _Project) -> Environment:
        tree, env, actor, facts = self._tree, self._env, self._actor, self._facts
        place = env.get("UV_PROJECT_ENVIRONMENT") or ".venv"
        if "active" in self._action.switches and env.get("VIRTUAL_ENV"):
            place = env["VIRTUAL_ENV"]
        root = "/" + joined(f"/{project.root}", place)
        node = tree.find(root)
        if node is not None and node.children and tree.find(f"{root}/pyvenv.cfg") is None:
            if tree.find(f"{root}/bin/python") is None and tree.find(f"{root}/bin/python3") is None:
                raise CommandFails(f"uv: {root} is no environment")
            name = "python" if tree.find(f"{root}/bin/python") is not None else "python3"
            environment = environment_of(tree, f"{root}/bin/{name}", facts, env, actor.cwd)
            if f"/{environment.root}" != root.rstrip("/") or environment.is_venv:
                raise NeedsEngine(f"the environment {root} is not the base's own Python")
            if environment.managed:
                raise NeedsEngine("uv syncs into an environment that is externally managed")
            return environment
        if node is None or not node.children:
            request = self._action.python or env.get("UV_PYTHON") or self._version_file(project)
            interpreter = uv_interpreter(
                tree, facts, env, actor.cwd, request=request, has_range=self._has_range(project)
            )
            prompt = str(_table(project.root_document, "project").get("name", "")) or None
            make_uv_venv(tree, root, interpreter, facts, env, actor, prompt=prompt)
        found = environment_of(tree, f"{root}/bin/python", facts, env, actor.cwd)
        # The path of its scripts is the environment's, whatever links lead to it.
        return replace(found, scheme=replace(found.scheme, interpreter=f"{root}/bin/python"))

    def _has_range(self, project: _Project) -> bool:
        return "requires-python" in _table(project.document, "project")

    def _version_file(self, project: _Project) -> str | None:
        folder = project.folder
        while True:
            text = self._tree.text(f"{folder}/.python-version")
            if text is not None:
                lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
                return lines[0] if lines else None
            if not folder:
                return None
            folder = posixpath.dirname(folder)

    # -- what goes in ----------------------------------------------------------------------------------------

    def _wheels(
        self, lock: Lock, project: _Project, extras: list[str], groups: list[str]
    ) -> tuple[list[Wheel], list[Wheel], dict[str, str]]:
        """The wheels of the dependencies, those of what stands in the image, and the texts that these leave there."""
        from wain.locking import select_for
        from wain.wheelhouse import collect_wheels

        tools, facts = self._tools, self._facts
        target = facts.target
        flags = uv_configuration(self._env)
        flags |= {name: Setting(value=value, origin=f"--{name}") for name, value in self._action.options.items()}
        flags = {name: setting for name, setting in flags.items() if name not in {"break-system-packages", "compile"}}
        settings = tools.settings(flags)
        members = {normalize_name(name) for name in self._members(lock)}
        left_out = {normalize_name(name) for name in self._action.no_install}

        def leave_out(item: Selected) -> bool:
            local = item.kind == "directory" or (item.kind == "archive" and item.package.archive is not None)
            return (
                item.name in left_out
                or (item.kind == "directory" and not self._is_built(item.package))
                or (self._is_on("no-install-local") and local and _is_local(item))
                or (self._is_on("no-install-workspace") and item.name in members)
            )

        also: list[Selected] = []
        root = lock.root
        if root is not None and root.directory is not None and not self._action.only_groups:
            item = Selected(package=root, kind="directory")
            skipped = self._is_on("no-install-project") or self._is_on("no-install-workspace")
            if not skipped and not leave_out(item):
                also.append(item)
        chosen = select_for(lock, target, extras=extras, groups=groups, settings=settings, store=tools.store)
        editables: dict[str, EditablePlace] = {}
        for item in (*(one for one in chosen if not leave_out(one)), *also):
            directory = item.package.directory
            if directory is not None:
                path = self._image_path(directory.path)
                write_out(self._tree, path, self._folder)
                if directory.editable and not self._is_on("no-editable"):
                    text = json.dumps(
                        {"url": f"file:///{quote(path)}", "dir_info": {"editable": True}}, separators=(",", ":")
                    )
                    editables[directory.path] = EditablePlace(path=f"/{path}", direct_url=text)
            elif item.file is not None and item.file.path is not None:
                self._put(self._image_path(item.file.path))
        left: dict[str, str] = {}

        def built(item: Selected, wheel: Any) -> None:
            if item.package.directory is not None:
                path = self._image_path(item.package.directory.path)
                left.update({f"{path}/{name}": text for name, text in wheel.left.items()})

        try:
            found = collect_wheels(
                lock,
                target,
                folder=self._folder / project.root,
                settings=settings,
                store=tools.store,
                transport=tools.transport,
                extras=extras,
                groups=groups,
                credential_urls=self._credential_urls(project),
                builds=tools.builds,
                progress=tools.progress,  # type: ignore[arg-type]
                also=also,
                leave_out=leave_out,
                editables=editables,
                on_built=built,
            )
        except NotEditable as error:
            raise NeedsEngine(str(error)) from error
        local = {item.name for item in (*chosen, *also) if item.kind == "directory"}
        return [one for one in found if one.name not in local], [one for one in found if one.name in local], left

    def _members(self, lock: Lock) -> list[str]:
        assert lock.path is not None
        manifest = tomllib.loads(lock.path.read_text("utf-8")).get("manifest", {})
        return [str(name) for name in manifest.get("members", [])]

    def _is_built(self, package: LockedPackage) -> bool:
        """Whether a folder is a package: what uv.lock calls virtual is none."""
        assert package.directory is not None
        return not package.directory.virtual

    def _image_path(self, path: str) -> str:
        """Where a file of the folder here stands in the image, without a slash in front."""
        relative = os.path.relpath(path, self._folder)
        if relative.startswith("../"):
            raise NeedsEngine(f"uv.lock names {path}, which is no file of the image")
        return self._tree.resolve(relative)

    def _credential_urls(self, project: _Project) -> list[str]:
        """The addresses of the project's indexes with the logins that variables give for them."""
        found = []
        for index in project.uv.get("index", []):
            name = str(index.get("name", "")).upper().replace("-", "_").replace(".", "_")
            user, password = (self._env.get(f"UV_INDEX_{name}_{what}") for what in ("USERNAME", "PASSWORD"))
            parts = urlsplit(str(index.get("url", "")))
            if name and parts.hostname and (user or password):
                login = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}"
                host = parts.netloc.rpartition("@")[2]
                found.append(urlunsplit(parts._replace(netloc=f"{login}@{host}")))
        return found


def _is_local(item: Selected) -> bool:
    return item.kind == "directory" or (item.file is not None and item.file.path is not None)


def _is_there(wheel: Wheel, installed: Mapping[str, Installed]) -> bool:
    there = installed.get(wheel.name)
    return there is not None and there.version == wheel.version


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}
