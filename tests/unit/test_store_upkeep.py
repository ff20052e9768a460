from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wain import store_upkeep
from wain.digest import Digest
from wain.store import Store, recipe_key
from wain.store_upkeep import StoredBlob, grow, matching
from wain.store_writer import rename_into

WEEK = 7 * 86400


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "cache") as opened:
        yield opened


def put(store: Store, text: str, *, kind: str = "wheel", note: str = "", used: float | None = None) -> Digest:
    digest = store.put(text.encode(), kind=kind, note=note)
    if used is not None:
        os.utime(store.folder.blob(digest), (used, used))
    return digest


def blob(note: str) -> StoredBlob:
    return StoredBlob("ab12" * 16, "wheel", note, 1, 0.0, "", ())


def test_contents(store: Store) -> None:
    put(store, "aa", note="a-1.whl")
    put(store, "bbb", kind="layer", note="wain: 2 wheels: a 1, b/c 2")
    put(store, "c", note="")
    store.put_memo("made", recipe_key(1), {"size": 1})
    with store.partial(Digest.of(b"zz"), kind="wheel") as part:
        part.write(b"z")
    contents = store.contents()
    assert {(found.kind, found.note, found.size_bytes) for found in contents.blobs} == {
        ("wheel", "a-1.whl", 2),
        ("layer", "wain: 2 wheels: a 1, b/c 2", 3),
        ("wheel", "", 1),
    }
    assert {kind: (amount.count, amount.size_bytes) for kind, amount in contents.by_kind().items()} == {
        "layer": (1, 3),
        "wheel": (2, 3),
    }
    assert contents.memos["made"].count == 1
    assert (contents.unfinished.count, contents.unfinished.size_bytes) == (1, 1)
    assert contents.size_bytes == 7 + contents.memos["made"].size_bytes
    assert all(abs(found.put_at - time.time()) < 60 for found in contents.blobs)


def test_a_blob_without_a_label_is_listed_too(store: Store) -> None:
    digest = put(store, "aa", note="a-1.whl")
    for found in store.contents().blobs:
        for label in found.labels:
            found.path.with_name(label).unlink()
    (found,) = store.contents().blobs
    assert (found.name, found.kind, found.size_bytes) == (digest.hex, "unknown", 2)
    put(store, "aa", note="a-1.whl")
    (found,) = store.contents().blobs
    assert (found.kind, found.note) == ("wheel", "a-1.whl"), "the next put says again what it is"


