"""Wheels in a stage's tree: files that know which installation they belong to, so that what was installed together
becomes layers of wheels.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from msgspec import Struct

from wain.digest import Digest
from wain.filework import Actor
from wain.grouping import OVERFLOW_SLOTS, SLOTS, Item, group
from wain.install import PlannedFile, Scheme, colliding, plan_install
from wain.layers import Folder, Layer, wheel_layer
from wain.store import Store
from wain.tree import Node, Tree
from wain.wheels import Wheel


class WheelFile(Struct, frozen=True, eq=False):
    """A file of a wheel that is installed: its bytes, and the installation that it belongs to."""

    share: Share
    file: PlannedFile

    def open(self) -> BinaryIO:
        if self.file.member is None:
            return io.BytesIO(self.file.data or b"")
        if self.file.size_bytes < 1 << 20:
            return io.BytesIO(b"".join(self.file.wheel.chunks(self.file.member)))
        return _Chunks(self.file.wheel.chunks(self.file.member))  # type: ignore[return-value]


class _Chunks:
    """A reader over chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            held, self._held = self._held, b""
            return held + b"".join(self._chunks)
        while len(self._held) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        out, self._held = self._held[:size], self._held[size:]
        return out

    def close(self) -> None:
        self._held = b""

    def __enter__(self) -> _Chunks:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Share(Struct, frozen=True, kw_only=True, eq=False):
    """Wheels that were installed together and may have a layer of their own."""

    wheels: tuple[Wheel, ...]
    scheme: Scheme
    count: int
    """How many files they have."""

    def layer(self, tree: Tree, store: Store) -> Layer:
        """The layer of exactly these files, with the folders as the tree has them."""
        folders = {}
        for path in plan_install(self.wheels, self.scheme).folders:
            node = tree.get(path)
            if node is not None and (node.mode, node.uid, node.gid) != (0o755, 0, 0):
                folders[path] = Folder(mode=node.mode, uid=node.uid, gid=node.gid)
        return wheel_layer(self.wheels, self.scheme, store=store, folders=folders)


def put_wheels(tree: Tree, wheels: Sequence[Wheel], scheme: Scheme, actor: Actor, *, skips: bool = False) -> None:
    """Puts the files of wheels where the scheme says, in shares that may become layers."""
    clusters = [cluster for cluster in colliding(wheels, scheme) if len(cluster) > 1]
    together = {wheel.name for cluster in clusters for wheel in cluster}
    members: dict[Digest, tuple[Wheel, ...]] = {}
    items = []
    for cluster in (*clusters, *((wheel,) for wheel in wheels if wheel.name not in together)):
        members[cluster[0].digest] = tuple(cluster)
        items.append(
            Item(
                name=cluster[0].name,
                size_bytes=sum(wheel.size_bytes for wheel in cluster),
                digests=(cluster[0].digest,),
            )
        )
    for share_items in group(items, budget=SLOTS + OVERFLOW_SLOTS + 8):
        chosen = tuple(itertools.chain.from_iterable(members[item.digests[0]] for item in share_items))
        plan = plan_install(chosen, scheme)
        share = Share(wheels=plan.wheels, scheme=scheme, count=len(plan.files))
        put_plan(tree, plan.files, share, actor, skips=skips)


def put_plan(tree: Tree, files: Sequence[PlannedFile], share: Share, actor: Actor, *, skips: bool = False) -> None:
    """Puts planned files into a tree as their user's."""
    made: set[str] = set()
    for file in files:
        folder = file.path.rpartition("/")[0]
        if folder not in made:
            tree.make_folders(folder, uid=actor.uid, gid=actor.gid)
            made.add(folder)
        if skips and tree.get(file.path) is not None:
            continue
        tree.put(
            file.path,
            Node(
                kind="file",
                mode=file.mode,
                uid=actor.uid,
                gid=actor.gid,
                size_bytes=file.size_bytes,
                content=WheelFile(share, file),
            ),
        )


def wheel_of(tree: Tree, path: str) -> Digest | None:
    """The digest of the wheel that a file came with; None for another file."""
    node = tree.get(path)
    return node.content.file.wheel.digest if node is not None and isinstance(node.content, WheelFile) else None
