from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.elf_maker import make_elf
from tests.unit.layer_maker import Member, directory, file, make_layer, symlink
from wain.bases import LABEL, BaseFacts, base_facts, read_base_facts
from wain.digest import Digest
from wain.errors import BaseError, ImageError, PythonError
from wain.image import Image
from wain.layers import Layer
from wain.oci import Config, Runtime, canonical_json
from wain.platforms import Platform
from wain.probes import InstalledDistribution, SharedLibrary
from wain.store import Store

GLIBC_LOADER = "/lib64/ld-linux-x86-64.so.2"
MUSL_LOADER = "/lib/ld-musl-x86_64.so.1"
STDLIB = file("usr/lib/python3.13/os.py")


def image_of(*layers: Layer, env: Sequence[str] = (), labels: dict[str, str] | None = None) -> Image:
    return Image(
        config=Config(
            platform=Platform(),
            runtime=Runtime(env=tuple(env), labels=labels or {}),
            diff_ids=tuple(layer.diff_id for layer in layers),
        ),
        layers=layers,
    )


def program(name: str, *, version: str = "", loader: str = GLIBC_LOADER, **fields: object) -> Member:
    rodata = version.encode() + b"\0" if version else b""
    return file(name, make_elf(interpreter=loader, rodata=rodata, **fields), mode=0o755)  # type: ignore[arg-type]


def glibc(minor: int = 36, *, says: bool = True) -> list[Member]:
    text = f"GNU C Library (Debian GLIBC 2.{minor}-9) stable release version 2.{minor}.\n" if says else ""
    library = make_elf(soname="libc.so.6", provides=["GLIBC_2.2.5", f"GLIBC_2.{minor}"], rodata=text.encode())
    return [
        symlink("lib", "usr/lib"),
        symlink("lib64", "usr/lib64"),
        file("usr/lib64/ld-linux-x86-64.so.2", make_elf(soname="ld-linux-x86-64.so.2"), mode=0o755),
        file("usr/lib/x86_64-linux-gnu/libc.so.6", library, mode=0o755),
        file("usr/lib/x86_64-linux-gnu/libz.so.1.2", make_elf(soname="libz.so.1", provides=["ZLIB_1.2"])),
        symlink("usr/lib/x86_64-linux-gnu/libz.so.1", "libz.so.1.2"),
    ]


def official(minor: int = 13, *, version: str = "3.13.5", flags: str = "") -> list[Member]:
    """Like the official images: CPython under /usr/local, its code in libpython."""
    short = f"python3.{minor}"
    stdlib = f"usr/local/lib/{short}{flags}"
    return [
        symlink("usr/local/bin/python3", f"{short}{flags}"),
        symlink("usr/local/bin/python", "python3"),
        program(f"usr/local/bin/{short}{flags}", needed=[f"libpython3.{minor}.so.1.0", "libc.so.6"]),
        file(f"usr/local/lib/libpython3.{minor}.so.1.0", make_elf(rodata=b"x\0" + version.encode() + b"\0")),
        file(f"{stdlib}/os.py"),
        file(f"{stdlib}/site.py", b"site-packages"),
        file(f"{stdlib}/lib-dynload/_json.cpython-3{minor}{flags}-x86_64-linux-gnu.so"),
        file(f"{stdlib}/site-packages/pip-25.0.1.dist-info/METADATA", b"Name: pip"),
    ]


def debian(minor: int = 13) -> list[Member]:
    return [
        directory("usr/bin"),
        symlink("bin", "usr/bin"),
        symlink("usr/bin/python3", f"python3.{minor}"),
        program(f"usr/bin/python3.{minor}", version=f"3.{minor}.2"),
        file(f"usr/lib/python3.{minor}/os.py"),
        file(f"usr/lib/python3.{minor}/site.py", b'return "dist-packages"'),
        file(f"usr/lib/python3.{minor}/EXTERNALLY-MANAGED", b"[externally-managed]"),
        file("usr/lib/python3/dist-packages/zope.interface-5.5.2.egg-info"),
        file(f"usr/local/lib/python3.{minor}/dist-packages/Flask-3.0.0.dist-info/METADATA"),
        directory(f"usr/lib/python3.{minor}/lib-dynload"),
    ]


