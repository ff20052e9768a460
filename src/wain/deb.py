"""Debian packages as files: their control data and their members, whoever made them.

Sources: deb(5), deb-control(5); `wain.tars` for what stands inside.
"""

from __future__ import annotations

import io
import lzma
import mmap
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from msgspec import Struct

from wain.debian_packages import parse_fields
from wain.errors import DebianError, ImageError
from wain.tars import TarMember, TarReader

MAX_UNPACKED_BYTES = 8 << 30
"""The most that one package may unpack to."""

LARGE_BYTES = 1 << 20
"""From this size on, a file begins at a page of the spool, so that it can be mapped."""

_MAX_CONTROL_BYTES = 32 << 20
_MAX_CONTROL_FILE_BYTES = 4 << 20
_MAX_MEMBERS = 500_000
_MAX_XZ_MEMORY_BYTES = 256 << 20
_MAX_DEPTH = 100
_CHUNK_BYTES = 1 << 18
_DAMAGED = "The package is damaged or hostile and must not be used; take it from another mirror."
_AR_NUMBER = re.compile(rb"[0-9]{1,10} *")
_CONTROL_FILES = frozenset("control preinst postinst triggers conffiles md5sums".split())


class Control(Struct, frozen=True, kw_only=True):
    """A package's control archive."""

    fields: Mapping[str, str]
    text: str
    """The control file as it came, with a line feed at its end."""
    files: Mapping[str, bytes]
    """preinst, postinst, triggers, conffiles, md5sums: those that it has."""

    @property
    def name(self) -> str:
        return self.fields.get("Package", "")


class Deb:
    """An open package; its bytes are trusted no more than its format.

    :param what: names it in errors.
    :raises DebianError: when it is no package of format 2.0, is cut short, or its parts leave the root or pass
        the limits; from each method too.
    """

    def __init__(self, path: Path, *, what: str = "") -> None:
        self._path = path
        self._what = what or path.name
        with path.open("rb") as stream:
            self._parts = self._find_parts(stream)

    def _wrong(self, detail: str) -> DebianError:
        return DebianError(f"{self._what} {detail}", hint=_DAMAGED)

    def _find_parts(self, stream: BinaryIO) -> dict[str, tuple[str, int, int]]:
        """`control` and `data`: how each is compressed, where it begins and its size."""
        size_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if stream.read(8) != b"!<arch>\n":
            raise self._wrong("is no Debian package")
        parts: dict[str, tuple[str, int, int]] = {}
        position = 8
        for number in range(16):
            header = stream.read(60)
            if not header:
                break
            if len(header) < 60 or header[58:] != b"`\n" or not _AR_NUMBER.fullmatch(header[48:58]):
                raise self._wrong("is cut short or has a malformed part")
            name = header[:16].decode("ascii", "replace").rstrip().rstrip("/")
            length = int(header[48:58])
            start = position + 60
            position = start + length + length % 2
            if start + length > size_bytes:
                raise self._wrong("is cut short")
            if number == 0:
                if name != "debian-binary" or not re.fullmatch(rb"2\.\d+\n.*", stream.read(min(length, 64)), re.DOTALL):
                    raise self._wrong("is no Debian package of format 2.0")
            elif match := re.fullmatch(r"(control|data)\.tar(?:\.(gz|xz|zst))?", name):
                if match[1] in parts or (match[1] == "data" and "control" not in parts):
                    raise self._wrong("has parts twice or out of order")
                parts[match[1]] = (match[2] or "", start, length)
                if len(parts) == 2:
                    return parts
            elif not name.startswith("_"):
                raise self._wrong(f"has a part of unknown kind, {name!r}")
            stream.seek(position)
        raise self._wrong("has no data part; it is cut short")

    @contextmanager
    def _tar(self, part: str, *, max_bytes: int) -> Iterator[TarReader]:
        compression, start, length = self._parts[part]
        what = f"{self._what} ({part})"
        with self._path.open("rb") as stream:
            stream.seek(start)
            raw = _Section(stream, length)
            try:
                yield TarReader(
                    cast("IO[bytes]", _inflated(raw, compression)),
                    what=what,
                    max_members=_MAX_MEMBERS,
                    max_bytes=max_bytes,
                )
            except ImageError as error:
                raise DebianError(error.message, hint=_DAMAGED) from error
            except (lzma.LZMAError, zlib.error, EOFError) as error:
                raise self._wrong(f"does not unpack: {error}") from error

    def control(self) -> Control:
        """The control file and the scripts."""
        files: dict[str, bytes] = {}
        with self._tar("control", max_bytes=_MAX_CONTROL_BYTES) as tar:
            for member in tar:
                if member.kind == "file" and member.path in _CONTROL_FILES:
                    if member.size_bytes > _MAX_CONTROL_FILE_BYTES:
                        raise self._wrong(f"has a {member.path} of {member.size_bytes} bytes")
                    files[member.path] = tar.read()
        if "control" not in files:
            raise self._wrong("has no control file")
        text = files.pop("control").decode("utf-8", "replace").strip("\n") + "\n"
        if "\n\n" in text:
            raise self._wrong("has a control file of several stanzas")
        return Control(fields=parse_fields(text), text=text, files=files)

    def members(self, spool: BinaryIO) -> Iterator[tuple[TarMember, int]]:
        """The package's members in its order, each with the place in `spool` where a file's bytes were put.

        :param spool: all files' bytes are appended to it.
        """
        with self._tar("data", max_bytes=MAX_UNPACKED_BYTES) as tar:
            for member in tar:
                if member.kind in ("device", "fifo"):
                    raise self._wrong(f"holds a {member.kind}, {member.path}, which no package needs")
                if member.is_sparse:
                    raise self._wrong(f"holds a sparse file, {member.path[:200]}")
                if max(member.path.count("/"), member.target.count("/")) > _MAX_DEPTH:
                    raise self._wrong(f"has a path more than {_MAX_DEPTH} folders deep, {member.path[:200]}")
                place = spool.tell()
                if member.kind == "file" and member.size_bytes >= LARGE_BYTES:
                    spool.write(bytes(-place % mmap.ALLOCATIONGRANULARITY))
                    place = spool.tell()
                if member.kind == "file":
                    spool.writelines(tar.chunks())
                yield member, place


