"""The document: `docs/benchmarks.md` and its plots, from the numbers of `docs/benchmarks.json` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.installs import times
from benchmarks.plots import Bar, Group, chart
from benchmarks.results import Document, median, ratios

Records = Sequence[Mapping[str, float]]

STEPS = {
    "cold": "cold build: the base is at hand, pulled or read before, and nothing else",
    "unchanged": "nothing changed",
    "source": "one line of source changed",
    "bump": "one distribution bumped",
    "fresh": "a fresh machine, the same image in the registry",
}
_UV = "docker + uv, cache mount"
_STEP_TIMES = {"bump": 8.0, "source": 5.0, "fresh": 15.0}
"""How many times as fast as docker with uv the later steps should be."""
_INTRODUCTION = """\
# Benchmarks

Made by `make bench`; do not edit. Every number of the builders comes from one run, in which they took turns (A B C,
A B C). All of them take the same versions from the same loopback front of a package index, build on the same base,
and are timed until a registry on loopback has the image. Min, median and max are of the rounds; *times* is how many
times as long as wain it took, the median of the ratios pair by pair within a round. CPU is the processor time of all
processes, daemons and containers included, but not of index and registry. Memory is the most anonymous memory of
those processes at one time, beyond what daemons held before. *Pull* is what a node fetches that has the image of the
step before, with containerd's store and with Docker's classic one."""
_UNFAIR = """\
## What is unfair to whom

- To all but wain: wain reads a lock with hashes (`pylock.toml`), made before the clock starts, as its users have it.
  pip and uv read requirements where all is pinned, and resolve them again. `wain, no lock` reads those too.
- To docker and buildah: the index and the registry are on loopback, so downloads, at which wain is not faster than
  uv, weigh less than on most networks. Fewer bytes to the registry, where wain gains, weigh less too.
- To docker: it unpacks what it builds into its store and can run it at once. wain hands the image to the registry only.
  `docker push` compresses what `docker build` left uncompressed; that is part of an image in a registry.
- To docker on a fresh machine: only the builder with the inline cache may use the image in the registry. Others keep
  caches in registries or volumes of their own, which cost time to fetch and are not measured.
- To wain: bytecode of dependencies is left out by default and compiled at each start; compare `wain --compile` with
  the builders that have bytecode (marked *), and look at the time to the first answer.
- To docker: "the base is at hand" means that docker has pulled it and wain has built something on it, so that what it
  must know of the base is remembered. On a fresh machine wain takes that from the lock.
- To pip: as most people write it, it keeps its cache in the image. That is what the row is there to show.
- To uv: with `UV_LINK_MODE=copy`, as its guide has it for cache mounts; its Python runs in the same base.
- The registry, the index and the builders share the machine's cores, which slows everyone about alike."""


def write(document: Document, folder: Path) -> None:
    """Write `benchmarks.md` and the plots below `benchmarks/` into the folder."""
    plots = folder / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    for name, text in figures(document).items():
        (plots / name).write_text(text, encoding="utf-8")
    (folder / "benchmarks.md").write_text(text_of(document), encoding="utf-8")


def figures(document: Document) -> dict[str, str]:
    """The plots by file name."""
    builds = document["parts"].get("builds", {})
    found = {}
    for scenario, cells in builds.get("cells", {}).items():
        title = f"{scenario}: seconds to an image in the registry"
        found[f"{scenario}-seconds.svg"] = chart(title, _groups(cells, "seconds", 1.0, STEPS), "s")
        groups = [
            *_groups(cells, "image_bytes", 1e6, {"cold": "the image, compressed"}),
            *_groups(cells, "registry_bytes", 1e6, {"bump": "to the registry, one distribution bumped"}),
            *_groups(cells, "pull_containerd_bytes", 1e6, {"bump": "pulled after the bump, containerd"}),
            *_groups(cells, "pull_classic_bytes", 1e6, {"bump": "pulled after the bump, Docker's classic store"}),
        ]
        if groups:
            found[f"{scenario}-bytes.svg"] = chart(f"{scenario}: megabytes", groups, "MB")
        if starts := _groups(cells, "first_answer_seconds", 1.0, {"cold": "from `docker run` to the page's answer"}):
            found[f"{scenario}-start.svg"] = chart(f"{scenario}: start", starts, "s")
    return found


