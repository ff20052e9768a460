"""Layers that need not be made: a lock names them, or an earlier image has them, and a registry keeps them.

A layer is found by its recipe key. What a lock says of a key is trusted as the lock is; what an image says of one is
trusted because its reference was named for it. A registry is only asked whether it has a digest.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from msgspec import Struct

from wain import registry
from wain.digest import Digest
from wain.distribution import Access
from wain.errors import HashMismatch, ImageError, LockError, TransferError
from wain.image import Image, padded_history
from wain.layers import RECIPE_KEY, Layer
from wain.names import RegistryReference
from wain.oci import JSON, LAYER_GZIP, Descriptor, Reader, canonical_json

log = logging.getLogger(__name__)

WHEELS_LABEL = "dev.wain.wheels"
"""Of an image: the wheels in it with their sizes, so that the next build can group without having them."""
_KEY = re.compile(r"sha256:[0-9a-f]{64}")
_COMMENT = re.compile(rf"wain ({_KEY.pattern})")
_MAX_LABEL_BYTES = 1 << 20


class KnownLayer(Struct, frozen=True, kw_only=True):
    """What a recipe key gave when it was last computed."""

    key: Digest
    digest: Digest
    diff_id: Digest
    size_bytes: int
    unpacked_bytes: int | None = None
    created_by: str = ""
    names: tuple[str, ...] = ()
    """Of the wheels in it, normalised; empty for a base's layer."""

    @classmethod
    def of(cls, layer: Layer, names: Iterable[str] = ()) -> KnownLayer:
        """:raises ImageError: when the layer was not made by a recipe."""
        return cls(
            key=Digest(layer.annotations.get(RECIPE_KEY, "")),
            digest=layer.digest,
            diff_id=layer.diff_id,
            size_bytes=layer.size_bytes,
            unpacked_bytes=layer.unpacked_bytes,
            created_by=layer.created_by,
            names=tuple(names),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "key": self.key,
            "digest": self.digest,
            "diff-id": self.diff_id,
            "size": self.size_bytes,
            "created-by": self.created_by,
        }
        if self.unpacked_bytes is not None:
            value["unpacked"] = self.unpacked_bytes
        if self.names:
            value["names"] = [*self.names]
        return value

    @classmethod
    def from_json(cls, value: JSON) -> KnownLayer:
        """:raises LockError: when it is not what `to_json` gives."""
        hint = "Renew the lock with wain lock --layers."
        if not isinstance(value, dict):
            raise LockError("the lock's layers are malformed", hint=hint)
        reader = Reader(value, "tool.wain.layers")
        try:
            return cls(
                key=Digest(reader.text("key")),
                digest=Digest(reader.text("digest")),
                diff_id=Digest(reader.text("diff-id")),
                size_bytes=reader.integer("size"),
                unpacked_bytes=reader.integer("unpacked") if "unpacked" in value else None,
                created_by=reader.text("created-by", ""),
                names=reader.texts("names") or (),
            )
        except ImageError as error:
            raise LockError(f"the lock's layers are malformed: {error.message}", hint=hint) from error


