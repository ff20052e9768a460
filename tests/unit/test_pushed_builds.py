"""`wain build --push` while the registry fails: layers go ahead of the image; the tag is the old or the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.made import make_zip, noise, wheel_items
from tests.unit.wain_project import Wain, index, wain
from wain.digest import Digest
from wain.distribution import Access
from wain.errors import AuthError, TransferError
from wain.image import Image
from wain.layers import Layer
from wain.names import parse_registry_reference
from wain.registry import read, write
from wain.testing import Fault, LoopbackRegistry, Request, random_image
from wain.transport import HttpSettings, Transport
from wain.upload import Uploads, UploadsAhead

__all__ = ["index", "wain"]

LARGE = ("one", "two", "three")
CUTS = ("before", "middle", "after", "head", "body")


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as served:
        yield served


@pytest.fixture
def large(wain: Wain, monkeypatch: pytest.MonkeyPatch) -> Wain:
    """A project of which three wheels have a layer each, and an index that has the next version of them too."""
    monkeypatch.setattr("wain.grouping.LARGE_BYTES", 10_000)
    monkeypatch.setattr(Transport, "_backoff", lambda self, attempt: 0.0)
    monkeypatch.setattr(Uploads, "_pause", lambda self, failures: None)
    for name in LARGE:
        _add(wain, name, "1.0")
    (wain.project / "requirements.txt").write_text("".join(f"{name}==1.0\n" for name in LARGE))
    wain.destination = None
    return wain


def _add(wain: Wain, name: str, version: str) -> None:
    content = noise(60_000, seed=hash((len(name), version)) % 1000)
    items = wheel_items({f"{name}/data": content, f"{name}/__init__.py": b""}, name=name, version=version)
    wain.index.put(name, f"{name}-{version}-py3-none-any.whl", make_zip(items))


def _bump(wain: Wain) -> None:
    for name in LARGE:
        _add(wain, name, "1.1")
    (wain.project / "requirements.txt").write_text("".join(f"{name}==1.1\n" for name in LARGE))


def _push(wain: Wain, registry: LoopbackRegistry, code: int = 0) -> str:
    return wain.build("-t", registry.reference("app"), "--push", "-v", code=code)


@pytest.mark.parametrize("cut", CUTS)
def test_a_build_survives_a_cut_at_every_tenth_request(large: Wain, registry: LoopbackRegistry, cut: str) -> None:
    first = _push(large, registry)
    _bump(large)
    seen: set[str | None] = set()

    def look(request: Request) -> bool:
        seen.add(registry.state("app", "1"))
        return request.number % 10 == 0

    registry.faults.append(Fault(when=look, times=None, cut=cut))
    digest = _push(large, registry)
    assert digest != first
    assert registry.state("app", "1") == digest
    assert seen <= {first, digest}, "at no request was the tag anything else"


@pytest.mark.parametrize("number", [1, 10, 20])
def test_a_build_whose_push_dies_leaves_the_tag(large: Wain, registry: LoopbackRegistry, number: int) -> None:
    first = _push(large, registry)
    _bump(large)
    registry.forget()
    registry.faults.append(Fault(when=lambda request: request.number >= number, times=None, cut="before"))
    _push(large, registry, code=TransferError.exit_code)
    assert registry.state("app", "1") == first
    registry.faults.clear()
    assert _push(large, registry) == registry.state("app", "1") != first


def test_layers_go_ahead_while_others_are_made(large: Wain, registry: LoopbackRegistry) -> None:
    """The last wheel is damaged: what was made before it is in the registry, and no tag."""
    name = "two-1.0-py3-none-any.whl"
    large.build("--dry-run")
    large.index.served[name] = large.index.files["two"][name][:-1] + b"x"
    _push(large, registry, code=7)
    assert registry.state("app", "1") is None
    assert not registry.requests("PUT", "/manifests/")


def _layers(seed: int) -> tuple[Image, tuple[Layer, ...]]:
    image = random_image(seed, layers=3)
    return image, image.layers


def test_what_went_ahead_is_not_sent_again(registry: LoopbackRegistry) -> None:
    image, layers = _layers(31)
    place = parse_registry_reference(registry.reference("team/app"))
    ahead = UploadsAhead(place, access=Access())
    for layer in layers:
        ahead.send(layer)
    assert ahead.finish() == {layer.digest: "uploaded" for layer in layers}
    assert {layer.digest for layer in layers} <= set(registry.blobs)
    assert not registry.requests("PUT", "/manifests/")
    registry.forget()
    outcome: dict[Digest, str] = {}
    write(image, place, outcome=outcome)
    assert {outcome[layer.digest] for layer in layers} == {"present"}
    assert read(place).digest == image.digest


def test_what_fails_ahead_is_left_to_the_push(registry: LoopbackRegistry) -> None:
    image, layers = _layers(32)
    place = parse_registry_reference(registry.reference("team/app"))
    registry.faults.append(Fault(when=lambda request: request.method in ("POST", "PUT"), times=None, status=500))
    settings = replace(HttpSettings(), retries=0)
    ahead = UploadsAhead(place, access=Access(transport=Transport(settings)))
    for layer in layers:
        ahead.send(layer)
    assert ahead.finish() == {}
    registry.faults.clear()
    write(image, place)
    assert read(place).digest == image.digest


def test_a_login_that_is_refused_ends_a_build_early() -> None:
    _, layers = _layers(34)
    with LoopbackRegistry(auth="basic") as closed:
        ahead = UploadsAhead(parse_registry_reference(closed.reference("team/app")), access=Access())
        ahead.send(layers[0])
        assert ahead.finish() == {}
        with pytest.raises(AuthError):
            ahead.send(layers[1])


def test_stopped_uploads_end(registry: LoopbackRegistry) -> None:
    _, layers = _layers(33)
    ahead = UploadsAhead(parse_registry_reference(registry.reference("team/app")), access=Access())
    ahead.stop()
    for layer in layers:
        ahead.send(layer)
    assert ahead.finish() == {}
    assert registry.blobs == {}
