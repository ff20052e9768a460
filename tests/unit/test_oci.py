"""The specifications' documents: read with care, written canonically."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import ImageError
from wain.oci import (
    CONFIG,
    DOCKER_INDEX,
    LAYER_GZIP,
    MANIFEST,
    Config,
    Descriptor,
    History,
    Index,
    Manifest,
    Runtime,
    canonical_json,
    load_json,
)
from wain.platforms import Platform

DIGEST = Digest.of(b"x")
DESCRIPTOR = {"mediaType": LAYER_GZIP, "digest": DIGEST, "size": 1}
CONFIG_DESCRIPTOR = {"mediaType": CONFIG, "digest": DIGEST, "size": 1}


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, True, None], "a": "é"}) == '{"a":"é","b":[1,true,null]}'.encode()


@pytest.mark.parametrize("data", [b"", b"[]", b'"x"', b"{", b"\xff", b"[" * 100_000, b"{" + b" " * (5 << 20) + b"}"])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_json(data, "it")


def test_a_config_keeps_what_it_does_not_know() -> None:
    value = {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "os.version": "1",
        "docker_version": "20.10",
        "created": "2025-01-01T00:00:00Z",
        "author": "me",
        "config": {
            "User": "65532",
            "ExposedPorts": {"80/tcp": {}},
            "Env": ["A=1", "B=x=y"],
            "Entrypoint": ["/e"],
            "Cmd": ["c"],
            "Volumes": {"/v": {}},
            "WorkingDir": "/w",
            "Labels": {"l": "1"},
            "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "x"]},
            "OnBuild": ["RUN x"],
            "Shell": ["/bin/sh"],
            "ArgsEscaped": True,
        },
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True, "comment": "c", "author": "a"}],
    }
    assert json.loads(Config.parse(canonical_json(value)).to_bytes()) == value


def test_a_config_that_leaves_things_out() -> None:
    config = Config.parse(b'{"os":"linux","architecture":"amd64","config":null,"history":null}')
    assert config == Config(platform=Platform())
    config = Config.parse(
        b'{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":"one","Labels":null,"User":null}}'
    )
    assert config.runtime == Runtime(cmd=("one",))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", []),
        ("config", {"Env": [1]}),
        ("config", {"Env": {}}),
        ("config", {"Labels": {"a": 1}}),
        ("rootfs", []),
        ("rootfs", {"diff_ids": ["sha256:0"]}),
        ("history", [1]),
        ("history", {}),
        ("os", 1),
        ("architecture", None),
        ("history", [{"empty_layer": "yes"}]),
    ],
)
def test_configs_of_the_wrong_shape(key: str, value: object) -> None:
    document = {"os": "linux", "architecture": "amd64", key: value}
    with pytest.raises(ImageError):
        Config.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"schemaVersion": None},
        {"mediaType": "application/x"},
        {"config": None},
        {"layers": {}},
        {"layers": [{**DESCRIPTOR, "size": -1}]},
        {"layers": [{**DESCRIPTOR, "size": True}]},
        {"layers": [{**DESCRIPTOR, "size": "1"}]},
        {"layers": [{**DESCRIPTOR, "digest": "sha256:../../etc"}]},
        {"layers": [{"digest": DIGEST, "size": 1}]},
        {"annotations": {"a": 1}},
        {"annotations": []},
        {"layers": [5]},
        {"layers": [{**DESCRIPTOR, "platform": {"os": 5}}]},
    ],
)
def test_manifests_of_the_wrong_shape(change: dict[str, object]) -> None:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": CONFIG_DESCRIPTOR,
        "layers": [DESCRIPTOR],
        **change,
    }
    with pytest.raises(ImageError) as caught:
        Manifest.parse(json.dumps(document).encode())
    assert caught.value.hint


def test_a_manifest_comes_back_as_it_went() -> None:
    layer = Descriptor(media_type=LAYER_GZIP, digest=DIGEST, size_bytes=3, annotations={"a": "b"}, artifact_type="t")
    manifest = Manifest(
        config=Descriptor(media_type=CONFIG, digest=DIGEST, size_bytes=2), layers=(layer,), annotations={"x": "y"}
    )
    assert Manifest.parse(manifest.to_bytes()) == manifest
    without_type = json.loads(manifest.to_bytes())
    del without_type["mediaType"]
    assert Manifest.parse(canonical_json(without_type)) == manifest


def test_an_index_tells_images_from_attestations() -> None:
    image = Descriptor(media_type=MANIFEST, digest=DIGEST, size_bytes=1, platform=Platform("linux", "arm", "v7"))
    attestation = replace(image, platform=Platform("unknown", "unknown"))
    annotated = replace(image, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    other = replace(image, media_type="application/x")
    index = Index(manifests=(image, attestation, annotated, other), media_type=DOCKER_INDEX, annotations={"a": "b"})
    assert Index.parse(index.to_bytes()) == index
    assert index.images() == (image,)
    for data in (b'{"schemaVersion":2}', b'{"manifests":[],"mediaType":"application/x"}'):
        with pytest.raises(ImageError):
            Index.parse(data)


def test_environment() -> None:
    runtime = Runtime(env=("A=1", "B=2", "A=3"))
    assert runtime.environment() == {"A": "3", "B": "2"}
    assert runtime.with_env({"B": "x", "C": "y=z"}).env == ("A=3", "B=x", "C=y=z")


def test_history_with_nothing_in_it() -> None:
    assert History().to_json() == {}