class KnownWheels(Struct, frozen=True, kw_only=True):
    """What an image or a lock says of the wheels of one image: enough to group them without having them."""

    sizes: Mapping[Digest, int]
    """In bytes, of the wheel files."""
    together: tuple[tuple[Digest, ...], ...] = ()
    """Those that have a path in common with different bytes."""
    compilers: tuple[str, ...] = ()
    """The full versions of the Pythons whose bytecode the image has; empty where it has none."""
    bare: frozenset[Digest] = frozenset()
    """Those whose layer has no module to compile; known where the image has bytecode."""

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "sizes": {digest.hex: size for digest, size in sorted(self.sizes.items())},
            "together": [[digest.hex for digest in cluster] for cluster in self.together],
        }
        if self.compilers:
            value["compilers"] = [*self.compilers]
            value["bare"] = [digest.hex for digest in sorted(self.bare)]
        return value

    @classmethod
    def from_json(cls, value: JSON) -> KnownWheels:
        """:raises ValueError, KeyError, TypeError, AttributeError, ImageError: when it is not what `to_json` gives."""
        if not isinstance(value, dict):
            raise TypeError("no object")
        sizes, together = value["sizes"], value["together"]
        return cls(
            sizes={Digest(f"sha256:{name}"): int(size) for name, size in sizes.items()},  # type: ignore[union-attr, arg-type]
            together=tuple(tuple(Digest(f"sha256:{name}") for name in cluster) for cluster in together),  # type: ignore[union-attr]
            compilers=tuple(map(str, value.get("compilers", []))),  # type: ignore[arg-type]
            bare=frozenset(Digest(f"sha256:{name}") for name in value.get("bare", [])),  # type: ignore[union-attr]
        )

    def to_label(self) -> str:
        """The text of the label `WHEELS_LABEL`."""
        return base64.b64encode(zlib.compress(canonical_json(self.to_json()), 9)).decode()

    @classmethod
    def of_image(cls, image: Image) -> KnownWheels | None:
        """What an image's label says; None where it has none that can be read."""
        text = image.config.runtime.labels.get(WHEELS_LABEL, "")
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MAX_LABEL_BYTES)
            return cls.from_json(json.loads(data))
        except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, ImageError):
            return None

    def clusters(self, digests: Iterable[Digest]) -> tuple[tuple[Digest, ...], ...] | None:
        """Which of these wheels belong together, where this tells: it knows all of them but one at most.

        A new version of one wheel is taken to keep to itself as the one before it did.
        """
        wanted = set(digests)
        unknown = wanted - self.sizes.keys()
        if len(unknown) > 1 or (unknown and self.together):
            return None
        return tuple(cluster for cluster in self.together if wanted.issuperset(cluster))


class Source(Struct, frozen=True, kw_only=True):
    """Where known layers come from."""

    who: str
    """Whose digests they are, for people: `the lock`."""
    layers: tuple[KnownLayer, ...]
    wheels: KnownWheels | None = None
    """Of the image that the layers are of."""
    is_whole: bool = False
    """Whether its shares of wheels are the whole grouping of an image, as a lock's are."""


