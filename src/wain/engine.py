"""Where the container engine is that clients of Docker would use, and requests to its API.

Sources: Docker Engine API; docker's documentation of contexts and of DOCKER_HOST.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from msgspec import Struct

from wain.errors import EngineError, ImageError
from wain.oci import JSON, Reader, load_json
from wain.output import cannot_write

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 300
_DEFAULT_SOCKETS = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "{runtime}/podman/podman.sock",
    "/run/podman/podman.sock",
)


class Endpoint(Struct, frozen=True, kw_only=True):
    """An engine's address: a socket's path, or host and port with or without TLS."""

    socket_path: Path | None = None
    host: str = ""
    port: int = 0
    certificates: Path | None = None
    """A folder with ca.pem, cert.pem and key.pem; TLS is spoken where it is set."""
    verified: bool = True

    def __str__(self) -> str:
        return f"unix://{self.socket_path}" if self.socket_path else f"tcp://{self.host}:{self.port}"


def find_endpoint(environment: Mapping[str, str] | None = None, home: Path | None = None) -> Endpoint:
    """DOCKER_HOST, else DOCKER_CONTEXT or the current context, else the first socket that is there.

    :raises EngineError: when an address is of a kind that is not spoken, or there is no engine.
    """
    env = os.environ if environment is None else environment
    own = home or Path(os.path.expanduser("~"))  # noqa: PTH111  (never raises)
    folder = Path(env.get("DOCKER_CONFIG") or own / ".docker")
    if address := env.get("DOCKER_HOST"):
        verify = bool(env.get("DOCKER_TLS_VERIFY"))
        encrypted = verify or bool(env.get("DOCKER_TLS"))
        certificates = Path(env.get("DOCKER_CERT_PATH") or folder) if encrypted else None
        return _parse(address, certificates, verified=verify or not encrypted)
    context = env.get("DOCKER_CONTEXT") or _current_context(folder)
    if context and context != "default":
        return _context(folder, context)
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for pattern in _DEFAULT_SOCKETS:
        path = Path(pattern.format(runtime=runtime))
        if path.is_socket():
            return Endpoint(socket_path=path)
    raise EngineError(
        "no container engine is found: neither DOCKER_HOST nor a socket of docker or podman is there",
        hint="Start docker or podman's socket, or write the image to a file (-o archive:FILE.tar) and load that.",
    )


def _current_context(folder: Path) -> str | None:
    try:
        document = load_json((folder / "config.json").read_bytes(), "config.json")
    except (OSError, ImageError):
        return None
    name = document.get("currentContext")
    return name if isinstance(name, str) else None


def _context(folder: Path, name: str) -> Endpoint:
    key = hashlib.sha256(name.encode()).hexdigest()
    try:
        data = (folder / "contexts" / "meta" / key / "meta.json").read_bytes()
        document = Reader(load_json(data, "meta.json"), "meta.json")
        endpoint = Reader(Reader(document.object("Endpoints"), "Endpoints").object("docker"), "docker")
        address = endpoint.text("Host")
        skip = endpoint.flag("SkipTLSVerify")
    except (OSError, ImageError) as error:
        raise EngineError(
            f"docker's context {name!r} cannot be read", hint="Choose another one with docker context use."
        ) from error
    certificates = folder / "contexts" / "tls" / key / "docker"
    return _parse(address, certificates if certificates.is_dir() else None, verified=not skip)


def _parse(address: str, certificates: Path | None, *, verified: bool) -> Endpoint:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme == "unix" and (parts.path or parts.netloc):
        return Endpoint(socket_path=Path(parts.netloc + parts.path))
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        if certificates is None and parts.scheme == "https":
            certificates = Path("/nonexistent")
        return Endpoint(
            host=parts.hostname,
            port=port or (2376 if certificates else 2375),
            certificates=certificates,
            verified=verified,
        )
    kind = parts.scheme or "nothing"
    raise EngineError(
        f"the engine's address is of kind {kind!r}, which is not spoken here",
        hint="Use unix:// or tcp://; for ssh, forward the socket: ssh -L /tmp/docker.sock:/var/run/docker.sock HOST.",
    )


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Engine:
    """Requests to one engine, each on a connection of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, *, body: Callable[[BinaryIO], None] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request; `body` writes what is sent, as a tar, in pieces of unknown number.

        :raises EngineError: when no engine answers, or it says that the request failed.
        """
        connection = self._connection()
        try:
            try:
                connection.putrequest(method, path, skip_accept_encoding=True)
                if body is not None:
                    connection.putheader("Content-Type", "application/x-tar")
                    connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders()
                if body is not None:
                    self._send(connection, body)
                response = connection.getresponse()
                if response.status >= 300:
                    raise EngineError(
                        f"the engine at {self.endpoint} refuses ({response.status}): {_message(response)}",
                        hint="Check the image's name and what the engine's log says.",
                    )
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            yield response
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, body: Callable[[BinaryIO], None]) -> None:
        sink = _Chunks(connection)
        try:
            body(sink)  # type: ignore[arg-type]
        except (BrokenPipeError, ConnectionResetError):
            return  # the engine has answered before it read all; the answer says why
        sink.end()

    def _unreachable(self, error: Exception) -> EngineError:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return EngineError(
            f"the engine at {self.endpoint} does not answer: {reason}",
            hint="Start it, or let this user talk to its socket; or write the image to a file and load that.",
        )

    def json(self, path: str, max_bytes: int = 16 << 20) -> JSON:
        """What a GET gives, as JSON.

        :raises EngineError: as `request`, and when it is no JSON.
        """
        with self.request("GET", path) as response:
            try:
                value: JSON = json.loads(response.read(max_bytes))
            except (ValueError, OSError, http.client.HTTPException, RecursionError) as error:
                raise EngineError(
                    f"the engine at {self.endpoint} does not answer as Docker does", hint="Name another engine."
                ) from error
        return value

    def _connection(self) -> http.client.HTTPConnection:
        endpoint = self.endpoint
        if endpoint.socket_path is not None:
            return _SocketConnection(endpoint.socket_path)
        if endpoint.certificates is None:
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_TIMEOUT_SECONDS)
        context = _tls(endpoint.certificates, verified=endpoint.verified)
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=_TIMEOUT_SECONDS, context=context)


class _Chunks:
    """What a body is written to: each write is a chunk of the transfer coding."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> int:
        if data:
            self._connection.send(b"%x\r\n" % len(data))
            self._connection.send(data)
            self._connection.send(b"\r\n")
        return len(data)

    def end(self) -> None:
        self._connection.send(b"0\r\n\r\n")


def _tls(folder: Path, *, verified: bool) -> ssl.SSLContext:
    try:
        ca = folder / "ca.pem"
        context = ssl.create_default_context(cafile=str(ca) if ca.is_file() else None)
        if (folder / "cert.pem").is_file():
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise EngineError(
            f"the engine's certificates in {folder} cannot be read", hint="Check DOCKER_CERT_PATH."
        ) from error
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _message(response: http.client.HTTPResponse) -> str:
    data = response.read(4096)
    try:
        text = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = data.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text)[:300].strip()


def image_path(name: str, verb: str) -> str:
    """`/images/NAME/VERB` of the API."""
    return f"/images/{quote(name, safe='/:@')}/{verb}"


def copy_to(response: http.client.HTTPResponse, file: BinaryIO, where: Path) -> None:
    """Writes an answer's whole body.

    :raises EngineError: when it is cut short.
    :raises OutputError: when it cannot be written.
    """
    while True:
        try:
            data = response.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError("the engine's answer broke off", hint="Run it again.") from error
        if not data:
            return
        try:
            file.write(data)
        except OSError as error:
            raise cannot_write(where, error) from error
