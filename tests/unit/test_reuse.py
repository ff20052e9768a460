"""A fresh machine takes layers from the registry that has them: what it asks for, and whom it believes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from tests.made import make_zip, noise, wheel_items
from tests.unit.wain_project import Wain, index, wain
from wain.digest import Digest
from wain.image import Image
from wain.layers import RECIPE_KEY
from wain.names import parse_registry_reference
from wain.oci import History
from wain.registry import read, write
from wain.reuse import KnownLayer, KnownWheels, layers_of
from wain.testing import Fault, LoopbackRegistry, Request, random_image, random_index
from wain.transport import Transport

__all__ = ["index", "wain"]


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as served:
        yield served


def _push(wain: Wain, registry: LoopbackRegistry, name: str, *words: str, code: int = 0) -> str:
    """Builds and pushes; the digest."""
    return wain.build("-t", registry.reference(name), "--push", "-v", *words, code=code)


def _lock(wain: Wain) -> None:
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple, "--layers")


def _fresh(wain: Wain, registry: LoopbackRegistry) -> None:
    """Another machine: nothing in the store, nothing in the logs."""
    shutil.rmtree(wain.folder / "cache")
    shutil.rmtree(wain.folder / "out", ignore_errors=True)
    wain.index.requests.clear()
    registry.log.clear()


def _only_push(wain: Wain) -> None:
    """Leaves out the layout that `Wain.build` writes by default, which would need the layers' bytes."""
    wain.destination = None


def test_a_lock_with_layers_needs_no_index_and_no_wheel(wain: Wain, registry: LoopbackRegistry) -> None:
    wain.index.add("big", "1.0", content=noise(200_000))
    (wain.project / "requirements.txt").write_text("alpha\nbig\n")
    _lock(wain)
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _fresh(wain, registry)
    assert _push(wain, registry, "app") == digest
    assert wain.index.requests == []
    assert "has it, with the digest that the lock has" in wain.err
    assert sum(request.body_bytes + request.sent_bytes for request in registry.log) < 20_000
    assert not [request for request in registry.log if request.method == "GET" and "/blobs/" in request.path]


def test_a_lock_names_the_layers_of_a_project_with_extras(wain: Wain, registry: LoopbackRegistry) -> None:
    wain.index.add("gamma", "1.0")
    (wain.project / "requirements.txt").unlink()
    (wain.project / "pyproject.toml").write_text(
        '[project]\nname = "thing"\nversion = "1"\ndependencies = ["alpha"]\n'
        'optional-dependencies = { more = ["gamma"] }\n[tool.wain]\nextras = ["more"]\n'
    )
    _lock(wain)
    assert "and 1 layer is named" in wain.err
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _fresh(wain, registry)
    assert _push(wain, registry, "app") == digest
    assert wain.index.requests == []
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    assert "no longer named" in wain.err


def test_another_repository_gets_the_layers_by_mounting(wain: Wain, registry: LoopbackRegistry) -> None:
    _lock(wain)
    _only_push(wain)
    digest = _push(wain, registry, "one")
    _fresh(wain, registry)
    assert _push(wain, registry, "two", "--cache-from", registry.reference("one")) == digest
    assert wain.index.requests == []
    assert [request for request in registry.log if "mount=" in request.query and request.status == 201]


def test_what_the_registry_lacks_is_made_again(wain: Wain, registry: LoopbackRegistry) -> None:
    _lock(wain)
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _fresh(wain, registry)
    with LoopbackRegistry() as other:
        assert _push(wain, other, "app") == digest
    assert wain.index.requests != []


def test_an_earlier_image_does_as_well(wain: Wain, registry: LoopbackRegistry) -> None:
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _fresh(wain, registry)
    earlier = f"type=registry,ref={registry.reference('app')}"
    assert _push(wain, registry, "app", "--cache-from", earlier) == digest
    assert wain.index.requests == []
    assert "--cache-from names" in wain.err
    [total] = [line for line in wain.err.splitlines() if " layers   " in line]
    assert total.rstrip().endswith("?"), "an earlier image does not say how much its layers unpack to"


def test_caches_of_other_kinds_are_refused(wain: Wain) -> None:
    wain.build("--cache-from", "type=gha,scope=main", code=2)
    assert "layers are taken from images alone" in wain.err


def test_one_bump_is_one_wheel_and_one_layer(wain: Wain, registry: LoopbackRegistry) -> None:
    for name in ("large", "other"):
        wain.index.add(name, "1.0", content=noise(25_000_000, seed=len(name)))
    (wain.project / "requirements.txt").write_text("large\nother\n")
    _lock(wain)
    _only_push(wain)
    _push(wain, registry, "app")
    wain.index.add("large", "1.1", content=noise(25_000_000, seed=3))
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple, "--upgrade")
    _fresh(wain, registry)
    _push(wain, registry, "app", "--cache-from", registry.reference("app"))
    assert wain.index.asked(".whl") == ["/files/large/large-1.1-py3-none-any.whl"]
    large = [request for request in registry.log if request.body_bytes > 100_000]
    assert len(large) == 1
    assert sum(request.body_bytes for request in registry.log) - large[0].body_bytes < 60_000


