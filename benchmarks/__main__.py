"""Runs the benchmarks and writes docs/benchmarks.md: `python -m benchmarks [PART...]`, or `make bench ARGS="PART..."`.

Without parts all but `install` and `example` run, in under 15 minutes on a quiet machine with 2 cores, what is set up
before apart. With BENCH_MINUTES=35 those run too, and the builders that aims are about take more turns in the time
that is left, so that medians are of three rounds or more. With BENCH=full everything is measured with every builder,
which takes hours. Each part's numbers are kept in docs/benchmarks.json as soon as they are there, so a run that was
broken off goes on with the parts that are left (--resume).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks import micro, report, turns
from benchmarks.builders import Place, open_place
from benchmarks.builds import Builds
from benchmarks.goals import goals
from benchmarks.results import Results, load_average, version_of
from benchmarks.scenarios import DATA, ML, MONSTER, OTHERS, WEB, resolve
from benchmarks.turns import Turn, budget_seconds, next_turn
from tests.real.machines.index_front import serve_index_front
from tests.real.machines.places import remove_tree

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("startup", "store", "unchanged", "install", "audit", "splice", "sizes", "example", "builds")
LONG = ("install", "example")
"""Parts that are about no builder's images, and that run where there is time or they are named."""
LONG_MINUTES = 25.0
BY_NAME = ("large",)
"""Parts that run only where they are named."""
_clock = {"began": time.monotonic()}
LOAD = load_average()
"""What others did on the machine before this began."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def set_up() -> None:
    """What is slow to make and kept between runs, before the clock starts: the bases and the root with docker."""
    from tests.real.machines.bases import official_like_base
    from tests.real.machines.trixie import trixie_root

    try:
        trixie_root()
        for python in sorted({scenario.python for scenario in (WEB, DATA, ML)}):
            official_like_base(python)
    except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
        say(f"bases and docker's root cannot all be made: {str(error)[-1000:]}")


def _has_time(full: bool) -> bool:
    return full or budget_seconds() >= 60 * LONG_MINUTES


def _rounds(full: bool) -> int:
    return 5 if full else 3 if _has_time(full) else 1


def startup(folder: Path, *, full: bool) -> Mapping[str, Any]:
    return {"seconds": micro.start_up(20 if full else 10)}


def store(folder: Path, *, full: bool) -> Mapping[str, Any]:
    return {"rates": micro.store_operations(5000 if full else 1000)}


def unchanged(folder: Path, *, full: bool) -> Mapping[str, Any]:
    from tests.real.machines.bases import official_like_base

    base = official_like_base("3.13")
    with serve_index_front(folder / "front") as front:
        return micro.unchanged_archive(front, f"oci:{base.layout}:latest", ROOT / "examples/ml", 9 if full else 5)


def install(folder: Path, *, full: bool) -> Mapping[str, Any]:
    from benchmarks import installs

    return {"seconds": installs.run(installs.REQUIREMENTS, _rounds(full))}


def audit(folder: Path, *, full: bool) -> Mapping[str, Any]:
    return {
        "rule": micro.hadolint_table(ROOT / "docs/hadolint.md"),
        "speed": micro.audits(1000 if full else 250),
    }


def splice(folder: Path, *, full: bool) -> Mapping[str, Any]:
    with serve_index_front(folder / "front") as front:
        [torch] = micro.download(["torch==2.13.0+cpu"], front, "3.11", folder / "torch")
        return micro.splice([torch], rounds=5, gzip_rounds=3 if full else 1)


def sizes(folder: Path, *, full: bool) -> Mapping[str, Any]:
    """Layers of at least 100 wheels. The short form leaves out the large ones that it has never measured."""
    import hashlib

    wheels: dict[str, Path] = {}
    failures: list[str] = []
    with serve_index_front(folder / "front") as front:
        for scenario in (WEB, DATA, OTHERS, ML, MONSTER) if full else (WEB, DATA, OTHERS, ML):
            try:
                pins = resolve(scenario, front, folder / "resolve", before=False)
                for path in micro.download(pins, front, scenario.python, folder / scenario.name):
                    wheels.setdefault(path.name, path)
            except (AssertionError, subprocess.CalledProcessError) as error:
                failures.append(f"{scenario.name}: its wheels cannot be had ({type(error).__name__})")
                say(f"sizes: the wheels of {scenario.name} cannot be had: {str(error)[-500:]}")
    # In no order of size or name, so that those that are left out are not of a kind.
    ordered = sorted(wheels.values(), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    say(f"sizes: {len(ordered)} wheels")
    return {"layers": micro.layer_sizes(ordered, seconds=1e9 if full else 60, least=110), "failures": failures}


def example(folder: Path, *, full: bool) -> Mapping[str, Any]:
    from benchmarks.example import cold

    with open_place(folder / "place") as place:
        return {"seconds": cold(place, _rounds(full))}


def builds(folder: Path, *, full: bool) -> Iterator[Mapping[str, Any]]:
    """The builders: what is known after each turn. One that fails is told in the document, and all others go on."""
    with open_place(folder / "place") as place:
        run = Builds(place, say)
        profiles: dict[str, object] = {}
        versions = _versions(place)

        def carry_out(turn: Turn) -> None:
            say(f"{turn.scenario.name}: {', '.join(turn.builders)}")
            run.carry_out(turn)

        def seconds_left() -> float:
            return budget - (time.monotonic() - _clock["began"] - run.preparing_seconds)

        def found() -> Mapping[str, Any]:
            return {
                "minutes": None if full else budget / 60,
                "profiles": profiles,
                "scenarios": run.scenarios,
                "cells": run.cells,
                "failures": run.failures,
                "versions": versions,
                "load_before": LOAD,
            }

        budget = budget_seconds()
        for turn in turns.full_turns() if full else turns.short_turns():
            carry_out(turn)
            yield found()
        if not full:
            carry_out(turns.last_turn(seconds_left()))
            yield found()
        for scenario in (WEB, DATA, ML):
            profiles |= run.profile(scenario, rounds=3 if _has_time(full) or scenario is WEB else 1)
        while not full and (chosen := next_turn(turns.repeated_turns(), run.cells, run.costs, seconds_left())):
            yield found()
            say(f"{seconds_left():.0f} s are left for more rounds")
            carry_out(chosen)
        yield found()


def large(folder: Path, *, full: bool) -> Mapping[str, Any]:
    """The scenarios of several GB, by wain alone: what they need of memory and bytes."""
    with open_place(folder / "place") as place:
        run = Builds(place, say)
        for turn in turns.large_turns():
            run.carry_out(turn)
        return {"scenarios": run.scenarios, "cells": run.cells, "failures": run.failures, "load_before": LOAD}


def _versions(place: Place) -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {
        "wain": version_of([programs / "wain", "--version"]),
        "docker": place.docker.version(),
        "buildah": version_of(place.machine.command(["buildah", "--version"])),
        "uv": version_of([programs / "uv", "--version"]),
    }


_RUNS: Mapping[str, Callable[..., Mapping[str, Any] | Iterator[Mapping[str, Any]]]] = {
    "startup": startup, "store": store, "unchanged": unchanged, "install": install, "audit": audit,
    "splice": splice, "sizes": sizes, "example": example, "builds": builds, "large": large,
}  # fmt: skip


def end_in_order() -> None:
    """Where somebody ends this, what it started is ended and folders are removed; once, however often it is asked."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda *_: None)
        say("ends: what was started is ended and removed")
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, end)


