"""One lock and one build for two platforms, as other people's programs see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from referencing.jsonschema import DRAFT4

from tests.real.machines import places
from tests.real.machines.docker import Docker
from tests.real.machines.processes import run
from tests.real.machines.registry import Registry
from tests.real.machines.runtime import blob_path, fetch_page, unpack_image
from tests.real.machines.wain import Wain

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("images")]

HELLO = Path(__file__).resolve().parents[2] / "examples" / "hello"
PAGE = r"Hello from Python 3\.\d+\.\d+, straight from wheels\.\n"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PLATFORMS = "linux/amd64,linux/arm64"
OWN = {machine: architecture for architecture, machine in MACHINES.items()}[os.uname().machine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """The project with its lock, and its image for two platforms: a layout, and the same pushed."""

    project: Path
    layout: Path
    reference: str
    digest: str

    @property
    def index(self) -> dict[str, Any]:
        return self.document(self.digest)

    def document(self, digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(blob_path(self.layout, digest).read_text())
        return found

    def manifest(self, architecture: str) -> dict[str, Any]:
        [entry] = [one for one in self.index["manifests"] if one["platform"]["architecture"] == architecture]
        return self.document(entry["digest"])


@pytest.fixture(scope="module")
def both(wain: Wain, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    project, layout = folder / "hello", folder / "layout"
    shutil.copytree(HELLO, project)
    reference = f"{registry.host}/platforms/hello:1"
    wain("lock", project, "--platform", PLATFORMS)
    destinations = ("--output", f"oci:{layout}:both", "--tag", reference, "--push")
    told = wain("build", project, "--platform", PLATFORMS, "--locked", *destinations)
    yield Both(project=project, layout=layout, reference=reference, digest=told.stdout.strip())
    places.remove_tree(folder)


def test_one_lock_has_the_wheels_of_both_platforms(both: Both) -> None:
    lock = tomllib.loads((both.project / "pylock.toml").read_text())
    wheels = {
        package["name"]: [one["url"].rpartition("/")[2] for one in package["wheels"]] for package in lock["packages"]
    }
    for machine in MACHINES.values():
        assert [name for name in wheels["markupsafe"] if machine in name and "manylinux" in name]
    assert all(name.endswith("-none-any.whl") for name in wheels["flask"])


def test_the_page_of_each_platform_answers(both: Both, tmp_path: Path) -> None:
    """The machine's own platform as it is, the other in an emulator."""
    for architecture, machine in MACHINES.items():
        emulator = None if architecture == OWN else places.require_tool(f"qemu-{machine}-static")
        bundle = unpack_image(both.layout, tmp_path / architecture, tag="both", architecture=architecture)
        compiled = [path.name for path in (bundle.rootfs / "opt/venv").rglob("*.so")]
        assert [name for name in compiled if name.startswith("_speedups")], "markupsafe's extension is not there"
        assert all(machine in name for name in compiled), compiled
        port = places.free_port()
        command = ["/opt/venv/bin/python", "/app/app.py"] if emulator else None
        with bundle.serve(command, env={"PORT": str(port)}, emulator=emulator) as server:
            status, body = fetch_page(port, timeout_seconds=90, server=server)
        assert status == 200
        assert re.fullmatch(PAGE, body), body
        places.remove_tree(tmp_path / architecture)


def test_docker_pulls_the_index_and_runs_its_own_side(both: Both, old_docker: Docker) -> None:
    old_docker.cli("pull", both.reference)
    told = old_docker.inspect(both.reference)
    assert told["Architecture"] == OWN
    assert told["RepoDigests"] == [f"{both.reference.rpartition(':')[0]}@{both.digest}"]
    port = places.free_port()
    with old_docker.serve(both.reference, options=["--env", f"PORT={port}"]):
        status, body = fetch_page(port, timeout_seconds=60)
    assert status == 200
    assert re.fullmatch(PAGE, body), body


