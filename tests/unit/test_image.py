"""Images: frozen, verbatim where they came from elsewhere, whole at each change."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from wain import layout
from wain.digest import Digest
from wain.errors import BaseError, ImageError
from wain.image import Image, Index, check_image, padded_history
from wain.names import LayoutReference
from wain.oci import MANIFEST, Config, Descriptor, History, Manifest, Runtime
from wain.platforms import Platform
from wain.testing import random_image, random_index, random_layer, schema2_image

BASE = random_image(1, layers=2)


def test_what_was_read_is_kept_verbatim() -> None:
    manifest = BASE.manifest_bytes.replace(b'"schemaVersion":2', b'"schemaVersion": 2 ')
    found = Image.from_documents(manifest, BASE.config_bytes, BASE.layers)
    assert found.manifest_bytes == manifest
    assert found.digest == Digest.of(manifest) != BASE.digest
    assert found.descriptor.size_bytes == len(manifest)
    assert found.append(random_layer(9)).source_manifest is None


def test_appending() -> None:
    layer = random_layer(5)
    image = BASE.append(layer, created="2025-01-01T00:00:00Z")
    check_image(image)
    assert image.config.diff_ids == (*BASE.config.diff_ids, layer.diff_id)
    assert image.config.history[-1] == History(created="2025-01-01T00:00:00Z", created_by="random 5", comment="wain")
    assert image.manifest.layers[-1] == layer.descriptor
    assert len(BASE.layers) == 2


def test_a_base_without_history_is_padded() -> None:
    bare = replace(BASE, config=replace(BASE.config, history=()))
    image = bare.append(random_layer(6))
    assert [item.created_by for item in image.config.history] == ["unknown", "unknown", "random 6"]
    empty = History(created_by="ENV x", empty_layer=True)
    partly = replace(BASE.config, history=(History(created_by="COPY"), empty))
    assert [item.created_by for item in padded_history(partly)] == ["unknown", "COPY", "ENV x"]
    with pytest.raises(ImageError, match="history tells of 3 layers"):
        padded_history(replace(BASE.config, history=(History(),) * 3))


def test_an_older_formats_image_becomes_ocis_with_the_first_change() -> None:
    manifest, config = schema2_image(BASE)
    types = {item.digest: item.media_type for item in Manifest.parse(manifest).layers}
    layers = tuple(replace(layer, media_type=types[layer.digest]) for layer in BASE.layers)
    image = Image.from_documents(manifest, config, layers)
    assert image.manifest_bytes == manifest
    for changed in (
        image.append(random_layer(7)),
        image.with_annotations({"a": "b"}),
        image.with_runtime(Runtime(user="1")),
        image.to_oci(),
    ):
        check_image(changed)
        assert changed.manifest.media_type == MANIFEST
        assert not [item for item in (changed.manifest.config, *changed.manifest.layers) if "docker" in item.media_type]
    assert image.to_oci().config_bytes == config


def test_annotations_are_added() -> None:
    image = BASE.with_annotations({"a": "1"}).with_annotations({"b": "2"})
    assert image.manifest.annotations == {"a": "1", "b": "2"}
    assert image.config_bytes == BASE.config_bytes


def test_what_check_image_finds() -> None:
    one, two = BASE.layers
    broken = {
        "layers in the manifest": replace(BASE, layers=(one,)),
        "has diff ID": replace(BASE, layers=(two, one)),
        "the manifest says": replace(
            BASE, layers=(one, replace(two, size_bytes=1)), source_manifest=BASE.manifest_bytes
        ),
        "not the one that the manifest names": replace(
            BASE, source_manifest=BASE.manifest_bytes, source_config=BASE.config_bytes + b" "
        ),
        "mixes": replace(
            BASE, layers=(replace(one, media_type="application/vnd.docker.image.rootfs.diff.tar.gzip"), two)
        ),
        "history tells": replace(BASE, config=replace(BASE.config, history=(History(),) * 5)),
    }
    for message, image in broken.items():
        with pytest.raises(ImageError) as caught:
            check_image(image)
        assert message in caught.value.message
    with pytest.raises(ImageError):
        BASE.with_config(replace(BASE.config, diff_ids=()))


def test_rebasing() -> None:
    runtime = Runtime(env=("PATH=/old", "LANG=C"), user="root", cmd=("python",), labels={"base": "1"}, working_dir="/")
    old = BASE.with_runtime(runtime)
    mine = old.append(random_layer(8)).with_runtime(
        replace(runtime, env=("PATH=/opt:/old", "LANG=C", "APP=1"), user="65532", labels={"base": "1", "app": "2"})
    )
    mine = replace(mine, config=replace(mine.config, history=padded_history(mine.config)))
    new_runtime = replace(runtime, env=("PATH=/new", "LANG=C.UTF-8"), cmd=("python3",), labels={"base": "2"})
    new = random_image(2, layers=3).with_runtime(new_runtime)
    found = mine.rebase(old, new)
    check_image(found)
    assert found.layers == (*new.layers, mine.layers[-1])
    assert found.config.runtime.environment() == {"PATH": "/opt:/old", "LANG": "C.UTF-8", "APP": "1"}
    assert found.config.runtime.user == "65532"
    assert found.config.runtime.cmd == ("python3",)
    assert found.config.runtime.labels == {"base": "2", "app": "2"}
    with pytest.raises(BaseError, match="not made on that base"):
        mine.rebase(new, old)
    with pytest.raises(BaseError, match="linux/arm64"):
        mine.rebase(old, random_image(3, platform=Platform("linux", "arm64")))


def test_an_index() -> None:
    index = random_index(4)
    assert index.image_for(Platform("linux", "arm64")) == index.images[1]
    with pytest.raises(ImageError) as caught:
        index.image_for(Platform("linux", "s390x"))
    assert "linux/amd64, linux/arm64" in caught.value.hint
    assert Index(images=index.images).digest == index.digest == Digest.of(index.to_bytes)
    verbatim = Index(images=index.images, source=index.to_bytes + b" ")
    assert verbatim.digest != index.digest


def test_variants_that_are_the_only_one(tmp_path: Path) -> None:
    named = random_image(5, layers=1, platform=Platform("linux", "arm64", "v8"))
    index = Index(images=(random_image(6, layers=1), named))
    assert index.image_for(Platform.parse("linux/arm64")) == named
    layout.write(index, LayoutReference(path=tmp_path, tag="1"))
    found = layout.read(LayoutReference(path=tmp_path, tag="1"), platform=Platform.parse("linux/arm64"))
    assert found.digest == named.digest
    seventh, sixth = Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6")
    assert Platform("linux", "arm").same_as(seventh)
    assert not sixth.same_as(seventh)


def test_an_image_without_layers() -> None:
    image = Image(config=Config(platform=Platform()))
    check_image(image)
    assert image.manifest.layers == ()
    assert image.descriptor == Descriptor(
        media_type=MANIFEST, digest=image.digest, size_bytes=len(image.manifest_bytes), platform=Platform()
    )
