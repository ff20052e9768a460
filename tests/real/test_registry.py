"""Images go to and come from other people's programs: docker-registry, skopeo, docker, podman, containerd."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.real.machines import places
from tests.real.machines.docker import Docker
from tests.real.machines.processes import run
from tests.real.machines.registry import Registry
from tests.real.machines.trixie import Containerd, Podman
from wain import archive, daemon, layout
from wain.credentials import Keychain
from wain.digest import Digest
from wain.distribution import Access
from wain.engine import Engine, find_endpoint
from wain.errors import AuthError, TransferError
from wain.image import Image, Index, check_image
from wain.names import ArchiveReference, DaemonReference, LayoutReference, parse_registry_reference
from wain.platforms import Platform
from wain.registry import present, read, write
from wain.testing import random_image, random_index, random_layer

pytestmark = pytest.mark.real


def same(found: Image | Index, image: Image) -> None:
    """The same image, with the same bytes in each layer."""
    assert isinstance(found, Image)
    check_image(found)
    assert found.digest == image.digest
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        with mine.open() as one, theirs.open() as other:
            assert one.read() == other.read()


def skopeo(*words: str | Path) -> str:
    return run([places.require_tool("skopeo"), *words]).stdout


def test_docker_registry_takes_and_gives_every_byte(registry: Registry) -> None:
    image = random_image(1, layers=5, layer_bytes=200_000)
    reference = parse_registry_reference(f"{registry.host}/registry/app:1")
    outcome: dict[Digest, str] = {}
    assert write(image, reference, outcome=outcome) == image.digest
    assert set(outcome.values()) == {"uploaded"}
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    assert Digest.of(raw.encode()) == image.digest
    same(read(reference), image)


@pytest.mark.parametrize("chunk_bytes", [10_000, 65_536, 10_000_000])
def test_docker_registry_takes_chunks(registry: Registry, chunk_bytes: int) -> None:
    image = random_image(chunk_bytes, layers=2, layer_bytes=150_000)
    reference = parse_registry_reference(f"{registry.host}/registry/chunks:{chunk_bytes}")
    write(image, reference, chunk_bytes=chunk_bytes)
    same(read(reference), image)


def test_only_what_is_new_is_sent(registry: Registry) -> None:
    image = random_image(2, layers=4, layer_bytes=100_000)
    first = parse_registry_reference(f"{registry.host}/registry/first:1")
    write(image, first)
    found = read(first)
    assert isinstance(found, Image)
    new = random_layer(77, 50_000)
    bumped = found.append(new)
    before = set(registry.blobs())
    mark = registry.mark()
    outcome: dict[Digest, str] = {}
    second = parse_registry_reference(f"{registry.host}/registry/second:1")
    write(bumped, second, outcome=outcome)
    assert [outcome[layer.digest] for layer in bumped.layers] == ["mounted"] * 4 + ["uploaded"]
    assert not [item for item in registry.requests(mark) if item.method == "GET" and "/blobs/" in item.path]
    assert set(registry.blobs()) - before == {new.digest, bumped.manifest.config.digest, bumped.digest}
    mark = registry.mark()
    write(bumped, second)
    assert {item.method for item in registry.requests(mark)} <= {"GET", "HEAD"}
    assert len(registry.requests(mark)) <= 3
    assert present(second, [new.digest, Digest.of(b"none")]) == {new.digest}


def test_an_index_is_whole_for_skopeo(registry: Registry, tmp_path: Path) -> None:
    index = random_index(3)
    reference = parse_registry_reference(f"{registry.host}/registry/index:1")
    assert write(index, reference) == index.digest
    skopeo(
        "copy", "--all", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{tmp_path}/o:1"
    )
    found = layout.read(LayoutReference(path=tmp_path / "o", tag="1"))
    assert isinstance(found, Index)
    assert found.digest == index.digest
    same(read(reference, platform=Platform("linux", "arm64")), index.images[1])


def test_schema_2_is_taken_and_read(registry: Registry) -> None:
    image = random_image(4)
    reference = parse_registry_reference(f"{registry.host}/registry/schema2:1")
    write(image, reference, schema2=True)
    inspected = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}"))
    assert inspected["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    found = read(reference)
    assert isinstance(found, Image)
    check_image(found.append(random_layer(5)))


def test_a_login_is_taken_from_dockers_file(
    registry_with_password: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = random_image(6)
    reference = parse_registry_reference(f"{registry_with_password.host}/registry/app:1")
    empty = Access(keychain=Keychain.empty())
    with pytest.raises(AuthError, match="wants a login"):
        write(image, reference, access=empty)
    registry_with_password.docker_config(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write(image, reference, access=Access())
    same(read(reference, access=Access()), image)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    username, password = registry_with_password.username or "", registry_with_password.password or ""
    words = ("--tls-verify=false", "--authfile", tmp_path / "auth.json", "--username", username, "--password", password)
    skopeo("login", *words, registry_with_password.host)
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    same(read(reference, access=Access()), image)


def test_a_private_authority_is_found_in_certs_d(
    registry_with_tls: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = random_image(7)
    reference = parse_registry_reference(f"{registry_with_tls.host}/registry/app:1")
    with pytest.raises(TransferError, match="certificate is not trusted"):
        write(image, reference)
    folder = tmp_path / "containers" / "certs.d" / registry_with_tls.host
    folder.mkdir(parents=True)
    assert registry_with_tls.ca_file is not None
    shutil.copy(registry_with_tls.ca_file, folder / "ca.crt")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write(image, reference, access=Access())
    same(read(reference, access=Access()), image)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    same(read(reference, access=Access(insecure=True)), image)


def test_layouts_and_archives_of_skopeo_are_read(tmp_path: Path) -> None:
    image = random_image(8)
    layout.write(image, LayoutReference(path=tmp_path / "mine", tag="1"))
    skopeo("copy", "--insecure-policy", f"oci:{tmp_path}/mine:1", f"oci:{tmp_path}/theirs:2")
    same(layout.read(LayoutReference(path=tmp_path / "theirs", tag="2")), image)
    skopeo("copy", "--insecure-policy", f"oci:{tmp_path}/mine:1", f"oci-archive:{tmp_path}/oci.tar:app")
    same(archive.read(ArchiveReference(path=tmp_path / "oci.tar")), image)
    skopeo("copy", "--insecure-policy", f"oci:{tmp_path}/mine:1", f"docker-archive:{tmp_path}/docker.tar:app:1")
    found = archive.read(ArchiveReference(path=tmp_path / "docker.tar"))
    assert isinstance(found, Image)
    check_image(found)
    assert found.config.diff_ids == image.config.diff_ids
    archive.write(image, ArchiveReference(path=tmp_path / "mine.tar"), names=("app:1",))
    for source in (f"docker-archive:{tmp_path}/mine.tar", f"oci-archive:{tmp_path}/mine.tar"):
        assert json.loads(skopeo("inspect", source))["Layers"]


def test_umoci_unpacks_a_layout(tmp_path: Path) -> None:
    image = random_image(9, layers=2)
    layout.write(image, LayoutReference(path=tmp_path / "mine", tag="1"))
    run([places.require_tool("umoci"), "unpack", "--rootless", "--image", f"{tmp_path}/mine:1", tmp_path / "bundle"])
    assert sorted(os.listdir(tmp_path / "bundle" / "rootfs" / "data")) == ["9000", "9001"]


NAMES = ("registry.example/team/app:1", "hello:2")


def make_archive(folder: Path, seed: int) -> tuple[Image, Path]:
    image = random_image(seed, layers=3, layer_bytes=100_000)
    archive.write(image, ArchiveReference(path=folder / "image.tar"), names=NAMES)
    return image, folder / "image.tar"


@pytest.mark.parametrize("which", ["old_docker", "docker", "docker_containerd"])
def test_docker_loads_the_archive_under_its_names(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine: Docker = request.getfixturevalue(which)
    image, path = make_archive(tmp_path, 10)
    engine.load(path)
    assert {"registry.example/team/app:1", "hello:2"} <= engine.images()
    config = engine.inspect("hello:2")
    assert isinstance(config["RootFS"], dict)
    assert config["RootFS"]["Layers"] == list(image.config.diff_ids)


def test_podman_loads_the_archive_under_its_names(podman: Podman, tmp_path: Path) -> None:
    _, path = make_archive(tmp_path, 11)
    podman.load(path)
    assert {"registry.example/team/app:1", "docker.io/library/hello:2"} <= podman.images()


def test_ctr_imports_the_archive_under_its_names(containerd: Containerd, tmp_path: Path) -> None:
    _, path = make_archive(tmp_path, 12)
    containerd.load(path)
    assert {"registry.example/team/app:1", "docker.io/library/hello:2"} <= containerd.images()


@pytest.mark.parametrize("which", ["old_docker", "docker", "docker_containerd"])
def test_daemons_are_loaded_and_read(which: str, request: pytest.FixtureRequest) -> None:
    docker: Docker = request.getfixturevalue(which)
    engine = Engine(find_endpoint({"DOCKER_HOST": docker.host}))
    image = random_image(13, layers=3, layer_bytes=200_000)
    sent: dict[str, int] = {}
    daemon.write(image, DaemonReference(name="wain/daemon:1"), engine=engine)
    bumped = image.append(random_layer(88))
    daemon.write(
        bumped,
        DaemonReference(name="wain/daemon:2"),
        engine=engine,
        progress=lambda what, done, total: sent.__setitem__(what, done),
    )
    assert {"wain/daemon:1", "wain/daemon:2"} <= docker.images()
    old = {layer.digest.short for layer in image.layers}
    resent = [what for what in sent if what.partition(" ")[0] in old]
    assert bool(resent) == (which == "docker_containerd")
    found = daemon.read(DaemonReference(name="wain/daemon:2"), engine=engine)
    assert isinstance(found, Image)
    check_image(found)
    assert found.config.diff_ids == bumped.config.diff_ids
