"""A cold build of `examples/ml` to an image on this machine: wain to an archive, `docker build` to docker's store."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.builders import Place, docker_file_of_pip
from tests.real.machines.bases import official_like_base
from tests.real.machines.processes import run

PROJECT = Path(__file__).resolve().parents[1] / "examples/ml"
PYTHON = "3.13"


def cold(place: Place, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round by builder, in turn: empty store, wheels from the loopback front, base at hand."""
    base = official_like_base(PYTHON).push(place.registry, "bench/example-base:1")
    project = place.folder / "example-ml"
    shutil.copytree(PROJECT, project)
    empty = place.folder / "example-empty"
    empty.mkdir()
    for name in ("app.py", "requirements.txt"):
        (empty / name).write_text("")
    store = place.folder / "example-store"

    def wain(folder: Path) -> None:
        command = [Path(sys.executable).parent / "wain", "build", folder, "--base", base, "-q", "--cache-dir", store]
        run([*command, "-o", place.folder / "example.tar"], env=place.front.pip_env, timeout_seconds=600)

    def forget_wain() -> None:
        shutil.rmtree(store, ignore_errors=True)
        wain(empty)

    def forget_docker() -> None:
        place.docker.prune()
        place.docker.cli("pull", "--quiet", base)

    def docker(flags: str) -> Callable[[], None]:
        file = place.folder / "Dockerfile.example"
        arguments = ("--build-arg", f"PIP_INDEX_URL={place.front.url}", "--build-arg", "PIP_TRUSTED_HOST=127.0.0.1")

        def build() -> None:
            file.write_text(docker_file_of_pip(base, flags=flags))
            place.docker.build(project, "example:1", "--file", file, *arguments, timeout_seconds=1800)

        return build

    turns: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "wain": (forget_wain, lambda: wain(project)),
        "docker + pip --no-cache-dir": (forget_docker, docker("--no-cache-dir")),
        "docker + pip --no-cache-dir --no-compile": (forget_docker, docker("--no-cache-dir --no-compile")),
    }
    wain(project)  # fills the front
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (forget, build) in turns.items():
            forget()
            began = time.monotonic()
            build()
            taken[name].append(time.monotonic() - began)
    first, *others = taken
    print(f"examples/ml, cold: {first}: median {statistics.median(taken[first]):.2f} s of {rounds}")
    for name in others:
        pairs = [other / own for own, other in zip(taken[first], taken[name], strict=True)]
        print(f"  {name}: {statistics.median(taken[name]):.2f} s, {statistics.median(pairs):.1f} times as long")
    return taken