def _groups(cells: Mapping[str, Mapping[str, Records]], key: str, unit: float, steps: Mapping[str, str]) -> list[Group]:
    groups = []
    for step, title in steps.items():
        bars = []
        for builder, records in cells.get(step, {}).items():
            values = [record[key] / unit for record in records if key in record]
            if values:
                middle = statistics.median(values)
                ours = builder.startswith("wain")
                bars.append(Bar(label=builder, median=middle, least=min(values), most=max(values), is_ours=ours))
        if bars:
            groups.append(Group(title=title, bars=bars))
    return groups


def text_of(document: Document) -> str:
    """The Markdown."""
    parts = document["parts"]
    blocks = [_INTRODUCTION, *_machine(document), *_goals(document)]
    if builds := parts.get("builds"):
        for name, cells in builds.get("cells", {}).items():
            blocks += _scenario(name, builds.get("scenarios", {}).get(name, {}), cells)
    blocks += [*_large(parts), *_splice(parts), *_sizes(parts), *_small(parts), *_audit(parts), *_profile(parts)]
    blocks.append(_UNFAIR)
    blocks += _failures(parts)
    return "\n\n".join(blocks) + "\n"


def _machine(document: Document) -> Iterator[str]:
    machine = document.get("machine", {})
    yield (
        f"Machine: {machine.get('cpu')}, {machine.get('cores')} cores,"
        f" {machine.get('memory_bytes', 0) / 2**30:.0f} GiB, {machine.get('system')},"
        f" kernel {machine.get('kernel')}, Python {machine.get('python')}."
    )
    builds = document["parts"].get("builds", {})
    versions = ", ".join(f"{name} {version}" for name, version in builds.get("versions", {}).items() if version)
    if versions:
        load = builds.get("load_before")
        told = f" Load before it began: {load:.1f}." if isinstance(load, int | float) else ""
        if told and load > machine.get("cores", 1):
            told += (
                " **The machine was busy with other work: seconds by the clock mean little here, those of the processor"
                " more.**"
            )
        yield f"Versions: {versions}. The {builds.get('form')} form, {builds.get('at')}.{told}"


def _goals(document: Document) -> Iterator[str]:
    rows = [row for row in goals(document) if row is not None]
    if not rows:
        return
    yield "## What wain aims at"
    lines = ["| Aim | Wanted | Measured | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {what} | {wanted} | {found} | {'holds' if holds else '**missed**'} |" for what, wanted, found, holds in rows
    ]
    yield "\n".join(lines)
    yield from _why_steps_are_missed(document["parts"])


def _why_steps_are_missed(parts: Mapping[str, Any]) -> Iterator[str]:
    """Of steps that take wain less than a second and miss their aim: what of it is left to save."""
    builds = parts.get("builds", {})
    start = parts.get("startup", {}).get("seconds", {}).get("python -c pass")
    profile = next((told for name, told in builds.get("profiles", {}).items() if name.endswith(", source")), None)
    missed = []
    for scenario, cells in builds.get("cells", {}).items():
        for step, factor in _STEP_TIMES.items():
            ours, theirs = (median(cells.get(step, {}).get(name, ()), "seconds") for name in ("wain", _UV))
            if ours and theirs and ours < 1 and ours * factor > theirs:
                missed.append(f"{scenario}, {step}: {ours:.2f} s, and {theirs / factor:.2f} s are wanted")
    if missed and profile and start:
        share = profile["stages"]["imports"] / profile["seconds"]
        yield (
            f"Where docker itself needs little, these miss their aims: {'; '.join(missed)}. docker has a daemon that"
            f" runs. Python alone takes {statistics.median(start):.2f} s to start, and loading the modules that a build"
            f" needs is {share:.0%} of one that changes a line of source, by the profile below."
        )


