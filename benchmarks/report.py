"""The document: `docs/benchmarks.md` and its plots, from the numbers of `docs/benchmarks.json` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import UV, UV_PIP, Goal, Records, goals
from benchmarks.installs import times
from benchmarks.plots import Bar, Group, chart
from benchmarks.results import Document, builders_of, median, ratios, with_names_of_today
from benchmarks.stage_clock import REST
from benchmarks.stages import Profile, floor_of

STEPS = {
    "cold": "cold build: the base is at hand, pulled or read before, and nothing else",
    "unchanged": "nothing changed",
    "source": "one line of source changed",
    "bump": "one distribution bumped",
    "fresh": "a fresh machine, the same image in the registry",
}
_INTRODUCTION = """\
# Benchmarks

Made by `make bench`; do not edit. Every number of the builders comes from one run, in which they took turns (A B C,
A B C). All of them take the same versions from the same loopback front of a package index, build on the same base,
and are timed until a registry on loopback has the image. Min, median and max are of *n* rounds; *times* is how many
times as long as wain it took, the median of the ratios pair by pair within a round. CPU is the processor time of all
processes, daemons and containers included, but not of index and registry. Memory is the most anonymous memory of
those processes at one time, beyond what daemons held before. *Pull* is what a node fetches that has the image of the
step before, with containerd's store and with Docker's classic one. The first answer is of the first round, the best of
its starts."""
_UNFAIR = """\
## What is unfair to whom

- To pip and `uv pip`: wain reads a lock with hashes (`pylock.toml`) and `uv sync` its own (`uv.lock`), made of the same
  pins before the clock starts, as their users have them. pip and `uv pip` read requirements where all is pinned, and
  resolve them again, with the index's hashes alone. `wain, no lock` reads those too.
- To `uv sync`: its Dockerfile is the one that its guide has for projects, whose second `uv sync` runs on every change
  of the source. A project that is no package, as these are, has nothing to install then, and `uv pip`, after which
  nothing runs, is faster there. Where it is the faster of the two, the table above says so.
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
- To uv: with `UV_LINK_MODE=copy`, as its guide has it for cache mounts; its Python is the base's.
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
    document = with_names_of_today(document)
    parts = document["parts"]
    blocks = [_INTRODUCTION, *_machine(document), *_goals(document)]
    if builds := parts.get("builds"):
        for name, cells in builds.get("cells", {}).items():
            blocks += _scenario(name, builds.get("scenarios", {}).get(name, {}), cells)
    blocks += [*_large(parts), *_splice(parts), *_sizes(parts), *_small(parts), *_example(parts), *_audit(parts)]
    blocks += _profile(parts)
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
        minutes = f" in {builds['minutes']:.0f} minutes" if builds.get("minutes") else ""
        told += _older(document)
        yield f"Versions: {versions}. The {builds.get('form')} form{minutes}, {builds.get('at')}.{told}"


def _older(document: Document) -> str:
    """Which parts are of another day than the builders'."""
    days = {name: str(part.get("at", ""))[:10] for name, part in document["parts"].items()}
    older = [f"{name} of {day}" for name, day in days.items() if day and day != days["builds"]]
    return f" Of another run: {', '.join(older)}." if older else ""


def _goals(document: Document) -> Iterator[str]:
    found = list(goals(document))
    if not found:
        return
    yield "## What wain aims at"
    lines = ["| Aim | Wanted | Measured | n | |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {goal.what} | {goal.wanted} | {goal.measured} | {goal.rounds} | {'holds' if goal.holds else '**missed**'} |"
        for goal in found
    ]
    yield "\n".join(lines)
    yield "What is measured is the median of *n* rounds."
    yield from _lacking(document)
    yield from _why_steps_are_missed(document["parts"], found)


def _lacking(document: Document) -> Iterator[str]:
    """What this document lacks of what the command measures now."""
    builds = document["parts"].get("builds")
    if builds is None:
        return
    lacking = [name for name in (UV, UV_PIP) if name not in builders_of(document)]
    if not _profiles(document["parts"]):
        lacking.append("where the seconds of each step go")
    if lacking:
        yield f"What `make bench` measures now and the numbers of {builds.get('at')} lack: {'; '.join(lacking)}."


def _profiles(parts: Mapping[str, Any]) -> dict[str, Profile]:
    found: Mapping[str, Profile] = parts.get("builds", {}).get("profiles", {})
    return {name: profile for name, profile in found.items() if "awaited" in profile}


