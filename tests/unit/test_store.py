from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.soak import store_faults
from wain.digest import Digest
from wain.errors import HashMismatch, StoreError
from wain.store import Store, recipe_key

HELLO = Digest.of(b"hello")


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "cache") as opened:
        yield opened


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_put_and_read_back(store: Store) -> None:
    assert not store.has(HELLO)
    assert store.put(b"hello", kind="wheel", note="hello-1.whl") == HELLO
    assert store.put(io.BytesIO(b"hello"), kind="wheel", expected=HELLO, size_bytes=5) == HELLO
    assert store.has(HELLO)
    assert store.size_bytes(HELLO) == 5
    with store.reader(HELLO) as reader:
        assert reader.read() == b"hello"
    path = store.path(HELLO)
    assert path is not None
    assert path.read_bytes() == b"hello"


def test_the_same_bytes_twice_are_kept_once(store: Store) -> None:
    store.put(b"hello", kind="wheel", note="hello-1.whl")
    before = names(store.root)
    time.sleep(1.01)
    store.put(b"hello", kind="wheel", note="hello-1.whl")
    assert names(store.root) == before


def test_a_sha512_digest_is_a_name_too(store: Store) -> None:
    import hashlib

    digest = Digest("sha512:" + hashlib.sha512(b"hello").hexdigest())
    assert store.put(b"hello", kind="wheel", expected=digest) == digest
    with store.reader(digest) as reader:
        assert reader.read() == b"hello"
    assert list(store.verify()) == []


@pytest.mark.parametrize(("expected", "size"), [(Digest.of(b"other"), None), (None, 4), (None, 6)])
def test_nothing_is_kept_of_what_was_not_promised(store: Store, expected: Digest | None, size: int | None) -> None:
    with pytest.raises(HashMismatch):
        store.put(io.BytesIO(b"hello"), kind="wheel", expected=expected, size_bytes=size)
    assert not store.has(HELLO)
    assert names(store.root) == [".gitignore", "CACHEDIR.TAG", "leases"]


def test_an_endless_stream_is_cut_at_the_promised_size(store: Store) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    with pytest.raises(HashMismatch):
        store.put(Endless(), kind="wheel", size_bytes=10_000_000)


def test_a_missing_blob_is_an_error_that_says_what_to_do(store: Store) -> None:
    assert store.path(HELLO) is None
    assert store.size_bytes(HELLO) is None
    with pytest.raises(StoreError, match="is not in the store") as caught:
        store.reader(HELLO)
    assert "run the same again" in caught.value.hint


def test_a_writer_takes_bytes_in_any_order(store: Store) -> None:
    with store.writer(kind="layer") as writer:
        writer.file.seek(5)
        writer.file.write(b"world")
        writer.file.seek(0)
        writer.file.write(b"hello")
        assert writer.size_bytes == 10
        assert writer.path.exists()
        assert writer.commit() == Digest.of(b"helloworld")


def test_a_writer_trusts_a_digest_that_the_caller_computed(store: Store) -> None:
    with store.writer(kind="layer") as writer:
        writer.file.write(b"hello")
        assert writer.commit(known=HELLO) == HELLO
    with store.writer(kind="layer") as writer, pytest.raises(HashMismatch):
        writer.commit(expected=Digest.of(b"other"), known=HELLO)


def test_a_writer_without_commit_leaves_nothing(store: Store) -> None:
    with contextlib.suppress(KeyError), store.writer(kind="layer") as writer:
        writer.write(b"hello")
        raise KeyError
    assert not store.has(HELLO)
    assert list((store.root / "tmp").iterdir()) == []


def test_an_unfinished_download_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    with store.partial(HELLO, kind="wheel") as part:
        assert part.size_bytes == 0
        part.write(b"hel")
    with Store.open(store.root) as later, later.partial(HELLO, kind="wheel", note="hello-1.whl") as part:
        assert (part.size_bytes, part.present) == (3, False)
        part.write(b"lo")
        assert part.commit() == HELLO
    assert store.has(HELLO)
    assert list((store.root / "partial").iterdir()) == []
    assert [blob.note for blob in store.contents().blobs] == ["hello-1.whl"]


