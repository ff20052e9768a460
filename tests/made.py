"""Wheels made byte by byte, honest ones and others."""

from __future__ import annotations

import base64
import functools
import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wain.digest import Digest
from wain.wheels import Wheel


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One member of a zip; what is None is as it must be, all else lies."""

    name: str
    data: bytes = b""
    method: int = 8
    level: int = 9
    mode: int = 0o100644
    flags: int = 0
    raw: bytes | None = None
    """The member's stream."""
    crc: int | None = None
    size: int | None = None
    compressed: int | None = None
    local_name: str | None = None
    offset: int | None = None
    has_descriptor: bool = False
    zip64: bool = False

    @property
    def stream(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.method != 8:
            return self.data
        compressor = zlib.compressobj(self.level, zlib.DEFLATED, -15)
        return compressor.compress(self.data) + compressor.flush()


def make_zip(items: Sequence[Item], *, comment: bytes = b"", zip64: bool = False, prefix: bytes = b"") -> bytes:
    out = bytearray(prefix)
    directory = bytearray()
    for item in items:
        offset = len(out) if item.offset is None else item.offset
        stream = item.stream
        crc = zlib.crc32(item.data) if item.crc is None else item.crc
        size = len(item.data) if item.size is None else item.size
        compressed = len(stream) if item.compressed is None else item.compressed
        name = item.name.encode()
        flags = item.flags | (0 if name.isascii() else 0x800) | (8 if item.has_descriptor else 0)
        local_name = name if item.local_name is None else item.local_name.encode()
        known = (0, 0, 0) if item.has_descriptor else (crc, compressed, size)
        out += struct.pack(
            "<4s5H3L2H",
            b"PK\3\4",
            20,
            flags,
            item.method,
            0,
            33,
            *(min(n, 0xFFFFFFFF) for n in known),
            len(local_name),
            0,
        )
        out += local_name + stream
        if item.has_descriptor:
            out += struct.pack("<4s3L", b"PK\7\10", crc, compressed & 0xFFFFFFFF, size & 0xFFFFFFFF)
        extra = b""
        fields = (compressed, size, offset)
        if item.zip64:
            extra = struct.pack("<2H3Q", 1, 24, size, compressed, offset)
            fields = (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, flags, item.method, 0, 33, crc,
            min(fields[0], 0xFFFFFFFF), min(fields[1], 0xFFFFFFFF), len(name), len(extra), 0, 0, 0,
            item.mode << 16, min(fields[2], 0xFFFFFFFF),
        )  # fmt: skip
        directory += name + extra
    start, count = len(out), len(items)
    out += directory
    if zip64:
        end = len(out)
        out += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
        out += struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
        out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, len(comment))
    else:
        out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, len(comment))
    return bytes(out + comment)


def row(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(data)}\n"


def wheel_items(
    files: Mapping[str, bytes] | Sequence[Item] = (),
    *,
    name: str = "pkg",
    version: str = "1.0",
    entry_points: str = "",
    purelib: bool = True,
    record: str | None = None,
    metadata: str = "",
    level: int = 9,
) -> list[Item]:
    """The members of a wheel: its files, and its .dist-info behind them."""
    given = (
        [Item(name=path, data=data, level=level) for path, data in files.items()]
        if isinstance(files, Mapping)
        else [*files]
    )
    info = f"{name}-{version}.dist-info/"
    lines = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}\n"
    made = [
        Item(name=info + "METADATA", data=lines.encode(), level=level),
        Item(
            name=info + "WHEEL",
            data=f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(purelib).lower()}\nTag: py3-none-any\n".encode(),
            level=level,
        ),
    ]
    if entry_points:
        made.append(Item(name=info + "entry_points.txt", data=entry_points.encode(), level=level))
    if record is None:
        record = "".join(row(item.name, item.data) for item in [*given, *made]) + f"{info}RECORD,,\n"
    return [*given, *made, Item(name=info + "RECORD", data=record.encode(), level=level)]


def save(folder: Path, data: bytes, *, name: str = "pkg", version: str = "1.0", tag: str = "py3-none-any") -> Wheel:
    """Writes a wheel's file and opens it."""
    path = folder / f"{name}-{version}-{tag}.whl"
    path.write_bytes(data)
    return Wheel.open(path, digest=Digest.of(data))


def make_wheel(
    folder: Path,
    files: Mapping[str, bytes] | Sequence[Item] = (),
    *,
    name: str = "pkg",
    version: str = "1.0",
    **options: object,
) -> Wheel:
    """A wheel of these files, opened."""
    items = wheel_items(files, name=name, version=version, **options)  # type: ignore[arg-type]
    return save(folder, make_zip(items), name=name, version=version)


@functools.cache
def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that compress to two thirds: always the same, half text and half not."""
    words = (b"self.", b"def read", b"return", b"value", b"None\n", b"if not ")
    out: list[bytes] = []
    made = number = 0
    while made < size_bytes:
        block = hashlib.sha256(b"%d %d" % (seed, number)).digest()
        kind = block[0] % 8
        piece = block if kind < 4 else b" ".join(words[: 1 + kind % 6]) + block[:kind]
        out.append(piece)
        made += len(piece)
        number += 1
    return b"".join(out)[:size_bytes]
