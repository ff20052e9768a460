"""Archives: one tar for every engine; reading those of others, hostile ones too."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import resource
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from wain import archive
from wain.digest import Digest
from wain.errors import HashMismatch, ImageError, OutputError, UsageError, WainError
from wain.image import Image, Index, check_image
from wain.names import ArchiveReference
from wain.oci import LAYER_GZIP, LAYER_TAR
from wain.output import replacing
from wain.platforms import Platform
from wain.tarscan import TarMembers
from wain.testing import random_image, random_index


def at(path: Path) -> ArchiveReference:
    return ArchiveReference(path=path)


def make_tar(path: Path, members: dict[str, bytes | str], kind: int = tarfile.PAX_FORMAT) -> Path:
    """A tar; text is a symbolic link's target."""
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def assert_layers(found: Image | Index, image: Image) -> None:
    assert isinstance(found, Image)
    check_image(found)
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        with mine.open() as one, theirs.open() as other:
            assert one.read() == other.read()


def test_what_is_written_is_read_again_and_is_always_the_same(tmp_path: Path) -> None:
    image = random_image(1)
    for name in ("a.tar", "b.tar"):
        assert archive.write(image, at(tmp_path / name), names=("registry.example/app:1",)) == image.digest
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    found = archive.read(at(tmp_path / "a.tar"))
    assert found.digest == image.digest
    assert_layers(found, image)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar"]


