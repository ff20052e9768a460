"""The merged view against the plainest model of it: one path after another, a dictionary of paths."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.layer_maker import Member, directory, file, hardlink, make_layer, symlink
from wain.errors import ImageError
from wain.rootfs import OPAQUE_WHITEOUT, WHITEOUT_PREFIX, Rootfs

Model = dict[str, tuple[str, str]]
"""Path -> kind and what it holds."""

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
operations = st.one_of(
    st.tuples(st.just("file"), paths, st.sampled_from(["1", "2", "3"])),
    st.tuples(st.just("directory"), paths, st.just("")),
    st.tuples(st.just("whiteout"), paths, st.just("")),
    st.tuples(st.just("opaque"), paths | st.just(""), st.just("")),
)
layers = st.lists(st.lists(operations, max_size=8), min_size=1, max_size=4)


def below(path: str, top: str) -> bool:
    return path.startswith(f"{top}/") if top else True


def remove(model: Model, top: str, *, itself: bool) -> None:
    for path in [path for path in model if below(path, top) or (itself and path == top)]:
        del model[path]


def parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def is_consistent(layer: list[tuple[str, str, str]]) -> bool:
    """Whether no path of the layer lies below a file of it: such a layer cannot be unpacked."""
    placed: Model = {}
    for kind, path, _ in layer:
        if kind not in ("file", "directory"):
            continue
        if any(placed.get(parent, ("directory", ""))[0] == "file" for parent in parents(path)):
            return False
        if kind == "file":
            remove(placed, path, itself=True)
        for parent in parents(path):
            placed.setdefault(parent, ("directory", ""))
        placed[path] = (kind, "")
    return True


def apply(model: Model, layer: list[tuple[str, str, str]]) -> None:
    for kind, path, _ in layer:
        if kind == "whiteout" and all(model.get(parent, ("", ""))[0] == "directory" for parent in parents(path)):
            remove(model, path, itself=True)
        elif kind == "opaque":
            remove(model, path, itself=False)
    for kind, path, data in layer:
        if kind not in ("file", "directory"):
            continue
        for parent in parents(path):
            if model.get(parent, ("", ""))[0] != "directory":
                remove(model, parent, itself=True)
                model[parent] = ("directory", "")
        if kind == "file" or model.get(path, ("", ""))[0] != "directory":
            remove(model, path, itself=True)
        model[path] = (kind, data)


def members(layer: list[tuple[str, str, str]]) -> list[Member]:
    made = []
    for kind, path, data in layer:
        head, _, name = path.rpartition("/")
        if kind == "file":
            made.append(file(path, data.encode()))
        elif kind == "directory":
            made.append(directory(path))
        elif kind == "whiteout":
            made.append(file(f"{head}/{WHITEOUT_PREFIX}{name}".lstrip("/")))
        else:
            made.append(file(f"{path}/{OPAQUE_WHITEOUT}".lstrip("/")))
    return made


def view(rootfs: Rootfs) -> Model:
    return {path: (node.kind, (node.data or b"").decode()) for path, node in rootfs.walk()}


def merged(stack: list[list[tuple[str, str, str]]]) -> Rootfs:
    return Rootfs.of([make_layer(members(layer)) for layer in stack], keep=lambda path, size: True)


@given(layers)
def test_the_merged_view_is_the_models(stack: list[list[tuple[str, str, str]]]) -> None:
    """Layer by layer: whiteouts act on what is below, then the layer's own entries are put in place."""
    stack = [layer for layer in stack if is_consistent(layer)]
    model: Model = {}
    for layer in stack:
        apply(model, layer)
    assert view(merged(stack)) == model


@given(layers, st.randoms(use_true_random=False))
def test_where_whiteouts_stand_in_a_layer_does_not_matter(
    stack: list[list[tuple[str, str, str]]], dice: random.Random
) -> None:
    """layer.md: files that are present in the same layer as a whiteout can only be hidden by later layers."""
    stack = [layer for layer in stack if is_consistent(layer)]
    moved = []
    for layer in stack:
        whiteouts = [item for item in layer if item[0] in ("whiteout", "opaque")]
        others = [item for item in layer if item[0] not in ("whiteout", "opaque")]
        dice.shuffle(whiteouts)
        for item in whiteouts:
            others.insert(dice.randint(0, len(others)), item)
        moved.append(others)
    assert view(merged(moved)) == view(merged(stack))


@given(layers)
def test_a_layer_applied_twice_changes_nothing_more(stack: list[list[tuple[str, str, str]]]) -> None:
    stack = [layer for layer in stack if is_consistent(layer)]
    if stack:
        assert view(merged([*stack, stack[-1]])) == view(merged(stack))


@given(layers)
def test_an_opaque_root_forgets_all_that_is_below(stack: list[list[tuple[str, str, str]]]) -> None:
    *lower, top = [layer for layer in stack if is_consistent(layer)] or [[]]
    cleared = [*top, ("opaque", "", "")]
    assert view(merged([*lower, cleared])) == view(merged([top]))


links = st.one_of(
    operations,
    st.tuples(st.just("symlink"), paths, paths | st.sampled_from(["/", "..", "/a", "../../b/c"])),
    st.tuples(st.just("hardlink"), paths, paths),
)


@given(st.lists(st.lists(links, max_size=8), max_size=4), paths)
def test_no_set_of_links_leads_out_or_in_circles(stack: list[list[tuple[str, str, str]]], path: str) -> None:
    made = []
    for layer in stack:
        entries: list[Member] = []
        for item in layer:
            if item[0] == "symlink":
                entries.append(symlink(item[1], item[2]))
            elif item[0] == "hardlink":
                entries.append(hardlink(item[1], item[2]))
            else:
                entries += members([item])
        made.append(make_layer(entries))
    with contextlib.suppress(ImageError):
        rootfs = Rootfs.of(made)
        found = rootfs.find(path)
        if found is not None:
            assert rootfs.get(found[0]) is found[1]
            assert ".." not in found[0].split("/")
        for where, node in rootfs.walk():
            assert rootfs.get(where) is node
