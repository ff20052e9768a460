"""`wain inspect`: what is in an image, layer by layer."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wain.image import Image, Index
    from wain.oci import JSON


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `inspect` with its flags."""
    parser = subparsers.add_parser("inspect", help="show what is in an image, layer by layer")
    places = "registry.example/app:1, oci:DIR[:TAG], archive:FILE.tar or daemon:NAME"
    parser.add_argument("image", metavar="IMAGE", help=places)
    parser.add_argument("--platform", metavar="OS/ARCH", help="of an index, show this platform's image alone")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it")
    parser.add_argument(
        "--unpack",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read the layers for their unpacked sizes; not done unasked where a registry would have to send them",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the layers with their sizes and how the image is started.

    :raises WainError: as reading the image raises.
    """
    from wain.commands.copy import access_of
    from wain.image import Index
    from wain.names import RegistryReference, parse_reference
    from wain.platforms import Platform
    from wain.transfer import read_image

    platform = Platform.parse(args.platform) if args.platform else None
    reference = parse_reference(args.image)
    unpack = not isinstance(reference, RegistryReference) if args.unpack is None else args.unpack
    found = read_image(reference, platform=platform, access=access_of(args))
    images = found.images if isinstance(found, Index) else (found,)
    summaries = [summary_of(image, unpack=unpack) for image in images]
    if args.format == "json":
        print(json.dumps({"name": args.image, "digest": found.digest, "images": summaries}, indent=2))
    else:
        print(_text(args.image, found, images, summaries))
    return 0


def summary_of(image: Image, *, unpack: bool) -> dict[str, JSON]:
    """The image's layers with their sizes, and its config's main members."""
    from wain.image import padded_history
    from wain.rootfs import unpacked_bytes

    runtime = image.config.runtime
    steps = [item.created_by or "" for item in padded_history(image.config) if not item.empty_layer]
    layers: list[JSON] = []
    compressed = 0
    unpacked: int | None = 0
    for layer, step in zip(image.layers, steps, strict=True):
        size = unpacked_bytes(layer) if unpack else layer.unpacked_bytes
        compressed += layer.size_bytes
        unpacked = None if unpacked is None or size is None else unpacked + size
        layers.append(
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "media_type": layer.media_type,
                "created_by": step,
                "compressed_bytes": layer.size_bytes,
                "unpacked_bytes": size,
            }
        )
    return {
        "platform": str(image.platform),
        "digest": image.digest,
        "created": image.config.created,
        "compressed_bytes": compressed,
        "unpacked_bytes": unpacked,
        "layers": layers,
        "config": {
            "user": runtime.user,
            "working_dir": runtime.working_dir,
            "entrypoint": None if runtime.entrypoint is None else list(runtime.entrypoint),
            "cmd": None if runtime.cmd is None else list(runtime.cmd),
            "env": list(runtime.env),
            "ports": list(runtime.exposed_ports),
            "labels": dict(runtime.labels),
        },
    }


def _text(name: str, found: Image | Index, images: Sequence[Image], summaries: Sequence[dict[str, JSON]]) -> str:
    from wain.commands.console import human_size, table

    blocks = [f"{name}  {found.digest}"]
    for image, summary in zip(images, summaries, strict=True):
        runtime = image.config.runtime
        rows = [("layer", "compressed", "unpacked", "what")]
        layers = summary["layers"]
        assert isinstance(layers, list)
        for layer in layers:
            assert isinstance(layer, dict)
            unpacked, packed = layer["unpacked_bytes"], layer["compressed_bytes"]
            rows.append(
                (
                    str(layer["digest"]).partition(":")[2][:12],
                    human_size(packed) if isinstance(packed, int) else "?",
                    human_size(unpacked) if isinstance(unpacked, int) else "?",
                    _one_line(str(layer["created_by"])),
                )
            )
        packed, unpacked = summary["compressed_bytes"], summary["unpacked_bytes"]
        rows.append(
            (
                "total",
                human_size(packed) if isinstance(packed, int) else "?",
                human_size(unpacked) if isinstance(unpacked, int) else "?",
                f"{len(layers)} layers",
            )
        )
        facts = [
            ("platform", str(image.platform)),
            ("digest", str(image.digest)),
            ("user", runtime.user or "root"),
            ("folder", runtime.working_dir or "/"),
            ("command", " ".join((*(runtime.entrypoint or ()), *(runtime.cmd or ()))) or "none"),
            ("ports", ", ".join(runtime.exposed_ports) or "none"),
        ]
        blocks.append("\n".join(f"{key:<9} {_one_line(value)}" for key, value in facts))
        blocks.append(table(rows, right=frozenset((1, 2))))
    if any(summary["unpacked_bytes"] is None for summary in summaries):
        blocks.append("?: not known without reading the layers; --unpack reads them")
    return "\n\n".join(blocks)


def _one_line(text: str) -> str:
    """At most 100 printable characters: what others wrote does not steer the terminal."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return clean if len(clean) <= 100 else clean[:99] + "…"
