"""Digests, and the readers that verify them."""

from __future__ import annotations

import hashlib
import io

import pytest

from wain.digest import Digest, HashingWriter, VerifyingReader
from wain.errors import HashMismatch, ImageError

DATA = b"0123456789" * 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 64 + "\n",
        "sha512:" + "0" * 64,
        " sha256:" + "0" * 64,
        "sha256-" + "0" * 64,
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ImageError, match="not a digest"):
        Digest(text)


def test_parts() -> None:
    digest = Digest.of(DATA)
    assert digest == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert (digest.algorithm, digest.short) == ("sha256", digest.hex[:12])


@pytest.mark.parametrize("step", [1, 999, 10_000, 20_000, -1])
def test_a_stream_that_is_what_was_promised(step: int) -> None:
    reader = VerifyingReader(io.BytesIO(DATA), Digest.of(DATA), len(DATA))
    data = reader.read() if step < 0 else b"".join(iter(lambda: reader.read(step), b""))
    assert data == DATA


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (DATA[:-1], None),
        (DATA[:-1], len(DATA)),
        (DATA + b"x", None),
        (DATA + b"x", len(DATA)),
        (b"", None),
        (DATA[:-1] + b"x", len(DATA)),
    ],
)
def test_a_stream_that_is_not(data: bytes, size: int | None) -> None:
    for reading in (lambda reader: reader.read(), lambda reader: list(iter(lambda: reader.read(7), b""))):
        with pytest.raises(HashMismatch):
            reading(VerifyingReader(io.BytesIO(data), Digest.of(DATA), size))
    buffered = io.BufferedReader(VerifyingReader(io.BytesIO(data), Digest.of(DATA), size))
    with pytest.raises(HashMismatch):
        buffered.read()


def test_another_algorithm_and_closing() -> None:
    digest = Digest("sha512:" + hashlib.sha512(DATA).hexdigest())
    stream = io.BytesIO(DATA)
    with VerifyingReader(stream, digest) as reader:
        assert reader.read() == DATA
        assert reader.read(0) == b""
    assert stream.closed


def test_a_writer_knows_what_it_wrote() -> None:
    stream = io.BytesIO()
    writer = HashingWriter(stream)
    writer.write(DATA[:10])
    writer.write(memoryview(DATA)[10:])
    assert (writer.digest, writer.size_bytes, stream.getvalue()) == (Digest.of(DATA), len(DATA), DATA)
