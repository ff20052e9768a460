from __future__ import annotations

import errno
import json
import logging
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.unit.debian_maker import Made, Mirror, keyring, make_deb, serving
from wain import debian, debian_bytecode
from wain.debian import BaseLock, LockedDeb, base_image, resolve_base, suite_of
from wain.debian_archive import Archive, Mirrors
from wain.digest import Digest
from wain.errors import DebianError, HashMismatch, LockError, Offline, OutputError, PythonError, UsageError
from wain.image import Image, check_image
from wain.oci import canonical_json
from wain.platforms import Platform
from wain.store import Store
from wain.transport import HttpSettings, Transport

AMD64 = Platform("linux", "amd64")
FAST = HttpSettings(retries=0, timeout_seconds=10)


@cache
def base_packages(architecture: str = "amd64", **versions: str) -> tuple[Made, ...]:
    """As few and small packages as a base can be made of."""
    triplet = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[architecture]
    plain = "ca-certificates libc-bin libcrypt1 libgcc-s1 libgomp1 libstdc++6 media-types ncurses-base netbase tzdata"
    some: dict[str, tuple[list[object], str]] = {
        "base-files": ([("./tmp/", b""), ("./usr/lib/os-release", b"ID=debian\n")], ""),
        "libc6": ([(f"./lib/{triplet}/libc.so.6", b"libc")], "libgcc-s1"),
        "python3": ([], "python3.13, libpython3-stdlib"),
        "libpython3-stdlib": ([], "libpython3.13-stdlib"),
        "python3.13": ([("./usr/bin/pdb3.13", b"#!")], "python3.13-minimal"),
        "python3.13-minimal": ([("./usr/bin/python3.13", b"ELF")], "libpython3.13-minimal, libexpat1, zlib1g"),
        "libpython3.13-minimal": ([("./usr/lib/python3.13/os.py", b"import sys\n")], "libc6"),
        "libpython3.13-stdlib": ([("./usr/lib/python3.13/wave.py", b"x = 1\n")], "media-types | mime-support"),
        "libexpat1": ([], ""),
        "zlib1g": ([], ""),
        **{name: ([(f"./usr/share/{name}/x", name.encode())], "") for name in plain.split()},
    }
    made = []
    for name, (files, depends) in some.items():
        fields = {"Depends": depends} if depends else {}
        version = versions.get(name.replace("-", "_").replace(".", "_"), "3.13.5-2" if "python" in name else "1.0-1")
        made.append(make_deb(name, version, files=files, architecture=architecture, compression="gz", **fields))  # type: ignore[arg-type]
    return tuple(made)


EXTRAS = [
    make_deb("libpq5", files=[("./usr/lib/x86_64-linux-gnu/libpq.so.5", b"pq")], Depends="libc6, libldap2"),
    make_deb("libldap2", files=[("./usr/share/ldap/x", b"l")]),
    make_deb("redis", scripts={"postinst": "#!/bin/sh\nadduser --system redis\n"}),
]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving(Mirror()) as served:
        yield served


