"""What changed between two images, and what a node that has the one fetches for the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from wain.image import Image
from wain.layers import Layer

_WHEELS = re.compile(r"wain: (?:\d+ wheels: )?([\w.-]+ \d\S*(?:, [\w.-]+ \d\S*)*)")
"""A layer's step as `layers.describe` writes it."""


class Change(Struct, frozen=True, kw_only=True):
    """A layer of the new image with the one that stood for the same in the old; one of the two may be None."""

    before: Layer | None
    after: Layer | None
    parts: tuple[str, ...] = ()
    """Of layers of wheels that are in both, what differs: `six 1.16.0 -> 1.17.0`, `+ idna 3.1`, `- attrs 26.1`."""


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

    def changes(self) -> list[Change]:
        """What became of each layer: those that are gone for good first."""
        left = list(self.gone)
        found = []
        for after in self.changed:
            before = max(left, key=lambda layer: _likeness(layer, after), default=None)
            if before is None or _likeness(before, after) == 0:
                found.append(Change(before=None, after=after))
                continue
            left.remove(before)
            found.append(Change(before=before, after=after, parts=_differences(before, after)))
        return [*(Change(before=layer, after=None) for layer in left), *found]


def next_pull(old: Image, new: Image) -> Pull:
    """What changes from one image to the next; config and manifest, some kilobytes, are left out."""
    had = {layer.digest for layer in old.layers}
    has = {layer.digest for layer in new.layers}
    changed = tuple(layer for layer in _once(_with_steps(new)) if layer.digest not in had)
    return Pull(
        containerd_bytes=sum(layer.size_bytes for layer in changed),
        classic_bytes=sum(layer.size_bytes for layer in new.layers[_same_below(old, new) :]),
        changed=changed,
        gone=tuple(layer for layer in _once(_with_steps(old)) if layer.digest not in has),
    )


def _with_steps(image: Image) -> Sequence[Layer]:
    """The layers, each with what the history says of it: a layer that was just made may call itself otherwise."""
    steps = [item.created_by or "" for item in image.config.history if not item.empty_layer]
    lacking = [""] * (len(image.layers) - len(steps))
    return [replace(layer, created_by=step) for layer, step in zip(image.layers, [*lacking, *steps], strict=True)]


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


def _wheels_of(layer: Layer) -> dict[str, str]:
    """The versions of what a layer's step names, by name; empty where it is no layer of wheels."""
    match = _WHEELS.fullmatch(layer.created_by)
    return dict(item.split(" ", 1) for item in match[1].split(", ")) if match else {}


def _likeness(before: Layer, after: Layer) -> int:
    """How much two layers stand for the same; 0: not at all."""
    if not before.created_by:
        return 0
    return len(_wheels_of(before).keys() & _wheels_of(after).keys()) or int(before.created_by == after.created_by)


def _differences(before: Layer, after: Layer) -> tuple[str, ...]:
    had, has = _wheels_of(before), _wheels_of(after)
    return (
        *(f"{name} {had[name]} -> {has[name]}" for name in sorted(had.keys() & has.keys()) if had[name] != has[name]),
        *(f"- {name} {had[name]}" for name in sorted(had.keys() - has.keys())),
        *(f"+ {name} {has[name]}" for name in sorted(has.keys() - had.keys())),
    )
