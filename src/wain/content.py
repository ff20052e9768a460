"""From manifests and blobs that are found by digest to the image or index that they make.

Sources: OCI image specification, image-index.md, manifest.md.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol

from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import HashMismatch, ImageError, NotFound
from wain.image import Artifact, Blob, Image, Index
from wain.layers import Layer
from wain.oci import (
    CONFIG,
    DOCKER_CONFIG,
    INDEX,
    INDEX_TYPES,
    MANIFEST,
    MANIFEST_TYPES,
    MAX_JSON_BYTES,
    Config,
    Descriptor,
    Manifest,
    load_json,
)
from wain.oci import Index as IndexDocument
from wain.platforms import Platform

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'

_MAX_MANIFESTS = 256
_NOT_PASSED_ON = re.compile(r"\.nondistributable\.|\.foreign\.")
"""In a media type: the layer may be fetched from its maker alone. Source: OCI image specification, layer.md."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is transferred, the bytes done and the bytes in all, where they are known."""


class Content(Protocol):
    """Where documents and blobs are found by their descriptors."""

    @property
    def origin(self) -> str | None:
        """`registry/repository` of the blobs, where they are in one."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest's or index's bytes; the caller checks them."""
        ...

    def config(self, descriptor: Descriptor) -> bytes:
        """A config's bytes; the caller checks them."""
        ...

    def opener(self, descriptor: Descriptor) -> Callable[[], BinaryIO]:
        """Opens a blob from its first byte; unverified."""
        ...


def document_type(data: bytes, said: str, what: str) -> str:
    """The media type of a manifest or index: its own word, else what came with it, else by its members.

    :raises ImageError: when it is neither an image's manifest nor an index.
    """
    value = load_json(data, "manifest")
    inner = value.get("mediaType")
    if isinstance(inner, str):
        said = inner
    elif said not in (*MANIFEST_TYPES, *INDEX_TYPES):
        said = INDEX if "manifests" in value else MANIFEST
    if value.get("schemaVersion") == 1:
        Manifest.parse(data)  # says why it is not read
    if said not in (*MANIFEST_TYPES, *INDEX_TYPES):
        raise ImageError(f"{what} is {said[:100]!r}, no image", hint="Name an image, not another artifact.")
    return said


def check_bytes(data: bytes, digest: Digest, what: str) -> None:
    """:raises HashMismatch: when the bytes are not those of the digest."""
    found = hashlib.new(digest.algorithm, data).hexdigest()
    if found != digest.hex:
        raise HashMismatch(
            f"{what} is not what was promised: {digest.algorithm}:{found}, not {digest}",
            hint="What serves it, or stands before that, has wrong bytes; do not use them.",
        )


def read_content(
    content: Content, data: bytes, media_type: str, *, platform: Platform | None, what: str
) -> Image | Index:
    """The image or index whose manifest or index is `data`, verified and verbatim; layers stay where they are.

    :param platform: picks one image of an index, or must be the image's.
    :param what: names the image in errors.
    :raises ImageError: when it is malformed, or nothing in it is for the platform.
    :raises HashMismatch: when a document is not what its descriptor says.
    """
    if media_type in MANIFEST_TYPES:
        image = read_manifest(content, data)
        if platform is not None and not image.platform.same_as(platform):
            raise ImageError(
                f"{what} is an image for {image.platform}, not for {platform}",
                hint="Name an image that was made for the platform.",
            )
        return image
    document = IndexDocument.parse(data)
    chosen = _images_of(document, what)
    if platform is not None:
        # The descriptor's word for the platform where it has one, else the config's.
        fitting = [item for item in chosen if item.platform is None or item.platform.same_as(platform)]
        images = tuple(_described(content, item) for item in fitting)
        for image in images:
            if image.platform.same_as(platform):
                return image
        named = [item.platform for item in chosen if item.platform] + [image.platform for image in images]
        have = ", ".join(dict.fromkeys(map(str, named))) or "none"
        raise ImageError(f"{what} has no image for {platform}", hint=f"There are images for: {have}.")
    return Index(
        images=tuple(_described(content, item) for item in chosen),
        annotations=document.annotations,
        source=data,
        artifacts=tuple(_artifact(content, item) for item in document.manifests if item not in chosen),
    )