def main() -> int:
    """0, or 1 where a part could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join((*PARTS, *BY_NAME))}; `report` only writes"
    )
    parser.add_argument("--resume", action="store_true", help="leave out parts that were measured in the last day")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the document goes (default: docs)")
    args = parser.parse_args()
    if unknown := set(args.parts) - {*PARTS, *BY_NAME, "report"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    end_in_order()
    budget_seconds()  # a mistake in it is told before anything is made
    full = os.environ.get("BENCH", "") == "full"
    form = "full" if full else "short"
    args.docs.mkdir(parents=True, exist_ok=True)
    results = Results.open(args.docs / "benchmarks.json")
    failed = []
    if not args.parts or {"builds", *BY_NAME} & set(args.parts):
        set_up()
    whole = _clock["began"] = time.monotonic()
    for part in args.parts or [part for part in PARTS if part not in LONG or _has_time(full)]:
        if part == "report" or (args.resume and results.is_recent(part, form)):
            continue
        say(f"{part} ({form})")
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="wain-bench-"))
        try:
            made = _RUNS[part](folder, full=full)
            found: Mapping[str, Any] = {}
            for found in made if isinstance(made, Iterator) else (made,):
                results.put(part, found, form=form, is_whole=False)
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
            failed.append(part)
            say(f"{part} FAILED: {type(error).__name__}: {str(error)[-2000:]}")
        else:
            results.put(part, found, form=form)
            report.write(results.document, args.docs)
            say(f"{part}: {time.monotonic() - began:.0f} s")
        finally:
            remove_tree(folder)
    if results.document["parts"]:
        report.write(results.document, args.docs)
    for goal in goals(results.document):
        print(f"{'ok    ' if goal.holds else 'MISSED'} {goal.what}: {goal.measured} (wanted: {goal.wanted})")
    say(f"{args.docs / 'benchmarks.md'} is written, after {time.monotonic() - whole:.0f} s")
    if failed:
        say(f"not measured: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
