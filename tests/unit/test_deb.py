from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.unit.debian_maker import ar_of, link, make_deb, packed, special, tar_of
from wain import deb as deb_module
from wain.deb import Deb
from wain.errors import DebianError

CONTROL = packed(tar_of([("./control", b"Package: a\nVersion: 1\nArchitecture: all\n")]), "gz")


def write(folder: Path, data: bytes) -> Path:
    path = folder / "a.deb"
    path.write_bytes(data)
    return path


def read(path: Path) -> dict[str, bytes | str]:
    """Every member with its bytes, or its kind."""
    deb = Deb(path)
    assert deb.control().name == "a"
    spool = io.BytesIO()
    return {
        member.path: spool.getvalue()[place:] if member.kind == "file" else member.kind
        for member, place in deb.members(spool)
    }


@pytest.mark.parametrize("compression", ["", "gz", "xz", "zst"])
def test_members_and_scripts(tmp_path: Path, compression: str) -> None:
    made = make_deb(
        "a",
        files=[("./usr/", b""), ("./usr/share/x", b"hello"), link("./usr/y", "share/x"), ("./usr/z", b"")],
        scripts={"postinst": "#!/bin/sh\n", "templates": "no"},
        compression=compression,
    )
    path = write(tmp_path, made.data)
    assert read(path) == {
        "": "directory", "usr": "directory", "usr/share/x": b"hello", "usr/y": "symlink", "usr/z": b"",
    }  # fmt: skip
    control = Deb(path).control()
    assert control.files == {"postinst": b"#!/bin/sh\n"}
    assert control.fields["Version"] == "1.0-1"


@pytest.mark.parametrize("compression", ["", "gz", "xz", "zst"])
def test_a_package_cut_short_anywhere_is_an_error(tmp_path: Path, compression: str) -> None:
    data = make_deb("a", files=[("./f", bytes(range(256)) * 40)], compression=compression).data
    for length in [*range(0, 200, 7), *range(200, len(data) - 2, 41)]:
        with pytest.raises(DebianError):
            read(write(tmp_path, data[:length]))


def test_a_bit_that_flipped_is_an_error_or_changes_nothing_unseen(tmp_path: Path) -> None:
    data = make_deb("a", files=[("./f", b"payload" * 50)]).data
    for place in range(len(data) - 400, len(data), 13):
        changed = bytearray(data)
        changed[place] ^= 4
        try:
            assert set(read(write(tmp_path, bytes(changed)))) == {"", "f"}
        except DebianError:
            continue


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (special("./dev/sda", tarfile.BLKTYPE), "device"),
        (special("./dev/tty", tarfile.CHRTYPE), "device"),
        (special("./run/pipe", tarfile.FIFOTYPE), "fifo"),
        (("../etc/passwd", b"x"), "leaves the root"),
        (("./usr/../../etc/passwd", b"x"), "leaves the root"),
        (link("./x", "../../etc/passwd", hard=True), "leaves the root"),
    ],
)
def test_what_no_package_needs_is_refused(
    tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes], says: str
) -> None:
    path = write(tmp_path, make_deb("a", files=[member]).data)
    with pytest.raises(DebianError, match=says):
        read(path)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb_module, "MAX_UNPACKED_BYTES", 1 << 20)
    path = write(tmp_path, make_deb("a", files=[("./zeros", bytes(2 << 20))]).data)
    with pytest.raises(DebianError, match=r"1048576|bytes"):
        read(path)


def test_a_control_archive_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb_module, "_MAX_CONTROL_BYTES", 1 << 16)
    path = write(tmp_path, make_deb("a", scripts={"postinst": "#" * (1 << 18)}).data)
    with pytest.raises(DebianError):
        Deb(path).control()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([("debian-binary", b"3.0\n"), ("control.tar.gz", CONTROL), ("data.tar.gz", CONTROL)], "format 2.0"),
        ([("control.tar.gz", CONTROL), ("data.tar.gz", CONTROL)], "format 2.0"),
        ([("debian-binary", b"2.0\n"), ("data.tar.gz", CONTROL), ("control.tar.gz", CONTROL)], "out of order"),
        ([("debian-binary", b"2.0\n"), ("control.tar.gz", CONTROL), ("control.tar.gz", CONTROL)], "twice"),
        ([("debian-binary", b"2.0\n"), ("control.tar.gz", CONTROL), ("data.tar.lzma", CONTROL)], "unknown kind"),
        ([("debian-binary", b"2.0\n"), ("control.tar.gz", CONTROL)], "no data part"),
        ([("debian-binary", b"2.0\n"), ("control.tar.gz", b"junk"), ("data.tar.gz", CONTROL)], "does not"),
        ([("debian-binary", b"2.0\n"), ("control.tar.zst", b"junk"), ("data.tar.gz", CONTROL)], "does not"),
        ([("debian-binary", b"2.0\n"), ("control.tar.xz", b"junk"), ("data.tar.gz", CONTROL)], "does not"),
        (
            [("debian-binary", b"2.0\n"), ("control.tar", tar_of([("x", b"")])), ("data.tar.gz", CONTROL)],
            "no control file",
        ),
    ],
)
def test_what_is_no_package(tmp_path: Path, parts: list[tuple[str, bytes]], says: str) -> None:
    path = write(tmp_path, ar_of(parts))
    with pytest.raises(DebianError, match=says):
        read(path)


def test_parts_that_later_versions_may_add_are_passed_over(tmp_path: Path) -> None:
    parts = [("debian-binary", b"2.0\n"), ("_sig", b"abc"), ("control.tar.gz", CONTROL), ("data.tar", tar_of([]))]
    assert read(write(tmp_path, ar_of(parts))) == {}


def test_junk_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(DebianError, match="is no Debian package"):
        Deb(write(tmp_path, b"PK\x03\x04"))


def test_paths_of_hundreds_of_folders_are_refused(tmp_path: Path) -> None:
    for member in (("./" + "d/" * 200 + "x", b""), link("./x", "d/" * 200)):
        with pytest.raises(DebianError, match="folders deep"):
            read(write(tmp_path, make_deb("a", files=[member]).data))
