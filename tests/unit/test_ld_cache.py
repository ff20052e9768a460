from __future__ import annotations

import struct

import pytest

from wain.ld_cache import Library, ld_cache


def parse(data: bytes) -> list[tuple[int, str, str]]:
    magic, count, strings, flags = struct.unpack_from("<20sIIB", data)
    assert magic == b"glibc-ld.so.cache1.1"
    assert flags == 2
    assert len(data) == 48 + 24 * count + strings
    found = []
    for number in range(count):
        kind, key, value, version, hwcap = struct.unpack_from("<iIIIQ", data, 48 + 24 * number)
        assert version == hwcap == 0
        texts = [data[at : data.index(b"\0", at)].decode() for at in (key, value)]
        found.append((kind, texts[0], texts[1]))
    return found


@pytest.mark.parametrize(("architecture", "flags"), [("amd64", 0x303), ("arm64", 0xA03)])
def test_entries_are_in_the_order_that_the_loader_searches(architecture: str, flags: int) -> None:
    names = ["libz.so.1", "liba.so.9", "liba.so.10", "libc.so.6", "libc-x.so", "libstdc++.so.6", "ld-linux.so.2"]
    data = ld_cache([Library(name, f"/lib/{name}") for name in names], architecture)
    assert parse(data) == [
        (flags, name, f"/lib/{name}")
        for name in (
            "libz.so.1", "libstdc++.so.6", "libc.so.6", "libc-x.so", "liba.so.10", "liba.so.9", "ld-linux.so.2",
        )
    ]  # fmt: skip


def test_of_the_same_name_the_first_comes_first() -> None:
    data = ld_cache([Library("liba.so.1", "/lib/b/liba.so.1"), Library("liba.so.1", "/lib/a/liba.so.1")], "amd64")
    assert [path for _, _, path in parse(data)] == ["/lib/b/liba.so.1", "/lib/a/liba.so.1"]


def test_nothing_is_a_cache_too() -> None:
    assert parse(ld_cache([], "amd64")) == []
