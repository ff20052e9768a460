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
def warm_base(python_base: str, docker: Docker, registry: Registry, tmp_path_factory: Any) -> str:
    """The base with the bytecode of its pip, without which each pip of an image takes seconds to start."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "Dockerfile").write_text(f"FROM {python_base}\nRUN pip install --dry-run --no-cache-dir six\n")
    name = f"{registry.host}/bases/warm:1"
    docker.build(folder, name)
    docker.cli("push", "--quiet", name)
    return name


@pytest.fixture(scope="module")
def packages_base(warm_base: str, docker: Docker, registry: Registry, tmp_path_factory: Any) -> str:
    """The base with the packages of the tests at hand, but not installed."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "Dockerfile").write_text(
        f"FROM {warm_base}\nRUN apt-get update -q"
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
        flags = [f"--engine-arg={limit}" for limit in LIMITS] if engine == "buildah" else []
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

    # Of its own, so that what other tests fetched does not count.
    cache = ("--cache-dir", tmp_path / "cache")
    since = index_front.mark()
    told = build(folder, *cache, "-t", f"{registry.host}/engines/app:wain", "--push").stderr
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

    # One requirement more is one download more, whichever engine it is.
    (folder / "requirements.txt").write_text("click\nnetifaces\nsix\n")
    since = index_front.mark()
    told = build(folder, *cache, "-t", f"{registry.host}/engines/app:buildah", "--push", engine="buildah").stderr
    assert "gets 6 files from the store" in told
    assert [name.partition("-")[0] for name in downloaded(index_front, since)] == ["six"]
    files, config = without_times(images.read("engines/app:buildah"))
    files = {name: entry for name, entry in files.items() if "site-packages/six" not in name}
    # buildah leaves the folders that it mounts on in a layer, and writes its version into a label.
    assert not [line for line in differences((files, theirs[1]), theirs) if not line.startswith("/run")]
    assert config["config"]["Cmd"] == ["python", "app.py"]
    assert "wain" not in str(config["history"]) + str(config["config"])


# A pipe makes each of them one for an engine.
MANY = """\
FROM python:9 AS wheels
ARG NAME
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip wheel --wheel-dir /wheels $NAME==3.10 | cat

FROM python:9
WORKDIR /src
COPY . .
RUN useradd -m app
RUN --mount=type=bind,from=wheels,source=/wheels,target=/w pip install --no-index --find-links=/w idna | cat
RUN ["pip", "install", "--target", "/opt/json", "six"]
RUN <<END
set -e
if [ -f small.txt ]; then
    pip install --no-cache-dir --target /opt/heredoc -r small.txt
fi
END
RUN for name in six click; do pip install --target /opt/$name $name; done && sh -c "pip install --target /opt/q 'six'"
RUN --mount=type=cache,target=/root/.cache/pip pip install -q --target /opt/cached \\
    # a comment in between
    six | cat
RUN pip install --target /opt/project . | cat
RUN pip install uv && uv venv /opt/uv && VIRTUAL_ENV=/opt/uv uv pip install click && rm -rf /root/.cache | cat
RUN sed s/x/markupsafe/ small.in > made.txt; pip install --target /opt/made -r made.txt
RUN --mount=type=secret,id=conf,target=/etc/pip.conf,required=true grep -q global /etc/pip.conf && pip install idna
USER app
RUN pip install --user -r small.txt && pip cache purge | cat
CMD ["python"]
"""


def test_every_form_comes_out_as_docker_builds_it(
    warm_base: str,
    build: Callable[..., Any],
    docker: Docker,
    registry: Registry,
    index_front: IndexFront,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "many"
    (folder / "own").mkdir(parents=True)
    (folder / "own/__init__.py").write_text("x = 1\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
        '[project]\nname = "own"\nversion = "1"\ndescription = "own"\ndependencies = ["itsdangerous"]\n'
    )
    (folder / "small.txt").write_text("six\n")
    (folder / "small.in").write_text("x\n")
    (folder / "left-out.pem").write_text("secret\n")
    (folder / ".dockerignore").write_text("*.pem\nDockerfile")
    (folder / "Dockerfile").write_text(MANY)
    secret = tmp_path / "pip.conf"
    secret.write_text("[global]\ntimeout = 99\n")
    given = ["--build-arg", "NAME=idna", "--label", "from=flag", "--secret", f"id=conf,src={secret}"]
    plain = f"{registry.host}/engines/many:docker"
    # A mirror stands in for the registry that the file names; docker has no such thing, but a tag of its own.
    mirror = f"{registry.host}/mirrored"
    for name in ("python:9", f"{mirror}/python:9"):
        docker.cli("tag", warm_base, name)
    docker.cli("push", "--quiet", f"{mirror}/python:9")
    docker.build(folder, plain, *given)
    docker.cli("rmi", "python:9")
    docker.cli("push", "--quiet", plain)
    images = Images(registry)
    theirs = images.read("engines/many:docker")
    ours = f"{registry.host}/engines/many:wain"
    mirrored = ["--base-mirror", f"docker.io/library={mirror}"]
    since = index_front.mark()
    told = build(folder, *given, *mirrored, "-o", "dist/many.tar", "-t", ours, "--push", engine="docker").stderr
    assert re.findall(r"Dockerfile:(\d+): .* asks the index itself", told) == ["24"]
    asked = [one for one in downloaded(index_front, since) if not one.startswith("markupsafe")]
    assert len(asked) == len(set(asked))
    found = images.read("engines/many:wain")
    # uv notes beside what it installs from a file when that file was made.
    notes = {name for name in found[0] if name.endswith(".dist-info/uv_cache.json")}
    assert not list(differences(({name: found[0][name] for name in {*found[0]} - notes}, found[1]), theirs))
    # The build's own output stays out of the next one: nothing has changed for the engine.
    again = build(folder, *given, *mirrored, "-o", "dist/many.tar", engine="docker").stderr
    assert re.search(r"(?m)^#(\d+) .*RUN useradd -m app\n#\1 CACHED", again), again


def test_more_than_was_foreseen_is_asked_of_the_index(
    warm_base: str, build: Callable[..., Any], registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "r.txt").write_text("six\n")
    (folder / "Dockerfile").write_text(
        f"FROM {warm_base}\nCOPY r.txt /\nRUN sed -i s/six/click/ /r.txt\nRUN pip install -r /r.txt\n"
    )
    told = build(folder, "-t", f"{registry.host}/engines/more:1", "--push", engine="docker").stderr
    assert "once more, and it asks the index" in told
    files, config = Images(registry).read("engines/more:1")
    assert "usr/local/lib/python3.13/site-packages/click/__init__.py" in files
    assert config["history"][-1]["created_by"] == "RUN /bin/sh -c pip install -r /r.txt # buildkit"


def test_a_step_that_fails_is_told_with_its_line(warm_base: str, build: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {warm_base}\nRUN pip install six && nonsense --now\n")
    for engine in ("docker", "podman"):
        more = [f"--engine-arg={limit}" for limit in LIMITS] + ["--insecure"] if engine == "podman" else []
        failed = build(tmp_path, *more, engine=engine, check=False)
        assert failed.code == 21
        assert "nonsense: not found" in failed.stderr
        last = failed.stderr.partition("\nwain: ")[2]
        assert "/dev/wain" not in last
        assert "nonsense --now" in last
