"""Descriptors, manifests, indexes and configs as the OCI specifications spell them. No I/O.

Sources: OCI image specification 1.1: descriptor.md, manifest.md, image-index.md, config.md; Docker image
manifest version 2, schema 2; Docker image specification 1.3 for the config fields that OCI reserves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import ImageError
from wain.platforms import Platform

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MANIFEST_TYPES = (MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (INDEX, DOCKER_INDEX)

# What a schema 2 media type is called in an OCI manifest: the bytes are the same.
OCI_TYPE_OF = {
    DOCKER_MANIFEST: MANIFEST,
    DOCKER_INDEX: INDEX,
    DOCKER_CONFIG: CONFIG,
    DOCKER_LAYER_TAR: LAYER_TAR,
    DOCKER_LAYER_GZIP: LAYER_GZIP,
}

MAX_JSON_BYTES = 4 << 20
"""The largest manifest, index or config that is read; registries refuse larger manifests."""


def canonical_json(value: JSON) -> bytes:
    """UTF-8 JSON with sorted keys and no white space: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load_json(data: bytes, what: str) -> dict[str, JSON]:
    """The JSON object in `data`.

    :param what: names the document in errors.
    :raises ImageError: when it is larger than `MAX_JSON_BYTES`, no JSON, nested too deep, or no object.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ImageError(f"{what} has {len(data)} bytes", hint=f"At most {MAX_JSON_BYTES} bytes are read.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(
            f"{what} is not JSON: {error}", hint="The image is damaged; fetch or build it again."
        ) from error
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object", hint="The image is damaged; fetch or build it again.")
    return value


class Reader:
    """Typed access to the members of a JSON object; every complaint names the member's path."""

    __slots__ = ("_value", "_what")

    def __init__(self, value: Mapping[str, JSON], what: str) -> None:
        self._value = value
        self._what = what

    def _wrong(self, key: str, wanted: str) -> ImageError:
        return ImageError(f"{self._what}.{key} is not {wanted}", hint="The image is damaged or made by a faulty tool.")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self._value.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        value = self._value.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(key, "a whole number from 0")
        return value

    def flag(self, key: str) -> bool:
        value = self._value.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return bool(value)

    def object(self, key: str) -> Mapping[str, JSON]:
        value = self._value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return value

    def objects(self, key: str) -> list[Reader]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, "a list of objects")
        return [Reader(item, f"{self._what}.{key}[{n}]") for n, item in enumerate(value) if isinstance(item, dict)]

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self._value.get(key)
        if value is None:
            return None
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list):
            raise self._wrong(key, "a list of strings")
        texts = tuple(item for item in value if isinstance(item, str))
        if len(texts) != len(value):
            raise self._wrong(key, "a list of strings")
        return texts

    def text_map(self, key: str) -> dict[str, str]:
        found = self.object(key)
        texts = {name: item for name, item in found.items() if isinstance(item, str)}
        if len(texts) != len(found):
            raise self._wrong(key, "an object of strings")
        return texts

    def others(self, known: frozenset[str]) -> dict[str, JSON]:
        return {name: item for name, item in self._value.items() if name not in known}


class Descriptor(Struct, frozen=True, kw_only=True):
    """What a blob is, by media type, digest and size."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str | None = None

    @classmethod
    def read(cls, reader: Reader) -> Descriptor:
        platform = reader.object("platform")
        inner = Reader(platform, "platform")
        return cls(
            media_type=reader.text("mediaType"),
            digest=Digest(reader.text("digest")),
            size_bytes=reader.integer("size"),
            annotations=reader.text_map("annotations"),
            platform=Platform(inner.text("os"), inner.text("architecture"), inner.optional_text("variant"))
            if platform
            else None,
            artifact_type=reader.optional_text("artifactType"),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.platform:
            platform: dict[str, JSON] = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.variant:
                platform["variant"] = self.platform.variant
            value["platform"] = platform
        return value

    @property
    def is_attestation(self) -> bool:
        """Whether it is BuildKit's provenance or SBOM, which stands in an index beside the images."""
        return (self.platform is not None and self.platform.architecture == "unknown") or (
            "vnd.docker.reference.type" in self.annotations
        )


class Manifest(Struct, frozen=True, kw_only=True):
    """An image manifest: a config and layers, the base's first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """:raises ImageError: when it is no image manifest of schema version 2."""
        value = load_json(data, "manifest")
        reader = Reader(value, "manifest")
        if value.get("schemaVersion") != 2:
            raise ImageError(
                f"the manifest's schemaVersion is {value.get('schemaVersion')!r}, not 2",
                hint="Images of Docker before 1.10 are not read; push it again with a newer Docker.",
            )
        media_type = reader.text("mediaType", MANIFEST)
        if media_type not in MANIFEST_TYPES:
            raise ImageError(f"{media_type!r} is no image manifest", hint="Name an image, not another artifact.")
        if not isinstance(value.get("config"), dict):
            raise ImageError("the manifest has no config", hint="Name an image, not another artifact.")
        return cls(
            config=Descriptor.read(Reader(reader.object("config"), "manifest.config")),
            layers=tuple(Descriptor.read(layer) for layer in reader.objects("layers")),
            media_type=media_type,
            annotations=reader.text_map("annotations"),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    def to_bytes(self) -> bytes:
        return canonical_json(self.to_json())


class Index(Struct, frozen=True, kw_only=True):
    """An image index: one manifest a platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """:raises ImageError: when it is no image index."""
        value = load_json(data, "index")
        reader = Reader(value, "index")
        media_type = reader.text("mediaType", INDEX)
        if media_type not in INDEX_TYPES or "manifests" not in value:
            raise ImageError(f"{media_type!r} is no image index", hint="Name an image, not another artifact.")
        return cls(
            manifests=tuple(Descriptor.read(item) for item in reader.objects("manifests")),
            media_type=media_type,
            annotations=reader.text_map("annotations"),
        )

    def to_bytes(self) -> bytes:
        value: dict[str, JSON] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.to_json() for manifest in self.manifests],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return canonical_json(value)

    def images(self) -> tuple[Descriptor, ...]:
        """The descriptors that are images: attestations and unknown types left out."""
        known = (*MANIFEST_TYPES, *INDEX_TYPES)
        return tuple(item for item in self.manifests if not item.is_attestation and item.media_type in known)


