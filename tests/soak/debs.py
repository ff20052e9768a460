"""Debian packages damaged, cut and lying: read and merged into a base's files, or refused."""

from __future__ import annotations

import contextlib
import random
import tarfile
from pathlib import Path

from tests.made import noise
from tests.soak.mutation import damaged, fuzz
from tests.unit.debian_maker import ar_of, link, make_deb, packed, special, tar_of
from wain.deb import Deb
from wain.debian_rootfs import Rootfs
from wain.errors import DebianError

_CONTROL = b"Package: a\nVersion: 1.0-1\nArchitecture: amd64\nDescription: a\n"
_PATHS = (
    "../x", "/../x", "./../../x", "/etc/passwd", "a/../../x", "", ".", "./", "usr/bin/../../../x", "usr/lib/libx.so.1",
    "bin/x", "lib/x", "lib64", "usr", "etc", "var/run/x", "x\ny", "x" * 300, "d/" * 2000 + "x", "a\\b",
    "usr/bin/python3", "etc/passwd", "var/lib/dpkg/status", ".wh.usr", "usr/.wh..wh..opq", "\u202e",
)  # fmt: skip
_SCRIPTS = (
    "#!/bin/sh\n", "#!/bin/sh\nset -e\nldconfig\n", "#!/bin/sh\nrm -rf /\n", "#!/usr/bin/perl\n", "if [", "\0",
    "#!/bin/sh\n" + "if true; then\n" * 500, "#!/bin/sh\n" + "$(" * 500, "x" * 100_000,
)  # fmt: skip


def honest() -> list[bytes]:
    files: list[tarfile.TarInfo | tuple[str, bytes]] = [
        ("./usr/", b""),
        ("./usr/bin/", b""),
        ("./usr/bin/tool", noise(9000)),
        ("./usr/lib/", b""),
        ("./usr/lib/libx.so.1.0", b"\x7fELF" + noise(20_000)),
        link("./usr/lib/libx.so.1", "libx.so.1.0"),
        link("./usr/bin/again", "./usr/bin/tool", hard=True),
        ("./usr/share/a/" + "n" * 150, b"x"),
    ]
    scripts = {"postinst": "#!/bin/sh\nset -e\n", "triggers": "activate-noawait ldconfig\n"}
    return [make_deb("a", files=files, scripts=scripts, compression=kind).data for kind in ("", "gz", "xz", "zst")]


def lying(chance: random.Random) -> bytes:
    """A package whose archives are right and whose members are not."""
    files: list[tarfile.TarInfo | tuple[str, bytes]] = []
    for _ in range(chance.randrange(1, 8)):
        path = chance.choice(_PATHS)
        match chance.randrange(6):
            case 0:
                files.append(link(path, chance.choice(_PATHS)))
            case 1:
                files.append(link(path, chance.choice(_PATHS), hard=True))
            case 2:
                files.append(special(path, chance.choice((tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S", b"V", b"7"))))
            case 3:
                files.append((path.rstrip("/") + "/", b""))
            case _:
                files.append((path, noise(chance.choice((0, 10, 3000)))))
    control = _CONTROL
    if chance.random() < 0.3:
        control = damaged(control, [b"\n \n", b"Package: b\n"], chance)
    inner = [("./control", control)]
    if chance.random() < 0.5:
        inner.append((f"./{chance.choice(('postinst', 'preinst', 'triggers'))}", chance.choice(_SCRIPTS).encode()))
    kind = chance.choice(("", "gz", "xz", "zst"))
    end = f".{kind}" if kind else ""
    parts = [
        ("debian-binary", chance.choice((b"2.0\n", b"2.0\n", b"2.0\n", b"3.0\n", b""))),
        (f"control.tar{end}", packed(tar_of(inner), kind)),
        (f"data.tar{end}", packed(damaged(tar_of(files), [tar_of(inner)], chance), kind)),
    ]
    if chance.random() < 0.1:
        chance.shuffle(parts)
    return ar_of(parts)


def attempt(data: bytes, folder: Path) -> None:
    path = folder / "a.deb"
    path.write_bytes(data)
    control = Deb(path).control()
    if control.name != "a":
        raise DebianError("another package", hint="None.")
    rootfs = Rootfs(folder / "spool", "amd64")
    rootfs.add([("a", path)])
    rootfs.add_status(["a"])
    with contextlib.suppress(DebianError):
        rootfs.add_loader_cache()
    for place, entry in rootfs.files().items():
        assert place == entry.path, place
        assert not place.startswith("/"), place
        assert ".." not in place.split("/"), place
        if entry.kind == "file" and entry.open_data is not None:
            with entry.open_data() as stream:
                assert len(stream.read()) == entry.size_bytes
    assert sorted(child.name for child in folder.iterdir()) == ["a.deb", "spool"]


def main(seconds: float) -> None:
    """Runs for so long; a failure names the seed and keeps the input."""
    borders = (b"`\n", b"!<arch>", b"data.tar", b"\xfd7zXZ", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"ustar")
    fuzz(attempt, honest(), seconds, borders=borders, make=lying)
