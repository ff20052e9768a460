"""The builders that are compared: each makes an image of the same folder from the same index and base."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.real.machines.bases import Base, official_like_base
from tests.real.machines.docker import Docker, serve_docker
from tests.real.machines.index_front import IndexFront, serve_index_front
from tests.real.machines.machine import start_machine
from tests.real.machines.places import remove_tree
from tests.real.machines.processes import run
from tests.real.machines.registry import Registry, serve_registry
from tests.real.machines.trixie import trixie_root

PYTHON = "3.13"
BASE_NAME = "bench/base:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all builders work with: the same front of the index, the same base, one registry."""

    folder: Path
    front: IndexFront
    registry: Registry
    docker: Docker
    base: Base
    base_reference: str
    uv_reference: str


@contextmanager
def open_place() -> Iterator[Place]:
    """Start registry, index front and Docker, with the base at hand for each; all end with the block."""
    folder = Path(tempfile.mkdtemp(prefix="wain-bench-"))
    with ExitStack() as stack:
        stack.callback(remove_tree, folder)
        front = stack.enter_context(serve_index_front(folder / "front"))
        registry = stack.enter_context(serve_registry(folder / "registry"))
        machine = stack.enter_context(start_machine(folder / "trixie", debian_root=trixie_root()))
        docker = stack.enter_context(serve_docker(machine, folder / "docker"))
        base = official_like_base(PYTHON)
        reference = base.push(registry, BASE_NAME)
        place = Place(
            folder=folder,
            front=front,
            registry=registry,
            docker=docker,
            base=base,
            base_reference=reference,
            uv_reference=_push_uv(folder, registry, docker),
        )
        docker.cli("pull", "--quiet", reference)
        yield place


def _push_uv(folder: Path, registry: Registry, docker: Docker) -> str:
    """An image that holds the uv binary alone, as uv's guide has one to copy from."""
    from uv import find_uv_bin

    context = folder / "uv"
    context.mkdir()
    shutil.copy2(find_uv_bin(), context / "uv")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY uv /uv\n")
    name = f"{registry.host}/bench/uv:1"
    docker.build(context, name)
    docker.cli("push", "--quiet", name)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A way to make the image of a project's folder and to put it into the registry."""

    name: str
    has_bytecode: bool
    build: Callable[[Place, Path, str], None]
    """Builds the folder under a name of the registry, into the builder's own store."""
    publish: Callable[[Place, Path, str], None]
    """Builds and pushes."""
    forget: Callable[[Place], None]
    """Back to a machine that has the base and nothing else."""
    notes: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def wain_builder(*words: str, name: str = "wain", has_bytecode: bool = False) -> Builder:
    """wain with an own store; builds go to an archive, pushes straight to the registry."""
    label = name.replace(" ", "-")

    def call(place: Place, project: Path, *rest: str) -> None:
        run(
            [
                Path(sys.executable).parent / "wain", "build", project, "--base", place.base_reference, "-q",
                "--cache-dir", place.folder / f"store-{label}", *words, *rest,
            ],
            env=place.front.pip_env,
            timeout_seconds=900,
        )  # fmt: skip

    def build(place: Place, project: Path, tag: str) -> None:
        call(place, project, "-o", str(place.folder / f"{label}.tar"))

    def publish(place: Place, project: Path, tag: str) -> None:
        call(place, project, "-t", tag, "--push")

    def forget(place: Place) -> None:
        shutil.rmtree(place.folder / f"store-{label}", ignore_errors=True)
        (place.folder / f"{label}.tar").unlink(missing_ok=True)

    return Builder(name=name, has_bytecode=has_bytecode, build=build, publish=publish, forget=forget)


_PIP = """\
FROM {base}
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements.txt .
RUN {mount}pip install {flags}-r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""

_UV = """\
FROM {base}
COPY --from={uv} /uv /bin/uv
ARG UV_DEFAULT_INDEX
ENV UV_LINK_MODE=copy{env}
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --system -r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""


def docker_pip(name: str, *, flags: str = "", mount: bool = False, has_bytecode: bool = True) -> Builder:
    """`docker build` with pip, as a Dockerfile of that kind is written."""
    mounted = "--mount=type=cache,target=/root/.cache/pip " if mount else ""

    def text(place: Place) -> str:
        return _PIP.format(base=place.base_reference, mount=mounted, flags=f"{flags} " if flags else "")

    return _docker(name, text, has_bytecode=has_bytecode)


def docker_uv(name: str, *, has_bytecode: bool) -> Builder:
    """`docker build` with uv and a cache mount, as uv's guide advises."""
    env = " UV_COMPILE_BYTECODE=1" if has_bytecode else ""

    def text(place: Place) -> str:
        return _UV.format(base=place.base_reference, uv=place.uv_reference, env=env)

    return _docker(name, text, has_bytecode=has_bytecode)


def _docker(name: str, dockerfile: Callable[[Place], str], *, has_bytecode: bool) -> Builder:
    def build(place: Place, project: Path, tag: str) -> None:
        path = place.folder / "Dockerfile"
        path.write_text(dockerfile(place))
        arguments = {
            "PIP_INDEX_URL": place.front.url,
            "PIP_TRUSTED_HOST": "127.0.0.1",
            "UV_DEFAULT_INDEX": place.front.url,
        }
        options = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        place.docker.build(project, tag, "--file", str(path), *options, timeout_seconds=1800)

    def publish(place: Place, project: Path, tag: str) -> None:
        build(place, project, tag)
        place.docker.cli("push", "--quiet", tag, timeout_seconds=900)

    def forget(place: Place) -> None:
        place.docker.prune()
        for reference in (place.base_reference, place.uv_reference):
            place.docker.cli("pull", "--quiet", reference)

    return Builder(name=name, has_bytecode=has_bytecode, build=build, publish=publish, forget=forget)


WAIN = wain_builder()
PIP_NO_CACHE = docker_pip("docker + pip --no-cache-dir", flags="--no-cache-dir")
PIP_NO_COMPILE = docker_pip(
    "docker + pip --no-cache-dir --no-compile", flags="--no-cache-dir --no-compile", has_bytecode=False
)
PIP_PLAIN = docker_pip("docker + pip")
PIP_MOUNT = docker_pip("docker + pip, cache mount", mount=True)
UV_PLAIN = docker_uv("docker + uv, cache mount", has_bytecode=False)
UV_COMPILE = docker_uv("docker + uv, cache mount, bytecode", has_bytecode=True)

ALL = (WAIN, PIP_PLAIN, PIP_NO_CACHE, PIP_NO_COMPILE, PIP_MOUNT, UV_PLAIN, UV_COMPILE)
