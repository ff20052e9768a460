"""A stage's files while it is built: a merged tree whose earlier states stay as they were, and what changed since one.

A tree is copied in no time: nodes are shared until one of the copies changes them. What changed is found by comparing
two roots, and becomes the entries of a layer, whiteouts among them.

Source: OCI image specification, layer.md.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import posixpath
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from msgspec import Struct, field

from wain.digest import CHUNK_BYTES, Digest
from wain.errors import DockerfileError, ImageError
from wain.layers import Entry, Layer
from wain.records import Record
from wain.rootfs import MAX_LINKS, Rootfs
from wain.rootfs import Node as RootfsNode
from wain.store import Store, recipe_key
from wain.tars import TarReader, decompressed
from wain.ustar import ZIP_EPOCH

log = logging.getLogger(__name__)

_counter = itertools.count(1)
_MAX_TEXT_BYTES = 256 << 10
_TEXTS = frozenset(
    "etc/passwd etc/group etc/pip.conf etc/xdg/pip/pip.conf root/.pip/pip.conf root/.config/pip/pip.conf".split()
)


class Content(Protocol):
    """A regular file's bytes."""

    def open(self) -> BinaryIO: ...


class Data(Record, frozen=True):
    """Bytes that are at hand."""

    unshown: ClassVar = ("data",)

    data: bytes

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)


class Node(Struct, kw_only=True, eq=False):
    """One entry. Nodes are changed by `Tree` alone, and only those that its present step made."""

    kind: str
    """`file`, `directory`, `symlink`, or `other` for what a layer cannot be given here."""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = ZIP_EPOCH
    size_bytes: int = 0
    target: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    content: Content | None = None
    inode: int = 0
    """Paths with the same one, not 0, are hard links of each other."""
    children: dict[str, Node] | None = None
    step: int = 0
    birth: int = 0
    """Of a directory: the same in all its states; another one where it was removed and made again."""

    def copied(self, step: int) -> Node:
        return Node(
            kind=self.kind,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime=self.mtime,
            size_bytes=self.size_bytes,
            target=self.target,
            xattrs=self.xattrs,
            content=self.content,
            inode=self.inode,
            children=None if self.children is None else dict(self.children),
            step=step,
            birth=self.birth,
        )

    def same_attributes(self, other: Node) -> bool:
        return (self.kind, self.mode, self.uid, self.gid, self.mtime, self.target) == (
            other.kind,
            other.mode,
            other.uid,
            other.gid,
            other.mtime,
            other.target,
        )


def directory(*, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = ZIP_EPOCH) -> Node:
    """A new empty directory."""
    return Node(kind="directory", mode=mode, uid=uid, gid=gid, mtime=mtime, children={}, birth=next(_counter))


def parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "."]


