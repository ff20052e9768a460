"""Small things that add up: start-up, the store, a build with nothing to do, audits, layer sizes against gzip."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.splice import make_layer, measure_memory, measure_speed, unpack
from tests.real.machines.index_front import IndexFront
from tests.real.machines.places import cache_dir, environment, remove_tree
from wain.digest import Digest
from wain.store import Store, recipe_key

PROGRAM = Path(sys.executable).parent / "wain"


def user_environment() -> dict[str, str]:
    """As users have it: bytecode of the program is kept between runs."""
    return {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds_of(command: Sequence[str | Path], *, rounds: int, env: dict[str, str] | None = None) -> list[float]:
    """Seconds of each of some runs, after one that does not count."""
    taken = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, env=env or user_environment(), stdout=subprocess.DEVNULL)
        if number:
            taken.append(time.perf_counter() - began)
    return taken


def start_up(rounds: int) -> dict[str, list[float]]:
    """The command's start, and Python's own beside it."""
    return {
        "wain --version": seconds_of([PROGRAM, "--version"], rounds=rounds),
        "wain build --help": seconds_of([PROGRAM, "build", "--help"], rounds=rounds),
        "python -c pass": seconds_of([sys.executable, "-c", "pass"], rounds=rounds),
    }


def store_operations(count: int) -> dict[str, float]:
    """Operations a second, each with 4 KiB."""
    found: dict[str, float] = {}

    def rate(what: str, call: Callable[[int], object]) -> None:
        began = time.perf_counter()
        for number in range(count):
            call(number)
        found[what] = count / (time.perf_counter() - began)

    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name, Store.open(Path(name) / "store") as store:
        blobs = [hashlib.sha512(b"%d" % number).digest() * 64 for number in range(count)]
        digests = [Digest.of(blob) for blob in blobs]
        keys = [recipe_key({"number": number}) for number in range(count)]
        rate("put", lambda number: store.put(blobs[number], kind="wheel"))
        rate("put again", lambda number: store.put(blobs[number], kind="wheel"))
        rate("has", lambda number: store.has(digests[number]))

        def read(number: int) -> None:
            with store.reader(digests[number]) as stream:
                assert len(stream.read()) == 4096

        rate("read, verified", read)
        rate("put a memo", lambda number: store.put_memo("bench", keys[number], {"number": number}))
        rate("read a memo", lambda number: store.memo("bench", keys[number]))
    return found


def unchanged_archive(front: IndexFront, base: str, example: Path, rounds: int) -> dict[str, object]:
    """Seconds of a second build from a lock, into an archive that is there, and the requests it makes of the index."""
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        folder = Path(name)
        project = folder / "project"
        shutil.copytree(example, project)
        env = {**user_environment(), **front.pip_env, "WAIN_CACHE_DIR": str(folder / "store")}
        subprocess.run([PROGRAM, "lock", project, "--base", base, "-q"], check=True, env=env)
        command = [PROGRAM, "build", project, "-o", f"archive:{folder}/app.tar", "-q"]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        mark = front.mark()
        taken = seconds_of(command, rounds=rounds, env=env)
        return {"seconds": taken, "index_requests": len(front.requests(mark))}


def audits(count: int) -> dict[str, float]:
    """Dockerfiles a second, on one core: wain and hadolint, the same files."""
    from benchmarks.hadolint import install_hadolint
    from tests.unit.rules.samples import SAMPLES
    from wain.audit import audit_text

    # As long as real ones are: eight samples, each a stage of one file.
    texts = [
        "\n".join(SAMPLES[(number * 8 + part) % len(SAMPLES)].text for part in range(8)) for number in range(count)
    ]
    began = time.process_time()
    for text in texts:
        audit_text(text)
    found = {"files": float(count), "wain": count / (time.process_time() - began)}
    found["lines"] = sum(text.count("\n") for text in texts) / count
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        folder = Path(name)
        program = install_hadolint(folder / "hadolint")
        paths = []
        for number, text in enumerate(texts):
            paths.append(folder / f"{number}.Dockerfile")
            paths[-1].write_text(text)
        cores = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(cores)})
            began = time.perf_counter()
            subprocess.run([program, "--no-fail", *paths], check=True, stdout=subprocess.DEVNULL)
            found["hadolint"] = count / (time.perf_counter() - began)
        finally:
            os.sched_setaffinity(0, cores)
    return found


def hadolint_table(document: Path) -> dict[str, object]:
    """The comparison by rule, written to its document; how often each is right."""
    from benchmarks.hadolint import compare, install_hadolint, table

    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        program = install_hadolint(Path(name))
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        rows = compare(program)
    document.write_text(table(rows, told.split()[-1]), encoding="utf-8")
    return {
        "samples": len(rows),
        "hadolint": sum(row.hadolint is not None and row.hadolint == row.stays for row in rows),
        "wain": sum(row.wain == row.stays for row in rows),
        "worse": sum(row.hadolint == row.stays and row.wain != row.stays for row in rows),
        "version": told.split()[-1],
    }


def largest_wheel(wheels: Sequence[Path]) -> Path:
    """torch's CPU wheel where it is among them, else the largest."""
    torch = [path for path in wheels if path.name.startswith("torch-") and "+cpu" in path.name]
    return torch[0] if torch else max(wheels, key=lambda path: path.stat().st_size)


