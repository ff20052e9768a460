"""Tar headers, the same bytes for the same fields always.

Source: POSIX.1-2001 pax, "ustar interchange format" and "pax interchange format".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
"""What a tar ends with."""
ZIP_EPOCH = 315532800
"""1980-01-01 00:00:00 UTC in seconds since the epoch: the earliest that zip tools take."""

_KINDS = {"file": b"0", "hardlink": b"1", "symlink": b"2", "directory": b"5"}
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_MAX_OCTAL_11 = (1 << 33) - 1
_MAX_OCTAL_7 = (1 << 21) - 1
_TAIL = b"ustar\x0000" + bytes(64) + b"0000000\x000000000\x00"
_NO_XATTRS: Mapping[str, bytes] = {}


def padding(size_bytes: int) -> int:
    """How many zero bytes follow a member of that size."""
    return -size_bytes % BLOCK_BYTES


def header(
    path: str,
    kind: str,
    *,
    mode: int,
    size_bytes: int = 0,
    mtime: int = ZIP_EPOCH,
    uid: int = 0,
    gid: int = 0,
    target: str = "",
    xattrs: Mapping[str, bytes] = _NO_XATTRS,
) -> bytes:
    """A member's header: 512 bytes, preceded by a pax header where ustar's fields do not hold everything.

    :param path: without a leading slash; of folders without the one at the end either.
    :param kind: `file`, `directory`, `symlink` or `hardlink`.
    """
    name = path.encode("utf-8", "surrogateescape")
    link = target.encode("utf-8", "surrogateescape")
    if kind == "directory":
        name += b"/"
    prefix = b""
    if len(name) > _NAME_BYTES or not name.isascii() or link or xattrs:
        records: list[tuple[bytes, bytes]] = []
        fitting = _split(name) if name.isascii() else None
        if fitting is None:
            records.append((b"path", name))
            name = name[-_NAME_BYTES:].lstrip(b"/") if name.isascii() else b"pax"
        else:
            prefix, name = fitting
        if len(link) > _NAME_BYTES or not link.isascii():
            records.append((b"linkpath", link))
            link = b"pax"
        records += [(b"SCHILY.xattr." + key.encode(), value) for key, value in sorted(xattrs.items())]
    else:
        records = []
    if size_bytes > _MAX_OCTAL_11:
        records.append((b"size", b"%d" % size_bytes))
    if not 0 <= mtime <= _MAX_OCTAL_11:
        records.append((b"mtime", b"%d" % mtime))
    records += [(key, b"%d" % value) for key, value in ((b"uid", uid), (b"gid", gid)) if value > _MAX_OCTAL_7]
    block = _block(
        name,
        _KINDS[kind],
        mode=mode,
        size_bytes=size_bytes if size_bytes <= _MAX_OCTAL_11 else 0,
        mtime=mtime if 0 <= mtime <= _MAX_OCTAL_11 else 0,
        uid=uid if uid <= _MAX_OCTAL_7 else 0,
        gid=gid if gid <= _MAX_OCTAL_7 else 0,
        link=link,
        prefix=prefix,
    )
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in records)
    extension = _block(b"PaxHeaders/pax", b"x", mode=0o644, size_bytes=len(body), mtime=ZIP_EPOCH)
    return extension + body + bytes(padding(len(body))) + block


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    size_bytes: int,
    mtime: int,
    uid: int = 0,
    gid: int = 0,
    link: bytes = b"",
    prefix: bytes = b"",
) -> bytes:
    owner, time, fixed = _fixed(mode, uid, gid, mtime)
    size = b"%011o\0" % size_bytes
    total = sum(name) + sum(size) + fixed + kind[0] + sum(link) + sum(prefix)
    return b"".join(
        (
            name.ljust(100, b"\0"),
            owner,
            size,
            time,
            b"%06o\0 " % total,
            kind,
            link.ljust(100, b"\0") if link else _NO_LINK,
            _TAIL,
            prefix.ljust(167, b"\0") if prefix else _NO_PREFIX,
        )
    )


@functools.lru_cache(maxsize=256)
def _fixed(mode: int, uid: int, gid: int, mtime: int) -> tuple[bytes, bytes, int]:
    """The fields that most members of a tar share, with their part of the checksum.

    The checksum is the sum of all bytes of the header, its own field taken as eight blanks.
    """
    owner, time = b"%07o\0%07o\0%07o\0" % (mode, uid, gid), b"%011o\0" % mtime
    return owner, time, sum(owner) + sum(time) + sum(_TAIL) + 8 * 32


_NO_LINK = bytes(100)
_NO_PREFIX = bytes(167)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar's fields hold them; None where they cannot."""
    if len(name) <= _NAME_BYTES:
        return b"", name
    if len(name) > _NAME_BYTES + 1 + _PREFIX_BYTES:
        return None
    at = name.find(b"/", len(name) - _NAME_BYTES - 1, len(name) - 1)
    if at < 1 or at > _PREFIX_BYTES:
        return None
    return name[:at], name[at + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a line break, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)
