"""What `python -m venv` and `uv venv` in a Dockerfile do, done on a stage's tree.

Sources: PEP 405; the documentation of venv and ensurepip.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping

from wain.actions import NeedsEngine, PipInstall, Venv
from wain.bases import BaseFacts
from wain.filework import Actor, CommandFails
from wain.install import Scheme
from wain.pipsteps import Tools, pip_install
from wain.pythons import environment_of, find_program, resolved_scheme, uv_interpreter
from wain.shares import put_wheels
from wain.tree import Data, Node, Tree, joined
from wain.uv_venvs import make_uv_venv
from wain.wheels import Wheel


def make_venv(
    action: Venv, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, tools: Tools
) -> list[Wheel]:
    """Makes virtual environments as the base's venv module, or uv, makes them.

    :raises CommandFails: when there is no such Python.
    :raises NeedsEngine: when the base's Python is not the one that is known.
    """
    program = action.python or facts.command
    if action.is_uv:
        return _make_uv(action, tree, facts, env, actor, tools)
    environment = environment_of(tree, program, facts, env, actor.cwd)
    if environment.is_venv:
        raise NeedsEngine("an environment of an environment has to be run")
    executable = environment.scheme.interpreter
    stdlib = f"{facts.prefix}/lib/python{facts.python.short}"
    wheels: list[Wheel] = []
    for folder in action.folders:
        root = "/" + joined(actor.cwd, folder)
        if action.clear and (node := tree.get(tree.resolve(root))) is not None:
            for name in list(node.children or {}):
                tree.remove(f"{tree.resolve(root)}/{name}")
        _skeleton(tree, root, executable, facts, stdlib, action, actor)
        if action.with_pip:
            wheels += _ensure_pip(tree, root, executable, facts, stdlib, actor, tools)
    return wheels


def _make_uv(
    action: Venv, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, tools: Tools
) -> list[Wheel]:
    wheels: list[Wheel] = []
    if find_program(tree, action.program, env, actor.cwd) is None:
        raise CommandFails(f"{action.program}: there is no such program in the image")
    request = action.python or env.get("UV_PYTHON") or None
    has_range = False
    folder = tree.resolve(actor.cwd)
    while action.has_project:
        text = tree.text(f"{folder}/.python-version")
        if request is None and text is not None:
            request = next((line.strip() for line in text.splitlines() if line.strip()), None)
        project = tree.text(f"{folder}/pyproject.toml")
        if project is not None:
            has_range = re.search(r"(?m)^\s*requires-python\s*=", project) is not None
            break
        if not folder:
            break
        folder = posixpath.dirname(folder)
    interpreter = uv_interpreter(tree, facts, env, actor.cwd, request=request, has_range=has_range)
    for name in action.folders:
        root = "/" + joined(actor.cwd, name)
        there = tree.find(root)
        if there is not None and there.children:
            if not action.clear and not env.get("UV_VENV_CLEAR"):
                raise CommandFails(f"uv: there is something at {root} already, and --clear was not given")
            for child in list(there.children):
                tree.remove(f"{tree.resolve(root)}/{child}")
        prompt = action.prompt
        if prompt == "." or (prompt is None and not action.is_named):
            prompt = posixpath.basename(actor.cwd.rstrip("/")) or None
        system_site, seed = action.system_site, action.with_pip
        make_uv_venv(tree, root, interpreter, facts, env, actor, prompt=prompt, system_site=system_site, seed=seed)
        if seed:
            seeds = PipInstall(
                told="seeds an environment",
                program=action.program,
                is_uv=True,
                requirements=("pip", *(("setuptools", "wheel") if facts.python.minor < 12 else ())),
                files=(),
                constraints=(),
                editables=(),
                python=f"{root}/bin/python",
            )
            wheels += pip_install(seeds, tree, facts, env, actor, tools)
            tree.remove(f"{tree.resolve(root)}/.lock")
    return wheels


def _skeleton(
    tree: Tree, root: str, executable: str, facts: BaseFacts, stdlib: str, action: Venv, actor: Actor
) -> None:
    minor = facts.python.short
    number = facts.python.minor
    uid, gid = actor.uid, actor.gid

    def put(path: str, text: str, mode: int = 0o644) -> None:
        data = text.encode()
        node = Node(kind="file", mode=mode, size_bytes=len(data), content=Data(data), mtime=actor.now, uid=uid, gid=gid)
        tree.put(f"{real}/{path}", node)

    def link(path: str, target: str) -> None:
        if tree.get(f"{real}/{path}") is None:
            tree.put(
                f"{real}/{path}", Node(kind="symlink", mode=0o777, target=target, mtime=actor.now, uid=uid, gid=gid)
            )

    real = tree.make_folders(root, uid=uid, gid=gid)
    for name in (f"include/python{minor}" if number >= 13 else "include", "bin", f"lib/python{minor}/site-packages"):
        tree.make_folders(f"{real}/{name}", uid=uid, gid=gid)
    link("lib64", "lib")
    lines = [
        f"home = {posixpath.dirname(executable)}",
        f"include-system-site-packages = {'true' if action.system_site else 'false'}",
        f"version = {facts.python}",
    ]
    if number >= 11:
        options = (" --system-site-packages" if action.system_site else "") + (
            "" if action.with_pip else " --without-pip"
        )
        lines += [
            f"executable = {facts.interpreter}",
            f"command = {executable} -m venv{options} {root}",
        ]
    put("pyvenv.cfg", "".join(f"{line}\n" for line in lines))
    if number >= 13:
        put(".gitignore", "# Created by venv; see https://docs.python.org/3/library/venv.html\n*\n")
    name = posixpath.basename(executable)
    link(f"bin/{name}", executable)
    for other in ("python", "python3", *((f"python{minor}",) if number >= 10 else ())):
        link(f"bin/{other}", name)
    _activation(tree, real, root, name, number, stdlib, put)


def _activation(
    tree: Tree, real: str, root: str, python: str, number: int, stdlib: str, put: Callable[..., None]
) -> None:
    prompt = posixpath.basename(root)
    for kind in ("common", "posix"):
        folder = tree.find(f"{stdlib}/venv/scripts/{kind}")
        for name in sorted((folder.children if folder is not None else None) or {}):
            node = tree.find(f"{stdlib}/venv/scripts/{kind}/{name}")
            if node is None or node.kind != "file" or node.content is None or node.size_bytes > 1 << 20:
                continue
            with node.content.open() as stream:
                text = stream.read().decode()
            quotes = number >= 13 or ("__VENV_DIR__" in text and '"__VENV_DIR__"' not in text)
            values = {
                "DIR": root,
                "NAME": prompt,
                "PROMPT": prompt if number >= 13 else f"({prompt}) ",
                "BIN_NAME": "bin",
                "PYTHON": f"{root}/bin/{python}",
            }
            for key, value in values.items():
                text = text.replace(f"__VENV_{key}__", shlex.quote(value) if quotes else value)
            put(f"bin/{name}", text, mode=node.mode & 0o755)


def _ensure_pip(
    tree: Tree, root: str, executable: str, facts: BaseFacts, stdlib: str, actor: Actor, tools: Tools
) -> list[Wheel]:
    places = (f"{stdlib}/ensurepip/_bundled", "/usr/share/python-wheels")
    bundled: dict[str, Node] = {}
    for place in places:
        folder = tree.find(place)
        for name, node in ((folder.children if folder is not None else None) or {}).items():
            if re.fullmatch(r"(pip|setuptools)-[^-]+-py[23.py]*-none-any\.whl", name):
                bundled.setdefault(name, node)
        if bundled:
            break
    if facts.python.minor >= 12:
        bundled = {name: node for name, node in bundled.items() if name.startswith("pip-")}
    if not any(name.startswith("pip-") for name in bundled):
        raise CommandFails("the base's Python has no ensurepip, so that venv fails without --without-pip")
    wheels = []
    for name, node in sorted(bundled.items()):
        assert node.content is not None
        with node.content.open() as stream:
            digest = tools.store.put(stream, kind="wheel", note=name)
        path = tools.store.path(digest)
        assert path is not None
        wheels.append(Wheel.open(path, digest=digest, filename=name))
    interpreter = f"{root}/bin/{posixpath.basename(executable)}"
    scheme = resolved_scheme(tree, Scheme.venv(root, facts.python.short, interpreter=interpreter))
    put_wheels(tree, wheels, scheme, actor)
    return wheels
