from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.elf_maker import make_elf
from tests.unit.layer_maker import file, make_layer, symlink
from wain.bases import BaseFacts, read_base_facts
from wain.digest import Digest
from wain.image import Image
from wain.natives import (
    MissingLibrary,
    NativeFile,
    advice,
    debian_package,
    known_natives,
    missing_libraries,
    natives_of,
)
from wain.oci import Config
from wain.platforms import Platform
from wain.store import Store
from wain.wheels import Wheel


def make_wheel(folder: Path, files: dict[str, bytes], *, executable: str = "") -> Wheel:
    info = "thing-1.0.dist-info"
    texts = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*texts, f"{info}/RECORD")).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in texts.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o100755 if name == executable else 0o100644) << 16
            archive.writestr(member, data)
    path = folder / "thing-1.0-py3-none-any.whl"
    path.write_bytes(stream.getvalue())
    return Wheel.open(path, digest=Digest.of(stream.getvalue()))


@pytest.fixture(scope="module")
def facts() -> BaseFacts:
    """A base with libc 2.36 and zlib."""
    libc = make_elf(
        soname="libc.so.6",
        provides=["GLIBC_2.2.5", "GLIBC_2.36"],
        rodata=b"GNU C Library (x) stable release version 2.36.",
    )
    loader = "/lib64/ld-linux-x86-64.so.2"
    layer = make_layer(
        [
            file("usr/bin/python3.13", make_elf(interpreter=loader, rodata=b"x\x003.13.1\0"), mode=0o755),
            symlink("usr/bin/python3", "python3.13"),
            file("usr/lib/python3.13/os.py"),
            file("lib64/ld-linux-x86-64.so.2", make_elf(soname="ld-linux-x86-64.so.2")),
            file("lib/x86_64-linux-gnu/libc.so.6", libc),
            file("lib/x86_64-linux-gnu/libz.so.1", make_elf(soname="libz.so.1")),
            file("usr/lib/os-release", b"ID=debian\nVERSION_ID=13\n"),
        ]
    )
    config = Config(platform=Platform(), diff_ids=(layer.diff_id,))
    return read_base_facts(Image(config=config, layers=(layer,)))


def natives(tmp_path: Path, files: dict[str, bytes], **more: str) -> tuple[NativeFile, ...]:
    with make_wheel(tmp_path, files, **more) as wheel:
        return natives_of(wheel, None)


def test_elf_files_are_found_where_they_are_installed(tmp_path: Path) -> None:
    elf = make_elf(soname="x")
    found = natives(
        tmp_path,
        {
            "thing/x.so": elf,
            "thing.libs/liby.so.1.2": elf,
            "thing-1.0.data/platlib/z.so": elf,
            "thing-1.0.data/scripts/tool": elf,
            "thing-1.0.data/data/lib/libw.so": elf,
            "thing/program": elf,
            "thing/text.so": b"INPUT(libreal.so)" * 10,
            "thing/data.bin": elf,
            "thing/short.so": b"\x7fELF",
        },
        executable="thing/program",
    )
    assert sorted(item.path for item in found) == [
        "../../../bin/tool",
        "../../../lib/libw.so",
        "thing.libs/liby.so.1.2",
        "thing/program",
        "thing/x.so",
        "z.so",
    ]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_elf(needed=["liba.so.1"], rodata=bytes(100_000))
    held = natives(tmp_path, {"x.so": data})
    monkeypatch.setattr("wain.natives._MAX_HELD_BYTES", 1000)
    assert natives(tmp_path, {"x.so": data}) == held
    assert held[0].elf.needed == ("liba.so.1",)


