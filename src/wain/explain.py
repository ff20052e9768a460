"""What changed between two images, and what a node that has the one fetches for the other."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from wain.image import Image
from wain.layers import Layer


class Pull(Struct, frozen=True, kw_only=True):
    """What a node fetches that has the old image, in compressed bytes."""

    containerd_bytes: int
    """Of the layers that it does not have; so does whoever pushes to a registry that has the old image."""
    classic_bytes: int
    """By Docker's classic store, which knows a layer by all that is below it: the lowest changed one and all above."""
    changed: tuple[Layer, ...]
    """Layers of the new image that the old one does not have."""
    gone: tuple[Layer, ...]
    """Layers of the old image that the new one does not have."""


def next_pull(old: Image, new: Image) -> Pull:
    """What changes from one image to the next; config and manifest, some kilobytes, are left out."""
    had = {layer.digest for layer in old.layers}
    has = {layer.digest for layer in new.layers}
    return Pull(
        containerd_bytes=sum(layer.size_bytes for layer in _once(new.layers) if layer.digest not in had),
        classic_bytes=sum(layer.size_bytes for layer in new.layers[_same_below(old, new) :]),
        changed=tuple(layer for layer in _once(new.layers) if layer.digest not in had),
        gone=tuple(layer for layer in _once(old.layers) if layer.digest not in has),
    )


def _once(layers: Sequence[Layer]) -> Sequence[Layer]:
    return tuple({layer.digest: layer for layer in layers}.values())


def _same_below(old: Image, new: Image) -> int:
    """How many layers from the lowest up are the same: equal chain IDs."""
    count = 0
    for before, after in zip(old.config.diff_ids, new.config.diff_ids, strict=False):
        if before != after:
            break
        count += 1
    return count
