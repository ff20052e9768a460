"""Digests, and readers and writers that hash as they go.

Source: OCI image specification, descriptor.md, "Digests".
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import IO, TYPE_CHECKING, BinaryIO

from wain.errors import HashMismatch, ImageError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

CHUNK_BYTES = 1 << 20

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Digest(str):
    """`algorithm:hex`, lower case, of an algorithm that the OCI specification registers.

    >>> Digest.of(b"").short
    'e3b0c44298fc'

    :raises ImageError: when the text is no digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not _PATTERN.fullmatch(text):
            raise ImageError(
                f"{text[:100]!r} is not a digest",
                hint="A digest is sha256: and 64 hexadecimal digits in lower case.",
            )
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: Buffer) -> Digest:
        """The SHA-256 digest of bytes."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Digest:
        """The SHA-256 digest of a file's bytes."""
        with path.open("rb") as stream:
            return cls("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """Twelve hexadecimal digits, for people to read."""
        return self.hex[:12]


class VerifyingReader(io.RawIOBase):
    """Reads a stream through; at its end the bytes were those promised, or `read` raises.

    The error comes before the end of file is reported, so nobody takes a wrong stream for a whole one.
    Closing it closes the stream below.

    :param what: names the bytes in the error.
    :raises HashMismatch: from `read`, when digest or size differ, or more bytes come than were promised.
    """

    def __init__(self, stream: IO[bytes], digest: Digest, size_bytes: int | None = None, *, what: str = "") -> None:
        self._stream = stream
        self._digest = digest
        self._size_bytes = size_bytes
        self._what = what or digest
        self._hash = hashlib.new(digest.algorithm)
        self._read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._take(data, wanted=len(view))
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK_BYTES), b""))
        data = self._stream.read(size)
        self._take(data, wanted=size)
        return data

    def _take(self, data: bytes, *, wanted: int) -> None:
        self._hash.update(data)
        self._read_bytes += len(data)
        if self._size_bytes is not None and self._read_bytes > self._size_bytes:
            raise self._mismatch(f"more than the {self._size_bytes} bytes promised")
        if data or not wanted:
            return
        if self._size_bytes is not None and self._read_bytes != self._size_bytes:
            raise self._mismatch(f"{self._read_bytes} bytes, not {self._size_bytes}")
        found = self._hash.hexdigest()
        if found != self._digest.hex:
            raise self._mismatch(f"digest {self._digest.algorithm}:{found}, not {self._digest}")

    def _mismatch(self, detail: str) -> HashMismatch:
        return HashMismatch(
            f"{self._what} is not what was promised: {detail}",
            hint="Run it again; if it happens again, the source serves wrong bytes and must not be used.",
        )

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class HashingWriter:
    """Writes through to a stream, and knows digest and size of what was written."""

    __slots__ = ("_hash", "_stream", "size_bytes")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Buffer) -> int:
        self._hash.update(data)
        written = memoryview(data).nbytes
        self.size_bytes += written
        self._stream.write(data)
        return written

    @property
    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())
