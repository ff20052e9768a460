from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wain.store_upkeep  # noqa: F401 - loaded before a test gives up its rights
from wain.digest import Digest
from wain.store import Store
from wain.store_folder import Folder, Leases, Unusable, label_name, parse_label

NOBODY = 65534


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[Path]:
    """A home folder, and the rights of its ordinary user until the test ends; root gives them up for it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    if os.geteuid():
        yield home
        return
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011) if parent != Path("/") else None
    os.chown(home, NOBODY, NOBODY)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield home
    finally:
        os.seteuid(0)
        os.setegid(0)


def snapshot(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


def works_with_one_warning(root: Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    with caplog.at_level(logging.WARNING), Store.open(root) as store:
        assert store.temporary
        digest = store.put(b"hello", kind="wheel")
        assert store.has(digest)
    (record,) = caplog.records
    assert reason in record.getMessage()


class TestBadFolders:
    def test_no_parent(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        before = snapshot(ordinary)
        works_with_one_warning(ordinary / "no" / "cache", caplog, f"{ordinary / 'no'} does not exist")
        assert snapshot(ordinary) == before

    def test_a_file(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "cache").touch()
        works_with_one_warning(ordinary / "cache", caplog, "is no folder")

    def test_below_a_file(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "file").touch()
        works_with_one_warning(ordinary / "file" / "cache", caplog, "cannot be used")

    def test_a_dangling_link(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "cache").symlink_to(ordinary / "nowhere")
        works_with_one_warning(ordinary / "cache", caplog, "symbolic link to a folder that does not exist")

    def test_a_link_to_a_folder_is_fine(self, ordinary: Path) -> None:
        (ordinary / "disk").mkdir(mode=0o700)
        (ordinary / "cache").symlink_to(ordinary / "disk")
        with Store.open(ordinary / "cache") as store:
            assert not store.temporary

    def test_not_writable(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "cache").mkdir(mode=0o500)
        works_with_one_warning(ordinary / "cache", caplog, "is not writable for this user")

    def test_parent_not_writable(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "parent").mkdir(mode=0o500)
        works_with_one_warning(ordinary / "parent" / "cache", caplog, "is not writable for this user")

    def test_not_readable(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "parent").mkdir(mode=0o000)
        works_with_one_warning(ordinary / "parent" / "cache", caplog, "is not writable for this user")

    def test_writable_by_others(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        with Store.open(ordinary / "cache"):
            pass
        (ordinary / "cache").chmod(0o770)
        works_with_one_warning(ordinary / "cache", caplog, "can be written by others (mode 0770)")

    def test_writable_by_others_inside(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        with Store.open(ordinary / "cache"):
            pass
        (ordinary / "cache" / "memos-v1").chmod(0o777)
        works_with_one_warning(ordinary / "cache", caplog, "memos-v1 can be written by others")

    def test_an_empty_folder_made_under_a_loose_umask_is_tightened(self, ordinary: Path) -> None:
        (ordinary / "cache").mkdir()
        (ordinary / "cache").chmod(0o777)
        with Store.open(ordinary / "cache") as store:
            assert not store.temporary
        assert (ordinary / "cache").stat().st_mode & 0o777 == 0o700

    def test_what_is_made_under_a_loose_umask_is_used_again(
        self, ordinary: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = os.umask(0o002)
        try:
            for _ in range(2):
                with Store.open(ordinary / "cache") as store:
                    assert not store.temporary
                    store.put(b"x", kind="wheel")
                    store.uv_folder("cp311")
        finally:
            os.umask(before)
        assert not caplog.records

    def test_a_link_inside(self, ordinary: Path, caplog: pytest.LogCaptureFixture) -> None:
        (ordinary / "cache").mkdir(mode=0o700)
        (ordinary / "cache" / "blobs-v1").symlink_to(ordinary)
        works_with_one_warning(ordinary / "cache", caplog, "blobs-v1 is a symbolic link")

    def test_another_owner(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        with Store.open(tmp_path / "cache"):
            pass
        os.chown(tmp_path / "cache" / "blobs-v1", 12345, 12345)
        works_with_one_warning(
            tmp_path / "cache", caplog, "blobs-v1 belongs to uid 12345, and this runs as root (uid 0)"
        )
        caplog.clear()
        os.chown(tmp_path / "cache", 12345, 12345)
        works_with_one_warning(tmp_path / "cache", caplog, "cache belongs to uid 12345")

    def test_another_owner_deep_inside(
        self, ordinary: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with caplog.at_level(logging.WARNING), Store.open(ordinary / "cache") as store:
            shard = store.folder.blob(Digest.of(b"hello")).parent
            shard.mkdir(mode=0o500)
            digest = store.put(b"hello", kind="wheel")
            assert store.has(digest)
            with store.reader(digest) as reader:
                assert reader.read() == b"hello"
            shard.chmod(0o000)
            assert not Store.open(ordinary / "cache").has(digest)
            shard.chmod(0o700)
        assert len(caplog.records) == 1

    def test_a_read_only_disk(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "ro,size=100k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no tmpfs can be mounted here")
        try:
            works_with_one_warning(disk / "cache", caplog, "is on a read-only disk")
            caplog.clear()
            works_with_one_warning(disk, caplog, "read-only disk")
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_deleted_folder_is_made_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cache")
    path, fd = folder.new_file()
    shutil.rmtree(tmp_path / "cache")
    assert folder.leases.lost
    folder.revive()
    assert not folder.leases.lost
    os.close(fd)
    folder.discard(path)
    folder.close()


def test_a_parent_is_made_only_where_that_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(Unusable):
        Folder(tmp_path / "a" / "cache")
    with pytest.raises(Unusable):
        Folder(tmp_path / "a" / "b" / "cache", make_parent=True)
    assert list(tmp_path.iterdir()) == []
    Folder(tmp_path / "a" / "cache", make_parent=True).close()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


class TestLeases:
    def test_shared_and_seized(self, tmp_path: Path) -> None:
        one, two = Leases(tmp_path / "leases"), Leases(tmp_path / "leases")
        assert one.working
        assert one.share("ab" * 16)
        assert two.share("ab" * 16)
        assert not one.seize("ab" * 16)
        two.release("ab" * 16)
        assert not two.seize("ab" * 16)
        one.release("ab" * 16)
        assert two.seize("ab" * 16)
        assert not one.share("ab" * 16)
        assert one.share("cd" * 16)
        two.release("ab" * 16)
        assert one.share("ab" * 16)
        one.close()
        assert two.seize("ab" * 16)
        two.close()

    def test_they_work_while_another_process_tries_the_same(self, tmp_path: Path) -> None:
        fcntl = pytest.importorskip("fcntl")
        path = tmp_path / "leases"
        with path.open("w+b") as other:
            fcntl.lockf(other, fcntl.LOCK_SH, 1)
            leases = Leases(path)
            assert leases.working
            leases.close()

    def test_the_kernel_forgets_the_dead(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path; from wain.store_folder import Leases;"
            f"print(Leases(Path({str(tmp_path / 'leases')!r})).share('ab' * 16), flush=True); time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        leases = Leases(tmp_path / "leases")
        assert not leases.seize("ab" * 16)
        process.kill()
        process.communicate()
        assert leases.seize("ab" * 16)
        leases.close()


@pytest.mark.parametrize(
    "note", ["", "numpy-2.3.1-cp313-cp313-manylinux_2_28_x86_64.whl", "a/b: é %41", "é" * 400, "."]
)
def test_labels(note: str) -> None:
    text = label_name("ab" * 64, kind="built-wheel", size_bytes=123, put_at=1_700_000_000, note=note)
    assert len(text.encode()) <= 250
    assert "/" not in text
    label = parse_label(text)
    assert label is not None
    assert label[:4] == ("ab" * 64, "built-wheel", 123, 1_700_000_000)
    assert label.note == note if len(note) < 100 else note.startswith(label.note)


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c.d.e", "a.b.1", "leases"])
def test_no_label(text: str) -> None:
    assert parse_label(text) is None
