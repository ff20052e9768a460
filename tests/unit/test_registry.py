"""The registry client against every fault that registries have."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from wain.credentials import Keychain, Login
from wain.digest import Digest
from wain.distribution import Access, Challenge
from wain.distribution import _parse_token as parse_token
from wain.errors import AuthError, HashMismatch, ImageError, NotFound, Offline, TransferError, WainError
from wain.image import Image, Index, check_image
from wain.layers import Layer
from wain.names import RegistryReference, parse_registry_reference
from wain.oci import CONFIG, INDEX, MANIFEST, Descriptor, Manifest
from wain.oci import Index as IndexDocument
from wain.platforms import Platform
from wain.registry import present, read, resolve, to_schema2, write
from wain.store import Store
from wain.testing import Fault, LoopbackRegistry, Request, random_image, random_index, schema2_image
from wain.transport import Credentials, HttpSettings, Transport

SECRET = "s3cret-p4ssword"
FAST = HttpSettings(backoff_seconds=0.01, timeout_seconds=2, retry_after_seconds=1, retries=4)


class OneLogin(Keychain):
    """A keychain with the same login for every registry."""

    def __init__(self, login: Login | None = None) -> None:
        super().__init__(environment={}, home=None)
        self.login = login

    def find(self, registry: str, repository: str = "") -> Login | None:
        return self.login


LOGIN = Login(credentials=Credentials(username="user", password=SECRET))


def access(login: Login | None = LOGIN, *, settings: HttpSettings = FAST, **options: object) -> Access:
    return Access(transport=Transport(settings), keychain=OneLogin(login), **options)  # type: ignore[arg-type]


def ref(registry: LoopbackRegistry, repository: str = "team/app", tag: str = "1") -> RegistryReference:
    return parse_registry_reference(registry.reference(repository, tag))


def assert_same(found: Image | Index, image: Image | Index) -> None:
    """The copy has the digest and every layer's bytes."""
    assert found.digest == image.digest
    if isinstance(image, Index):
        assert isinstance(found, Index)
        for mine, theirs in zip(found.images, image.images, strict=True):
            assert_same(mine, theirs)
        return
    assert isinstance(found, Image)
    check_image(found)
    for mine_layer, their_layer in zip(found.layers, image.layers, strict=True):
        with mine_layer.open() as one, their_layer.open() as other:
            assert one.read() == other.read()


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as server:
        yield server


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"auth": "basic"},
        {"auth": "bearer"},
        {"auth": "bearer", "token_uses": 2},
        {"auth": "bearer", "token_uses": 1},
        {"auth": "bearer", "mounts": False},
        {"relative_location": True},
        {"chunks": False},
        {"whole": False},
        {"whole": False, "min_chunk_bytes": 1500, "relative_location": True},
        {"max_body_bytes": 1400},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()) or "plain",
)
def test_push_and_pull_keep_every_byte(options: dict[str, object]) -> None:
    image = random_image(1, layers=5)
    with LoopbackRegistry(password=SECRET, **options) as registry:  # type: ignore[arg-type]
        outcome: dict[Digest, str] = {}
        chunk = 1000 if "max_body_bytes" in options or "whole" in options else None
        digest = write(image, ref(registry), access=access(), outcome=outcome, chunk_bytes=chunk)
        assert registry.state("team/app", "1") == digest == image.digest
        assert set(outcome.values()) == {"uploaded"}
        assert_same(read(ref(registry), access=access()), image)


def test_an_index_goes_up_with_its_images_and_comes_back_whole_or_by_platform(registry: LoopbackRegistry) -> None:
    index = random_index(3)
    assert write(index, ref(registry), access=access()) == index.digest
    assert registry.state("team/app", "1") == index.digest
    assert_same(read(ref(registry), access=access()), index)
    arm = read(ref(registry), platform=Platform("linux", "arm64"), access=access())
    assert_same(arm, index.images[1])
    with pytest.raises(ImageError, match="no image for linux/s390x") as caught:
        read(ref(registry), platform=Platform("linux", "s390x"), access=access())
    assert "linux/amd64, linux/arm64" in caught.value.hint