def test_what_is_verified_while_it_is_put_keeps_its_label(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(store, "aa", note="a-1.whl")
    store.folder.blob(digest).write_bytes(b"xx")

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.undo()
        assert [bad.name for bad in store.verify()] == [digest.hex]
        rename_into(source, target)

    monkeypatch.setattr("wain.store_writer.rename_into", meanwhile)
    put(store, "aa", note="a-1.whl")
    assert [(found.kind, found.note) for found in store.contents().blobs] == [("wheel", "a-1.whl")]


@pytest.mark.parametrize(
    ("pattern", "note", "matches"),
    [
        ("numpy", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", True),
        ("NumPy", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", True),
        ("num", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", False),
        ("num*", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", True),
        ("numpy-2.3*", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", True),
        ("*.whl", "numpy-2.3.1-cp313-cp313-linux_x86_64.whl", True),
        ("typing-extensions", "typing_extensions-4.1-py3-none-any.whl", True),
        ("typing_extensions", "wain: 2 wheels: a 1, Typing.Extensions 4", True),
        ("numpy", "wain: numpy 2.3.1", True),
        ("numpy", "wain: 2 wheels: click 8, numpy 2.3.1", True),
        ("numpy", "numpydoc-1.0-py3-none-any.whl", False),
        ("ab12ab", "whatever", True),
        ("sha256:ab12ab12", "whatever", True),
        ("ab12", "whatever", False),
        ("[", "whatever", False),
    ],
)
def test_matching(pattern: str, note: str, matches: bool) -> None:
    assert bool(matching([blob(note)], pattern)) is matches


class TestPrune:
    def test_layers_go_first_then_the_least_recently_used(self, store: Store) -> None:
        now = time.time()
        old = put(store, "a" * 100, used=now - 500)
        young = put(store, "b" * 100, used=now - 100)
        layer = put(store, "c" * 100, kind="layer", used=now)
        store.folder.leases.release_all()
        kept = []
        for cap in (300, 299, 199, 99):
            store.prune(max_size_bytes=cap)
            kept.append({found.name for found in store.contents().blobs})
        assert kept == [{old.hex, young.hex, layer.hex}, {old.hex, young.hex}, {young.hex}, set()]
        assert [path.name for path in (store.root / "blobs-v1").rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize("cap", [0, 1, 999, 1000, 4_321, 10_000])
    def test_the_cap_is_held_within_one_entry(self, store: Store, cap: int) -> None:
        for number in range(10):
            put(store, f"{number}" * (number * 100 + 100), used=1000.0 + number)
        before = store.contents().size_bytes
        store.folder.leases.release_all()
        removed = store.prune(max_size_bytes=cap)
        after = store.contents().size_bytes
        assert after <= cap
        assert after > min(cap, before) - 1000
        assert before - after == removed.size_bytes

    def test_age(self, store: Store) -> None:
        now = time.time()
        put(store, "old", used=now - 2 * WEEK)
        young = put(store, "young", used=now - WEEK / 2)
        store.put_memo("made", recipe_key(1), {})
        os.utime(store.folder.memo("made", recipe_key(1)), (0, 0))
        store.folder.leases.release_all()
        assert store.prune(older_than_seconds=WEEK).count == 2
        assert [found.name for found in store.contents().blobs] == [young.hex]
        assert store.memo("made", recipe_key(1)) is None

    def test_using_keeps_it_young(self, store: Store) -> None:
        digest = put(store, "old", used=1.0)
        with Store.open(store.root) as later:
            assert later.has(digest)
        store.folder.leases.release_all()
        assert store.prune(older_than_seconds=WEEK).count == 0

    def test_a_time_in_the_future_counts_as_now(self, store: Store) -> None:
        ahead = put(store, "ahead", used=time.time() + 1000 * WEEK)
        store.folder.leases.release_all()
        assert store_upkeep.prune(store.folder, older_than_seconds=1, now=time.time() + 2000 * WEEK).count == 1
        assert not store.has(ahead)

    def test_the_dead_are_swept_up_and_the_living_left_alone(self, store: Store) -> None:
        script = (
            "import os, sys; from pathlib import Path; from wain.store import Store;"
            f"s = Store.open(Path({str(store.root)!r})); c = s.writer(kind='layer'); w = c.__enter__();"
            "w.write(b'x' * 9); w.file.flush(); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", script], check=False)
        assert len(list((store.root / "tmp").iterdir())) == 1
        (store.root / "tmp" / "litter.txt").touch()
        with Store.open(store.root) as other, other.writer(kind="layer") as writer, store.writer(kind="layer") as own:
            writer.write(b"hello")
            store.prune()
            assert {path.name for path in (store.root / "tmp").iterdir()} == {writer.path.name, own.path.name}
            assert writer.commit() == Digest.of(b"hello")

    def test_downloads_abandoned_long_ago_go(self, store: Store) -> None:
        for text in ("one", "two"):
            with store.partial(Digest.of(text.encode()), kind="wheel") as part:
                part.write(b"x")
        os.utime(store.folder.partial(Digest.of(b"one")), (0, 0))
        store.prune()
        assert [path.name for path in (store.root / "partial").iterdir()] == [Digest.of(b"two").hex]

    def test_a_label_without_a_blob_goes(self, store: Store) -> None:
        digest = put(store, "a")
        store.folder.blob(digest).unlink()
        store.folder.leases.release_all()
        store.prune()
        assert [path for path in (store.root / "blobs-v1").rglob("*") if path.is_file()] == []


def test_remove_takes_the_memos_along(store: Store) -> None:
    numpy = put(store, "numpy", note="numpy-1-py3-none-any.whl")
    other = put(store, "other", note="other-1-py3-none-any.whl")
    store.put_memo("made", recipe_key(1), {"size": 1}, [numpy])
    store.put_memo("made", recipe_key(2), {"size": 2}, [other])
    store.folder.leases.release_all()
    assert store.remove("numpy").count == 1
    assert (store.has(numpy), store.has(other)) == (False, True)
    assert store.memo("made", recipe_key(1)) is None
    assert store.memo("made", recipe_key(2)) == {"size": 2}


def test_purge_leaves_nothing_but_the_folder(store: Store) -> None:
    put(store, "a")
    store.put_memo("made", recipe_key(1), {})
    (store.uv_folder("cpython-3.13") / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55")
    store_upkeep.add_uses(store.folder, {"made": 1}, {})
    store.folder.leases.release_all()
    store.purge()
    files = {path.name for path in store.root.rglob("*") if path.is_file()}
    assert files <= {".gitignore", "CACHEDIR.TAG", "leases", ".lock"}  # the last is uv's


def test_verify_finds_and_drops_the_bad(store: Store) -> None:
    good, bad = put(store, "good", note="good.whl"), put(store, "bad", note="bad.whl")
    store.folder.blob(bad).write_bytes(b"worse")
    store.put_memo("made", recipe_key(1), {})
    store.put_memo("made", recipe_key(2), {})
    store.folder.memo("made", recipe_key(2)).write_bytes(b"junk")
    assert [(found.what, found.name, found.note) for found in store.verify()] == [
        ("blob", bad.hex, "bad.whl"),
        ("memo", recipe_key(2).hex, "made"),
    ]
    assert list(store.verify()) == []
    assert [found.name for found in store.contents().blobs] == [good.hex]


def test_the_file_of_look_ups_stays_small(store: Store) -> None:
    line = {"some-kind-of-thing": 1}
    for _ in range(4000):
        store_upkeep.add_uses(store.folder, line, line)
    assert (store.root / "uses").stat().st_size < 70_000
    assert store.uses().hits == {"some-kind-of-thing": 4000}


def test_junk_in_the_file_of_look_ups_is_skipped(store: Store) -> None:
    (store.root / "uses").write_bytes(b"\xff\n\na b c\nwheel 1 x\nwheel 2 3\nwheel -1 2\n")
    assert store.uses().hits == {"wheel": 2}


def test_litter_in_the_folder_harms_nothing(store: Store) -> None:
    digest = put(store, "a")
    shard = store.folder.blob(digest).parent
    (shard / "README.txt").touch()
    (shard / "sub").mkdir()
    (store.root / "blobs-v1" / "zz").touch()
    (store.root / "memos-v1" / "file").touch()
    (store.root / "elsewhere").mkdir()
    store.folder.leases.release_all()
    assert digest.hex in {found.name for found in store.contents().blobs}
    list(store.verify())
    store.prune(max_size_bytes=0)
    store.purge()
    assert not store.has(digest)
    assert (store.root / "elsewhere").exists()


class TestSize:
    """What a store holds is counted once a day; between, each run adds what it has put."""

    def test_runs_add_up(self, store: Store) -> None:
        put(store, "a" * 100)
        assert grow(store.folder, 100) is None
        store.prune()
        assert grow(store.folder, 50) == 150
        assert grow(store.folder, 7) == 157

    def test_it_is_counted_again_after_a_day_or_when_the_clock_went_back(self, store: Store) -> None:
        store.prune()
        now = time.time()
        assert grow(store.folder, 1, now=now + 86_000) == 1
        assert grow(store.folder, 1, now=now + 87_000) is None
        assert grow(store.folder, 1, now=now - 60) is None

    @pytest.mark.parametrize("text", ["", "x\n", "1\n", "1 2 3\n", "\0" * 100, "1 99999999999\nx\n"])
    def test_what_is_damaged_is_not_believed(self, store: Store, text: str) -> None:
        (store.root / "size").write_text(text)
        assert grow(store.folder, 1) is None

    def test_only_a_run_that_may_go_over_the_cap_looks_at_all(self, tmp_path: Path) -> None:
        def run(text: str, cap: int) -> int:
            store = Store.open(tmp_path / "cache")
            put(store, text * 1000)
            store.close(max_size_bytes=cap)
            with Store.open(tmp_path / "cache") as store:
                return len(store.contents().blobs)

        assert run("a", 2500) == 1
        assert run("b", 2500) == 2
        assert int((tmp_path / "cache/size").read_text().split()[0]) == 1000, "counted by the first run alone"
        assert run("c", 2500) == 2
        assert int((tmp_path / "cache/size").read_text().split()[0]) == 2000


def test_a_large_store_is_listed_quickly(tmp_path: Path) -> None:
    """A tenth of the store that is to be listed in a second; the soak has the whole."""
    with Store.open(tmp_path / "cache") as store:
        for number in range(1000):
            digest = Digest.of(str(number).encode())
            path = store.folder.blob(digest)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as stream:
                stream.truncate(500_000)
            store.folder.label(digest, kind="wheel", size_bytes=500_000, note=f"p{number}-1.whl").touch()
        began = time.process_time()
        contents = store.contents()
        assert (len(contents.blobs), contents.size_bytes) == (1000, 500_000_000)
        assert time.process_time() - began < 1
