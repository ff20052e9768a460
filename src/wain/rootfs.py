"""The merged view of an image's files: layers applied in order, each entry with the layer it comes from.

Source: OCI image specification, layer.md, "Applying Changesets" and "Whiteouts".
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, cast

from msgspec import Struct, field

from wain.elf import ElfFile, parse_elf
from wain.errors import ImageError
from wain.tars import TarMember, TarReader, decompressed

if TYPE_CHECKING:
    from wain.layers import Layer

WHITEOUT_PREFIX = ".wh."
OPAQUE_WHITEOUT = ".wh..wh..opq"

MAX_LINKS = 40
"""Symbolic links followed in one lookup: as many as Linux follows."""
MAX_ENTRIES = 4_000_000
MAX_KEPT_BYTES = 256 << 20
MAX_TEXT_BYTES = 512 << 20
"""Of paths, link targets, extended attributes and names in ELF files, and of link targets each time one is followed
to place a file: it bounds both memory and time."""
_MAX_HELD_BYTES = 64 << 20
_LEAST_UNPACKED_BYTES = 16 << 30
_MAX_RATIO = 64

_DAMAGED = "The image is damaged or made by a faulty tool; fetch or build it again."

Keep = Callable[[str, int], bool]
"""Given a file's path and size, whether its bytes are to be kept."""


class Node(Struct, kw_only=True, eq=False):
    """One entry of the merged view. Read it; only this module changes it.

    Paths that are hard links of each other have one `inode`; each path has its own owner layer.
    """

    kind: str
    """`file`, `directory`, `symlink`, `device` or `fifo`."""
    layer: int
    """Index of the layer that put this path here, the lowest being 0."""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: float = 0.0
    size_bytes: int = 0
    target: str = ""
    """A symbolic link's, as `readlink` gives it."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    device: tuple[str, int, int] | None = None
    inode: int = 0
    source: tuple[int, int] = (0, 0)
    """Layer and number of the tar member that holds a file's bytes."""
    data: bytes | None = None
    """A file's bytes, where they were asked for when the layers were read."""
    elf: ElfFile | None = None
    """What an ELF file says of its libraries, where that was asked for."""
    is_implicit: bool = False
    """A directory that no layer has an entry for: a runtime makes it, 0755 and root's."""
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_executable(self) -> bool:
        return self.kind == "file" and bool(self.mode & 0o111)


class Rootfs:
    """An image's files as a container of it would see them.

    Paths are relative to the root; a leading slash is allowed where one is taken, and never given back.
    """

    __slots__ = ("_layers", "root")

    def __init__(self, root: Node, layers: Sequence[Layer]) -> None:
        self.root = root
        self._layers = tuple(layers)

    @classmethod
    def of(cls, layers: Sequence[Layer], *, keep: Keep | None = None, elf: bool = False) -> Rootfs:
        """Read the layers, the lowest first, each once from front to back; digests and diff IDs are checked.

        :param keep: which files' bytes to keep; together at most `MAX_KEPT_BYTES`.
        :param elf: whether to read what ELF files say of their libraries.
        :raises ImageError: when a layer is damaged, hostile, or not what its diff ID says.
        :raises HashMismatch: when a layer's bytes are not those that its digest names.
        """
        builder = _Builder(keep=keep, elf=elf)
        for layer in layers:
            builder.read_layer(layer)
        return cls(builder.root, layers)

    def get(self, path: str) -> Node | None:
        """The entry at exactly this path, with no symbolic link followed, `None` where there is none."""
        node = self.root
        for part in _parts(path):
            child = node.children.get(part)
            if child is None:
                return None
            node = child
        return node

    def find(self, path: str) -> tuple[str, Node] | None:
        """The entry that this path leads to, and its own path: symbolic links are followed inside the root.

        `None` where it leads nowhere, or in circles.
        """
        resolved = self.resolve(path)
        node = self.get(resolved)
        return None if node is None or node.kind == "symlink" else (resolved, node)

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Where this path leads: links followed as far as entries exist, and what is beyond put behind it.

        A path that goes in circles is returned with its last link unfollowed.
        """
        rest = list(reversed(_parts(path)))
        trail: list[Node] = [self.root]
        names: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                if names:
                    names.pop()
                    trail.pop()
                continue
            child = trail[-1].children.get(part)
            if child is not None and child.kind == "symlink" and (rest or follow_last) and links < MAX_LINKS:
                links += 1
                if child.target.startswith("/"):
                    trail, names = [self.root], []
                rest.extend(reversed(_parts(child.target)))
                continue
            names.append(part)
            trail.append(child if child is not None else _NOTHING)
        return "/".join(names)

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """Every entry below a directory with its path, sorted, directories before what is in them."""
        top = self.get(path)
        if top is None:
            return
        prefix = "/".join(_parts(path))
        stack = [(prefix, top)]
        while stack:
            where, node = stack.pop()
            if where != prefix:
                yield where, node
            stack.extend(
                (f"{where}/{name}" if where else name, node.children[name])
                for name in sorted(node.children, reverse=True)
            )

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes | None:
        """A file's bytes, links followed; `None` where there is no such file.

        Bytes that were not kept when the layers were read cost another pass over their layer.

        :raises ImageError: when the file is larger than `max_bytes`.
        """
        found = self.find(path)
        if found is None or found[1].kind != "file":
            return None
        where, node = found
        if node.size_bytes > max_bytes:
            raise ImageError(f"/{where} in the image has {node.size_bytes} bytes, {max_bytes} are read", hint=_DAMAGED)
        if node.data is not None:
            return node.data
        layer, number = node.source
        with _opened(self._layers[layer]) as reader:
            for count, member in enumerate(reader):
                if count == number:
                    if member.is_sparse:
                        raise ImageError(f"/{where} in the image is a sparse file", hint=_DAMAGED)
                    node.data = reader.read()
        return node.data


def unpacked_bytes(layer: Layer) -> int:
    """The sum of the sizes of a layer's files, as engines tell it; the layer is read through unless it is known.

    :raises ImageError: when it is no tar, cannot be decompressed, or has not the diff ID that the config names.
    :raises HashMismatch: when it is not what its digest says.
    """
    if layer.unpacked_bytes is not None:
        return layer.unpacked_bytes
    with _opened(layer) as reader:
        return sum(member.size_bytes for member in reader)


_NOTHING = Node(kind="nothing", layer=-1)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "."]


class _opened:  # noqa: N801 - used as a function
    """A layer's members; at the end of them digest and diff ID are checked."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __enter__(self) -> TarReader:
        layer = self._layer
        self._stream = layer.open()
        try:
            inflated = _Hashed(decompressed(self._stream), layer)
            return TarReader(
                cast("IO[bytes]", inflated),
                what=f"layer {layer.digest.short}",
                max_bytes=max(_LEAST_UNPACKED_BYTES, _MAX_RATIO * layer.size_bytes),
            )
        except BaseException:
            self._stream.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self._stream.close()


