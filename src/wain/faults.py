"""An HTTP server on loopback for tests, which logs each request and does with it what a fault says."""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

_CHUNK_BYTES = 64 << 10


class Request(Struct, kw_only=True):
    """One request as the server logged it."""

    number: int
    """From 1."""
    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """With lower-case names."""
    body_bytes: int = 0
    status: int | None = None
    """None where the connection was cut before an answer."""
    sent_bytes: int = 0

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    def is_(self, method: str, part: str = "") -> bool:
        return self.method == method and part in self.path


class Fault(Struct, kw_only=True):
    """What goes wrong with the requests that `when` picks.

    `cut` is where the connection breaks: `before` the request's body is read, in the `middle` of it, `after` the
    request was carried out, in the answer's `head`, or half-way through the answer's `body`.
    """

    when: Callable[[Request], bool]
    times: int | None = 1
    """How often; None: always."""
    skip: int = 0
    """How many such requests pass before."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: str | None = None
    corrupt: bool = False
    """The answer's body has one bit wrong."""
    stall_seconds: float = 0
    """Before the answer; the body then comes in small pieces this far apart."""

    def takes(self, request: Request) -> bool:
        if self.times == 0 or not self.when(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Cut(Exception):
    """The connection is to be broken now."""


class Answer(Exception):
    """What a request is answered; raised, so that no route can go on after it."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        super().__init__(status)
        self.status = status
        self.headers = dict(headers or {})
        self.body = body


class FaultyServer:
    """A server on a port of its own, from `with` until its end. `faults` go wrong in the order in which they stand."""

    def __init__(self, address: str, handler: type[FaultyHandler]) -> None:
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.lock = threading.RLock()
        self._server = _Server((address, 0), handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """`address:port`."""
        address, port = self._server.server_address[:2]
        return f"{address!s}:{port}"

    @property
    def base(self) -> str:
        """The URL of the host, without a slash at its end."""
        return f"http://{self.host}"

    def requests(self, method: str, part: str = "") -> list[Request]:
        """The logged requests of a method whose path has a part."""
        with self.lock:
            return [item for item in self.log if item.is_(method, part)]

    def forget(self) -> None:
        """Empties the log."""
        with self.lock:
            self.log.clear()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: FaultyServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class FaultyHandler(http.server.BaseHTTPRequestHandler):
    """One connection; what answers its requests says `dispatch`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server
    left = 0
    """How many bytes of the request's body have not been read."""

    def dispatch(self, request: Request) -> None:
        """Carries a request out.

        :raises Answer: always.
        """
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The log is the server's own."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.close()
        if isinstance(self.wfile, io.BufferedWriter):
            self.wfile.raw.close()  # what could not be flushed would keep it open
        self.rfile.close()

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  (http.server's names)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        owner = self.server.owner
        self.left = int(self.headers.get("Content-Length") or 0)
        with owner.lock:
            request = Request(
                number=len(owner.log) + 1,
                method=self.command,
                # A slash that is written out is no separator, as for the proxies that stand before many registries.
                path=parts.path if "%2f" in parts.path.lower() else unquote(parts.path),
                query=parts.query,
                headers={name.lower(): value for name, value in self.headers.items()},
                body_bytes=self.left,
            )
            owner.log.append(request)
            fault = next((item for item in owner.faults if item.takes(request)), None)
        try:
            answer = self._answer(request, fault)
            self._send(request, answer, fault)
        except _Cut:
            self._break()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _break(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Request, fault: Fault | None) -> Answer:
        if fault is not None:
            if fault.stall_seconds:
                time.sleep(fault.stall_seconds)
            if fault.cut == "before":
                raise _Cut
            if fault.cut == "middle":
                self.rfile.read(self.left // 2)
                raise _Cut
            if fault.status is not None:
                self.read_body()
                return Answer(fault.status, fault.headers, fault.body)
        try:
            self.dispatch(request)
        except Answer as answer:
            if fault is not None and fault.cut == "after":
                raise _Cut from None
            return answer
        raise AssertionError("a route answered nothing")

    def _send(self, request: Request, answer: Answer, fault: Fault | None) -> None:
        self.read_body()
        if fault is not None and fault.cut == "head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            raise _Cut
        body = answer.body
        if fault is not None and fault.corrupt and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with self.server.owner.lock:
            request.status = answer.status
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut == "body":
            self.wfile.write(body[: len(body) // 2])
            raise _Cut
        if fault is not None and fault.stall_seconds:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.stall_seconds)
            return
        self.wfile.write(body)
        with self.server.owner.lock:
            request.sent_bytes = len(body)

    def read_body(self) -> bytes:
        """What is left of the request's body."""
        return b"".join(self.body_pieces())

    def body_pieces(self) -> Iterator[bytes]:
        """The same piece by piece, as far as it came where the client goes away."""
        while self.left > 0:
            piece = self.rfile.read(min(self.left, _CHUNK_BYTES))
            if not piece:
                raise _Cut
            self.left -= len(piece)
            yield piece