class History(Struct, frozen=True, kw_only=True):
    """One line of `docker history`."""

    created: str | None = None
    created_by: str | None = None
    comment: str | None = None
    author: str | None = None
    empty_layer: bool = False

    @classmethod
    def read(cls, reader: Reader) -> History:
        return cls(
            created=reader.optional_text("created"),
            created_by=reader.optional_text("created_by"),
            comment=reader.optional_text("comment"),
            author=reader.optional_text("author"),
            empty_layer=reader.flag("empty_layer"),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {}
        for key, text in (
            ("created", self.created),
            ("created_by", self.created_by),
            ("comment", self.comment),
            ("author", self.author),
        ):
            if text is not None:
                value[key] = text
        if self.empty_layer:
            value["empty_layer"] = True
        return value


_RUNTIME_KEYS = frozenset(
    ("User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal Healthcheck OnBuild Shell").split()
)


class Runtime(Struct, frozen=True, kw_only=True):
    """The `config` member: how a container of the image is started.

    `None` for `entrypoint`, `cmd`, `on_build`, `shell` and `healthcheck` means that the member is not there.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """`NAME=value`, in order."""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    healthcheck: Mapping[str, JSON] | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None
    others: Mapping[str, JSON] = field(default_factory=dict)
    """Members that are not known here, kept as they came."""

    @classmethod
    def read(cls, reader: Reader) -> Runtime:
        return cls(
            user=reader.optional_text("User") or "",
            exposed_ports=tuple(reader.object("ExposedPorts")),
            env=reader.texts("Env") or (),
            entrypoint=reader.texts("Entrypoint"),
            cmd=reader.texts("Cmd"),
            volumes=tuple(reader.object("Volumes")),
            working_dir=reader.optional_text("WorkingDir") or "",
            labels=reader.text_map("Labels"),
            stop_signal=reader.optional_text("StopSignal"),
            healthcheck=reader.object("Healthcheck") or None,
            on_build=reader.texts("OnBuild"),
            shell=reader.texts("Shell"),
            others=reader.others(_RUNTIME_KEYS),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = dict(self.others)
        if self.user:
            value["User"] = self.user
        if self.exposed_ports:
            value["ExposedPorts"] = {port: {} for port in self.exposed_ports}
        if self.env:
            value["Env"] = list(self.env)
        for key, words in (
            ("Entrypoint", self.entrypoint),
            ("Cmd", self.cmd),
            ("OnBuild", self.on_build),
            ("Shell", self.shell),
        ):
            if words is not None:
                value[key] = list(words)
        if self.volumes:
            value["Volumes"] = {path: {} for path in self.volumes}
        if self.working_dir:
            value["WorkingDir"] = self.working_dir
        if self.labels:
            value["Labels"] = dict(self.labels)
        if self.stop_signal:
            value["StopSignal"] = self.stop_signal
        if self.healthcheck:
            value["Healthcheck"] = dict(self.healthcheck)
        return value

    def environment(self) -> dict[str, str]:
        """`env` as a mapping; a later setting of a name wins."""
        return {name: value for name, _, value in (item.partition("=") for item in self.env)}

    def with_env(self, changes: Mapping[str, str]) -> Runtime:
        """A Runtime whose environment has these values too; names keep their place, new ones follow."""
        merged = {**self.environment(), **changes}
        return replace(self, env=tuple(f"{name}={value}" for name, value in merged.items()))


_CONFIG_KEYS = frozenset("architecture os variant created author config rootfs history".split())


class Config(Struct, frozen=True, kw_only=True):
    """An image config: platform, runtime, the layers' diff IDs and the history."""

    platform: Platform
    runtime: Runtime = field(default_factory=Runtime)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str | None = None
    others: Mapping[str, JSON] = field(default_factory=dict)
    """Members that are not known here (`os.version`, Docker's), kept as they came."""

    @classmethod
    def parse(cls, data: bytes) -> Config:
        """:raises ImageError: when it is no image config."""
        value = load_json(data, "config")
        reader = Reader(value, "config")
        rootfs = Reader(reader.object("rootfs"), "config.rootfs")
        return cls(
            platform=Platform(reader.text("os"), reader.text("architecture"), reader.optional_text("variant") or None),
            runtime=Runtime.read(Reader(reader.object("config"), "config.config")),
            diff_ids=tuple(Digest(text) for text in rootfs.texts("diff_ids") or ()),
            history=tuple(History.read(item) for item in reader.objects("history")),
            created=reader.optional_text("created"),
            author=reader.optional_text("author"),
            others=reader.others(_CONFIG_KEYS),
        )

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = dict(self.others)
        value["architecture"] = self.platform.architecture
        value["os"] = self.platform.os
        if self.platform.variant:
            value["variant"] = self.platform.variant
        if self.created:
            value["created"] = self.created
        if self.author:
            value["author"] = self.author
        value["config"] = self.runtime.to_json()
        value["rootfs"] = {"type": "layers", "diff_ids": [str(digest) for digest in self.diff_ids]}
        if self.history:
            value["history"] = [item.to_json() for item in self.history]
        return value

    def to_bytes(self) -> bytes:
        return canonical_json(self.to_json())
