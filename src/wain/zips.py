"""The members of a zip file, found without unpacking and read without trust.

Sources: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; RFC 1951.
"""

from __future__ import annotations

import itertools
import re
import stat
import struct
from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from wain.errors import WheelError

STORED = 0
DEFLATED = 8

MAX_PATH_BYTES = 4096
"""Linux's PATH_MAX: no file with a longer path can be made."""
MAX_PART_BYTES = 255
MAX_DEPTH = 100
"""Folders around a member: with more, a small archive would name gigabytes of folders."""
MAX_DIRECTORY_BYTES = 512 << 20
"""Of the central directory: some five million members."""
MAX_UNPACKED_BYTES = 1 << 37
BOMB_BYTES = 1 << 30
BOMB_RATIO = 200
"""An archive that unpacks to more than `BOMB_BYTES` and to this many times its own size is refused."""
CHUNK_BYTES = 1 << 18

_INPUT_BYTES = 1 << 16
_DEFLATE_MAX_RATIO = 1032
_END = Struct("<4s4H2LH")
_LOCATOR64 = Struct("<4sLQL")
_END64 = Struct("<4sQ2H2L4Q")
_CENTRAL = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCHED = 0x20
_UTF8 = 0x800
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]|^/|(?:^|/)\.\.?(?:/|$)|//")
_HINT = "The file is damaged or hostile: fetch it again, or build it again, or tell who publishes it."


class Member(NamedTuple):
    """One file of an archive. (A tuple, for an archive may have ten thousand of them.)"""

    path: str
    """With `/`; no leading one, no empty, `.` or `..` parts, no control characters."""
    offset: int
    """In the archive, of the first byte of the member's data."""
    compressed_bytes: int
    size_bytes: int
    crc: int
    """CRC-32 of the uncompressed bytes."""
    method: int
    """`STORED` or `DEFLATED`."""
    is_executable: bool


def read_members(data: memoryview, *, what: str) -> tuple[Member, ...]:
    """The files that the central directory lists, in its order; folders are left out.

    Every member lies within the file and overlaps no other, has a safe path, stands in the archive once, is
    a plain file, and is described alike in its two headers.

    :param what: names the archive in errors.
    :raises WheelError: when one of these does not hold, or it would unpack to an unreasonable size.
    """
    return _Directory(data, what).read()


