"""Which wheels share a layer, so that a change of one wheel changes few layers.

A wheel of `LARGE_BYTES` or more has a layer of its own. The others fall, by a hash of their name, into a
fixed row of slots; neighbouring slots share a layer until one of them weighs enough to end it. Nothing depends on
sizes but through size classes, powers of two: a new version of about the same size moves nothing but itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct

from wain.digest import Digest

LARGE_BYTES = 10_000_000
"""The smallest wheel file that has a layer of its own."""
SLOTS = 12
"""Small wheels fall into this many slots, so into at most as many layers."""
SLOT_END_BYTES = 5_000_000
"""A slot of this weight ends a layer: layers of small wheels come out at 5 MB or more, but for the last."""
OVERFLOW_SLOTS = 4
"""Layers for large wheels beyond the budget."""


class Item(Struct, frozen=True, kw_only=True):
    """A wheel as grouping sees it; wheels that write the same path with other bytes are one item."""

    name: str
    """Normalised name of the distribution (of the first, where the item has several)."""
    size_bytes: int
    """Of the wheel file."""
    digests: tuple[Digest, ...]
    row: int = 0
    """Small items of different rows share no layer."""


def group(items: Iterable[Item], *, budget: int) -> tuple[tuple[Item, ...], ...]:
    """The items of each layer, in the order of the layers: large ones by size, then the shared ones.

    :param budget: the most layers that may come of it, at least `SLOTS + OVERFLOW_SLOTS + 1`.
    """
    ranked = sorted(items, key=lambda item: (-_size_class(item), item.name))
    large = [item for item in ranked if _size_class(item) >= 0]
    small = [item for item in ranked if _size_class(item) < 0]
    rows = len({item.row for item in small}) or 1
    alone = max(budget - rows * SLOTS - OVERFLOW_SLOTS, 1)
    own = sorted(large[:alone], key=lambda item: (-item.size_bytes, item.name))
    overflow = sorted(large[alone:], key=lambda item: (_slot(item, OVERFLOW_SLOTS), item.name))
    return (
        *((item,) for item in own),
        *(tuple(share) for _, share in groupby(overflow, key=lambda item: _slot(item, OVERFLOW_SLOTS))),
        *(
            share
            for row in sorted({item.row for item in small})
            for share in _shared([item for item in small if item.row == row])
        ),
    )


def _shared(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    slots: list[list[Item]] = [[] for _ in range(SLOTS)]
    for item in sorted(items, key=lambda item: item.name):
        slots[_slot(item, SLOTS)].append(item)
    groups: list[tuple[Item, ...]] = []
    current: list[Item] = []
    for slot in slots:
        current += slot
        if sum(LARGE_BYTES * 2.0 ** _size_class(item) for item in slot) >= SLOT_END_BYTES:
            groups.append(tuple(sorted(current, key=lambda item: item.name)))
            current = []
    if current:
        groups.append(tuple(sorted(current, key=lambda item: item.name)))
    return groups


def _size_class(item: Item) -> int:
    """0 for `LARGE_BYTES` to twice that, 1 for the next doubling; below 0 for small ones."""
    return math.floor(math.log2(max(item.size_bytes, 1) / LARGE_BYTES))


def _slot(item: Item, count: int) -> int:
    return int.from_bytes(hashlib.sha256(item.name.encode()).digest()[:8]) % count