def test_attestations_are_no_images_but_are_copied(registry: LoopbackRegistry) -> None:
    image = random_image(4, layers=1)
    write(image, ref(registry, tag="base"), access=access())
    statement = registry.add_blob("team/app", b'{"_type":"https://in-toto.io/Statement/v0.1"}')
    empty = registry.add_blob("team/app", b"{}")
    attestation = Manifest(
        config=Descriptor(media_type=CONFIG, digest=Digest(empty), size_bytes=2),
        layers=(Descriptor(media_type="application/vnd.in-toto+json", digest=Digest(statement), size_bytes=45),),
    ).to_bytes()
    registry.add_manifest("team/app", attestation, MANIFEST)
    data = IndexDocument(
        manifests=(
            image.descriptor,
            Descriptor(
                media_type=MANIFEST,
                digest=Digest.of(attestation),
                size_bytes=len(attestation),
                platform=Platform("unknown", "unknown"),
                annotations={"vnd.docker.reference.type": "attestation-manifest"},
            ),
        )
    ).to_bytes()
    registry.add_manifest("team/app", data, INDEX, "1")
    found = read(ref(registry), access=access())
    assert isinstance(found, Index)
    assert [str(item.platform) for item in found.images] == ["linux/amd64"]
    assert len(found.artifacts) == 1
    with LoopbackRegistry() as other:
        assert write(found, ref(other), access=access()) == Digest.of(data)
        assert other.state("team/app", "1") == Digest.of(data)


def test_an_image_of_dockers_older_format_is_read_verbatim_and_extended_in_ocis_types(
    registry: LoopbackRegistry,
) -> None:
    image = random_image(5)
    manifest, config = schema2_image(image)
    for layer in image.layers:
        registry.add_blob("base", layer.source().read())
    registry.add_blob("base", config)
    registry.add_manifest("base", manifest, "application/vnd.docker.distribution.manifest.v2+json", "1")
    found = read(ref(registry, "base"), access=access())
    assert isinstance(found, Image)
    assert found.manifest_bytes == manifest
    extended = found.append(random_image(6, layers=1).layers[0])
    check_image(extended)
    write(extended, ref(registry), access=access())
    pushed = json.loads(registry.repository("team/app").manifests[extended.digest][1])
    assert pushed["mediaType"] == MANIFEST
    assert not [item for item in (pushed["config"], *pushed["layers"]) if "docker" in item["mediaType"]]


def test_what_the_registry_has_is_not_sent_again_and_other_repositories_layers_are_mounted(
    registry: LoopbackRegistry,
) -> None:
    image = random_image(7, layers=4)
    write(image, ref(registry, "first"), access=access())
    bumped = read(ref(registry, "first"), access=access())
    assert isinstance(bumped, Image)
    new = random_image(8, layers=1).layers[0]
    bumped = bumped.append(new)
    registry.forget()
    outcome: dict[Digest, str] = {}
    write(bumped, ref(registry, "second"), access=access(), outcome=outcome)
    assert [outcome[layer.digest] for layer in bumped.layers] == ["mounted"] * 4 + ["uploaded"]
    assert not registry.requests("GET", "/blobs/")
    sent = sum(item.body_bytes for item in registry.log if "/blobs/" in item.path)
    assert sent == new.size_bytes + len(bumped.config_bytes)

    registry.forget()
    write(bumped, ref(registry, "second"), access=access(), outcome=outcome)
    assert [(item.method, item.path.rpartition("/")[2]) for item in registry.log] == [
        ("GET", ""),
        ("HEAD", bumped.digest),
        ("HEAD", "1"),
    ]
    registry.forget()
    write(bumped, ref(registry, "second", "2"), access=access())
    assert [item.method for item in registry.log] == ["GET", "HEAD", "HEAD", "PUT"]


@pytest.mark.parametrize("status", [202, 401, 403, 404, 405, 500])
def test_a_mount_that_is_refused_becomes_an_upload(status: int) -> None:
    image = random_image(9)
    with LoopbackRegistry() as registry:
        write(image, ref(registry, "first"), access=access())
        source = read(ref(registry, "first"), access=access())

        def is_mount(request: Request) -> bool:
            return request.method == "POST" and "mount=" in request.query

        if status == 202:
            registry.mounts = False
        else:
            registry.faults.append(Fault(when=is_mount, times=None, status=status))
        outcome: dict[Digest, str] = {}
        write(source, ref(registry, "second"), access=access(settings=replace(FAST, retries=1)), outcome=outcome)
        assert registry.state("second", "1") == image.digest
        assert set(outcome.values()) == {"uploaded"}


