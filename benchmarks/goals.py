"""What wain aims at, and whether a document's numbers hold it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.installs import times
from benchmarks.results import Document, median, ratios

UV = "docker + uv sync, cache mount"
UV_PIP = "docker + uv pip, cache mount"
_STEP_TIMES = {"bump": 8.0, "source": 5.0, "fresh": 15.0}
"""How many times as fast as docker with uv the later steps should be."""
Records = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is aimed at."""

    what: str
    wanted: str
    measured: str
    holds: bool
    rounds: int = 1
    """How many measurements the median is of."""
    step: tuple[str, str, float] | None = None
    """Scenario, step, and the seconds that are wanted, where it is about how long wain takes."""


def goals(document: Document) -> Iterator[Goal]:
    """What is aimed at; what was not measured is left out."""
    parts = document["parts"]
    cells = parts.get("builds", {}).get("cells", {})
    cold = {"docker + pip --no-cache-dir": 6.0, UV: 3.0}
    for scenario in ("data", "ml"):
        for other, wanted in cold.items():
            yield from _times(cells, scenario, "cold", other, wanted)
    yield from _times(cells, "data", "cold", "docker + pip --no-cache-dir --no-compile", 2.5)
    for scenario in cells:
        for step, wanted in _STEP_TIMES.items():
            yield from _times(cells, scenario, step, UV, wanted)
    for scenario, steps in cells.items():
        yield from _own_steps(scenario, steps)
        yield from _image_sizes(cells, scenario)
    yield from _splice_goals(parts)
    for scenario, steps in parts.get("large", {}).get("cells", {}).items():
        yield from _memory(f"{scenario}, whole cold build", steps.get("cold", {}).get("wain", ()))
    most = max(
        (steps.get("cold", {}).get("wain", ()) for steps in cells.values()),
        key=lambda records: median(records, "anonymous_bytes") or 0,
        default=(),
    )
    yield from _memory("whole cold builds", most)
    if rows := parts.get("sizes", {}).get("layers"):
        total = sum(row["layer_bytes"] for row in rows) / sum(row["gzip_bytes"] for row in rows)
        largest = max(row["layer_bytes"] / row["gzip_bytes"] for row in rows)
        for what, found, limit in (("sum", total, 1.01), ("the worst", largest, 1.06)):
            yield Goal(
                what=f"{len(rows)} layers, {what} against gzip -6", wanted=f"at most {limit:g}",
                measured=f"{found:.4f}", holds=found <= limit,
            )  # fmt: skip
    yield from _small_goals(parts)
    start = cells.get("data", {}).get("cold", {})
    with_code, without = (median(start.get(name, ()), "first_answer_seconds") for name in ("wain --compile", "wain"))
    if with_code and without:
        share = with_code / without
        yield Goal(
            what="data, first answer with --compile, share of without", wanted="0.5", measured=f"{share:.2f}",
            holds=share <= 0.5,
        )  # fmt: skip
    if speed := parts.get("audit", {}).get("speed"):
        found = 1000 / speed["wain"]
        yield Goal(
            what="1,000 Dockerfiles audited on one core", wanted="at most 5 s", measured=f"{found:.2f} s",
            holds=found <= 5,
        )  # fmt: skip


def _times(cells: Mapping[str, Any], scenario: str, step: str, other: str, wanted: float) -> Iterator[Goal]:
    """How many times as fast as another builder; where `uv pip` is faster than the `uv sync` of the aim, that too."""
    found = cells.get(scenario, {}).get(step, {})
    ours, theirs = found.get("wain", ()), found.get(other, ())
    if not (pairs := ratios(ours, theirs, "seconds")):
        return
    middle = statistics.median(pairs)
    measured = f"{middle:.1f} times"
    simple = found.get(UV_PIP, ())
    if other == UV and (more := ratios(ours, simple, "seconds")) and statistics.median(more) < middle:
        measured += f"; against {UV_PIP} {statistics.median(more):.1f} times (n = {len(more)})"
    yield Goal(
        what=f"{scenario}, {step}, against {other}",
        wanted=f"{wanted:g} times as fast",
        measured=measured,
        holds=middle >= wanted,
        rounds=len(pairs),
        step=(scenario, step, (median(theirs, "seconds") or 0.0) / wanted),
    )


