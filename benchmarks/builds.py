"""Images of whole projects, by every builder, in turn: cold, unchanged, a line changed, a bump, a fresh machine.

A round goes through all builders, each doing all its steps before the next one starts (A B C, A B C). What is timed
ends when the registry has the image.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import builders as every
from benchmarks.builders import Builder, Job, Place
from benchmarks.meters import metered
from benchmarks.scenarios import Scenario, lock_project, resolve, write_project
from tests.real.machines.places import free_port, remove_tree
from tests.real.machines.runtime import fetch_page
from wain.distribution import Access
from wain.explain import next_pull
from wain.image import Image
from wain.transfer import read_image

STEPS = ("cold", "unchanged", "source", "bump", "fresh")
START_SECONDS = 180
Record = dict[str, float]
Cells = dict[str, dict[str, list[Record]]]
"""Step -> builder -> what each round measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A scenario with its versions taken from the index, its projects written and locked."""

    scenario: Scenario
    folder: Path
    base: str
    distributions: int
    bump: str
    """As `name 1.0 -> 1.1`."""

    def copy(self, builder: Builder, state: str) -> Path:
        """The project's folder for a builder, before or after the bump, emptied of what was there."""
        target = self.folder / "work"
        remove_tree(target)
        shutil.copytree(self.folder / state, target)
        self.lock(builder, target, f"{state}-plain")
        return target

    def lock(self, builder: Builder, target: Path, name: str) -> None:
        if builder.uses_lock:
            shutil.copy2(self.folder / name / "pylock.toml", target / "pylock.toml")


def prepare(scenario: Scenario, place: Place, say: Callable[[str], None]) -> Prepared:
    """Resolve, write and lock; every wheel is in the front's cache afterwards."""
    folder = place.folder / "projects" / scenario.name
    base = place.base(scenario.python)
    store = place.folder / "store-prepare"
    pins: dict[str, tuple[str, ...]] = {}
    for state in ("before", "after"):
        pins[state] = resolve(scenario, place.front, place.folder / "resolve", before=state == "before")
        write_project(scenario, pins[state], folder / state)
        lock_project(folder / state, place.front, base, store, layers=False)
    # Making the layers fetches every wheel, so that no builder waits for the network later.
    for state in ("before", "after"):
        lock_project(folder / state, place.front, base, store, layers=True)
    remove_tree(store)
    versions = [dict(pin.split("==") for pin in pins[state])[scenario.bumped] for state in ("before", "after")]
    prepared = Prepared(
        scenario=scenario,
        folder=folder,
        base=base,
        distributions=len(pins["after"]),
        bump=f"{scenario.bumped} {versions[0]} -> {versions[1]}",
    )
    say(f"{scenario.name}: {prepared.distributions} distributions, Python {scenario.python}, bump {prepared.bump}")
    return prepared


def measure(
    prepared: Prepared, builder: Builder, place: Place, *, steps: Sequence[str], starts: int, say: Callable[[str], None]
) -> dict[str, Record]:
    """One round of one builder: what each step measured. The image is gone from the registry afterwards."""
    name = "".join(char if char.isalnum() else "-" for char in builder.name).strip("-")
    while "--" in name:
        name = name.replace("--", "-")
    repository = f"{place.registry.host}/bench/{prepared.scenario.name}-{name}"
    job = Job(place=place, project=prepared.copy(builder, "before"), base=prepared.base, tag=f"{repository}:cold")
    found: dict[str, Record] = {}
    try:
        for step in STEPS:
            if step not in steps and step != "cold":
                continue
            if step == "source":
                with (job.project / "app.py").open("a") as stream:
                    stream.write("# one line more\n")
            elif step == "bump":
                shutil.copy2(prepared.folder / "after/requirements.txt", job.project / "requirements.txt")
                prepared.lock(builder, job.project, "after-plain")
            elif step == "fresh":
                state = "after" if "bump" in steps else "before"
                prepared.lock(builder, job.project, f"{state}-layers")
            if step in ("cold", "fresh"):
                builder.forget(job)
                # A lock with layers says of the base what must be known of it.
                if step == "cold" or not builder.uses_lock:
                    builder.ready(job)
            previous, job = job, job.named(f"{repository}:{step}")
            found[step] = _publish(builder, job, previous if step != "cold" else None)
            if step == "cold" and starts:
                with _left_out(say, f"{builder.name}: start"):
                    found[step]["first_answer_seconds"] = min(_first_answer(job) for _ in range(starts))
            say(f"  {builder.name}: {step}: {found[step]['seconds']:.2f} s")
    finally:
        builder.forget(job)
        remove_tree(job.project)
        place.clear_registry()
    return found