class Bench:
    """A mirror with a base, and a store."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        self.mirror = mirror
        self.folder = folder
        self.store = Store.open(folder / "store", make_parent=True)
        self.mirrors = Mirrors(main=(f"{mirror.url}/debian",), security=(f"{mirror.url}/debian-security",))
        self.publish([*base_packages(), *base_packages("arm64"), *EXTRAS])

    def publish(self, packages: Sequence[Made], security: Sequence[Made] = ()) -> None:
        both = ("amd64", "arm64")
        self.mirror.publish("trixie", packages, architectures=both)
        self.mirror.publish("trixie-updates", [], architectures=both)
        self.mirror.publish("trixie-security", security, root="debian-security", architectures=both)

    def archive(self, *, store: Store | None = None, offline: bool = False) -> Archive:
        return Archive(
            None if offline else self.mirrors,
            store=store or self.store,
            transport=Transport(FAST, offline=offline),
            keyring=keyring(self.folder),
        )

    def lock(self, *packages: str, platform: Platform = AMD64, python: str = "3.13") -> BaseLock:
        return resolve_base(
            python,
            platform=platform,
            packages=packages,
            mirrors=self.mirrors,
            store=self.store,
            transport=Transport(FAST),
            archive=self.archive(),
        )

    def image(self, lock: BaseLock, *, store: Store | None = None, offline: bool = False) -> Image:
        store = store or self.store
        image = base_image(
            lock,
            store=store,
            transport=Transport(FAST, offline=offline),
            mirrors=None,
            archive=self.archive(store=store, offline=offline),
        )
        check_image(image)
        return image


@pytest.fixture
def bench(mirror: Mirror, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(mirror, tmp_path)
    with made.store:
        yield made


def members(image: Image, number: int) -> dict[str, tarfile.TarInfo]:
    with image.layers[number].open() as blob, tarfile.open(fileobj=blob, mode="r|gz") as tar:
        return {member.name: member for member in tar}


def test_a_base_is_system_and_python(bench: Bench) -> None:
    lock = bench.lock()
    assert (lock.suite, lock.python, str(lock.python_version)) == ("trixie", "3.13", "3.13.5")
    assert [item.name for item in lock.packages] == sorted(item.fields["Package"] for item in base_packages())
    image = bench.image(lock)
    assert image.platform == AMD64
    assert image.config.runtime.env == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    )
    assert [layer.created_by for layer in image.layers] == [
        "wain: debian trixie, 14 packages",
        "wain: python3.13 3.13.5-2",
    ]
    system, python = members(image, 0), members(image, 1)
    assert system["tmp"].mode == 0o1777
    assert {"etc/passwd", "etc/ld.so.cache", "lib", "usr/share/tzdata/x", "var/lib/dpkg/status.d/libc6"} <= set(system)
    assert {"usr/bin/python3.13", "usr/lib/python3.13/os.py", "var/lib/dpkg/status.d/python3.13"} <= set(python)
    assert not any("python3.13" in path for path in system)
    assert {member.mtime for member in (*system.values(), *python.values())} == {315532800}


def test_the_same_lock_gives_the_same_image(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = bench.lock("libpq5")
    first = bench.image(lock)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setattr(debian, "_DOWNLOADS", 1)
    mask = os.umask(0o077)
    try:
        with Store.open(tmp_path / "other", make_parent=True) as other:
            assert bench.image(lock, store=other).digest == first.digest
    finally:
        os.umask(mask)
        monkeypatch.undo()
        time.tzset()


def test_a_second_build_needs_no_network(bench: Bench) -> None:
    lock = bench.lock("libpq5")
    first = bench.image(lock)
    count = len(bench.mirror.requests)
    again = bench.image(BaseLock.from_json(json.loads(canonical_json(lock.to_json()))), offline=True)
    assert again.digest == first.digest
    assert len(bench.mirror.requests) == count


def test_an_empty_store_and_no_network(bench: Bench) -> None:
    lock = bench.lock()
    with pytest.raises(DebianError, match="no Debian mirror is known"):
        bench.image(lock, offline=True)
    with pytest.raises(Offline):
        base_image(lock, store=bench.store, transport=Transport(FAST, offline=True), mirrors=bench.mirrors)


def test_the_list_is_parsed_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.lock("libpq5")
    monkeypatch.setattr(Archive, "index", None)
    assert bench.lock("libpq5") == first


def test_added_packages_have_a_layer_of_their_own(bench: Bench) -> None:
    plain, more = bench.image(bench.lock()), bench.image(bench.lock("libpq5"))
    assert more.layers[:2] == plain.layers
    assert more.layers[2].created_by == "wain: debian packages: libpq5 1.0-1"
    files = {path for path, member in members(more, 2).items() if not member.isdir()}
    assert files == {
        "etc/ld.so.cache",
        "usr/lib/x86_64-linux-gnu/libpq.so.5",
        "usr/share/ldap/x",
        "var/lib/dpkg/status.d/libldap2",
        "var/lib/dpkg/status.d/libpq5",
    }


def test_a_security_update_wins(bench: Bench) -> None:
    update = make_deb("zlib1g", "1.0-1+deb13u1", files=[("./usr/share/z", b"fixed")])
    bench.publish(base_packages(), [update])
    lock = bench.lock()
    found = {item.name: item for item in lock.packages}["zlib1g"]
    assert (found.version, found.origin) == ("1.0-1+deb13u1", "security")
    assert "usr/share/z" in members(bench.image(lock), 0)


def test_a_package_that_only_python_needs_changes_only_its_layer(bench: Bench) -> None:
    before = bench.image(bench.lock())
    bench.publish(base_packages(python3_13="3.13.5-3"))
    after = bench.image(bench.lock())
    assert before.layers[0].digest == after.layers[0].digest
    assert before.layers[1].digest != after.layers[1].digest


def test_a_script_that_does_more_is_refused(bench: Bench) -> None:
    lock = bench.lock("redis")
    with pytest.raises(DebianError, match="Debian's package redis does more") as caught:
        bench.image(lock)
    assert caught.value.exit_code == 16


def test_a_package_with_other_bytes_than_the_lock_says(bench: Bench) -> None:
    lock = bench.lock()
    wrong = {path: data[:20] + b"9" + data[21:] for path, data in bench.mirror.files.items() if path.endswith(".deb")}
    bench.mirror.files.update(wrong)
    with pytest.raises(HashMismatch):
        bench.image(lock)


def test_unknown_pythons(bench: Bench) -> None:
    with pytest.raises(PythonError, match=r"no Python 3\.12") as caught:
        bench.lock(python="3.12")
    assert "3.11 (bookworm), 3.13 (trixie)" in caught.value.hint
    assert "python:3.12-slim" in caught.value.hint
    with pytest.raises(PythonError, match="free-threaded"):
        suite_of("3.13t")
    assert suite_of("trixie") == suite_of("3.13") == suite_of("python3.13.2") == "trixie"


def test_platforms_that_it_is_not_made_for(bench: Bench) -> None:
    with pytest.raises(UsageError, match="not made for linux/s390x"):
        bench.lock(platform=Platform("linux", "s390x"))


def test_names_that_are_no_packages(bench: Bench) -> None:
    for name in ("libpq5;rm", "../x", "", "Lib PQ"):
        with pytest.raises(UsageError, match="no name of a Debian package"):
            bench.lock(name)
    with pytest.raises(DebianError, match="Debian has no package libnothing"):
        bench.lock("libnothing")


def test_downloads_tell_of_their_progress(bench: Bench) -> None:
    told: dict[str, tuple[int, int | None]] = {}
    base_image(
        bench.lock(),
        store=bench.store,
        transport=Transport(FAST),
        mirrors=None,
        archive=bench.archive(),
        progress=lambda what, done, size: told.update({what: (done, size)}),
    )
    assert len(told) == len(base_packages())
    assert all(done == size for done, size in told.values())


def test_a_full_disk_says_where(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(debian.Rootfs, "add", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        bench.image(bench.lock())
    assert "TMPDIR" in caught.value.hint


def test_layers_that_are_elsewhere_are_not_made(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "can_run", lambda name: False)
    lock = bench.lock()
    image = bench.image(lock)
    layers = {layer.annotations[debian.RECIPE_KEY]: layer for layer in image.layers}
    with Store.open(tmp_path / "empty", make_parent=True) as empty:
        found = base_image(
            lock, store=empty, transport=Transport(FAST, offline=True), mirrors=None, elsewhere=layers.get
        )
    assert found.digest == image.digest


# -- locks -----------------------------------------------------------------------------------------------------


def test_a_lock_goes_through_json_and_names_no_host(bench: Bench) -> None:
    lock = bench.lock("libpq5")
    value = json.loads(json.dumps(lock.to_json()))
    assert BaseLock.from_json(value) == lock
    assert lock.requested == ("libpq5",)
    assert [item.name for item in lock.extras] == ["libldap2", "libpq5"]
    assert "127.0.0.1" not in json.dumps(value)
    assert "http" not in json.dumps(value)


def small_lock() -> BaseLock:
    item = LockedDeb(
        name="libc6",
        version="2.41-12",
        digest=Digest.of(b""),
        size_bytes=1,
        filename="pool/main/g/glibc/libc6_2.41-12_amd64.deb",
    )
    return BaseLock(suite="trixie", python="3.13", platform=AMD64, packages=(item,))


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "potato"},
        {"python": "3.12"},
        {"packages": []},
        {"packages": {}},
        {"packages": [{"name": "x"}]},
        {"requested": "libpq5"},
        {"platform": 3},
    ],
)
def test_malformed_locks(change: dict[str, object]) -> None:
    value = {**small_lock().to_json(), **change}
    with pytest.raises(LockError) as caught:
        BaseLock.from_json(value)  # type: ignore[arg-type]
    assert "wain lock --upgrade" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filename", "../../etc/passwd"),
        ("filename", "/etc/passwd"),
        ("filename", "pool/x.deb?token=1"),
        ("filename", "pool//x.deb"),
        ("sha256", "beef"),
        ("size", -1),
        ("origin", "elsewhere"),
        ("name", "../x"),
    ],
)
def test_a_lock_cannot_name_files_elsewhere(key: str, value: object) -> None:
    document = json.loads(json.dumps(small_lock().to_json()))
    assert BaseLock.from_json(document) == small_lock()
    document["packages"][0][key] = value
    with pytest.raises(LockError):
        BaseLock.from_json(document)


# -- byte code -------------------------------------------------------------------------------------------------


def test_without_an_interpreter_byte_code_is_left_out_with_one_warning(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lock = bench.lock()
    with caplog.at_level(logging.WARNING):
        first = bench.image(lock)
    assert ["byte code is left out" in record.message for record in caplog.records] == [True]
    assert not any(path.endswith(".pyc") for path in members(first, 1))
    caplog.clear()
    assert bench.image(lock, offline=True).digest == first.digest
    assert not caplog.records, "what failed once is not tried again"


def test_byte_code_goes_into_pythons_layer(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without = bench.image(bench.lock())

    def compiled(*_: object, folder: Path, **__: object) -> dict[str, Path]:
        (folder / "os.pyc").write_bytes(b"pyc")
        return {"usr/lib/python3.13/__pycache__/os.cpython-313.pyc": folder / "os.pyc"}

    monkeypatch.setattr(debian, "compile_library", compiled)
    with Store.open(tmp_path / "other", make_parent=True) as other:
        image = bench.image(bench.lock(), store=other)
        assert "usr/lib/python3.13/__pycache__/os.cpython-313.pyc" in members(image, 1)
        assert image.layers[0] == without.layers[0]
        keys = [{layer.annotations[debian.RECIPE_KEY] for layer in one.layers} for one in (without, image)]
        assert len(keys[0] & keys[1]) == 1, "the recipe key says whether there is byte code"


def test_a_foreign_base_is_locked_with_an_interpreter_of_this_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "can_run", lambda name: name == "amd64")
    monkeypatch.setattr(debian.Platform, "host", classmethod(lambda cls: AMD64))
    lock = bench.lock(platform=Platform("linux", "arm64"))
    assert [item.name for item in lock.interpreter] == list(debian_bytecode.interpreter_packages("3.13"))
    assert all(item.filename.endswith("_amd64.deb") for item in lock.interpreter)
    assert all(item.filename.endswith("_arm64.deb") for item in lock.packages)
    seen: list[tuple[bool, bool, object]] = []

    def compiled(library: dict[str, object], interpreter: dict[str, object], **options: object) -> None:
        wanted = "usr/lib/x86_64-linux-gnu/libc.so.6"
        seen.append((wanted in library, wanted in interpreter, options["architecture"]))

    monkeypatch.setattr(debian, "compile_library", compiled)
    image = bench.image(lock)
    assert seen == [(False, True, "amd64")]
    assert "lib64" not in members(image, 0)
    assert BaseLock.from_json(lock.to_json()) == lock


def test_an_interpreter_of_another_version_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "can_run", lambda name: name == "amd64")
    monkeypatch.setattr(debian.Platform, "host", classmethod(lambda cls: AMD64))
    bench.publish([*base_packages(python3_13_minimal="3.13.5-3"), *base_packages("arm64")])
    assert bench.lock(platform=Platform("linux", "arm64")).interpreter == ()
