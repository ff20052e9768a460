"""Images in a registry: read with lazy layers, written all or nothing for a reader of the tag.

Sources: OCI distribution specification 1.1; OCI image specification, image-index.md.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from msgspec.structs import replace

from wain.content import Progress, blobs_of, check_bytes, document_type, manifests_of, read_content
from wain.digest import Digest
from wain.distribution import Access, Session, pull_scope, push_scope
from wain.errors import AuthError, HashMismatch, ImageError, NotFound, Offline, TransferError
from wain.image import Blob, Image, Index
from wain.layers import Layer
from wain.names import RegistryReference
from wain.oci import (
    DOCKER_CONFIG,
    INDEX,
    INDEX_TYPES,
    LAYER_ZSTD,
    MANIFEST,
    MANIFEST_TYPES,
    MAX_JSON_BYTES,
    OCI_TYPE_OF,
    Descriptor,
    Manifest,
    canonical_json,
)
from wain.oci import Index as IndexDocument
from wain.upload import Uploads

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from wain.platforms import Platform
    from wain.transport import Response

log = logging.getLogger(__name__)

_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
_MAX_IMAGES = 256
_DOCKER_TYPE_OF = {oci: docker for docker, oci in OCI_TYPE_OF.items()}
_T = TypeVar("_T")


def read(
    reference: RegistryReference, *, platform: Platform | None = None, access: Access | None = None
) -> Image | Index:
    """The image or index that a reference names; layers are fetched when they are opened.

    :param platform: picks one image of an index; without it an index is returned whole.
    :raises NotFound: when the registry has no such image.
    :raises AuthError: when it wants another login.
    :raises HashMismatch: when what it serves is not what the digest says.
    :raises ImageError: when what it serves is no image, or none is for the platform.
    """
    access = access or Access()
    failures: list[TransferError | ImageError | HashMismatch] = []
    places = access.places(reference.registry, reference.repository)
    for number, (registry, repository) in enumerate(places):
        last = number == len(places) - 1
        try:
            reader = _Reader(access, access.session(registry), repository, places[number:])
            return reader.read(reference, platform)
        except (TransferError, ImageError, HashMismatch) as error:
            if last:
                raise
            log.warning("%s has no %s to read: %s", registry, reference, error.message)
            failures.append(error)
    raise failures[-1]


def resolve(reference: RegistryReference, *, access: Access | None = None) -> Descriptor | None:
    """The descriptor of what a tag or digest names, by a HEAD request; None where there is no such thing.

    Only the registry's word: nothing was read and verified.
    """
    access = access or Access()
    return _head_manifest(access.session(reference.registry), reference.repository, reference.selector, pull_scope)


def present(reference: RegistryReference, digests: Iterable[Digest], *, access: Access | None = None) -> set[Digest]:
    """Those of the digests that the repository has as blobs, by HEAD requests."""
    access = access or Access()
    session = access.session(reference.registry)
    wanted = list(dict.fromkeys(digests))

    def ask(digest: Digest) -> bool:
        return _has_blob(session, reference.repository, digest, pull_scope(reference.repository))

    if not wanted:
        return set()
    found = _together(access.jobs, [lambda digest=digest: ask(digest) for digest in wanted])  # type: ignore[misc]
    return {digest for digest, has in zip(wanted, found, strict=True) if has}


def open_blob(reference: RegistryReference, descriptor: Descriptor, *, access: Access | None = None) -> BinaryIO:
    """A blob's bytes from the repository that a reference names; not verified.

    :raises TransferError: when the registry does not give it.
    """
    access = access or Access()
    return _open_blob(access, access.places(reference.registry, reference.repository), descriptor)


def write(
    image: Image | Index,
    reference: RegistryReference,
    *,
    access: Access | None = None,
    tags: Sequence[str] = (),
    chunk_bytes: int | None = None,
    schema2: bool = False,
    progress: Progress | None = None,
    outcome: dict[Digest, str] | None = None,
) -> Digest:
    """Puts an image or index under its name: blobs first, then manifests, an index, and the tags last.

    A reader of the tag sees what was there before or the whole new image. What the registry has is not sent
    again; layers of its other repositories are mounted.

    :param tags: further tags for the same image.
    :param chunk_bytes: uploads are cut in pieces of this size; None: only where they must be.
    :param schema2: in Docker's media types, for registries that refuse OCI's.
    :param outcome: is filled with what became of each blob: `uploaded`, `mounted` or `present`. Those that are in it
        came there a moment ago, and are not asked for.
    :returns: the digest of the manifest or index.
    :raises AuthError: when the registry wants another login.
    :raises TransferError: when an upload failed after its retries; the tags are as they were.
    """
    access = access or Access()
    if schema2:
        image = to_schema2(image)
    return _Writer(access, reference, tags, chunk_bytes, progress, {} if outcome is None else outcome).write(image)


def to_schema2(image: Image | Index) -> Image | Index:
    """The image with Docker's media types; the bytes of layers and configs are the same, the digest is not.

    :raises ImageError: when a layer has no such type.
    """
    if isinstance(image, Index):
        images = tuple(item for item in map(to_schema2, image.images) if isinstance(item, Image))
        document = IndexDocument(manifests=tuple(item.descriptor for item in images), media_type=_DOCKER_TYPE_OF[INDEX])
        return Index(images=images, source=document.to_bytes())
    if any(layer.media_type == LAYER_ZSTD for layer in image.layers):
        raise ImageError(
            "a layer is compressed with zstd, for which Docker's older format has no name",
            hint="Push it to a registry that takes OCI images.",
        )
    layers = tuple(
        replace(layer, media_type=_DOCKER_TYPE_OF.get(layer.media_type, layer.media_type), annotations={})
        for layer in image.layers
    )
    config = image.config_bytes
    manifest = Manifest(
        config=Descriptor(media_type=DOCKER_CONFIG, digest=Digest.of(config), size_bytes=len(config)),
        layers=tuple(layer.descriptor for layer in layers),
        media_type=_DOCKER_TYPE_OF[MANIFEST],
    )
    return Image.from_documents(canonical_json(manifest.to_json()), config, layers)


class _Reader:
    """Reads from one repository; layers that it makes fall back to the places after it."""

    def __init__(self, access: Access, session: Session, repository: str, places: list[tuple[str, str]]) -> None:
        self._access = access
        self._session = session
        self._repository = repository
        self._places = places
        self._scope = pull_scope(repository)

    @property
    def origin(self) -> str:
        return f"{self._session.registry}/{self._repository}"

    def read(self, reference: RegistryReference, platform: Platform | None) -> Image | Index:
        data, media_type = self._document(reference.selector, reference.digest)
        return read_content(self, data, media_type, platform=platform, what=str(reference))

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._document(descriptor.digest, descriptor.digest)[0]

    def config(self, descriptor: Descriptor) -> bytes:
        if (kept := self._access.kept(descriptor.digest)) is not None:
            return kept
        url = self._session.url(self._repository, "blobs", descriptor.digest)
        data = self._fetch(url, descriptor.size_bytes, {})[2]
        self._access.keep(data, descriptor.digest, f"config, {self.origin}")
        return data

    def _document(self, selector: str, digest: Digest | None) -> tuple[bytes, str]:
        """A manifest's or index's bytes and media type."""
        what = f"{self.origin} {selector}"
        if digest is not None and (kept := self._access.kept(digest)) is not None:
            return kept, document_type(kept, "", what)
        url = self._session.url(self._repository, "manifests", selector)
        said_type, said_digest, data = self._fetch(url, MAX_JSON_BYTES, {"Accept": _ACCEPT})
        promised = digest or (Digest(said_digest) if said_digest.startswith("sha256:") else None)
        if promised is not None:
            check_bytes(data, promised, what)
        media_type = document_type(data, said_type, what)
        self._access.keep(data, promised or Digest.of(data), f"manifest, {what}")
        return data, media_type

    def _fetch(self, url: str, max_bytes: int, headers: dict[str, str]) -> tuple[str, str, bytes]:
        """Content type, the digest that the registry says, and the bytes; a body cut short is asked for again."""
        retries = self._session.settings.retries
        for attempt in range(retries + 1):
            response = self._session.request(
                "GET", url, scopes=[self._scope], repository=self._repository, headers=headers
            )
            with response:
                try:
                    data = response.content(max_bytes)
                except TransferError as error:
                    if attempt == retries or "larger than" in error.message:
                        raise
                    log.info("%s; attempt %d", error.message, attempt + 2)
                    time.sleep(min(self._session.settings.backoff_seconds * 2**attempt, 20))
                    continue
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return kind, response.headers.get("Docker-Content-Digest", "").strip(), data
        raise AssertionError("unreachable")

    def opener(self, descriptor: Descriptor) -> Callable[[], BinaryIO]:
        access, places = self._access, self._places

        def open_blob() -> BinaryIO:
            return _open_blob(access, places, descriptor)

        return open_blob


def _open_blob(access: Access, places: list[tuple[str, str]], descriptor: Descriptor) -> BinaryIO:
    for number, (registry, repository) in enumerate(places):
        try:
            return BlobStream(access.session(registry), repository, descriptor)  # type: ignore[return-value]
        except TransferError as error:
            if number == len(places) - 1:
                raise
            log.warning("%s does not give %s: %s", registry, descriptor.digest, error.message)
    raise AssertionError("unreachable")


class BlobStream(io.RawIOBase):
    """A blob's bytes from a registry; where the connection breaks, the rest is asked for. Not verified."""

    def __init__(self, session: Session, repository: str, descriptor: Descriptor) -> None:
        self._session = session
        self._repository = repository
        self._descriptor = descriptor
        self._done = 0
        self._failures = 0
        self._response: Response | None = None  # an interrupted request leaves an object that is closed as well
        self._response = self._ask()

    def _ask(self) -> Response:
        headers = {"Range": f"bytes={self._done}-"} if self._done else {}
        response = self._session.request(
            "GET",
            self._session.url(self._repository, "blobs", self._descriptor.digest),
            scopes=[pull_scope(self._repository)],
            repository=self._repository,
            headers=headers,
            ok=(200, 206),
        )
        if self._done and response.status == 200:
            left = self._done
            while left and (data := response.read(min(left, 1 << 20))):
                left -= len(data)
        elif self._done and not response.headers.get("Content-Range", "").startswith(f"bytes {self._done}-"):
            response.close()
            raise TransferError("the registry answered with another range than was asked for", hint="Run it again.")
        return response

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while True:
            try:
                if self._response is None:
                    self._response = self._ask()
                data = self._response.read(size)
            except (AuthError, NotFound):
                raise
            except TransferError as error:
                self._failures += 1
                settings = self._session.settings
                if self._failures > settings.retries:
                    raise
                log.info("%s; resumed at %d bytes", error.message, self._done)
                time.sleep(min(settings.backoff_seconds * 2 ** (self._failures - 1), 20))
                self._response = None
                continue
            self._done += len(data)
            if self._done % (1 << 24) < len(data):
                self._failures = 0  # 16 MiB further: a new misfortune, not the old one
            return data

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and self._response is not None:
            self._response.close()
        super().close()