def test_skopeo_shows_the_index_as_it_was_written(both: Both, tmp_path: Path) -> None:
    for name in (f"docker://{both.reference}", f"oci:{both.layout}:both"):
        raw = run([places.require_tool("skopeo"), "inspect", "--raw", "--tls-verify=false", name]).stdout
        assert raw == blob_path(both.layout, both.digest).read_text()
    entries = both.index["manifests"]
    assert [one["platform"]["architecture"] for one in entries] == ["amd64", "arm64"]
    for architecture in MACHINES:
        chosen = [places.require_tool("skopeo"), "--override-arch", architecture]
        told = json.loads(run([*chosen, "inspect", "--tls-verify=false", f"docker://{both.reference}"]).stdout)
        assert (told["Os"], told["Architecture"]) == ("linux", architecture)
        layers = [one["digest"] for one in both.manifest(architecture)["layers"]]
        assert told["Layers"] == layers
    copied = tmp_path / "copied"
    run(
        [places.require_tool("skopeo"), "copy", "--quiet", "--all", "--insecure-policy", "--src-tls-verify=false",
         f"docker://{both.reference}", f"oci:{copied}:both"]
    )  # fmt: skip
    [entry] = json.loads((copied / "index.json").read_text())["manifests"]
    assert entry["digest"] == both.digest


def test_what_depends_on_no_platform_is_in_both(both: Both) -> None:
    layers = [{one["digest"] for one in both.manifest(architecture)["layers"]} for architecture in MACHINES]
    assert layers[0] & layers[1], "no layer is shared"
    project = [both.manifest(architecture)["layers"][-1]["digest"] for architecture in MACHINES]
    assert project[0] == project[1]


# The specification's own schemas.


@pytest.fixture(scope="module")
def schemas() -> Path:
    """The folder of the image specification's schemas, of Debian's package of it."""
    package = "golang-github-opencontainers-image-spec-dev"

    def make(folder: Path) -> None:
        fetch = [places.require_tool("apt-get"), "-o", "APT::Sandbox::User=root", "download", package]
        if run(fetch, cwd=folder, check=False).code != 0:
            run([places.require_tool("apt-get"), "-qq", "update"], timeout_seconds=300)
            run(fetch, cwd=folder)
        [deb] = folder.glob("*.deb")
        run([places.require_tool("dpkg-deb"), "--extract", deb, folder])
        deb.unlink()

    [found] = places.kept("oci-schemas-1", make).rglob("config-schema.json")
    return found.parent


def validator(schemas: Path, name: str) -> jsonschema.Draft4Validator:
    def retrieve(uri: str) -> referencing.Resource[Any]:
        # Relative references of the schemas count from identifiers that name no file.
        contents = json.loads((schemas / uri.rpartition("/")[2]).read_text())
        return referencing.Resource(contents=contents, specification=DRAFT4)

    registry: referencing.Registry[Any] = referencing.Registry(retrieve=retrieve)
    return jsonschema.Draft4Validator(json.loads((schemas / name).read_text()), registry=registry)


def test_the_specification_s_schemas_accept_every_document(both: Both, schemas: Path) -> None:
    index = validator(schemas, "image-index-schema.json")
    index.validate(both.index)
    index.validate(json.loads((both.layout / "index.json").read_text()))
    validator(schemas, "image-layout-schema.json").validate(json.loads((both.layout / "oci-layout").read_text()))
    for entry in both.index["manifests"]:
        manifest = both.document(entry["digest"])
        validator(schemas, "image-manifest-schema.json").validate(manifest)
        config = both.document(manifest["config"]["digest"])
        validator(schemas, "config-schema.json").validate(config)
        assert (entry["mediaType"], entry["size"]) == (
            manifest["mediaType"],
            blob_path(both.layout, entry["digest"]).stat().st_size,
        )
        assert entry["platform"]["architecture"] == config["architecture"]


def test_the_schemas_refuse_what_is_wrong(both: Both, schemas: Path) -> None:
    """So that accepting says something: references between the schemas are followed."""
    for name, document, path in (
        ("image-index-schema.json", both.index, ("manifests", 0, "digest")),
        ("image-manifest-schema.json", both.manifest("amd64"), ("config", "digest")),
        ("config-schema.json", both.document(both.manifest("amd64")["config"]["digest"]), ("rootfs", "diff_ids", 0)),
    ):
        broken: Any = json.loads(json.dumps(document))
        inner = broken
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = 7
        with pytest.raises(jsonschema.ValidationError):
            validator(schemas, name).validate(broken)