class _left_out(suppress):  # noqa: N801
    """Where a measurement fails that is not the main one, it is told and left out."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        super().__init__(AssertionError, OSError)
        self.say, self.what = say, what

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        caught = super().__exit__(kind, error, trace)  # type: ignore[arg-type]
        if kind is not None and caught:
            self.say(f"  {self.what} failed: {str(error)[-400:]}")
        return bool(caught)


def _publish(builder: Builder, job: Job, previous: Job | None) -> Record:
    place = job.place
    index, links = place.front.mark(), _links(job)
    with metered((place.front.running.process.pid, place.registry.running.process.pid)) as usage:
        builder.publish(job)
    uploaded = _links(job) - links - _base_blobs(job)
    image = _image(job.tag)
    record: Record = {
        "seconds": usage.seconds,
        "cpu_seconds": usage.cpu_seconds,
        "anonymous_bytes": usage.anonymous_bytes,
        "index_requests": len(place.front.requests(index)),
        "index_bytes": place.front.sent_bytes(index),
        "registry_bytes": sum(_blob_bytes(place, digest) for digest in uploaded),
        "image_bytes": sum(layer.size_bytes for layer in image.layers),
    }
    if previous is None:
        record["unpacked_bytes"] = sum(_unpacked_bytes(place.registry.blob_path(item.digest)) for item in image.layers)
    else:
        pull = next_pull(_image(previous.tag), image)
        record |= {"pull_containerd_bytes": pull.containerd_bytes, "pull_classic_bytes": pull.classic_bytes}
    return record


def _image(tag: str) -> Image:
    image = read_image(tag, access=Access())
    assert isinstance(image, Image)
    return image


def _links(job: Job) -> set[str]:
    """The digests that the job's repository has: layers, config and manifests."""
    repository = job.tag.partition("/")[2].rpartition(":")[0]
    root = job.place.registry.storage / "docker/registry/v2/repositories" / repository
    kinds = ("_layers/sha256", "_manifests/revisions/sha256")
    return {path.name for kind in kinds for path in (root / kind).glob("*") if (path / "link").exists()}


def _base_blobs(job: Job) -> set[str]:
    return {layer.digest.hex for layer in _image(job.base).layers}


def _blob_bytes(place: Place, digest: str) -> int:
    return place.registry.blob_path(f"sha256:{digest}").stat().st_size


def _unpacked_bytes(blob: Path) -> int:
    from isal import igzip

    with igzip.open(blob) as stream:
        return sum(map(len, iter(lambda: stream.read(1 << 20), b"")))


