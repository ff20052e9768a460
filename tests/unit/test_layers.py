"""Layers: right for every reader, the same bytes whatever the circumstances, never wrong in silence."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec.structs import replace

from tests.made import Item, make_wheel, make_zip, noise, save, wheel_items
from wain import gzips, splice
from wain.digest import Digest
from wain.errors import HashMismatch, ImageError, StoreError, WheelError
from wain.install import Scheme, plan_install
from wain.layers import (
    RECIPE_KEY,
    Entry,
    Folder,
    Layer,
    compressed_layer,
    describe,
    files_layer,
    remembered_layer,
    wheel_layer,
    wheel_layer_key,
)
from wain.oci import LAYER_GZIP, LAYER_TAR
from wain.store import Store
from wain.wheels import Wheel

SCHEME = Scheme.venv("/opt/venv", "3.13")
SITE = "opt/venv/lib/python3.13/site-packages"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def blob(layer: Layer) -> bytes:
    with layer.open() as stream:
        return stream.read()


def tar_of(layer: Layer) -> bytes:
    """The layer's tar, by other programs' readers; its digests hold."""
    data = blob(layer)
    assert Digest.of(data) == layer.digest
    assert len(data) == layer.size_bytes
    tar = gzip.decompress(data)
    assert Digest.of(tar) == layer.diff_id
    return tar


def members(layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar_of(layer))) as tar:
        names = [member.name for member in tar]
        assert len(names) == len(set(names))
        return {member.name: member for member in tar}


def contents(layer: Layer) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar_of(layer))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


BIG = noise(300_000)
FILES = {
    "pkg/__init__.py": b"import os\n" * 50,
    "pkg/big.so": BIG,
    "pkg/empty": b"",
    "pkg/é.txt": b"e",
    "pkg/" + "deep/" * 30 + "x" * 90: b"long",
    "pkg/edge": noise(splice.SMALL_BYTES),
    "pkg/below": noise(splice.SMALL_BYTES - 1),
    "pkg-1.0.data/scripts/run": b"#!python\nx",
}


def test_a_layer_has_what_the_plan_says(tmp_path: Path, store: Store) -> None:
    wheel = make_wheel(tmp_path, FILES)
    layer = wheel_layer([wheel], SCHEME, store=store)
    plan = plan_install([wheel], SCHEME)
    found = contents(layer)
    assert found == {f.path: wheel.read(f.member) if f.member else f.data for f in plan.files}
    infos = members(layer)
    for info in infos.values():
        assert (info.uid, info.gid, info.uname, info.gname, info.mtime) == (0, 0, "", "", 315532800)
    assert {name: infos[name].mode for name in plan.folders} == dict.fromkeys(plan.folders, 0o755)
    assert {f.path: f.mode for f in plan.files} == {name: info.mode for name, info in infos.items() if info.isfile()}
    order = [*infos]
    large = sorted(f.path for f in plan.files if f.size_bytes >= splice.SMALL_BYTES)
    small = sorted(f.path for f in plan.files if f.size_bytes < splice.SMALL_BYTES)
    assert order == [*plan.folders, *small, *large]
    assert layer.unpacked_bytes == plan.unpacked_bytes
    assert layer.created_by == "wain: pkg 1.0"
    assert layer.annotations == {RECIPE_KEY: wheel_layer_key([wheel.digest], SCHEME)}


def test_a_large_member_is_copied_as_it_stands(tmp_path: Path, store: Store) -> None:
    wheel = make_wheel(tmp_path, FILES)
    raw = bytes(wheel.raw(wheel.by_path["pkg/big.so"]))
    assert gzips.HEADER + raw + gzips.trailer(zlib.crc32(BIG), len(BIG)) in blob(
        wheel_layer([wheel], SCHEME, store=store)
    )


def other_streams() -> dict[str, tuple[Item, bool]]:
    """Members that are right for a zip reader -> whether their stream may be copied."""
    stream = zlib.compress(BIG, 9, wbits=-15)
    more = zlib.compress(BIG + b"more", 9, wbits=-15)
    endless = zlib.compressobj(9, zlib.DEFLATED, -15)
    unended = endless.compress(BIG) + endless.flush(zlib.Z_SYNC_FLUSH)

    def of(raw: bytes | None, **changes: int) -> Item:
        return Item(name="pkg/big", data=BIG, raw=raw, **changes)  # type: ignore[arg-type]

    return {
        "plain": (of(None), True),
        "ends early": (of(stream + zlib.compress(b"evil" * 5000, wbits=-15)), False),
        "a byte behind": (of(stream + b"\0"), False),
        "goes on": (of(more), False),
        "no end": (of(unended), False),
        "stored": (of(None, method=0), False),
        "descriptor": (of(None, has_descriptor=True), True),
        "zip64": (of(None, zip64=True), True),
    }


@pytest.mark.parametrize("kind", [*other_streams()])
def test_a_stream_that_may_not_be_copied_is_compressed_again(tmp_path: Path, store: Store, kind: str) -> None:
    item, may = other_streams()[kind]
    wheel = save(tmp_path, make_zip(wheel_items([item])))
    layer = wheel_layer([wheel], SCHEME, store=store)
    assert contents(layer)[f"{SITE}/pkg/big"] == BIG
    assert (item.stream in blob(layer)) == may


@pytest.mark.parametrize("kind", [*other_streams()])
def test_small_members_of_any_kind_are_right(tmp_path: Path, store: Store, kind: str) -> None:
    item, _ = other_streams()[kind]
    data = BIG[:1000]
    raw = None if item.raw is None else zlib.compress(data, 9, wbits=-15) + b"behind it"
    small = Item(name="s", data=data, raw=raw, method=item.method, has_descriptor=item.has_descriptor, zip64=item.zip64)
    layer = wheel_layer([save(tmp_path, make_zip(wheel_items([small])))], SCHEME, store=store)
    assert contents(layer)[f"{SITE}/s"] == data


def test_a_wheel_whose_tool_compressed_poorly_is_compressed_again(tmp_path: Path, store: Store) -> None:
    sources = {path.name: path.read_bytes() for path in sorted(Path(splice.__file__).parent.glob("*.py"))}
    text = b"".join(sources.values())
    files = {"big.txt": text, **{name: data for name, data in sources.items() if len(data) < splice.SMALL_BYTES}}
    sizes = {}
    for level in (1, 9):
        (tmp_path / str(level)).mkdir()
        wheel = make_wheel(tmp_path / str(level), files, level=level)
        layer = wheel_layer([wheel], SCHEME, store=store)
        assert contents(layer)[f"{SITE}/big.txt"] == text
        assert (bytes(wheel.raw(wheel.by_path["big.txt"])) in blob(layer)) == (level == 9)
        sizes[level] = layer.size_bytes
    assert sizes[1] < 1.03 * sizes[9]


@pytest.mark.parametrize("size_bytes", [1000, 300_000])
@pytest.mark.parametrize("change", [{"crc": 7}, {"size": 999}, {"size": 300_001}, {"raw": b"\xff" * 100_000}])
def test_a_damaged_member_leaves_nothing(tmp_path: Path, store: Store, size_bytes: int, change: dict[str, int]) -> None:
    item = Item(name="x", data=noise(size_bytes), **change)  # type: ignore[arg-type]
    wheel = save(tmp_path, make_zip(wheel_items([item])))
    with pytest.raises(WheelError, match="x "):
        wheel_layer([wheel], SCHEME, store=store)
    assert not store.has(wheel.digest)
    assert not store.contents().blobs


def test_other_bytes_than_promised_are_told_before_all_else(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    for item in (Item(name="x", data=b"fine"), Item(name="x", data=BIG, crc=7)):
        path.unlink(missing_ok=True)
        path.write_bytes(make_zip(wheel_items([item])))
        with Wheel.open(path, digest=Digest.of(b"other")) as wheel:
            with pytest.raises(HashMismatch):
                wheel_layer([wheel], SCHEME, store=store)
            assert remembered_layer(wheel_layer_key([wheel.digest], SCHEME), store=store) is None


def test_a_record_that_lies_is_made_right(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    right = make_wheel(tmp_path, {"a.py": b"a", "big": BIG, "b.py": b"b"})
    (tmp_path / "lie").mkdir()
    record = right.read_metadata_file("RECORD")
    assert record is not None
    lie = b"".join(
        line.replace(b"sha256=", b"sha256=AAAA")[: line.index(b"=") + 44] + b",1\n"
        if line.startswith((b"a", b"big"))
        else line
        for line in record.splitlines(keepends=True)
    )
    wrong = make_wheel(tmp_path / "lie", {"a.py": b"a", "big": BIG, "b.py": b"b"}, record=lie.decode())
    assert tar_of(wheel_layer([wrong], SCHEME, store=store)) == tar_of(wheel_layer([right], SCHEME, store=store))
    assert "wrong hash of a.py, big; right ones are written" in caplog.text
    assert "b.py" not in caplog.text


def test_golden_digests(tmp_path: Path, store: Store) -> None:
    """A change here changes every image: it takes a new `WHEEL_RECIPE`, or is a mistake."""
    one = make_wheel(tmp_path, FILES, entry_points="[console_scripts]\nx = pkg:main\n")
    many = {f"m/{n % 7}/f{n}.py": noise(3000 + 977 * n, n) for n in range(90)}
    other = make_wheel(tmp_path, {**many, "z.bin": BIG * 3}, name="other")
    stored = save(tmp_path, make_zip(wheel_items([Item(name="s", data=BIG * 16, method=0)], name="st")), name="st")
    found = [wheel_layer(wheels, SCHEME, store=store) for wheels in ([one], [other], [stored], [stored, one, other])]
    entries = [
        Entry(path="a/b", kind="file", size_bytes=3, open_data=lambda: io.BytesIO(b"abc")),
        Entry(path="a", kind="directory"),
    ]
    found.append(files_layer(entries, store=store, created_by="x"))
    assert [layer.diff_id for layer in found] == GOLDEN_DIFF_IDS
    assert [layer.digest for layer in found] == GOLDEN_DIGESTS


GOLDEN_DIFF_IDS: list[str] = [
    "sha256:9f0845e11016f1ac7559b4294d3cb2e0450ac2dec83d9443cbf0869c51a898a4",
    "sha256:9f141227faf7f0725fb4cb0bcf9407fd3d93fd4d62eb47f0a8d3af84fdb1c290",
    "sha256:988bce3cc3c66e5502b7cde42ea6dcc6e65cef4df4c1c8f9f09b399f6c9db6a6",
    "sha256:493979ca56d8b7c4eff4528b8c956e4b7252e99c52533e2394b3d57b1a5050c1",
    "sha256:8c2db2d6f35a00243cea7b6a4c65aaa9b7b536e6a382922e0dacdfc2958e9520",
]
GOLDEN_DIGESTS: list[str] = [
    "sha256:6dcbc69b1d72ea748eef8f4200eeb2dd03a532e7390a451c5c85076d1327547e",
    "sha256:d644389d580cdc5bf2cf8066c51c7a8eb8ce0571f573eee7912949869f46e0db",
    "sha256:9b4e8fe344f511ef5a1126549bb64a263f3db3ba40aec707d2ea6c2ea5d9600a",
    "sha256:7adf4e04bd5cdb2548d10c02b24cb1c62237ae52e644e18bb1bd4b6563715445",
    "sha256:4bb7e92c341a43b5f473ab19c4c3da3f865050d3857f6b532f44fea483dd5d4a",
]

CIRCUMSTANCES = """
import os, sys
from pathlib import Path
os.umask(int(os.environ["UMASK"], 8))
from wain.digest import Digest
from wain.install import Scheme
from wain.layers import wheel_layer
from wain.store import Store
from wain.wheels import Wheel
path = Path(sys.argv[1])
with Store.open(Path(sys.argv[2])) as store:
    wheel = Wheel.open(path, digest=Digest.of_file(path))
    layer = wheel_layer([wheel], Scheme.venv("/opt/venv", "3.13"), store=store, threads=int(sys.argv[3]))
