"""Tar streams, read once from front to back with bounded memory, whoever made them.

Sources: POSIX.1-2001 pax, "ustar interchange format"; GNU tar manual, "Basic Tar Format"; OCI image
specification, layer.md.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, BinaryIO, cast

from msgspec import Struct, field

from wain.errors import ImageError

BLOCK_BYTES = 512
MAX_PATH_BYTES = 4096
"""Linux's PATH_MAX: no file with a longer path can be made."""
MAX_EXTENSION_BYTES = 1 << 20
"""The largest pax header or GNU long name that is read; extended attributes stand in it."""

_CHUNK_BYTES = 1 << 18
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}
_XATTR = "SCHILY.xattr."
_DAMAGED = "The archive is damaged or made by a faulty tool; fetch or make it again."


class TarMember(Struct, frozen=True, kw_only=True):
    """One member of a tar: its header, with what pax and GNU extensions say of it."""

    path: str
    """Relative to the archive's root: no leading slash, no `.` or `..` parts; empty for the root itself.
    Bytes that are not UTF-8 are surrogate escapes."""
    kind: str
    """`file`, `directory`, `symlink`, `hardlink`, `device` or `fifo`."""
    mode: int
    uid: int
    gid: int
    mtime: float
    """Seconds since the epoch."""
    size_bytes: int
    """The file's; 0 for whatever is no file."""
    stored_bytes: int
    """What the archive holds of it: less than the size of a sparse file."""
    target: str = ""
    """Of a symbolic link, as `readlink` gives it; of a hard link, a path like `path`."""
    device: tuple[str, int, int] | None = None
    """`char` or `block`, major, minor."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    is_sparse: bool = False


class TarReader:
    """The members of a tar, in order, each followed at will by its bytes.

    >>> reader = TarReader(io.BytesIO(bytes(1024)))
    >>> list(reader)
    []

    Iterating moves on past whatever was not read. After the archive's end the stream is read to its own end,
    so that a verifying stream has verified itself.

    :param what: names the archive in errors.
    :raises ImageError: from the iteration, when a header is damaged, a path leaves the root or is longer
        than a path can be, the archive ends early, or limits are passed.
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        what: str = "the archive",
        max_members: int = 2_000_000,
        max_bytes: int = 1 << 40,
    ) -> None:
        self._stream = stream
        self._what = what
        self._max_members = max_members
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._buffer = b""
        self._position = 0
        self._left_bytes = 0
        self._padding_bytes = 0

    def __iter__(self) -> Iterator[TarMember]:
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > self._max_members:
                raise self._wrong(f"has more than {self._max_members} members")
            yield member
        self._drain()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes of the member that the iteration gave last; all that is left where negative.

        Of a sparse file it is what the archive stores, without its holes.
        """
        wanted = self._left_bytes if size < 0 else min(size, self._left_bytes)
        data = self._take(wanted)
        self._left_bytes -= wanted
        return data

    def chunks(self) -> Iterator[bytes]:
        """What is left of the member's bytes, in pieces of bounded size."""
        while self._left_bytes:
            yield self.read(_CHUNK_BYTES)

    def _wrong(self, detail: str) -> ImageError:
        return ImageError(f"{self._what} {detail}", hint=_DAMAGED)

    def _fill(self) -> bool:
        """Read one chunk more; False at the stream's end."""
        try:
            data = self._stream.read(_CHUNK_BYTES)
        except (EOFError, zlib.error, ValueError) as error:
            raise self._wrong(f"does not decompress: {error}") from error
        except OSError as error:
            # gzip readers tell of bad magic and bad checksums by an OSError without errno.
            if error.errno is not None:
                raise
            raise self._wrong(f"does not decompress: {error}") from error
        except Exception as error:
            # The decompressors' own errors have no common root but Exception, and they are imported late.
            if type(error).__name__ in ("IsalError", "ZstdError", "LZMAError"):
                raise self._wrong(f"does not decompress: {error}") from error
            raise
        if not data:
            return False
        self._taken_bytes += len(data)
        if self._taken_bytes > self._max_bytes:
            raise self._wrong(f"unpacks to more than {self._max_bytes} bytes")
        self._buffer = self._buffer[self._position :] + data if self._position < len(self._buffer) else data
        self._position = 0
        return True

    def _take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        have = len(self._buffer) - self._position
        if have >= count:
            start = self._position
            self._position += count
            return self._buffer[start : start + count]
        if count <= _CHUNK_BYTES:
            while len(self._buffer) - self._position < count:
                if not self._fill():
                    raise self._wrong("ends before its last member does")
            return self._take(count)
        pieces = []
        while count:
            if self._position == len(self._buffer) and not self._fill():
                raise self._wrong("ends before its last member does")
            piece = self._buffer[self._position : self._position + count]
            self._position += len(piece)
            count -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _skip(self, count: int) -> None:
        while count:
            have = len(self._buffer) - self._position
            if have >= count:
                self._position += count
                return
            count -= have
            self._position = len(self._buffer)
            if not self._fill():
                raise self._wrong("ends before its last member does")

    def _drain(self) -> None:
        self._position = len(self._buffer)
        while self._fill():
            self._position = len(self._buffer)

    def _next(self) -> TarMember | None:
        self._skip(self._left_bytes + self._padding_bytes)
        self._left_bytes = self._padding_bytes = 0
        pax: dict[str, bytes] = {}
        long_name: bytes | None = None
        long_link: bytes | None = None
        while True:
            if self._position == len(self._buffer) and not self._fill():
                return None  # an archive without its end marker; readers of layers accept it
            block = self._take(BLOCK_BYTES)
            if not block.strip(b"\0"):
                return None
            fields = _HEADER.unpack(block)
            self._check_sum(block, fields[6])
            typeflag = fields[7]
            size = self._number(fields[4], "size")
            if typeflag in (b"x", b"g", b"L", b"K", b"X"):
                if size > MAX_EXTENSION_BYTES:
                    raise self._wrong(f"has an extended header of {size} bytes")
                data = self._take(size)
                self._skip(-size % BLOCK_BYTES)
                if typeflag in (b"x", b"X"):
                    pax = self._pax(data)
                elif typeflag == b"L":
                    long_name = data.partition(b"\0")[0]
                elif typeflag == b"K":
                    long_link = data.partition(b"\0")[0]
                continue  # global headers (g) are comments; readers of layers ignore them
            return self._member(fields, block, pax, long_name, long_link)

    def _member(
        self,
        fields: tuple[bytes, ...],
        block: bytes,
        pax: Mapping[str, bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> TarMember:
        typeflag = fields[7]
        kind = _KINDS.get(typeflag)
        if kind is None:
            raise self._wrong(f"has a member of unknown type {typeflag!r}")
        name = long_name
        if name is None:
            name = fields[0].partition(b"\0")[0]
            if fields[9] == b"ustar\0" and fields[15][0]:
                name = fields[15].partition(b"\0")[0] + b"/" + name
        link = long_link if long_link is not None else fields[8].partition(b"\0")[0]
        size = self._number(fields[4], "size")
        uid, gid = self._number(fields[2], "uid"), self._number(fields[3], "gid")
        mtime: float = self._number(fields[5], "mtime", signed=True)
        xattrs: dict[str, bytes] = {}
        real_size: int | None = None
        is_sparse = typeflag == b"S"
        if pax:
            name = pax.get("path", name)
            link = pax.get("linkpath", link)
            size = self._pax_number(pax, "size", size)
            uid = self._pax_number(pax, "uid", uid)
            gid = self._pax_number(pax, "gid", gid)
            mtime = self._pax_time(pax, mtime)
            xattrs = {key.removeprefix(_XATTR): value for key, value in pax.items() if key.startswith(_XATTR)}
            if any(key.startswith("GNU.sparse.") for key in pax):
                is_sparse = True
                name = pax.get("GNU.sparse.name", name)
                real_size = self._pax_number(pax, "GNU.sparse.realsize", self._pax_number(pax, "GNU.sparse.size", size))
        if b"\0" in name or b"\0" in link:
            raise self._wrong("has a path with a NUL in it")
        if kind == "file" and name.endswith(b"/") and not is_sparse:
            kind = "directory"  # how tars older than the directory type mark one
        path = self._clean(name)
        if kind != "file":
            # Only files carry bytes; some tools write a hard link's size without bytes behind it.
            size = 0
        if size > self._max_bytes:
            raise self._wrong(f"has a member of {size} bytes")
        self._left_bytes = size
        self._padding_bytes = -size % BLOCK_BYTES
        if typeflag == b"S":
            real_size = self._number(block[483:495], "real size")
            extended = block[482:483] != b"\0"
            while extended:
                extended = self._take(BLOCK_BYTES)[504:505] not in (b"\0", b"")
        target = ""
        device = None
        if kind == "symlink":
            if len(link) > MAX_PATH_BYTES:
                raise self._wrong(f"has a link target of {len(link)} bytes")
            target = link.decode("utf-8", "surrogateescape")
        elif kind == "hardlink":
            target = self._clean(link)
        elif kind == "device":
            device = (
                "char" if typeflag == b"3" else "block",
                self._number(fields[13], "device major"),
                self._number(fields[14], "device minor"),
            )
        return TarMember(
            path=path,
            kind=kind,
            mode=self._number(fields[1], "mode") & 0o7777,
            uid=uid,
            gid=gid,
            mtime=mtime,
            size_bytes=size if real_size is None else real_size,
            stored_bytes=size,
            target=target,
            device=device,
            xattrs=xattrs,
            is_sparse=is_sparse,
        )

    def _clean(self, name: bytes) -> str:
        if len(name) > MAX_PATH_BYTES:
            raise self._wrong(f"has a path of {len(name)} bytes")
        text = name.decode("utf-8", "surrogateescape")
        if text[:1] not in ("/", ".", "") and text[-1] != "/" and "//" not in text and "/." not in text:
            return text
        parts: list[str] = []
        for part in text.split("/"):
            if part == "..":
                if not parts:
                    raise self._wrong(f"has a path that leaves the root: {text[:200]!r}")
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    def _check_sum(self, block: bytes, field_: bytes) -> None:
        stored = self._number(field_, "checksum")
        rest = block[:148] + b"        " + block[156:]
        if sum(rest) != stored and sum(byte - 256 if byte > 127 else byte for byte in rest) != stored:
            raise self._wrong("has a header with a wrong checksum")

    def _number(self, field_: bytes, what: str, *, signed: bool = False) -> int:
        if field_[0] & 0x80:  # base 256
            value = int.from_bytes(field_, "big") & ((1 << (8 * len(field_) - 1)) - 1)
            if field_[0] & 0x40:
                value -= 1 << (8 * len(field_) - 1)
        else:
            digits = field_.partition(b"\0")[0].strip()
            if digits and not digits.isdigit():
                raise self._wrong(f"has a header whose {what} is {field_!r}")
            try:
                value = int(digits, 8) if digits else 0
            except ValueError as error:
                raise self._wrong(f"has a header whose {what} is {field_!r}") from error
        if (value < 0 and not signed) or abs(value) >= 1 << 63:
            raise self._wrong(f"has a header whose {what} is {value}")
        return value

    def _pax(self, data: bytes) -> dict[str, bytes]:
        records: dict[str, bytes] = {}
        position = 0
        while position < len(data):
            match = _PAX_LENGTH.match(data, position)
            length = int(match[1]) if match else 0
            end = position + length
            if match is None or end > len(data) or data[end - 1 : end] != b"\n" or match.end() >= end:
                raise self._wrong("has a malformed pax header")
            key, equals, value = data[match.end() : end - 1].partition(b"=")
            if not equals:
                raise self._wrong("has a malformed pax header")
            name = key.decode("utf-8", "surrogateescape")
            if value or name.startswith(_XATTR):
                records[name] = value
            else:
                records.pop(name, None)
            position = end
        return records

    def _pax_number(self, pax: Mapping[str, bytes], key: str, default: int) -> int:
        value = pax.get(key)
        if value is None:
            return default
        if not _PAX_NUMBER.fullmatch(value):
            raise self._wrong(f"has a pax header whose {key} is {value[:40]!r}")
        number = int(value)
        if number >= 1 << 63:
            raise self._wrong(f"has a pax header whose {key} is {number}")
        return number

    def _pax_time(self, pax: Mapping[str, bytes], default: float) -> float:
        value = pax.get("mtime")
        if value is None:
            return default
        if not _PAX_TIME.fullmatch(value):
            raise self._wrong(f"has a pax header whose mtime is {value[:40]!r}")
        return float(value)


_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")
_PAX_NUMBER = re.compile(rb"[0-9]{1,20}")
_PAX_TIME = re.compile(rb"-?[0-9]{1,20}(\.[0-9]{0,20})?")


def decompressed(stream: BinaryIO) -> BinaryIO:
    """The stream's bytes, inflated where they begin as gzip or Zstandard do; the caller closes `stream`.

    Series of gzip members and of Zstandard frames are read through, as RFC 1952 and RFC 8878 ask.
    """
    head = _Rewound(stream)
    magic = head.peek(4)
    if magic[:2] == b"\x1f\x8b":
        from isal import igzip

        return cast("BinaryIO", igzip.IGzipFile(fileobj=head, mode="rb"))  # type: ignore[no-untyped-call]
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and magic[:1] in _SKIPPABLE):
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return decompressor.stream_reader(head, read_across_frames=True, closefd=False)  # type: ignore[arg-type]
    return cast("BinaryIO", head)


_SKIPPABLE = frozenset(bytes([byte]) for byte in range(0x50, 0x60))


class _Rewound(io.RawIOBase):
    """A stream whose first bytes were looked at and are given again."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._head = b""

    def peek(self, count: int) -> bytes:
        while len(self._head) < count and (data := self._stream.read(count - len(self._head))):
            self._head += data
        return self._head

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if not self._head:
            return self._stream.read(-1 if size is None else size)
        if size is None or size < 0:
            data, self._head = self._head + self._stream.read(), b""
            return data
        data, self._head = self._head[:size], self._head[size:]
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
