"""HTTP: TLS, proxies, retries, resumed downloads, and credentials that never cross hosts or reach a log.

Sources: RFC 9110 (redirects, ranges, Retry-After), RFC 9112, RFC 7617 (Basic), RFC 6750 (Bearer).
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import hashlib
import io
import ipaddress
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from wain.digest import CHUNK_BYTES, Digest
from wain.errors import (
    AuthError,
    HashMismatch,
    NotFound,
    Offline,
    OutputError,
    TransferError,
    UsageError,
    WainError,
)

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    import urllib3
    from typing_extensions import Buffer

log = logging.getLogger(__name__)

SUCCESS = range(200, 300)
_TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
_PATIENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
_PRIVATE_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization"))
_RESUME_PROGRESS_BYTES = 64 << 10
_DRAIN_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user's name and password for one server; the password is in no representation."""

    username: str
    password: str = field(repr=False)

    @property
    def authorization(self) -> str:
        """The value of the Authorization header, by the Basic scheme."""
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return f"Basic {token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How requests are made, for all servers that one `Transport` talks to."""

    timeout_seconds: float = 30
    """Of connecting, of waiting for an answer's head, and of each silence within a body."""
    retries: int = 4
    """Further attempts after a first that failed for a cause that may pass."""
    backoff_seconds: float = 0.5
    """Before the first retry; twice as long before each one after it, never above 20."""
    total_seconds: float = 600
    """From a request's start to its answer's head, all attempts and waits included."""
    retry_after_seconds: float = 60
    """The longest wait that a server's Retry-After is granted."""
    slow_bytes_per_second: int = 256
    """A body that stays below this for `slow_seconds` is given up."""
    slow_seconds: float = 60
    proxy: str | None = None
    """For every host that no_proxy does not name; None: as http_proxy, https_proxy and no_proxy say."""
    ca_file: Path | None = None
    """A PEM file or folder of the authorities that are trusted instead of the system's."""
    extra_ca_files: tuple[Path, ...] = ()
    """PEM files of authorities that are trusted besides."""
    client_cert: Path | None = None
    """A PEM file with a certificate, and the key where `client_key` is None."""
    client_key: Path | None = None
    trusted_hosts: tuple[str, ...] = ()
    """`host` or `host:port` whose certificates are not checked; `*` for all."""
    user_agent: str = "wain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request's body that can be sent again: each call of `open` gives it from its first byte."""

    open: Callable[[], BinaryIO] = field(repr=False)
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(open=lambda: io.BytesIO(data), size_bytes=len(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What `Transport.download` wrote."""

    size_bytes: int
    digest: Digest
    """SHA-256."""
    resumed_from_bytes: int = 0
    """Bytes that an earlier attempt had left and that were not asked for again."""


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment: fit for logs and errors.

    >>> redact_url("https://user:secret@index.example/simple/?token=1")
    'https://index.example/simple/?...'
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "<malformed URL>"
    return (
        urlunsplit((parts.scheme, host, parts.path, "...", ""))
        if parts.query
        else urlunsplit((parts.scheme, host, parts.path, "", ""))
    )


def split_credentials(url: str) -> tuple[str, Credentials | None]:
    """The URL without its user and password, and these.

    :raises UsageError: when the text is no URL of http or https.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises for a port that is no number)
    except ValueError as error:
        raise UsageError(f"{redact_url(url)!r} is not a URL", hint="Write https://host/path.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{redact_url(url)!r} is not a URL of http or https", hint="Write https://host/path.")
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    username, _, password = userinfo.partition(":")
    clean = urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
    return clean, Credentials(username=unquote(username), password=unquote(password))


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host in lower case and port: credentials are for one such triple."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def resolve_url(base: str, location: str) -> str:
    """A Location header or the like made absolute, without user and password.

    :raises TransferError: when it is no address of http or https.
    """
    try:
        # Servers send bytes beyond ASCII raw; they come as Latin-1.
        raw = location.encode("latin-1", "replace")
        target = urljoin(base, quote(raw, safe="%/:=&?~#+!$,;'@()*[]"))
        return split_credentials(target)[0]
    except (ValueError, UsageError):
        raise TransferError(
            f"{redact_url(base)} leads to what is no web address",
            hint="The server is misconfigured; use another address.",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own; no name is looked up."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


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
            reason = _reason(error, self._settings)
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


@dataclass(frozen=True, slots=True)
class _TlsKey:
    ca_file: Path | None
    extra_ca_files: tuple[Path, ...]
    client_cert: Path | None
    client_key: Path | None
    verified: bool


_pools: dict[tuple[_TlsKey | None, str | None, float], urllib3.PoolManager] = {}
_pools_lock = threading.Lock()


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
    ) -> Response:
        """The answer to one request, after redirects and retries; the caller closes it.

        Authorization (of `headers`, `credentials` or the URL's own) goes to the URL's scheme, host and port
        alone. A redirect from https to http is refused unless it leads to loopback.

        :param redirects: whether they are followed; if not, they need to be in `ok`.
        :param ok: the statuses that are returned; all others raise.
        :param retry: whether a failure that may pass is tried again; None: where the method is idempotent.
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
        patient = method in _PATIENT if retry is None else retry
        deadline = time.monotonic() + self.settings.total_seconds
        attempt = 0
        while True:
            error: TransferError
            wait: float | None = None
            try:
                response = self._follow(method, url, sent, payload, redirects=redirects, ok=ok)
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
    ) -> Download:
        """The bytes at a URL in a file; what an earlier attempt left in `path` is kept, the rest asked for.

        The file may only be used when this returns. After a failed transfer its part stays, to be resumed;
        after a wrong hash or size it is emptied.

        :param digest: of the whole file, SHA-256 or SHA-512.
        :param size_bytes: of the whole file.
        :param max_bytes: the most that is taken, where the size is not known.
        :param progress: called with the bytes that stand in the file and the size, where that is known.
        :raises HashMismatch: when digest or size are not those promised.
        :raises TransferError: as `request`.
        :raises OutputError: when the file cannot be written.
        """
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                return _Fetch(self, url, file, digest, size_bytes, max_bytes, headers, credentials, progress).run()
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="Make room or name another folder.",
            ) from error

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
        ok: Container[int],
    ) -> Response:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._once(method, url, headers, body)
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

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        import urllib3

        settings = self.settings
        started = time.monotonic()
        stream = body.open() if body is not None else None
        try:
            raw = self._pool(url).urlopen(
                method,
                url,
                headers=dict(headers),
                body=_Steady(stream, settings, url) if stream is not None else None,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=settings.timeout_seconds, read=settings.timeout_seconds),
            )
        except WainError:
            raise
        except Exception as error:
            reason = _reason(error, settings)
            if reason is None:
                raise
            raise _Unreachable(
                f"{method} {redact_url(url)} failed: {reason}",
                hint=_hint_of(error),
                may_pass=not _is_certificate_error(error),
            ) from None
        finally:
            if stream is not None:
                stream.close()
        log.debug("%s %s: %d in %.3f s", method, redact_url(url), raw.status, time.monotonic() - started)
        return Response(raw, status=raw.status, url=url, settings=settings)

    def _pool(self, url: str) -> urllib3.PoolManager:
        scheme, host, port = origin_of(url)
        settings = self.settings
        proxy = self._proxy_for(scheme, host, port)
        tls = None
        if scheme == "https" or (proxy or "").startswith("https:"):
            trusted = settings.trusted_hosts
            tls = _TlsKey(
                settings.ca_file,
                settings.extra_ca_files,
                settings.client_cert,
                settings.client_key,
                verified=not any(name.lower() in (host, f"{host}:{port}", "*") for name in trusted),
            )
        key = (tls, proxy, settings.timeout_seconds)
        with _pools_lock:
            pool = _pools.get(key)
            if pool is None:
                pool = _pools[key] = _make_pool(tls, proxy, settings.timeout_seconds)
            return pool

    def _proxy_for(self, scheme: str, host: str, port: int) -> str | None:
        from urllib.request import getproxies, proxy_bypass

        if self.settings.proxy is None and is_loopback(host):
            return None
        proxies = getproxies()
        proxy = self.settings.proxy or proxies.get(scheme) or proxies.get("all")
        if not proxy or proxy_bypass(f"{host}:{port}"):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


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


class _Fetch:
    """One file's download, over as many attempts as it takes."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        file: BinaryIO,
        digest: Digest | None,
        size_bytes: int | None,
        max_bytes: int | None,
        headers: Mapping[str, str] | None,
        credentials: Credentials | None,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self._transport = transport
        self._url = url
        self._file = file
        self._digest = digest
        self._size_bytes = size_bytes
        self._limit = size_bytes if size_bytes is not None else max_bytes
        self._headers = dict(headers or {})
        self._credentials = credentials
        self._progress = progress or (lambda done, total: None)
        self._total = size_bytes
        self._validator: str | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._done = 0
        self._validator = None
        self._hash = hashlib.sha256()
        other = self._digest is not None and self._digest.algorithm != "sha256"
        self._other_hash = hashlib.new(self._digest.algorithm) if other and self._digest else None

    def _empty(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._start_over()

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        if self._other_hash is not None:
            self._other_hash.update(data)
        self._done += len(data)

    def run(self) -> Download:
        self._file.seek(0)
        left = os.fstat(self._file.fileno()).st_size
        while left > 0 and (data := self._file.read(min(left, CHUNK_BYTES))):
            self._take(data)
            left -= len(data)
        # Without the digest nobody can say that the old part and the new rest belong together.
        if self._digest is None or (self._limit is not None and self._done > self._limit):
            self._empty()
        left = self._done
        failures = 0
        while True:
            before = self._done
            try:
                if not (self._done and self._done == self._size_bytes):
                    self._attempt()
                problem = self._problem()
            except TransferError as error:
                gained = self._done - before
                failures = 0 if gained >= _RESUME_PROGRESS_BYTES else failures + 1
                if error.status is not None or failures > self._transport.settings.retries:
                    raise
                log.info("%s; resumed at %d bytes", error.message, self._done)
                time.sleep(self._transport._backoff(max(failures - 1, 0)))
                continue
            if problem is None:
                self._file.flush()
                return Download(
                    size_bytes=self._done,
                    digest=Digest("sha256:" + self._hash.hexdigest()),
                    resumed_from_bytes=left,
                )
            self._empty()
            if not left:
                raise problem
            # The part that was there may have been of another file: once more from the first byte.
            left = 0

    def _attempt(self) -> None:
        headers = dict(self._headers)
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        ok = (200, 206, 416) if self._done else (200,)
        with self._transport.request(
            "GET", self._url, headers=headers, credentials=self._credentials, ok=ok
        ) as response:
            if response.status == 416:
                self._after_unsatisfiable(response)
                return
            if response.status == 206:
                self._check_range(response)
            elif self._done:
                self._empty()
            total = None if response.size_bytes is None else self._done + response.size_bytes
            if self._size_bytes is not None and total is not None and total != self._size_bytes:
                raise self._mismatch(f"{total} bytes, not {self._size_bytes}")
            self._total = self._size_bytes or total
            etag = response.headers.get("ETag", "")
            self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
            self._file.seek(self._done)
            for data in response.chunks():
                if self._limit is not None and self._done + len(data) > self._limit:
                    raise self._mismatch(f"more than {self._limit} bytes")
                self._file.write(data)
                self._take(data)
                self._progress(self._done, self._total)

    def _after_unsatisfiable(self, response: Response) -> None:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if not total or int(total[1]) != self._done:
            self._empty()
            raise TransferError(
                f"{redact_url(self._url)} cannot be resumed",
                hint="Run it again; it starts from the beginning.",
            )

    def _check_range(self, response: Response) -> None:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != self._done:
            self._empty()
            raise TransferError(
                f"{redact_url(self._url)} answered with another range than was asked for",
                hint="Run it again; it starts from the beginning.",
            )

    def _problem(self) -> HashMismatch | None:
        if self._size_bytes is not None and self._done != self._size_bytes:
            return self._mismatch(f"{self._done} bytes, not {self._size_bytes}")
        if self._digest is not None:
            found = (self._other_hash or self._hash).hexdigest()
            if found != self._digest.hex:
                return self._mismatch(f"{self._digest.algorithm}:{found}, not {self._digest}")
        return None

    def _mismatch(self, detail: str) -> HashMismatch:
        return HashMismatch(
            f"{redact_url(self._url)} is not what was promised: {detail}",
            hint="The server has other bytes than the lock or index says; do not use them. Lock again if the"
            " change is meant.",
        )


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
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    text = "; ".join(texts)
    printable = "".join(char if char.isprintable() else " " for char in text)[:200]
    return f": {printable}" if printable else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        queue += [item.__cause__, getattr(item, "reason", None), *item.args, item.__context__]


def _is_certificate_error(error: BaseException) -> bool:
    import ssl

    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


def _hint_of(error: BaseException) -> str:
    import ssl

    import urllib3

    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "Name the authority's certificate file, or the host as trusted."
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "If the server speaks plain HTTP, say so (--insecure for a registry)."
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
        return "Check the proxy's address and credentials."
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return "Check the host's name and the connection."
    return "Check the address and the connection, and run it again."


def _reason(error: BaseException, settings: HttpSettings) -> str | None:
    """Why a request failed, in words that hold no URL; None for what is no failure of the network."""
    import http.client
    import socket
    import ssl

    import urllib3

    known = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
    if not isinstance(error, known):
        return None
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"TLS failed ({cause.reason.replace('_', ' ').lower()})"
    prefix = "the proxy: " if any(isinstance(c, urllib3.exceptions.ProxyError) for c in causes) else ""
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NameResolutionError | socket.gaierror):
            return prefix + "the host's name is not known"
        refused = isinstance(cause, urllib3.exceptions.NewConnectionError)
        if isinstance(cause, urllib3.exceptions.ConnectTimeoutError) and not refused:
            return prefix + f"no connection within {settings.timeout_seconds:g} s"
        if isinstance(cause, urllib3.exceptions.ReadTimeoutError | TimeoutError):
            return prefix + f"no answer within {settings.timeout_seconds:g} s"
        if isinstance(cause, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead):
            return prefix + "the connection was cut"
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            if cause.errno in (errno.ECONNRESET, errno.EPIPE):
                return prefix + "the connection was cut"
            return prefix + os.strerror(cause.errno).lower()
    return prefix + "the connection was cut or what came is no HTTP"


class _Head:
    """What http.client reads an answer's head from; remembers whether it ended before its empty line."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.is_cut = False

    def readline(self, limit: int = -1) -> bytes:
        line = self.stream.readline(limit)
        self.is_cut = not line
        return line

    def close(self) -> None:
        self.stream.close()

    def flush(self) -> None:
        self.stream.flush()


def _make_pool(tls: _TlsKey | None, proxy: str | None, timeout_seconds: float) -> urllib3.PoolManager:
    import http.client

    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    # They log paths with their queries, where signed URLs carry their keys.
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    class WholeHead(http.client.HTTPResponse):
        """http.client takes a head that is cut short for a whole one; this does not."""

        def begin(self) -> None:
            head = _Head(self.fp)
            self.fp = head  # type: ignore[assignment]
            super().begin()
            if self.fp is head:  # type: ignore[comparison-overlap]
                self.fp = head.stream  # type: ignore[assignment]
            if head.is_cut:
                raise http.client.RemoteDisconnected("the answer's head is cut short")

    class HeadWatch(HTTPConnection):
        """Bounds the time that an answer's head takes as a whole, not only each silence within it."""

        response_class = WholeHead

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
            watch = threading.Timer(2 * timeout_seconds, _hang_up, (self.sock,))
            watch.daemon = True
            watch.start()
            try:
                return super().getresponse()
            finally:
                watch.cancel()

    class Plain(HeadWatch):
        pass

    class Encrypted(HeadWatch, HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            if tls is not None and not tls.verified:
                self.is_verified = True  # the user named the host as trusted: no warning at each request

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Encrypted

    arguments: dict[str, Any] = {"num_pools": 32, "maxsize": 16, "block": False, "blocksize": 128 << 10}
    if tls is not None:
        arguments["ssl_context"] = _tls_context(tls)
        if not tls.verified:
            arguments["assert_hostname"] = False
    pool: urllib3.PoolManager
    if proxy is None:
        pool = urllib3.PoolManager(**arguments)
    else:
        address, credentials = split_credentials(proxy)
        proxy_headers = {"Proxy-Authorization": credentials.authorization} if credentials else None
        if address.startswith("https:"):
            arguments["proxy_ssl_context"] = arguments["ssl_context"]
        pool = urllib3.ProxyManager(address, proxy_headers=proxy_headers, **arguments)
    pool.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}
    return pool


def _hang_up(sock: Any) -> None:
    import socket

    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _tls_context(key: _TlsKey) -> ssl.SSLContext:
    import ssl

    try:
        if key.ca_file is None:
            context = ssl.create_default_context()
        elif key.ca_file.is_dir():
            context = ssl.create_default_context(capath=str(key.ca_file))
        else:
            context = ssl.create_default_context(cafile=str(key.ca_file))
        for file in key.extra_ca_files:
            context.load_verify_locations(cafile=str(file))
        if key.client_cert is not None:
            context.load_cert_chain(key.client_cert, key.client_key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        names = [str(path) for path in (key.ca_file, *key.extra_ca_files, key.client_cert, key.client_key) if path]
        raise UsageError(
            f"no certificates can be read from {', '.join(names)}: {reason}",
            hint="Name PEM files that this user may read; a client's file holds certificate and key.",
        ) from error
    if not key.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