print(layer.digest, layer.diff_id)
"""


def test_no_circumstance_changes_a_layer(tmp_path: Path) -> None:
    files = {**FILES, **{f"m/{n}.py": noise(2000 + n * 31, n) for n in range(200)}}
    items = wheel_items(files)
    info = [item for item in items if ".dist-info/" in item.name]
    seen = set()
    for number, (umask, cwd, locale, zone, epoch, threads) in enumerate(
        [("022", "/", "C", "UTC", "", 1), ("077", str(tmp_path), "C.UTF-8", "Asia/Tokyo", "1700000000", 5)]
    ):
        folder = tmp_path / f"home{number}"
        folder.mkdir()
        shuffled = items[:]
        if number:
            random.Random(number).shuffle(shuffled)
        assert len(info) == 3
        wheel = save(folder, make_zip(shuffled))
        env = {
            "UMASK": umask, "LC_ALL": locale, "TZ": zone, "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONHASHSEED": str(number), **({"SOURCE_DATE_EPOCH": epoch} if epoch else {}),
        }  # fmt: skip
        os.utime(folder / wheel.filename, (number * 10**9, number * 10**9))
        command = [sys.executable, "-c", CIRCUMSTANCES, folder / wheel.filename, folder / "store", str(threads)]
        seen.add(subprocess.run(command, env=env, cwd=cwd, check=True, capture_output=True, text=True).stdout)
    assert len(seen) == 1


def test_what_is_remembered_is_not_made_again(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, FILES)
    first = wheel_layer([wheel], SCHEME, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(splice, "assemble", None)
        again = wheel_layer([wheel], SCHEME, store=store)
    assert again == first
    assert blob(again) == blob(first)
    store.drop(first.digest)
    assert remembered_layer(wheel_layer_key([wheel.digest], SCHEME), store=store) is None
    assert wheel_layer([wheel], SCHEME, store=store) == first


def test_the_key_says_what_the_layer_depends_on(tmp_path: Path) -> None:
    one, other = Digest.of(b"1"), Digest.of(b"2")
    keys = {
        wheel_layer_key([one], SCHEME),
        wheel_layer_key([one, other], SCHEME),
        wheel_layer_key([one], Scheme.venv("/opt/venv", "3.12")),
        wheel_layer_key([one], SCHEME, folders={"opt": Folder(mode=0o700)}),
    }
    assert len(keys) == 4
    assert wheel_layer_key([other, one], SCHEME) == wheel_layer_key([one, other], SCHEME)


def test_folders_that_the_base_has_keep_mode_and_owner(tmp_path: Path, store: Store) -> None:
    layer = wheel_layer([make_wheel(tmp_path)], SCHEME, store=store, folders={"opt": Folder(mode=0o1777, uid=5, gid=6)})
    info = members(layer)["opt"]
    assert (info.mode, info.uid, info.gid) == (0o1777, 5, 6)


def test_several_wheels_make_one_layer_in_any_order(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    wheels = [make_wheel(tmp_path, {"same.py": n.encode(), f"{n}.py": b"x"}, name=n) for n in "abc"]
    layer = wheel_layer(wheels, SCHEME, store=store)
    assert contents(layer)[f"{SITE}/same.py"] == b"a"
    assert "same.py is in a, b, c; that of a is taken" in caplog.text
    store.delete_memo("layer", wheel_layer_key([wheel.digest for wheel in wheels], SCHEME))
    assert wheel_layer(wheels[::-1], SCHEME, store=store) == layer
    assert layer.created_by == describe(wheels) == "wain: 3 wheels: a 1.0, b 1.0, c 1.0"


@pytest.mark.parametrize("path", [".wh.x", "a/.wh..wh..opq", ".wh.d/x"])
def test_a_wheel_cannot_delete_what_is_below(tmp_path: Path, store: Store, path: str) -> None:
    with pytest.raises(ImageError, match="cannot stand"):
        wheel_layer([make_wheel(tmp_path, {path: b""})], SCHEME, store=store)


def test_another_compressor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deflate.deflate_compress", lambda data, level: zlib.compress(data, level))
    gzips._compressor.cache_clear()
    with pytest.raises(StoreError, match="libdeflate"):
        gzips.gzip_member(b"x")


def file(path: str, data: bytes, **more: object) -> Entry:
    return Entry(path=path, kind="file", size_bytes=len(data), open_data=lambda: io.BytesIO(data), **more)  # type: ignore[arg-type]


def test_a_layer_of_files_has_every_kind_of_entry(store: Store) -> None:
    huge = noise(9 << 20)
    entries = [
        file("b/huge", huge, mode=0o755, mtime=1_700_000_000, uid=7, gid=8),
        Entry(path="b", kind="directory", mode=0o1777),
        Entry(path="b/l", kind="symlink", mode=0o777, target="../é/" + "x" * 120),
        Entry(path="a-link", kind="hardlink", target="b/huge"),
        file("b/é", b"e", xattrs={"security.capability": b"\1\0=\n"}),
        file("b/old", b"", mtime=-1),
    ]
    layer = files_layer(entries, store=store, created_by="wain: files")
    infos = members(layer)
    assert [*infos] == ["b", "b/l", "b/old", "b/é", "b/huge", "a-link"]
    assert contents(layer)["b/huge"] == huge
    assert (infos["b"].mode, infos["b"].isdir()) == (0o1777, True)
    assert (infos["b/huge"].mode, infos["b/huge"].uid, infos["b/huge"].gid) == (0o755, 7, 8)
    assert infos["b/huge"].mtime == 1_700_000_000
    assert infos["b/l"].linkname == "../é/" + "x" * 120
    assert (infos["a-link"].islnk(), infos["a-link"].linkname) == (True, "b/huge")
    assert infos["b/é"].pax_headers["SCHILY.xattr.security.capability"].encode() == b"\1\0=\n"
    assert files_layer(entries[::-1], store=store, created_by="wain: files") == layer
    assert layer.created_by == "wain: files"
    assert layer.unpacked_bytes == len(huge) + 1


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([file("x", b"1"), file("x", b"2")], "twice"),
        ([file("../x", b"")], "cannot stand"),
        ([file("/x", b"")], "cannot stand"),
        ([file("a/.wh.x", b"")], "cannot stand"),
        ([file("a\0", b"")], "cannot stand"),
        ([Entry(path="x", kind="hardlink", target="y")], "not in its layer"),
        ([Entry(path="x", kind="fifo")], "fifo"),
        ([Entry(path="x", kind="file", size_bytes=3, open_data=lambda: io.BytesIO(b"12"))], "bytes"),
        ([Entry(path="x", kind="file", size_bytes=3, open_data=lambda: io.BytesIO(b"1234"))], "bytes"),
        ([Entry(path="x", kind="file", size_bytes=1 << 20, open_data=lambda: io.BytesIO(b"12"))], "bytes"),
        ([Entry(path="x", kind="file", size_bytes=1 << 20, open_data=lambda: io.BytesIO(bytes(2 << 20)))], "bytes"),
    ],
)
def test_entries_that_cannot_be_are_refused(store: Store, entries: list[Entry], text: str) -> None:
    with pytest.raises(ImageError, match=text):
        files_layer(entries, store=store, created_by="x")


def test_an_empty_layer_is_a_tar(store: Store) -> None:
    assert members(files_layer([], store=store, created_by="x")) == {}


def test_a_disk_that_is_full_is_told_and_no_thread_stays(tmp_path: Path) -> None:
    import threading

    plan = plan_install([make_wheel(tmp_path, {f"{n}": noise(300_000, n) for n in range(40)})], SCHEME)
    before = threading.active_count()
    written = 0

    def write(data: object) -> None:
        nonlocal written
        written += len(data)  # type: ignore[arg-type]
        if written > 1_000_000:
            raise OSError(28, "No space left on device")

    parts = splice.parts_of([(b"", file) for file in plan.files], [])
    with pytest.raises(OSError, match="No space"):
        splice.assemble(parts, write, threads=3)
    assert threading.active_count() == before


def test_an_uncompressed_layer_is_compressed_once_and_checked(store: Store) -> None:
    tar = files_layer([file("x", b"x" * 9_000_000)], store=store, created_by="x")
    with tar.open() as stream:
        data = gzip.decompress(stream.read())
    plain = Layer(
        digest=Digest.of(data),
        diff_id=Digest.of(data),
        size_bytes=len(data),
        source=lambda: io.BytesIO(data),
        media_type=LAYER_TAR,
        created_by="RUN x",
    )
    made = compressed_layer(plain, store)
    with made.open() as stream:
        assert gzip.decompress(stream.read()) == data
    assert (made.media_type, made.diff_id, made.created_by) == (LAYER_GZIP, plain.diff_id, "RUN x")

    def unread() -> BinaryIO:
        raise AssertionError("it is remembered")

    assert compressed_layer(replace(plain, source=unread), store).digest == made.digest
    assert compressed_layer(made, store) is made
    other = Digest.of(b"other")
    with pytest.raises(HashMismatch, match="diff ID"):
        compressed_layer(replace(plain, diff_id=other), store)
