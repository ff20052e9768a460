"""Makes small ELF files whose dynamic section says what a test wants."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def make_elf(
    *,
    machine: int = 62,
    bits: int = 64,
    order: str = "<",
    interpreter: str = "",
    soname: str = "",
    needed: Sequence[str] = (),
    runpath: str = "",
    rpath: str = "",
    requires: Mapping[str, Sequence[str]] | None = None,
    weak: Sequence[str] = (),
    provides: Sequence[str] = (),
    rodata: bytes = b"",
) -> bytes:
    """A file with one load segment over all of it, mapped at 0x10000, a dynamic section, and `rodata`."""
    is_64 = bits == 64
    base = 0x10000
    header_bytes, program_bytes = (64, 56) if is_64 else (52, 32)
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        at = len(strings)
        strings.extend(value.encode() + b"\0")
        return at

    tags: list[tuple[int, int]] = [(1, text(name)) for name in needed]
    if soname:
        tags.append((14, text(soname)))
    if rpath:
        tags.append((15, text(rpath)))
    if runpath:
        tags.append((29, text(runpath)))
    requires = requires or {}
    verneed = bytearray()
    for number, (library, versions) in enumerate(requires.items()):
        size = 16 + 16 * len(versions)
        following = 0 if number == len(requires) - 1 else size
        verneed += struct.pack(order + "HHIII", 1, len(versions), text(library), 16, following)
        for count, version in enumerate(versions):
            step = 0 if count == len(versions) - 1 else 16
            flags = 2 if version in weak else 0
            verneed += struct.pack(order + "IHHII", 0, flags, 2, text(version), step)
    verdef = bytearray()
    defined = [("itself", 1), *((version, 0) for version in provides)] if provides else []
    for number, (version, flags) in enumerate(defined):
        following = 0 if number == len(defined) - 1 else 28
        verdef += struct.pack(order + "HHHHIII", 1, flags, number + 1, 1, 0, 20, following)
        verdef += struct.pack(order + "II", text(version), 0)
    interp = interpreter.encode() + b"\0" if interpreter else b""
    count = 2 + bool(interp)
    at = header_bytes + program_bytes * count
    parts: dict[str, int] = {}
    body = bytearray()
    for name, data in (("strings", bytes(strings)), ("verneed", verneed), ("verdef", verdef), ("interp", interp)):
        parts[name] = at + len(body)
        body += data
    tags += [(5, base + parts["strings"]), (10, len(strings))]
    if verneed:
        tags += [(0x6FFFFFFE, base + parts["verneed"]), (0x6FFFFFFF, len(requires))]
    if verdef:
        tags += [(0x6FFFFFFC, base + parts["verdef"]), (0x6FFFFFFD, len(defined))]
    tags.append((0, 0))
    dynamic = b"".join(struct.pack(order + ("QQ" if is_64 else "II"), tag, value) for tag, value in tags)
    dynamic_at = at + len(body)
    body += dynamic + b"\0" + rodata + b"\0"
    whole = at + len(body)

    def program(kind: int, offset: int, size: int) -> bytes:
        if is_64:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, base + offset, 0, size, size, 8)
        return struct.pack(order + "IIIIIIII", kind, offset, base + offset, 0, size, size, 4, 4)

    programs = program(1, 0, whole) + program(2, dynamic_at, len(dynamic))
    if interp:
        programs += program(3, parts["interp"], len(interp))
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    layout = "HHIQQQIHHHHHH" if is_64 else "HHIIIIIHHHHHH"
    header = ident + struct.pack(
        order + layout, 3, machine, 1, 0, header_bytes, 0, 0, header_bytes, program_bytes, count, 0, 0, 0
    )
    return header + programs + bytes(body)