def goals(document: Document) -> Iterator[tuple[str, str, str, bool]]:
    """What is aimed at, what is wanted and measured, and whether it holds; what was not measured is left out."""
    parts = document["parts"]
    cells = parts.get("builds", {}).get("cells", {})
    cold = {"docker + pip --no-cache-dir": 6.0, _UV: 3.0}
    for scenario in ("data", "ml"):
        for other, wanted in cold.items():
            yield from _times(cells, scenario, "cold", other, wanted)
    for other, wanted in {"docker + pip --no-cache-dir --no-compile": 2.5}.items():
        yield from _times(cells, "data", "cold", other, wanted)
    for scenario in cells:
        for step, wanted in _STEP_TIMES.items():
            yield from _times(cells, scenario, step, _UV, wanted)
    for scenario in cells:
        ours = cells[scenario].get("unchanged", {}).get("wain", ())
        if (found := median(ours, "seconds")) is not None:
            yield f"{scenario}, nothing changed, from a lock", "at most 0.5 s", f"{found:.2f} s", found <= 0.5
        fresh = cells[scenario].get("fresh", {}).get("wain", ())
        if (found := median(fresh, "seconds")) is not None:
            asked, up = median(fresh, "index_requests") or 0, median(fresh, "registry_bytes") or 0
            yield (
                f"{scenario}, a fresh machine with a lock that names layers",
                "1.5 s, no request to the index, 200 KB up",
                f"{found:.2f} s, {asked:.0f} requests, {up / 1e3:.1f} KB",
                found <= 1.5 and asked == 0 and up <= 200_000,
            )
        bump = cells[scenario].get("bump", {}).get("wain", ())
        sent, pulled = median(bump, "registry_bytes"), median(bump, "pull_containerd_bytes")
        if sent is not None and pulled is not None:
            extra = sent - pulled
            yield (
                f"{scenario}, bytes to the registry for a bump, beyond its layers", "at most 60 KB",
                f"{extra / 1e3:.1f} KB", extra <= 60_000,
            )  # fmt: skip
        yield from _image_sizes(cells, scenario)
    if splice := parts.get("splice"):
        times = splice["gzip_seconds"] / splice["splice_seconds"]
        yield (
            f"{_short(splice['wheel'])} to a layer, against gzip -6",
            "10 times as fast",
            f"{times:.1f} times",
            times >= 10,
        )
        share = splice["limit_seconds"] / splice["splice_seconds"]
        yield (
            f"{_short(splice['wheel'])} to a layer, share of this machine's limit",
            "0.6",
            f"{share:.2f}",
            share >= 0.6,
        )
        for key, what in (("anonymous_bytes", _short(splice["wheel"])), ("anonymous_bytes_700", "a wheel of 700 MB")):
            size = splice[key] / 2**20
            yield f"anonymous memory, {what}", "at most 250 MiB", f"{size:.0f} MiB", size <= 250
    for scenario, steps in parts.get("large", {}).get("cells", {}).items():
        found = median(steps.get("cold", {}).get("wain", ()), "anonymous_bytes")
        if found is not None:
            size = found / 2**20
            yield f"anonymous memory, {scenario}, whole cold build", "at most 250 MiB", f"{size:.0f} MiB", size <= 250
    most = [median(steps.get("cold", {}).get("wain", ()), "anonymous_bytes") for steps in cells.values()]
    if known := [value for value in most if value is not None]:
        yield (
            "anonymous memory, whole cold builds", "at most 250 MiB", f"{max(known) / 2**20:.0f} MiB",
            max(known) <= 250 * 2**20,
        )  # fmt: skip
    if rows := parts.get("sizes", {}).get("layers"):
        total = sum(row["layer_bytes"] for row in rows) / sum(row["gzip_bytes"] for row in rows)
        largest = max(row["layer_bytes"] / row["gzip_bytes"] for row in rows)
        yield f"{len(rows)} layers, sum against gzip -6", "at most 1.01", f"{total:.4f}", total <= 1.01
        yield f"{len(rows)} layers, the worst against gzip -6", "at most 1.06", f"{largest:.4f}", largest <= 1.06
    if taken := parts.get("startup", {}).get("seconds", {}).get("wain --version"):
        found = statistics.median(taken)
        yield "`wain --version`", "at most 0.15 s", f"{found:.3f} s", found <= 0.15
    if unchanged := parts.get("unchanged"):
        found, asked = statistics.median(unchanged["seconds"]), unchanged["index_requests"]
        holds = found <= 0.5 and asked == 0
        yield (
            "a second build from a lock, to an archive",
            "0.5 s, no request",
            f"{found:.2f} s, {asked} requests",
            holds,
        )
    for source, taken in parts.get("install", {}).get("seconds", {}).items():
        found = times(taken["pip"], taken["wain"])
        yield (
            f"`wain install` with a full cache, {source}, against pip",
            "4 times as fast",
            f"{found:.1f} times",
            found >= 4,
        )
    start = cells.get("data", {}).get("cold", {})
    with_code, without = (median(start.get(name, ()), "first_answer_seconds") for name in ("wain --compile", "wain"))
    if with_code and without:
        share = with_code / without
        yield "data, first answer with --compile, share of without", "0.5", f"{share:.2f}", share <= 0.5
    if speed := parts.get("audit", {}).get("speed"):
        found = 1000 / speed["wain"]
        yield "1,000 Dockerfiles audited on one core", "at most 5 s", f"{found:.2f} s", found <= 5