class _Directory:
    def __init__(self, data: memoryview, what: str) -> None:
        self._data = data
        self._what = what

    def wrong(self, detail: str) -> WheelError:
        return WheelError(f"{self._what}: {detail}", hint=_HINT)

    def read(self) -> tuple[Member, ...]:
        data, wrong = self._data, self.wrong
        count, directory, directory_end = self._find()
        entries = bytes(data[directory:directory_end])
        position, end = 0, len(entries)
        spans: list[tuple[int, int]] = []
        seen: set[str] = set()
        folders: set[str] = set()
        found: list[Member] = []
        total = 0
        unpack_central, unpack_local = _CENTRAL.unpack_from, _LOCAL.unpack_from
        central_bytes, local_bytes = _CENTRAL.size, _LOCAL.size
        make = Member._make
        for _ in range(count):
            if position + central_bytes > end:
                raise wrong("its directory ends early")
            (
                magic, _, _, flags, method, _, _, crc, compressed, size,
                name_bytes, extra_bytes, comment_bytes, disk, _, attributes, header,
            ) = unpack_central(entries, position)  # fmt: skip
            name_start = position + central_bytes
            extra_start = name_start + name_bytes
            position = extra_start + extra_bytes + comment_bytes
            if magic != b"PK\1\2" or position > end:
                raise wrong("its directory is damaged")
            raw_name = entries[name_start:extra_start]
            try:
                name = raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
            except UnicodeDecodeError as error:
                raise wrong(f"a member's name is not UTF-8: {raw_name[:100]!r}") from error
            if 0xFFFFFFFF in (compressed, size, header):
                extra = entries[extra_start : extra_start + extra_bytes]
                compressed, size, header = self._extended(extra, compressed, size, header)
            if flags & (_ENCRYPTED | _PATCHED):
                raise wrong(f"{name[:100]!r} is encrypted or a patch")
            if disk:
                raise wrong("it is one part of several")
            is_folder = name.endswith("/")
            path = name[:-1] if is_folder else name
            self._check_path(path)
            mode = attributes >> 16
            kind = mode & 0o170000
            if kind and kind != (stat.S_IFDIR if is_folder else stat.S_IFREG):
                raise wrong(f"{name[:100]!r} is a link, a device or the like; a wheel has only files")
            if header + local_bytes > directory:
                raise wrong(f"{name[:100]!r} is said to stand behind the last member")
            local = unpack_local(data, header)
            name_at = header + local_bytes
            start = name_at + local[9] + local[10]
            if local[0] != b"PK\3\4" or bytes(data[name_at : name_at + local[9]]) != raw_name:
                raise wrong(f"{name[:100]!r} is not where the directory says")
            if local[3] != method or local[2] & _ENCRYPTED:
                raise wrong(f"{name[:100]!r} is described in two ways")
            spans.append((header, start + compressed))
            if is_folder:
                if size:
                    raise wrong(f"the folder {name[:100]!r} has bytes")
                folders.add(path)
                continue
            if method not in (STORED, DEFLATED):
                raise wrong(f"{name[:100]!r} is compressed by method {method}; wheels use DEFLATE")
            if size != compressed if method == STORED else size > compressed * _DEFLATE_MAX_RATIO:
                raise wrong(f"{name[:100]!r} cannot have {size} bytes, stored as it is in {compressed}")
            if path in seen:
                raise wrong(f"{name[:100]!r} stands in it twice")
            seen.add(path)
            total += size
            executable = kind == stat.S_IFREG and mode & 0o111 != 0
            found.append(make((path, start, compressed, size, crc, method, executable)))
        if position != end:
            raise wrong("its directory has more bytes than its members take")
        self._check_spans(spans, directory)
        if total > MAX_UNPACKED_BYTES or (total > BOMB_BYTES and total > BOMB_RATIO * len(data)):
            raise wrong(f"it would unpack to {total} bytes from {len(data)}, which no honest archive does")
        self._check_folders(seen, folders)
        return tuple(found)

    def _find(self) -> tuple[int, int, int]:
        """How many members there are, and where the central directory starts and ends."""
        data, wrong = self._data, self.wrong
        tail_start = max(0, len(data) - _END.size - 0xFFFF)
        tail = bytes(data[tail_start:])
        at = tail.rfind(b"PK\5\6")
        while at >= 0:
            if len(tail) - at >= _END.size:
                _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
                if at + _END.size + comment == len(tail):
                    break
            at = tail.rfind(b"PK\5\6", 0, at)
        else:
            raise wrong("it is no zip file, or ends early")
        end = tail_start + at
        locator = end - _LOCATOR64.size
        is_large = 0xFFFF in (here, count) or 0xFFFFFFFF in (length, start)
        if is_large and locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
            _, disk, end64, disks = _LOCATOR64.unpack_from(data, locator)
            if end64 + _END64.size > locator or bytes(data[end64 : end64 + 4]) != b"PK\6\6" or disks > 1:
                raise wrong("its zip64 record is damaged")
            record = _END64.unpack_from(data, end64)
            if end64 + 12 + record[1] != locator:
                raise wrong("its zip64 record is damaged")
            disk, first_disk, here, count, length, start = record[4:]
            end = end64
        if disk or first_disk or here != count:
            raise wrong("it is one part of several")
        if start + length != end:
            raise wrong("there are bytes before its first member or after its directory")
        if length > MAX_DIRECTORY_BYTES or count * _CENTRAL.size > length:
            raise wrong(f"its directory of {count} members cannot have {length} bytes")
        return count, start, end

    def _extended(self, extra: bytes, compressed: int, size: int, header: int) -> tuple[int, int, int]:
        """The sizes and offset of a member whose own are in its zip64 extra field."""
        position = 0
        while position + 4 <= len(extra):
            kind, length = Struct("<2H").unpack_from(extra, position)
            field = extra[position + 4 : position + 4 + length]
            position += 4 + length
            if kind != 1:
                continue
            values = []
            offset = 0
            try:
                for value in (size, compressed, header):
                    if value == 0xFFFFFFFF:
                        (value,) = Struct("<Q").unpack_from(field, offset)
                        offset += 8
                    values.append(value)
            except struct.error as error:
                raise self.wrong("a zip64 field is damaged") from error
            return values[1], values[0], values[2]
        return compressed, size, header

    def _check_path(self, path: str) -> None:
        odd = not path.isprintable() or "/." in path or "//" in path or path[:1] in ("", "/", ".")
        if odd and (not path or _UNSAFE.search(path)):
            raise self.wrong(f"{path[:100]!r} is no path within it")
        if len(path) * 4 > MAX_PART_BYTES:
            encoded = path.encode("utf-8", "surrogatepass")
            if len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_PART_BYTES:
                raise self.wrong(f"the path {path[:100]!r}... is longer than any file system allows")
            if path.count("/") > MAX_DEPTH:
                raise self.wrong(f"the path {path[:100]!r}... is more than {MAX_DEPTH} folders deep")

    def _check_spans(self, spans: list[tuple[int, int]], limit: int) -> None:
        spans.sort()
        for (_, end), (following, _) in itertools.pairwise([*spans, (limit, limit)]):
            if end > following:
                raise self.wrong("its members overlap")

    def _check_folders(self, files: set[str], folders: set[str]) -> None:
        for path in files:
            parent = path.rpartition("/")[0]
            while parent and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
        if both := files & folders:
            raise self.wrong(f"{min(both)[:100]!r} is both a file and a folder in it")


