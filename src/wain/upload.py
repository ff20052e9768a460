"""One blob into a repository: present already, mounted from another, or uploaded, whole or in chunks.

Source: OCI distribution specification 1.1, "Pushing blobs" and "Mounting a blob from another repository".
"""

from __future__ import annotations

import io
import logging
import queue
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Struct

from wain.content import Progress, blob_name
from wain.distribution import Access, Session, pull_scope, push_scope
from wain.errors import AuthError, HashMismatch, NotFound, TransferError, WainError
from wain.image import Blob
from wain.layers import Layer
from wain.transport import Body, Response, is_loopback, redact_url, resolve_url

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from wain.digest import Digest
    from wain.names import RegistryReference

log = logging.getLogger(__name__)

DEFAULT_CHUNK_BYTES = 64 << 20
_MAX_CHUNK_BYTES = 5 << 30
_AHEAD_THREADS = 2
_MAY_PASS = frozenset((404, 408, 416, 425, 429))
_OCTETS = {"Content-Type": "application/octet-stream"}


class Stopped(TransferError):
    """Another part of the push failed, or the user ended it."""


class _Place(Struct, frozen=True):
    """Where an upload goes on: the Location as the registry gave it, made absolute."""

    url: str
    min_chunk_bytes: int


class Uploads:
    """Puts blobs into one repository; threads may share it."""

    def __init__(
        self, session: Session, registry: str, repository: str, *, chunk_bytes: int | None, progress: Progress
    ) -> None:
        self._session = session
        self._registry = registry
        self._repository = repository
        self._chunk_bytes = chunk_bytes
        self._progress = progress
        self._stopped = threading.Event()
        self._scope = push_scope(repository)

    def stop(self) -> None:
        """Ends the uploads that other threads are at, soon."""
        self._stopped.set()

    def ensure(self, blob: Blob | Layer) -> str:
        """Makes the repository have the blob.

        :returns: `present`, `mounted` or `uploaded`.
        :raises TransferError: when it could not be uploaded.
        """
        if self._is_there(blob.digest):
            return "present"
        if self._mount(blob):
            return "mounted"
        self._upload(blob)
        return "uploaded"

    def _request(
        self,
        method: str,
        url: str,
        *,
        ok: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        scopes: tuple[str, ...] = (),
        retry: bool | None = None,
    ) -> Response:
        if self._stopped.is_set():
            raise Stopped("the push was ended", hint="Run it again.")
        return self._session.request(
            method,
            url,
            scopes=(self._scope, *scopes),
            repository=self._repository,
            headers=headers,
            body=body,
            ok=ok,
            retry=retry,
            patience_seconds=self._session.settings.commit_seconds if method == "PUT" else None,
        )

    def _is_there(self, digest: Digest) -> bool:
        url = self._session.url(self._repository, "blobs", digest)
        with self._request("HEAD", url, ok=(200, 404)) as response:
            return response.status == 200

    def _mount(self, blob: Blob | Layer) -> bool:
        registry, _, source = (blob.origin or "").partition("/")
        if registry != self._registry or not source or source == self._repository:
            return False
        url = self._session.url(self._repository, "blobs", "uploads/")
        url += f"?mount={quote(blob.digest, safe=':')}&from={quote(source)}"
        try:
            with self._request(
                "POST", url, body=b"", ok=(201, 202), scopes=(pull_scope(source),), retry=True
            ) as response:
                # 202: the registry does not mount and began an upload instead; it runs out by itself.
                return response.status == 201
        except Stopped:
            raise
        except TransferError as error:
            log.debug("%s is not mounted from %s: %s", blob.digest, source, error.message)
            return False

    def _upload(self, blob: Blob | Layer) -> None:
        """Whole where it can be; in chunks from where it broke off, where it must be."""
        retries = self._session.settings.retries
        in_chunks = self._chunk_bytes is not None and blob.size_bytes > 0
        refused_chunks = False
        failures = 0
        chunk_bytes = self._chunk_bytes or DEFAULT_CHUNK_BYTES
        with _Feed(blob, self._stopped, self._progress) as feed:
            place: _Place | None = None
            start = 0
            while True:
                try:
                    if place is None:
                        place, start = self._begin(), 0
                    if (in_chunks or start) and not refused_chunks:
                        self._send_chunks(blob, feed, place, start, chunk_bytes)
                    else:
                        self._send_whole(blob, feed, place)
                    return
                except (Stopped, AuthError, HashMismatch):
                    raise
                except _ChunksRefused as error:
                    if refused_chunks:
                        raise TransferError(error.message, hint=error.hint, status=error.status) from error
                    log.info("%s takes no chunks; %s is sent whole", self._registry, blob.digest)
                    refused_chunks, in_chunks, place = True, False, None
                except TransferError as error:
                    failures += 1
                    if failures > retries:
                        raise
                    if error.status in (405, 411, 413, 501) and not in_chunks and not refused_chunks:
                        in_chunks = True  # too large at once, or taken in no other way
                    elif error.status is not None and 400 <= error.status < 500 and error.status not in _MAY_PASS:
                        raise
                    log.info("%s; upload attempt %d", error.message, failures + 1)
                    self._pause(failures)
                    reached = start
                    place, start = self._where(place if error.status in (None, 416) else None)
                    if start > reached:
                        failures = 0  # it comes forward, however often it breaks

    def _pause(self, failures: int) -> None:
        if self._stopped.wait(min(self._session.settings.backoff_seconds * 2 ** (failures - 1), 20)):
            raise Stopped("the push was ended", hint="Run it again.")

    def _begin(self) -> _Place:
        url = self._session.url(self._repository, "blobs", "uploads/")
        with self._request("POST", url, body=b"", ok=(202,), retry=True) as response:
            return _place_of(response, least=0)

    def _where(self, place: _Place | None) -> tuple[_Place | None, int]:
        """How far an upload came by the registry's word; from the beginning where it does not know it any more."""
        if place is None:
            return None, 0
        try:
            with self._request("GET", place.url, ok=(200, 204)) as response:
                found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", "").strip())
                again = _place_of(response, least=place.min_chunk_bytes, default=place.url)
                # "0-0" is what some registries say of an upload that has nothing yet.
                if found and int(found[1]) > 0:
                    return again, int(found[1]) + 1
        except TransferError as error:
            log.debug("the upload cannot go on: %s", error.message)
        return None, 0

    def _send_whole(self, blob: Blob | Layer, feed: _Feed, place: _Place) -> None:
        body = Body(open=lambda: feed.part(0, blob.size_bytes), size_bytes=blob.size_bytes)
        with self._request(
            "PUT", _with_digest(place.url, blob.digest), headers=_OCTETS, body=body, ok=(200, 201, 204), retry=False
        ) as response:
            _check_stored(response, blob.digest)

    def _send_chunks(self, blob: Blob | Layer, feed: _Feed, place: _Place, start: int, chunk_bytes: int) -> None:
        if start > blob.size_bytes:
            raise TransferError(
                f"{self._registry} says that it has more of {blob.digest} than there is", hint="Run it again."
            )
        step = min(max(chunk_bytes, place.min_chunk_bytes), _MAX_CHUNK_BYTES)
        resumed = 0
        while start < blob.size_bytes:
            end = min(start + step, blob.size_bytes)
            place, came = self._send_chunk(feed, place, start, end)
            if came < end:
                resumed += 1
                if resumed > self._session.settings.retries or came > blob.size_bytes:
                    raise TransferError(
                        f"{self._registry} does not take more than {came} bytes of {blob.digest}",
                        hint="Run it again; if it happens again, the registry does not work.",
                    )
            start = came
        with self._request(
            "PUT", _with_digest(place.url, blob.digest), body=b"", ok=(200, 201, 204), retry=False
        ) as response:
            _check_stored(response, blob.digest)

    def _send_chunk(self, feed: _Feed, place: _Place, start: int, end: int) -> tuple[_Place, int]:
        headers = {**_OCTETS, "Content-Range": f"{start}-{end - 1}"}
        body = Body(open=lambda: feed.part(start, end), size_bytes=end - start)
        try:
            response = self._request(
                "PATCH", place.url, headers=headers, body=body, ok=(200, 201, 202, 204, 416), retry=False
            )
        except (AuthError, NotFound, Stopped):
            raise
        except TransferError as error:
            if error.status in (400, 405, 411, 415, 501):
                raise _ChunksRefused(error.message, hint=error.hint, status=error.status) from error
            raise
        with response:
            if response.status == 416:
                return self._after_416(place, response)
            return _place_of(response, least=place.min_chunk_bytes, default=place.url), end

    def _after_416(self, place: _Place, response: Response) -> tuple[_Place, int]:
        """Where the registry wants the next chunk to begin, by this answer or by asking."""
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", "").strip())
        if found:
            return _place_of(response, least=place.min_chunk_bytes, default=place.url), int(found[1]) + 1
        again, start = self._where(place)
        if again is None:
            raise TransferError("the upload is out of step", hint="Run it again.", status=416)
        return again, start