def _times(
    cells: Mapping[str, Any], scenario: str, step: str, other: str, wanted: float
) -> Iterator[tuple[str, str, str, bool]]:
    found = cells.get(scenario, {}).get(step, {})
    times = ratios(found.get("wain", ()), found.get(other, ()), "seconds")
    if times:
        middle = statistics.median(times)
        yield (
            f"{scenario}, {step}, against {other}",
            f"{wanted:g} times as fast",
            f"{middle:.1f} times",
            middle >= wanted,
        )


def _image_sizes(cells: Mapping[str, Any], scenario: str) -> Iterator[tuple[str, str, str, bool]]:
    cold = cells[scenario].get("cold", {})
    ours = median(cold.get("wain", ()), "image_bytes")
    bare = median(cold.get("docker + pip --no-cache-dir --no-compile", ()), "image_bytes")
    plain = median(cold.get("docker + pip", ()), "image_bytes")
    if ours and bare:
        share = ours / bare
        yield (
            f"{scenario}, compressed size against pip --no-cache-dir --no-compile", "at most 1.01", f"{share:.3f}",
            share <= 1.01,
        )  # fmt: skip
    if ours and plain and scenario == "web":
        built_in = median(cold.get("wain, no lock, own base", ()), "image_bytes")
        if built_in:
            share = built_in / plain
            yield "web, on wain's own base, against slim-like base + pip", "at most 0.5", f"{share:.2f}", share <= 0.5


def _short(filename: str) -> str:
    return "-".join(filename.split("-")[:2])


def _scenario(name: str, told: Mapping[str, Any], cells: Mapping[str, Mapping[str, Records]]) -> Iterator[str]:
    yield f"## {name}: {told.get('title', '')}"
    yield (
        f"{told.get('distributions')} distributions on Python {told.get('python')}; the bump is {told.get('bump')}."
        " Builders marked * put bytecode into the image."
    )
    yield f"![seconds](benchmarks/{name}-seconds.svg)"
    for step, title in STEPS.items():
        if rows := cells.get(step):
            yield f"### {name}: {title}"
            yield _table(step, rows)
    if cells.get("cold"):
        yield f"![bytes](benchmarks/{name}-bytes.svg)"
        if any("first_answer_seconds" in record for records in cells["cold"].values() for record in records):
            yield f"![start](benchmarks/{name}-start.svg)"


