"""A cold build of `examples/ml`: wain beside `docker build` with pip, from one front of the index and one base.

`python -m benchmarks.builds [--rounds N]` prints medians, and ratios pair by pair.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.builders import PIP_NO_CACHE, PIP_NO_COMPILE, WAIN, Builder, Place, open_place

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "ml"


def cold_seconds(builder: Builder, place: Place, project: Path) -> float:
    """Seconds from an empty store, with the base at hand, to an image."""
    builder.forget(place)
    began = time.monotonic()
    builder.build(place, project, f"{place.registry.host}/bench/{_slug(builder.name)}:1")
    return time.monotonic() - began


def _slug(name: str) -> str:
    return "-".join("".join(char if char.isalnum() else " " for char in name.lower()).split())


def anonymous_megabytes(place: Place, project: Path) -> float:
    """The most anonymous memory that a cold build's processes had at one time, sampled every 5 ms."""
    WAIN.forget(place)
    store = place.folder / "store-wain"
    process = subprocess.Popen(
        [
            Path(sys.executable).parent / "wain", "build", project, "--base", place.base_reference, "-q",
            "--cache-dir", store, "-o", place.folder / "memory.tar",
        ],
        env={**_environ(), **place.front.pip_env},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    most = 0
    stopped = threading.Event()
    while process.poll() is None and not stopped.wait(0.005):
        with suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, int(status.split("RssAnon:")[1].split()[0]))
    assert process.returncode == 0
    return most / 1024


def _environ() -> dict[str, str]:
    from tests.real.machines.places import environment

    return environment()


def compare(place: Place, project: Path, builders: Sequence[Builder], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each cold build, in turn (A B C A B C ...), after one build that fills the front's cache."""
    WAIN.build(place, project, "warm")
    taken: dict[str, list[float]] = {builder.name: [] for builder in builders}
    for number in range(rounds):
        for builder in builders:
            seconds = cold_seconds(builder, place, project)
            taken[builder.name].append(seconds)
            print(f"  round {number + 1}: {builder.name}: {seconds:.1f} s", file=sys.stderr)
    return taken


def print_ratios(taken: dict[str, list[float]]) -> None:
    """Medians, and how many times as long each other builder takes, from pairs of one round."""
    first, *others = taken
    print(f"{first}: median {statistics.median(taken[first]):.2f} s of {len(taken[first])}")
    for name in others:
        pairs = [other / own for own, other in zip(taken[first], taken[name], strict=True)]
        print(
            f"{name}: median {statistics.median(taken[name]):.2f} s;"
            f" {first} is {statistics.median(pairs):.1f} times as fast ({min(pairs):.1f} to {max(pairs):.1f})"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    with open_place() as place:
        project = place.folder / "ml"
        shutil.copytree(EXAMPLE, project)
        print("examples/ml, cold: empty store, wheels from a loopback front, base at hand")
        taken = compare(place, project, (WAIN, PIP_NO_CACHE, PIP_NO_COMPILE), rounds=args.rounds)
        print_ratios(taken)
        memory = anonymous_megabytes(place, project)
        print(f"anonymous memory of wain: {memory:.0f} MiB")
    if args.json:
        Path(args.json).write_text(json.dumps({"seconds": taken, "anonymous_mib": memory}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
