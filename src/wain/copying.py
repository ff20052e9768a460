"""COPY and ADD between trees, as BuildKit does them.

A source folder gives what is in it; a source link is followed within its own root; folders on the way to the
destination are made 0755; a folder that is there keeps its mode, but for those below a copied folder.

Sources: Dockerfile reference (COPY, ADD); BuildKit's file operations.
"""

from __future__ import annotations

import bz2
import lzma
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

from msgspec import Struct
from msgspec.structs import replace

from wain.errors import DockerfileError
from wain.ignore import DockerIgnore, go_pattern
from wain.tars import TarReader, decompressed
from wain.tree import Data, Node, Tree, directory, parts_of


class CopyOptions(Struct, frozen=True, kw_only=True):
    """The flags of a COPY or ADD, expanded."""

    owner: tuple[int, int] | None = None
    """None keeps the source's."""
    mode: int | None = None
    exclude: tuple[str, ...] = ()
    parents: bool = False
    unpacks: bool = False
    """ADD: archives are unpacked."""


class NotFoundInSource(Exception):
    """A source that is not there; the message is the path."""


def copy_sources(
    source: Tree, patterns: Sequence[str], target: Tree, destination: str, options: CopyOptions
) -> tuple[str, ...]:
    """Copies what the patterns name to a destination, absolute, with its trailing slash where it has one.

    :returns: the sources that were copied.
    :raises NotFoundInSource: when a source without wildcards is not there.
    :raises DockerfileError: when something is in the way.
    """
    done: list[str] = []
    found: list[tuple[str, str]] = []
    for pattern in patterns:
        found += [(path, pattern) for path in _matches(source, pattern, parents=options.parents)]
    if len(found) > 1 and len(patterns) > 1 and not _is_folder(destination):
        raise DockerfileError(
            f"several sources are copied to {destination}, which does not end in a slash",
            hint="Write a slash behind the destination.",
        )
    for path, pattern in found:
        where = destination
        if options.parents:
            pivot = pattern.partition("/./")[0] if "/./" in pattern else ""
            base = "/".join(parts_of(pivot))
            below = path[len(base) :].strip("/") if base else path
            node = source.find(path)
            folder = below if node is not None and node.kind == "directory" else posixpath.dirname(below)
            where = f"{destination.rstrip('/')}/{folder}/".replace("//", "/")
            _make_parents(source, base, folder, target, destination, options)
        _copy_one(source, path, target, where, options)
        done.append(path)
    return tuple(done)


def _is_folder(destination: str) -> bool:
    return destination.endswith(("/", "/.")) or destination in ("", ".")


def _make_parents(source: Tree, base: str, folder: str, target: Tree, destination: str, options: CopyOptions) -> None:
    """With --parents folders on the way keep the modes that they have in the source."""
    done = ""
    for part in parts_of(folder):
        done = f"{done}/{part}".strip("/")
        known = source.find(f"{base}/{done}")
        place = target.resolve(f"{destination}/{done}")
        if target.get(place) is None:
            target.make_folders(posixpath.dirname(place))
            made = directory(mode=known.mode if known is not None else 0o755)
            if options.owner is not None:
                made.uid, made.gid = options.owner
            target.put(place, made)


def _matches(source: Tree, pattern: str, *, parents: bool = False) -> Iterator[str]:
    """The paths that a source names: itself, or what its wildcards match, sorted."""
    parts = parts_of(posixpath.normpath("/" + pattern))
    if not any(char in part for part in parts for char in "*?[\\"):
        path = "/".join(parts)
        resolved = source.resolve(path)
        if source.get(resolved) is None:
            raise NotFoundInSource(path)
        yield path
        return
    try:
        wanted = [None if part == "**" and parents else re.compile(go_pattern(part), re.DOTALL) for part in parts]
    except re.error as error:
        raise DockerfileError(f"{pattern!r} is a malformed pattern: {error}", hint="Close the bracket.") from error

    def search(folder: str, index: int) -> Iterator[str]:
        node = source.find(folder)
        if node is None or node.children is None:
            return
        regex = wanted[index]
        if regex is None:
            if index + 1 < len(wanted):
                yield from search(folder, index + 1)
            for name in sorted(node.children):
                if node.children[name].kind == "directory":
                    yield from search(f"{folder}/{name}".strip("/"), index)
            return
        for name in sorted(node.children):
            if not regex.fullmatch(name):
                continue
            path = f"{folder}/{name}" if folder else name
            if index + 1 == len(wanted):
                yield path
            else:
                yield from search(path, index + 1)

    yield from dict.fromkeys(search("", 0))