def test_a_mount_asks_for_a_token_that_may_pull_from_the_source() -> None:
    with LoopbackRegistry(auth="bearer", password=SECRET) as registry:
        write(random_image(10), ref(registry, "first"), access=access())
        source = read(ref(registry, "first"), access=access())
        registry.forget()
        outcome: dict[Digest, str] = {}
        write(source, ref(registry, "second"), access=access(), outcome=outcome)
        assert list(outcome.values()).count("mounted") == 3
        asked = [item.query for item in registry.requests("GET", "/token")]
        assert any("first%3Apull" in query and "second%3Apull%2Cpush" in query for query in asked)


def test_challenges_that_change_their_scopes_are_answered() -> None:
    def scopes(method: str, repository: str) -> str:
        verbs = {"PUT": "pull,push,delete", "PATCH": "pull,push,write"}.get(method, "pull")
        return f"repository:{repository}:{verbs}"

    with LoopbackRegistry(auth="bearer", password=SECRET, token_scopes=scopes) as registry:
        image = random_image(11)
        write(image, ref(registry), access=access(), chunk_bytes=900)
        assert registry.state("team/app", "1") == image.digest


def test_an_identity_token_is_exchanged_by_post() -> None:
    with LoopbackRegistry(auth="bearer", identity_token=SECRET) as registry:
        image = random_image(12, layers=1)
        write(image, ref(registry), access=access(Login(identity_token=SECRET)))
        assert registry.state("team/app", "1") == image.digest
        assert registry.requests("POST", "/token")
        assert SECRET not in "".join(item.query for item in registry.log)


