"""Tar streams that nobody made on purpose: an error of our own, or members within their bounds; never more."""

from __future__ import annotations

import gzip
import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from wain.errors import ImageError
from wain.tars import TarReader, decompressed


def _sample() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/" + "n" * 150, tarfile.REGTYPE), ("l", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.pax_headers = kind, "d", {"SCHILY.xattr.user.a": "b"}
            info.size = 700 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return stream.getvalue()


SAMPLE = _sample()


def check(data: bytes) -> None:
    taken = 0
    try:
        reader = TarReader(decompressed(io.BytesIO(data)), max_members=1000, max_bytes=1 << 22)
        for member in reader:
            assert not member.path.startswith("/")
            assert not {"", ".", ".."} & set(member.path.split("/")) or member.path == ""
            assert "\0" not in member.path
            assert member.stored_bytes >= 0
            taken += len(reader.read(4096))
    except ImageError as error:
        assert error.hint
    assert taken <= 1 << 22


edits = st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=12)), max_size=6)


@given(edits, st.integers(0, len(SAMPLE)), st.booleans())
def test_damaged_archives(changes: list[tuple[int, bytes]], end: int, is_compressed: bool) -> None:
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at : at + len(value)] = value
        block = at // 512 * 512
        header = bytes(data[block : block + 512])
        if len(header) == 512:  # half of the time a damaged header has a right checksum
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
    cut = bytes(data[:end]) if end % 3 == 0 else bytes(data)
    check(gzip.compress(cut, 1) if is_compressed else cut)


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"]))
def test_junk(data: bytes, magic: bytes) -> None:
    check(magic + data)


names = st.text(min_size=1, max_size=300).filter(lambda name: "\0" not in name)


@given(st.lists(names, max_size=5), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_name_is_read_as_tarfile_reads_it_or_refused(given_names: list[str], format_: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_, errors="surrogatepass") as archive:
        for name in given_names:
            archive.addfile(tarfile.TarInfo(name))
    check(stream.getvalue())
    try:
        mine = [member.path for member in TarReader(io.BytesIO(stream.getvalue()))]
    except ImageError as error:
        assert any(".." in name.split("/") for name in given_names), error.message
        return
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue()), errors="surrogateescape") as archive:
        assert len(mine) == len(archive.getmembers())