def facts_of(*members: Sequence[Member], env: Sequence[str] = ()) -> BaseFacts:
    return read_base_facts(image_of(*(make_layer(layer) for layer in members), env=env))


def test_an_image_like_the_official_ones() -> None:
    facts = facts_of(
        [
            *glibc(41),
            directory("tmp", mode=0o1777),
            directory("root", mode=0o700),
            file("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nweb:x:33:33::/:/bin/false\n"),
            file("etc/group", b"root:x:0:\nstaff:x:50:\n"),
            symlink("etc/os-release", "../usr/lib/os-release"),
            file("usr/lib/os-release", b'ID=debian\nVERSION_ID="13"\nNAME="Debian GNU/Linux"\n'),
        ],
        official(),
        env=["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.13.99"],
    )
    assert (facts.interpreter, facts.command) == ("/usr/local/bin/python3.13", "/usr/local/bin/python3")
    assert str(facts.target) == "CPython 3.13.5 (cp313, glibc 2.41) on linux/amd64"
    assert (facts.prefix, facts.externally_managed, facts.is_virtual) == ("/usr/local", False, False)
    assert facts.pip.purelib == facts.pip.platlib == "usr/local/lib/python3.13/site-packages"
    assert (facts.pip.scripts, facts.pip.data) == ("usr/local/bin", "usr/local")
    assert facts.pip.headers == "usr/local/include/python3.13"
    assert (facts.os_id, facts.os_version) == ("debian", "13")
    assert facts.distributions == (
        InstalledDistribution(name="pip", version="25.0.1", location="usr/local/lib/python3.13/site-packages"),
    )
    assert facts.directories == {"tmp": (0o1777, 0, 0), "root": (0o700, 0, 0)}
    assert facts.directory("/tmp/") == (0o1777, 0, 0)
    assert facts.directory("nowhere") == (0o755, 0, 0)
    assert facts.links == {"lib": "usr/lib", "lib64": "usr/lib64"}
    assert facts.resolve("/lib/x/y") == "usr/lib/x/y"
    assert facts.resolve("lib") == "usr/lib"
    assert facts.user(33) == "web"
    assert facts.user(65532) is None
    assert facts.group_name(50) == "staff"
    assert facts.libraries["libz.so.1"] == SharedLibrary(directory="usr/lib/x86_64-linux-gnu", provides=("ZLIB_1.2",))
    assert "libz.so.1.2" not in facts.libraries


def test_debians_own_python_has_pips_folder_below_usr_local_and_is_managed() -> None:
    facts = facts_of([*glibc(), *debian()])
    assert (facts.interpreter, facts.prefix) == ("/usr/bin/python3.13", "/usr")
    assert facts.externally_managed
    assert facts.pip.purelib == "usr/local/lib/python3.13/dist-packages"
    assert facts.pip.scripts == "usr/local/bin"
    assert [(item.name, item.version) for item in facts.distributions] == [
        ("Flask", "3.0.0"),
        ("zope.interface", "5.5.2"),
    ]
    assert str(facts.python) == "3.13.2"


def test_path_decides_which_python() -> None:
    both = [*glibc(), *official(), *debian(11)]
    assert facts_of(both, env=["PATH=/usr/bin:/usr/local/bin"]).python.short == "3.11"
    assert facts_of(both, env=["PATH=/usr/local/bin:/usr/bin"]).python.short == "3.13"
    assert facts_of(both).python.short == "3.13"