def test_a_download_that_is_done_stays_while_its_store_is_open(store: Store) -> None:
    with Store.open(store.root) as other:
        with other.partial(HELLO, kind="wheel") as part:
            part.write(b"hello")
            part.commit()
            # Another begins the same anew, as if the blob were gone; what it has is its own.
            again = store.folder.partial(HELLO)
            again.write_bytes(b"hel")
        assert again.exists()
        assert store.prune(max_size_bytes=0).in_use == 1
        assert other.has(HELLO)
    assert store.prune(max_size_bytes=0).in_use == 0
    assert not store.has(HELLO)


def test_a_download_that_went_wrong_starts_anew(store: Store) -> None:
    with store.partial(HELLO, kind="wheel") as part:
        part.write(b"hexxx")
        with pytest.raises(HashMismatch):
            part.commit()
    with store.partial(HELLO, kind="wheel") as part:
        assert part.size_bytes == 0
        part.write(b"junk")
        part.restart()
        part.write(b"hello")
        assert part.commit() == HELLO


def test_two_downloads_of_the_same_wait_for_each_other(store: Store) -> None:
    started = threading.Event()
    seen = []

    def second() -> None:
        with Store.open(store.root) as other:
            started.set()
            with other.partial(HELLO, kind="wheel") as part:
                seen.append(part.present)

    with store.partial(HELLO, kind="wheel") as part:
        part.write(b"hel")
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        time.sleep(0.1)
        part.write(b"lo")
        part.commit()
    thread.join(10)
    assert seen == [True]


def test_memos(store: Store) -> None:
    key = recipe_key({"b": 1, "a": [True, None, "é"]})
    assert key == recipe_key({"a": [True, None, "é"], "b": 1})
    assert store.memo("made", key) is None
    store.put_memo("made", key, {"size": 1}, [HELLO])
    store.put_memo("made", key, {"size": 2, "text": "é"}, [HELLO])
    assert store.memo("made", key) == {"size": 2, "text": "é"}
    assert store.memo("other", key) is None
    assert (store.hits, store.misses) == ({"made": 1}, {"made": 1, "other": 1})
    store.delete_memo("made", key)
    assert store.memo("made", key) is None


def test_a_memo_under_another_key_is_not_taken(store: Store) -> None:
    one, two = recipe_key(1), recipe_key(2)
    store.put_memo("made", one, {"size": 1})
    path = store.folder.memo("made", two)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.folder.memo("made", one).rename(path)
    assert store.memo("made", two) is None
    assert not path.exists()


@pytest.mark.parametrize("data", [b"", b"\n", b"junk", b"\xff" * 100])
def test_a_memo_of_junk_is_none(store: Store, data: bytes) -> None:
    key = recipe_key(1)
    store.put_memo("made", key, {"size": 1})
    store.folder.memo("made", key).write_bytes(data)
    assert store.memo("made", key) is None


def test_a_truncated_blob_is_noticed(store: Store) -> None:
    store.put(b"hello", kind="wheel")
    store.folder.blob(HELLO).write_bytes(b"")
    with pytest.raises(HashMismatch), store.reader(HELLO) as reader:
        reader.read()
    assert (store.has(HELLO), store.dropped, store.disturbed) == (False, 1, True)


