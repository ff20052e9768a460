from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from wain.errors import ImageError
from wain.tars import MAX_EXTENSION_BYTES, TarMember, TarReader, decompressed


def made(fill: Callable[[tarfile.TarFile], None], format_: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_) as archive:
        fill(archive)
    return stream.getvalue()


def info(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def members(data: bytes, **limits: int) -> list[TarMember]:
    return list(TarReader(io.BytesIO(data), **limits))


def contents(data: bytes) -> dict[str, bytes]:
    reader = TarReader(decompressed(io.BytesIO(data)))
    return {member.path: reader.read() for member in reader}


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    archive.addfile(info(name, size=len(data), **fields), io.BytesIO(data))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_as_they_were_written(format_: int) -> None:
    long = "d/" * 60 + "file"

    def fill(archive: tarfile.TarFile) -> None:
        add(archive, "./a/", type=tarfile.DIRTYPE, mode=0o1777, uid=5, gid=6, mtime=1000)
        add(archive, "/a/b", b"x" * 513, mode=0o4755)
        add(archive, long, b"long")
        archive.addfile(info("link", type=tarfile.SYMTYPE, linkname="../x/./y"))
        archive.addfile(info("hard", type=tarfile.LNKTYPE, linkname="./a/b"))
        archive.addfile(info("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3))
        archive.addfile(info("pipe", type=tarfile.FIFOTYPE))

    data = made(fill, format_)
    found = {member.path: member for member in members(data)}
    assert list(found) == ["a", "a/b", long, "link", "hard", "null", "pipe"]
    assert (found["a"].kind, found["a"].mode, found["a"].uid, found["a"].gid) == ("directory", 0o1777, 5, 6)
    assert found["a"].mtime == 1000
    assert (found["a/b"].mode, found["a/b"].size_bytes) == (0o4755, 513)
    assert (found["link"].kind, found["link"].target) == ("symlink", "../x/./y")
    assert (found["hard"].kind, found["hard"].target) == ("hardlink", "a/b")
    assert found["null"].device == ("char", 1, 3)
    assert found["pipe"].kind == "fifo"
    assert contents(data)[long] == b"long"


def test_pax_and_gnu_extensions_are_read() -> None:
    name = "ü" * 200
    target = "t" * 300
    data = made(
        lambda archive: archive.addfile(
            info(
                name,
                type=tarfile.SYMTYPE,
                linkname=target,
                uid=1 << 30,
                mtime=12.5,
                pax_headers={"SCHILY.xattr.security.capability": "v"},
            )
        )
    )
    (member,) = members(data)
    assert (member.path, member.target, member.uid, member.mtime) == (name, target, 1 << 30, 12.5)
    assert member.xattrs == {"security.capability": b"v"}
    gnu = made(lambda archive: add(archive, name, b"z", uid=1 << 30, mtime=-5), tarfile.GNU_FORMAT)
    (member,) = members(gnu)
    assert (member.path, member.uid, member.mtime, member.size_bytes) == (name, 1 << 30, -5, 1)


def test_a_name_that_is_not_utf8_is_kept() -> None:
    data = made(lambda archive: add(archive, "a\udcff"), tarfile.GNU_FORMAT)
    assert members(data)[0].path.encode("utf-8", "surrogateescape") == b"a\xff"


def test_global_headers_are_comments() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as archive:
        add(archive, "file", b"1")
    assert [member.path for member in members(stream.getvalue())] == ["file"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "./.."])
def test_a_path_that_leaves_the_root_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match="leaves the root"):
        members(made(lambda archive: add(archive, name)))


def test_a_path_is_cleaned() -> None:
    names = ["a/../b", "//c//d", "./e/./f", "g/", ".", "..h/i..", "j/.k"]
    data = made(lambda archive: [add(archive, name) for name in names] and None)
    assert [member.path for member in members(data)] == ["b", "c/d", "e/f", "g", "", "..h/i..", "j/.k"]


def test_an_archive_cut_anywhere_is_refused_or_ends_between_members() -> None:
    def fill(archive: tarfile.TarFile) -> None:
        add(archive, "a", b"x" * 700)
        add(archive, "n" * 150, b"y" * 512)

    data = made(fill)
    whole = members(data)
    for end in range(0, len(data), 97):
        try:
            assert members(data[:end]) == whole[: len(members(data[:end]))]
        except ImageError as error:
            assert "ends before" in error.message


def damaged(position: int, value: bytes) -> bytes:
    """A one-member archive with a field overwritten and its checksum made right again."""
    data = bytearray(made(lambda archive: add(archive, "a", b"xyz"), tarfile.USTAR_FORMAT))
    data[position : position + len(value)] = value
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (124, b"-0000000001\0", "size is"),
        (124, b"0x000000001\0", "size is"),
        (124, b"00000000008\0", "size is"),
        (124, b"\xff" * 12, "size is"),
        (124, b"\x80" + b"\x7f" * 11, "size is"),
        (108, b"zzzzzzz\0", "uid is"),
        (156, b"Z", "unknown type"),
        (124, b"77777777777\0", "ends before"),
    ],
)
def test_a_damaged_field_is_refused(position: int, value: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        members(damaged(position, value))


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(made(lambda archive: add(archive, "a", b"xyz")))
    data[0] ^= 1
    with pytest.raises(ImageError, match="wrong checksum"):
        members(bytes(data))


@pytest.mark.parametrize("record", [b"0 a=b\n", b"99 a=b\n", b"6 ab\n", b"6 a=b\0", b"x a=b\n", b"16 size=-1234567\n"])
def test_a_malformed_pax_header_is_refused(record: bytes) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        header = info("pax", type=tarfile.XHDTYPE, size=len(record))
        archive.fileobj.write(header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0"))  # type: ignore[union-attr]
        add(archive, "file")

    with pytest.raises(ImageError, match="pax header"):
        members(made(fill))


def test_limits_are_held() -> None:
    data = made(lambda archive: [add(archive, str(n)) for n in range(10)] and None)
    assert len(members(data, max_members=10)) == 10
    with pytest.raises(ImageError, match="more than 9 members"):
        members(data, max_members=9)
    with pytest.raises(ImageError, match="unpacks to more"):
        members(data, max_bytes=1000)
    huge = info("pax", type=tarfile.XHDTYPE, size=MAX_EXTENSION_BYTES + 1).tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ImageError, match="extended header"):
        members(huge)
    with pytest.raises(ImageError, match="path of 5000 bytes"):
        members(made(lambda archive: add(archive, "n" * 5000)))


def test_sparse_files_have_their_real_size_and_the_next_member_is_found(tmp_path: object) -> None:
    # Old GNU: the header holds four pieces, says that more follow, and has the real size behind them.
    header = bytearray(info("holes", size=512, type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[483:495] = b"%011o\0" % (1 << 20)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(512) + b"x" * 512 + made(lambda archive: add(archive, "next", b"n"))
    first, second = members(data)
    assert (first.size_bytes, first.stored_bytes, first.is_sparse) == (1 << 20, 512, True)
    assert second.path == "next"
    pax = made(
        lambda archive: add(
            archive,
            "GNUSparseFile.0/holes",
            b"x" * 1024,
            pax_headers={
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": "holes",
                "GNU.sparse.realsize": "99999",
            },
        )
    )
    (member,) = members(pax)
    assert (member.path, member.size_bytes, member.stored_bytes) == ("holes", 99999, 1024)


def test_contents_are_read_in_pieces_or_not_at_all() -> None:
    big = bytes(range(256)) * 8192

    def fill(archive: tarfile.TarFile) -> None:
        add(archive, "skipped", big)
        add(archive, "pieces", big)
        add(archive, "partly", big)
        add(archive, "last", b"end")

    reader = TarReader(io.BytesIO(made(fill)))
    seen = {}
    for member in reader:
        if member.path == "pieces":
            pieces = list(reader.chunks())
            assert len(pieces) > 1
            seen[member.path] = b"".join(pieces)
        elif member.path == "partly":
            seen[member.path] = reader.read(5)
        elif member.path == "last":
            seen[member.path] = reader.read() + reader.read()
    assert seen == {"pieces": big, "partly": big[:5], "last": b"end"}


def test_compressed_streams_are_recognised_by_their_bytes() -> None:
    data = made(lambda archive: add(archive, "file", b"text" * 1000))
    half = len(data) // 2
    members_of_gzip = gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:])
    frames = zstandard.compress(data[:half]) + b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstandard.compress(data[half:])
    for stream in (data, gzip.compress(data), members_of_gzip, zstandard.compress(data), frames):
        assert contents(stream) == {"file": b"text" * 1000}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_damaged_compressed_stream_is_refused(compress: Callable[[bytes], bytes]) -> None:
    data = compress(made(lambda archive: add(archive, "file", random.Random(1).randbytes(400_000))))
    for stream in (data[: len(data) // 2], data[:6] + b"\xff" * 8 + data[14:]):
        with pytest.raises(ImageError):
            contents(stream)


def test_a_bomb_is_refused_before_it_fills_anything() -> None:
    bomb = gzip.compress(made(lambda archive: add(archive, "zeros", bytes(50_000_000))), 9)
    with pytest.raises(ImageError, match=r"unpacks to more|member of"):
        list(TarReader(decompressed(io.BytesIO(bomb)), max_bytes=1_000_000))