class Reuse:
    """Finds layers by recipe key in sources, where a registry has their blobs; threads may share one.

    :param places: repositories that are asked for the blobs, the image's destinations first.
    :param verify: find nothing, so that all is made, and compare what is made with what the sources say.
    """

    def __init__(
        self, sources: Sequence[Source], places: Sequence[RegistryReference], access: Access, *, verify: bool = False
    ) -> None:
        self._sources = tuple(sources)
        self._places = tuple(dict.fromkeys(places))
        self._access = access
        self._verify = verify
        self._lock = threading.Lock()
        self._present: dict[RegistryReference, set[Digest]] = {}
        self._compared: set[Digest] = set()
        self._was_read = False

    @property
    def verifies(self) -> bool:
        return self._verify

    @property
    def was_read(self) -> bool:
        """Whether the bytes of a layer that was found were asked of a registry."""
        return self._was_read

    @property
    def compared(self) -> int:
        """How many layers were compared with what a source says, and were the same."""
        return len(self._compared)

    def groups(self) -> tuple[tuple[str, ...], ...] | None:
        """The names of the wheels of each layer, where a source says the whole grouping."""
        for source in self._sources:
            if source.is_whole:
                return tuple(layer.names for layer in source.layers if layer.names)
        return None

    def clusters(self, digests: Sequence[Digest]) -> tuple[tuple[Digest, ...], ...] | None:
        """Which of the wheels share a path, where a source tells."""
        for source in self._sources if not self._verify else ():
            if source.wheels is not None and (found := source.wheels.clusters(digests)) is not None:
                return found
        return None

    def size_bytes(self, digest: Digest) -> int | None:
        """The size of a wheel's file, where a source tells."""
        for source in self._sources:
            if source.wheels is not None and digest in source.wheels.sizes:
                return source.wheels.sizes[digest]
        return None

    def compilers(self) -> tuple[str, ...]:
        """The Pythons by which bytecode was made that may be found, the most trusted source's first."""
        found = (version for source in self._sources if source.wheels for version in source.wheels.compilers)
        return () if self._verify else tuple(dict.fromkeys(found))

    def is_bare(self, digests: Iterable[Digest]) -> bool:
        """Whether a source says that none of these wheels has a module to compile."""
        wanted = set(digests)
        return not self._verify and any(source.wheels and wanted <= source.wheels.bare for source in self._sources)

    def find(self, key: Digest) -> Layer | None:
        """The layer of a recipe key, with its bytes in a registry; None where none is known or kept."""
        if self._verify:
            return None
        for source in self._sources:
            known = next((layer for layer in source.layers if layer.key == key), None)
            if known is None:
                continue
            for place in self._places:
                if known.digest in self._kept(place):
                    where = f"{place.registry}/{place.repository}"
                    log.info("%s: %s has it, with the digest that %s has", known.created_by, where, source.who)
                    return self._in_registry(known, place)
            if self._places:
                log.info("%s: %s has its digest, and no registry has it", known.created_by, source.who)
        return None

    def check(self, layer: Layer) -> None:
        """Compare a layer that was made here with what the sources say of its key.

        :raises HashMismatch: when a source says another digest.
        """
        key = layer.annotations.get(RECIPE_KEY)
        for source in self._sources:
            for known in source.layers:
                if known.key != key:
                    continue
                if (known.digest, known.diff_id) != (layer.digest, layer.diff_id):
                    raise HashMismatch(
                        f"{layer.created_by} is {layer.digest}, and {source.who} has {known.digest} for it",
                        hint="The layer that is kept is wrong: do not use that image or lock, and make it anew.",
                    )
                with self._lock:
                    self._compared.add(known.key)

    def _in_registry(self, known: KnownLayer, place: RegistryReference) -> Layer:
        descriptor = Descriptor(media_type=LAYER_GZIP, digest=known.digest, size_bytes=known.size_bytes)

        def source() -> BinaryIO:
            self._was_read = True
            return registry.open_blob(place, descriptor, access=self._access)

        return Layer(
            digest=known.digest,
            diff_id=known.diff_id,
            size_bytes=known.size_bytes,
            source=source,
            unpacked_bytes=known.unpacked_bytes,
            created_by=known.created_by,
            annotations={RECIPE_KEY: known.key},
            origin=f"{place.registry}/{place.repository}",
        )

    def _kept(self, place: RegistryReference) -> set[Digest]:
        with self._lock:
            if place not in self._present:
                wanted = dict.fromkeys(layer.digest for source in self._sources for layer in source.layers)
                try:
                    self._present[place] = registry.present(place, wanted, access=self._access)
                except TransferError as error:
                    log.warning("%s is not asked for layers: %s", place.registry, error.message)
                    self._present[place] = set()
            return self._present[place]


def layers_of(image: Image) -> tuple[KnownLayer, ...]:
    """The layers of an image that wain made, by the keys in its history, else in its descriptors."""
    steps = [item for item in padded_history(image.config) if not item.empty_layer]
    found = []
    for layer, step in zip(image.layers, steps, strict=True):
        match = _COMMENT.fullmatch(step.comment or "")
        key = match[1] if match else layer.annotations.get(RECIPE_KEY, "")
        if _KEY.fullmatch(key) and layer.media_type == LAYER_GZIP:
            found.append(
                KnownLayer(
                    key=Digest(key),
                    digest=layer.digest,
                    diff_id=layer.diff_id,
                    size_bytes=layer.size_bytes,
                    created_by=step.created_by or "",
                )
            )
    return tuple(found)