def _copy_one(source: Tree, path: str, target: Tree, destination: str, options: CopyOptions) -> None:
    real = source.resolve(path)
    node = source.get(real)
    if node is None or node.kind == "symlink":
        raise NotFoundInSource(path)
    if options.unpacks and node.kind == "file" and _is_archive(node):
        _unpack(node, target, destination, options)
        return
    uid, gid = options.owner or (0, 0)
    as_folder = _is_folder(destination)
    clean = posixpath.normpath("/" + destination).lstrip("/")
    there = target.find(clean)
    if node.kind == "directory":
        place = target.make_folders(clean, uid=uid, gid=gid)
        ignore = DockerIgnore("\n".join(options.exclude)) if options.exclude else None
        _merge(node, target, place, options, ignore, "", _excluder(ignore))
        return
    if as_folder or (there is not None and there.kind == "directory"):
        folder = target.make_folders(clean, uid=uid, gid=gid)
        place = f"{folder}/{posixpath.basename(path)}"
    else:
        folder = target.make_folders(posixpath.dirname(clean), uid=uid, gid=gid)
        place = f"{folder}/{posixpath.basename(clean)}"
    _put_file(node, target, place.lstrip("/"), options)


def _excluder(ignore: DockerIgnore | None) -> Callable[[str], bool]:
    return (lambda path: False) if ignore is None else ignore.ignores


def _merge(
    node: Node,
    target: Tree,
    place: str,
    options: CopyOptions,
    ignore: DockerIgnore | None,
    relative: str,
    left_out: Callable[[str], bool],
) -> None:
    assert node.children is not None
    for name in sorted(node.children):
        child = node.children[name]
        where = f"{place}/{name}" if place else name
        below = f"{relative}/{name}" if relative else name
        skipped = left_out(below)
        if child.kind != "directory":
            if not skipped:
                _put_file(child, target, where, options)
            continue
        if skipped and ignore is not None and ignore.prunes(below):
            continue
        there = target.get(where)
        if there is None:
            if ignore is None:
                target.put(where, _grafted(target, child, options))
                continue
            if not skipped:
                target.put(where, _attributed(directory(), child, options))
        elif there.kind != "directory":
            raise DockerfileError(
                f"/{where} is no folder, and a folder is to be copied there",
                hint="Choose another destination, or remove what is there.",
            )
        elif not skipped:
            _attributed(target.own(where), child, options)
        if skipped and target.get(where) is None:
            before = target.root
            target.put(where, _attributed(directory(), child, options))
            _merge(child, target, where, options, ignore, below, left_out)
            made = target.get(where)
            if made is not None and not made.children and before is not None:
                target.remove(where)
            continue
        _merge(child, target, where, options, ignore, below, left_out)


def _grafted(target: Tree, node: Node, options: CopyOptions) -> Node:
    made = target.graft(node)
    if options.owner is not None or options.mode is not None:
        stack = [made]
        while stack:
            one = stack.pop()
            _attributed(one, one, options)
            stack.extend((one.children or {}).values())
    _refuse_others(made)
    return made


def _refuse_others(node: Node) -> None:
    for name, child in (node.children or {}).items():
        if child.kind == "other":
            raise DockerfileError(f"{name} is a device or pipe, which is not copied", hint="Leave it out.")
        _refuse_others(child)


def _attributed(made: Node, source: Node, options: CopyOptions) -> Node:
    made.mode = source.mode
    if options.mode is not None and source.kind != "symlink":
        made.mode = options.mode
    made.uid, made.gid = options.owner if options.owner is not None else (source.uid, source.gid)
    made.mtime = source.mtime
    return made


