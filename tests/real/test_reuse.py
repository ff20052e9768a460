"""Fresh machines push a large image of real wheels to a real registry, which has what they lack."""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import scratch
from tests.real.machines.index_front import IndexFront
from tests.real.machines.processes import Finished
from tests.real.machines.registry import Registry
from tests.real.machines.wain import Wain
from tests.real.machines.wire import counted

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("images")]

# What many projects for machine learning have, on the Python for which a wheel of torch without CUDA is at hand.
REQUIREMENTS = """\
accelerate
datasets
fastapi
flask
matplotlib
pandas=={pandas}
scikit-learn
sentencepiece
torch==2.13.0+cpu
transformers
uvicorn
waitress
"""
BEFORE, AFTER = "2.3.2", "2.3.3"
# Of a machine that has a way to the registry and to the index, and to nothing else.
SECLUDED = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """A project of 60 distributions or more, 1 GB or more in its image, and the machine that made its locks.

    `before` and `after` differ in the version of pandas; each has a project with a `plain` lock and one whose lock
    names the `layers`.
    """

    folder: Path
    first: Wain

    def project(self, state: str, lock: str) -> Path:
        return self.folder / state / lock / "large"

    def layers(self, state: str) -> list[dict[str, Any]]:
        lock = tomllib.loads((self.project(state, "layers") / "pylock.toml").read_text())
        return [layer for image in lock["tool"]["wain"]["layers"] for layer in image["layers"]]


@pytest.fixture(scope="module")
def large(wain: Wain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    with scratch(tmp_path_factory, "large") as folder:
        made = Large(folder=folder, first=Wain(store=folder / "first", env=wain.env))
        for state, version in (("before", BEFORE), ("after", AFTER)):
            plain, layers = made.project(state, "plain"), made.project(state, "layers")
            if state == "before":
                plain.mkdir(parents=True)
                (plain / "app.py").write_text("print('hello')\n")
            else:
                shutil.copytree(made.project("before", "plain"), plain)
            (plain / "requirements.txt").write_text(REQUIREMENTS.format(pandas=version))
            made.first("lock", plain, "--base", "debian:bookworm")
            shutil.copytree(plain, layers)
            made.first("lock", layers, "--base", "debian:bookworm", "--layers")
        yield made


def test_the_large_image_is_large(large: Large) -> None:
    layers = large.layers("before")
    names = {name for layer in layers for name in layer.get("names", [])}
    assert "torch" in names and len(names) >= 60
    assert sum(layer["unpacked"] for layer in layers) >= 1_000_000_000


@pytest.mark.parametrize("lock", ["layers", "plain"])
def test_a_fresh_machine_moves_only_what_is_new(
    large: Large, index_front: IndexFront, registry: Registry, tmp_path: Path, lock: str
) -> None:
    """It knows the layers by a lock that names them, or by the image that --cache-from names."""
    repository = f"large-{lock}"
    project = large.project("before", lock)
    digest = large.first("build", project, "-t", f"{registry.host}/{repository}:before", "--push").stdout

    def push_fresh(state: str, tag: str) -> tuple[Finished, int, float]:
        """By a machine with an empty store: how it ended, the bytes to and from the registry, and the seconds."""
        fresh = Wain(store=tmp_path / tag, env={**large.first.env, **SECLUDED})
        with counted(registry.port) as wire:
            name = f"{wire.host}/{repository}"
            known = ["--cache-from", f"{name}:before"] if lock == "plain" else []
            began = time.monotonic()
            done = fresh("build", large.project(state, lock), "-t", f"{name}:{tag}", "--push", *known)
            return done, wire.size_bytes, time.monotonic() - began

    # Half a second on an idle machine; the best of three, since this one may have other things to do.
    mark, times = index_front.mark(), []
    for tag in ("one", "two", "three"):
        done, moved_bytes, seconds = push_fresh("before", tag)
        assert done.stdout == digest
        assert moved_bytes < 200_000
        times.append(seconds)
    assert index_front.requests(mark) == []
    assert min(times) < 3

    mark, before = index_front.mark(), registry.blobs_of(repository)
    _, moved_bytes, _ = push_fresh("after", "bumped")
    [asked] = index_front.requests(mark)
    assert Path(asked.path).name.startswith(f"pandas-{AFTER}-")
    *small, layer = sorted(size for digest, size in registry.blobs_of(repository).items() if digest not in before)
    [bumped] = [layer for layer in large.layers("after") if layer.get("names") == ["pandas"]]
    assert layer == bumped["size"]
    assert sum(small) < 100_000, "beside the one layer only the project, the config and the manifest"
    assert layer < moved_bytes < layer + 200_000


def test_one_line_of_source_uploads_only_the_project(
    wain: Wain, index_front: IndexFront, registry: Registry, tmp_path: Path
) -> None:
    project = tmp_path / "small"
    shutil.copytree(Path(__file__).resolve().parents[2] / "examples/hello", project)
    wain("build", project, "-t", f"{registry.host}/small:1", "--push")
    before = registry.blobs()
    (project / "app.py").write_text((project / "app.py").read_text() + f"# {time.time()}\n")
    wain("build", project, "-t", f"{registry.host}/small:1", "--push")
    new = {digest: size for digest, size in registry.blobs().items() if digest not in before}
    assert sum(new.values()) < 60_000
