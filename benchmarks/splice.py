"""How fast wheels become layers, how large those are, and how much memory it takes.

    python -m benchmarks.splice WHEEL...

The largest wheel is timed against `gzip -6` of the same tar, and against this machine's limit: inflating all
members on all cores with their CRC, then SHA-256 of the tar and of the layer, each of which only one core can do.
Medians of five, in turns in one run.
All wheels' layers are compared in size with `gzip -6` of their tars.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from wain.digest import Digest
from wain.install import Scheme
from wain.layers import wheel_layer, wheel_layer_key
from wain.store import Store
from wain.wheels import Wheel
from wain.zips import DEFLATED, Inflation, Member

SCHEME = Scheme.venv("/opt/venv", "3.11")
ROUNDS = 5
_ONE_CALL_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds, of one wheel: medians."""

    splice: float
    gzip: float
    limit: float
    tar_bytes: int
    layer_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of one wheel's layer, and of its tar through `gzip -6`."""

    filename: str
    layer_bytes: int
    gzip_bytes: int


def make_layer(path: Path, digest: Digest, store: Store) -> Path:
    """A wheel file to a verified layer that nothing remembers; its file."""
    store.delete_memo("layer", wheel_layer_key([digest], SCHEME))
    with Wheel.open(path, digest=digest) as wheel:
        layer = wheel_layer([wheel], SCHEME, store=store)
    found = store.path(layer.digest)
    assert found is not None
    return found


def gzip_bytes(tar: Path) -> int:
    """The size of `gzip -6` of a file."""
    with tar.open("rb") as stream, subprocess.Popen(["gzip", "-6", "-c"], stdin=stream, stdout=subprocess.PIPE) as gzip:
        assert gzip.stdout is not None
        return sum(map(len, iter(lambda: gzip.stdout.read(1 << 20), b"")))  # type: ignore[union-attr]


def unpack(blob: Path, tar: Path) -> None:
    """A layer's tar, by gzip itself."""
    with tar.open("wb") as stream:
        subprocess.run(["gzip", "-dc"], stdin=blob.open("rb"), stdout=stream, check=True)


def limit(path: Path, blob: Path, tar: Path) -> None:
    """The least that any such program must do, with the libraries that wain has."""
    with Wheel.open(path, digest=Digest.of(b""), verified=True) as wheel:
        members = iter(sorted(wheel.members, key=lambda member: -member.size_bytes))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    batch = [*itertools.islice(members, 1)]
                    if batch and batch[0].size_bytes < 1 << 16:
                        batch += itertools.islice(members, 200)
                if not batch:
                    return
                for member in batch:
                    inflate(wheel, member)

        together([work] * (os.cpu_count() or 1))
    for made in (tar, blob):
        sha256(made)


def inflate(wheel: Wheel, member: Member) -> None:
    import deflate

    if member.method == DEFLATED and 0 < member.size_bytes <= _ONE_CALL_BYTES:
        assert deflate.crc32(deflate.deflate_decompress(wheel.raw(member), member.size_bytes)) == member.crc
    else:
        for _ in Inflation(wheel.data, member, wheel.wrong).chunks():
            pass


def sha256(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
        digest.update(data)


def together(calls: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_speed(path: Path, folder: Path, *, rounds: int = ROUNDS, gzip_rounds: int = 1) -> Speed:
    digest = Digest.of_file(path)
    tar = folder / "tar"
    with Store.open(folder / "store") as store:
        blob = make_layer(path, digest, store)
        unpack(blob, tar)
        splices, limits = [], []
        for _ in range(rounds):
            splices.append(seconds(lambda: make_layer(path, digest, store)))
            limits.append(seconds(lambda: limit(path, blob, tar)))
        gzips = [seconds(lambda: gzip_bytes(tar)) for _ in range(gzip_rounds)]
        speed = Speed(
            splice=statistics.median(splices),
            gzip=statistics.median(gzips),
            limit=statistics.median(limits),
            tar_bytes=tar.stat().st_size,
            layer_bytes=blob.stat().st_size,
        )
    tar.unlink()
    return speed


def measure_size(path: Path, folder: Path) -> Size:
    tar = folder / "tar"
    with Store.open(folder / "store") as store:
        blob = make_layer(path, Digest.of_file(path), store)
        unpack(blob, tar)
        size = Size(filename=path.name, layer_bytes=blob.stat().st_size, gzip_bytes=gzip_bytes(tar))
    tar.unlink()
    return size


def measure_memory(path: Path, folder: Path) -> int:
    """The most anonymous memory of a process that makes the wheel's layer, in bytes."""
    peak = 0
    command = [sys.executable, "-m", "benchmarks.splice", "--once", str(folder / "store"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.005)
    assert process.returncode == 0
    return peak


def make_large_wheel(folder: Path, *, member_bytes: int = 300_000_000, stored_bytes: int = 100_000_000) -> Path:
    """A wheel of 700 MB: two large members that do not compress, and one that is stored."""
    path = folder / "large-1.0-py3-none-any.whl"
    block = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(1 << 14))
    with ZipFile(path, "w", compresslevel=1) as archive:
        for name, size_bytes, kind in (
            ("a.bin", member_bytes, ZIP_DEFLATED),
            ("b.bin", member_bytes, ZIP_DEFLATED),
            ("c.bin", stored_bytes, ZIP_STORED),
        ):
            info = ZipInfo(f"large/{name}")
            info.compress_type = kind
            with archive.open(info, "w", force_zip64=True) as stream:
                for start in range(0, size_bytes, len(block)):
                    stream.write(block[: size_bytes - start])
        archive.writestr("large-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1.0\n")
        archive.writestr("large-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("large-1.0.dist-info/RECORD", "")
    return path


def report(wheels: Sequence[Path], *, rounds: int = ROUNDS) -> None:
    """Measures and prints everything."""
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        folder = Path(name)
        timed = max(wheels, key=lambda path: path.stat().st_size)
        speed = measure_speed(timed, folder, rounds=rounds)
        print(f"{timed.name}: tar of {speed.tar_bytes:,} bytes, layer of {speed.layer_bytes:,}")
        print(f"  wheel to verified layer  {speed.splice:7.2f} s")
        print(f"  gzip -6 of its tar       {speed.gzip:7.2f} s   {speed.gzip / speed.splice:.1f} times as long")
        print(f"  this machine's limit     {speed.limit:7.2f} s   {speed.limit / speed.splice:.2f} of the splice's")
        print(f"  anonymous memory         {measure_memory(timed, folder) / 2**20:7.0f} MiB")
        large = make_large_wheel(folder)
        print(f"  of a wheel of 700 MB     {measure_memory(large, folder) / 2**20:7.0f} MiB")
        large.unlink()
        sizes = sorted(
            (measure_size(path, folder) for path in wheels), key=lambda size: size.layer_bytes / size.gzip_bytes
        )
        total = sum(size.layer_bytes for size in sizes) / sum(size.gzip_bytes for size in sizes)
        print(f"{len(sizes)} layers are {total:.4f} of gzip -6; the most:")
        for size in sizes[:-6:-1]:
            print(f"  {size.layer_bytes / size.gzip_bytes:.4f}  {size.filename}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.splice", description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--once", type=Path, metavar="STORE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        with Store.open(arguments.once) as store:
            for path in arguments.wheels:
                make_layer(path, Digest.of_file(path), store)
    else:
        report(arguments.wheels, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