def _together(jobs: int, calls: Sequence[Callable[[], _T]], *, abandon: Callable[[], None] = lambda: None) -> list[_T]:
    """The results in the calls' order; the first error, or an interrupt, calls `abandon` and ends the rest.

    After an error no call runs on. An interrupt does not wait for those that do: their threads are daemons, which
    do not hold the process up as a pool's would.
    """
    if len(calls) <= 1 or jobs <= 1:
        return [call() for call in calls]
    results: dict[int, _T] = {}
    failures: list[BaseException] = []
    waiting = list(enumerate(calls))[::-1]
    over = threading.Event()

    def work() -> None:
        while not failures:
            try:
                number, call = waiting.pop()
            except IndexError:
                return
            try:
                results[number] = call()
            except BaseException as error:
                failures.append(error)
            if failures or len(results) == len(calls):
                over.set()

    threads = [
        threading.Thread(target=work, name=f"wain-registry-{number}", daemon=True)
        for number in range(min(jobs, len(calls)))
    ]
    try:
        for thread in threads:
            thread.start()
        over.wait()
    except BaseException:
        abandon()
        raise
    if failures:
        abandon()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(calls))]


def _has_blob(session: Session, repository: str, digest: Digest, scope: str) -> bool:
    with session.request(
        "HEAD", session.url(repository, "blobs", digest), scopes=[scope], repository=repository, ok=(200, 404)
    ) as response:
        return response.status == 200