def test_a_script_on_path_is_passed_over() -> None:
    shim = file("shims/python3", b"#!/bin/sh\nexec python", mode=0o755)
    facts = facts_of([*glibc(), *official(), shim], env=["PATH=/shims:/usr/local/bin"])
    assert facts.command == "/usr/local/bin/python3"


def test_a_virtual_environment_on_path_is_where_pip_installs() -> None:
    facts = facts_of(
        [
            *glibc(),
            *debian(),
            symlink("opt/venv/bin/python3", "/usr/bin/python3"),
            file("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n"),
            file("opt/venv/lib/python3.13/site-packages/rich-13.0.dist-info/METADATA"),
        ],
        env=["PATH=/opt/venv/bin:/usr/bin"],
    )
    assert (facts.command, facts.interpreter) == ("/opt/venv/bin/python3", "/usr/bin/python3.13")
    assert facts.is_virtual
    assert not facts.externally_managed
    assert facts.prefix == "/opt/venv"
    assert facts.pip.purelib == "opt/venv/lib/python3.13/site-packages"
    assert [item.name for item in facts.distributions] == ["rich"]


def test_a_musl_base_is_told_from_its_loader() -> None:
    facts = facts_of(
        [
            symlink("usr/bin/python3", "python3.12"),
            program("usr/bin/python3.12", version="3.12.9", loader=MUSL_LOADER),
            file("lib/ld-musl-x86_64.so.1", make_elf(rodata=b"\0001.2.5\0"), mode=0o755),
            file("usr/lib/python3.12/os.py"),
        ]
    )
    assert (facts.libc, facts.libc_version) == ("musl", (1, 2))
    assert "musllinux_1_2_x86_64" in {tag.platform for tag in facts.target.tags()}
    assert facts.pip.purelib == "usr/lib/python3.12/site-packages"


def test_the_c_librarys_version_is_known_by_its_symbols_where_it_does_not_say() -> None:
    assert facts_of([*glibc(31, says=False), *official()]).libc_version == (2, 31)


@pytest.mark.parametrize(
    ("members", "env", "version"),
    [
        ([file("usr/local/include/python3.13/patchlevel.h", b'#define PY_VERSION  "3.13.7"\n')], [], "3.13.7"),
        (
            [
                file(
                    "var/lib/dpkg/status",
                    b"Package: python3.13\nVersion: 9\n\nPackage: python3.13-minimal\nStatus: ok\nDescription: x\n"
                    b" more\nVersion: 3.13.8-2+deb13u1\n",
                )
            ],
            [],
            "3.13.8",
        ),
        (
            [file("var/lib/dpkg/status.d/python3.13-minimal", b"Package: python3.13-minimal\nVersion: 3.13.9-1\n")],
            [],
            "3.13.9",
        ),
        ([], ["PATH=/usr/local/bin", "PYTHON_VERSION=3.13.6"], "3.13.6"),
    ],
)
def test_the_full_version_is_found_elsewhere_where_the_code_does_not_say(
    members: list[Member], env: list[str], version: str
) -> None:
    facts = facts_of([*glibc(), *official(version="nothing"), *members], env=env)
    assert str(facts.python) == version


def test_a_full_version_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(BaseError, match="full version"):
        facts_of([*glibc(), *official(version="nothing")], env=["PYTHON_VERSION=3.12.1"])


@pytest.mark.parametrize("flags", ["t", "d"])
def test_builds_that_wheels_are_not_made_for_are_refused(flags: str) -> None:
    with pytest.raises(PythonError, match="free-threaded" if flags == "t" else "debug"):
        facts_of([*glibc(), *(official(flags=flags) if flags == "t" else debug_build())])


def debug_build() -> list[Member]:
    return [
        *official()[:-2],
        file("usr/local/lib/python3.13/lib-dynload/_json.cpython-313d-x86_64-linux-gnu.so"),
    ]


