"""Layers hold what went in, whatever it is; damaged wheels are errors, never wrong layers."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made import Item, make_zip, noise, save, wheel_items
from wain.digest import Digest
from wain.errors import WainError
from wain.install import Scheme, plan_install
from wain.layers import Entry, Layer, files_layer, wheel_layer
from wain.store import Store
from wain.wheels import Wheel

SCHEME = Scheme.venv("/opt/venv", "3.13")
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh.") and len(name.encode()) < 200)
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
DATA = st.one_of(st.binary(max_size=300), st.integers(60_000, 140_000).map(noise), st.integers(0, 300_000).map(bytes))


def read(layer: Layer) -> dict[str, tuple[str, bytes]]:
    with layer.open() as stream:
        data = stream.read()
    tar_bytes = gzip.decompress(data)
    assert Digest.of(data) == layer.digest
    assert Digest.of(tar_bytes) == layer.diff_id
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        return {
            member.name: ("file", tar.extractfile(member).read())  # type: ignore[union-attr]
            if member.isfile()
            else ("directory" if member.isdir() else "link", member.linkname.encode())
            for member in tar
        }


def without_clashes(paths: dict[str, bytes]) -> dict[str, bytes]:
    folders = {"/".join(path.split("/")[:n]) for path in paths for n in range(1, path.count("/") + 1)}
    return {path: data for path, data in paths.items() if path not in folders}


@settings(max_examples=25)
@given(st.dictionaries(PATHS, DATA, max_size=6), st.permutations(range(6)))
def test_a_layer_of_files_gives_them_back(files: dict[str, bytes], order: list[int]) -> None:
    files = without_clashes(files)
    entries = [
        Entry(path=path, kind="file", size_bytes=len(data), open_data=lambda data=data: io.BytesIO(data))  # type: ignore[misc]
        for path, data in files.items()
    ]
    shuffled = [entries[n] for n in order if n < len(entries)]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store") as store:
        layer = files_layer(entries, store=store, created_by="x")
        assert {path: ("file", data) for path, data in files.items()} == read(layer)
        assert files_layer(shuffled, store=store, created_by="x") == layer


@settings(max_examples=25)
@given(st.dictionaries(PATHS, DATA, max_size=5), st.sampled_from([0, 1, 6, 9]), st.booleans(), st.integers(1, 4))
def test_a_layer_of_a_wheel_gives_its_files_back(
    files: dict[str, bytes], level: int, has_descriptor: bool, threads: int
) -> None:
    files = {path: data for path, data in without_clashes(files).items() if ".dist-info" not in path}
    items = [
        Item(name=path, data=data, method=8 if level else 0, level=level, has_descriptor=has_descriptor)
        for path, data in files.items()
    ]
    with tempfile.TemporaryDirectory() as name, Store.open(Path(name) / "store") as store:
        wheel = save(Path(name), make_zip(wheel_items(items)))
        found = read(wheel_layer([wheel], SCHEME, store=store, threads=threads))
        for path, data in files.items():
            assert found[f"{SCHEME.purelib}/{path}"] == ("file", data)
        plan = plan_install([wheel], SCHEME)
        assert {*found} == {*plan.folders, *(file.path for file in plan.files)}
        wheel.close()


BASE = make_zip(
    wheel_items({"a.py": noise(5000), "big": noise(90_000), "c/d": b""}, entry_points="[console_scripts]\nx = a:b\n")
)
CHANGES = st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=80)
@given(CHANGES, st.integers(0, len(BASE)), st.booleans())
def test_a_damaged_wheel_is_an_error_or_harmless(changes: list[tuple[int, int]], cut: int, is_cut: bool) -> None:
    """Also where the digest was taken of the damaged bytes, as a hostile index would."""
    data = bytearray(BASE)
    for at, value in changes:
        data[-1 - at] = value
    if is_cut:
        data = data[:cut]
    with tempfile.TemporaryDirectory() as name, Store.open(Path(name) / "store") as store:
        path = Path(name) / "pkg-1.0-py3-none-any.whl"
        path.write_bytes(data)
        try:
            with Wheel.open(path, digest=Digest.of(data)) as wheel:
                found = read(wheel_layer([wheel], SCHEME, store=store, threads=1))
        except WainError as error:
            assert error.hint
            assert not store.contents().blobs
        else:
            assert all(path.startswith("opt") for path in found)
