"""Images that a Docker daemon (or podman's socket) has: loaded and saved through its API.

Source: Docker Engine API, "Import images" and "Export an image".
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from wain import archive
from wain.content import Progress
from wain.digest import Digest
from wain.engine import Engine, copy_to, find_endpoint, image_path
from wain.errors import EngineError, ImageError
from wain.image import Image, Index
from wain.names import DaemonReference, parse_registry_reference
from wain.oci import JSON
from wain.platforms import Platform

log = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 1 << 20
_MAX_IMAGES = 500


def read(
    reference: DaemonReference, *, platform: Platform | None = None, engine: Engine | None = None
) -> Image | Index:
    """The image as the daemon saves it, in a file without a name that vanishes with the last layer's reader.

    :raises EngineError: when there is no engine or it has no such image.
    :raises ImageError: when what it saves is no image.
    """
    engine = engine or Engine(find_endpoint())
    with tempfile.TemporaryFile(prefix="wain-") as file:
        with engine.request("GET", image_path(reference.name, "get")) as response:
            copy_to(response, file, Path(tempfile.gettempdir()))
        file.flush()
        return archive.read_file(file, platform=platform, what=str(reference))


def write(
    image: Image | Index,
    reference: DaemonReference,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Digest:
    """Loads the image under the reference's name and further ones.

    Layers that the daemon has are left out where it is one that accepts such an archive: classic Docker does, the
    containerd store and podman do not.

    :raises EngineError: when there is no engine or it refuses the image.
    """
    engine = engine or Engine(find_endpoint())
    parse_registry_reference(reference.name)
    wanted = tuple(dict.fromkeys((reference.name, *names)))
    known = _known_layers(engine, image) if _is_classic(engine) else frozenset()
    try:
        _load(engine, image, wanted, progress, known)
    except EngineError as error:
        if not known:
            raise
        # A layer may have been pruned between question and load.
        log.info("%s; the image is sent whole", error.message)
        _load(engine, image, wanted, progress, frozenset())
    return image.digest


def _load(
    engine: Engine,
    image: Image | Index,
    names: Sequence[str],
    progress: Progress | None,
    without: frozenset[Digest],
) -> None:
    def send(file: BinaryIO) -> None:
        archive.stream(image, file, names=names, progress=progress, without=without)

    with engine.request("POST", "/images/load?quiet=1", body=send) as response:
        data = response.read(_MAX_ANSWER_BYTES)
    for line in data.splitlines():
        try:
            message = json.loads(line, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict) and message.get("error"):
            text = "".join(char if char.isprintable() else " " for char in str(message["error"]))[:300]
            raise EngineError(
                f"the engine at {engine.endpoint} does not load the image: {text}",
                hint="Check its disk space and its log; the image itself may be written with -o archive:FILE.tar.",
            )


def _is_classic(engine: Engine) -> bool:
    """Whether it is Docker with its own layer store: not containerd's, not podman."""
    try:
        version, info = engine.json("/version"), engine.json("/info")
    except EngineError as error:
        log.debug("the engine does not say what it is: %s", error.message)
        return False
    if not isinstance(version, dict) or not isinstance(info, dict):
        return False
    components = version.get("Components")
    names = [item.get("Name") for item in components if isinstance(item, dict)] if isinstance(components, list) else []
    if "Engine" not in names or any("podman" in str(name).lower() for name in names):
        return False
    return "containerd" not in json.dumps(info.get("DriverStatus")) and info.get("Driver") in (
        "overlay2",
        "vfs",
        "btrfs",
        "zfs",
        "fuse-overlayfs",
        "aufs",
    )


def _known_layers(engine: Engine, image: Image | Index) -> frozenset[Digest]:
    """The layers of the image that the daemon has, on the same layers below: a chain is all or nothing from below."""
    if isinstance(image, Index):
        return frozenset()
    mine = [str(item) for item in image.config.diff_ids]
    longest = 0
    try:
        listed = engine.json("/images/json")
        for item in listed[:_MAX_IMAGES] if isinstance(listed, list) else []:
            name = item.get("Id") if isinstance(item, dict) else None
            found = _diff_ids(engine.json(image_path(name, "json"))) if isinstance(name, str) else []
            same = 0
            while same < min(len(mine), len(found)) and mine[same] == found[same]:
                same += 1
            longest = max(longest, same)
    except (EngineError, ImageError) as error:
        log.debug("the engine's images cannot be listed: %s", error.message)
        return frozenset()
    below = {layer.digest for layer in image.layers[:longest]}
    return frozenset(below - {layer.digest for layer in image.layers[longest:]})


def _diff_ids(inspected: JSON) -> list[str]:
    rootfs = inspected.get("RootFS") if isinstance(inspected, dict) else None
    layers = rootfs.get("Layers") if isinstance(rootfs, dict) else None
    return [item for item in layers if isinstance(item, str)] if isinstance(layers, list) else []
