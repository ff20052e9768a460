"""Images as one tar file that every engine loads: Docker's manifest.json and an OCI layout over the same blobs.

Sources: OCI image specification, image-layout.md; Docker image specification 1.2, "Combined Image JSON + Filesystem
Changeset Format"; docker-archive(5) as containers/image reads it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import BinaryIO

from wain.content import (
    LAYOUT_BYTES,
    NamedContent,
    Progress,
    blob_name,
    blobs_of,
    index_entries,
    manifests_of,
    read_named,
)
from wain.digest import CHUNK_BYTES, Digest
from wain.errors import ImageError, UsageError
from wain.image import Blob, Image, Index
from wain.layers import Layer
from wain.names import ArchiveReference, RegistryReference, parse_registry_reference
from wain.oci import (
    CONFIG,
    JSON,
    LAYER_GZIP,
    LAYER_TAR,
    LAYER_ZSTD,
    MAX_JSON_BYTES,
    Config,
    Descriptor,
    Manifest,
    Reader,
    canonical_json,
    load_json,
)
from wain.oci import Index as IndexDocument
from wain.output import replacing
from wain.platforms import Platform
from wain.tarscan import BLOCK_BYTES, Member, MemberStream, TarMembers

# The earliest time that every tool takes; the same for all archives.
_MTIME = 315532800


def write(
    image: Image | Index,
    reference: ArchiveReference,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
) -> Digest:
    """Writes the image as one tar; it appears under its path whole or not at all.

    Docker without and with the containerd store, podman and ctr load it under its names. Of an index, engines
    that know no indexes load the image for this machine's platform, else its first.

    :param names: `repository:tag` that it is loaded as; without any it is loaded by its digest alone.
    :raises OutputError: when the file cannot be written.
    :raises UsageError: when a name is none.
    """
    with replacing(reference.path) as file:
        stream(image, file, names=names, progress=progress)
    return image.digest


def stream(
    image: Image | Index,
    file: BinaryIO,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
    without: Collection[Digest] = (),
) -> None:
    """The archive's bytes, in one pass, to whatever takes them; the same image and names give the same bytes.

    :param without: layers whose blobs are left out, for an engine that is known to have them.
    """
    told = progress or (lambda what, done, total: None)
    references = [_tagged(name) for name in names]
    manifests = manifests_of(image)
    top, _ = manifests[-1]
    entries = index_entries(top, image, None, [str(item) for item in references])
    index = IndexDocument(manifests=entries).to_bytes()
    _add_bytes(file, "oci-layout", LAYOUT_BYTES)
    _add_bytes(file, "index.json", index)
    _add_bytes(file, "manifest.json", _docker_manifest(image, [str(item) for item in references]))
    written: set[Digest] = set()
    for descriptor, data in manifests:
        if descriptor.digest not in written:
            written.add(descriptor.digest)
            _add_bytes(file, _path(descriptor.digest), data)
    for blob in blobs_of(image):
        if blob.digest not in without:
            _add_blob(file, blob, told)
    file.write(bytes(2 * BLOCK_BYTES))


def _tagged(name: str) -> RegistryReference:
    reference = parse_registry_reference(name)
    if reference.digest is not None:
        raise UsageError(f"{name!r} names a digest", hint="An archive's image is named by repository and tag.")
    return reference


def _docker_manifest(image: Image | Index, names: list[str]) -> bytes:
    if isinstance(image, Index):
        if not image.images:
            return b"[]"
        image = next((item for item in image.images if item.platform.same_as(Platform.host())), image.images[0])
    entry: dict[str, JSON] = {
        "Config": _path(image.manifest.config.digest),
        "RepoTags": list(names),
        "Layers": [_path(layer.digest) for layer in image.layers],
    }
    return canonical_json([entry])


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _header(name: str, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    member.mtime = _MTIME
    return member.tobuf(tarfile.PAX_FORMAT)


def _add_bytes(file: BinaryIO, name: str, data: bytes) -> None:
    file.write(_header(name, len(data)))
    file.write(data)
    file.write(bytes(-len(data) % BLOCK_BYTES))


def _add_blob(file: BinaryIO, blob: Blob | Layer, progress: Progress) -> None:
    file.write(_header(_path(blob.digest), blob.size_bytes))
    name = blob_name(blob)
    done = 0
    with blob.open() as source:
        while data := source.read(CHUNK_BYTES):
            file.write(data)
            done += len(data)
            progress(name, done, blob.size_bytes)
    file.write(bytes(-done % BLOCK_BYTES))


def read(reference: ArchiveReference, *, platform: Platform | None = None) -> Image | Index:
    """The image in an archive of wain, docker save (of any age), podman save or skopeo, layers left where they are.

    :raises ImageError: when it is no such archive, is hostile, or has several images.
    """
    try:
        file = reference.path.open("rb")
    except OSError as error:
        raise ImageError(f"{reference.path} cannot be read: {error.strerror}", hint="Name an image's tar.") from error
    with file:
        return read_file(file, platform=platform, what=str(reference))


def read_file(file: BinaryIO, *, platform: Platform | None = None, what: str) -> Image | Index:
    """As `read`, of a file that is open; the image keeps a descriptor of its own for its layers."""
    members = TarMembers(file, what=what)
    if "oci-layout" in members and "index.json" in members:
        index = IndexDocument.parse(members.read("index.json", MAX_JSON_BYTES))
        if index.manifests:
            return read_named(_Members(members), index, tag=None, platform=platform, what=what)
    if "manifest.json" not in members:
        raise ImageError(
            f"{what} holds no image: neither manifest.json nor an OCI layout is in it",
            hint="Save one with docker save or podman save.",
        )
    image = _read_docker(members, what)
    if platform is not None and not image.platform.same_as(platform):
        raise ImageError(
            f"{what} is an image for {image.platform}, not for {platform}", hint="Save the one for that platform."
        )
    return image


class _Members(NamedContent):
    def __init__(self, members: TarMembers) -> None:
        self._members = members

    def opener(self, descriptor: Descriptor) -> Callable[[], BinaryIO]:
        return _opener(self._members, _path(descriptor.digest))


def _opener(members: TarMembers, name: str) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        return MemberStream(members, members.find(name))  # type: ignore[return-value]

    return open_member


def _read_docker(members: TarMembers, what: str) -> Image:
    data = members.read("manifest.json", MAX_JSON_BYTES)
    entries = Reader(load_json(b'{"images":' + data + b"}", "manifest.json"), "manifest.json").objects("images")
    if len(entries) != 1:
        names = [name for entry in entries for name in entry.texts("RepoTags") or ()]
        raise ImageError(
            f"{what} has {len(entries)} images", hint=f"Save one alone. It has: {', '.join(names[:20]) or 'no names'}."
        )
    config_bytes = members.read(entries[0].text("Config"), MAX_JSON_BYTES)
    paths = entries[0].texts("Layers") or ()
    config = Config.parse(config_bytes)
    if len(paths) != len(config.diff_ids):
        raise ImageError(
            f"{what} has {len(paths)} layers and {len(config.diff_ids)} diff IDs",
            hint="Save the image again.",
        )
    layers = tuple(_docker_layer(members, path, diff_id) for path, diff_id in zip(paths, config.diff_ids, strict=True))
    manifest = Manifest(
        config=Descriptor(media_type=CONFIG, digest=Digest.of(config_bytes), size_bytes=len(config_bytes)),
        layers=tuple(layer.descriptor for layer in layers),
    )
    return Image.from_documents(manifest.to_bytes(), config_bytes, layers)


def _docker_layer(members: TarMembers, path: str, diff_id: Digest) -> Layer:
    """A layer as it lies in the archive: its digest is computed, its compression seen from its first bytes."""
    member = members.find(path)
    head = members.read_at(member.offset, min(4, member.size_bytes))
    if head.startswith(b"\x1f\x8b"):
        media_type = LAYER_GZIP
    elif head == b"\x28\xb5\x2f\xfd":
        media_type = LAYER_ZSTD
    else:
        media_type = LAYER_TAR
    digest = hashlib.sha256()
    for data in _pieces(members, member):
        digest.update(data)
    return Layer(
        digest=Digest("sha256:" + digest.hexdigest()),
        diff_id=diff_id,
        size_bytes=member.size_bytes,
        source=_opener(members, path),
        media_type=media_type,
    )


def _pieces(members: TarMembers, member: Member) -> Iterator[bytes]:
    with MemberStream(members, member) as stream:
        while data := stream.read(CHUNK_BYTES):
            yield data
