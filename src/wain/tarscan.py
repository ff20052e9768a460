"""A tar file's members by name, without unpacking: for files that nobody vouches for.

Sources: POSIX.1-2001 pax; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
import weakref
from typing import BinaryIO

from msgspec import Struct

from wain.errors import ImageError

BLOCK_BYTES = 512
_MAX_MEMBERS = 200_000
_MAX_EXTENSION_BYTES = 1 << 20
_MAX_SIZE_BYTES = 1 << 50
_MAX_LINKS = 10


class Member(Struct, frozen=True, kw_only=True):
    """Where a member's bytes lie in the file; of a link, the name that it leads to."""

    offset: int
    size_bytes: int
    link: str | None = None


class TarMembers:
    """The regular files and links of an uncompressed tar by their normalised names.

    It keeps a file descriptor of its own and reads by position, so threads may share it. A name that comes twice
    is the last's.

    :raises ImageError: when it is no tar, is cut short, or breaks a bound.
    """

    def __init__(self, file: BinaryIO, *, what: str) -> None:
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._what = what
        self._size = os.fstat(self._descriptor).st_size
        self._members: dict[str, Member] = {}
        self._scan()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _normal(name) in self._members

    def names(self) -> list[str]:
        return sorted(self._members)

    def find(self, name: str) -> Member:
        """The regular file of that name, links followed within the tar.

        :raises ImageError: when there is none.
        """
        at = _normal(name)
        for _ in range(_MAX_LINKS):
            member = self._members.get(at)
            if member is None:
                break
            if member.link is None:
                return member
            at = member.link
        raise self._wrong(f"has no {name[:200]!r}")

    def read(self, name: str, max_bytes: int) -> bytes:
        """A small member's bytes.

        :raises ImageError: when there is none, or it has more than `max_bytes`.
        """
        member = self.find(name)
        if member.size_bytes > max_bytes:
            raise self._wrong(f"has {name[:200]!r} of {member.size_bytes} bytes, more than {max_bytes}")
        return self.read_at(member.offset, member.size_bytes)

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly these bytes of the file.

        :raises ImageError: when it ends before them.
        """
        pieces = []
        while size:
            try:
                piece = os.pread(self._descriptor, min(size, 1 << 20), offset)
            except OSError as error:
                raise self._wrong(f"cannot be read: {error.strerror}") from error
            if not piece:
                raise self._wrong("is cut short")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _wrong(self, what: str) -> ImageError:
        return ImageError(f"{self._what} {what}", hint="Save the image again, or name another file.")

    def _scan(self) -> None:
        if os.pread(self._descriptor, 2, 0) == b"\x1f\x8b":
            raise ImageError(f"{self._what} is compressed", hint="Unpack it first (gunzip), then name the .tar file.")
        offset = 0
        overrides: dict[str, str] = {}
        count = 0
        while offset + BLOCK_BYTES <= self._size:
            block = self.read_at(offset, BLOCK_BYTES)
            offset += BLOCK_BYTES
            if not any(block):
                break
            count += 1
            if count > _MAX_MEMBERS:
                raise self._wrong(f"has more than {_MAX_MEMBERS} members")
            self._check_header(block, first=count == 1)
            kind = chr(block[156])
            size = self._number(
                overrides["size"].encode() if "size" in overrides else block[124:136], decimal="size" in overrides
            )
            if kind in "xgLK":
                size = self._number(block[124:136])
                if size > _MAX_EXTENSION_BYTES:
                    raise self._wrong("has an extended header that is too large")
                self._extend(kind, self.read_at(offset, size), overrides)
            else:
                if "size" in overrides:
                    size = self._number(overrides["size"].encode(), decimal=True)
                if kind in "12345":
                    size = 0
                self._add(block, kind, offset, size, overrides)
                overrides = {}
            if offset + size > self._size:
                raise self._wrong("is cut short")
            offset += -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if count == 0:
            raise self._wrong("is no tar file, or an empty one")

    def _check_header(self, block: bytes, *, first: bool) -> None:
        wanted = sum(block[:148]) + 8 * 32 + sum(block[156:])
        try:
            found = int(block[148:156].split(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            found = -1
        if found != wanted:
            raise self._wrong("is no tar file" if first else "has a damaged header")

    def _number(self, text: bytes, *, decimal: bool = False) -> int:
        try:
            if text[:1] in (b"\x80", b"\xff"):
                value = int.from_bytes(text[1:], "big") if text[:1] == b"\x80" else -1
            else:
                value = int(text.split(b"\0")[0].strip() or b"0", 10 if decimal else 8)
        except ValueError:
            value = -1
        if not 0 <= value <= _MAX_SIZE_BYTES:
            raise self._wrong("has a member with an impossible size")
        return value

    def _extend(self, kind: str, data: bytes, overrides: dict[str, str]) -> None:
        if kind == "L":
            overrides["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == "K":
            overrides["linkpath"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == "x":
            at = 0
            while at < len(data):
                space = data.find(b" ", at, at + 20)
                try:
                    length = int(data[at:space]) if space > 0 else 0
                except ValueError:
                    length = 0
                if length < 5 or at + length > len(data):
                    raise self._wrong("has a malformed extended header")
                key, equals, value = data[space + 1 : at + length - 1].partition(b"=")
                if equals and key in (b"path", b"linkpath", b"size"):
                    overrides[key.decode()] = value.decode("utf-8", "surrogateescape")
                at += length

    def _add(self, block: bytes, kind: str, offset: int, size: int, overrides: dict[str, str]) -> None:
        name = overrides.get("path")
        if name is None:
            short = block[:100].split(b"\0")[0]
            prefix = block[345:500].split(b"\0")[0] if block[257:262] == b"ustar" and block[262:263] == b"\0" else b""
            name = (prefix + b"/" + short if prefix else short).decode("utf-8", "surrogateescape")
        target = overrides.get("linkpath")
        if target is None:
            target = block[157:257].split(b"\0")[0].decode("utf-8", "surrogateescape")
        if kind in "07\0":
            self._members[_normal(name)] = Member(offset=offset, size_bytes=size)
        elif kind == "1":
            self._members[_normal(name)] = Member(offset=0, size_bytes=0, link=_normal(target))
        elif kind == "2":
            folder = name.rpartition("/")[0]
            led = target if target.startswith("/") or not folder else f"{folder}/{target}"
            self._members[_normal(name)] = Member(offset=0, size_bytes=0, link=_normal(led))
        elif kind == "S":
            raise self._wrong("has a sparse member")


class MemberStream:
    """A member's bytes, read by position; closing it leaves the file open."""

    def __init__(self, members: TarMembers, member: Member) -> None:
        self._members = members
        self._at = member.offset
        self._end = member.offset + member.size_bytes

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        data = self._members.read_at(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def close(self) -> None:
        """Nothing to do: the file is the tar's."""

    def __enter__(self) -> MemberStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _normal(name: str) -> str:
    """The name with `.` and `..` resolved as if the tar were the root; never a path of this machine's."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
