"""Wheels: what their names and metadata say, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.made import Item, make_wheel, make_zip, noise, row, save, wheel_items
from wain.digest import Digest
from wain.errors import HashMismatch, WheelError
from wain.wheels import EntryPoint, Wheel


def test_a_wheel_says_what_it_is(tmp_path: Path) -> None:
    text = "Requires-Dist: other>=1\nRequires-Dist: more; extra == 'x'\nProvides-Extra: x\nRequires-Python: >=3.9\n"
    with make_wheel(tmp_path, {"pkg/__init__.py": b"x"}, metadata=text) as wheel:
        assert (wheel.name, wheel.version, wheel.tags) == ("pkg", "1.0", "py3-none-any")
        assert wheel.metadata.requires == ("other>=1", "more; extra == 'x'")
        assert wheel.metadata.provides_extra == ("x",)
        assert wheel.metadata.requires_python == ">=3.9"
        assert wheel.is_purelib
        assert wheel.dist_info == "pkg-1.0.dist-info"
        assert wheel.read(wheel.by_path["pkg/__init__.py"]) == b"x"
        assert wheel.entry_points == ()
        wheel.verify()


@pytest.mark.parametrize(
    ("filename", "name", "version"),
    [
        ("Foo.Bar_baz-1.0-py3-none-any.whl", "foo-bar-baz", "1.0"),
        ("foo-1.0-7abc-py2.py3-none-any.whl", "foo", "1.0"),
        ("foo-1.0+cpu-cp313-cp313-manylinux_2_28_x86_64.whl", "foo", "1.0+cpu"),
    ],
)
def test_names_and_versions_are_compared_as_the_specifications_say(
    tmp_path: Path, filename: str, name: str, version: str
) -> None:
    written = filename.partition("-")[0]
    data = make_zip(wheel_items(name=written, version=version))
    path = tmp_path / "blob"
    path.write_bytes(data)
    with Wheel.open(path, filename=filename, digest=Digest.of(data)) as wheel:
        assert (wheel.name, wheel.version) == (name, version)


@pytest.mark.parametrize(
    "filename", ["foo.whl", "foo-1.0.whl", "foo-1.0-py3-none-any.zip", "a/foo-1.0-py3-none-any.whl"]
)
def test_a_filename_that_is_none_is_refused(tmp_path: Path, filename: str) -> None:
    path = tmp_path / "blob"
    path.write_bytes(make_zip(wheel_items()))
    with pytest.raises(WheelError, match="filename"):
        Wheel.open(path, filename=filename, digest=Digest.of(b""))


def test_other_bytes_than_promised_are_told(tmp_path: Path) -> None:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    path.write_bytes(make_zip(wheel_items()))
    with Wheel.open(path, digest=Digest.of(b"other")) as wheel, pytest.raises(HashMismatch, match=r"pkg-1\.0"):
        wheel.verify()


def without(name: str) -> list[Item]:
    return [item for item in wheel_items() if not item.name.endswith(name)]


@pytest.mark.parametrize("missing", ["METADATA", "WHEEL", "RECORD"])
def test_what_every_wheel_has_may_not_be_missing(tmp_path: Path, missing: str) -> None:
    with pytest.raises(WheelError, match=missing):
        wheel = save(tmp_path, make_zip(without(missing)))
        assert wheel.is_purelib
        assert wheel.record


def test_metadata_of_another_distribution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="another distribution"):
        save(tmp_path, make_zip(wheel_items(name="other")))
    with pytest.raises(WheelError, match="version"):
        save(tmp_path, make_zip(wheel_items(version="2.0")))
    with pytest.raises(WheelError, match=r"2 \.dist-info"):
        save(tmp_path, make_zip([*wheel_items(), Item(name="q-1.dist-info/METADATA")]))
    with pytest.raises(WheelError, match=r"no \.dist-info"):
        save(tmp_path, make_zip([Item(name="pkg.py")]))


def test_a_version_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    items = wheel_items(version="1.0")
    data = make_zip([item for item in items if not item.name.endswith("METADATA")] + [
        Item(name="pkg-1.0.dist-info/METADATA", data=b"Metadata-Version: 2.1\nName: PKG\nVersion: 1.0.0\n")
    ])  # fmt: skip
    assert save(tmp_path, data).version == "1.0"


def test_an_unknown_wheel_version_is_refused_and_a_minor_one_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def of(version: str) -> Wheel:
        text = f"Wheel-Version: {version}\nRoot-Is-Purelib: true\n".encode()
        return save(tmp_path, make_zip([*without("WHEEL"), Item(name="pkg-1.0.dist-info/WHEEL", data=text)]))

    with pytest.raises(WheelError, match=r"2\.0"):
        assert of("2.0").is_purelib
    with pytest.raises(WheelError, match="Wheel-Version"):
        assert of("one").is_purelib
    assert of("1.9").is_purelib
    assert "1.9" in caplog.text


def test_entry_points_are_read(tmp_path: Path) -> None:
    text = "#\n[console_scripts]\na-b = pkg.mod:main\nc=pkg:Thing.run [extra]\n[other]\nx\n[gui_scripts]\ng = pkg:g\n"
    with make_wheel(tmp_path, entry_points=text) as wheel:
        assert wheel.entry_points == (
            EntryPoint(name="a-b", module="pkg.mod", attribute="main"),
            EntryPoint(name="c", module="pkg", attribute="Thing.run"),
            EntryPoint(name="g", module="pkg", attribute="g", is_gui=True),
        )


@pytest.mark.parametrize(
    "line",
    [
        "../x = a:b",
        "x/y = a:b",
        ".. = a:b",
        " = a:b",
        "x = a",
        "x = a:b; import os",
        "x = a:b()",
        "x",
        "x = a b:c",
        "x\x1b = a:b",
    ],
)
def test_entry_points_that_are_none_are_refused(tmp_path: Path, line: str) -> None:
    with (
        make_wheel(tmp_path, entry_points=f"[console_scripts]\n{line}\n") as wheel,
        pytest.raises(WheelError, match="entry"),
    ):
        assert wheel.entry_points


def test_hexadecimal_hashes_in_records_are_read(tmp_path: Path) -> None:
    data = b"some bytes"
    record = f"pkg.py,sha256={hashlib.sha256(data).hexdigest()},10\nodd.py,md5=abc,\nnone.py,,\n\n"
    with make_wheel(tmp_path, {"pkg.py": data, "odd.py": b"", "none.py": b""}, record=record) as wheel:
        assert wheel.record["pkg.py"] == row("pkg.py", data).split(",")[1]
        assert not wheel.record["odd.py"]
        assert not wheel.record["none.py"]


def test_what_is_read_whole_is_bounded(tmp_path: Path) -> None:
    with make_wheel(tmp_path, {"big": noise(5000)}) as wheel:
        with pytest.raises(WheelError, match="more than"):
            wheel.read(wheel.by_path["big"], max_bytes=4999)
        assert wheel.unpacked_bytes > 5000


def test_a_file_that_is_no_wheel_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    for data in (b"", b"x", b"x" * 100_000):
        path.write_bytes(data)
        with pytest.raises(WheelError):
            Wheel.open(path, digest=Digest.of(data))
    with pytest.raises(WheelError, match="cannot be read"):
        Wheel.open(tmp_path / "gone-1.0-py3-none-any.whl", digest=Digest.of(b""))


def test_a_closed_wheel_lets_its_file_go(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"big": noise(5000)})
    view = wheel.raw(wheel.by_path["big"])
    wheel.close()
    assert len(view) > 0
    with pytest.raises(ValueError, match="released"):
        wheel.raw(wheel.by_path["big"])


@pytest.mark.parametrize("name", ["..", "_", "-pkg", "pkg\u212a", "pkg/..", "p kg"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    info = [item for item in wheel_items() if not item.name.endswith("METADATA")]
    metadata = Item(name="pkg-1.0.dist-info/METADATA", data=f"Name: {name}\nVersion: 1.0\n".encode())
    with pytest.raises(WheelError, match=r"name of a distribution|metadata is of"):
        save(tmp_path, make_zip([*info, metadata]))
    if name in ("..", "_"):
        items = [Item(name=item.name.replace("pkg-", "_-"), data=item.data) for item in [*info, metadata]]
        with pytest.raises(WheelError, match="name of a distribution"):
            save(tmp_path, make_zip(items), name="_")


def test_numbers_of_thousands_of_digits_are_no_versions(tmp_path: Path) -> None:
    nines = "9" * 5000
    items = [item for item in wheel_items() if not item.name.endswith(("METADATA", "WHEEL"))]
    metadata = Item(name="pkg-1.0.dist-info/METADATA", data=f"Name: pkg\nVersion: {nines}\n".encode())
    with pytest.raises(WheelError, match="metadata is of version"):
        save(tmp_path, make_zip([*items, metadata]))
    metadata = Item(name="pkg-1.0.dist-info/METADATA", data=b"Name: pkg\nVersion: 1.0\n")
    wheel_file = Item(name="pkg-1.0.dist-info/WHEEL", data=f"Wheel-Version: {nines}\n".encode())
    with save(tmp_path, make_zip([*items, metadata, wheel_file])) as wheel, pytest.raises(WheelError) as caught:
        assert wheel.is_purelib
    assert len(str(caught.value)) < 400


def test_scripts_are_bounded_in_name_and_number(tmp_path: Path) -> None:
    many = "".join(f"s{number} = a:b\n" for number in range(10_001))
    for text, why in ((f"{'n' * 256} = a:b\n", "longer than any file system"), (many, "more than 10000")):
        made = make_wheel(tmp_path, entry_points=f"[console_scripts]\n{text}")
        with made as wheel, pytest.raises(WheelError, match=why):
            assert wheel.entry_points


def test_a_record_of_what_is_not_there_costs_no_memory(tmp_path: Path) -> None:
    record = "".join(f"no{number},sha256={'A' * 43},1\n" for number in range(1000))
    with make_wheel(tmp_path, {"a.py": b""}, record=record + row("a.py", b"")) as wheel:
        assert list(wheel.record) == ["a.py"]
