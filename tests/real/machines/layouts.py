"""An OCI layout written by hand, so that the tests' bases owe nothing to wain."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def write_layout(
    layout: Path,
    layers: Sequence[Path],
    config: dict[str, Any],
    *,
    architecture: str = "amd64",
    history: Sequence[str] = (),
    tag: str = "latest",
) -> str:
    """Write an image of those plain tars to the OCI layout at `layout`, and return the manifest's digest.

    `config` is the config's inner `config` object; `history` has a `created_by` for each layer. The layout is
    made or gets one more image; the same input gives the same digest.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    descriptors, diff_ids = [], []
    for tar in layers:
        packed = blobs / f".{tar.name}.partial"
        plain = hashlib.sha256()
        with (
            open(tar, "rb") as source,
            open(packed, "wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=4, mtime=0) as sink,
        ):
            while chunk := source.read(1 << 20):
                plain.update(chunk)
                sink.write(chunk)
        digest, size = _digest(packed), packed.stat().st_size
        packed.rename(blobs / digest.partition(":")[2])
        descriptors.append({"mediaType": _LAYER, "digest": digest, "size": size})
        diff_ids.append(f"sha256:{plain.hexdigest()}")
    made = "2026-01-01T00:00:00Z"
    lines = list(history) or [f"layer {number}" for number in range(len(layers))]
    image_config = {
        "created": made,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": made, "created_by": line} for line in lines],
    }
    if architecture == "arm64":
        image_config["variant"] = "v8"
    config_descriptor = _put(blobs, _CONFIG, image_config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": config_descriptor,
        "layers": descriptors,
    }
    descriptor = _put(blobs, _MANIFEST, manifest)
    descriptor["platform"] = {"architecture": architecture, "os": "linux"}
    if architecture == "arm64":
        descriptor["platform"]["variant"] = "v8"
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index_path = layout / "index.json"
    entries = json.loads(index_path.read_text())["manifests"] if index_path.exists() else []
    entries = [entry for entry in entries if entry.get("annotations") != descriptor["annotations"]]
    index_path.write_text(json.dumps({"schemaVersion": 2, "manifests": [*entries, descriptor]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return str(descriptor["digest"])


def copy_layout(source: Path, target: Path) -> Path:
    """A copy of a layout that may be written to."""
    shutil.copytree(source, target)
    return target


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _put(blobs: Path, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    hexadecimal = hashlib.sha256(data).hexdigest()
    (blobs / hexadecimal).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{hexadecimal}", "size": len(data)}
