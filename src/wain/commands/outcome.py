"""What is told of an image that was made: its layers, what changed, and how to run it."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from wain.commands.console import Console, human_size, table

if TYPE_CHECKING:
    from wain.digest import Digest
    from wain.explain import Change
    from wain.image import Image, Index
    from wain.layers import Layer
    from wain.request import Workshop

# What a registry did with a layer, as the summary says it.
_OUTCOMES = {"present": "already there", "uploaded": "uploaded", "mounted": "mounted"}


def layer_table(rows: Sequence[tuple[str, Layer, str]], blobs: Mapping[Digest, str]) -> str:
    """The layers of an image with their sizes and a sum.

    :param rows: what is in each layer, and how it came to be.
    :param blobs: what became of blobs that went to registries.
    """

    def size(unpacked_bytes: Sequence[int | None]) -> str:
        known = [item for item in unpacked_bytes if item is not None]
        return human_size(sum(known)) if len(known) == len(unpacked_bytes) else "?"

    cells = [("layer", "compressed", "unpacked", "")]
    for what, layer, state in rows:
        states = ", ".join(filter(None, (state, _OUTCOMES.get(blobs.get(layer.digest, "")))))
        cells.append((_shortened(what), human_size(layer.size_bytes), size([layer.unpacked_bytes]), states))
    compressed = sum(layer.size_bytes for _, layer, _ in rows)
    unpacked = size([layer.unpacked_bytes for _, layer, _ in rows])
    cells.append((f"{len(rows)} layers", human_size(compressed), unpacked, ""))
    return table(cells, right=frozenset({1, 2}))


def image_before(args: argparse.Namespace, earlier: Sequence[str], workshop: Workshop) -> Image | Index | None:
    """What `--explain` compares with: what --against names, else the first of the earlier images that is there.

    :raises UsageError: when nothing is named.
    :raises WainError: when what --against names cannot be read.
    """
    from wain.errors import UsageError, WainError
    from wain.transfer import read_image

    if args.against:
        return read_image(args.against, access=workshop.access)
    if not args.explain:
        return None
    if not earlier:
        raise UsageError("--explain has nothing to compare with", hint="Name the image before with --against REF.")
    for name in earlier:
        with contextlib.suppress(WainError):  # why it is not read was told when its layers were looked for
            return read_image(name, access=workshop.access)
    workshop.say("--explain has nothing to compare with yet")
    return None


def say_changes(console: Console, before: Image | Index, image: Image) -> None:
    """What differs from the image before, and what the next pull costs."""
    from wain.explain import next_pull
    from wain.image import Index

    images = before.images if isinstance(before, Index) else (before,)
    old = next((item for item in images if item.platform.same_as(image.platform)), None)
    if old is None:
        console.say(f"there was no image for {image.platform} before: all of it is new")
        return
    pull = next_pull(old, image)
    if not pull.changed and not pull.gone:
        console.say("its layers are those of the image before: the next pull fetches none")
        return
    for change in pull.changes():
        console.say(_change(change))
    console.say(
        f"the next pull: {human_size(pull.containerd_bytes)} with containerd's store,"
        f" {human_size(pull.classic_bytes)} with Docker's classic store"
    )


def _change(change: Change) -> str:
    """`+` for what is new, `-` for what is gone, `~` for what changed."""
    before, after = change.before, change.after
    layer = after or before
    assert layer is not None
    step = layer.created_by or layer.digest.short
    if before is None or after is None:
        return f"{'-' if after is None else '+'} {_shortened(step)} ({human_size(layer.size_bytes)})"
    if change.parts:
        step = ": ".join((*step.split(": ")[:-1], ", ".join(change.parts)))
    else:
        step = f"{_shortened(step)}: other files"
    return f"~ {step} ({human_size(after.size_bytes)}, was {human_size(before.size_bytes)})"


def _shortened(text: str, limit: int = 60) -> str:
    """A list of wheels cut at a comma, with how many were left out."""
    if len(text) <= limit:
        return text
    parts = text.split(", ")
    shown: list[str] = []
    for part in parts:
        if len(", ".join([*shown, part])) > limit - 12:
            break
        shown.append(part)
    if not shown:
        return text[: limit - 1] + "…"
    return f"{', '.join(shown)} and {len(parts) - len(shown)} more"


def say_how_to_run(
    console: Console,
    destinations: Sequence[str],
    names: Sequence[str],
    unchanged: Collection[str],
    image: Image | Index,
) -> None:
    """Where the image is, and the command that runs it."""
    from wain.names import ArchiveReference, DaemonReference, LayoutReference, parse_reference

    for destination in destinations:
        reference = parse_reference(destination)
        if isinstance(reference, ArchiveReference):
            state = "is as it was" if destination in unchanged else "is written"
            loaded = f"docker load -i {shlex.quote(str(reference.path))} && {_run_command(image, names[0])}"
            console.say(f"{reference.path} {state}; run it with: {loaded}")
        elif isinstance(reference, DaemonReference):
            console.say(f"loaded; run it with: {_run_command(image, reference.name)}")
        elif isinstance(reference, LayoutReference):
            console.say(f"{str(reference).removeprefix('oci:')} is written")
        else:
            console.say(f"pushed {destination}")


def _run_command(image: Image | Index, name: str) -> str:
    from wain.image import Index

    first = image.images[0] if isinstance(image, Index) else image
    ports = [port.removesuffix("/tcp") for port in first.config.runtime.exposed_ports]
    return " ".join(["docker run --rm", *(f"-p {port.partition('/')[0]}:{port}" for port in ports), name])
