"""The dynamic loader's cache, as `ldconfig` would write it.

It speeds up the start of every program, and is all that `ctypes.util.find_library` looks at.
Source: glibc, sysdeps/generic/dl-cache.h (the format named glibc-ld.so.cache1.1) and elf/cache.c (the order).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from msgspec import Struct

_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_MAGIC = b"glibc-ld.so.cache1.1"
_LITTLE_ENDIAN = 2
_FLAG_ELF_LIBC6 = 0x0003
_ARCHITECTURE_FLAGS = {"amd64": 0x0300, "arm64": 0x0A00}


class Library(Struct, frozen=True, order=True):
    """A name by which the loader finds a library, and the file's absolute path."""

    soname: str
    path: str


def ld_cache(libraries: Iterable[Library], architecture: str) -> bytes:
    """The cache's bytes; of libraries with the same name, the one that came first is found first.

    :param architecture: `amd64` or `arm64`.
    """
    flags = _FLAG_ELF_LIBC6 | _ARCHITECTURE_FLAGS[architecture]
    ordered = sorted(dict.fromkeys(libraries), key=lambda library: _order(library.soname), reverse=True)
    strings = bytearray()
    places: dict[str, int] = {}
    start = _HEADER.size + _ENTRY.size * len(ordered)

    def place(text: str) -> int:
        if text not in places:
            places[text] = start + len(strings)
            strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return places[text]

    entries = b"".join(_ENTRY.pack(flags, place(one.soname), place(one.path), 0, 0) for one in ordered)
    return _HEADER.pack(_MAGIC, len(ordered), len(strings), _LITTLE_ENDIAN, 0) + entries + bytes(strings)


def _order(name: str) -> tuple[tuple[int, int], ...]:
    """The loader's own order, by which it searches: runs of digits by value, and any digit after any other byte."""
    key: list[tuple[int, int]] = []
    data = name.encode("utf-8", "surrogateescape")
    position = 0
    while position < len(data):
        end = position
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        if end > position:
            key.append((1, int(data[position:end])))
            position = end
        else:
            key.append((0, data[position] - 256 if data[position] > 127 else data[position]))
            position += 1
    return tuple(key)
