"""Gzip members made by one pinned compressor, and around DEFLATE streams that others made.

Sources: RFC 1951, RFC 1952.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from wain.errors import StoreError

if TYPE_CHECKING:
    from typing_extensions import Buffer

COMPRESSOR = "libdeflate 1.26"
"""What makes the streams. Its output does not vary with the machine, but it did between releases: another
release is another compressor, and layers made by it have other digests."""
LEVEL = 6

HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""No name, no time, no flags, unknown system."""
_TRAILER = Struct("<2L")
_CHECK = "237fb4f2d26ea7ce880e8070cbbc7f8dae1d6a04d72d293261d814f64ec4ba0e"


def deflate(data: Buffer) -> bytearray:
    """A raw DEFLATE stream of the bytes: a function of them alone.

    :raises StoreError: when the compressor at hand is not the pinned one.
    """
    return _compressor()(data)


def gzip_member(data: Buffer) -> bytes:
    """A gzip member of the bytes: a function of them alone.

    :raises StoreError: when the compressor at hand is not the pinned one.
    """
    size_bytes = memoryview(data).nbytes
    return b"".join((HEADER, deflate(data), trailer(zlib.crc32(data), size_bytes)))


def trailer(crc: int, size_bytes: int) -> bytes:
    """What ends a gzip member; the size is kept modulo 2^32."""
    return _TRAILER.pack(crc, size_bytes & 0xFFFFFFFF)


@functools.cache
def _compressor() -> Callable[[Buffer], bytearray]:
    import deflate

    compress: Callable[[Buffer, int], bytearray] = deflate.deflate_compress
    found = hashlib.sha256(compress(sample(), LEVEL)).hexdigest()
    if found != _CHECK:
        raise StoreError(
            f"the compressor of deflate {deflate.__version__} gives other bytes than {COMPRESSOR}",
            hint="Install wain with the versions of its dependencies that it was released with.",
        )
    return lambda data: compress(data, LEVEL)


def sample() -> bytes:
    """Some hundred kilobytes that has words, numbers, long repeats and noise."""
    words = [hashlib.sha256(b"%d" % number).hexdigest()[: 2 + number % 9].encode() for number in range(997)]
    parts = []
    state = 1
    for number in range(12_000):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        parts.append(words[(state >> 8) % (17 if number % 3 else 997)])
        parts.append(b" \n"[number % 7 == 0 :][:1])
        if number % 400 == 0:
            parts.append(hashlib.sha512(b"%d" % state).digest() * (1 + number % 5))
            parts.append(bytes(number % 3000))
    return b"".join(parts)
