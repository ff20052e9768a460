"""What an ELF file says of the libraries it needs and offers; whoever made the file.

Sources: System V ABI, "Object Files" and "Dynamic Linking"; Linux Standard Base, "Symbol Versioning".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from mmap import mmap

_MACHINES = {
    (3, 32): "386",
    (21, 64): "ppc64le",
    (22, 64): "s390x",
    (40, 32): "arm",
    (62, 64): "amd64",
    (183, 64): "arm64",
    (243, 64): "riscv64",
}
_MAX_RECORDS = 65_536
_MAX_NAME_BYTES = 4096
_MAX_TEXT_BYTES = 1 << 20
"""Of all names together, which may overlap."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF


class ElfFile(Struct, frozen=True, kw_only=True):
    """The dynamic section of an executable or shared library."""

    architecture: str | None
    """As OCI platforms name it, `amd64`; `None` for a machine that is not known here."""
    interpreter: str = ""
    """Path of the dynamic loader that an executable asks for."""
    soname: str = ""
    needed: tuple[str, ...] = ()
    """Sonames, in the file's order."""
    search_path: tuple[str, ...] = ()
    """DT_RUNPATH, else DT_RPATH, as written: with `$ORIGIN`."""
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Library -> symbol versions that are needed of it, weak ones left out."""
    provides: tuple[str, ...] = ()
    """Symbol versions that the file defines, in its order, its own name left out."""


def parse_elf(data: bytes | mmap) -> ElfFile | None:
    """What the file says; `None` where it is no ELF file or a damaged one.

    >>> parse_elf(b"#!/bin/sh")

    Time and memory are bounded by fixed numbers of records, however the file is crafted.
    """
    try:
        return _Parser(data).parse()
    except (struct.error, ValueError, IndexError, OverflowError):
        return None


class _Parser:
    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        head = data[:6]
        if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
            raise ValueError("no ELF file")
        self._bits = 64 if head[4] == 2 else 32
        self._order = "<" if head[5] == 1 else ">"
        self._loads: list[tuple[int, int, int]] = []
        self._strings = (0, 0)
        self._left_bytes = _MAX_TEXT_BYTES

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        if offset < 0:
            raise ValueError("an offset is negative")
        return struct.unpack_from(self._order + layout, self._data, offset)

    def parse(self) -> ElfFile:
        is_64 = self._bits == 64
        (machine,) = self._unpack("H", 18)
        (table,) = self._unpack("Q" if is_64 else "I", 32 if is_64 else 28)
        entry_bytes, count = self._unpack("HH", 54 if is_64 else 42)
        interpreter = ""
        dynamic: tuple[int, int] | None = None
        if entry_bytes < (56 if is_64 else 32):
            count = 0
        for number in range(count):
            at = table + number * entry_bytes
            if is_64:
                kind, _, offset, address, _, size = self._unpack("IIQQQQ", at)
            else:
                kind, offset, address, _, size = self._unpack("IIIII", at)
            if kind == _PT_LOAD:
                self._loads.append((address, size, offset))
            elif kind == _PT_DYNAMIC:
                dynamic = (offset, size)
            elif kind == _PT_INTERP:
                interpreter = self._text(offset, offset + min(size, _MAX_NAME_BYTES))
        architecture = _MACHINES.get((machine, self._bits))
        if architecture == "ppc64le" and self._order == ">":
            architecture = None
        if dynamic is None:
            return ElfFile(architecture=architecture, interpreter=interpreter)
        tags = self._dynamic(*dynamic)
        values = dict(reversed(tags))
        start = self._offset(values[_DT_STRTAB]) if _DT_STRTAB in values else 0
        self._strings = (start, start + values.get(_DT_STRSZ, 0))
        paths = [value for tag, value in tags if tag == _DT_RUNPATH] or [
            value for tag, value in tags if tag == _DT_RPATH
        ]
        return ElfFile(
            architecture=architecture,
            interpreter=interpreter,
            soname=self._string(values[_DT_SONAME]) if _DT_SONAME in values else "",
            needed=tuple(self._string(value) for tag, value in tags if tag == _DT_NEEDED),
            search_path=tuple(part for value in paths[:1] for part in self._string(value).split(":") if part),
            requires=self._requires(values),
            provides=self._provides(values),
        )

    def _dynamic(self, offset: int, size: int) -> list[tuple[int, int]]:
        layout, entry_bytes = ("QQ", 16) if self._bits == 64 else ("II", 8)
        tags: list[tuple[int, int]] = []
        for number in range(min(size // entry_bytes, _MAX_RECORDS)):
            tag, value = self._unpack(layout, offset + number * entry_bytes)
            if tag == 0:
                break
            tags.append((tag, value))
        return tags

    def _offset(self, address: int) -> int:
        for start, size, offset in self._loads:
            if start <= address < start + size:
                return address - start + offset
        raise ValueError("an address lies outside the file")

    def _text(self, start: int, end: int) -> str:
        piece = self._data[start : min(end, start + _MAX_NAME_BYTES)]
        text = piece.partition(b"\0")[0]
        self._left_bytes -= len(text)
        if self._left_bytes < 0:
            raise ValueError("too many names")
        return text.decode("utf-8", "surrogateescape")

    def _string(self, index: int) -> str:
        start, end = self._strings
        if not 0 <= index < end - start:
            raise ValueError("a string lies outside the string table")
        return self._text(start + index, end)

    def _requires(self, values: Mapping[int, int]) -> dict[str, tuple[str, ...]]:
        requires: dict[str, list[str]] = {}
        if _DT_VERNEED not in values:
            return {}
        at = self._offset(values[_DT_VERNEED])
        budget = _MAX_RECORDS
        for _ in range(min(values.get(_DT_VERNEEDNUM, 0), _MAX_RECORDS)):
            _, count, file_, first, following = self._unpack("HHIII", at)
            names: list[str] = []
            inner = at + first
            for _ in range(count):
                budget -= 1
                if budget < 0:
                    raise ValueError("too many symbol versions")
                _, flags, _, name, step = self._unpack("IHHII", inner)
                if not flags & 2:  # VER_FLG_WEAK: the loader does without it
                    names.append(self._string(name))
                if not step:
                    break
                inner += step
            library = self._string(file_)
            requires.setdefault(library, []).extend(names)
            if not following:
                break
            at += following
        return {library: tuple(names) for library, names in requires.items()}

    def _provides(self, values: Mapping[int, int]) -> tuple[str, ...]:
        if _DT_VERDEF not in values:
            return ()
        names: list[str] = []
        at = self._offset(values[_DT_VERDEF])
        for _ in range(min(values.get(_DT_VERDEFNUM, 0), _MAX_RECORDS)):
            _, flags, _, count, _, first, following = self._unpack("HHHHIII", at)
            if count and not flags & 1:  # VER_FLG_BASE: the file's own name
                (name,) = self._unpack("I", at + first)
                names.append(self._string(name))
            if not following:
                break
            at += following
        return tuple(names)