class Tree:
    """Files by path, relative to the root; a leading slash is allowed in what is asked for."""

    __slots__ = ("root", "step")

    def __init__(self, root: Node | None = None) -> None:
        self.root = root if root is not None else directory()
        self.step = next(_counter)

    def copy(self) -> Tree:
        """Another tree with the same files."""
        self.step = next(_counter)
        return Tree(self.root)

    def mark(self) -> Node:
        """The present state, which later changes leave alone; for `changes`."""
        self.step = next(_counter)
        return self.root

    def get(self, path: str) -> Node | None:
        """The entry at this very path; no link is followed."""
        node = self.root
        for part in parts_of(path):
            if node.children is None or (child := node.children.get(part)) is None:
                return None
            node = child
        return node

    def find(self, path: str) -> Node | None:
        """The entry that a path leads to, links followed."""
        node = self.get(self.resolve(path))
        return None if node is None or node.kind == "symlink" else node

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Where a path leads, links followed as far as entries exist."""
        rest = list(reversed(parts_of(path)))
        trail: list[Node | None] = [self.root]
        names: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                if names:
                    names.pop()
                    trail.pop()
                continue
            last = trail[-1]
            child = None if last is None or last.children is None else last.children.get(part)
            if child is not None and child.kind == "symlink" and (rest or follow_last) and links < MAX_LINKS:
                links += 1
                if child.target.startswith("/"):
                    trail, names = [self.root], []
                rest.extend(reversed(parts_of(child.target)))
                continue
            names.append(part)
            trail.append(child)
        return "/".join(names)

    def text(self, path: str) -> str | None:
        """A small file's text; None where there is none."""
        node = self.find(path)
        if node is None or node.kind != "file" or node.content is None or node.size_bytes > _MAX_TEXT_BYTES:
            return None
        with node.content.open() as stream:
            return stream.read(_MAX_TEXT_BYTES).decode("utf-8", "surrogateescape")

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """Every entry below a directory, sorted, directories before what is in them."""
        top = self.get(path)
        prefix = "/".join(parts_of(path))
        stack = [(prefix, top)] if top is not None else []
        while stack:
            where, node = stack.pop()
            if where != prefix:
                yield where, node
            if node.children is not None:
                stack.extend(
                    (f"{where}/{name}" if where else name, node.children[name])
                    for name in sorted(node.children, reverse=True)
                )

    def own(self, path: str) -> Node:
        """The entry at a path, made changeable; its parents too.

        :raises KeyError: when there is none.
        """
        if self.root.step != self.step:
            self.root = self.root.copied(self.step)
        node = self.root
        for part in parts_of(path):
            if node.children is None:
                raise KeyError(path)
            child = node.children[part]
            if child.step != self.step:
                child = child.copied(self.step)
                node.children[part] = child
            node = child
        return node

    def put(self, path: str, node: Node) -> None:
        """Puts an entry where its parent is; what was there goes."""
        parent, _, name = "/".join(parts_of(path)).rpartition("/")
        holder = self.own(parent)
        assert holder.children is not None
        node.step = self.step
        holder.children[name] = node

    def remove(self, path: str) -> None:
        """Removes an entry with all below it."""
        parent, _, name = "/".join(parts_of(path)).rpartition("/")
        holder = self.own(parent)
        assert holder.children is not None
        del holder.children[name]

    def make_folders(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> str:
        """The folder that a path leads to, made with its parents where they are missing; links are followed.

        :returns: its real path.
        :raises DockerfileError: when something else is in the way.
        """
        resolved = self.resolve(path)
        done: list[str] = []
        for part in parts_of(resolved):
            done.append(part)
            here = "/".join(done)
            node = self.get(here)
            if node is None:
                self.put(here, directory(mode=mode, uid=uid, gid=gid))
            elif node.kind != "directory":
                raise DockerfileError(
                    f"/{here} is no folder, so that nothing can be put below it",
                    hint="Choose another path, or remove what is there.",
                )
        return resolved

    def graft(self, node: Node) -> Node:
        """A copy of an entry with all below it, for another place: new folders, the same files."""
        made = node.copied(self.step)
        if made.children is not None:
            made.birth = next(_counter)
            made.children = {name: self.graft(child) for name, child in made.children.items()}
        return made


class Changes(Record, frozen=True, kw_only=True):
    """What a layer must have: entries with their nodes, and what it takes away."""

    unshown: ClassVar = ("nodes",)

    nodes: tuple[tuple[str, Node], ...]
    """By path; with the parents of all that changed."""
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    """Directories of which nothing that was in them is left."""

    def __bool__(self) -> bool:
        return bool(self.nodes or self.removed)


def changes(before: Node, after: Node) -> Changes:
    """What makes one state of a tree another."""
    nodes: list[tuple[str, Node]] = []
    removed: list[str] = []
    replaced: list[str] = []

    def everything(path: str, node: Node) -> None:
        nodes.append((path, node))
        for name, child in (node.children or {}).items():
            everything(f"{path}/{name}", child)

    def compare(path: str, old: Node, new: Node) -> bool:
        found = False
        own = len(nodes)
        assert old.children is not None and new.children is not None
        prefix = f"{path}/" if path else ""
        for name, child in new.children.items():
            was = old.children.get(name)
            if child is was:
                continue
            if was is not None and was.kind == child.kind == "directory":
                if was.birth != child.birth:
                    replaced.append(prefix + name)
                    everything(prefix + name, child)
                    found = True
                else:
                    found = compare(prefix + name, was, child) or found
            elif was is None or child.kind == "directory" or not _same_file(was, child):
                if was is not None and was.kind == "directory":
                    removed.append(prefix + name)
                everything(prefix + name, child)
                found = True
        gone = [prefix + name for name in old.children if name not in new.children]
        removed.extend(gone)
        changed = found or bool(gone) or not old.same_attributes(new)
        if changed and path:
            nodes.insert(own, (path, new))
        return changed

    compare("", before, after)
    return Changes(
        nodes=tuple(sorted(nodes, key=lambda item: item[0])), removed=tuple(removed), replaced=tuple(replaced)
    )


def _same_file(one: Node, other: Node) -> bool:
    return one.same_attributes(other) and one.content is other.content and one.xattrs == other.xattrs


def entries(found: Changes, *, without: frozenset[str] = frozenset()) -> list[Entry]:
    """The entries of a layer.

    :param without: paths that another layer of the same step has.
    """
    made: list[Entry] = []
    first: dict[int, str] = {}
    for path, node in found.nodes:
        if path in without:
            continue
        if node.kind == "file":
            if node.inode and (target := first.setdefault(node.inode, path)) != path:
                made.append(_entry(path, node, kind="hardlink", target=target))
                continue
            content = node.content
            made.append(
                _entry(path, node, kind="file", size_bytes=node.size_bytes, open_data=content.open if content else None)
            )
        elif node.kind in ("directory", "symlink"):
            made.append(_entry(path, node, kind=node.kind, target=node.target))
        else:
            log.warning("/%s is no file, folder or link, and is left out", path)
    made += [Entry(path=path, kind="whiteout") for path in found.removed]
    made += [Entry(path=path, kind="opaque") for path in found.replaced]
    return made


def _entry(
    path: str,
    node: Node,
    *,
    kind: str,
    target: str = "",
    size_bytes: int = 0,
    open_data: Callable[[], BinaryIO] | None = None,
) -> Entry:
    return Entry(
        path=path,
        kind=kind,
        mode=node.mode & 0o7777,
        uid=node.uid,
        gid=node.gid,
        mtime=node.mtime,
        target=target,
        size_bytes=size_bytes,
        open_data=open_data,
        xattrs=node.xattrs,
    )


class InLayer(Record, frozen=True, eq=False):
    """Bytes that stand in a layer of a base: found again by the number of their member."""

    unshown: ClassVar = ("files",)

    files: BaseFiles
    layer: int
    number: int

    def open(self) -> BinaryIO:
        return self.files.open(self)


class Scratch:
    """A temporary folder that is gone when nothing refers to it, or the process ends."""

    __slots__ = ("__weakref__", "_finalizer", "path")

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="wain-files-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class BaseFiles:
    """The bytes of a base's files: a layer is gone through once for all that are wanted of it."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._paths: dict[tuple[int, int], Path] = {}
        self._folder: Scratch | None = None

    def open(self, wanted: InLayer) -> BinaryIO:
        key = (wanted.layer, wanted.number)
        if key not in self._paths:
            self.fetch([wanted])
        return self._paths[key].open("rb")

    def fetch(self, wanted: Sequence[InLayer]) -> None:
        """Gets the bytes of several files at once.

        :raises ImageError: when a layer is damaged.
        """
        by_layer: dict[int, set[int]] = {}
        for item in wanted:
            if (item.layer, item.number) not in self._paths:
                by_layer.setdefault(item.layer, set()).add(item.number)
        if by_layer and self._folder is None:
            self._folder = Scratch()
        for layer, numbers in by_layer.items():
            assert self._folder is not None
            with self._layers[layer].open() as stream:
                blob = self._layers[layer]
                reader = TarReader(
                    decompressed(stream),
                    what=f"layer {blob.digest.short}",
                    max_bytes=max(16 << 30, 64 * blob.size_bytes),
                )
                for number, _ in enumerate(reader):
                    if number in numbers:
                        path = self._folder.path / f"{layer}-{number}"
                        with path.open("wb") as out:
                            while chunk := reader.read(CHUNK_BYTES):
                                out.write(chunk)
                        self._paths[layer, number] = path
            if any((layer, number) not in self._paths for number in numbers):
                raise ImageError("a layer has changed since it was read", hint="Fetch the image again.")


def fetch_contents(found: Changes) -> None:
    """Gets at once what the files of a layer need of other layers."""
    fetch_nodes(node for _, node in found.nodes)


def fetch_nodes(nodes: Iterable[Node]) -> None:
    """Gets at once the bytes of these that stand in layers of a base."""
    by_files: dict[int, tuple[BaseFiles, list[InLayer]]] = {}
    for node in nodes:
        if isinstance(node.content, InLayer):
            by_files.setdefault(id(node.content.files), (node.content.files, []))[1].append(node.content)
    for files, wanted in by_files.values():
        files.fetch(wanted)


def base_tree(layers: Sequence[Layer], store: Store) -> Tree:
    """The merged view of a base's layers, remembered in the store.

    :raises ImageError: when a layer is damaged.
    """
    if not layers:
        return Tree()
    key = recipe_key({"what": "base-tree", "version": 1, "diff_ids": [*(layer.diff_id for layer in layers)]})
    files = BaseFiles(layers)
    memo = store.memo("base-tree", key)
    if memo is not None:
        try:
            with store.reader(Digest(str(memo.get("digest")))) as stream:
                rows = json.loads(zlib.decompress(stream.read()))
            return Tree(_from_rows(rows, files))
        except Exception as error:
            log.debug("the remembered tree is not usable: %s", error)
            store.delete_memo("base-tree", key)
    rootfs = Rootfs.of(layers, keep=_is_kept)
    rows = list(_rows("", rootfs.root))
    data = zlib.compress(json.dumps(rows, separators=(",", ":")).encode("utf-8", "surrogatepass"), 6)
    digest = store.put(data, kind="base", note="the files of a base, by name")
    store.put_memo("base-tree", key, {"digest": digest}, [digest])
    return Tree(_from_rows(rows, files))


def _is_kept(path: str, size_bytes: int) -> bool:
    if size_bytes > _MAX_TEXT_BYTES:
        return False
    if path in _TEXTS or path.endswith((".dist-info/RECORD", "/pyvenv.cfg")):
        return True
    folder, _, name = path.rpartition("/")
    return size_bytes < 4096 and folder.endswith("bin") and name.startswith("pip")


_KINDS = {"file": "f", "directory": "d", "symlink": "l"}
_NAMES = {"f": "file", "d": "directory", "l": "symlink", "o": "other"}

_Row = list[object]


def _rows(path: str, node: RootfsNode) -> Iterator[_Row]:
    extra: dict[str, object] = {}
    if node.xattrs:
        extra["x"] = {name: value.hex() for name, value in node.xattrs.items()}
    if node.data is not None and len(node.data) <= _MAX_TEXT_BYTES:
        extra["t"] = node.data.decode("latin-1")
    rest: _Row = []
    if node.kind == "file":
        rest = [node.size_bytes, node.source[0], node.source[1], node.inode]
    elif node.kind == "symlink":
        rest = [node.target]
    yield [path, _KINDS.get(node.kind, "o"), node.mode & 0o7777, node.uid, node.gid, int(node.mtime), rest, extra]
    for name in node.children:
        yield from _rows(f"{path}/{name}" if path else name, node.children[name])


def _from_rows(rows: list[_Row], files: BaseFiles) -> Node:
    folders: dict[str, Node] = {}
    root: Node | None = None
    links: dict[int, int] = {}
    for path, letter, mode, uid, gid, mtime, rest, extra in rows:
        assert isinstance(path, str) and isinstance(letter, str) and isinstance(rest, list) and isinstance(extra, dict)
        assert isinstance(mode, int) and isinstance(uid, int) and isinstance(gid, int) and isinstance(mtime, int)
        kind = _NAMES[letter]
        node = Node(kind=kind, mode=mode, uid=uid, gid=gid, mtime=mtime)
        if "x" in extra:
            node.xattrs = {name: bytes.fromhex(value) for name, value in extra["x"].items()}
        if kind == "file":
            size, layer, number, inode = rest
            node.size_bytes = size
            node.inode = inode
            links[inode] = links.get(inode, 0) + 1
            node.content = Data(extra["t"].encode("latin-1")) if "t" in extra else InLayer(files, layer, number)
        elif kind == "symlink":
            node.target = rest[0]
        elif kind == "directory":
            node.children = {}
            node.birth = next(_counter)
            folders[path] = node
        parent, _, name = path.rpartition("/")
        if not path:
            root = node
        else:
            holder = folders[parent].children
            assert holder is not None
            holder[name] = node
    assert root is not None
    for node in _every(root):
        if node.inode and links[node.inode] == 1:
            node.inode = 0
        elif node.inode:
            # Numbers of one image mean nothing in another.
            node.inode = -(id(files) << 24) - node.inode
    return root


def _every(node: Node) -> Iterator[Node]:
    yield node
    for child in (node.children or {}).values():
        yield from _every(child)


def joined(folder: str, path: str) -> str:
    """A path that is absolute, or starts in a folder; normal, without a leading slash."""
    return posixpath.normpath("/" + (path if path.startswith("/") else f"{folder}/{path}")).lstrip("/")


class Unpacked:
    """Files taken out of an archive, kept in a temporary folder as long as one of them is."""

    def __init__(self) -> None:
        self._folder: Scratch | None = None
        self._count = 0

    def keep(self, reader: TarReader) -> tuple[Content, int]:
        """The bytes of the member that a reader is at, and how many they are."""
        data = reader.read(64 << 10)
        if len(data) < 64 << 10:
            return Data(data), len(data)
        if self._folder is None:
            self._folder = Scratch()
        path = self._folder.path / str(self._count)
        self._count += 1
        size = 0
        with path.open("wb") as out:
            while data:
                size += out.write(data)
                data = reader.read(CHUNK_BYTES)
        return _Kept(self._folder, path), size


class _Kept(Struct, frozen=True, eq=False):
    folder: Scratch
    path: Path

    def open(self) -> BinaryIO:
        return self.path.open("rb")
