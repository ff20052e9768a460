"""A store of 100,000 entries and 50 GB (sparse files): told in a second, and pruned to within one entry."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wain.digest import Digest
from wain.store import Store

ENTRIES = 100_000
ENTRY_BYTES = 500_000
KINDS = ("wheel", "built-wheel", "layer", "base")


def fill(root: Path, entries: int) -> None:
    with Store.open(root) as store:
        for number in range(entries):
            digest = Digest.of(str(number).encode())
            path = store.folder.blob(digest)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as stream:
                stream.truncate(ENTRY_BYTES)
            note = f"package_{number}-1.0-py3-none-any.whl"
            store.folder.label(digest, kind=KINDS[number % 4], size_bytes=ENTRY_BYTES, note=note).touch()
            os.utime(path, (number, number))


def seconds_of(root: Path, *words: str) -> tuple[float, float]:
    """Of the clock, and of the processor: the first depends on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    command = [str(Path(sys.executable).with_name("wain")), "cache", *words, "--cache-dir", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    passed = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(seconds: float) -> None:
    """Fills a store once and asks it five times; `seconds` changes nothing."""
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "cache"
        fill(root, ENTRIES)
        for words in (("info",), ("list",), ("list", "package-777")):
            passed, worked = min(seconds_of(root, *words) for _ in range(5))
            print(f"wain cache {' '.join(words)}: {passed:.2f} s, {worked:.2f} s of the processor", flush=True)
            assert worked <= 1, f"wain cache {' '.join(words)} worked for {worked:.2f} s"
        with Store.open(root) as store:
            for cap in (40_000_000_000, 20_000_300_000):
                store.prune(max_size_bytes=cap)
                size = store.contents().size_bytes
                print(f"pruned to {cap}: {size}", flush=True)
                assert cap - ENTRY_BYTES < size <= cap
            assert "layer" not in store.contents().by_kind()
