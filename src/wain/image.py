"""Images and indexes of them: frozen; each change returns a new one; digests are computed when asked.

Source: OCI image specification, manifest.md and config.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, ClassVar

from msgspec import field
from msgspec.structs import replace

from wain.digest import Digest, VerifyingReader
from wain.errors import BaseError, ImageError
from wain.layers import RECIPE_KEY, Layer
from wain.oci import CONFIG, MANIFEST, OCI_TYPE_OF, Config, Descriptor, History, Manifest, Runtime
from wain.oci import Index as IndexDocument
from wain.platforms import Platform
from wain.records import Record


class Image(Record, frozen=True, kw_only=True):
    """One platform's image: a config and its layers, the lowest first.

    What was read from elsewhere is kept as the bytes that came (`source_config`, `source_manifest`), so a
    copy keeps its digest; they are dropped by whatever changes the image.
    """

    unshown: ClassVar = ("source_config", "source_manifest")

    config: Config
    layers: tuple[Layer, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    """The manifest's."""
    source_config: bytes | None = None
    source_manifest: bytes | None = None

    @classmethod
    def from_documents(cls, manifest: bytes, config: bytes, layers: tuple[Layer, ...]) -> Image:
        """The image that these documents, kept verbatim, and layers make.

        :raises ImageError: when their counts or digests do not agree.
        """
        image = cls(
            config=Config.parse(config),
            layers=layers,
            annotations=Manifest.parse(manifest).annotations,
            source_config=config,
            source_manifest=manifest,
        )
        check_image(image)
        return image

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def config_bytes(self) -> bytes:
        return self.source_config if self.source_config is not None else self.config.to_bytes()

    @property
    def manifest(self) -> Manifest:
        if self.source_manifest is not None:
            return Manifest.parse(self.source_manifest)
        return Manifest(
            config=Descriptor(
                media_type=CONFIG,
                digest=Digest.of(self.config_bytes),
                size_bytes=len(self.config_bytes),
            ),
            layers=tuple(layer.descriptor for layer in self.layers),
            annotations=self.annotations,
        )

    @property
    def manifest_bytes(self) -> bytes:
        return self.source_manifest if self.source_manifest is not None else self.manifest.to_bytes()

    @property
    def digest(self) -> Digest:
        """The manifest's: what names the image."""
        return Digest.of(self.manifest_bytes)

    @property
    def descriptor(self) -> Descriptor:
        data = self.manifest_bytes
        return Descriptor(
            media_type=self.manifest.media_type,
            digest=Digest.of(data),
            size_bytes=len(data),
            platform=self.platform,
        )

    def append(self, *layers: Layer, created: str | None = None) -> Image:
        """The image with more layers on top, each with its line of history; in OCI's media types."""
        return replace(
            self.to_oci(),
            layers=(*self.to_oci().layers, *layers),
            config=replace(
                self.config,
                diff_ids=(*self.config.diff_ids, *(layer.diff_id for layer in layers)),
                history=(
                    *padded_history(self.config),
                    *(
                        History(created=created, created_by=layer.created_by or None, comment=_comment(layer))
                        for layer in layers
                    ),
                ),
            ),
            source_config=None,
            source_manifest=None,
        )

    def with_runtime(self, runtime: Runtime) -> Image:
        return self.with_config(replace(self.config, runtime=runtime))

    def with_config(self, config: Config) -> Image:
        """The image with another config.

        :raises ImageError: when its diff IDs are not the layers'.
        """
        image = replace(self.to_oci(), config=config, source_config=None, source_manifest=None)
        check_image(image)
        return image

    def with_annotations(self, annotations: Mapping[str, str]) -> Image:
        return replace(self.to_oci(), annotations={**self.annotations, **annotations}, source_manifest=None)

    def to_oci(self) -> Image:
        """The image with OCI media types throughout; itself where it has them.

        Schema 2 and OCI media types never stand in one manifest; the bytes of layers and config are the same.
        """
        if self.manifest.media_type == MANIFEST and not any(layer.media_type in OCI_TYPE_OF for layer in self.layers):
            return self
        return replace(
            self,
            layers=tuple(
                replace(layer, media_type=OCI_TYPE_OF.get(layer.media_type, layer.media_type)) for layer in self.layers
            ),
            source_manifest=None,
        )

    def rebase(self, old_base: Image, new_base: Image) -> Image:
        """The layers above `old_base` put on `new_base`; what the old base's config set gives way to the new.

        :raises BaseError: when `old_base` is not below this image, or the platforms differ.
        """
        count = len(old_base.layers)
        if self.config.diff_ids[:count] != old_base.config.diff_ids:
            raise BaseError(
                "the image was not made on that base",
                hint="Name the base that stands in its labels, by digest.",
            )
        if not self.platform.same_as(new_base.platform):
            raise BaseError(
                f"the image is for {self.platform}, the new base for {new_base.platform}",
                hint="Name a base of the same platform.",
            )
        old, mine, new = old_base.config.runtime, self.config.runtime, new_base.config.runtime
        old_env, new_env = old.environment(), new.environment()
        env = {**new_env}
        for name, value in mine.environment().items():
            if old_env.get(name) != value:
                env[name] = value
        runtime = replace(
            mine,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            user=new.user if mine.user == old.user else mine.user,
            working_dir=new.working_dir if mine.working_dir == old.working_dir else mine.working_dir,
            entrypoint=new.entrypoint if mine.entrypoint == old.entrypoint else mine.entrypoint,
            cmd=new.cmd if mine.cmd == old.cmd else mine.cmd,
            stop_signal=new.stop_signal if mine.stop_signal == old.stop_signal else mine.stop_signal,
            shell=new.shell if mine.shell == old.shell else mine.shell,
            healthcheck=new.healthcheck if mine.healthcheck == old.healthcheck else mine.healthcheck,
            labels={
                **new.labels,
                **{name: value for name, value in mine.labels.items() if old.labels.get(name) != value},
            },
        )
        new_oci = new_base.to_oci()
        above = padded_history(self.config)[len(padded_history(old_base.config)) :]
        return replace(
            self.to_oci(),
            layers=(*new_oci.layers, *self.to_oci().layers[count:]),
            config=replace(
                self.config,
                runtime=runtime,
                diff_ids=(*new_base.config.diff_ids, *self.config.diff_ids[count:]),
                history=(*padded_history(new_base.config), *above),
                others=new_base.config.others,
            ),
            source_config=None,
            source_manifest=None,
        )