def splice(wheels: Sequence[Path], *, rounds: int, gzip_rounds: int) -> dict[str, object]:
    """The largest wheel to a verified layer, beside gzip and this machine's limit; and how much memory it takes."""
    from benchmarks.splice import make_large_wheel

    timed = largest_wheel(wheels)
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        folder = Path(name)
        speed = measure_speed(timed, folder, rounds=rounds, gzip_rounds=gzip_rounds)
        memory = measure_memory(timed, folder)
        large = make_large_wheel(folder)
        large_memory = measure_memory(large, folder)
    return {
        "wheel": timed.name,
        "wheel_bytes": timed.stat().st_size,
        "tar_bytes": speed.tar_bytes,
        "layer_bytes": speed.layer_bytes,
        "splice_seconds": speed.splice,
        "gzip_seconds": speed.gzip,
        "limit_seconds": speed.limit,
        "rounds": rounds,
        "anonymous_bytes": memory,
        "anonymous_bytes_700": large_memory,
    }


def layer_sizes(wheels: Sequence[Path], *, seconds: float, least: int) -> list[dict[str, object]]:
    """Each wheel's layer and the size of `gzip -6` of its tar, which is remembered between runs.

    :param seconds: no wheel whose `gzip -6` is not remembered is begun after that.
    :param least: how many wheels are measured however long they take.
    """
    from benchmarks.splice import gzip_bytes

    memory = cache_dir() / "gzip-sizes.json"
    partial = memory.with_suffix(".partial")
    known: dict[str, int] = json.loads(memory.read_text()) if memory.exists() else {}
    found = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        folder = Path(name)
        for path in wheels:
            digest = Digest.of_file(path)
            key = f"wheel {digest}"
            if len(found) >= least and key not in known and time.monotonic() - began > seconds:
                continue
            with Store.open(folder / "store") as store:
                blob = make_layer(path, digest, store)
                if key not in known:
                    tar = folder / "tar"
                    unpack(blob, tar)
                    known[key] = gzip_bytes(tar)
                    tar.unlink()
                    partial.write_text(json.dumps(known))
                    partial.replace(memory)
                row = {"wheel": path.name, "layer_bytes": blob.stat().st_size, "gzip_bytes": known[key]}
            found.append(row)
            # Layers of gigabytes are not kept until the end.
            remove_tree(folder / "store")
    return found


def download(pins: Sequence[str], front: IndexFront, python: str, folder: Path) -> list[Path]:
    """The wheels of pinned distributions, from the front."""
    import platform

    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "pins.txt"
    listed.write_text("\n".join(pins) + "\n")
    machine = platform.machine()
    tags = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
    tags += [f"--platform=manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--dest", folder,
            "--no-cache-dir", f"--python-version={python}", *tags, "-r", listed,
        ],
        check=True,
        env={**environment(), **front.pip_env},
    )  # fmt: skip
    return sorted(folder.glob("*.whl"))