def _put_file(node: Node, target: Tree, place: str, options: CopyOptions) -> None:
    if node.kind == "other":
        raise DockerfileError(f"/{place} would be a device or pipe, which is not copied", hint="Leave it out.")
    there = target.get(place)
    if there is not None and there.kind == "directory":
        raise DockerfileError(
            f"/{place} is a folder, and a file is to be copied there",
            hint="Choose another destination, or remove the folder.",
        )
    target.put(place, _attributed(node.copied(0), node, options))


def put_file(target: Tree, name: str, node: Node, destination: str, options: CopyOptions) -> None:
    """Puts a file from elsewhere, which is never unpacked, where an ADD says."""
    source = Tree()
    source.put(name, node)
    _copy_one(source, name, target, destination, replace(options, unpacks=False))


def put_data(target: Tree, name: str, data: bytes, destination: str, options: CopyOptions) -> None:
    """Puts a here-document where a COPY says."""
    source = Tree()
    source.put(name, Node(kind="file", mode=0o644, size_bytes=len(data), content=Data(data)))
    _copy_one(source, name, target, destination, options)


def link_in(fresh: Tree, target: Tree) -> None:
    """Lays a tree over another as a layer of its own, as `--link` does: links on the way are not followed."""

    def lay(node: Node, place: str) -> None:
        for name in sorted(node.children or {}):
            assert node.children is not None
            child = node.children[name]
            where = f"{place}/{name}" if place else name
            there = target.get(where)
            if child.kind == "directory" and there is not None and there.kind == "directory":
                lay(child, where)
            else:
                target.put(where, target.graft(child))

    lay(fresh.root, "")


_MAGIC = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def _is_archive(node: Node) -> bool:
    """Whether ADD unpacks a file: a tar, plain or compressed, whatever its name."""
    if node.content is None:
        return False
    try:
        with node.content.open() as raw:
            reader = TarReader(_inflated(raw), max_bytes=1 << 40)
            return next(iter(reader), None) is not None
    except Exception:
        return False


def _inflated(raw: BinaryIO) -> BinaryIO:
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(raw))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast("BinaryIO", lzma.LZMAFile(raw))
    return decompressed(raw)


def _unpack(node: Node, target: Tree, destination: str, options: CopyOptions) -> None:
    """Unpacks an archive; what is in it keeps its owners and modes, flags speak of the folder alone."""
    from wain.tree import Unpacked

    uid, gid = options.owner or (0, 0)
    place = target.make_folders(destination, uid=uid, gid=gid)
    unpacked = Unpacked()
    assert node.content is not None
    with node.content.open() as raw:
        reader = TarReader(_inflated(raw), what="the archive", max_bytes=1 << 40)
        for member in reader:
            if not member.path:
                continue
            where = f"{place}/{member.path}".lstrip("/")
            parent = target.make_folders(posixpath.dirname(where))
            where = f"{parent}/{posixpath.basename(where)}".lstrip("/")
            made = Node(
                kind=member.kind, mode=member.mode & 0o7777, uid=member.uid, gid=member.gid, mtime=int(member.mtime)
            )
            there = target.get(where)
            if member.kind == "directory":
                if there is not None and there.kind == "directory":
                    own = target.own(where)
                    own.mode, own.uid, own.gid = made.mode, made.uid, made.gid
                    continue
                made.children = {}
                made.birth = directory().birth
            elif member.kind == "symlink":
                made.target = member.target
                made.mode = 0o777
            elif member.kind == "hardlink":
                known = target.get(f"{place}/{member.target}")
                if known is None or known.kind != "file":
                    raise DockerfileError(
                        f"the archive has a hard link to {member.target}, which is not in it", hint="Pack it anew."
                    )
                own = target.own(f"{place}/{member.target}")
                own.inode = own.inode or -id(own)
                made = own.copied(0)
            elif member.kind == "file":
                made.content, made.size_bytes = unpacked.keep(reader)
            else:
                raise DockerfileError(f"the archive has a {member.kind}, {member.path}", hint="Leave it out.")
            target.put(where, made)
