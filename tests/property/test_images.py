"""Round trips of references, documents, layouts, archives and registries, and hostile bytes."""

from __future__ import annotations

import io
import json
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from wain import archive, layout
from wain.credentials import Keychain
from wain.digest import Digest
from wain.distribution import Access, Challenge
from wain.errors import WainError
from wain.image import Image, Index, check_image
from wain.names import ArchiveReference, LayoutReference, parse_reference, parse_registry_reference
from wain.oci import Config, Manifest, canonical_json
from wain.oci import Index as IndexDocument
from wain.registry import read, write
from wain.tarscan import TarMembers
from wain.testing import Fault, LoopbackRegistry, random_image, random_layer
from wain.transport import HttpSettings, Transport, redact_url, retry_after, split_credentials

FEW = settings(max_examples=25, deadline=None)
MORE = settings(max_examples=150, deadline=None)

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
repositories = st.lists(words, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,20}\Z")
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**70) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
images = st.builds(random_image, st.integers(0, 50), layers=st.integers(0, 4), layer_bytes=st.integers(0, 5000))


@MORE
@given(repositories, tags)
def test_a_reference_that_is_printed_is_read_again(repository: str, tag: str) -> None:
    for text in (f"registry.example/{repository}:{tag}", f"localhost:5000/{repository}:{tag}", f"{repository}:{tag}"):
        found = parse_registry_reference(text)
        assert parse_registry_reference(str(found)) == found
        assert parse_registry_reference(found.familiar) == found
        assert found.tag == tag


@MORE
@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9/:@._-]{0,40}", fullmatch=True))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        parse_reference(text)
    except WainError as error:
        assert error.exit_code == 2


_SHAPES = ("schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "os", "architecture", "rootfs")


@MORE
@given(st.dictionaries(st.sampled_from(_SHAPES) | st.text(max_size=5), jsons, max_size=8), st.sampled_from((1, 2)))
def test_any_document_is_read_or_a_clear_error(value: dict[str, object], version: int) -> None:
    data = json.dumps({"schemaVersion": version, **value}).encode()
    for parse in (Manifest.parse, IndexDocument.parse, Config.parse):
        try:
            parse(data)
        except WainError as error:
            assert error.hint


@MORE
@given(jsons)
def test_canonical_json_is_the_same_for_the_same_value(value: object) -> None:
    text = canonical_json(value)  # type: ignore[arg-type]
    assert canonical_json(json.loads(text)) == text


@FEW
@given(images, st.lists(st.integers(100, 200), max_size=3, unique=True))
def test_every_image_is_whole_after_every_change(image: Image, seeds: list[int]) -> None:
    changed = image.append(*(random_layer(seed) for seed in seeds)).with_annotations({"a": "b"})
    check_image(changed)
    assert changed.config.diff_ids[: len(image.layers)] == image.config.diff_ids
    again = Image.from_documents(changed.manifest_bytes, changed.config_bytes, changed.layers)
    assert again.digest == changed.digest


def _same(found: Image | Index, image: Image) -> None:
    assert isinstance(found, Image)
    assert found.digest == image.digest
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        with mine.open() as one, theirs.open() as other:
            assert one.read() == other.read()


@FEW
@given(images)
def test_through_a_layout_and_an_archive_and_back(image: Image) -> None:
    with tempfile.TemporaryDirectory() as folder:
        at = LayoutReference(path=Path(folder) / "layout", tag="1")
        tar = ArchiveReference(path=Path(folder) / "a.tar")
        layout.write(image, at)
        archive.write(layout.read(at), tar, names=("app:1",))
        _same(archive.read(tar), image)


cuts = st.sampled_from(("before", "middle", "after", "head", "body"))


@settings(max_examples=12, deadline=None)
@given(images, st.randoms(use_true_random=False), cuts, st.integers(500, 4000))
def test_a_push_over_a_bad_line_is_whole(image: Image, chance: random.Random, cut: str, chunk_bytes: int) -> None:
    http = HttpSettings(backoff_seconds=0.001, timeout_seconds=5, retries=12)
    luck = random.Random(chance.getrandbits(32))
    with LoopbackRegistry() as registry:
        registry.faults.append(Fault(when=lambda request: luck.random() < 0.15, times=None, cut=cut))
        reference = parse_registry_reference(registry.reference("app"))
        access = Access(transport=Transport(http), keychain=Keychain.empty())
        write(image, reference, access=access, chunk_bytes=chunk_bytes)
        assert registry.state("app", "1") == image.digest
        _same(read(reference, access=access), image)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_archive_with_any_bytes_wrong_is_read_right_or_refused(data: st.DataObject) -> None:
    image = random_image(1, layers=2, layer_bytes=600)
    stream = io.BytesIO()
    archive.stream(image, stream, names=("app:1",))
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryFile() as file:
        file.write(damaged)
        file.flush()
        try:
            found = archive.read_file(file, what="it")
            for layer in found.layers if isinstance(found, Image) else ():
                with layer.open() as reader:
                    assert Digest.of(reader.read()) == layer.digest
        except WainError as error:
            assert error.hint


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_a_tar_or_an_error(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            TarMembers(file, what="it").names()
        except WainError as error:
            assert error.hint


@MORE
@given(st.text(max_size=200))
def test_headers_of_any_text(text: str) -> None:
    Challenge.parse(text)
    Challenge.parse(f"Bearer {text}")
    retry_after(text)
    redact_url(text)


@MORE
@given(words, words, st.text("abc%@:/?#[]é ", max_size=12))
def test_a_secret_never_survives_redaction(host: str, path: str, noise: str) -> None:
    from urllib.parse import quote

    secret = "TOPSECRET"
    for url in (
        f"https://user:{secret}@{host}.example/{path}",
        f"https://{secret}:{quote(noise, safe='')}@{host}.example/{path}?x={secret}#{secret}",
        f"https://{host}.example/{path}?{noise}{secret}",
    ):
        assert secret not in redact_url(url)
        assert "@" not in split_credentials(url)[0].partition("?")[0]
