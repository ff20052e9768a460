"""Fixtures over `tests.real.machines`: each is started at most once a worker, and ended with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.machines.bases import Base, debian_base, official_like_base
from tests.real.machines.docker import Docker, serve_docker
from tests.real.machines.engines import Engines, engine_programs
from tests.real.machines.index_front import IndexFront, serve_index_front
from tests.real.machines.machine import Machine, start_machine
from tests.real.machines.places import remove_tree
from tests.real.machines.registry import Registry, serve_registry
from tests.real.machines.runtime import Bundle, Unpack, unpack_image
from tests.real.machines.trixie import (
    Containerd,
    Podman,
    podman_storage,
    serve_containerd,
    trixie_root,
)
from tests.real.machines.wain import Wain


@contextlib.contextmanager
def scratch(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that is removed at the end: what daemons and stores keep is too much for pytest's last three runs."""
    folder = factory.mktemp(name)
    try:
        yield folder
    finally:
        remove_tree(folder)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An open docker-registry on loopback; tests use repositories of their own names in it."""
    with scratch(tmp_path_factory, "registry") as folder, serve_registry(folder) as served:
        yield served


@pytest.fixture(scope="session")
def registry_with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry that asks for basic auth."""
    with (
        scratch(tmp_path_factory, "registry-auth") as folder,
        serve_registry(folder, username="carter", password="h4y-b4les-0n-b0ard") as served,
    ):
        yield served


@pytest.fixture(scope="session")
def registry_with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry that speaks HTTPS with a private certificate."""
    with scratch(tmp_path_factory, "registry-tls") as folder, serve_registry(folder, tls=True) as served:
        yield served


@pytest.fixture
def unpack(tmp_path: Path) -> Iterator[Unpack]:
    """`unpack(image, tag=None, architecture=None)`: a `Bundle` of that layout or archive, removed after the test."""
    made: list[Path] = []

    def unpack_one(image: Path, *, tag: str | None = None, architecture: str | None = None) -> Bundle:
        folder = tmp_path / f"unpacked-{len(made)}"
        made.append(folder)
        return unpack_image(image, folder, tag=tag, architecture=architecture)

    yield unpack_one
    for folder in made:
        remove_tree(folder)


@pytest.fixture(scope="session")
def index_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexFront]:
    """The machine's package index, served from loopback and kept on disk."""
    with serve_index_front(tmp_path_factory.mktemp("index-front")) as front:
        yield front


@pytest.fixture(scope="session")
def host_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Namespaces on the host's own programs (on bookworm docker 20.10 and containerd 1.6)."""
    with start_machine(tmp_path_factory.mktemp("host")) as machine:
        yield machine


@pytest.fixture(scope="session")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Namespaces on a Debian trixie with docker 26.1 and buildx, containerd 1.7, podman 5.4, skopeo 1.18."""
    with start_machine(tmp_path_factory.mktemp("trixie"), debian_root=trixie_root()) as machine:
        yield machine


@pytest.fixture(scope="session")
def old_docker(host_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The host's docker (20.10 on bookworm) with the classic store."""
    with serve_docker(host_machine, tmp_path_factory.mktemp("docker-old")) as docker:
        yield docker


@pytest.fixture(scope="session")
def docker(trixie: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """docker 26.1 with the classic store."""
    with serve_docker(trixie, tmp_path_factory.mktemp("docker")) as served:
        yield served


@pytest.fixture(scope="session")
def engines(trixie: Machine, docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """docker 26.1, buildah 1.39 and podman 5.4 as programs for PATH."""
    with scratch(tmp_path_factory, "engines") as folder:
        yield engine_programs(trixie, docker, folder)
        trixie.unmount_below(folder)


@pytest.fixture(scope="session")
def docker_containerd(trixie: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """docker 26.1 with containerd's store."""
    with serve_docker(trixie, tmp_path_factory.mktemp("docker-c"), containerd_store=True) as served:
        yield served


@pytest.fixture(scope="session")
def containerd(trixie: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd 1.7 with `ctr`."""
    with serve_containerd(trixie, tmp_path_factory.mktemp("containerd")) as served:
        yield served


@pytest.fixture(scope="session")
def podman(trixie: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman 5.4 with storage of its own."""
    with podman_storage(trixie, tmp_path_factory.mktemp("podman")) as served:
        yield served


@pytest.fixture(scope="session")
def base_debian() -> Base:
    """Debian trixie's own python3 (3.13), with pip."""
    return debian_base("trixie")


@pytest.fixture(scope="session")
def base_debian_bookworm() -> Base:
    """Debian bookworm's own python3 (3.11), with pip."""
    return debian_base("bookworm")


@pytest.fixture(scope="session")
def base_official() -> Base:
    """Like `python:3.13-slim-trixie`: CPython and pip under /usr/local."""
    return official_like_base("3.13")


@pytest.fixture(scope="session")
def python_base(
    base_official: Base,
    docker: Docker,
    registry: Registry,
    index_front: IndexFront,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A base like the official image, with pip and uv set to the front of the index; its name in the registry."""
    plain = base_official.push(registry, "library/python:3.13")
    folder = tmp_path_factory.mktemp("base")
    (folder / "Dockerfile").write_text(
        f"FROM {plain}\nENV PIP_INDEX_URL={index_front.url} PIP_TRUSTED_HOST=127.0.0.1 PIP_ROOT_USER_ACTION=ignore"
        f" UV_DEFAULT_INDEX={index_front.url}\n"
    )
    name = f"{registry.host}/bases/python:1"
    docker.build(folder, name)
    docker.cli("push", "--quiet", name)
    return name


@pytest.fixture(scope="session")
def wain(index_front: IndexFront, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wain]:
    """The `wain` command with an empty store, on the front of the package index."""
    with scratch(tmp_path_factory, "store") as folder:
        yield Wain(store=folder, env=index_front.pip_env)