def test_anonymous_pull_needs_no_login_but_push_does() -> None:
    with LoopbackRegistry(auth="bearer", password=SECRET, anonymous_pull=True) as registry:
        image = random_image(13, layers=1)
        write(image, ref(registry), access=access())
        assert_same(read(ref(registry), access=access(None)), image)
        with pytest.raises(AuthError, match="wants a login") as caught:
            write(random_image(14), ref(registry), access=access(None))
        assert "docker login" in caught.value.hint
        assert registry.state("team/app", "1") == image.digest


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_password_is_an_error_that_does_not_show_it(auth: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = Login(credentials=Credentials(username="user", password="wr0ng"))
    with LoopbackRegistry(auth=auth, password=SECRET) as registry, pytest.raises(AuthError) as caught:
        write(random_image(15), ref(registry), access=access(wrong))
    shown = caught.value.message + caught.value.hint + caplog.text
    assert "wr0ng" not in shown
    assert (wrong.credentials or LOGIN.credentials).authorization.partition(" ")[2] not in shown  # type: ignore[union-attr]
    assert len(registry.log) < 12


@pytest.mark.parametrize("status", [302, 303, 307])
def test_redirects_to_another_host_get_no_authorization(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        LoopbackRegistry(address="127.0.0.2") as storage,
        LoopbackRegistry(auth="bearer", password=SECRET, storage=storage, redirect_status=status) as registry,
    ):
        image = random_image(16)
        write(image, ref(registry), access=access())
        assert_same(read(ref(registry), access=access()), image)
        assert len(storage.log) == 4
        assert [item.authorization for item in storage.log] == [None] * 4
    assert "signature=secret" not in caplog.text


def test_an_upload_that_goes_to_another_host_gets_no_authorization() -> None:
    with (
        LoopbackRegistry(address="127.0.0.2") as storage,
        LoopbackRegistry(auth="bearer", password=SECRET, storage=storage, redirect_uploads=True) as registry,
    ):
        image = random_image(17)
        for chunk in (None, 900):
            write(image.with_annotations({"n": str(chunk)}), ref(registry), access=access(), chunk_bytes=chunk)
        assert registry.state("team/app", "1")
        assert storage.requests("PUT")
        assert [item for item in storage.log if item.authorization] == []


def test_the_login_is_found_nowhere_in_logs_and_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with LoopbackRegistry(auth="bearer", password=SECRET) as registry:
        write(random_image(18), ref(registry), access=access())
        registry.faults.append(Fault(when=lambda request: True, times=None, status=403, body=SECRET.encode()))
        with pytest.raises(AuthError) as caught:
            read(ref(registry), access=access())
    assert SECRET not in caplog.text + caught.value.message + caught.value.hint
    assert not [value for value in registry.tokens if value in caplog.text]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_answers_that_may_pass_are_tried_again(status: int, method: str) -> None:
    with LoopbackRegistry() as registry:
        headers = {"Retry-After": "0"} if status == 429 else {}
        registry.faults.append(
            Fault(when=lambda request: request.method == method, times=2, status=status, headers=headers)
        )
        image = random_image(19)
        write(image, ref(registry), access=access())
        assert registry.state("team/app", "1") == image.digest


def test_retry_after_is_waited_for_and_one_that_is_too_long_is_told() -> None:
    with LoopbackRegistry() as registry:
        write(random_image(20), ref(registry), access=access())
        late = Fault(when=lambda request: request.is_("GET", "/manifests/"), status=429, headers={"Retry-After": "1"})
        registry.faults.append(late)
        started = time.monotonic()
        read(ref(registry), access=access())
        assert time.monotonic() - started >= 0.95
        registry.faults.append(
            Fault(when=lambda request: request.is_("GET", "/manifests/"), status=429, headers={"Retry-After": "3600"})
        )
        with pytest.raises(TransferError) as caught:
            read(ref(registry), access=access())
        assert "3600 seconds" in caught.value.hint


CUTS = ["before", "middle", "after", "head", "body"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("chunk_bytes", [None, 700])
def test_a_cut_at_every_tenth_request_is_survived(cut: str, chunk_bytes: int | None) -> None:
    with LoopbackRegistry(auth="bearer", password=SECRET) as registry:
        old = random_image(21)
        write(old, ref(registry), access=access())
        registry.faults.append(Fault(when=lambda request: request.number % 10 == 0, times=None, cut=cut))
        image = random_image(22, layers=6)
        write(image, ref(registry), access=access(), chunk_bytes=chunk_bytes)
        assert registry.state("team/app", "1") == image.digest
        assert_same(read(ref(registry), access=access()), image)


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_push_that_dies_at_any_request_leaves_the_tag_whole(cut: str) -> None:
    old, image = random_index(23), random_index(24)
    settings = replace(FAST, retries=0)
    failed = 0
    with LoopbackRegistry() as registry:
        write(old, ref(registry), access=access())
        for number in range(1, 60):
            registry.forget()
            registry.faults[:] = [
                Fault(when=lambda request, number=number: request.number >= number, times=None, cut=cut)  # type: ignore[misc]
            ]
            try:
                write(image, ref(registry), access=access(settings=settings, jobs=1))
            except WainError:
                failed += 1
            state = registry.state("team/app", "1")
            assert state in (old.digest, image.digest)
            if state == image.digest:
                break
    assert failed >= 5
    assert state == image.digest


@pytest.mark.parametrize("cut", ["before", "head", "body"])
def test_a_registry_that_always_cuts_is_an_error_in_bounded_time(cut: str) -> None:
    with LoopbackRegistry() as registry:
        write(random_image(25), ref(registry), access=access())
        registry.faults.append(Fault(when=lambda request: request.path != "/v2/", times=None, cut=cut))
        started = time.monotonic()
        with pytest.raises(TransferError):
            read(ref(registry), access=access())
        assert time.monotonic() - started < 15


def test_a_layer_whose_transfer_breaks_goes_on_where_it_broke(registry: LoopbackRegistry) -> None:
    image = random_image(26, layers=1, layer_bytes=300_000)
    write(image, ref(registry), access=access())
    found = read(ref(registry), access=access())
    assert isinstance(found, Image)
    registry.faults.append(Fault(when=lambda request: request.is_("GET", "/blobs/"), times=2, cut="body"))
    registry.forget()
    with found.layers[0].open() as stream:
        data = b"".join(iter(lambda: stream.read(10_000), b""))
    assert Digest.of(data) == image.layers[0].digest
    ranges = [item.headers.get("range") for item in registry.requests("GET", "/blobs/")]
    assert ranges[0] is None
    assert all(item is not None and item.startswith("bytes=") for item in ranges[1:])
    assert len(ranges) == 3


def test_an_upload_that_breaks_goes_on_where_it_broke(registry: LoopbackRegistry) -> None:
    image = random_image(27, layers=1, layer_bytes=200_000)
    registry.faults.append(Fault(when=lambda request: request.method == "PATCH", skip=2, cut="after"))
    write(image, ref(registry), access=access(jobs=1), chunk_bytes=20_000)
    assert registry.state("team/app", "1") == image.digest
    starts = [item.headers["content-range"].partition("-")[0] for item in registry.requests("PATCH")]
    assert starts.count("0") == 2  # the layer's and the config's first chunk: nothing was begun anew
    assert len(set(starts)) == len(starts) - 1


def test_a_chunk_at_the_wrong_place_is_mended_by_what_416_says(registry: LoopbackRegistry) -> None:
    image = random_image(28, layers=1, layer_bytes=50_000)
    registry.faults.append(
        Fault(when=lambda request: request.method == "PATCH", skip=1, status=416, headers={"Range": "0-9999"})
    )
    write(image, ref(registry), access=access(jobs=1), chunk_bytes=10_000)
    assert registry.state("team/app", "1") == image.digest


def test_a_registry_that_never_takes_a_chunk_is_an_error(registry: LoopbackRegistry) -> None:
    registry.faults.append(Fault(when=lambda request: request.method == "PATCH", times=None, status=416))
    with pytest.raises(TransferError):
        write(random_image(29, layers=1), ref(registry), access=access(jobs=1), chunk_bytes=500)
    assert registry.state("team/app", "1") is None


def test_wrong_bytes_are_never_taken(registry: LoopbackRegistry) -> None:
    image = random_image(30, layers=1)
    write(image, ref(registry), access=access())
    found = read(ref(registry), access=access())
    assert isinstance(found, Image)
    for part in ("/manifests/", "/blobs/"):
        registry.faults[:] = [Fault(when=lambda request, part=part: request.is_("GET", part), corrupt=True)]  # type: ignore[misc]
        with pytest.raises((HashMismatch, ImageError)):
            read(ref(registry), access=access())
    registry.faults[:] = [Fault(when=lambda request: request.is_("GET", "/blobs/"), corrupt=True)]
    with pytest.raises(HashMismatch), found.layers[0].open() as stream:
        stream.read()


def test_a_digest_is_what_is_checked_not_what_the_registry_says(registry: LoopbackRegistry) -> None:
    one, other = random_image(31, layers=1), random_image(32, layers=1)
    write(one, ref(registry), access=access())
    registry.repository("team/app").manifests[other.digest] = (MANIFEST, one.manifest_bytes)
    wanted = RegistryReference(registry=registry.host, repository="team/app", digest=other.digest)
    with pytest.raises(HashMismatch):
        read(wanted, access=access())


def test_a_layer_that_is_not_its_digest_is_never_put_under_the_tag(registry: LoopbackRegistry) -> None:
    good = random_image(33, layers=2)
    layer = good.layers[1]
    wrong = random_image(34, layers=1).layers[0]
    bad = Layer(digest=layer.digest, diff_id=layer.diff_id, size_bytes=layer.size_bytes, source=wrong.source)
    with pytest.raises(WainError):
        write(replace(good, layers=(good.layers[0], bad)), ref(registry), access=access())
    assert registry.state("team/app", "1") is None


def test_a_slow_registry_is_given_up(registry: LoopbackRegistry) -> None:
    write(random_image(35, layers=1), ref(registry), access=access())
    settings = replace(FAST, retries=1, slow_seconds=0.3, slow_bytes_per_second=1000)
    registry.faults.append(Fault(when=lambda request: request.is_("GET", "/manifests/"), times=None, stall_seconds=0.1))
    started = time.monotonic()
    with pytest.raises(TransferError, match=r"sent .* bytes in"):
        read(ref(registry), access=access(settings=settings))
    assert time.monotonic() - started < 15


def test_a_registry_that_refuses_ocis_types_is_named_and_schema2_works() -> None:
    with LoopbackRegistry(oci_types=False) as registry:
        image = random_image(36)
        with pytest.raises(TransferError) as caught:
            write(image, ref(registry), access=access())
        assert "--schema2" in caught.value.hint
        assert registry.state("team/app", "1") is None
        digest = write(image, ref(registry), access=access(), schema2=True)
        assert registry.state("team/app", "1") == digest
        found = read(ref(registry), access=access())
        assert isinstance(found, Image)
        assert found.config_bytes == image.config_bytes
        index = random_index(37)
        assert registry.state("team/app", "2") is None
        digest = write(index, ref(registry, tag="2"), access=access(), schema2=True)
        assert registry.state("team/app", "2") == digest == to_schema2(index).digest


def test_mirrors_are_asked_first_and_the_registry_where_they_fail() -> None:
    with LoopbackRegistry() as mirror, LoopbackRegistry() as origin:
        image, other = random_image(38), random_image(39)
        write(image, ref(mirror, "cache/team/app"), access=access())
        write(other, ref(origin, "team/other"), access=access())
        mirrors = {origin.host: f"{mirror.host}/cache"}
        origin.forget()
        found = read(ref(origin), access=access(mirrors=mirrors))
        assert_same(found, image)
        assert origin.log == []
        assert isinstance(found, Image)
        assert found.layers[0].origin == f"{mirror.host}/cache/team/app"
        assert_same(read(ref(origin, "team/other"), access=access(mirrors=mirrors)), other)


def test_the_default_registrys_mirror() -> None:
    with LoopbackRegistry() as mirror:
        image = random_image(40, layers=1)
        write(image, ref(mirror, "mirror/library/python", "3.13"), access=access())
        reader = access(mirrors={"docker.io": f"{mirror.host}/mirror"})
        assert read(parse_registry_reference("python:3.13"), access=reader).digest == image.digest


def test_what_is_not_there_and_what_is_offline(registry: LoopbackRegistry) -> None:
    with pytest.raises(NotFound):
        read(ref(registry), access=access())
    assert resolve(ref(registry), access=access()) is None
    offline = Access(transport=Transport(FAST, offline=True), keychain=OneLogin())
    with pytest.raises(Offline):
        read(ref(registry), access=offline)


def test_manifests_and_configs_are_kept_by_digest(registry: LoopbackRegistry, tmp_path: Path) -> None:
    image = random_image(seed=21)
    write(image, ref(registry), access=access())
    tagged, pinned = ref(registry), ref(registry).with_digest(image.digest)
    with Store.open(tmp_path / "cache") as store:
        keeping = access(store=store)
        assert_same(read(tagged, access=keeping), image)
        asked = len(registry.log)
        assert read(tagged, access=keeping).digest == image.digest
        assert [request.path.split("/")[-2] for request in registry.log[asked:]] == ["manifests"]
        asked = len(registry.log)
        assert read(pinned, access=keeping).digest == image.digest
        assert registry.log[asked:] == []
        # What is damaged is asked for again.
        for digest in (image.digest, Digest.of(image.config_bytes)):
            path = store.path(digest)
            assert path is not None
            path.write_bytes(b"{}")
        assert_same(read(pinned, access=keeping), image)
        assert len(registry.log) > asked


def test_blobs_that_are_present(registry: LoopbackRegistry) -> None:
    image = random_image(41)
    write(image, ref(registry), access=access())
    absent = Digest.of(b"nothing")
    wanted = [layer.digest for layer in image.layers]
    assert present(ref(registry), [*wanted, absent], access=access()) == set(wanted)
    found = resolve(ref(registry), access=access())
    assert found is not None
    assert found.digest == image.digest


def test_more_tags_and_a_digest_that_does_not_fit(registry: LoopbackRegistry) -> None:
    image = random_image(42, layers=1)
    write(image, ref(registry), access=access(), tags=("2", "latest"))
    assert {registry.state("team/app", tag) for tag in ("1", "2", "latest")} == {image.digest}
    by_digest = RegistryReference(registry=registry.host, repository="x", digest=image.digest)
    assert write(image, by_digest, access=access()) == image.digest
    assert registry.repository("x").tags == {}
    with pytest.raises(ImageError):
        write(random_image(43), by_digest, access=access())


def test_manifests_that_are_hostile(registry: LoopbackRegistry) -> None:
    cases = {
        "list": b"[]",
        "deep": b'{"a":' * 100_000,
        "schema1": b'{"schemaVersion":1,"name":"x"}',
        "huge": b"{" + b" " * (5 << 20) + b"}",
        "artifact": json.dumps({"schemaVersion": 2, "mediaType": "application/x-other", "layers": []}).encode(),
        "helm": Manifest(
            config=Descriptor(
                media_type="application/vnd.cncf.helm.config.v1+json", digest=Digest.of(b"{}"), size_bytes=2
            ),
            layers=(),
        ).to_bytes(),
        "config": Manifest(
            config=Descriptor(media_type=CONFIG, digest=Digest.of(b"{}"), size_bytes=1 << 40), layers=()
        ).to_bytes(),
    }
    for tag, data in cases.items():
        registry.add_manifest("team/app", data, MANIFEST, tag)
        with pytest.raises((ImageError, TransferError)) as caught:
            read(ref(registry, tag=tag), access=access())
        assert caught.value.hint


def test_plain_http_beyond_loopback_needs_the_users_word() -> None:
    from wain.distribution import Session

    strict = Session("registry.example", transport=Transport(FAST), keychain=OneLogin())
    assert strict.base == "https://registry.example"


def test_challenges() -> None:
    found = Challenge.parse(
        'Basic realm="a, b", Bearer realm="https://a.example/t",service="s",scope="r:x:pull r:y:pull"'
    )
    assert [item.scheme for item in found] == ["basic", "bearer"]
    assert found[1].realm == "https://a.example/t"
    assert found[1].scopes == ("r:x:pull", "r:y:pull")
    assert Challenge.parse("") == ()
    assert Challenge.parse("Negotiate abc") == ()
    assert Challenge.parse("bearer realm=https://a.example/t")[0].realm == "https://a.example/t"


def test_an_upload_stays_encrypted() -> None:
    from wain.upload import _encrypted_like

    base = "https://registry.example:5000/v2/a/blobs/uploads/"
    for location, wanted in (
        ("http://registry.example/v2/u?x=1", "https://registry.example:5000/v2/u?x=1"),
        ("http://registry.example:5000/v2/u", "https://registry.example:5000/v2/u"),
        ("https://storage.example/u", "https://storage.example/u"),
        ("http://127.0.0.1:9/u", "http://127.0.0.1:9/u"),
    ):
        assert _encrypted_like(base, location) == wanted
    assert _encrypted_like("http://127.0.0.1:1/", "http://127.0.0.2:1/") == "http://127.0.0.2:1/"
    for location in ("http://storage.example/u", "http://registry.example:81/u"):
        with pytest.raises(TransferError, match="not encrypted"):
            _encrypted_like(base, location)


def test_a_registry_may_take_its_time_over_an_uploads_end(registry: LoopbackRegistry) -> None:
    image = random_image(44, layers=1)
    registry.faults.append(Fault(when=lambda request: request.is_("PUT", "/blobs/"), stall_seconds=0.6))
    settings = replace(FAST, timeout_seconds=0.3, retries=0)
    write(image, ref(registry), access=access(settings=settings))
    assert registry.state("team/app", "1") == image.digest
    registry.faults.append(Fault(when=lambda request: request.is_("PUT", "/blobs/"), stall_seconds=5))
    with pytest.raises(TransferError, match=r"no answer within 0.4 s"):
        write(random_image(45), ref(registry), access=access(settings=replace(settings, commit_seconds=0.4)))


@pytest.mark.parametrize("answer", [b"[" * 100_000, b'{"token": "x", "expires_in": 1%s}' % (b"0" * 400), b"{}", b""])
def test_a_token_server_that_says_nonsense(answer: bytes) -> None:
    try:
        assert parse_token(answer, "https://auth.example/token").value == "x"
    except AuthError as error:
        assert "gave no token" in error.message


def test_a_layer_that_may_not_be_passed_on_is_named(registry: LoopbackRegistry) -> None:
    image = random_image(1, layers=1)
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    image = replace(image, layers=(replace(image.layers[0], media_type=kind),), source_manifest=None)
    registry.add_blob("app", image.config_bytes)
    registry.add_manifest("app", image.manifest.to_bytes(), image.manifest.media_type, "1")
    found = read(parse_registry_reference(registry.reference("app")))
    assert isinstance(found, Image)
    with pytest.raises(ImageError, match="may not be passed on"):
        found.layers[0].open()