def _lie(registry: LoopbackRegistry, name: str, tag: str = "1") -> None:
    """Gives an image's dependency layer other bytes under the same recipe key."""
    reference = parse_registry_reference(registry.reference(name, tag))
    image = read(reference)
    assert isinstance(image, Image)
    number = next(n for n, layer in enumerate(image.layers) if layer.annotations.get(RECIPE_KEY))
    evil = replace(random_image(7).layers[0], annotations=image.layers[number].annotations)
    layers = (*image.layers[:number], evil, *image.layers[number + 1 :])
    config = replace(image.config, diff_ids=tuple(layer.diff_id for layer in layers))
    write(replace(image, layers=layers, config=config, source_config=None, source_manifest=None), reference)


def test_a_registry_that_lies_is_caught(wain: Wain, registry: LoopbackRegistry) -> None:
    _lock(wain)
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _lie(registry, "app")
    _fresh(wain, registry)
    assert _push(wain, registry, "new", "--cache-from", registry.reference("app")) == digest, "the lock says better"
    text = (wain.project / "pylock.toml").read_text()
    (wain.project / "pylock.toml").write_text(text[: text.index("[[tool.wain.layers]]")])
    _fresh(wain, registry)
    _push(wain, registry, "new", "--cache-from", registry.reference("app"), "--verify-cache", code=7)
    assert "do not use that image" in wain.err


def test_verified_layers_are_counted(wain: Wain, registry: LoopbackRegistry) -> None:
    _lock(wain)
    _only_push(wain)
    _push(wain, registry, "app")
    _push(wain, registry, "app", "--verify-cache")
    assert "1 of 4 layers were compared" in wain.err, "what this machine made before is compared too"
    text = (wain.project / "pylock.toml").read_text()
    (wain.project / "pylock.toml").write_text(text[: text.index("[[tool.wain.layers]]")])
    _push(wain, registry, "app", "--verify-cache")
    assert "compared nothing" in wain.err
    _lie(registry, "app")
    _push(wain, registry, "app", "--verify-cache", "--cache-from", registry.reference("app"), code=7)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "is not there yet"),
        ("foreign", "was not made by wain"),
        ("platform", "has no image for linux/amd64"),
        ("login", "docker login"),
        ("offline", "--offline was given"),
        ("damaged", "no layers are taken from"),
    ],
)
def test_an_earlier_image_that_has_nothing_is_told(
    wain: Wain, registry: LoopbackRegistry, kind: str, told: str
) -> None:
    _push(wain, registry, "app")
    with LoopbackRegistry(auth="basic") as closed:
        earlier = registry.reference("earlier")
        words = []
        if kind == "foreign":
            write(random_image(3), parse_registry_reference(earlier))
        elif kind == "platform":
            write(random_index(3).images[1], parse_registry_reference(earlier))
        elif kind == "login":
            earlier = closed.reference("earlier")
        elif kind == "offline":
            words = ["--offline"]
        elif kind == "damaged":
            write(random_image(3), parse_registry_reference(earlier))
            registry.faults.append(Fault(when=lambda request: "earlier" in request.path, times=None, corrupt=True))
        wain.build("--cache-from", earlier, "--explain", *words)
    assert told in wain.err
    if kind == "platform":
        assert "all of it is new" in wain.err
    elif kind != "foreign":
        assert "nothing to compare with yet" in wain.err


@pytest.mark.parametrize("fault", [{"status": 429}, {"status": 500}, {"status": 403}, {"cut": "head"}])
def test_a_registry_that_fails_when_it_is_asked_for_layers(
    wain: Wain, registry: LoopbackRegistry, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "_backoff", lambda self, attempt: 0.0)
    _lock(wain)
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _fresh(wain, registry)
    with LoopbackRegistry() as other:
        registry.faults.append(Fault(when=lambda request: "/blobs/" in request.path, times=None, **fault))
        assert _push(wain, other, "app", "--cache-from", registry.reference("app")) == digest
    assert "is not asked for layers" in wain.err or "no layers are taken" in wain.err


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 500}, {"cut": "body"}, {"corrupt": True}])
def test_a_registry_that_does_not_give_what_it_has(
    wain: Wain, registry: LoopbackRegistry, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "_backoff", lambda self, attempt: 0.0)
    monkeypatch.setattr("wain.registry.time.sleep", lambda seconds: None)
    _lock(wain)
    digest = wain.build()
    earlier = parse_registry_reference(_push(wain, registry, "app") and registry.reference("app"))
    layers = {layer.digest for layer in read(earlier).layers}  # type: ignore[union-attr]
    _fresh(wain, registry)

    def asks_for_a_layer(request: Request) -> bool:
        return request.method == "GET" and request.path.rpartition("/")[2] in layers

    registry.faults.append(Fault(when=asks_for_a_layer, times=None, **fault))
    assert wain.build("--cache-from", str(earlier)) == digest
    assert "once more, without the layers that a registry has" in wain.err
    assert wain.image().digest == digest


