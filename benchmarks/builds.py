"""Images of whole projects, by every builder, in turn: cold, unchanged, a line changed, a bump, a fresh machine.

A round goes through all builders, each doing all its steps before the next one starts (A B C, A B C). What is timed
ends when the registry has the image.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import builders as every
from benchmarks import stages
from benchmarks.builders import PUSH_SECONDS, Builder, Job, Place
from benchmarks.meters import metered
from benchmarks.scenarios import PINNED, Scenario, lock_folder, lock_project, resolve, uv_lock_project, write_project
from benchmarks.turns import STEPS, Cells, Costs, Record, Turn
from tests.real.machines.places import free_port, remove_tree
from tests.real.machines.runtime import fetch_page
from wain.distribution import Access
from wain.explain import next_pull
from wain.image import Image
from wain.transfer import read_image

START_SECONDS = 180


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
        self.lock(builder, target, state)
        return target

    def raise_versions(self, builder: Builder, target: Path) -> None:
        """Change the versions in a builder's folder to those after the bump."""
        for name in PINNED:
            shutil.copy2(self.folder / "after" / name, target / name)
        self.lock(builder, target, "after")

    def lock(self, builder: Builder, target: Path, state: str, *, layers: bool = False) -> None:
        """Put a builder's lock into its folder.

        :param layers: whether it names the layers, where it can.
        """
        if builder.lock:
            found = lock_folder(self.folder / state, layers=layers and builder.locks_layers)
            shutil.copy2(found / builder.lock, target / builder.lock)


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
        uv_lock_project(folder / state, base, place)
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
            _arrange(step, prepared, builder, job, is_bumped="bump" in steps)
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


def _arrange(step: str, prepared: Prepared, builder: Builder, job: Job, *, is_bumped: bool) -> None:
    """Change the project and the machine to what a step is about.

    :param is_bumped: whether the step of the bump has been before a fresh machine.
    """
    if step == "source":
        with (job.project / "app.py").open("a") as stream:
            stream.write("# one line more\n")
    elif step == "bump":
        prepared.raise_versions(builder, job.project)
    elif step == "fresh":
        prepared.lock(builder, job.project, "after" if is_bumped else "before", layers=True)
    if step in ("cold", "fresh"):
        builder.forget(job)
        # A lock with layers says of the base what must be known of it.
        if step == "cold" or not builder.locks_layers:
            builder.ready(job)


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
    docker.cli("pull", "--quiet", job.tag, timeout_seconds=PUSH_SECONDS)
    began = time.monotonic()
    with docker.serve(job.tag, options=["--env", f"PORT={port}"]) as container:
        try:
            status, text = fetch_page(port, timeout_seconds=START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{container.logs()[-2000:]}") from error
        taken = time.monotonic() - began
    assert status == 200, text
    return taken


class Builds:
    """Carries turns out and keeps what they measured."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place = place
        self.say = say
        self.scenarios: dict[str, dict[str, object]] = {}
        self.cells: dict[str, Cells] = {}
        self.failures: list[str] = []
        self.costs = Costs()
        self.preparing_seconds = 0.0
        """What resolving, locking and filling the index's front took."""
        self._prepared: dict[str, Prepared | None] = {}
        self._rounds: dict[str, int] = {}

    def prepared(self, scenario: Scenario) -> Prepared | None:
        """The scenario, ready; None where that failed, which is told once."""
        if scenario.name not in self._prepared:
            began = time.monotonic()
            try:
                made = prepare(scenario, self.place, self.say)
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
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
            self.preparing_seconds += time.monotonic() - began
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
            began = time.monotonic()
            try:
                found = measure(prepared, known[name], self.place, steps=steps, starts=turn.starts, say=self.say)
            except Exception as error:
                self._failed(f"{turn.scenario.name}, {name}: {error}")
                self.costs.forget(turn.scenario.name, name)
                continue
            self.costs.add(turn.scenario.name, name, found, time.monotonic() - began)
            for step, record in found.items():
                cells.setdefault(step, {}).setdefault(name, []).append({**record, "round": number})

    def profile(self, scenario: Scenario, *, rounds: int) -> dict[str, stages.Profile]:
        """Where the seconds of each of wain's steps go, by their names; empty where that cannot be had, which is told.

        :param rounds: how often the steps are gone through; of each step the pass that took the median is told.
        """
        prepared = self.prepared(scenario)
        if prepared is None:
            return {}
        builder = every.WAIN
        found: dict[str, list[stages.Profile]] = {}
        try:
            for _ in range(rounds):
                repository = f"{self.place.registry.host}/bench/profile-{scenario.name}"
                project = prepared.copy(builder, "before")
                for step in STEPS:
                    job = Job(place=self.place, project=project, base=prepared.base, tag=f"{repository}:{step}")
                    _arrange(step, prepared, builder, job, is_bumped=True)
                    store = every.store_folder(self.place, builder.name)
                    words = ["build", "-q", "--base", job.base, "--cache-dir", store, *every.publishing(job)]
                    taken = stages.profile(words, self.place.front.pip_env)
                    found.setdefault(f"{scenario.name}, {step}", []).append(taken)
                self.place.clear_registry()
        except Exception as error:
            self._failed(f"{scenario.name}, profile: {error}")
        return {name: stages.middle(profiles) for name, profiles in found.items()}

    def _failed(self, text: str) -> None:
        # The document keeps what and why; commands and their folders are on the screen.
        what, _, why = text.partition(": ")
        lines = [line.strip() for line in why.splitlines() if line.strip()]
        self.failures.append(f"{what}: {lines[-1][-300:] if lines else 'failed'}")
        print(f"FAILED {text}", file=sys.stderr)