class _Hashed:
    """A reader of a layer's tar, which at its end has the layer's diff ID, or raises."""

    def __init__(self, stream: IO[bytes], layer: Layer) -> None:
        self._stream = stream
        self._diff_id = layer.diff_id
        self._digest = layer.digest
        # A plain tar's diff ID is its digest, which the layer's own reader checks.
        self._hash = None if layer.diff_id == layer.digest else hashlib.new(layer.diff_id.algorithm)

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self._hash is not None:
            if data:
                self._hash.update(data)
            elif self._hash.hexdigest() != self._diff_id.hex:
                raise ImageError(f"layer {self._digest.short} has not the diff ID that the config names", hint=_DAMAGED)
        return data


class _Builder:
    """The tree of the merged view, layer by layer."""

    def __init__(self, *, keep: Keep | None, elf: bool) -> None:
        self.root = Node(kind="directory", layer=0, is_implicit=True)
        self._keep = keep
        self._elf = elf
        self._layer = -1
        self._inodes = 0
        self._entries = 0
        self._kept_bytes = 0
        self._text_bytes = 0

    def read_layer(self, layer: Layer) -> None:
        with _opened(layer) as reader:
            self.apply(self._nodes(reader))

    def apply(self, entries: Iterable[tuple[str, Node, str]]) -> None:
        """One layer's entries as path, node and, of a hard link, the path it is a link to."""
        self._layer += 1
        # Whiteouts act on the layers below, wherever in the archive they stand: they go first.
        kept = []
        for path, node, link in entries:
            directory, _, name = path.rpartition("/")
            if not name.startswith(WHITEOUT_PREFIX):
                if WHITEOUT_PREFIX in directory and any(
                    part.startswith(WHITEOUT_PREFIX) for part in directory.split("/")
                ):
                    if ".wh..wh." in directory:
                        continue  # aufs' own bookkeeping (.wh..wh.plnk/…) is no content
                    raise ImageError(f"a layer has a path below a whiteout: {path[:200]!r}", hint=_DAMAGED)
                kept.append((path, node, link))
            elif name == OPAQUE_WHITEOUT:
                below = self._lower(directory)
                if below is not None:
                    below.children = {}
            elif not name.startswith(".wh..wh."):
                hidden = name.removeprefix(WHITEOUT_PREFIX)
                if hidden in ("", ".", ".."):
                    raise ImageError(f"a layer has a malformed whiteout: {path[:200]!r}", hint=_DAMAGED)
                below = self._lower(directory)
                if below is not None:
                    below.children.pop(hidden, None)
        for path, node, link in kept:
            self._place(path, node, link)

    def _lower(self, path: str) -> Node | None:
        node = self.root
        for part in path.split("/") if path else ():
            child = node.children.get(part)
            if child is None:
                return None
            node = child
        return node

    def _place(self, path: str, node: Node, link: str) -> None:
        if not path:
            if node.kind != "directory":
                raise ImageError("a layer makes the root something else than a directory", hint=_DAMAGED)
            node.children = self.root.children
            self.root = node
            return
        parent, name = self._parent(path)
        if link:
            original = self._original(path, link)
            if parent.children.get(name) is original:
                return
            node = Node(
                kind=original.kind,
                layer=self._layer,
                mode=original.mode,
                uid=original.uid,
                gid=original.gid,
                mtime=original.mtime,
                size_bytes=original.size_bytes,
                target=original.target,
                xattrs=original.xattrs,
                device=original.device,
                inode=original.inode,
                source=original.source,
                data=original.data,
                elf=original.elf,
            )
        old = parent.children.get(name)
        if old is not None and old.kind == "directory" and node.kind == "directory":
            node.children = old.children
        parent.children[name] = node

    def _parent(self, path: str) -> tuple[Node, str]:
        """The directory that holds `path`, made where it is missing, and the path's last part.

        A link of this very layer is followed, as when the layer is unpacked; what a lower layer has in the
        way gives way to a directory, as an overlay shows it.
        """
        *above, name = path.split("/")
        trail = [self.root]
        rest = above[::-1]
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            child = trail[-1].children.get(part)
            if child is None or child.kind != "directory":
                if child is not None and child.layer == self._layer:
                    if child.kind == "symlink":
                        links += 1
                        if links > MAX_LINKS:
                            raise ImageError(f"a layer's path goes in circles: {path[:200]!r}", hint=_DAMAGED)
                        if child.target.startswith("/"):
                            trail = [self.root]
                        self._count_text(len(child.target))
                        rest.extend(reversed(_parts(child.target)))
                        continue
                    raise ImageError(f"a layer has a path below a {child.kind}: {path[:200]!r}", hint=_DAMAGED)
                self._count()
                child = Node(kind="directory", layer=self._layer, is_implicit=True)
                trail[-1].children[part] = child
            trail.append(child)
        return trail[-1], name

    def _original(self, path: str, link: str) -> Node:
        node: Node | None = self._lower(link)
        if node is None:
            parent, name = self._parent(link)
            node = parent.children.get(name)
        if node is None or node.kind == "directory":
            what = "a directory" if node is not None else "nothing"
            raise ImageError(f"a layer has a hard link to {what}: {path[:200]!r} -> {link[:200]!r}", hint=_DAMAGED)
        return node

    def _count(self) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise ImageError(f"the image has more than {MAX_ENTRIES} entries", hint=_DAMAGED)

    def _count_text(self, size_bytes: int) -> None:
        self._text_bytes += size_bytes
        if self._text_bytes > MAX_TEXT_BYTES:
            raise ImageError(f"the image's paths and attributes have more than {MAX_TEXT_BYTES} bytes", hint=_DAMAGED)

    def _nodes(self, reader: TarReader) -> Iterator[tuple[str, Node, str]]:
        layer = self._layer
        for number, member in enumerate(reader):
            self._count()
            self._count_text(len(member.path) + len(member.target))
            if member.xattrs:
                self._count_text(sum(len(key) + len(value) for key, value in member.xattrs.items()))
            if member.kind == "hardlink":
                yield member.path, _PLACEHOLDER, member.target
                continue
            self._inodes += 1
            node = Node(
                kind=member.kind,
                layer=layer,
                mode=member.mode,
                uid=member.uid,
                gid=member.gid,
                mtime=member.mtime,
                size_bytes=member.size_bytes,
                target=member.target,
                xattrs=member.xattrs,
                device=member.device,
                inode=self._inodes,
                source=(layer, number),
            )
            if member.kind == "file" and member.stored_bytes and not member.is_sparse:
                self._look_into(member, node, reader)
            yield member.path, node, ""

    def _look_into(self, member: TarMember, node: Node, reader: TarReader) -> None:
        if self._keep is not None and self._keep(member.path, member.size_bytes):
            self._kept_bytes += member.size_bytes
            if self._kept_bytes > MAX_KEPT_BYTES:
                raise ImageError(f"the image's metadata has more than {MAX_KEPT_BYTES} bytes", hint=_DAMAGED)
            node.data = data = reader.read()
            if self._elf:
                node.elf = parse_elf(data)
        elif self._elf and (head := reader.read(4)) == b"\x7fELF":
            node.elf = _read_elf(head, reader, member.size_bytes)
        if (elf := node.elf) is not None:
            named = sum(len(name) for names in elf.requires.values() for name in names)
            self._count_text(named + sum(map(len, (*elf.needed, *elf.provides, *elf.search_path))))


def _read_elf(head: bytes, reader: TarReader, size_bytes: int) -> ElfFile | None:
    if size_bytes <= _MAX_HELD_BYTES:
        return parse_elf(head + reader.read())
    with tempfile.TemporaryFile(prefix="wain-elf-") as file:
        file.write(head)
        for chunk in reader.chunks():
            file.write(chunk)
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            return parse_elf(mapped)


_PLACEHOLDER = Node(kind="hardlink", layer=-1)
