"""A fresh machine pushes a large image of real wheels to a real registry without having a single one."""

from __future__ import annotations

import shutil
import time
import tomllib
from pathlib import Path

import pytest

from tests.real.machines.index_front import IndexFront
from tests.real.machines.registry import Registry
from tests.real.machines.wain import Wain

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("images")]

# Wheels that are large and others that are small, on the Python that the built-in base has.
REQUIREMENTS = "boto3\nfastapi\nmatplotlib\npandas\npillow\nscikit-learn\nsqlalchemy\nsympy\nuvicorn\n"


def test_a_fresh_machine_asks_no_index(wain: Wain, index_front: IndexFront, registry: Registry, tmp_path: Path) -> None:
    project = tmp_path / "large"
    project.mkdir()
    (project / "requirements.txt").write_text(REQUIREMENTS)
    (project / "app.py").write_text("print('hello')\n")
    first, fresh = Wain(store=tmp_path / "first", env=wain.env), Wain(store=tmp_path / "fresh", env=wain.env)
    first("lock", project, "--layers")
    digest = first("build", project, "-t", f"{registry.host}/large:1", "--push").stdout
    index_mark, registry_mark = index_front.mark(), registry.mark()
    assert fresh("build", project, "-t", f"{registry.host}/large:2", "--push").stdout == digest
    assert index_front.requests(index_mark) == []
    asked = registry.requests(registry_mark)
    assert not [request for request in asked if request.method == "GET" and "/blobs/" in request.path]
    assert not [request for request in asked if request.method == "PATCH" and "/uploads/" in request.path][3:]
    blobs = fresh.store / "blobs-v1"
    assert sum(path.stat().st_size for path in blobs.rglob("*") if path.is_file()) < 200_000


def test_one_bump_from_an_earlier_image_is_one_wheel_and_one_layer(
    wain: Wain, index_front: IndexFront, registry: Registry, tmp_path: Path
) -> None:
    """The lock names no layers; the image before is all that the fresh machine has."""
    project = tmp_path / "bump"
    project.mkdir()
    (project / "app.py").write_text("print('hello')\n")
    first, fresh = Wain(store=tmp_path / "first", env=wain.env), Wain(store=tmp_path / "fresh", env=wain.env)
    name = f"{registry.host}/bump"
    newest = _locked_version(first, project, "pandas\nflask\n", "pandas")
    _locked_version(first, project, f"pandas<{newest}\nflask\n", "pandas")
    first("build", project, "-t", f"{name}:1", "--push")
    before = _blobs_of(registry, "bump")
    (project / "requirements.txt").write_text("pandas\nflask\n")
    fresh("lock", project, "--upgrade", "pandas")
    mark = index_front.mark()
    fresh("build", project, "-t", f"{name}:2", "--push", "--cache-from", f"{name}:1")
    assert [Path(request.path).name.split("-")[0] for request in index_front.requests(mark)] == ["pandas"]
    uploaded = sorted(size for digest, size in _blobs_of(registry, "bump").items() if digest not in before)
    assert uploaded[-1] > 5_000_000
    assert sum(uploaded[:-1]) < 60_000, "beside the one layer only config, manifest, and what is as small"


def _blobs_of(registry: Registry, repository: str) -> dict[str, int]:
    """Size by digest of every layer, config and manifest that a repository has."""
    root = registry.storage / "docker/registry/v2/repositories" / repository
    links = [*(root / "_layers").glob("*/*/link"), *(root / "_manifests/revisions").glob("*/*/link")]
    digests = {link.read_text().strip() for link in links}
    return {digest: registry.blob_path(digest).stat().st_size for digest in digests}


def _locked_version(wain: Wain, project: Path, requirements: str, name: str) -> str:
    """Locks a project for these requirements; the version of one of them."""
    (project / "requirements.txt").write_text(requirements)
    (project / "pylock.toml").unlink(missing_ok=True)
    wain("lock", project)
    lock = tomllib.loads((project / "pylock.toml").read_text())
    return next(str(package["version"]) for package in lock["packages"] if package["name"] == name)


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