def test_everything_is_private_and_tagged(store: Store) -> None:
    store.put(b"hello", kind="wheel")
    assert (store.root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert store.root.stat().st_mode & 0o777 == 0o700
    for path in store.root.rglob("*"):
        assert path.stat().st_mode & 0o022 == 0


def test_a_temporary_store_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Store.open(None) as store:
        assert store.temporary
        assert store.root.parent == tmp_path
        store.put(b"hello", kind="wheel")
        assert store.has(HELLO)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_store_vanishes_when_nobody_closes_it(tmp_path: Path) -> None:
    script = "from wain.store import Store; Store.open(None).put(b'hello', kind='wheel')"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_store_of_a_killed_process_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; from wain.store import Store; s = Store.open(None); s.put(b'hello', kind='wheel'); os._exit(9)"
    subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    (orphan,) = tmp_path.iterdir()
    os.utime(orphan, (0, 0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Store.open(None) as store:
        assert list(tmp_path.iterdir()) == [store.root]
        os.utime(store.root, (0, 0))
        with Store.open(None) as another:
            assert {store.root, another.root} == set(tmp_path.iterdir())


def test_what_a_process_uses_is_not_pruned_by_another(store: Store) -> None:
    store.put(b"hello", kind="layer")
    with Store.open(store.root) as other:
        assert other.has(HELLO)
        store.folder.leases.release_all()
        removed = store.prune(max_size_bytes=0)
        assert (removed.count, removed.in_use) == (0, 1)
        assert store.purge().in_use == 1
    assert store.prune(max_size_bytes=0).count == 1
    assert not store.has(HELLO)


def test_closing_prunes_down_to_the_cap(tmp_path: Path) -> None:
    with Store.open(tmp_path / "cache") as store:
        for number in range(10):
            store.put(bytes([number]) * 1000, kind="wheel")
        store.close(max_size_bytes=5_500)
    with Store.open(tmp_path / "cache") as store:
        assert store.contents().size_bytes == 5_000


def test_hits_and_misses_are_summed_up_over_runs(tmp_path: Path) -> None:
    for _ in range(3):
        with Store.open(tmp_path / "cache") as store:
            store.count("wheel", hit=True)
            store.count("wheel", hit=False)
            store.count("layer", hit=True)
    with Store.open(tmp_path / "cache") as store:
        uses = store.uses()
        assert (uses.hits, uses.misses) == ({"wheel": 3, "layer": 3}, {"wheel": 3, "layer": 0})
        assert uses.hit_rate == pytest.approx(2 / 3)


def test_uvs_folder_is_inside(store: Store) -> None:
    folder = store.uv_folder("cpython-3.13-linux-x86_64")
    assert folder.is_dir()
    assert folder.is_relative_to(store.root)
    assert store.uv_folder("cpython-3.13-linux-x86_64") == folder


def test_a_full_disk_gives_one_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.write
    root = str(store.root)

    def write(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(root):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to know which file is written")
    monkeypatch.setattr(os, "write", write)
    with caplog.at_level(logging.WARNING):
        big = os.urandom(1_000_000)
        assert store.put(big, kind="wheel") == Digest.of(big)
        assert store.put(b"hello", kind="wheel") == HELLO
    with store.reader(Digest.of(big)) as reader:
        assert reader.read() == big
    (record,) = caplog.records
    assert f"the disk of {root} is full" in record.getMessage()


def test_when_nothing_can_hold_it_the_error_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreError) as caught:
        store.put(b"hello" * 1_000_000, kind="wheel")
    assert "TMPDIR" in caught.value.hint


def test_opening_and_asking_are_quick(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with Store.open(root) as store:
        for number in range(200):
            store.put_memo("made", recipe_key(number), {"number": number})
            store.put(str(number).encode(), kind="wheel")
    script = (
        "import sys, time; began = time.process_time(); from pathlib import Path; from wain.store import *;"
        f"s = Store.open(Path({str(root)!r}));"
        "assert all(s.memo('made', recipe_key(n)) for n in range(200));"
        "heavy = {'urllib3', 'packaging', 'zstandard', 'asyncio', 'multiprocessing', 'uv'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class TestFaults:
    """Twenty of each; the soak makes a thousand."""

    def test_kills(self, tmp_path: Path) -> None:
        store_faults.kills(tmp_path / "cache", 20)

    def test_bit_flips(self, tmp_path: Path) -> None:
        store_faults.bit_flips(tmp_path / "cache", 20)

    def test_deletions(self, tmp_path: Path) -> None:
        store_faults.deletions(tmp_path / "cache", 20)

    def test_clock_jumps(self, tmp_path: Path) -> None:
        store_faults.clock_jumps(tmp_path / "cache", 20)

    def test_full_disks(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            if why := store_faults.full_disks(20):
                pytest.skip(why)
        assert sum("is full" in record.getMessage() for record in caplog.records) == 20
