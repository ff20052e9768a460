"""What a piece of work costs: seconds, processor time and anonymous memory of every process that it starts.

Daemons that the benchmark itself started (dockerd and what it runs) are its descendants too and are counted; what
merely serves all builders alike, the index's front and the registry, is left out.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.1


@dataclass(slots=True, kw_only=True)
class Usage:
    """What was used between the start and the end of a block."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    anonymous_bytes: int = 0
    """The most at one time, beyond what was there before the block."""


@contextlib.contextmanager
def metered(without: Sequence[int] = (), *, memory: bool = True) -> Iterator[Usage]:
    """Measure a block. The numbers are there when it has ended.

    :param without: processes that do not count, with all that they start.
    :param memory: whether to look at memory every 100 ms, which costs some time itself.
    """
    usage = Usage()
    done = threading.Event()
    before = _anonymous_bytes(without) if memory else 0
    most = before

    def sample() -> None:
        nonlocal most
        while not done.wait(_SAMPLE_SECONDS):
            most = max(most, _anonymous_bytes(without))

    sampler = threading.Thread(target=sample, daemon=True) if memory else None
    cpu = _cpu_seconds(without)
    began = time.monotonic()
    if sampler:
        sampler.start()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - began
        done.set()
        if sampler:
            sampler.join()
        usage.cpu_seconds = _cpu_seconds(without) - cpu
        usage.anonymous_bytes = max(0, most - before)


def _cpu_seconds(without: Sequence[int]) -> float:
    """Processor time of all descendants; of those that ended, their parents know it."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    stats = _stats()
    for pid in _descendants(stats, without):
        total += stats[pid][1] / _TICKS
    return total


def _anonymous_bytes(without: Sequence[int]) -> int:
    total = 0
    for pid in _descendants(_stats(), without):
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{pid}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
    return total


def _stats() -> dict[int, tuple[int, int]]:
    """Of each process: its parent, and the ticks that it and its ended children used."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The command's name may hold spaces; it ends with the last parenthesis.
                words = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                found[int(name)] = (int(words[1]), sum(map(int, words[11:15])))
    return found


def _descendants(stats: dict[int, tuple[int, int]], without: Sequence[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    found, left = [], [os.getpid()]
    while left:
        for child in children.get(left.pop(), ()):
            if child not in without:
                found.append(child)
                left.append(child)
    return found