class UploadsAhead:
    """Uploads into one repository that go on while the rest of an image is made, in threads of their own.

    No manifest names the blobs yet, so no reader sees them. What fails is not told here: whoever writes the image asks
    for each of its blobs, uploads what is missing, and tells. A login that is lacking or refused is told at once.
    """

    def __init__(self, reference: RegistryReference, *, access: Access, progress: Progress | None = None) -> None:
        self._uploads = Uploads(
            access.session(reference.registry),
            reference.registry,
            reference.repository,
            chunk_bytes=None,
            progress=progress or (lambda what, done, total: None),
        )
        self._jobs = access.jobs
        self._queue: queue.SimpleQueue[Layer | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._outcome: dict[Digest, str] = {}
        self._refused: AuthError | None = None
        self._lock = threading.Lock()

    def send(self, layer: Layer) -> None:
        """Takes a layer that the image will have.

        :raises AuthError: when the registry did not let a layer before it in: the push would fail as well.
        """
        if self._refused is not None:
            raise self._refused
        self._queue.put(layer)
        with self._lock:
            if len(self._threads) < _AHEAD_THREADS:
                self._start()

    def finish(self) -> Mapping[Digest, str]:
        """Waits for what was taken; what became of each that is there now, as `Uploads.ensure` says it."""
        with self._lock:
            while self._threads and len(self._threads) < min(self._jobs, _AHEAD_THREADS + self._queue.qsize()):
                self._start()
        self._end()
        for thread in self._threads:
            thread.join()
        return self._outcome

    def stop(self) -> None:
        """Ends the uploads soon, and waits for none."""
        self._uploads.stop()
        self._end()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"wain-ahead-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (layer := self._queue.get()) is not None:
            try:
                self._outcome[layer.digest] = self._uploads.ensure(layer)
            except WainError as error:
                # A registry that fails is not pressed: the push tries once more, and tells.
                self._uploads.stop()
                if isinstance(error, AuthError):
                    self._refused = error
                log.info("%s is not uploaded ahead: %s", layer.digest, error.message)


class _ChunksRefused(TransferError):
    pass


def _place_of(response: Response, *, least: int, default: str | None = None) -> _Place:
    location = response.headers.get("Location") or default
    if not location:
        raise TransferError(
            "the registry began an upload without saying where it goes",
            hint="The registry does not follow the distribution specification; use another.",
        )
    text = response.headers.get("OCI-Chunk-Min-Length", "").strip()
    minimum = int(text[:12]) if text.isascii() and text.isdecimal() else least
    return _Place(_encrypted_like(response.url, resolve_url(response.url, location)), minimum)


def _encrypted_like(url: str, location: str) -> str:
    """The Location; registries behind a proxy that ends TLS give their own addresses with http.

    :raises TransferError: when it leads from an encrypted address to another host that is not.
    """
    old, new = urlsplit(url), urlsplit(location)
    if old.scheme != "https" or new.scheme == "https" or is_loopback(new.hostname or ""):
        return location
    if old.hostname != new.hostname or new.port not in (None, 80, old.port):
        raise TransferError(
            f"{redact_url(url)} wants the upload to go to {redact_url(location)}, which is not encrypted",
            hint="The registry is misconfigured; use another.",
        )
    return urlunsplit(new._replace(scheme="https", netloc=old.netloc.rpartition("@")[2]))


def _with_digest(url: str, digest: Digest) -> str:
    """The Location as it came, with the digest as one more parameter of its query."""
    parts = urlsplit(url)
    query = f"{parts.query}&" if parts.query else ""
    return urlunsplit(parts._replace(query=f"{query}digest={quote(digest, safe='')}"))


def _check_stored(response: Response, digest: Digest) -> None:
    said = response.headers.get("Docker-Content-Digest", "").strip()
    if said.startswith(f"{digest.algorithm}:") and said != digest:
        raise HashMismatch(
            f"the registry says that it stored {said}, not {digest}",
            hint="The registry or what stands before it changes what is pushed; do not use it.",
        )


class _Feed:
    """A blob's bytes from any point on, in one pass where the parts follow each other."""

    def __init__(self, blob: Blob | Layer, stopped: threading.Event, progress: Progress) -> None:
        self._blob = blob
        self._stopped = stopped
        self._progress = progress
        self._stream: BinaryIO | None = None
        self._at = 0
        self._name = blob_name(blob)

    def __enter__(self) -> _Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def part(self, start: int, end: int) -> BinaryIO:
        """Bytes from `start` up to `end`; only one part is read at a time."""
        if self._stream is None or self._at != start:
            self._close()
            self._stream = self._blob.open()
            self._at = 0
            while self._at < start:
                data = self._stream.read(min(start - self._at, 1 << 20))
                if not data:
                    break
                self._at += len(data)
        return _Part(self, end)  # type: ignore[return-value]

    def take(self, size: int, end: int) -> bytes:
        if self._stopped.is_set():
            raise Stopped("the push was ended", hint="Run it again.")
        assert self._stream is not None
        wanted = min(size, end - self._at)
        if wanted <= 0:
            if end == self._blob.size_bytes:
                # The reader verifies when it meets the end: wrong bytes are never taken for sent.
                self._stream.read(1)
            return b""
        data = self._stream.read(wanted)
        self._at += len(data)
        self._progress(self._name, self._at, self._blob.size_bytes)
        return data


class _Part(io.RawIOBase):
    def __init__(self, feed: _Feed, end: int) -> None:
        self._feed = feed
        self._end = end

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        return self._feed.take(size, self._end)

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