def test_every_engine_finds_its_own(tmp_path: Path) -> None:
    image = random_image(2)
    archive.write(image, at(tmp_path / "a.tar"), names=("app:1", "registry.example/team/app:2"))
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        read = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert len(names) == len(set(names))
    (entry,) = json.loads(read["manifest.json"])
    assert entry["RepoTags"] == ["docker.io/library/app:1", "registry.example/team/app:2"]
    assert Digest.of(read[entry["Config"]]) == image.manifest.config.digest
    assert [Digest.of(gzip.decompress(read[path])) for path in entry["Layers"]] == list(image.config.diff_ids)
    index = json.loads(read["index.json"])
    annotations = [item["annotations"] for item in index["manifests"]]
    assert [item["io.containerd.image.name"] for item in annotations] == [
        "docker.io/library/app:1",
        "registry.example/team/app:2",
    ]
    assert {item["digest"] for item in index["manifests"]} == {image.digest}
    assert json.loads(read["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_names_must_be_names(tmp_path: Path) -> None:
    for name in ("UPPER", f"app@{random_image().digest}"):
        with pytest.raises(UsageError):
            archive.write(random_image(), at(tmp_path / "a.tar"), names=(name,))
    assert os.listdir(tmp_path) == []


def test_an_index_holds_this_machines_image_for_classic_docker(tmp_path: Path) -> None:
    index = random_index(3)
    archive.write(index, at(tmp_path / "a.tar"), names=("app:1",))
    found = archive.read(at(tmp_path / "a.tar"))
    assert isinstance(found, Index)
    assert found.digest == index.digest
    with (tmp_path / "a.tar").open("rb") as file:
        members = TarMembers(file, what="it")
    (entry,) = json.loads(members.read("manifest.json", 10_000))
    host = [image for image in index.images if image.platform == Platform.host()] or [index.images[0]]
    assert entry["Config"] == f"blobs/sha256/{host[0].manifest.config.digest.hex}"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    def failing(what: str, done: int, total: int | None) -> None:
        raise error

    (tmp_path / "a.tar").write_bytes(b"old")
    for name in ("a.tar", "dist/new.tar"):
        with pytest.raises((KeyboardInterrupt, OutputError)):
            archive.write(random_image(4), at(tmp_path / name), progress=failing)
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == b"old"


def test_a_file_size_limit_is_an_error_of_the_output(tmp_path: Path) -> None:
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError):
            archive.write(random_image(5, layer_bytes=50_000), at(tmp_path / "a.tar"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_a_full_device_is_an_error_of_the_output() -> None:
    with pytest.raises(OutputError, match="No space left"):
        archive.write(random_image(6, layer_bytes=5_000_000), at(Path("/dev/full")))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder"), replacing(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), replacing(tmp_path / "file" / "a.tar"):
        pass


def test_a_replaced_file_keeps_links_and_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "real.tar").write_bytes(b"old")
    (tmp_path / "link.tar").symlink_to("real.tar")
    old = os.umask(0o027)
    try:
        archive.write(random_image(7), at(tmp_path / "link.tar"))
    finally:
        os.umask(old)
    assert (tmp_path / "link.tar").is_symlink()
    assert (tmp_path / "real.tar").stat().st_mode & 0o777 == 0o640


def test_layers_that_lie_are_not_archived(tmp_path: Path) -> None:
    image = random_image(8)
    wrong = replace(image.layers[1], source=image.layers[0].source)
    with pytest.raises(HashMismatch):
        archive.write(replace(image, layers=(image.layers[0], wrong, image.layers[2])), at(tmp_path / "a.tar"))
    assert os.listdir(tmp_path) == []


def old_docker_save(image: Image, *, packed: bool = False) -> dict[str, bytes | str]:
    """The members of an archive as Docker before 25 saves it: plain layers in folders, equal ones as links."""
    members: dict[str, bytes | str] = {}
    paths = []
    for number, layer in enumerate(image.layers):
        blob = layer.source().read()
        members[f"id{number}/layer.tar"] = blob if packed else gzip.decompress(blob)
        paths.append(f"id{number}/layer.tar")
    members["again/layer.tar"] = "../id0/layer.tar"
    config = image.config_bytes
    name = f"{Digest.of(config).hex}.json"
    members[name] = config
    paths[0] = "again/layer.tar"
    entry = {"Config": name, "RepoTags": ["app:1"], "Layers": paths}
    members["manifest.json"] = json.dumps([entry]).encode()
    members["repositories"] = b"{}"
    return members


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_old_docker_saved(tmp_path: Path, kind: int) -> None:
    image = random_image(9)
    found = archive.read(at(make_tar(tmp_path / "a.tar", old_docker_save(image), kind)))
    assert isinstance(found, Image)
    check_image(found)
    assert found.config_bytes == image.config_bytes
    assert {layer.media_type for layer in found.layers} == {LAYER_TAR}
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        assert mine.digest == theirs.diff_id
        with mine.open() as stream:
            assert Digest.of(stream.read()) == theirs.diff_id


def test_packed_layers_in_an_old_archive(tmp_path: Path) -> None:
    image = random_image(10)
    found = archive.read(at(make_tar(tmp_path / "a.tar", old_docker_save(image, packed=True))))
    assert isinstance(found, Image)
    assert {layer.media_type for layer in found.layers} == {LAYER_GZIP}
    assert_layers(found, image)


def test_archives_that_are_refused(tmp_path: Path) -> None:
    image = random_image(11)
    members = old_docker_save(image)
    two = json.loads(members["manifest.json"]) * 2
    cases: dict[str, dict[str, bytes | str]] = {
        "no image": {"hello": b"world"},
        "2 images": {**members, "manifest.json": json.dumps(two).encode()},
        "not JSON": {**members, "manifest.json": b"["},
        "diff IDs": {
            **members,
            "manifest.json": json.dumps([{**two[0], "Layers": two[0]["Layers"][:1]}]).encode(),
        },
        "has no": {**members, "again/layer.tar": "../../../etc/passwd"},
        "bytes, more than": {**members, "manifest.json": b" " * (5 << 20)},
    }
    cases["has no 'again/layer.tar'"] = {**members, "again/layer.tar": "layer.tar"}
    for message, content in cases.items():
        with pytest.raises(ImageError) as caught:
            archive.read(at(make_tar(tmp_path / "a.tar", content)))
        assert message in caught.value.message
        assert caught.value.hint


def test_files_that_are_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for data, message in (
        (b"", "no tar file"),
        (b"hello" * 500, "no tar file"),
        (gzip.compress(b"x" * 10_000), "compressed"),
        (bytes(10240), "no tar file"),
    ):
        path.write_bytes(data)
        with pytest.raises(ImageError, match=message):
            archive.read(at(path))
    with pytest.raises(ImageError, match="cannot be read"):
        archive.read(at(tmp_path / "none.tar"))


def test_an_archive_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    image = random_image(12)
    archive.write(image, at(tmp_path / "a.tar"))
    data = (tmp_path / "a.tar").read_bytes()
    path = tmp_path / "b.tar"
    for size in range(0, len(data) - 1024, 512):
        path.write_bytes(data[:size])
        with pytest.raises(WainError):
            found = archive.read(at(path))
            assert isinstance(found, Image)
            for layer in found.layers:
                with layer.open() as stream:
                    stream.read()


def test_sizes_that_lie(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"manifest.json": b"[]"})
    data = bytearray(path.read_bytes())
    for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"notanumber\0\0", b"-0000000001\0"):
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        path.write_bytes(data)
        with pytest.raises(ImageError):
            archive.read(at(path))


def test_an_extended_header_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("x")
        member.pax_headers = {"comment": "c" * (2 << 20)}
        tar.addfile(member)
    with pytest.raises(ImageError, match="extended header"):
        archive.read(at(path))


def test_long_names_of_every_format(tmp_path: Path) -> None:
    name = "/".join(["d" * 60] * 4) + "/file"
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = make_tar(tmp_path / f"{number}.tar", {name: b"found", "l" * 120: name}, kind)
        with path.open("rb") as file:
            members = TarMembers(file, what="it")
        assert members.read(name, 10) == b"found"
        assert members.read("l" * 120, 10) == b"found"
        assert members.read(f"./{name}", 10) == b"found"


def test_the_wrong_platform(tmp_path: Path) -> None:
    archive.write(random_image(13), at(tmp_path / "a.tar"))
    with pytest.raises(ImageError, match="linux/amd64"):
        archive.read(at(tmp_path / "a.tar"), platform=Platform("linux", "arm64"))
    old = make_tar(tmp_path / "b.tar", old_docker_save(random_image(14)))
    with pytest.raises(ImageError, match="linux/amd64"):
        archive.read(at(old), platform=Platform("linux", "arm64"))
