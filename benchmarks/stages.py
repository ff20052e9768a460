"""Where the seconds of wain's steps go: stages by the clock, and what no program of its kind is without."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import stage_clock
from benchmarks.micro import user_environment

START = "start of Python"
END = "end of the process"
Profile = dict[str, Any]
"""`seconds` of the whole process, `stages` with the seconds of each, and of the `requests` that were `awaited`."""
Interval = tuple[float, float]


def covered(intervals: Iterable[Interval]) -> float:
    """Seconds in which at least one of the intervals was open."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def profile_of(found: Mapping[str, Any], *, started: float, written: float, ended: float) -> Profile:
    """The profile of a process.

    :param found: what `stage_clock.run` gave.
    :param started: when the process was started, on the same clock.
    :param written: when it had told what it found, and ended: when it had ended itself.
    """
    imports = [tuple(pair) for pair in found["imports"]]
    awaited = [tuple(pair) for pair in found["awaited"]]
    stages = {START: found["first"] - started, **found["stages"], END: ended - written}
    return {
        "seconds": sum(stages.values()),
        "stages": stages,
        "requests": len(awaited),
        # What is loaded meanwhile is in the stage of its own.
        "awaited": covered([*imports, *awaited]) - covered(imports),
    }


def floor_of(profile: Profile) -> dict[str, float]:
    """Of a profile what nothing saves short of not being a Python program that asks a registry."""
    stages = profile["stages"]
    return {START: stages[START], stage_clock.IMPORTS: stages[stage_clock.IMPORTS], "answers": profile["awaited"]}


def middle(profiles: Sequence[Profile]) -> Profile:
    """The one whose seconds are the median; of an even number the faster of the two in the middle."""
    return sorted(profiles, key=lambda profile: float(profile["seconds"]))[(len(profiles) - 1) // 2]


def profile(words: Sequence[str | Path], env: Mapping[str, str]) -> Profile:
    """What a command line of wain takes, by its stages.

    :raises AssertionError: when it fails, or asked nobody anything.
    """
    with tempfile.TemporaryDirectory(prefix="wain-bench-") as name:
        result = Path(name) / "stages.json"
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-I", stage_clock.__file__, result, *words],
            check=True,
            env={**user_environment(), **env},
            stdout=subprocess.DEVNULL,
        )
        ended = time.monotonic()
        told = json.loads(result.read_text())
    found = json.loads(told["found"])
    assert found["code"] == 0, f"wain ended with {found['code']}"
    assert found["awaited"], "not one request was seen"
    return profile_of(found, started=started, written=told["written"], ended=ended)
