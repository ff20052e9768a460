"""Image layouts: whole or not at all, shared blobs, tags."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from wain import layout
from wain.content import blobs_of
from wain.digest import Digest
from wain.errors import HashMismatch, ImageError, OutputError
from wain.image import Image, Index, check_image
from wain.layers import Layer
from wain.names import LayoutReference
from wain.platforms import Platform
from wain.testing import random_image, random_index


def at(folder: Path, tag: str | None = None) -> LayoutReference:
    return LayoutReference(path=folder, tag=tag)


def assert_layers(found: Image | Index, image: Image) -> None:
    assert isinstance(found, Image)
    check_image(found)
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        with mine.open() as one, theirs.open() as other:
            assert one.read() == other.read()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    image = random_image(1)
    assert layout.write(image, at(tmp_path / "new", "1")) == image.digest
    found = layout.read(at(tmp_path / "new", "1"))
    assert found.digest == image.digest
    assert_layers(found, image)
    files = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    blobs = {f"blobs/sha256/{blob.digest.hex}" for blob in blobs_of(image)}
    assert files == {"oci-layout", "index.json", f"blobs/sha256/{image.digest.hex}", *blobs}


def test_images_share_blobs_and_a_tag_moves(tmp_path: Path) -> None:
    image = random_image(2)
    outcome: dict[Digest, str] = {}
    layout.write(image, at(tmp_path, "1"))
    bumped = image.append(random_image(3, layers=1).layers[0])
    layout.write(bumped, at(tmp_path, "2"), outcome=outcome)
    assert [outcome[layer.digest] for layer in bumped.layers] == ["present"] * 3 + ["written"]
    layout.write(bumped, at(tmp_path, "1"))
    assert layout.read(at(tmp_path, "1")).digest == layout.read(at(tmp_path, "2")).digest == bumped.digest
    assert layout.read(at(tmp_path)).digest == bumped.digest
    layout.write(image, at(tmp_path, "3"))
    with pytest.raises(ImageError, match="2 images") as caught:
        layout.read(at(tmp_path))
    assert "1, 2, 3" in caught.value.hint
    with pytest.raises(ImageError, match="no such image"):
        layout.read(at(tmp_path, "4"))


def test_an_untagged_image_takes_the_place_of_the_untagged(tmp_path: Path) -> None:
    layout.write(random_image(4), at(tmp_path))
    layout.write(random_image(5), at(tmp_path))
    assert layout.read(at(tmp_path)).digest == random_image(5).digest


def test_an_index(tmp_path: Path) -> None:
    index = random_index(6)
    layout.write(index, at(tmp_path, "1"))
    found = layout.read(at(tmp_path))
    assert isinstance(found, Index)
    assert found.digest == index.digest
    arm = layout.read(at(tmp_path), platform=Platform("linux", "arm64"))
    assert_layers(arm, index.images[1])


def test_one_entry_a_platform_without_an_index(tmp_path: Path) -> None:
    index = random_index(7)
    for number, image in enumerate(index.images):
        layout.write(image, at(tmp_path, str(number)))
    document = json.loads((tmp_path / "index.json").read_bytes())
    for entry in document["manifests"]:
        entry.pop("annotations")
    (tmp_path / "index.json").write_text(json.dumps(document))
    found = layout.read(at(tmp_path))
    assert isinstance(found, Index)
    assert [image.digest for image in found.images] == [image.digest for image in index.images]


def test_full_names_stand_where_containerd_looks(tmp_path: Path) -> None:
    layout.write(random_image(8), at(tmp_path), names=("registry.example/app:1",))
    (entry,) = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "registry.example/app:1",
        "org.opencontainers.image.ref.name": "1",
    }
    assert layout.read(at(tmp_path, "1")).digest == random_image(8).digest


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    with pytest.raises(OutputError, match="other things"):
        layout.write(random_image(9), at(tmp_path))
    assert os.listdir(tmp_path) == ["README"]


def test_a_layer_that_lies_leaves_nothing(tmp_path: Path) -> None:
    image = random_image(10)
    wrong = replace(image.layers[1], source=image.layers[0].source)
    bad = replace(image, layers=(image.layers[0], wrong, image.layers[2]))
    with pytest.raises(HashMismatch):
        layout.write(bad, at(tmp_path / "new", "1"))
    assert not (tmp_path / "new").exists()
    layout.write(random_image(11), at(tmp_path / "old", "1"))
    with pytest.raises(HashMismatch):
        layout.write(bad, at(tmp_path / "old", "1"))
    assert layout.read(at(tmp_path / "old", "1")).digest == random_image(11).digest
    assert not list((tmp_path / "old").rglob("*.part"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def failing(what: str, done: int, total: int | None) -> None:
        raise error

    with pytest.raises((KeyboardInterrupt, OutputError)):
        layout.write(random_image(12), at(tmp_path / "new", "1"), progress=failing)
    assert os.listdir(tmp_path) == []


def test_writers_at_the_same_time_lose_no_tag(tmp_path: Path) -> None:
    images = {str(number): random_image(number, layers=1) for number in range(8)}
    layout.write(random_image(99), at(tmp_path, "first"))
    threads = [threading.Thread(target=layout.write, args=(image, at(tmp_path, tag))) for tag, image in images.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tag, image in images.items():
        assert layout.read(at(tmp_path, tag)).digest == image.digest


def test_damaged_layouts(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no OCI image layout"):
        layout.read(at(tmp_path))
    image = random_image(13)
    layout.write(image, at(tmp_path / "a"))
    manifest = tmp_path / "a" / "blobs" / "sha256" / image.digest.hex
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(HashMismatch):
        layout.read(at(tmp_path / "a"))
    manifest.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        layout.read(at(tmp_path / "a"))
    (tmp_path / "a" / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(ImageError, match="version"):
        layout.read(at(tmp_path / "a"))


def test_a_blob_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    image = random_image(14)
    layout.write(image, at(tmp_path, "1"))
    blob = layout.blob_path(tmp_path, image.layers[0].digest)
    blob.write_bytes(blob.read_bytes()[:10])
    layout.write(image, at(tmp_path, "1"))
    assert_layers(layout.read(at(tmp_path, "1")), image)


def test_layers_are_verified_when_they_are_read(tmp_path: Path) -> None:
    image = random_image(15, layers=1)
    layout.write(image, at(tmp_path, "1"))
    blob = layout.blob_path(tmp_path, image.layers[0].digest)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    found = layout.read(at(tmp_path, "1"))
    assert isinstance(found, Image)
    layer: Layer = found.layers[0]
    with pytest.raises(HashMismatch), layer.open() as stream:
        stream.read()