_COLUMNS = (
    ("index_bytes", "from index, MB", 1e6, 1),
    ("registry_bytes", "to registry, MB", 1e6, 2),
    ("image_bytes", "image, MB", 1e6, 1),
    ("unpacked_bytes", "unpacked, MB", 1e6, 0),
    ("pull_containerd_bytes", "pull, containerd, MB", 1e6, 2),
    ("pull_classic_bytes", "pull, classic, MB", 1e6, 2),
    ("first_answer_seconds", "first answer, s", 1.0, 2),
)


def _table(step: str, rows: Mapping[str, Records]) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in record for each in rows.values() for record in each)]
    names = ["Builder", "min / median / max, s", "times", "CPU, s", "memory, MiB", *(column[1] for column in columns)]
    lines = [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
    ours = rows.get("wain", ())
    for builder, records in rows.items():
        seconds = [record["seconds"] for record in records]
        times = ratios(ours, records, "seconds")
        cells = [
            builder + (" *" if _has_bytecode(builder) else ""),
            f"{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f}",
            f"{statistics.median(times):.1f}" if times else "",
            _shown(median(records, "cpu_seconds"), 1.0, 2),
            _shown(median(records, "anonymous_bytes"), 2**20, 0),
        ]
        cells += [_shown(median(records, key), unit, places) for key, _, unit, places in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _has_bytecode(builder: str) -> bool:
    return builder.endswith(("--compile", "bytecode")) or ("pip" in builder and "--no-compile" not in builder)


def _shown(value: float | None, unit: float, places: int) -> str:
    return "" if value is None else f"{value / unit:,.{places}f}"


def _large(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("large")):
        return
    yield "## Large images, by wain alone"
    yield (
        "The other builders take hours for these and were not run on them; `BENCH=full` runs all. Seconds are of a"
        f" single round, with a load of {found.get('load_before', 0):.1f} on the machine before; what matters here is"
        " memory and bytes."
    )
    for name, cells in found.get("cells", {}).items():
        told = found.get("scenarios", {}).get(name, {})
        rows = {step: records for step in STEPS if (records := cells.get(step, {}).get("wain"))}
        columns = [column for column in _COLUMNS if any(column[0] in row for each in rows.values() for row in each)]
        head = ["", "s", "CPU, s", "memory, MiB", *(column[1] for column in columns)]
        lines = [
            (
                f"{name} ({told.get('title', '')}): {told.get('distributions')} distributions on Python"
                f" {told.get('python')}; the bump is {told.get('bump')}."
            ),
            "",
            f"| {' | '.join(head)} |",
            "| --- |" + " ---: |" * (len(head) - 1),
        ]
        for step, records in rows.items():
            cell = [
                STEPS[step].partition(":")[0],
                _shown(median(records, "seconds"), 1.0, 2),
                _shown(median(records, "cpu_seconds"), 1.0, 2),
                _shown(median(records, "anonymous_bytes"), 2**20, 0),
            ]
            cell += [_shown(median(records, key), unit, places) for key, _, unit, places in columns]
            lines.append(f"| {' | '.join(cell)} |")
        yield "\n".join(lines)


def _splice(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("splice")):
        return
    yield "## A wheel becomes a layer"
    yield "\n".join(
        [
            (
                f"`{found['wheel']}`, {found['wheel_bytes'] / 1e6:.0f} MB, a tar of {found['tar_bytes'] / 1e6:.0f} MB;"
                f" medians of {found['rounds']} rounds. The limit is what any such program must do on this machine:"
                " inflate all members on all cores with their CRC, then SHA-256 of the tar and of the layer."
            ),
            "",
            "| | seconds | bytes |",
            "| --- | ---: | ---: |",
            f"| wheel to a finished, verified layer | {found['splice_seconds']:.2f} | {found['layer_bytes']:,} |",
            f"| `gzip -6` of the same tar | {found['gzip_seconds']:.2f} | |",
            f"| this machine's limit | {found['limit_seconds']:.2f} | |",
        ]
    )


def _sizes(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("sizes")):
        return
    rows = sorted(found["layers"], key=lambda row: -row["layer_bytes"] / row["gzip_bytes"])
    total = sum(row["layer_bytes"] for row in rows) / sum(row["gzip_bytes"] for row in rows)
    yield "## Layers against gzip -6"
    lines = [
        (
            f"{len(rows)} wheels, a layer each: {sum(row['layer_bytes'] for row in rows) / 1e6:,.0f} MB, which is"
            f" {total:.4f} of `gzip -6` of the same tars. Those that lose most:"
        ),
        "",
        "| wheel | layer | gzip -6 | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['wheel']} | {row['layer_bytes']:,} | {row['gzip_bytes']:,} |"
        f" {row['layer_bytes'] / row['gzip_bytes']:.4f} |"
        for row in rows[:8]
    ]
    yield "\n".join(lines)


def _small(parts: Mapping[str, Any]) -> Iterator[str]:
    if startup := parts.get("startup"):
        yield "## Start-up"
        lines = ["| | median, s |", "| --- | ---: |"]
        lines += [f"| `{what}` | {statistics.median(taken):.3f} |" for what, taken in startup["seconds"].items()]
        yield "\n".join(lines)
    if install := parts.get("install"):
        yield "## Installing into a fresh environment, caches full, no bytecode"
        lines = ["| | median, s | times |", "| --- | ---: | ---: |"]
        for source, tools in install["seconds"].items():
            for tool, taken in tools.items():
                ratio = times(taken, tools["wain"])
                lines.append(f"| {tool}, {source} | {statistics.median(taken):.2f} | {ratio:.1f} |")
        yield "\n".join(lines)
    if store := parts.get("store"):
        yield "## The store, 4 KiB each"
        lines = ["| | a second |", "| --- | ---: |"]
        lines += [f"| {what} | {rate:,.0f} |" for what, rate in store["rates"].items()]
        yield "\n".join(lines)


def _audit(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("audit")):
        return
    yield "## Auditing Dockerfiles"
    speed, right = found.get("speed"), found.get("rule")
    if speed:
        yield (
            f"{speed['files']:,.0f} files of {speed['lines']:.0f} lines on one core: wain audits {speed['wain']:,.0f} a"
            f" second, hadolint {speed['hadolint']:,.0f}. wain follows what commands leave behind; hadolint has many"
            " rules on other subjects."
        )
    if right:
        yield (
            f"On whether pip's cache stays (DL3042), over {right['samples']} samples: hadolint {right['version']}"
            f" is right in {right['hadolint']}, wain in {right['wain']}; [the table](hadolint.md) has each."
        )


def _profile(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("builds", {}).get("profiles")):
        return
    yield "## Where a build's time goes"
    for name, told in found.items():
        whole = told["seconds"]
        rest = whole - sum(told["stages"].values())
        lines = [
            (
                f"{name}, {whole:.2f} s under a profiler, which slows Python's own work; what the main thread did or"
                " waited for (threads inflate and transfer meanwhile; modules that a stage imports count in both):"
            ),
            "",
            "| | seconds | share |",
            "| --- | ---: | ---: |",
        ]
        stages = {**dict(sorted(told["stages"].items(), key=lambda item: -item[1])), "the rest": max(rest, 0.0)}
        lines += [f"| {stage} | {taken:.2f} | {taken / whole:.0%} |" for stage, taken in stages.items()]
        yield "\n".join(lines)


def _failures(parts: Mapping[str, Any]) -> Iterator[str]:
    failures = [text for part in parts.values() for text in part.get("failures", ())]
    if failures:
        yield "## What failed and is missing above"
        yield "\n".join(f"- {' '.join(text.split())[:300]}" for text in failures)
