"""The virtual environments that uv makes, on a stage's tree.

The activation scripts are those of the uv that is installed beside wain; no program of the image runs.

Sources: uv's documentation of environments; PEP 405.
"""

from __future__ import annotations

import functools
import importlib.metadata
import posixpath
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from wain.actions import NeedsEngine
from wain.bases import BaseFacts
from wain.errors import EngineError
from wain.filework import Actor, write_file
from wain.pythons import Environment, find_program
from wain.tree import Node, Tree
from wain.uv_process import run_uv, uv_environment

_SEEDS = frozenset({"pip", "setuptools", "wheel", "uv"})
_CACHEDIR_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
_PYTHON = re.compile(r"\bpython3\.\d+\b")


def make_uv_venv(
    tree: Tree,
    root: str,
    interpreter: str,
    facts: BaseFacts,
    env: Mapping[str, str],
    actor: Actor,
    *,
    prompt: str | None,
    system_site: bool = False,
    seed: bool = False,
) -> None:
    """Makes the environment at the absolute path `root`, of the interpreter at that path.

    :raises NeedsEngine: when its path would have to be quoted.
    """
    if not _PLAIN_PATH.fullmatch(root) or (prompt is not None and not re.fullmatch(r"[\w.-]+", prompt)):
        raise NeedsEngine(f"the environment's path {root} is quoted by uv")
    minor = facts.python.short
    real = tree.make_folders(root, uid=actor.uid, gid=actor.gid)
    for name in ("bin", f"lib/python{minor}/site-packages"):
        tree.make_folders(f"{real}/{name}", uid=actor.uid, gid=actor.gid)

    def link(name: str, target: str) -> None:
        node = Node(kind="symlink", mode=0o777, target=target, mtime=actor.now, uid=actor.uid, gid=actor.gid)
        tree.put(f"{real}/{name}", node)

    def put(name: str, data: bytes) -> None:
        write_file(tree, f"{real}/{name}", data, actor, append=False)

    link("lib64", "lib")
    link("bin/python", interpreter)
    for name in ("python3", f"python{minor}"):
        link(f"bin/{name}", "python")
    put(".gitignore", b"*")
    put("CACHEDIR.TAG", _CACHEDIR_TAG)
    lines = [
        f"home = {posixpath.dirname(interpreter)}",
        "implementation = CPython",
        f"uv = {uv_version(tree, env, actor.cwd)}",
        f"version_info = {facts.python}",
        f"include-system-site-packages = {'true' if system_site else 'false'}",
        *(["seed = true"] if seed else []),
        *([f"prompt = {prompt}"] if prompt is not None else []),
    ]
    put("pyvenv.cfg", "".join(f"{line}\n" for line in lines).encode())
    for name, text in _activation(prompt).items():
        put(f"bin/{name}", _PYTHON.sub(f"python{minor}", text.replace("\0", root)).encode())


def lock_venv(tree: Tree, root: str, actor: Actor) -> None:
    """The empty file that uv leaves in an environment that it installed into."""
    if tree.find(f"{root}/.lock") is None:
        write_file(tree, f"{root}/.lock", b"", actor, append=False)
        tree.own(tree.resolve(f"{root}/.lock")).mode = 0o666


def uv_version(tree: Tree, env: Mapping[str, str], cwd: str) -> str:
    """The version of the image's uv where its metadata stand beside it, else of the one beside wain."""
    program = find_program(tree, "uv", env, cwd)
    if program is not None:
        libraries = tree.find(f"{posixpath.dirname(posixpath.dirname(program))}/lib")
        for name in (libraries.children if libraries is not None else None) or {}:
            site = tree.find(f"{posixpath.dirname(posixpath.dirname(program))}/lib/{name}/site-packages")
            for entry in (site.children if site is not None else None) or {}:
                if match := re.fullmatch(r"uv-(\d[^-]*)\.dist-info", entry):
                    return match[1]
    return importlib.metadata.version("uv")


@functools.cache
def _activation(prompt: str | None) -> Mapping[str, str]:
    """uv's scripts by name, with NUL for the environment's path."""
    with tempfile.TemporaryDirectory(prefix="wain-venv-") as folder:
        place = Path(folder).resolve() / "environment"
        environ = uv_environment({"PATH": "/usr/bin:/bin", "HOME": folder}, own_configuration=False)
        import sys

        words = ["venv", "--quiet", "--no-project", "--python", sys.executable, str(place)]
        if prompt is not None:
            words[1:1] = ["--prompt", prompt]
        done = run_uv(words, environ=environ, folder=Path(folder))
        if done.exit_code != 0:
            raise EngineError(
                f"uv makes no environment: {done.errors.strip()[-300:]}",
                hint="Look whether the temporary folder has space.",
            )
        return {
            path.name: path.read_bytes().decode("utf-8").replace(str(place), "\0")
            for path in sorted((place / "bin").iterdir())
            if path.is_file() and not path.is_symlink()
        }


def is_seed(tree: Tree, name: str, environment: Environment, facts: BaseFacts) -> bool:
    """Whether uv leaves a distribution that it is not asked for: what came with an environment that is not its own."""
    config = tree.text(f"{environment.root}/pyvenv.cfg") if environment.is_venv else None
    if config is not None and "\nuv = " in f"\n{config}" and "\nseed = true" not in config:
        return False
    return name in _SEEDS and (facts.python.minor < 12 or name in {"pip", "uv"})
