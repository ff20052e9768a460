"""Dockerfiles with steps that must be run: wain hands them to an engine, and the result is what that one alone makes.

Besides what `test_dockerfiles` leaves out, what apt and dpkg write of the time is not compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.real.machines.engines import LIMITS, Engines
from tests.real.machines.index_front import IndexFront
from tests.real.machines.registry import Registry
from tests.real.machines.wain import Wain
from tests.real.test_dockerfiles import Files, Images, differences

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("docker")]

_OF_APT = re.compile(r"var/(log|cache/(apt|ldconfig|debconf))/|var/lib/dpkg/.*-old$|root/\.cache$")

APP = """\
FROM {base}
WORKDIR /app
COPY requirements.txt .
RUN apt-get install -y --no-install-recommends libpq5 gcc libc6-dev && pip install -r requirements.txt \\
    && apt-get purge -y --auto-remove gcc libc6-dev && touch /made
COPY . .
RUN rm /made requirements.txt
CMD ["python", "app.py"]
"""


@pytest.fixture(scope="module")
def packages_base(
    base_official: Base, docker: Docker, registry: Registry, index_front: IndexFront, tmp_path_factory: Any
) -> str:
    """A Python base that has the packages of the tests at hand, but not installed."""
    plain = base_official.push(registry, "library/python:3.13")
    folder = tmp_path_factory.mktemp("base")
    (folder / "Dockerfile").write_text(
        f"FROM {plain}\nENV PIP_INDEX_URL={index_front.url} PIP_TRUSTED_HOST=127.0.0.1 PIP_ROOT_USER_ACTION=ignore\n"
        "RUN apt-get update -q"
        " && apt-get install -qy --download-only --no-install-recommends libpq5 gcc libc6-dev >/dev/null\n"
    )
    name = f"{registry.host}/bases/packages:1"
    docker.build(folder, name)
    docker.cli("push", "--quiet", name)
    return name


@pytest.fixture(scope="module")
def build(wain: Wain, engines: Engines) -> Callable[..., Any]:
    """`wain build -f Dockerfile .` in a folder, with the machine's engines on PATH."""

    def run(folder: Path, *words: str | Path, engine: str = "auto", **options: Any) -> Any:
        flags = [*(f"--engine-arg={limit}" for limit in LIMITS), "--insecure"] if engine == "buildah" else []
        path = f"{engines.folder}:{os.environ['PATH']}"
        given = ["-f", "Dockerfile", "--engine", engine, "--network=host", *flags]
        return wain("build", *given, *words, ".", cwd=folder, env={"PATH": path}, **options)

    return run


def without_times(read: tuple[Files, dict[str, Any]]) -> tuple[Files, dict[str, Any]]:
    files, config = read
    return {name: entry for name, entry in files.items() if not _OF_APT.match(name)}, config


def downloaded(front: IndexFront, since: int) -> list[str]:
    """The files that were fetched whole; uv reads the ends of some to see what they need."""
    found = [one.path for one in front.requests(since) if one.is_file and one.method == "GET" and one.status == 200]
    return sorted(path.rpartition("/")[2] for path in found)


def test_packages_and_compiled_sdists_come_out_as_docker_builds_them(
    packages_base: str,
    build: Callable[..., Any],
    docker: Docker,
    registry: Registry,
    index_front: IndexFront,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "Dockerfile").write_text(APP.format(base=packages_base))
    (folder / "requirements.txt").write_text("click\nnetifaces\n")
    (folder / "app.py").write_text("import click, netifaces; print(click.__name__, bool(netifaces.interfaces()))\n")
    plain = f"{registry.host}/engines/app:docker"
    docker.build(folder, plain)
    docker.cli("push", "--quiet", plain)
    images = Images(registry)
    theirs = without_times(images.read("engines/app:docker"))

    since = index_front.mark()
    told = build(folder, "-t", f"{registry.host}/engines/app:wain", "--push").stderr
    assert "Dockerfile:4: apt-get has to be run" in told
    assert "gets 5 files from the store" in told
    first = downloaded(index_front, since)
    # Each once, by wain: pip in the container finds them mounted.
    assert len(first) == len(set(first))
    assert {name.partition("-")[0] for name in first} == {"click", "netifaces", "setuptools", "wheel", "packaging"}
    ours = images.read("engines/app:wain")
    assert not list(differences(without_times(ours), theirs))
    assert not [name for name in ours[0] if name.startswith(("root/.cache", "dev/wain"))]
    assert "wain" not in str(ours[1]["history"]) + str(ours[1]["config"])
    docker.cli("pull", "--quiet", f"{registry.host}/engines/app:wain")
    assert docker.run(f"{registry.host}/engines/app:wain").stdout == "click True\n"

    (folder / "requirements.txt").write_text("click\nnetifaces\nsix\n")
    since = index_front.mark()
    build(folder, "-t", f"{registry.host}/engines/app:more", "--push", engine="docker")
    assert [name.partition("-")[0] for name in downloaded(index_front, since)] == ["six"]

    (folder / "requirements.txt").write_text("click\nnetifaces\n")
    since = index_front.mark()
    told = build(folder, "-t", f"{registry.host}/engines/app:buildah", "--push", engine="buildah").stderr
    assert "gets 5 files from the store" in told
    assert not downloaded(index_front, since)
    files, config = without_times(images.read("engines/app:buildah"))
    # buildah leaves the folders that it mounts on in a layer, and writes its version into a label.
    assert not [line for line in differences((files, theirs[1]), theirs) if not line.startswith("/run")]
    assert config["config"]["Cmd"] == ["python", "app.py"]
    assert "wain" not in str(config["history"]) + str(config["config"])
