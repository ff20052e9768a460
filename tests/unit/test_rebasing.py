"""An image's layers on another base, and what the next pull then costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import pytest
from msgspec.structs import replace

from tests.unit.layer_maker import Member, file, make_layer
from tests.unit.test_bases import glibc, image_of, official
from tests.unit.wain_project import Wain, index, wain
from wain.build import BASE_LAYERS, BASE_NAME
from wain.errors import BaseError
from wain.explain import next_pull
from wain.image import Image, check_image
from wain.layout import write as write_layout
from wain.names import LayoutReference
from wain.oci import Config, Runtime
from wain.platforms import Platform
from wain.testing import random_image

__all__ = ["index", "wain"]


def _new_base(wain: Wain, *extra: Member, members: Sequence[Member] | None = None, minor: int = 41) -> str:
    """Another base in a layout: its reference."""
    layer = make_layer([*glibc(minor), *(official() if members is None else members), *extra])
    image = image_of(layer, env=("PATH=/usr/local/bin:/usr/bin:/bin", "PYTHON_VERSION=3.13.5", "NEW=1"))
    write_layout(image, LayoutReference(path=wain.folder / "newer", tag="1"))
    return f"oci:{wain.folder / 'newer'}:1"


def test_the_layers_stand_on_the_new_base(wain: Wain) -> None:
    wain.build()
    before = wain.image()
    onto = _new_base(wain)
    digest = wain("rebase", f"oci:{wain.folder / 'out'}:1", "--onto", onto)
    after = wain.image()
    check_image(after)
    assert after.digest == digest
    assert after.layers[1:] == before.layers[1:]
    assert after.layers[0] != before.layers[0]
    environment = after.config.runtime.environment()
    assert environment["NEW"] == "1"
    assert environment["VIRTUAL_ENV"] == "/opt/venv"
    assert after.config.runtime.entrypoint == before.config.runtime.entrypoint
    assert after.config.runtime.labels["org.opencontainers.image.base.name"] == onto


def test_an_image_that_is_built_there_is_the_same(wain: Wain) -> None:
    wain.build()
    onto = _new_base(wain)
    rebased = wain("rebase", f"oci:{wain.folder / 'out'}:1", "--onto", onto)
    image = wain.image()
    wain.build("--base", onto)
    built = wain.image()
    assert [layer.digest for layer in built.layers] == [layer.digest for layer in image.layers]
    assert sorted(built.config.runtime.env) == sorted(image.config.runtime.env)
    assert rebased


@pytest.mark.parametrize(
    ("extra", "members", "minor", "told"),
    [
        ((), official(12, version="3.12.1"), 41, "Python is 3.12, not 3.13"),
        ((file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),), None, 41, "users"),
        ((), None, 17, "older"),
    ],
    ids=["python", "users", "libc"],
)
def test_a_base_that_lacks_something_is_refused(
    wain: Wain, extra: tuple[Member, ...], members: list[Member] | None, minor: int, told: str
) -> None:
    wain.build()
    before = wain.image().digest
    onto = _new_base(wain, *extra, members=members, minor=minor)
    wain("rebase", f"oci:{wain.folder / 'out'}:1", "--onto", onto, code=BaseError.exit_code)
    assert told in wain.err
    assert wain.image().digest == before


def test_the_packages_of_a_built_in_base_stay(wain: Wain, monkeypatch: pytest.MonkeyPatch) -> None:
    wain.build()
    steps = ("wain: debian bookworm, 2 packages", "wain: debian packages: libpq5 15.20-0, libxml2 2.9", "wain: a 1.0")
    layers = [replace(layer, created_by=step) for layer, step in zip(random_image(4).layers, steps, strict=True)]
    labels = {**wain.image().config.runtime.labels, BASE_NAME: "debian:bookworm", BASE_LAYERS: "2"}
    image = Image(config=Config(platform=Platform(), runtime=Runtime(labels=labels))).append(*layers)
    write_layout(image, LayoutReference(path=wain.folder / "out", tag="1"))
    asked: list[object] = []

    def opened(name: str, *_: object, packages: Sequence[str]) -> NoReturn:
        asked.extend([name, *packages])
        raise BaseError("stop", hint="here")

    monkeypatch.setattr("wain.rebasing.open_base", opened)
    wain("rebase", f"oci:{wain.folder / 'out'}:1", "--onto", "debian:bookworm", code=BaseError.exit_code)
    assert asked == ["debian:bookworm", "libpq5", "libxml2"]


def test_an_image_of_others_is_refused(wain: Wain) -> None:
    write_layout(random_image(1), LayoutReference(path=wain.folder / "other", tag="1"))
    wain("rebase", f"oci:{wain.folder / 'other'}:1", "--onto", _new_base(wain), code=BaseError.exit_code)
    assert "wain built" in wain.err


def test_explain_says_both_figures(wain: Wain) -> None:
    wain.build()
    wain.build("-o", f"oci:{wain.folder / 'before'}:1")
    wain.index.add("beta", "1.6", content=b"x = 1\n")
    wain.build("--refresh", "--against", f"oci:{wain.folder / 'before'}:1")
    assert "~ wain: 2 wheels: beta 1.5 -> 1.6 (" in wain.err
    assert "with containerd's store" in wain.err
    wain.build("--explain", code=2)


def test_layers_are_told_by_what_they_stand_for() -> None:
    def image(*layers: tuple[int, str]) -> Image:
        made = [replace(random_image(seed, layers=1).layers[0], created_by=step) for seed, step in layers]
        return Image(config=Config(platform=Platform())).append(*made)

    old = image((1, "wain: 3 wheels: a 1.0, b 1.0, c 1.0"), (2, "COPY . ."), (3, "wain: d 1"), (4, "ADD x"))
    new = image((5, "wain: e 2"), (6, "wain: 2 wheels: a 1.0, b 1.1"), (7, "wain: 2 wheels: d 1, f 3"), (8, "COPY . ."))
    assert [
        (change.before and change.before.created_by, change.after and change.after.created_by, change.parts)
        for change in next_pull(old, new).changes()
    ] == [
        ("ADD x", None, ()),
        (None, "wain: e 2", ()),
        ("wain: 3 wheels: a 1.0, b 1.0, c 1.0", "wain: 2 wheels: a 1.0, b 1.1", ("b 1.0 -> 1.1", "- c 1.0")),
        ("wain: d 1", "wain: 2 wheels: d 1, f 3", ("+ f 3",)),
        ("COPY . .", "COPY . .", ()),
    ]
    assert next_pull(new, new).changes() == []


def test_the_classic_store_fetches_all_above_the_lowest_change() -> None:
    old = random_image(1, layers=4)
    changed = random_image(9, layers=1).layers[0]
    layers = (old.layers[0], changed, *old.layers[2:])
    config = replace(old.config, diff_ids=tuple(layer.diff_id for layer in layers))
    new = replace(old, layers=layers, config=config, source_config=None, source_manifest=None)
    pull = next_pull(old, new)
    assert pull.containerd_bytes == changed.size_bytes
    assert pull.classic_bytes == sum(layer.size_bytes for layer in layers[1:])
    [after], [before] = pull.changed, pull.gone
    assert (after.digest, before.digest) == (changed.digest, old.layers[1].digest)
    assert next_pull(old, old).classic_bytes == 0
