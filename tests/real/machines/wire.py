"""A loopback port in front of another one that counts every byte, in both directions."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class Wire(socketserver.ThreadingTCPServer):
    """The front; `size_bytes` is all that went to the port behind it and came from there, HTTP's headers too."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port_behind = port
        self.size_bytes = 0
        self._guard = threading.Lock()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, as it stands in references."""
        return f"127.0.0.1:{self.server_address[1]}"

    def pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        """All that comes from `source`, counted before it is passed on, until either side closes."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._guard:
                    self.size_bytes += len(data)
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class _Handler(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port_behind)) as behind:
            back = threading.Thread(target=self.server.pass_on, args=(behind, self.request), daemon=True)
            back.start()
            self.server.pass_on(self.request, behind)
            back.join()


@contextlib.contextmanager
def counted(port: int) -> Iterator[Wire]:
    """Count what goes to a port of 127.0.0.1 and comes from it, through a port of its own, until the block ends."""
    with Wire(port) as wire:
        thread = threading.Thread(target=wire.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield wire
        finally:
            wire.shutdown()
            thread.join()
