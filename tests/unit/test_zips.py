"""Zip files without trust: what is odd is read, what is hostile is refused, and nothing is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib

import pytest

from tests.made import Item, make_zip, noise
from wain.errors import WheelError
from wain.zips import DEFLATED, Inflation, Member, read_members


def wrong(detail: str) -> WheelError:
    return WheelError(detail, hint="Fetch it again.")


def members(data: bytes) -> tuple[Member, ...]:
    return read_members(memoryview(data), what="x.whl")


def content(data: bytes, member: Member) -> bytes:
    return b"".join(Inflation(memoryview(data), member, wrong).chunks())


def refused(data: bytes, text: str) -> None:
    with pytest.raises(WheelError, match=text) as caught:
        for member in members(data):
            content(data, member)
    assert caught.value.hint


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("member64", [False, True])
@pytest.mark.parametrize("has_descriptor", [False, True])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_every_kind_of_directory_is_read(zip64: bool, member64: bool, has_descriptor: bool, comment: bytes) -> None:
    items = [
        Item(name="a", data=b"abc", zip64=member64, has_descriptor=has_descriptor),
        Item(name="d/", mode=0o40755, method=0),
        Item(name="d/é", data=noise(700_000), mode=0o100755, zip64=member64, has_descriptor=has_descriptor),
        Item(name="d/s", data=b"stored", method=0, mode=0),
    ]
    data = make_zip(items, zip64=zip64, comment=comment)
    found = members(data)
    assert [(m.path, m.is_executable) for m in found] == [("a", False), ("d/é", True), ("d/s", False)]
    assert [content(data, m) for m in found] == [b"abc", noise(700_000), b"stored"]
    with zipfile.ZipFile(io.BytesIO(data)) as theirs:
        assert theirs.read("d/é") == noise(700_000)


def test_an_empty_archive_has_no_members() -> None:
    assert members(make_zip([])) == ()


@pytest.mark.parametrize(
    "name", ["../x", "a/../x", "/x", "a//x", "./x", "a/.", "a\0b", "a\nb", "..", ".", "x" * 256, "y/" * 2100 + "z"]
)
def test_paths_that_leave_the_root_or_cannot_be_are_refused(name: str) -> None:
    refused(make_zip([Item(name=name, data=b"x")]), "path")


@pytest.mark.parametrize("mode", [0o120777, 0o060644, 0o020644, 0o010644, 0o140644, 0o040755])
def test_links_devices_and_the_like_are_refused(mode: int) -> None:
    refused(make_zip([Item(name="x", data=b"/etc/passwd", mode=mode)]), "only files")


def test_the_same_path_twice_is_refused() -> None:
    refused(make_zip([Item(name="x", data=b"1"), Item(name="x", data=b"2")]), "twice")


def test_a_path_that_is_a_file_and_a_folder_is_refused() -> None:
    refused(make_zip([Item(name="x", data=b"1"), Item(name="x/y/z", data=b"2")]), "both a file and a folder")


def test_overlapping_members_are_refused() -> None:
    """The kind of bomb in which many directory entries share one stream."""
    body = Item(name="x", data=bytes(1000), method=0)
    refused(make_zip([body, Item(name="y", local_name="y", data=b"", offset=0)]), "not where")
    inner = make_zip([Item(name="y", data=b"inner", method=0)])
    outer = Item(name="x", data=inner, method=0)
    overlapping = Item(name="y", data=b"inner", method=0, offset=31)
    refused(make_zip([outer, overlapping]), "overlap")


@pytest.mark.parametrize("flags", [0x1, 0x41, 0x2000, 0x20])
def test_encrypted_members_are_refused(flags: int) -> None:
    refused(make_zip([Item(name="x", data=b"1", flags=flags)]), "encrypted")


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99])
def test_other_methods_are_refused(method: int) -> None:
    refused(make_zip([Item(name="x", data=b"1", method=method)]), "method")


def test_sizes_and_checksums_that_lie_are_refused() -> None:
    data = noise(100_000)
    for size, crc in ((99_999, None), (100_001, None), (None, 7)):
        refused(make_zip([Item(name="x", data=data, size=size, crc=crc)]), "CRC|short")
    refused(make_zip([Item(name="x", data=b"x", size=1 << 30)]), "cannot have")
    refused(make_zip([Item(name="x", data=b"x", size=1 << 40, zip64=True)]), "cannot have")
    refused(make_zip([Item(name="x", data=b"xyz", size=2, method=0)]), "cannot have")
    refused(make_zip([Item(name="x", data=b"x", compressed=1 << 31)]), "overlap")
    refused(make_zip([Item(name="x", data=b"x", offset=1 << 31)]), "behind")


def test_a_stream_that_is_none_is_refused() -> None:
    refused(make_zip([Item(name="x", data=noise(1000), raw=b"\xff" * 500)]), "DEFLATE")
    refused(make_zip([Item(name="x", data=noise(1000), raw=zlib.compress(noise(1000), wbits=-15)[:-9])]), "short|CRC")


def test_a_bomb_is_refused_before_anything_is_unpacked() -> None:
    zeros = zlib.compress(bytes(1 << 20), 9, wbits=-15)
    size = len(zeros) * 1000
    bomb = [Item(name=f"x{n}", raw=zeros, size=size, crc=0) for n in range(1 + (1 << 30) // size)]
    refused(make_zip(bomb), "unpack")


@pytest.mark.parametrize("changes", [{"count": 70}, {"count": 1}])
def test_a_directory_of_another_length_than_said_is_refused(changes: dict[str, int]) -> None:
    data = bytearray(make_zip([Item(name="x", data=b"1"), Item(name="y", data=b"2")]))
    for at in (len(data) - 14, len(data) - 12):
        data[at : at + 2] = changes["count"].to_bytes(2, "little")
    refused(bytes(data), "directory")


def test_bytes_before_the_archive_are_refused() -> None:
    good = make_zip([Item(name="x", data=b"1")])
    refused(b"#!/bin/sh\n" + good, "before its first member")
    refused(good + b"more", "no zip file")


def test_truncation_anywhere_is_refused() -> None:
    data = make_zip([Item(name=f"m{n}", data=noise(9000, n)) for n in range(12)])
    for length in range(0, len(data), 4096):
        refused(data[:length], "early|zip")
    for length in range(len(data) - 60, len(data)):
        refused(data[:length], "early|zip")


def test_a_reading_knows_whether_its_stream_may_be_copied() -> None:
    data = noise(300_000)
    stream = zlib.compress(data, 9, wbits=-15)

    def exact(raw: bytes, size: int | None = None) -> bool:
        whole = make_zip([Item(name="x", data=data, raw=raw, size=size)])
        (member,) = members(whole)
        reading = Inflation(memoryview(whole), member, wrong)
        assert b"".join(reading.chunks()) == data
        assert member.method == DEFLATED
        return reading.exact

    assert exact(stream)
    assert not exact(stream + stream)
    assert not exact(stream + b"\0")
    longer = zlib.compressobj(9, zlib.DEFLATED, -15)
    more = longer.compress(data + b"more") + longer.flush()
    assert not exact(more, len(data))
    endless = zlib.compressobj(9, zlib.DEFLATED, -15)
    assert not exact(endless.compress(data) + endless.flush(zlib.Z_SYNC_FLUSH))
    for size in (1 << 18, (1 << 18) - 1, (1 << 18) + 1, 1 << 19):
        data = noise(size)
        assert exact(zlib.compress(data, 9, wbits=-15))


def test_deep_paths_that_name_gigabytes_of_folders_are_refused() -> None:
    refused(make_zip([Item(name=f"{number}/" + "a/" * 1500 + "f") for number in range(3)]), "folders deep")
    assert len(members(make_zip([Item(name="a/" * 100 + "f")]))) == 1