def test_the_flags_are_known_without_extension_modules() -> None:
    static = [member for member in official() if "lib-dynload" not in member[0].name]
    sysconfig = file("usr/local/lib/python3.13/_sysconfigdata_t_linux_x86_64-linux-gnu.py")
    assert facts_of([*glibc(), *static]).abi == "cp313"
    with pytest.raises(PythonError, match="free-threaded"):
        facts_of([*glibc(), *static, sysconfig])


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([], BaseError, "no Python on its PATH$"),
        ([file("usr/bin/python3", b"#!/bin/sh", mode=0o755)], BaseError, "no dynamically linked program"),
        ([program("usr/bin/python3.13"), symlink("usr/bin/python3", "python3.13")], BaseError, "no standard library"),
        ([program("usr/bin/pypy3.10"), symlink("usr/bin/python3", "pypy3.10")], PythonError, "not CPython"),
        ([program("usr/bin/python3", machine=183)], BaseError, "is for arm64"),
        ([program("usr/bin/python3", loader="/lib/ld-uClibc.so.0"), STDLIB], BaseError, "no C library"),
        ([program("usr/bin/python3", loader=MUSL_LOADER), STDLIB], BaseError, "version of musl"),
    ],
)
def test_bases_that_nothing_can_be_built_on(members: list[Member], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        facts_of([file("etc/x"), *members])
    assert getattr(caught.value, "hint", "")


def test_facts_survive_json_and_the_label() -> None:
    facts = facts_of([*glibc(), *official(), directory("tmp", mode=0o1777)])
    text = canonical_json(facts.to_json())
    assert BaseFacts.from_json(json.loads(text)) == facts
    label = facts.to_label()
    assert label is not None
    assert BaseFacts.from_label(label) == facts
    assert facts_of([*glibc(), *official(), directory("tmp", mode=0o1777)]).to_label() == label


def test_no_label_is_written_where_it_would_be_large() -> None:
    facts = facts_of([*glibc(), *official()])
    digests = [Digest.of(str(number).encode()).hex for number in range(1000)]
    assert replace(facts, links={digest: digest for digest in digests}).to_label() is None


@pytest.mark.parametrize("change", ["version", "pip", "libc-version", "directories", "libraries", "os", "python"])
def test_malformed_facts_are_refused(change: str) -> None:
    value = facts_of([*glibc(), *official()]).to_json()
    for wrong in (None, 7, "x", [1], {"a": "b"}):
        if change in ("directories", "libraries") and wrong is None:
            continue  # a missing object is an empty one
        with pytest.raises(ImageError):
            BaseFacts.from_json({**value, change: wrong})


@pytest.mark.parametrize("label", ["", "###", "AAAA", "eJwDAAAAAAE="])
def test_a_malformed_label_is_refused(label: str) -> None:
    with pytest.raises(ImageError):
        BaseFacts.from_label(label)


def unreadable(layer: Layer) -> Layer:
    def source() -> None:
        raise AssertionError("the base's layer was read")

    return replace(layer, source=source)  # type: ignore[arg-type]


def test_layers_are_read_once_and_never_where_an_earlier_image_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer([*glibc(), *official()])
    base, closed = image_of(layer), image_of(unreadable(layer))
    store = Store.open(tmp_path / "store")
    with store:
        facts = base_facts(base, store)
        assert base_facts(closed, store) == facts
    label = facts.to_label()
    assert label is not None
    other = image_of(layer, env=["PATH=/usr/local/bin"])
    made = image_of(layer, labels={LABEL: label})
    damaged = image_of(layer, labels={LABEL: "junk"})
    with Store.open(tmp_path / "fresh") as fresh, caplog.at_level(logging.DEBUG, "wain.bases"):
        assert base_facts(closed, fresh, earlier=[image_of(layer), damaged, made]) == facts
        assert "malformed" in caplog.text
    # What the label says of another base is not believed of this one.
    assert base_facts(other, None, earlier=[made]).config_digest == Digest.of(other.config_bytes)