class _Section(io.RawIOBase):
    """The next `length` bytes of a stream."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream = stream
        self._left = length

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        return data


def _inflated(raw: _Section, compression: str) -> io.RawIOBase | BinaryIO:
    if compression == "":
        return raw
    if compression == "zst":
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return cast("BinaryIO", decompressor.stream_reader(raw, read_across_frames=True, closefd=False))  # type: ignore[arg-type]
    if compression == "xz":
        return _Inflated(raw, lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY_BYTES))
    return _Gunzipped(raw, zlib.decompressobj(wbits=31))


class _Inflated(io.RawIOBase):
    """An xz stream's bytes; ends early as an error, never as an end."""

    def __init__(self, raw: _Section, inflater: lzma.LZMADecompressor) -> None:
        self._raw = raw
        self._inflater = inflater

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        limit = _CHUNK_BYTES if size is None or size < 0 else size
        while not self._inflater.eof:
            chunk = self._raw.read(_CHUNK_BYTES) if self._inflater.needs_input else b""
            if self._inflater.needs_input and not chunk:
                raise EOFError("it is cut short")
            if data := self._inflater.decompress(chunk, limit):
                return data
        return b""


class _Gunzipped(io.RawIOBase):
    """The same of a gzip stream."""

    def __init__(self, raw: _Section, inflater: zlib._Decompress) -> None:
        self._raw = raw
        self._inflater = inflater

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        limit = _CHUNK_BYTES if size is None or size < 0 else size
        while not self._inflater.eof:
            chunk = self._inflater.unconsumed_tail or self._raw.read(_CHUNK_BYTES)
            if not chunk:
                raise EOFError("it is cut short")
            if data := self._inflater.decompress(chunk, limit):
                return data
        return b""