class Blob(Record, frozen=True, kw_only=True):
    """Bytes that a manifest names, of whatever kind: reopenable, verified at the end of each reading."""

    unshown: ClassVar = ("source",)
    uncompared: ClassVar = ("source",)

    descriptor: Descriptor
    source: Callable[[], BinaryIO]
    """Opens the blob from its first byte; the caller closes it."""
    origin: str | None = None
    """`registry/repository` that is known to have the blob, to mount it from."""

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def size_bytes(self) -> int:
        return self.descriptor.size_bytes

    def open(self) -> BinaryIO:
        """:raises HashMismatch: from the reader, when the bytes are not those of `digest`."""
        return VerifyingReader(self.source(), self.digest, self.size_bytes, what=f"blob {self.digest}")  # type: ignore[return-value]


class Artifact(Record, frozen=True, kw_only=True):
    """A manifest of an index that is no image (an attestation), so that a copy of the index is whole."""

    unshown: ClassVar = ("manifest_bytes",)

    descriptor: Descriptor
    """As the index has it."""
    manifest_bytes: bytes
    blobs: tuple[Blob, ...] = ()
    """Its config and layers."""


class Index(Record, frozen=True, kw_only=True):
    """Images of several platforms under one name, in the order that the index lists them."""

    unshown: ClassVar = ("source", "artifacts")

    images: tuple[Image, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    source: bytes | None = None
    """The index as it came, with entries that are no images (attestations) still in it."""
    artifacts: tuple[Artifact, ...] = ()
    """What `source` lists besides images."""

    @property
    def to_bytes(self) -> bytes:
        if self.source is not None:
            return self.source
        return IndexDocument(
            manifests=tuple(image.descriptor for image in self.images), annotations=self.annotations
        ).to_bytes()

    @property
    def media_type(self) -> str:
        return IndexDocument.parse(self.to_bytes).media_type

    @property
    def digest(self) -> Digest:
        return Digest.of(self.to_bytes)

    def image_for(self, platform: Platform) -> Image:
        """:raises ImageError: when no image is for the platform; says which are."""
        for image in self.images:
            if image.platform.same_as(platform):
                return image
        have = ", ".join(str(image.platform) for image in self.images) or "none"
        raise ImageError(f"no image for {platform}", hint=f"There are images for: {have}.")


def _comment(layer: Layer) -> str:
    """Where the recipe key stands too: descriptors' annotations are lost by docker push and podman."""
    key = layer.annotations.get(RECIPE_KEY)
    return f"wain {key}" if key else "wain"


def padded_history(config: Config) -> tuple[History, ...]:
    """The history with one non-empty entry a layer, filled up below where a base has too few.

    :raises ImageError: when the history speaks of more layers than there are.
    """
    filled = sum(not item.empty_layer for item in config.history)
    missing = len(config.diff_ids) - filled
    if missing < 0:
        raise ImageError(
            f"the config's history tells of {filled} layers and it has {len(config.diff_ids)}",
            hint="The image is damaged or made by a faulty tool; build it again.",
        )
    return (*(History(created_by="unknown") for _ in range(missing)), *config.history)


def check_image(image: Image) -> None:
    """The invariants that hold for every image, whoever made it.

    One layer a diff ID and descriptor, the same digests in manifest and layers, the config's digest and size as
    the manifest says, no schema 2 type beside OCI's, history not longer than the layers.

    :raises ImageError: names the first that does not hold.
    """
    manifest = image.manifest
    hint = "The image is damaged or made by a faulty tool; build it again."
    if not len(manifest.layers) == len(image.layers) == len(image.config.diff_ids):
        raise ImageError(
            f"{len(manifest.layers)} layers in the manifest, {len(image.layers)} blobs and"
            f" {len(image.config.diff_ids)} diff IDs in the config",
            hint=hint,
        )
    for number, (descriptor, layer, diff_id) in enumerate(
        zip(manifest.layers, image.layers, image.config.diff_ids, strict=True)
    ):
        if (descriptor.digest, descriptor.size_bytes) != (layer.digest, layer.size_bytes):
            raise ImageError(f"layer {number} is {layer.digest}, the manifest says {descriptor.digest}", hint=hint)
        if layer.diff_id != diff_id:
            raise ImageError(f"layer {number} has diff ID {layer.diff_id}, the config says {diff_id}", hint=hint)
    data = image.config_bytes
    if (manifest.config.digest, manifest.config.size_bytes) != (Digest.of(data), len(data)):
        raise ImageError("the config is not the one that the manifest names", hint=hint)
    is_oci = manifest.media_type == MANIFEST
    if is_oci and any(layer.media_type in OCI_TYPE_OF for layer in manifest.layers):
        raise ImageError("the manifest mixes OCI and Docker schema 2 media types", hint=hint)
    padded_history(image.config)
