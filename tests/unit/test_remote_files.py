from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wain.digest import Digest
from wain.errors import DockerfileError, HashMismatch, NotFound, Offline
from wain.remote_files import remote_file, remote_name
from wain.steps import is_remote, is_repository
from wain.store import Store
from wain.transport import Transport

DATA = b"fetched"


class Server(http.server.ThreadingHTTPServer):
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/timeless":
            self.send_header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *words: object) -> None:
        """Tells nobody."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as served:
        served.asked = []
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(served.shutdown)
            yield served


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def test_a_file_has_its_mode_and_time(server: Server, store: Store) -> None:
    url = f"http://127.0.0.1:{server.server_port}/a"
    node = remote_file(url, checksum=None, store=store, transport=Transport())
    assert (node.kind, node.mode, node.mtime, node.size_bytes) == ("file", 0o600, 1_000_000_000, len(DATA))
    assert node.content is not None
    assert node.content.open().read() == DATA
    timeless = url.removesuffix("a") + "timeless"
    assert remote_file(timeless, checksum=None, store=store, transport=Transport()).mtime == 0


def test_what_has_a_checksum_is_asked_for_once(server: Server, store: Store) -> None:
    url = f"http://127.0.0.1:{server.server_port}/a"
    checksum = str(Digest.of(DATA))
    first = remote_file(url, checksum=checksum, store=store, transport=Transport())
    again = remote_file(url, checksum=checksum, store=store, transport=Transport(offline=True))
    assert (first.mtime, again.mtime) == (1_000_000_000, 1_000_000_000)
    assert server.asked == ["/a"]
    with pytest.raises(Offline):
        remote_file(url, checksum=None, store=store, transport=Transport(offline=True))


def test_what_is_not_as_promised_is_refused(server: Server, store: Store) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(HashMismatch):
        remote_file(f"{url}/a", checksum=str(Digest.of(b"other")), store=store, transport=Transport())
    with pytest.raises(DockerfileError, match="no digest"):
        remote_file(f"{url}/a", checksum="md5:1", store=store, transport=Transport())
    with pytest.raises(NotFound):
        remote_file(f"{url}/gone", checksum=None, store=store, transport=Transport())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host.example/a/b.txt?x=/c", "b.txt"),
        ("https://host.example/a%20b/", "a b"),
        ("https://host.example", "__unnamed__"),
        ("https://host.example/a/..", "__unnamed__"),
    ],
)
def test_names_of_files(url: str, name: str) -> None:
    assert remote_name(url) == name


def test_repositories_are_no_files() -> None:
    assert is_remote("https://host.example/x.tar.gz?y")
    assert not is_remote("x.git")
    for source in (
        "https://host.example/x.git",
        "https://host.example/x.git#main:sub",
        "git@host.example:x",
        "ssh://h/x",
    ):
        assert is_repository(source)
        assert not is_remote(source)
