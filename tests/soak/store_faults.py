"""Faults against one store: never a wrong byte, never a hang, at most work done again.

Each function makes one kind of fault `count` times; the unit tests do a few, `python -m tests.soak` many.
Run as a script, this is a process that works on a store until it is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from wain import store as store_module
from wain import store_upkeep
from wain.digest import Digest
from wain.errors import HashMismatch, StoreError
from wain.store import Store

ENTRIES = 40
CAP_BYTES = 4_000_000


def content(number: int) -> bytes:
    """The bytes of entry `number`: from none to 300 kB, the same each time."""
    dice = random.Random(number)
    return dice.randbytes(dice.choice((0, 1, 5_000, 70_000, 300_000)))


DIGESTS = [Digest.of(content(number)) for number in range(ENTRIES)]


def work_once(store: Store, dice: random.Random) -> None:
    """One random act; an assertion fails on a wrong byte."""
    number = dice.randrange(ENTRIES)
    data, digest = content(number), DIGESTS[number]
    act = dice.randrange(10)
    if act < 3:
        assert store.put(data, kind="wheel", expected=digest, note=f"entry_{number}-1.whl") == digest
    elif act < 5:
        with store.partial(digest, kind="layer", note=f"entry {number}") as part:
            done = part.size_bytes
            if not part.present and done <= len(data):
                for start in range(done, len(data), 20_000):
                    part.write(data[start : start + 20_000])
                    if dice.random() < 0.05:
                        return
                part.commit()
    elif act < 7:
        read_right(store, number)
    elif act < 9:
        key = Digest.of(str(number).encode())
        memo = store.memo("made", key)
        if memo is None:
            store.put_memo("made", key, {"digest": digest, "number": number}, [digest])
        else:
            assert memo == {"digest": digest, "number": number}
    else:
        store.prune(max_size_bytes=CAP_BYTES)


def read_right(store: Store, number: int) -> bool:
    """Whether the entry is there; if so, its bytes are right."""
    try:
        with store.reader(DIGESTS[number]) as reader:
            assert reader.read() == content(number)
    except StoreError:
        return False
    return True


@contextlib.contextmanager
def processes(root: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [start(root, seed) for seed in range(count)]
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def start(root: Path, seed: int) -> subprocess.Popen[bytes]:
    script = [sys.executable, "-m", "tests.soak.store_faults", str(root), str(seed)]
    return subprocess.Popen(script, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)


def kills(root: Path, count: int, *, seed: int = 0) -> None:
    """Eight processes on one folder, of which one after the other is killed at a random moment."""
    dice = random.Random(seed)
    with processes(root, 8) as running:
        time.sleep(0.5)
        for turn in range(count):
            time.sleep(dice.uniform(0.001, 0.08))
            place = dice.randrange(len(running))
            victim = running[place]
            victim.kill()
            _, errors = victim.communicate(timeout=20)
            assert victim.returncode == -signal.SIGKILL, errors.decode()
            running[place] = start(root, 100 + turn)
        deadline = time.monotonic() + 20
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            _, errors = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            assert process.returncode in (0, -signal.SIGTERM), errors.decode()
    with Store.open(root) as store:
        assert list(store.verify()) == []
        store.prune(max_size_bytes=CAP_BYTES)
        assert list((root / "tmp").iterdir()) == []
        contents = store.contents()
        assert contents.size_bytes <= CAP_BYTES
        assert {blob.kind for blob in contents.blobs} <= {"wheel", "layer"}


def bit_flips(root: Path, count: int, *, seed: int = 0) -> None:
    """A bit changes in a blob or memo: it is noticed when read, dropped, and made again."""
    dice = random.Random(seed)
    key = Digest.of(b"key")
    with Store.open(root) as store:
        for _ in range(count):
            number = dice.choice([number for number in range(ENTRIES) if content(number)])
            store.put(content(number), kind="wheel")
            flip(store.folder.blob(DIGESTS[number]), dice)
            try:
                with store.reader(DIGESTS[number]) as reader:
                    reader.read()
                raise AssertionError("a wrong byte came out of the store")
            except HashMismatch:
                assert not store.has(DIGESTS[number])
            assert store.put(content(number), kind="wheel") == DIGESTS[number]
            assert read_right(store, number)
            store.put_memo("made", key, {"number": number})
            flip(store.folder.memo("made", key), dice)
            assert store.memo("made", key) is None
            flip(store.folder.blob(DIGESTS[number]), dice)
            assert [bad.name for bad in store.verify()] == [DIGESTS[number].hex]


def flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    bit = dice.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def deletions(root: Path, count: int, *, seed: int = 0) -> None:
    """Somebody deletes the folder while it is written to: what was put is there or known to be gone."""
    dice = random.Random(seed)
    for turn in range(count):
        with Store.open(root) as store:
            delay = dice.uniform(0, 0.004)
            deleter = threading.Thread(target=delete_after, args=(root, delay))
            deleter.start()
            for number in dice.sample(range(ENTRIES), 6):
                assert store.put(content(number), kind="wheel") == DIGESTS[number]
                with store.writer(kind="layer") as writer:
                    writer.file.write(content(number))
                    if dice.random() < 0.2:
                        shutil.rmtree(root, ignore_errors=True)
                    assert writer.commit() == DIGESTS[number]
                store.put_memo("made", DIGESTS[number], {"turn": turn})
                assert store.memo("made", DIGESTS[number]) in (None, {"turn": turn})
            deleter.join()
            for number in range(ENTRIES):
                read_right(store, number)
            assert store.put(content(turn % ENTRIES), kind="wheel") == DIGESTS[turn % ENTRIES]
            assert read_right(store, turn % ENTRIES)


def delete_after(root: Path, delay: float) -> None:
    time.sleep(delay)
    shutil.rmtree(root, ignore_errors=True)


def clock_jumps(root: Path, count: int, *, seed: int = 0) -> None:
    """The clock jumps by years to and fro: bytes stay right and the cap is held."""
    dice = random.Random(seed)
    real = time.time
    offset = 0.0
    originals = store_upkeep.time, store_module.time

    class Clock:
        monotonic = staticmethod(time.monotonic)
        sleep = staticmethod(time.sleep)

        @staticmethod
        def time() -> float:
            return real() + offset

    try:
        store_upkeep.time = store_module.time = Clock  # type: ignore[assignment]
        for _ in range(count):
            offset = dice.uniform(-20, 20) * 365 * 86400
            with Store.open(root) as store:
                for number in dice.sample(range(ENTRIES), 4):
                    store.put(content(number), kind="wheel")
                    path = store.folder.blob(DIGESTS[number])
                    os.utime(path, (real() + offset, real() + offset))
                    assert read_right(store, number)
                store.folder.leases.release_all()
                store.prune(max_size_bytes=600_000)
                assert store.contents().size_bytes <= 600_000
    finally:
        store_upkeep.time, store_module.time = originals


def full_disks(count: int, *, seed: int = 0) -> str:
    """A small disk fills up: the store goes on elsewhere, with one warning, and loses nothing.

    Says why it could not be tried, or nothing.
    """
    with tempfile.TemporaryDirectory() as parent:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k,mode=0700", "tmpfs", parent], capture_output=True, check=False
        )
        if mounted.returncode:
            return f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}"
        try:
            for turn in range(count):
                fill(Path(parent) / f"cache-{turn}", random.Random(seed + turn))
                for path in Path(parent).iterdir():
                    shutil.rmtree(path)
        finally:
            subprocess.run(["umount", parent], check=True)
    return ""


def fill(root: Path, dice: random.Random) -> None:
    with Store.open(root) as store:
        put = []
        for number in dice.sample(range(ENTRIES), 20):
            if dice.random() < 0.5:
                store.put(content(number), kind="wheel")
            else:
                with store.partial(DIGESTS[number], kind="layer") as part:
                    if not part.present:
                        part.write(content(number)[part.size_bytes :])
                        part.commit()
            put.append(number)
        for number in put:
            assert read_right(store, number)


def main(seconds: float) -> None:
    """All faults, a thousand of each or until the time is over, whichever comes later for each kind."""
    logging.getLogger("wain").setLevel(logging.ERROR)  # each fault is told
    with tempfile.TemporaryDirectory() as parent:
        tempfile.tempdir = parent
        for name, fault in (
            ("kill -9", lambda turn: kills(Path(parent) / "kills", 50, seed=turn)),
            ("bit flips", lambda turn: bit_flips(Path(parent) / "flips", 50, seed=turn)),
            ("deletions", lambda turn: deletions(Path(parent) / "deletions", 50, seed=turn)),
            ("clock jumps", lambda turn: clock_jumps(Path(parent) / "clock", 50, seed=turn)),
            ("full disks", lambda turn: full_disks(50, seed=turn)),
        ):
            began = time.monotonic()
            turn = 0
            skipped = None
            while not skipped and (turn < 20 or time.monotonic() - began < seconds / 5):
                skipped = fault(turn)  # type: ignore[func-returns-value]
                turn += 1
            print(f"store, {name}: {skipped or f'{turn * 50} times'}", flush=True)


def _work(root: Path, seed: int) -> None:
    dice = random.Random(seed)
    with Store.open(root) as store:
        while True:
            work_once(store, dice)


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
