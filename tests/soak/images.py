"""Manifests, layouts, archives and registries with bytes wrong or cut: read right or refused, never a crash."""

from __future__ import annotations

import io
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

from wain import archive, layout
from wain.credentials import Keychain
from wain.digest import Digest
from wain.distribution import Access
from wain.errors import WainError
from wain.image import Image, Index, check_image
from wain.names import LayoutReference, parse_registry_reference
from wain.oci import Config, Manifest
from wain.oci import Index as IndexDocument
from wain.registry import read, write
from wain.testing import Fault, LoopbackRegistry, random_image, random_index
from wain.transport import HttpSettings, Transport

_VALUES = (None, True, -1, 0, 1 << 70, "", "x", "../../etc/passwd", [], {}, [[]], {"a": 1}, "sha256:" + "0" * 64)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, cut out, doubled or cut off."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found)) if found else 0
        match chance.randrange(4):
            case 0 if found:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                del found[at : at + chance.randint(1, 600)]
            case 2:
                found[at:at] = found[at : at + chance.randint(1, 600)]
            case 3:
                del found[max(at, len(found) // 4) :]
    return bytes(found)


def bent(value: object, chance: random.Random) -> object:
    """A JSON value with members replaced by what does not belong there."""
    if chance.random() < 0.08:
        return chance.choice(_VALUES)
    if isinstance(value, dict):
        return {key: bent(item, chance) for key, item in value.items() if chance.random() > 0.03}
    if isinstance(value, list):
        return [bent(item, chance) for item in value for _ in range(chance.choice((1, 1, 1, 1, 2)))]
    return value


def read_through(found: Image | Index) -> None:
    """Every layer of what was read is what its digest says."""
    for image in found.images if isinstance(found, Index) else (found,):
        check_image(image)
        for layer in image.layers:
            with layer.open() as stream:
                assert Digest.of(stream.read()) == layer.digest


def try_documents(chance: random.Random) -> None:
    image = random_image(chance.randrange(100))
    for data in (image.manifest_bytes, image.config_bytes, random_index(1).to_bytes):
        value = json.dumps(bent(json.loads(data), chance)).encode()
        for parse in (Manifest.parse, Config.parse, IndexDocument.parse):
            for text in (value, damaged(data, chance)):
                try:
                    parse(text)
                except WainError as error:
                    assert error.hint


def try_archive(chance: random.Random) -> None:
    stream = io.BytesIO()
    archive.stream(random_image(chance.randrange(100), layer_bytes=500), stream, names=("app:1",))
    with tempfile.TemporaryFile() as file:
        file.write(damaged(stream.getvalue(), chance))
        file.flush()
        try:
            read_through(archive.read_file(file, what="it"))
        except WainError as error:
            assert error.hint


def try_layout(chance: random.Random) -> None:
    folder = Path(tempfile.mkdtemp(prefix="wain-soak-"))
    try:
        reference = LayoutReference(path=folder / "a", tag="1")
        layout.write(random_index(chance.randrange(100), layer_bytes=500), reference)
        victim = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        victim.write_bytes(damaged(victim.read_bytes(), chance))
        try:
            read_through(layout.read(reference))
        except WainError as error:
            assert error.hint
    finally:
        shutil.rmtree(folder)


def try_registry(chance: random.Random) -> None:
    settings = HttpSettings(backoff_seconds=0.001, timeout_seconds=5, retries=3)
    old, new = random_image(1), random_image(chance.randrange(2, 100), layers=chance.randint(0, 5))
    with LoopbackRegistry(
        auth=chance.choice((None, "bearer")), username="u", password="p", anonymous_pull=True
    ) as registry:
        registry.auth, wanted = None, registry.auth
        reference = parse_registry_reference(registry.reference("app"))
        access = Access(transport=Transport(settings), keychain=Keychain.empty())
        write(old, reference, access=access)
        rate = chance.choice((0.05, 0.2, 0.5))
        kinds = [
            Fault(when=lambda request: chance.random() < rate, times=None, cut=cut)
            for cut in ("before", "middle", "after", "head", "body")
        ]
        kinds += [
            Fault(when=lambda request: chance.random() < rate, times=None, status=status)
            for status in (401, 404, 416, 429, 500)
        ]
        kinds.append(Fault(when=lambda request: chance.random() < rate, times=None, corrupt=True))
        registry.faults[:] = chance.sample(kinds, 3)
        registry.auth = wanted
        try:
            write(new, reference, access=access, chunk_bytes=chance.choice((None, 700)))
            read_through(read(reference, access=access))
        except WainError as error:
            assert error.hint
        assert registry.state("app", "1") in (old.digest, new.digest)


def main(seconds: float) -> None:
    """Runs for so long; a failure names the seed that shows it again."""
    began = time.monotonic()
    rounds = 0
    while time.monotonic() - began < seconds:
        seed = random.SystemRandom().getrandbits(32)
        for attempt in (try_documents, try_archive, try_layout, try_registry):
            try:
                attempt(random.Random(seed))
            except BaseException:
                print(f"{attempt.__name__} fails with seed {seed}", flush=True)
                raise
        rounds += 1
    print(f"{rounds} rounds", flush=True)