def _images_of(document: IndexDocument, what: str) -> list[Descriptor]:
    if len(document.manifests) > _MAX_MANIFESTS:
        raise ImageError(f"{what} lists {len(document.manifests)} images", hint=f"At most {_MAX_MANIFESTS} are read.")
    return [item for item in document.images() if item.media_type in MANIFEST_TYPES]


def _described(content: Content, descriptor: Descriptor) -> Image:
    return read_manifest(content, checked_manifest(content, descriptor))


def checked_manifest(content: Content, descriptor: Descriptor) -> bytes:
    """A manifest's or index's bytes, which are those of the descriptor.

    :raises HashMismatch: when they are not.
    """
    if descriptor.size_bytes > MAX_JSON_BYTES:
        raise ImageError(
            f"manifest {descriptor.digest} has {descriptor.size_bytes} bytes",
            hint=f"At most {MAX_JSON_BYTES} are read.",
        )
    data = content.manifest(descriptor)
    check_bytes(data, descriptor.digest, f"manifest {descriptor.digest}")
    return data


def read_manifest(content: Content, data: bytes) -> Image:
    """The image of a manifest; its config is read, its layers are not.

    :raises ImageError: when manifest and config do not agree.
    """
    manifest = Manifest.parse(data)
    if manifest.config.media_type not in (CONFIG, DOCKER_CONFIG):
        raise ImageError(
            f"it is an artifact of type {manifest.config.media_type[:100]!r}",
            hint="Name an image, not another artifact.",
        )
    if manifest.config.size_bytes > MAX_JSON_BYTES:
        raise ImageError(
            f"the config has {manifest.config.size_bytes} bytes", hint=f"At most {MAX_JSON_BYTES} are read."
        )
    config = content.config(manifest.config)
    check_bytes(config, manifest.config.digest, f"config {manifest.config.digest}")
    diff_ids = Config.parse(config).diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{len(manifest.layers)} layers in the manifest, {len(diff_ids)} diff IDs in the config",
            hint="The image is damaged or made by a faulty tool; build it again.",
        )
    layers = tuple(
        Layer(
            digest=item.digest,
            diff_id=diff_id,
            size_bytes=item.size_bytes,
            source=_opener(content, item),
            media_type=item.media_type,
            created_by=created_by,
            annotations=item.annotations,
            origin=content.origin,
        )
        for item, diff_id, created_by in zip(manifest.layers, diff_ids, _created_by(config), strict=True)
    )
    return Image.from_documents(data, config, layers)


def _opener(content: Content, descriptor: Descriptor) -> Callable[[], BinaryIO]:
    """What opens a layer; one that may not be passed on is missing where the image is, which is told as such."""
    opener = content.opener(descriptor)
    if not _NOT_PASSED_ON.search(descriptor.media_type):
        return opener

    def open_layer() -> BinaryIO:
        try:
            return opener()
        except (NotFound, ImageError) as error:
            raise ImageError(
                f"layer {descriptor.digest} may not be passed on, so {content.origin or 'the image'} is without it",
                hint="Use an image without such layers (images of Windows have them).",
            ) from error

    return open_layer


def _created_by(config: bytes) -> list[str]:
    """What the history says of each layer, nothing where it has too few lines."""
    document = Config.parse(config)
    texts = [item.created_by or "" for item in document.history if not item.empty_layer]
    count = len(document.diff_ids)
    return [*[""] * (count - len(texts)), *texts][:count]


def _artifact(content: Content, descriptor: Descriptor) -> Artifact:
    data = checked_manifest(content, descriptor)
    blobs = tuple(Blob(descriptor=item, source=content.opener(item), origin=content.origin) for item in _named_by(data))
    return Artifact(descriptor=descriptor, manifest_bytes=data, blobs=blobs)


def _named_by(data: bytes) -> Iterable[Descriptor]:
    try:
        manifest = Manifest.parse(data)
    except ImageError:
        return []
    return {item.digest: item for item in (manifest.config, *manifest.layers)}.values()


def blobs_of(image: Image | Index) -> tuple[Blob | Layer, ...]:
    """Every blob that must stand beside the manifests, each once, configs included."""
    found: dict[Digest, Blob | Layer] = {}
    for item in image.images if isinstance(image, Index) else (image,):
        for layer in item.layers:
            found.setdefault(layer.digest, layer)
        found.setdefault(item.manifest.config.digest, _config_blob(item))
    if isinstance(image, Index):
        for artifact in image.artifacts:
            for blob in artifact.blobs:
                found.setdefault(blob.digest, blob)
    return tuple(found.values())


