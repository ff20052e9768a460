"""HTTP: redirects, retries, resumed downloads, and credentials that never cross hosts or reach a log.

Sources: RFC 9110 (redirects, Retry-After), RFC 9112, RFC 6750 (Bearer).
"""

from __future__ import annotations

import contextlib
import email.utils
import io
import logging
import random
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar
from urllib.parse import urlsplit

from wain.connections import HttpSettings, hint_of, is_certificate_error, pool_for, reason_of
from wain.digest import CHUNK_BYTES, Digest
from wain.downloads import Download, Fetch
from wain.errors import AuthError, NotFound, Offline, OutputError, TransferError, WainError
from wain.records import Record
from wain.urls import (
    Credentials,
    is_loopback,
    origin_of,
    redact_url,
    resolve_url,
    split_credentials,
)

if TYPE_CHECKING:
    from types import TracebackType

    import urllib3
    from typing_extensions import Buffer

__all__ = [
    "SUCCESS",
    "Body",
    "Credentials",
    "Download",
    "HttpSettings",
    "Response",
    "Transport",
    "is_loopback",
    "origin_of",
    "redact_url",
    "resolve_url",
    "retry_after",
    "split_credentials",
]

log = logging.getLogger(__name__)

SUCCESS = range(200, 300)
_TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
_PATIENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
_PRIVATE_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization"))
_DRAIN_BYTES = 64 << 10


class Body(Record, frozen=True, kw_only=True):
    """A request's body that can be sent again: each call of `open` gives it from its first byte."""

    unshown: ClassVar = ("open",)

    open: Callable[[], BinaryIO]
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(open=lambda: io.BytesIO(data), size_bytes=len(data))


