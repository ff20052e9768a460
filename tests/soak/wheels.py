"""Wheels damaged, cut and lying: opened, planned, made into a layer and installed, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from tests.made import Item, make_zip, noise, wheel_items
from tests.soak.mutation import damaged, fuzz
from wain.digest import Digest
from wain.errors import WainError
from wain.install import Scheme, plan_install
from wain.installation import install_directory
from wain.layers import wheel_layer
from wain.rootfs import Rootfs
from wain.store import Store
from wain.wheels import Wheel

_FILENAME = "pkg-1.0-py3-none-any.whl"
_SCHEME = Scheme.venv("/opt/venv", "3.13")
_NAMES = (
    "../x", "/etc/passwd", "a/../../x", "..", ".", "", "a//b", "a/./b", "\0", "a\nb", "x" * 300, "a/" * 3000, "a/" * 90,
    "pkg-1.0.dist-info/RECORD", "pkg-1.0.dist-info/METADATA", "pkg-1.0.dist-info/x/RECORD", "PKG/__init__.py",
    "pkg-1.0.dist-info", "pkg", "pkg/", "other-2.0.dist-info/METADATA", "pkg-1.0.data/data/../../x",
    "pkg-1.0.data/data//etc/x", "pkg-1.0.data/data/bin/python", "pkg-1.0.data/scripts/python", "pkg-1.0.data/other/x",
    "pkg-1.0.data/scripts/a/b", "pkg-1.0.data/purelib/pkg/__init__.py", "pkg-1.0.data/data/pyvenv.cfg",
    "pkg-1.0.data/purelib/pkg-1.0.dist-info/RECORD", "pkg-1.0.data/headers/x.h", "pkg-1.0.data/data", ".wh.pkg",
    "pkg/.wh..wh..opq", "evil.pth", "é\u202e", "**.py", "[.py", "pkg/__pycache__/a.cpython-313.pyc", "\udc80",
    "INSTALLER", "pkg-1.0.dist-info/INSTALLER", "pkg-1.0.dist-info/RECORD.jws", "a,b", 'a"b', "a\rb",
)  # fmt: skip
_TEXTS = (
    "Wheel-Version: " + "9" * 5000, "Wheel-Version: 2.0", "Name: ..", "Name: ../../x", "Version: " + "9" * 5000,
    "Version: 1." + "0" * 5000, "Root-Is-Purelib: maybe", "[console_scripts]\n../x = a:b", "[console_scripts]\nx = a:b",
    "[console_scripts]\n" + "n" * 300 + " = a:b", "[console_scripts]\n. = a:b", "[gui_scripts]\npython = a:b",
    "pkg/__init__.py,sha256=" + "\n" * 43 + ",1", "pkg/__init__.py,sha256=" + "A" * 43 + ",1", '"', '"' + "x" * 200_000,
    "pkg/__init__.py,sha256=" + "zz" * 32, "Requires-Dist: " + "(" * 10_000, ": x", "\0", "x" * 100_000,
)  # fmt: skip
_NUMBERS = (0, 1, 100, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 40)


def honest() -> list[bytes]:
    files = {
        "pkg/__init__.py": b"print(1)\n",
        "pkg/data.bin": noise(90_000),
        "pkg/zero.bin": bytes(300_000),
        "pkg-1.0.data/scripts/tool": b"#!python\nprint(2)\n",
        "pkg-1.0.data/data/share/doc.txt": b"text\n" * 100,
        "pkg-1.0.data/headers/pkg.h": b"int x;\n",
        "pkg/empty": b"",
    }
    points = "[console_scripts]\npkg = pkg:main\n"
    items = wheel_items(files, entry_points=points)
    return [
        make_zip(items),
        make_zip([replace(item, zip64=True, has_descriptor=True) for item in items], zip64=True, comment=b"a comment"),
        make_zip(wheel_items({f"pkg/m{number}.py": b"x = %d\n" % number for number in range(300)}, purelib=False)),
    ]


def lying(chance: random.Random) -> bytes:
    """A wheel with right structure and wrong content: names, sizes, kinds, streams, metadata."""
    items = wheel_items(
        {"pkg/__init__.py": b"x = 1\n", "pkg/big.bin": noise(70_000), "pkg-1.0.data/scripts/t": b"#!python\n"},
        entry_points="[console_scripts]\npkg = pkg:main\n",
    )
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(items))
        item = items[at]
        changes: tuple[Callable[[], Item], ...] = (
            lambda item=item: replace(item, name=chance.choice(_NAMES).encode("utf-8", "replace").decode()),
            lambda item=item: replace(item, size=chance.choice(_NUMBERS)),
            lambda item=item: replace(item, compressed=chance.choice(_NUMBERS), zip64=chance.random() < 0.5),
            lambda item=item: replace(item, crc=chance.choice(_NUMBERS[:5])),
            lambda item=item: replace(item, offset=chance.choice(_NUMBERS), zip64=chance.random() < 0.5),
            lambda item=item: replace(item, method=chance.choice((0, 1, 8, 12, 14, 93))),
            lambda item=item: replace(item, mode=chance.choice((0o120777, 0o20666, 0o40755, 0o104755, 0, 0o10644))),
            lambda item=item: replace(item, flags=chance.choice((1, 8, 0x20, 0x40, 0x800, 0x2000))),
            lambda item=item: replace(item, local_name=chance.choice(("pkg/other.py", "", "x" * 300))),
            lambda item=item: replace(item, raw=damaged(item.stream, [item.stream], chance)),
            lambda item=item: replace(item, raw=item.stream + b"\0" * chance.randrange(1, 20)),
            lambda item=item: replace(item, data=chance.choice(_TEXTS).encode()),
            lambda item=item: replace(item, data=item.data + b"\n" + chance.choice(_TEXTS).encode()),
            lambda item=item: replace(item, data=damaged(item.data, [b"\n,;=[]:"], chance)),
            lambda item=item: replace(item, data=bytes(chance.choice((1, 5_000_000)))),
        )
        items[at] = chance.choice(changes)()
        if chance.random() < 0.1:
            items.insert(chance.randrange(len(items)), items[at])
        if chance.random() < 0.1:
            del items[chance.randrange(len(items))]
        if not items:
            break
    items = [replace(item, name=item.name[:60_000], raw=(item.raw or b"")[:2_000_000] or None) for item in items]
    return make_zip(items, zip64=chance.random() < 0.2, prefix=b"MZ" if chance.random() < 0.02 else b"")


def attempt(data: bytes, folder: Path) -> None:
    """All that is done with a wheel; the layer and the folder agree, and both stay where they belong."""
    path = folder / _FILENAME
    path.write_bytes(data)
    layer_error: WainError | None = None
    with Wheel.open(path, digest=Digest.of(data)) as wheel, Store.open(folder / "cache") as store:
        try:
            layer = wheel_layer([wheel], _SCHEME, store=store, threads=1)
        except WainError as error:
            layer_error = error
        else:
            tree = Rootfs.of([layer])
            for place, node in tree.walk():
                assert ("opt/venv/" + "x").startswith(place + "/") or place.startswith("opt/venv"), place
                assert node.kind in ("file", "directory"), place
            files = {place for place, node in tree.walk() if node.kind == "file"}
            assert files == {file.path for file in plan_install([wheel], _SCHEME).files}
        target = folder / "venv"
        try:
            install_directory([wheel], Scheme.venv(str(target), "3.13"), workers=1)
        except WainError as error:
            site = target / "lib/python3.13/site-packages"
            assert not site.exists() or list(site.iterdir()) == [], "something half-made stays"
            assert layer_error is not None, f"the layer was made, but the folder not: {error.message}"
            raise
    if layer_error is not None and "whiteout" not in layer_error.message and ".wh." not in layer_error.message:
        raise AssertionError(f"the folder was made, but the layer not: {layer_error.message}")
    assert sorted(child.name for child in folder.iterdir()) == ["cache", _FILENAME, "venv"]


def main(seconds: float) -> None:
    """Runs for so long; a failure names the seed and keeps the input."""
    fuzz(attempt, honest(), seconds, borders=(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7"), make=lying)