class Inflation:
    """One reading of a member; afterwards it is known whether its stream may be copied as it stands.

    :param data: the archive.
    :param wrong: makes an error of a detail.
    """

    __slots__ = ("_data", "_member", "_wrong", "exact")

    def __init__(self, data: memoryview, member: Member, wrong: Callable[[str], WheelError]) -> None:
        self._data = data
        self._member = member
        self._wrong = wrong
        self.exact = False
        """After `chunks` has ended: the member is one DEFLATE stream that consumes exactly its compressed
        size and yields exactly its size."""

    def chunks(self) -> Iterator[bytes]:
        """The uncompressed bytes, in pieces of at most `CHUNK_BYTES`; they are right when it has ended.

        A stream that goes on behind the promised size is cut there, as zip readers do.

        :raises WheelError: when the stream is damaged, or its size or CRC is not the promised one.
        """
        from isal.isal_zlib import crc32

        member = self._member
        left, crc = member.size_bytes, 0
        for piece in self._stored() if member.method == STORED else self._inflated():
            chunk = piece if len(piece) <= left else piece[:left]
            left -= len(chunk)
            crc = crc32(chunk, crc)
            if chunk:
                yield chunk
        if left:
            raise self._wrong(f"{member.path} ends {left} bytes short of its {member.size_bytes}")
        if crc != member.crc:
            self.exact = False
            raise self._wrong(f"{member.path} has CRC {crc:08x}, not {member.crc:08x}")

    def _stored(self) -> Iterator[bytes]:
        start, end = self._member.offset, self._member.offset + self._member.compressed_bytes
        for position in range(start, end, CHUNK_BYTES):
            yield bytes(self._data[position : min(position + CHUNK_BYTES, end)])

    def _inflated(self) -> Iterator[bytes]:
        from isal.igzip_lib import IgzipDecompressor, IsalError

        member, data = self._member, self._data
        position, end = member.offset, member.offset + member.compressed_bytes
        left = member.size_bytes
        inflater = IgzipDecompressor(0, 15)
        decompress = inflater.decompress
        try:
            while not inflater.eof:
                if inflater.needs_input:
                    if position >= end:
                        return
                    following = min(position + _INPUT_BYTES, end)
                    chunk = decompress(data[position:following], CHUNK_BYTES)
                    position = following
                else:
                    chunk = decompress(b"", CHUNK_BYTES)
                    if not chunk and not inflater.eof and not inflater.needs_input:
                        raise self._wrong(f"{member.path} is no DEFLATE stream: it stands still")
                left -= len(chunk)
                yield chunk
                if left < 0:
                    return
        except IsalError as error:  # type: ignore[misc]  # the stubs forget that it is an Exception
            raise self._wrong(f"{member.path} is no DEFLATE stream: {error}") from error
        self.exact = left == 0 and position == end and not inflater.unused_data
