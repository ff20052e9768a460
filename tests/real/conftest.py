"""Fixtures over `tests.real.machines`: each is started at most once a worker, and ended with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.machines.places import remove_tree
from tests.real.machines.registry import Registry, serve_registry
from tests.real.machines.runtime import Bundle, Unpack, unpack_image


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An open docker-registry on loopback; tests use repositories of their own names in it."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture(scope="session")
def registry_with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry that asks for basic auth."""
    with serve_registry(
        tmp_path_factory.mktemp("registry-auth"), username="carter", password="h4y-b4les-0n-b0ard"
    ) as served:
        yield served


@pytest.fixture(scope="session")
def registry_with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry that speaks HTTPS with a private certificate."""
    with serve_registry(tmp_path_factory.mktemp("registry-tls"), tls=True) as served:
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