def _config_blob(image: Image) -> Blob:
    data = image.config_bytes
    return Blob(descriptor=image.manifest.config, source=lambda: io.BytesIO(data))


def manifests_of(image: Image | Index) -> tuple[tuple[Descriptor, bytes], ...]:
    """The manifests that an image or index is made of, those that others name first, its own last."""
    if isinstance(image, Image):
        return ((image.descriptor, image.manifest_bytes),)
    top = image.to_bytes
    return (
        *((item.descriptor, item.manifest_bytes) for item in image.images),
        *((item.descriptor, item.manifest_bytes) for item in image.artifacts),
        (Descriptor(media_type=image.media_type, digest=Digest.of(top), size_bytes=len(top)), top),
    )


def blob_name(blob: Blob | Layer) -> str:
    """A blob as progress shows it."""
    created = blob.created_by if isinstance(blob, Layer) else ""
    return f"{blob.digest.short} {created}".strip()


def index_entries(
    descriptor: Descriptor, image: Image | Index, tag: str | None, names: Sequence[str]
) -> tuple[Descriptor, ...]:
    """The entries of index.json for an image: one a name, or one without any."""
    base = replace(descriptor, platform=image.platform if isinstance(image, Image) else None, annotations={})
    annotations: list[Mapping[str, str]] = []
    for name in names:
        _, colon, own_tag = name.rpartition(":")
        short = tag or (own_tag if colon and "/" not in own_tag else "latest")
        annotations.append({CONTAINERD_NAME: name, REF_NAME: short})
    if not annotations:
        annotations.append({REF_NAME: tag} if tag else {})
    return tuple(replace(base, annotations=item) for item in annotations)


def read_named(
    content: NamedContent, index: IndexDocument, *, tag: str | None, platform: Platform | None, what: str
) -> Image | Index:
    """The image of an index.json with a tag, or its only one.

    :raises ImageError: when there is none, or several and no tag; says which there are.
    """
    entries = [item for item in index.manifests if item.media_type in (*MANIFEST_TYPES, *INDEX_TYPES)]
    if tag is not None:
        entries = [item for item in entries if tag in _names(item)]
    distinct = {item.digest: item for item in entries if not item.is_attestation}
    if len(distinct) == 1:
        (descriptor,) = distinct.values()
        data = checked_manifest(content, descriptor)
        return read_content(
            content, data, document_type(data, descriptor.media_type, what), platform=platform, what=what
        )
    platforms = [item.platform for item in distinct.values()]
    if distinct and None not in platforms and len(set(platforms)) == len(platforms):
        # One image a platform without an index of their own: they are the index.
        document = IndexDocument(manifests=tuple(replace(item, annotations={}) for item in distinct.values()))
        return read_content(content, document.to_bytes(), document.media_type, platform=platform, what=what)
    names = sorted({name for item in index.manifests for name in _names(item)})
    have = f"It has: {', '.join(names[:20])}." if names else "It has none with a name."
    if not distinct:
        raise ImageError(f"{what} has no such image", hint=have)
    raise ImageError(f"{what} has {len(distinct)} images", hint=f"Name one by its tag. {have}")


class NamedContent:
    """Documents and blobs by digest, under names like `blobs/sha256/HEX`."""

    origin: str | None = None

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._bytes(descriptor)

    def config(self, descriptor: Descriptor) -> bytes:
        return self._bytes(descriptor)

    def _bytes(self, descriptor: Descriptor) -> bytes:
        with self.opener(descriptor)() as stream:
            return stream.read(min(descriptor.size_bytes, MAX_JSON_BYTES) + 1)

    def opener(self, descriptor: Descriptor) -> Callable[[], BinaryIO]:
        raise NotImplementedError


def _names(descriptor: Descriptor) -> set[str]:
    """The names by which an entry may be asked for: the whole one and its tag."""
    found = set()
    for key in (REF_NAME, CONTAINERD_NAME):
        if name := descriptor.annotations.get(key):
            found.add(name)
            _, colon, tag = name.rpartition(":")
            if colon and "/" not in tag:
                found.add(tag)
    return found
