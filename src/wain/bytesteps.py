"""Bytecode that a RUN asks for, on a stage's tree: compiled by this machine's Python of the base's minor version.

Where the project path writes bytecode that nobody checks, this one has the sources' times and sizes in it, as pip,
uv and compileall write it: a source that a later step or a mount replaces is compiled again.

Sources: PEP 3147; the layout of pyc files in PEP 552; the documentation of compileall.
"""

from __future__ import annotations

import io
import posixpath
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar

from wain.actions import CompileAll, NeedsEngine
from wain.bases import BaseFacts
from wain.bytecode import MAX_SOURCE_BYTES, Compiler, bytecode_path, compile_files, wheel_bytecode
from wain.digest import Digest
from wain.filework import Actor, CommandFails, joined_raw, may_write
from wain.install import PlannedFile
from wain.interpreters import host_interpreter
from wain.pythons import environment_of
from wain.records import Record
from wain.shares import WheelFile
from wain.store import Store
from wain.tree import Content, Data, Node, Tree, fetch_nodes
from wain.wheels import Wheel

_MAX_HELD_BYTES = 256 << 20


class Stamped(Record, frozen=True):
    """Bytecode with its source's time and size in its head, in place of a hash that nobody checks."""

    uncompared: ClassVar = ("made",)

    made: Callable[[], BinaryIO]
    source: Content | None
    mtime: int
    size_bytes: int
    """These three are the source's."""

    def open(self) -> BinaryIO:
        with self.made() as stream:
            return io.BytesIO(stamped(stream.read(), self.mtime, self.size_bytes))


def stamped(data: bytes, mtime: int, size_bytes: int) -> bytes:
    """Bytecode that is valid for a source of that time and size."""
    return data[:4] + struct.pack("<III", 0, mtime & 0xFFFFFFFF, size_bytes & 0xFFFFFFFF) + data[16:]


def compile_all(
    action: CompileAll, tree: Tree, facts: BaseFacts, env: Mapping[str, str], actor: Actor, store: Store
) -> None:
    """Does `python -m compileall`.

    :raises CommandFails: when a source does not compile.
    :raises NeedsEngine: when there is no Python of that version on this machine.
    """
    environment_of(tree, action.python, facts, env, actor.cwd)
    paths: list[str] = []
    for folder in action.folders:
        path = tree.resolve(joined_raw(actor.cwd, folder))
        node = tree.get(path)
        if node is None:
            raise CommandFails(f"compileall: there is no {folder}")
        paths += [path] if node.kind == "file" else sources_below(tree, path)
    if failed := compile_tree(tree, paths, facts, actor, store):
        raise CommandFails(f"compileall: /{failed[0]} does not compile")


def sources_below(tree: Tree, folder: str) -> list[str]:
    """The modules below a folder; links are not followed."""
    return [path for path, node in tree.walk(folder) if path.endswith(".py") and node.kind == "file"]


def compile_tree(tree: Tree, paths: Iterable[str], facts: BaseFacts, actor: Actor, store: Store) -> list[str]:
    """Puts the bytecode of modules beside them; those that do not compile.

    :raises NeedsEngine: when there is no Python of that version on this machine, or there is very much to compile.
    """
    minor = facts.python.short
    found = host_interpreter(minor, store)
    if found is None:
        raise NeedsEngine(f"bytecode for Python {minor} is asked for, and this machine has no Python {minor}")
    compiler = Compiler(version=str(found.target.python), command=(found.path,), environ={})
    of_wheels: dict[Digest, tuple[Wheel, list[PlannedFile]]] = {}
    others: list[tuple[str, Node]] = []
    wanted: list[str] = []
    for path in dict.fromkeys(paths):
        node = tree.get(path)
        assert node is not None
        if node.size_bytes > MAX_SOURCE_BYTES or _is_current(tree.get(bytecode_path(path, minor)), node):
            continue
        wanted.append(path)
        content = node.content
        if isinstance(content, WheelFile) and content.file.path == path:
            wheel = content.file.wheel
            of_wheels.setdefault(wheel.digest, (wheel, []))[1].append(content.file)
        else:
            others.append((path, node))
    made: dict[str, tuple[Callable[[], BinaryIO], int]] = {}
    for wheel, files in of_wheels.values():
        for entry in wheel_bytecode(wheel, files, compiler, store=store):
            assert entry.open_data is not None
            made[entry.path] = (entry.open_data, entry.size_bytes)
    for path, data in _compiled(others, compiler):
        made[bytecode_path(path, minor)] = (Data(data).open, len(data))
    failed: list[str] = []
    for path in wanted:
        place = bytecode_path(path, minor)
        if place not in made:
            failed.append(path)
            continue
        source = tree.get(path)
        assert source is not None
        opened, size = made[place]
        folder = posixpath.dirname(place)
        try:
            may_write(tree, folder if tree.get(folder) is not None else posixpath.dirname(path), actor)
        except CommandFails:
            failed.append(path)
            continue
        tree.make_folders(folder, uid=actor.uid, gid=actor.gid)
        content = Stamped(opened, source.content, source.mtime, source.size_bytes)
        node = Node(kind="file", mode=source.mode & 0o666, uid=actor.uid, gid=actor.gid, mtime=actor.now)
        node.size_bytes, node.content = size, content
        tree.put(place, node)
    return failed


def _is_current(made: Node | None, source: Node) -> bool:
    """Whether bytecode is there that was made from a source."""
    if made is None or made.kind != "file" or made.content is None:
        return False
    content = made.content
    if isinstance(content, Stamped):
        return (content.source, content.mtime, content.size_bytes) == (source.content, source.mtime, source.size_bytes)
    with content.open() as stream:
        head = stream.read(16)
    return head[4:] == struct.pack("<III", 0, source.mtime & 0xFFFFFFFF, source.size_bytes & 0xFFFFFFFF)


def _compiled(others: list[tuple[str, Node]], compiler: Compiler) -> Iterator[tuple[str, bytes]]:
    if sum(node.size_bytes for _, node in others) > _MAX_HELD_BYTES:
        raise NeedsEngine("there is very much to compile")
    if not others:
        return
    fetch_nodes(node for _, node in others)
    with tempfile.TemporaryDirectory(prefix="wain-bytecode-") as name:
        folder = Path(name)
        for number, (_, node) in enumerate(others):
            assert node.content is not None
            with node.content.open() as stream:
                (folder / str(number)).write_bytes(stream.read())
        compile_files(compiler, folder, [(path, node.size_bytes) for path, node in others])
        for number, (path, _) in enumerate(others):
            compiled = folder / f"{number}c"
            if compiled.is_file():
                yield path, compiled.read_bytes()