def test_a_huge_file_counts_by_its_name(tmp_path: Path, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wain.natives.MAX_READ_BYTES", 5000)
    huge = make_elf(soname="libhuge.so.1", needed=["libnone.so.1"], rodata=bytes(10_000))
    found = natives(tmp_path, {"libhuge.so.1": huge, "x.so": make_elf(needed=["libhuge.so.1"])})
    assert missing_libraries(facts, {"thing": found}) == ()


def test_a_wheel_is_read_once(tmp_path: Path) -> None:
    data = make_elf(needed=["liba.so.1"], requires={"liba.so.1": ["A_1"]}, provides=["B_1"], runpath="$ORIGIN")
    with Store.open(tmp_path / "store") as store, make_wheel(tmp_path, {"x.so": data}) as wheel:
        assert known_natives(wheel.digest, store) is None
        found = natives_of(wheel, store)
        assert known_natives(wheel.digest, store) == found
        assert natives_of(wheel, store) == found


def missing(facts: BaseFacts, **distributions: dict[str, bytes]) -> list[MissingLibrary]:
    from wain.elf import parse_elf

    given = {
        name: [NativeFile(path=path, elf=elf) for path, data in files.items() if (elf := parse_elf(data)) is not None]
        for name, files in distributions.items()
    }
    return list(missing_libraries(facts, given))


def test_what_base_and_wheels_have_is_not_missing(facts: BaseFacts) -> None:
    one = {
        "one/x.so": make_elf(
            needed=["libc.so.6", "libz.so.1", "liba-1234.so.1", "libb.so.2", "ld-linux-x86-64.so.2", "libcuda.so.1"],
            requires={"libc.so.6": ["GLIBC_2.36"], "libz.so.1": ["ZLIB_9"]},
        ),
        "one.libs/liba-1234.so.1": make_elf(soname="liba-1234.so.1"),
    }
    two = {"two/lib/libb.so.2.0": make_elf(soname="libb.so.2")}
    assert missing(facts, one=one, two=two) == []
    assert [item.library for item in missing(facts, one=one)] == ["libb.so.2"]


def test_a_missing_library_is_named_with_its_package(facts: BaseFacts) -> None:
    files = {name: make_elf(needed=["libGL.so.1"]) for name in ("cv2/a.so", "cv2/b.so")}
    (found,) = missing(facts, **{"opencv-python": files})
    assert (found.distribution, found.library, found.package) == ("opencv-python", "libGL.so.1", "libgl1")
    assert found.files == ("cv2/a.so", "cv2/b.so")
    assert str(found) == ("opencv-python: cv2/a.so and 1 more needs libGL.so.1, which neither the base nor a wheel has")
    assert 'packages = ["libgl1"]' in found.hint


def test_a_library_that_is_too_old_is_named_with_what_it_lacks(facts: BaseFacts) -> None:
    files = {"x.so": make_elf(needed=["libc.so.6"], requires={"libc.so.6": ["GLIBC_2.36", "GLIBC_2.38"]})}
    (found,) = missing(facts, thing=files)
    assert found.versions == ("GLIBC_2.38",)
    assert str(found) == "thing: x.so needs GLIBC_2.38 of libc.so.6; the base's is older"
    assert found.package is None


def test_files_for_other_machines_are_left_out(facts: BaseFacts) -> None:
    files = {
        "arm.so": make_elf(machine=183, needed=["libnone.so.1"]),
        "musl.so": make_elf(needed=["libc.musl-x86_64.so.1", "libnone.so.1"]),
        "musl-program": make_elf(interpreter="/lib/ld-musl-x86_64.so.1", needed=["libnone.so.1"]),
        "android.so": make_elf(needed=["libc.so", "liblog.so"]),
    }
    assert missing(facts, thing=files) == []
    musl = replace(facts, libc="musl")
    on_musl = {"x.so": make_elf(needed=["libc.so", "libm.so.6", "libz.so.1"]), "g.so": make_elf(needed=["libc.so.6"])}
    assert missing(musl, thing=on_musl) == []


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libodbc.so.2", "libodbc2"),
        ("libX11.so.6", "libx11-6"),
        ("libusb-1.0.so.0", "libusb-1.0-0"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libtk8.6.so", "libtk8.6"),
        ("libdb-5.3.so", "libdb5.3t64"),
        ("libpython3.13.so.1.0", "libpython3.13"),
        ("libglib-2.0.so.0", "libglib2.0-0t64"),
        ("libssl.so.3", "libssl3t64"),
        ("libxcb-icccm.so.4", "libxcb-icccm4"),
        ("libz.so.1", "zlib1g"),
        ("libsomething.so", None),
        ("plugin", None),
    ],
)
def test_debians_names(facts: BaseFacts, library: str, package: str | None) -> None:
    assert debian_package(library, facts) == package
    older = replace(facts, os_version="12")
    assert debian_package(library, older) == (package.removesuffix("t64") if package else None)


def test_advice_is_one_line_a_distribution(facts: BaseFacts) -> None:
    found = missing(
        facts,
        cv={"a.so": make_elf(needed=["libGL.so.1", "libSM.so.6"])},
        db={"b.so": make_elf(needed=["libsomething.so"])},
        old={"c.so": make_elf(needed=["libc.so.6"], requires={"libc.so.6": ["GLIBC_2.40"]})},
    )
    assert advice(found) == (
        (
            "cv needs libGL.so.1, libSM.so.6, which neither the base nor a wheel has; "
            'packages = ["libgl1", "libsm6"] brings them on the built-in base'
        ),
        "db needs libsomething.so, which neither the base nor a wheel has",
        (
            "old: c.so needs GLIBC_2.40 of libc.so.6; the base's is older. "
            "Use a newer base, or an older version of the distribution."
        ),
    )
    assert advice([]) == ()