def _why_steps_are_missed(parts: Mapping[str, Any], found: Sequence[Goal]) -> Iterator[str]:
    """Of steps that miss an aim: what of them is Python's start, loading and answers, and what most of the rest is."""
    profiles = _profiles(parts)
    wanted: dict[tuple[str, str], float] = {}
    for goal in found:
        if goal.step is not None and not goal.holds:
            scenario, step, seconds = goal.step
            wanted[scenario, step] = min(seconds, wanted.get((scenario, step), seconds))
    told = []
    for (scenario, step), seconds in wanted.items():
        ours = median(parts["builds"]["cells"][scenario].get(step, {}).get("wain", ()), "seconds")
        line = f"- {scenario}, {STEPS[step].partition(':')[0]}: {ours:.2f} s, where {seconds:.2f} s are wanted."
        if profile := profiles.get(f"{scenario}, {step}"):
            floor = floor_of(profile)
            least = sum(floor.values())
            start, imports, answers = floor.values()
            line += (
                f" Of {profile['seconds']:.2f} s in the profile below Python's start is {start:.2f} s, loading modules"
                f" {imports:.2f} s, and waiting for {profile['requests']} answers {answers:.2f} s: together"
                f" {least:.2f} s, {least / profile['seconds']:.0%}"
            )
            if least > seconds:
                line += ", more than the aim leaves."
            else:
                own = {stage: taken for stage, taken in profile["stages"].items() if stage not in (*floor, REST)}
                most = max(own, key=lambda stage: own[stage])
                line += f"; most of the rest is *{most}* with {own[most]:.2f} s."
        told.append(line)
    if told:
        yield (
            "Steps that miss an aim, in seconds. docker has a daemon that runs; wain starts Python, loads what it needs"
            " and asks the registry each time:"
        )
        yield "\n".join(told)


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
    names = [
        "Builder",
        "n",
        "min / median / max, s",
        "times",
        "CPU, s",
        "memory, MiB",
        *(column[1] for column in columns),
    ]
    lines = [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]
    ours = rows.get("wain", ())
    for builder, records in rows.items():
        seconds = [record["seconds"] for record in records]
        times = ratios(ours, records, "seconds")
        cells = [
            builder + (" *" if _has_bytecode(builder) else ""),
            str(len(records)),
            f"{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f}",
            f"{statistics.median(times):.1f}" if times else "",
            _shown(median(records, "cpu_seconds"), 1.0, 2),
            _shown(median(records, "anonymous_bytes"), 2**20, 0),
        ]
        cells += [_shown(median(records, key), unit, places) for key, _, unit, places in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _has_bytecode(builder: str) -> bool:
    return builder.endswith(("--compile", "bytecode")) or ("+ pip" in builder and "--no-compile" not in builder)


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


def _example(parts: Mapping[str, Any]) -> Iterator[str]:
    if not (found := parts.get("example")):
        return
    yield "## `examples/ml`, cold, to an image on this machine"
    lines = ["| Builder | n | median, s | times |", "| --- | ---: | ---: | ---: |"]
    for builder, taken in found["seconds"].items():
        ratio = times(taken, found["seconds"]["wain"])
        lines.append(f"| {builder} | {len(taken)} | {statistics.median(taken):.2f} | {ratio:.1f} |")
    yield "\n".join(lines)


def _profile(parts: Mapping[str, Any]) -> Iterator[str]:
    profiles = _profiles(parts)
    by_scenario: dict[str, dict[str, Profile]] = {}
    for name, profile in profiles.items():
        scenario, _, step = name.partition(", ")
        by_scenario.setdefault(scenario, {})[step] = profile
    if by_scenario:
        yield "## Where a step's time goes"
        yield (
            "What wain's main thread did or waited for, in seconds by the clock, from the start of the process to its"
            " end. A stage that begins in another takes the time from it, so each column adds up to its first row."
            " Threads inflate and transfer meanwhile. *Answers awaited* is no stage: it is in how many of the seconds"
            " some thread waited for an answer of the registry or the index, and nothing was loaded."
        )
    for scenario, steps in by_scenario.items():
        stages: dict[str, float] = {}
        for profile in steps.values():
            for stage, seconds in profile["stages"].items():
                stages[stage] = stages.get(stage, 0.0) + seconds / profile["seconds"]
        rows = {"**in all**": [profile["seconds"] for profile in steps.values()]}
        for stage in sorted(stages, key=lambda stage: -stages[stage]):
            if stages[stage] >= 0.001:
                rows[stage] = [profile["stages"].get(stage, 0.0) for profile in steps.values()]
        rows["*answers awaited*"] = [profile["awaited"] for profile in steps.values()]
        lines = [f"| {scenario} | {' | '.join(steps)} |", "| --- |" + " ---: |" * len(steps)]
        lines += [f"| {row} | {' | '.join(f'{taken:.3f}' for taken in values)} |" for row, values in rows.items()]
        lines.append(f"| *requests* | {' | '.join(str(profile['requests']) for profile in steps.values())} |")
        yield "\n".join(lines)


def _failures(parts: Mapping[str, Any]) -> Iterator[str]:
    failures = [text for part in parts.values() for text in part.get("failures", ())]
    if failures:
        yield "## What failed and is missing above"
        yield "\n".join(f"- {' '.join(text.split())[:300]}" for text in failures)