def test_a_tag_that_is_only_pushed_to_is_not_believed(wain: Wain, registry: LoopbackRegistry) -> None:
    _only_push(wain)
    digest = _push(wain, registry, "app")
    _lie(registry, "app")
    _fresh(wain, registry)
    assert _push(wain, registry, "app") == digest


def test_keys_are_read_from_history_and_from_annotations() -> None:
    layer = replace(random_image(1).layers[0], annotations={RECIPE_KEY: Digest.of(b"key")})
    image = Image(config=random_image(1).config)
    image = replace(image, config=replace(image.config, diff_ids=(), history=()), layers=()).append(layer)
    assert [item.key for item in layers_of(image)] == [Digest.of(b"key")]
    bare = replace(image, layers=(replace(layer, annotations={}),))
    assert [item.key for item in layers_of(bare)] == [Digest.of(b"key")]
    silent = replace(image, config=replace(image.config, history=(History(created_by="x"),)))
    assert [item.key for item in layers_of(silent)] == [Digest.of(b"key")]
    assert layers_of(replace(silent, layers=bare.layers)) == ()


def test_known_layers_and_wheels_survive_json() -> None:
    layer = replace(random_image(1).layers[0], annotations={RECIPE_KEY: Digest.of(b"key")})
    known = KnownLayer.of(layer, ["a", "b"])
    assert KnownLayer.from_json(json.loads(json.dumps(known.to_json()))) == known
    one, two, three = Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3")
    wheels = KnownWheels(sizes={one: 1, two: 2}, together=((one, two),))
    assert KnownWheels.from_json(json.loads(json.dumps(wheels.to_json()))) == wheels
    assert wheels.clusters([one, two]) == ((one, two),)
    assert wheels.clusters([one, three]) is None, "a new wheel beside some that share paths must be looked at"
    assert KnownWheels(sizes={one: 1}).clusters([one, three]) == ()
    assert KnownWheels(sizes={one: 1}).clusters([two, three]) is None


def _another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's Python is of a patch version that nobody has compiled with, and does not run."""

    def none(*_: object) -> NoReturn:
        raise AssertionError("a compiler was asked for")

    monkeypatch.setattr("wain.bytecode.compiler_for", none)
    monkeypatch.setattr("wain.bytecode.compiler_version", lambda *_: f"3.{sys.version_info.minor}.99")


def _add_modules(wain: Wain) -> None:
    """A layer whose wheels have modules, and one whose wheel has none."""
    wain.index.add("beta", "1.6", content=b"value = 1\n")
    items = wheel_items({"bare-1.0.data/data/share/noise": noise(25_000_000, seed=5)}, name="bare")
    wain.index.put("bare", "bare-1.0-py3-none-any.whl", make_zip(items))
    (wain.project / "requirements.txt").write_text("alpha\nbare\n")


def test_a_lock_names_the_layers_of_bytecode_too(
    wain: Wain, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wain.runnable_base(monkeypatch)
    _add_modules(wain)
    wain(
        "lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple,
        "--layers", "--compile",
    )  # fmt: skip
    _only_push(wain)
    digest = _push(wain, registry, "app", "--compile")
    _fresh(wain, registry)
    _another_python(monkeypatch)
    assert _push(wain, registry, "app", "--compile") == digest
    assert wain.index.requests == []
    assert "bytecode of 2 wheels" in wain.err
    assert not [request for request in registry.log if request.method == "GET" and "/blobs/" in request.path]
    _fresh(wain, registry)
    assert _push(wain, registry, "app") != digest, "what a lock has of bytecode does not bind a build without it"
    assert wain.index.requests == []


def test_an_earlier_image_gives_its_bytecode(
    wain: Wain, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wain.runnable_base(monkeypatch)
    _add_modules(wain)
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    _only_push(wain)
    digest = _push(wain, registry, "app", "--compile")
    _fresh(wain, registry)
    _another_python(monkeypatch)
    assert _push(wain, registry, "app", "--compile", "--cache-from", registry.reference("app")) == digest
    assert wain.index.requests == []


def test_bytecode_that_nobody_has_is_made(
    wain: Wain, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wain.runnable_base(monkeypatch)
    _add_modules(wain)
    _lock(wain)
    _only_push(wain)
    _push(wain, registry, "app")
    _fresh(wain, registry)
    _push(wain, registry, "app", "--compile")
    assert wain.index.asked("beta-1.6") != [], "the lock names layers, and none of bytecode"
