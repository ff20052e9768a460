from __future__ import annotations

import random

import pytest

from tests.unit.elf_maker import make_elf
from wain.elf import ElfFile, parse_elf


@pytest.mark.parametrize(
    ("machine", "bits", "order", "architecture"),
    [
        (62, 64, "<", "amd64"),
        (183, 64, "<", "arm64"),
        (3, 32, "<", "386"),
        (40, 32, "<", "arm"),
        (21, 64, "<", "ppc64le"),
        (21, 64, ">", None),
        (22, 64, ">", "s390x"),
        (243, 64, "<", "riscv64"),
        (999, 64, "<", None),
    ],
)
def test_all_that_a_file_says_is_read(machine: int, bits: int, order: str, architecture: str | None) -> None:
    data = make_elf(
        machine=machine,
        bits=bits,
        order=order,
        interpreter="/lib/ld.so.1",
        soname="libx.so.2",
        needed=["libc.so.6", "libm.so.6"],
        runpath="$ORIGIN/../lib:/opt/lib",
        requires={"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.34"], "libm.so.6": ["GLIBC_2.29"]},
        provides=["X_1.0", "X_1.1"],
    )
    assert parse_elf(data) == ElfFile(
        architecture=architecture,
        interpreter="/lib/ld.so.1",
        soname="libx.so.2",
        needed=("libc.so.6", "libm.so.6"),
        search_path=("$ORIGIN/../lib", "/opt/lib"),
        requires={"libc.so.6": ("GLIBC_2.2.5", "GLIBC_2.34"), "libm.so.6": ("GLIBC_2.29",)},
        provides=("X_1.0", "X_1.1"),
    )


def test_runpath_goes_before_rpath_and_weak_versions_are_left_out() -> None:
    elf = parse_elf(make_elf(rpath="/old", requires={"libc.so.6": ["A", "B"]}, weak=["B"]))
    assert elf is not None
    assert elf.search_path == ("/old",)
    assert elf.requires == {"libc.so.6": ("A",)}
    both = parse_elf(make_elf(rpath="/old", runpath="/new"))
    assert both is not None
    assert both.search_path == ("/new",)


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF" + bytes(200), b"\x7fELF\x02\x01" + b"\xff" * 300]
)
def test_what_is_no_elf_file_is_none(data: bytes) -> None:
    elf = parse_elf(data)
    assert elf is None or elf == ElfFile(architecture=None)


def test_a_file_cut_or_scrambled_anywhere_never_raises_nor_hangs() -> None:
    whole = make_elf(
        interpreter="/lib/ld.so",
        soname="a",
        needed=["b", "c"],
        requires={"b": ["V1", "V2"], "c": ["V3"]},
        provides=["P1", "P2", "P3"],
    )
    for end in range(len(whole)):
        parse_elf(whole[:end])
    dice = random.Random(7)
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        parse_elf(bytes(damaged))


def test_version_records_that_go_round_in_circles_are_bounded() -> None:
    # Each record says that the next one lies 2**32 - its own offset away, or at itself with a huge count.
    data = bytearray(make_elf(requires={"b": ["V1"] * 3}))
    at = data.index(b"\x01\x00\x03\x00")
    data[at + 2 : at + 4] = b"\xff\xff"
    parse_elf(bytes(data))


def test_names_that_overlap_cost_no_more_memory_than_a_megabyte() -> None:
    library = make_elf(needed=["lib" + "x" * 3000 + ".so"] * 400)
    assert parse_elf(library) is None
    assert parse_elf(make_elf(needed=["lib" + "x" * 3000 + ".so"] * 200)) is not None
