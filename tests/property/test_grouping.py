"""What a change of one wheel does to the layers of a set."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wain.digest import Digest
from wain.grouping import LARGE_BYTES, Item, _size_class, group

BUDGET = 34


def _item(name: str, size_bytes: int, version: int = 0) -> Item:
    return Item(name=name, size_bytes=size_bytes, digests=(Digest.of(f"{name} {size_bytes} {version}".encode()),))


def _like_an_index(rng: random.Random) -> int:
    """A wheel's size as indexes have them: half below 200 KB, one in forty above 10 MB."""
    return max(1_000, min(int(rng.lognormvariate(12.2, 2.0)), 3_000_000_000))


def _made_set(seed: int, count: int) -> dict[str, Item]:
    rng = random.Random(seed)
    return {f"dist-{n}-{seed}": _item(f"dist-{n}-{seed}", _like_an_index(rng)) for n in range(count)}


def _layers(items: dict[str, Item]) -> set[tuple[Digest, ...]]:
    return {tuple(d for item in layer for d in item.digests) for layer in group(items.values(), budget=BUDGET)}


sets = st.builds(_made_set, st.integers(0, 1 << 30), st.integers(1, 300))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sets, st.integers(0, 1 << 30), st.floats(0, 1))
def test_a_bump_within_its_size_class_changes_one_layer(items: dict[str, Item], pick: int, where: float) -> None:
    name = sorted(items)[pick % len(items)]
    low = LARGE_BYTES * 2.0 ** _size_class(items[name])
    bumped = {**items, name: _item(name, min(int(low * (1 + where)) + 1, int(2 * low) - 1), version=1)}
    assert len(_layers(bumped) - _layers(items)) == 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sets, st.integers(0, 1 << 30), st.sampled_from(["add", "remove", "resize"]))
def test_any_other_change_changes_at_most_three(items: dict[str, Item], seed: int, change: str) -> None:
    rng = random.Random(seed)
    changed = dict(items)
    name = rng.choice(sorted(items))
    if change == "add":
        changed["added"] = _item("added", _like_an_index(rng))
    elif change == "remove":
        del changed[name]
    else:
        changed[name] = _item(name, _like_an_index(rng), version=1)
    assert len(_layers(changed) - _layers(items)) <= 3


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sets)
def test_layers_are_neither_many_nor_small(items: dict[str, Item]) -> None:
    layers = group(items.values(), budget=BUDGET)
    assert sorted(d for layer in layers for item in layer for d in item.digests) == sorted(
        d for item in items.values() for d in item.digests
    )
    assert len(layers) <= BUDGET
    sizes = [sum(item.size_bytes for item in layer) for layer in layers]
    if sum(sizes) > 100_000_000:
        assert statistics.median(sizes) >= 5_000_000


@pytest.mark.parametrize("count", [30, 300])
def test_many_large_wheels_stay_within_the_budget(count: int) -> None:
    items = {f"big-{n}": _item(f"big-{n}", LARGE_BYTES * (n + 1)) for n in range(count)}
    assert len(group(items.values(), budget=BUDGET)) <= BUDGET


def test_the_order_of_the_input_does_not_matter() -> None:
    items = list(_made_set(7, 120).values())
    expected = group(items, budget=BUDGET)
    random.Random(1).shuffle(items)
    assert group(items, budget=BUDGET) == expected