class Response(io.RawIOBase):
    """An answer: its status, headers and the body as a stream, which the caller closes.

    `read(n)` gives up to n bytes as they come and b"" at the end; a body cut short raises.

    :raises TransferError: from `read`, when the body is cut, stalls or trickles.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, *, status: int, url: str, settings: HttpSettings) -> None:
        self._raw = raw
        self._settings = settings
        self.status = status
        self.url = url
        """That was answered in the end, after redirects."""
        self.headers: Mapping[str, str] = raw.headers
        self._window_start = time.monotonic()
        self._window_bytes = 0
        self._at_end = False

    def readable(self) -> bool:
        return True

    @property
    def size_bytes(self) -> int | None:
        """The body's size, where the server said it."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdecimal() else None

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK_BYTES), b""))
        if self._at_end or size == 0:
            return b""
        try:
            data = self._raw.read1(size, decode_content=False)
        except Exception as error:
            self._raw.close()
            reason = reason_of(error, self._settings)
            if reason is None:
                raise
            raise TransferError(
                f"the answer of {redact_url(self.url)} broke off: {reason}",
                hint="Check the connection and run it again.",
            ) from None
        if not data:
            self._at_end = True
        self._watch(len(data))
        return data

    def _watch(self, count: int) -> None:
        self._window_bytes += count
        elapsed = time.monotonic() - self._window_start
        if elapsed < self._settings.slow_seconds:
            return
        if self._window_bytes < self._settings.slow_bytes_per_second * elapsed and not self._at_end:
            self._raw.close()
            raise TransferError(
                f"{redact_url(self.url)} sent {self._window_bytes} bytes in {elapsed:.0f} s",
                hint="The server or the line is too slow; try again later or another mirror.",
            )
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def content(self, max_bytes: int) -> bytes:
        """The whole body.

        :raises TransferError: when it is larger than `max_bytes`.
        """
        pieces = []
        total = 0
        while piece := self.read(CHUNK_BYTES):
            total += len(piece)
            if total > max_bytes:
                self.close()
                raise TransferError(
                    f"the answer of {redact_url(self.url)} is larger than {max_bytes} bytes",
                    hint="The server does not serve what was asked for; check the address.",
                )
            pieces.append(piece)
        return b"".join(pieces)

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The body in pieces of at most `size` bytes."""
        while piece := self.read(size):
            yield piece

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        size = self.size_bytes
        short = (size is not None and size <= _DRAIN_BYTES) or self.status in (204, 304)
        if short and not self._at_end:
            # A short rest is read, so that the connection can serve the next request.
            with contextlib.suppress(Exception):
                self._raw.read(_DRAIN_BYTES + 1, decode_content=False)
        if self._raw_is_spent():
            self._raw.release_conn()  # before closing, which would take the connection along
        self._raw.close()
        super().close()

    def _raw_is_spent(self) -> bool:
        return bool(getattr(self._raw, "length_remaining", None) == 0) or self._at_end


class Transport:
    """Makes requests; threads may share one. Connections are pooled for the whole process.

    :param offline: every request raises `Offline`.
    """

    def __init__(self, settings: HttpSettings | None = None, *, offline: bool = False) -> None:
        self.settings = settings or HttpSettings()
        self.offline = offline

    def with_settings(self, settings: HttpSettings) -> Transport:
        """Another transport, as offline as this one."""
        return Transport(settings, offline=self.offline)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        credentials: Credentials | None = None,
        redirects: bool = True,
        ok: Container[int] = SUCCESS,
        retry: bool | None = None,
        patience_seconds: float | None = None,
    ) -> Response:
        """The answer to one request, after redirects and retries; the caller closes it.

        Authorization (of `headers`, `credentials` or the URL's own) goes to the URL's scheme, host and port
        alone. A redirect from https to http is refused unless it leads to loopback.

        :param redirects: whether they are followed; if not, they need to be in `ok`.
        :param ok: the statuses that are returned; all others raise.
        :param retry: whether a failure that may pass is tried again; None: where the method is idempotent.
        :param patience_seconds: the wait for the answer's head, where it is not that of the settings.
        :raises Offline: when the transport is offline.
        :raises AuthError: on 401, 403 and 407.
        :raises NotFound: on 404 and 410.
        :raises TransferError: on any other status, and when no answer comes.
        """
        url, own = split_credentials(url)
        if self.offline:
            raise Offline(
                f"{redact_url(url)} is needed and --offline was given",
                hint="Run it once without --offline, so that the store has it.",
            )
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        given = credentials or own
        if given is not None and "authorization" not in sent:
            sent["authorization"] = given.authorization
        sent.setdefault("user-agent", self.settings.user_agent)
        sent.setdefault("accept-encoding", "identity")
        payload = Body.of(body) if isinstance(body, bytes) else body
        if payload is not None:
            sent["content-length"] = str(payload.size_bytes)
        read_seconds = patience_seconds or self.settings.timeout_seconds
        patient = method in _PATIENT if retry is None else retry
        deadline = time.monotonic() + self.settings.total_seconds
        attempt = 0
        while True:
            error: TransferError
            wait: float | None = None
            try:
                response = self._follow(method, url, sent, payload, redirects=redirects, read_seconds=read_seconds)
                if response.status in ok:
                    return response
                error = _status_error(method, response)
                if response.status in _TRANSIENT:
                    wait = retry_after(response.headers.get("Retry-After"))
                    if wait is not None and wait > self.settings.retry_after_seconds:
                        error.hint = f"The server asks to wait {wait:.0f} seconds; run it again after that."
                        raise error
                elif response.status not in _TRANSIENT:
                    raise error
            except _Unreachable as unreachable:
                error = TransferError(str(unreachable), hint=unreachable.hint)
                if not unreachable.may_pass:
                    raise error from None
            may_repeat = patient or error.status == 429
            if not may_repeat or attempt >= self.settings.retries:
                raise error
            pause = wait if wait is not None else self._backoff(attempt)
            if time.monotonic() + pause > deadline:
                raise error
            attempt += 1
            log.info("%s; attempt %d in %.1f s", error.message, attempt + 1, pause)
            time.sleep(pause)

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        ok: Container[int] = SUCCESS,
    ) -> tuple[Response, bytes]:
        """A small document and the (closed) response it came with; also a body cut short is asked for again.

        :raises TransferError: as `request`, and when the body is larger than `max_bytes`.
        """
        attempt = 0
        while True:
            response = self.request("GET", url, headers=headers, credentials=credentials, ok=ok)
            with response:
                try:
                    return response, response.content(max_bytes)
                except TransferError as error:
                    if attempt >= self.settings.retries or "larger than" in error.message:
                        raise
                    log.info("%s; attempt %d", error.message, attempt + 2)
            time.sleep(self._backoff(attempt))
            attempt += 1

    def download(
        self,
        url: str,
        path: Path,
        *,
        digest: Digest | None = None,
        size_bytes: int | None = None,
        max_bytes: int | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        progress: Callable[[int, int | None], None] | None = None,
        elsewhere: Callable[[OSError], Path | None] | None = None,
    ) -> Download:
        """The bytes at a URL in a file; what an earlier attempt left in `path` is kept, the rest asked for.

        The file may only be used when this returns. After a failed transfer its part stays, to be resumed;
        after a wrong hash or size it is emptied.

        :param digest: of the whole file, SHA-256 or SHA-512.
        :param size_bytes: of the whole file.
        :param max_bytes: the most that is taken, where the size is not known.
        :param progress: called with the bytes that stand in the file and the size, where that is known.
        :param elsewhere: moves the file when it cannot be written, and says where it is now; None if nowhere.
        :raises HashMismatch: when digest or size are not those promised.
        :raises TransferError: as `request`.
        :raises OutputError: when the file cannot be written.
        """

        def ask(more: Mapping[str, str], ok: tuple[int, ...]) -> Response:
            return self.request("GET", url, headers={**(headers or {}), **more}, credentials=credentials, ok=ok)

        while True:
            try:
                with path.open("r+b" if path.exists() else "w+b") as file:
                    return Fetch(
                        ask,
                        url,
                        file,
                        digest=digest,
                        size_bytes=size_bytes,
                        max_bytes=max_bytes,
                        retries=self.settings.retries,
                        pause=lambda attempt: time.sleep(self._backoff(attempt)),
                        progress=progress,
                    ).run()
            except OSError as error:
                moved = elsewhere(error) if elsewhere else None
                if moved is None:
                    raise OutputError(
                        f"{path} cannot be written: {error.strerror or error}",
                        hint="Make room or name another folder.",
                    ) from error
                path = moved

    def _backoff(self, attempt: int) -> float:
        longest = min(self.settings.backoff_seconds * 2.0**attempt, 20.0)
        return longest * random.uniform(0.75, 1.0)  # noqa: S311  (no secret)

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        redirects: bool,
        read_seconds: float,
    ) -> Response:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._once(method, url, headers, body, read_seconds)
            location = response.headers.get("Location")
            if not redirects or response.status not in _REDIRECTS or not location:
                return response
            response.close()
            target = self._redirect_target(url, location)
            log.debug("%s leads to %s", redact_url(url), redact_url(target))
            if origin_of(target) != origin_of(url):
                headers = {name: value for name, value in headers.items() if name not in _PRIVATE_HEADERS}
            if (response.status == 303 and method != "HEAD") or (
                response.status in (301, 302) and method not in ("GET", "HEAD")
            ):
                method, body = "GET", None
                headers = {name: value for name, value in headers.items() if not name.startswith("content-")}
            url = target
        raise _Unreachable(
            f"{redact_url(url)} redirects more than {_MAX_REDIRECTS} times",
            hint="The server is misconfigured; use another address.",
            may_pass=False,
        )

    def _redirect_target(self, url: str, location: str) -> str:
        try:
            target = resolve_url(url, location)
        except TransferError as error:
            raise _Unreachable(error.message, hint=error.hint, may_pass=False) from None
        old, new = urlsplit(url), urlsplit(target)
        if old.scheme == "https" and new.scheme == "http" and not is_loopback(new.hostname or ""):
            raise _Unreachable(
                f"{redact_url(url)} redirects to {redact_url(target)}, which is not encrypted",
                hint="The server is misconfigured; use another address.",
                may_pass=False,
            )
        return target

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, read_seconds: float
    ) -> Response:
        import urllib3

        settings = self.settings
        started = time.monotonic()
        stream = body.open() if body is not None else None
        try:
            raw = pool_for(url, settings).urlopen(
                method,
                url,
                headers=dict(headers),
                body=_Steady(stream, settings, url) if stream is not None else None,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=settings.timeout_seconds, read=read_seconds),
            )
        except WainError:
            raise
        except Exception as error:
            reason = reason_of(error, settings, read_seconds)
            if reason is None:
                raise
            raise _Unreachable(
                f"{method} {redact_url(url)} failed: {reason}",
                hint=hint_of(error),
                may_pass=not is_certificate_error(error),
            ) from None
        finally:
            if stream is not None:
                stream.close()
        log.debug("%s %s: %d in %.3f s", method, redact_url(url), raw.status, time.monotonic() - started)
        return Response(raw, status=raw.status, url=url, settings=settings)


class _Unreachable(Exception):
    def __init__(self, message: str, *, hint: str, may_pass: bool) -> None:
        super().__init__(message)
        self.hint = hint
        self.may_pass = may_pass


class _Steady:
    """A body as urllib3 reads it: gives up on a server that takes it at a trickle."""

    def __init__(self, stream: BinaryIO, settings: HttpSettings, url: str) -> None:
        self._stream = stream
        self._settings = settings
        self._url = url
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def read(self, size: int = -1) -> bytes:
        elapsed = time.monotonic() - self._window_start
        if elapsed >= self._settings.slow_seconds:
            if self._window_bytes < self._settings.slow_bytes_per_second * elapsed:
                raise TimeoutError("the server takes the bytes too slowly")
            self._window_start, self._window_bytes = time.monotonic(), 0
        data = self._stream.read(size)
        self._window_bytes += len(data)
        return data


def retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header names, as a number or a date; None where it names none."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _status_error(method: str, response: Response) -> TransferError:
    """The error for an answer that was not wanted; closes it."""
    status = response.status
    where = f"{method} {redact_url(response.url)}"
    detail = ""
    with response, contextlib.suppress(TransferError):
        detail = _told(response.read(4096) if method != "HEAD" else b"")
    if status in (401, 403, 407):
        who = "the proxy" if status == 407 else "the server"
        return AuthError(
            f"{where}: {who} refuses ({status}){detail}",
            hint="Give credentials that are allowed to do this, or log in again.",
            status=status,
        )
    if status in (404, 410):
        return NotFound(f"{where}: there is no such thing ({status}){detail}", hint="Check the name.", status=status)
    hint = "Run it again later." if status in _TRANSIENT else "The server does not do what was asked of it."
    return TransferError(f"{where}: the server answers {status}{detail}", hint=hint, status=status)


def _told(data: bytes) -> str:
    """What a registry's error document says, on one line, or nothing."""
    import json

    try:
        items = json.loads(data)["errors"]
        texts = [str(item.get("message") or item.get("code")) for item in items[:3]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    text = "; ".join(texts)
    printable = "".join(char if char.isprintable() else " " for char in text)[:200]
    return f": {printable}" if printable else ""