def _head_manifest(
    session: Session, repository: str, selector: str, scope_of: Callable[[str], str]
) -> Descriptor | None:
    with session.request(
        "HEAD",
        session.url(repository, "manifests", selector),
        scopes=[scope_of(repository)],
        repository=repository,
        headers={"Accept": _ACCEPT},
        ok=(200, 404),
    ) as response:
        said = response.headers.get("Docker-Content-Digest", "").strip()
        if response.status == 404 or not said:
            return None
        return Descriptor(
            media_type=response.headers.get("Content-Type", "").partition(";")[0].strip(),
            digest=Digest(said),
            size_bytes=response.size_bytes or 0,
        )


class _Writer:
    """One push."""

    def __init__(
        self,
        access: Access,
        reference: RegistryReference,
        tags: Sequence[str],
        chunk_bytes: int | None,
        progress: Progress | None,
        outcome: dict[Digest, str],
    ) -> None:
        self._access = access
        self._reference = reference
        self._repository = reference.repository
        self._session = access.session(reference.registry)
        self._tags = tuple(dict.fromkeys((*((reference.tag,) if reference.tag else ()), *tags)))
        self._uploads = Uploads(
            self._session,
            reference.registry,
            reference.repository,
            chunk_bytes=chunk_bytes,
            progress=progress or (lambda what, done, total: None),
        )
        self._outcome = outcome
        self._lock = threading.Lock()

    def write(self, image: Image | Index) -> Digest:
        manifests = manifests_of(image)
        top, data = manifests[-1]
        if self._reference.digest not in (None, top.digest):
            raise ImageError(
                f"the image's digest is {top.digest}, not {self._reference.digest}",
                hint="Name the destination by a tag; the digest follows from the image.",
            )
        standing = _head_manifest(self._session, self._repository, top.digest, push_scope)
        whole = standing is not None and standing.digest == top.digest
        if whole:
            for blob in blobs_of(image):
                self._outcome.setdefault(blob.digest, "present")
        else:
            self._write_blobs(image)
            # By digest first, so that a tag's manifest never names one that is not there.
            for descriptor, document in manifests if not self._tags else manifests[:-1]:
                self._put(descriptor.digest, descriptor.media_type, document, descriptor.digest)
        for tag in self._tags:
            now = _head_manifest(self._session, self._repository, tag, push_scope) if whole else None
            if now is None or now.digest != top.digest:
                self._put(tag, top.media_type, data, top.digest)
        return top.digest

    def _write_blobs(self, image: Image | Index) -> None:
        # The largest first: the last to end is then a short one.
        missing = (blob for blob in blobs_of(image) if blob.digest not in self._outcome)
        ordered = sorted(missing, key=lambda blob: (-blob.size_bytes, blob.digest))
        calls = [lambda blob=blob: self._write_blob(blob) for blob in ordered]
        _together(self._access.jobs, calls, abandon=self._uploads.stop)

    def _write_blob(self, blob: Blob | Layer) -> None:
        became = self._uploads.ensure(blob)
        log.debug("%s: %s", blob.digest, became)
        with self._lock:
            self._outcome[blob.digest] = became

    def _put(self, name: str, media_type: str, data: bytes, digest: Digest) -> None:
        try:
            with self._session.request(
                "PUT",
                self._session.url(self._repository, "manifests", name),
                scopes=[push_scope(self._repository)],
                repository=self._repository,
                headers={"Content-Type": media_type},
                body=data,
                ok=(200, 201, 202),
            ) as response:
                said = response.headers.get("Docker-Content-Digest", "").strip()
        except (AuthError, Offline):
            raise
        except TransferError as error:
            if error.status in (400, 404, 405, 406, 415, 422) and media_type in _DOCKER_TYPE_OF:
                error.hint = (
                    "If the registry refuses OCI images, push in Docker's older format (--schema2); if it lost a"
                    " layer, run it again."
                )
            raise
        if said and said != digest and said.startswith("sha256:"):
            raise HashMismatch(
                f"{self._reference.registry} says that it stored {said}, not {digest}",
                hint="The registry or what stands before it changes what is pushed; do not use it.",
            )
