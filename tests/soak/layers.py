"""Layers damaged, cut and lying: merged into an image's files, or refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import zstandard

from tests.made import noise
from tests.soak.mutation import damaged, fuzz
from tests.unit.layer_maker import Member, directory, file, hardlink, make_layer, symlink
from wain.digest import Digest
from wain.errors import WainError
from wain.layers import Layer
from wain.rootfs import Rootfs
from wain.tars import decompressed

_PATHS = (
    "../x", "/etc/x", "a/../../x", "", ".", "usr/bin/x", "usr", "usr/lib", "a", "a/b", "a/b/c", ".wh.usr", ".wh.",
    ".wh...", "usr/.wh..wh..opq", ".wh..wh..opq", ".wh.usr/x", "d/" * 2000 + "x", "x" * 300, "l", "l/x", "l/l/l",
    "\udc80",
)  # fmt: skip


def _bytes_of(layer: Layer) -> bytes:
    with layer.open() as stream:
        return stream.read()


def _members() -> list[Member]:
    return [
        directory("usr"),
        directory("usr/bin"),
        file("usr/bin/tool", noise(5000), mode=0o755),
        file("usr/lib/libx.so.1", b"\x7fELF\2\1\1" + noise(9000)),
        symlink("usr/lib/libx.so", "libx.so.1"),
        hardlink("usr/bin/again", "usr/bin/tool"),
        file("usr/share/" + "n" * 180, b"x", pax_headers={"SCHILY.xattr.user.a": "b"}, mtime=1.5),
        file("etc/.wh.passwd"),
        symlink("l", "/usr/../usr"),
        file("l/below", b"y"),
    ]


def honest() -> list[bytes]:
    kinds: tuple[Callable[[bytes], bytes], ...] = (bytes, lambda data: gzip.compress(data, 1), zstandard.compress)
    gnu = io.BytesIO()
    with tarfile.open(fileobj=gnu, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in _members():
            archive.addfile(info, io.BytesIO(data))
    return [*(_bytes_of(make_layer(_members(), compress=compress)) for compress in kinds), gnu.getvalue()]


def lying(chance: random.Random) -> bytes:
    """A tar whose headers are right and whose members are not, compressed in some way."""
    stream = io.BytesIO()
    kind = chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=kind, errors="surrogateescape") as archive:
        for _ in range(chance.randrange(1, 12)):
            path = chance.choice(_PATHS)
            other = chance.choice(_PATHS)
            info, data = chance.choice(
                (symlink(path, other), hardlink(path, other), directory(path), file(path, noise(chance.randrange(600))))
            )
            info.mtime = chance.choice((0, -1, 1 << 40, 1.25))
            info.uid = chance.choice((0, 1 << 31, 1 << 40))
            if chance.random() < 0.1:
                info.type = chance.choice((b"S", b"V", b"x", b"g", b"7", b"\0", b"Z"))
            if chance.random() < 0.2 and kind == tarfile.PAX_FORMAT:
                key = chance.choice(
                    ("path", "size", "linkpath", "mtime", "GNU.sparse.realsize", "SCHILY.xattr.x", "uid")
                )
                value = chance.choice(("", "../x", "-1", "9" * 30, "1e9", "nan", "x" * 5000))
                info.pax_headers = {key: value}
            archive.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    if chance.random() < 0.6:
        data = damaged(data, [data], chance)
    compress = chance.choice((bytes, lambda data: gzip.compress(data, 1), zstandard.compress))
    return compress(data)


def attempt(data: bytes, folder: Path) -> None:
    found = hashlib.sha256()
    # A stream that does not decompress has no diff ID, and must be refused all the same.
    with contextlib.suppress(Exception):
        stream = decompressed(io.BytesIO(data))
        while chunk := stream.read(1 << 18):
            found.update(chunk)
    diff_id = Digest(f"sha256:{found.hexdigest()}")
    layer = Layer(digest=Digest.of(data), diff_id=diff_id, size_bytes=len(data), source=lambda: io.BytesIO(data))
    base = make_layer(_members())
    tree = Rootfs.of([base, layer], keep=lambda path, size: size < 1000, elf=True)
    for place, node in tree.walk():
        assert ".." not in place.split("/"), place
        assert not place.startswith("/"), place
        tree.resolve(place)
        if node.kind == "file" and node.size_bytes < 100_000:
            try:
                assert tree.read(place) is not None or tree.find(place) is None
            except WainError as error:
                assert "sparse" in error.message, error.message
    assert list(folder.iterdir()) == []


def main(seconds: float) -> None:
    """Runs for so long; a failure names the seed and keeps the input."""
    fuzz(attempt, honest(), seconds, borders=(b"ustar", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"), make=lying)
