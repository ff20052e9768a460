"""Connections: TLS, proxies, one pool for the process, and why a connection failed.

Sources: RFC 9112; the conventions of http_proxy, https_proxy and no_proxy.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from wain.errors import UsageError
from wain.urls import is_loopback, origin_of, split_credentials

if TYPE_CHECKING:
    import io
    import ssl

    import urllib3


class HttpSettings(Struct, frozen=True, kw_only=True):
    """How requests are made, for all servers that one `Transport` talks to."""

    timeout_seconds: float = 30
    """Of connecting, of waiting for an answer's head, and of each silence within a body."""
    commit_seconds: float = 300
    """Of waiting for the answer to what ends an upload: registries then move and hash gigabytes."""
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


class _TlsKey(Struct, frozen=True):
    ca_file: Path | None
    extra_ca_files: tuple[Path, ...]
    client_cert: Path | None
    client_key: Path | None
    verified: bool


_pools: dict[tuple[_TlsKey | None, str | None, float], urllib3.PoolManager] = {}
_pools_lock = threading.Lock()


def pool_for(url: str, settings: HttpSettings) -> urllib3.PoolManager:
    """The process's pool of connections for a URL: its TLS, its proxy.

    :raises UsageError: when certificates cannot be read.
    """
    scheme, host, port = origin_of(url)
    proxy = _proxy_for(settings, scheme, host, port)
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


def _proxy_for(settings: HttpSettings, scheme: str, host: str, port: int) -> str | None:
    if settings.proxy is None and (is_loopback(host) or not _may_have_proxies()):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = settings.proxy or proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _may_have_proxies() -> bool:
    """Whether the machine may name proxies: on Linux only variables do, and to look for more takes time."""
    return sys.platform != "linux" or any(name.lower().endswith("_proxy") for name in os.environ)


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


def is_certificate_error(error: BaseException) -> bool:
    """Whether trying again is of no use."""
    import ssl

    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


def hint_of(error: BaseException) -> str:
    """What the user can do about a request that failed."""
    import ssl

    import urllib3

    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return (
            "Trust its authority: SSL_CERT_FILE, for an index --cert too, for a registry certs.d/HOST/ca.crt of docker"
            " or podman; or name the host as trusted (--trusted-host, for a registry --insecure)."
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "If the server speaks plain HTTP, say so (--insecure for a registry)."
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
        return "Check the proxy's address and credentials."
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return "Check the host's name and the connection."
    return "Check the address and the connection, and run it again."


def reason_of(error: BaseException, settings: HttpSettings, read_seconds: float | None = None) -> str | None:
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
            return prefix + f"no answer within {read_seconds or settings.timeout_seconds:g} s"
        if isinstance(cause, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead):
            return prefix + "the connection was cut"
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            if cause.errno in (errno.ECONNRESET, errno.EPIPE):
                return prefix + "the connection was cut"
            return prefix + os.strerror(cause.errno).lower()
    return prefix + "the connection was cut or what came is no HTTP"


class _Head:
    """What http.client reads an answer's head from; remembers whether it ended before its empty line, and bounds the
    time from its first byte to its last, not only each silence within it.
    """

    def __init__(self, stream: io.BufferedReader, seconds: float) -> None:
        self.stream = stream
        self.is_cut = False
        self._seconds = seconds
        self._began: float | None = None

    def readline(self, limit: int = -1) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) != limit:
            found = self.stream.peek(1)  # one read of the socket at most, with its timeout
            now = time.monotonic()
            if self._began is None:
                self._began = now
            if now > self._began + self._seconds:
                raise TimeoutError("the answer's head takes too long")
            if not found:
                break
            size = found.find(b"\n") + 1 or len(found)
            line += self.stream.read(size if limit < 0 else min(size, limit - len(line)))
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
            head = _Head(self.fp, timeout_seconds)
            self.fp = head  # type: ignore[assignment]
            super().begin()
            if self.fp is head:  # type: ignore[comparison-overlap]
                self.fp = head.stream
            if head.is_cut:
                raise http.client.RemoteDisconnected("the answer's head is cut short")

    class Plain(HTTPConnection):
        response_class = WholeHead

    class Encrypted(HTTPSConnection):
        response_class = WholeHead

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