def _first_answer(job: Job) -> float:
    """Seconds from `docker run` until the page answers. The image is in Docker's store before."""
    docker, port = job.place.docker, free_port()
    docker.cli("pull", "--quiet", job.tag, timeout_seconds=600)
    began = time.monotonic()
    with docker.serve(job.tag, options=["--env", f"PORT={port}"]) as container:
        try:
            status, text = fetch_page(port, timeout_seconds=START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{container.logs()[-2000:]}") from error
        taken = time.monotonic() - began
    assert status == 200, text
    return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one pass over a scenario does: these builders, with these steps each."""

    scenario: Scenario
    builders: Mapping[str, tuple[str, ...]]
    """Builder's name -> steps."""
    starts: int = 0
    """How often each image is started, for the time to its first answer; the least is kept."""


def short_turns() -> list[Turn]:
    """What the short form does, the most telling first: repetitions are left out where time runs out."""
    from benchmarks.scenarios import DATA, ML, WEB

    cold: tuple[str, ...] = ("cold",)
    ends = {every.WAIN: STEPS, every.UV_PLAIN: STEPS}
    pip = {every.PIP_NO_CACHE: cold, every.PIP_NO_COMPILE: cold}
    web = {**ends, **dict.fromkeys((every.WAIN_BUILT_IN, every.PIP_PLAIN, every.PIP_NO_COMPILE), cold)}
    others = {
        every.WAIN: cold,
        **{builder: cold for builder in every.ALL if builder not in web},
        every.PIP_MOUNT: ("cold", "bump"),
        every.UV_INLINE: ("cold", "fresh"),
    }
    telling = dict.fromkeys((every.WAIN, *pip, every.UV_PLAIN), cold)
    ml = {every.WAIN: STEPS, every.PIP_NO_CACHE: cold, every.UV_PLAIN: ("cold", "source")}
    return [
        _turn(DATA, {**ends, **pip, every.WAIN_COMPILE: cold}, starts=1),
        _turn(WEB, web, starts=1),
        _turn(ML, ml),
        _turn(WEB, others, starts=1),
        _turn(DATA, {**telling, **ends}),
        _turn(DATA, telling),
        _turn(ML, dict.fromkeys(ml, cold)),
    ]


def full_turns(*, rounds: int = 5, large_rounds: int = 1) -> list[Turn]:
    """Every builder with every step of every scenario."""
    from benchmarks.scenarios import ALL

    return [
        _turn(scenario, dict.fromkeys(every.ALL, STEPS), starts=2 if number == 0 else 0)
        for scenario in ALL
        for number in range(large_rounds if scenario.is_large else rounds)
    ]


def large_turns() -> list[Turn]:
    """The large scenarios by wain alone."""
    from benchmarks.scenarios import ALL

    return [_turn(scenario, {every.WAIN: STEPS}) for scenario in ALL if scenario.is_large]


def _turn(scenario: Scenario, steps: Mapping[Builder, tuple[str, ...]], *, starts: int = 0) -> Turn:
    return Turn(scenario=scenario, builders={item.name: kinds for item, kinds in steps.items()}, starts=starts)


class Builds:
    """Carries turns out and keeps what they measured."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place = place
        self.say = say
        self.scenarios: dict[str, dict[str, object]] = {}
        self.cells: dict[str, Cells] = {}
        self.failures: list[str] = []
        self._prepared: dict[str, Prepared | None] = {}
        self._rounds: dict[str, int] = {}

    def prepared(self, scenario: Scenario) -> Prepared | None:
        """The scenario, ready; None where that failed, which is told once."""
        if scenario.name not in self._prepared:
            try:
                made = prepare(scenario, self.place, self.say)
            except (Exception, SystemExit) as error:
                self._failed(f"{scenario.name}: {error}")
                self._prepared[scenario.name] = None
            else:
                self._prepared[scenario.name] = made
                self.scenarios[scenario.name] = {
                    "title": scenario.title,
                    "python": scenario.python,
                    "distributions": made.distributions,
                    "bump": made.bump,
                    "pins": (made.folder / "after/requirements.txt").read_text().split(),
                }
        return self._prepared[scenario.name]

    def carry_out(self, turn: Turn) -> None:
        """One pass; a builder that fails is told and left out, and the others go on."""
        prepared = self.prepared(turn.scenario)
        if prepared is None:
            return
        known = {builder.name: builder for builder in every.ALL}
        cells = self.cells.setdefault(turn.scenario.name, {})
        number = self._rounds[turn.scenario.name] = self._rounds.get(turn.scenario.name, 0) + 1
        for name, steps in turn.builders.items():
            try:
                found = measure(prepared, known[name], self.place, steps=steps, starts=turn.starts, say=self.say)
            except Exception as error:
                self._failed(f"{turn.scenario.name}, {name}: {error}")
                continue
            for step, record in found.items():
                cells.setdefault(step, {}).setdefault(name, []).append({**record, "round": number})

    def profile(self, scenario: Scenario) -> dict[str, object]:
        """Where the seconds of two of wain's builds go, a cold one and one with a line of source more, by their names;
        empty where that cannot be had, which is told.
        """
        from benchmarks import micro

        prepared = self.prepared(scenario)
        if prepared is None:
            return {}
        project = prepared.copy(every.WAIN, "before")
        tag = f"{self.place.registry.host}/bench/profile-{scenario.name}:1"
        job = Job(place=self.place, project=project, base=prepared.base, tag=tag)
        try:
            every.WAIN.forget(job)
            every.WAIN.ready(job)
            store = every.store_folder(self.place, every.WAIN.name)
            found: dict[str, object] = {}
            for step in ("cold", "source"):
                if step == "source":
                    with (project / "app.py").open("a") as stream:
                        stream.write("# one line more\n")
                found[f"{scenario.name}, {step}"] = micro.profile(self.place.front, prepared.base, project, tag, store)
            return found
        except Exception as error:
            self._failed(f"{scenario.name}, profile: {error}")
            return {}

    def _failed(self, text: str) -> None:
        # The document keeps what and why; commands and their folders are on the screen.
        what, _, why = text.partition(": ")
        lines = [line.strip() for line in why.splitlines() if line.strip()]
        self.failures.append(f"{what}: {lines[-1][-300:] if lines else 'failed'}")
        print(f"FAILED {text}", file=sys.stderr)