def _own_steps(scenario: str, steps: Mapping[str, Any]) -> Iterator[Goal]:
    """What wain's steps are to take whatever others take."""
    unchanged, fresh, bump = (steps.get(step, {}).get("wain", ()) for step in ("unchanged", "fresh", "bump"))
    if (found := median(unchanged, "seconds")) is not None:
        yield Goal(
            what=f"{scenario}, nothing changed, from a lock", wanted="at most 0.5 s", measured=f"{found:.2f} s",
            holds=found <= 0.5, rounds=len(unchanged), step=(scenario, "unchanged", 0.5),
        )  # fmt: skip
    if (found := median(fresh, "seconds")) is not None:
        asked, up = median(fresh, "index_requests") or 0, median(fresh, "registry_bytes") or 0
        yield Goal(
            what=f"{scenario}, a fresh machine with a lock that names layers",
            wanted="1.5 s, no request to the index, 200 KB up",
            measured=f"{found:.2f} s, {asked:.0f} requests, {up / 1e3:.1f} KB",
            holds=found <= 1.5 and asked == 0 and up <= 200_000,
            rounds=len(fresh),
            step=(scenario, "fresh", 1.5),
        )
    sent, pulled = median(bump, "registry_bytes"), median(bump, "pull_containerd_bytes")
    if sent is not None and pulled is not None:
        extra = sent - pulled
        yield Goal(
            what=f"{scenario}, bytes to the registry for a bump, beyond its layers", wanted="at most 60 KB",
            measured=f"{extra / 1e3:.1f} KB", holds=extra <= 60_000, rounds=len(bump),
        )  # fmt: skip


def _memory(what: str, records: Records) -> Iterator[Goal]:
    found = median(records, "anonymous_bytes")
    if found is not None:
        yield Goal(
            what=f"anonymous memory, {what}", wanted="at most 250 MiB", measured=f"{found / 2**20:.0f} MiB",
            holds=found <= 250 * 2**20, rounds=len(records),
        )  # fmt: skip


def _splice_goals(parts: Mapping[str, Any]) -> Iterator[Goal]:
    if not (splice := parts.get("splice")):
        return
    wheel = _short(splice["wheel"])
    fast = splice["gzip_seconds"] / splice["splice_seconds"]
    yield Goal(
        what=f"{wheel} to a layer, against gzip -6", wanted="10 times as fast", measured=f"{fast:.1f} times",
        holds=fast >= 10, rounds=splice["rounds"],
    )  # fmt: skip
    share = splice["limit_seconds"] / splice["splice_seconds"]
    yield Goal(
        what=f"{wheel} to a layer, share of this machine's limit", wanted="0.6", measured=f"{share:.2f}",
        holds=share >= 0.6, rounds=splice["rounds"],
    )  # fmt: skip
    for key, what in (("anonymous_bytes", wheel), ("anonymous_bytes_700", "a wheel of 700 MB")):
        yield from _memory(what, [{"anonymous_bytes": splice[key]}])


def _small_goals(parts: Mapping[str, Any]) -> Iterator[Goal]:
    if taken := parts.get("startup", {}).get("seconds", {}).get("wain --version"):
        found = statistics.median(taken)
        yield Goal(
            what="`wain --version`", wanted="at most 0.15 s", measured=f"{found:.3f} s", holds=found <= 0.15,
            rounds=len(taken),
        )  # fmt: skip
    if unchanged := parts.get("unchanged"):
        found, asked = statistics.median(unchanged["seconds"]), unchanged["index_requests"]
        yield Goal(
            what="a second build from a lock, to an archive", wanted="0.5 s, no request",
            measured=f"{found:.2f} s, {asked} requests", holds=found <= 0.5 and asked == 0,
            rounds=len(unchanged["seconds"]),
        )  # fmt: skip
    for source, tools in parts.get("install", {}).get("seconds", {}).items():
        found = times(tools["pip"], tools["wain"])
        yield Goal(
            what=f"`wain install` with a full cache, {source}, against pip", wanted="4 times as fast",
            measured=f"{found:.1f} times", holds=found >= 4, rounds=len(tools["wain"]),
        )  # fmt: skip


def _image_sizes(cells: Mapping[str, Any], scenario: str) -> Iterator[Goal]:
    cold = cells[scenario].get("cold", {})
    ours = median(cold.get("wain", ()), "image_bytes")
    bare = median(cold.get("docker + pip --no-cache-dir --no-compile", ()), "image_bytes")
    plain = median(cold.get("docker + pip", ()), "image_bytes")
    built_in = median(cold.get("wain, no lock, own base", ()), "image_bytes")
    if ours and bare:
        share = ours / bare
        yield Goal(
            what=f"{scenario}, compressed size against pip --no-cache-dir --no-compile", wanted="at most 1.01",
            measured=f"{share:.3f}", holds=share <= 1.01,
        )  # fmt: skip
    if built_in and plain and scenario == "web":
        share = built_in / plain
        yield Goal(
            what="web, on wain's own base, against slim-like base + pip", wanted="at most 0.5",
            measured=f"{share:.2f}", holds=share <= 0.5,
        )  # fmt: skip


def _short(filename: str) -> str:
    return "-".join(filename.split("-")[:2])
