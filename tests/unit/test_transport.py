"""HTTP: retries, redirects, resumed downloads, and where credentials go."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import io
import logging
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import AuthError, HashMismatch, NotFound, Offline, OutputError, TransferError, UsageError
from wain.store import Store
from wain.transport import (
    Body,
    Credentials,
    HttpSettings,
    Transport,
    is_loopback,
    origin_of,
    redact_url,
    retry_after,
    split_credentials,
)

FAST = HttpSettings(backoff_seconds=0.01, timeout_seconds=2, retries=3)
DATA = bytes(range(256)) * 4000
DIGEST = Digest.of(DATA)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        self.server.seen.append((self.command, self.path, dict(self.headers.items()), body))
        self.server.answer(self)

    do_PUT = do_POST = do_HEAD = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def ranged(self, data: bytes = DATA, *, sent: int | None = None, etag: str = '"v1"') -> None:
        """The file, or the range that is asked for; `sent` bytes of it, then a cut."""
        wanted = self.headers.get("Range")
        start = int(wanted[6:-1]) if wanted else 0
        if self.headers.get("If-Range") not in (None, etag):
            start, wanted = 0, None
        if wanted and start >= len(data):
            self.reply(416, Content_Range=f"bytes */{len(data)}")
            return
        headers = {"ETag": etag, "Content_Length": str(len(data) - start)}
        if wanted:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        self.reply(206 if wanted else 200, rest if sent is None else rest[:sent], **headers)
        if sent is not None:
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[Handler], None], address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), Handler)
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.base = f"http://{address}:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serving(answer: Callable[[Handler], None], address: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(answer, address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*answers: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """Each request gets the next answer, the last one for ever."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def test_a_request_and_its_parts() -> None:
    with serving(lambda handler: handler.reply(201, b"hello", X_Thing="yes")) as server:
        with Transport(FAST).request("PUT", f"{server.base}/a?b=c", body=b"data", headers={"X-Mine": "1"}) as found:
            assert (found.status, found.headers["x-thing"], found.size_bytes) == (201, "yes", 5)
            assert found.read() == b"hello"
        method, path, headers, body = server.seen[0]
        assert (method, path, body) == ("PUT", "/a?b=c", b"data")
        assert headers["x-mine"] == "1"
        assert headers["user-agent"] == "wain"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, TransferError),
        (401, AuthError),
        (403, AuthError),
        (404, NotFound),
        (407, AuthError),
        (410, NotFound),
        (451, TransferError),
    ],
)
def test_statuses_are_errors_without_retries(status: int, error: type[TransferError]) -> None:
    with serving(lambda handler: handler.reply(status, b'{"errors":[{"code":"X","message":"why\x1b[31m"}]}')) as server:
        with pytest.raises(error) as caught:
            Transport(FAST).request("GET", f"{server.base}/thing?token=s3cret")
        assert len(server.seen) == 1
    assert caught.value.status == status
    assert "s3cret" not in caught.value.message
    assert caught.value.hint
    assert "\x1b" not in caught.value.message


def test_what_may_pass_is_tried_again_and_in_the_end_told() -> None:
    with serving(in_turn(lambda h: h.reply(503), lambda h: h.reply(502), lambda h: h.reply(200, b"ok"))) as server:
        with Transport(FAST).request("GET", server.base) as found:
            assert found.read() == b"ok"
        assert len(server.seen) == 3
    with serving(lambda handler: handler.reply(500)) as server:
        with pytest.raises(TransferError, match="500"):
            Transport(FAST).request("GET", server.base)
        assert len(server.seen) == 4
        with pytest.raises(TransferError):
            Transport(FAST).request("POST", server.base, body=b"once")
        assert len(server.seen) == 5


def test_retry_after() -> None:
    assert retry_after("3") == 3
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("-3") is None
    date = retry_after(formatdate(time.time() + 30, usegmt=True))
    assert date is not None
    assert 28 < date <= 30
    assert retry_after(formatdate(0, usegmt=True)) == 0
    with serving(lambda handler: handler.reply(429, Retry_After="1000")) as server:
        with pytest.raises(TransferError) as caught:
            Transport(FAST).request("GET", server.base)
        assert "1000 seconds" in caught.value.hint
        assert len(server.seen) == 1


def test_the_time_in_all_is_bounded() -> None:
    with serving(lambda handler: handler.reply(503, Retry_After="1")) as server:
        started = time.monotonic()
        with pytest.raises(TransferError):
            Transport(replace(FAST, retries=100, total_seconds=1.5)).request("GET", server.base)
        assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        (301, "GET", "GET"),
        (302, "GET", "GET"),
        (303, "GET", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
        (303, "HEAD", "HEAD"),
        (301, "PUT", "GET"),
        (302, "POST", "GET"),
        (303, "PUT", "GET"),
        (307, "PUT", "PUT"),
        (308, "POST", "POST"),
    ],
)
def test_redirects_keep_or_change_the_method(status: int, method: str, after: str) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/new":
            handler.reply(200)
        else:
            handler.reply(status, Location="/new")

    with serving(answer) as server:
        body = b"data" if method in ("PUT", "POST") else None
        with Transport(FAST).request(method, f"{server.base}/old", body=body) as found:
            assert found.url == f"{server.base}/new"
        assert server.seen[1][0] == after
        assert server.seen[1][3] == (body if after == method and body else b"")


def test_the_login_stays_at_its_host() -> None:
    with serving(lambda handler: handler.reply(200), "127.0.0.2") as other:
        locations = {"/same": "/end", "/host": f"{other.base}/end", "/port": None}

        def answer(handler: Handler) -> None:
            location = locations.get(handler.path)
            handler.reply(302 if location else 200, Location=location or "")

        with serving(answer) as server:
            url = server.base.replace("http://", "http://user:s3cret@")
            for path in ("/same", "/host"):
                with Transport(FAST).request("GET", url + path, headers={"Cookie": "a=b"}) as found:
                    assert "s3cret" not in found.url
            assert [item[2].get("authorization") is not None for item in server.seen] == [True, True, True]
        (seen,) = other.seen
        assert "authorization" not in seen[2]
        assert "cookie" not in seen[2]


def test_redirects_that_are_refused() -> None:
    for location in ("file:///etc/passwd", "ftp://host/x", "http://["):
        with serving(lambda handler, location=location: handler.reply(302, Location=location)) as server:  # type: ignore[misc]
            with pytest.raises(TransferError):
                Transport(FAST).request("GET", server.base)
            assert len(server.seen) == 1
    with serving(lambda handler: handler.reply(302, Location="/again")) as server:
        with pytest.raises(TransferError, match="redirects more than"):
            Transport(FAST).request("GET", server.base)
        assert len(server.seen) == 11


def test_bodies_are_sent_again_from_their_beginning() -> None:
    opened = []

    def open_body() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(DATA)

    answers = in_turn(lambda h: h.reply(503), lambda h: h.reply(307, Location="/x"), lambda h: h.reply(200))
    with serving(answers) as server:
        body = Body(open=open_body, size_bytes=len(DATA))
        with Transport(FAST).request("PUT", server.base, body=body):
            pass
        assert [item[3] == DATA for item in server.seen] == [True] * 3
    assert len(opened) == len(server.seen)


def test_offline_asks_nobody() -> None:
    with serving(lambda handler: handler.reply(200)) as server:
        with pytest.raises(Offline):
            Transport(FAST, offline=True).request("GET", server.base)
        assert server.seen == []


def test_nobody_there_and_nobody_answering() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TransferError, match="connection refused"):
        Transport(FAST).request("GET", f"http://127.0.0.1:{port}/")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        quick = replace(FAST, timeout_seconds=0.2, retries=1)
        with pytest.raises(TransferError, match=r"no answer within 0.2 s"):
            Transport(quick).request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    with pytest.raises(TransferError, match="not known"):
        Transport(replace(FAST, retries=0)).request("GET", "http://no-such-host.invalid/")


def test_a_head_that_trickles_is_given_up() -> None:
    def answer(handler: Handler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    with serving(answer) as server:
        started = time.monotonic()
        with pytest.raises(TransferError):
            Transport(replace(FAST, timeout_seconds=0.2, retries=0)).request("GET", server.base)
        assert time.monotonic() - started < 15


def test_no_secret_in_logs_and_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(in_turn(lambda h: h.reply(503), lambda h: h.reply(400))) as server:
        url = server.base.replace("http://", "http://user:s3cret@") + "/x?token=s3cret#s3cret"
        with pytest.raises(TransferError) as caught:
            Transport(FAST).request("GET", url)
    assert "s3cret" not in caplog.text + caught.value.message + caught.value.hint + repr(caught.value.__context__)
    assert "s3cret" not in repr(Credentials(username="u", password="s3cret"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h.example:1/a/b?q=1#f", "https://h.example:1/a/b?..."),
        ("https://h.example", "https://h.example"),
        ("https://u:p@x@h.example/", "https://h.example/"),
        ("http://[::1", "<malformed URL>"),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_urls() -> None:
    assert split_credentials("https://u%40x:p%3Aq@h.example/a") == (
        "https://h.example/a",
        Credentials(username="u@x", password="p:q"),
    )
    assert split_credentials("https://h.example/a@b") == ("https://h.example/a@b", None)
    for bad in ("ftp://h/", "h.example/a", "https:///a", "https://h:port/", "file:///x"):
        with pytest.raises(UsageError):
            split_credentials(bad)
    assert origin_of("HTTPS://H.example/") == ("https", "h.example", 443)
    for name in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]", "a.localhost"):
        assert is_loopback(name)
    for name in ("localhost.example", "10.0.0.1", "127.0.0.1.example", ""):
        assert not is_loopback(name)


# Downloads.


def test_a_download(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with serving(lambda handler: handler.ranged()) as server:
        found = Transport(FAST).download(
            f"{server.base}/f",
            tmp_path / "f",
            digest=DIGEST,
            size_bytes=len(DATA),
            progress=lambda done, total: told.append((done, total)),
        )
    assert (tmp_path / "f").read_bytes() == DATA
    assert (found.size_bytes, found.digest, found.resumed_from_bytes) == (len(DATA), DIGEST, 0)
    assert told[-1] == (len(DATA), len(DATA))


def test_a_download_by_another_hash(tmp_path: Path) -> None:
    digest = Digest("sha512:" + hashlib.sha512(DATA).hexdigest())
    with serving(lambda handler: handler.ranged()) as server:
        assert Transport(FAST).download(server.base, tmp_path / "f", digest=digest).digest == DIGEST
        with pytest.raises(HashMismatch):
            Transport(FAST).download(server.base, tmp_path / "g", digest=Digest("sha512:" + "0" * 128))


def test_a_download_that_breaks_goes_on_where_it_broke(tmp_path: Path) -> None:
    answers = in_turn(lambda h: h.ranged(sent=300_000), lambda h: h.ranged(sent=200_000), lambda h: h.ranged())
    with serving(answers) as server:
        found = Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        assert (tmp_path / "f").read_bytes() == DATA
        assert [item[2].get("range") for item in server.seen] == [None, "bytes=300000-", "bytes=500000-"]
        assert server.seen[1][2]["if-range"] == '"v1"'
    assert found.resumed_from_bytes == 0


def test_what_an_earlier_run_left_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA[:600_000])
    with serving(lambda handler: handler.ranged()) as server:
        found = Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST, size_bytes=len(DATA))
        assert found.resumed_from_bytes == 600_000
        assert server.seen[0][2]["range"] == "bytes=600000-"
        server.seen.clear()
        Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST, size_bytes=len(DATA))
        assert server.seen == []
        Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        assert server.seen[0][2]["range"] == f"bytes={len(DATA)}-"
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_part_of_another_file_is_thrown_away(tmp_path: Path) -> None:
    for left in (b"other" * 1000, b"x" * (len(DATA) + 5)):
        (tmp_path / "f").write_bytes(left)
        with serving(lambda handler: handler.ranged()) as server:
            Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        assert (tmp_path / "f").read_bytes() == DATA


def test_a_file_that_changes_meanwhile_is_begun_anew(tmp_path: Path) -> None:
    new = DATA[::-1]
    with serving(in_turn(lambda h: h.ranged(sent=300_000), lambda h: h.ranged(new, etag='"v2"'))) as server:
        Transport(FAST).download(server.base, tmp_path / "f", digest=Digest.of(new))
    assert (tmp_path / "f").read_bytes() == new


def test_a_server_without_ranges(tmp_path: Path) -> None:
    def whole(handler: Handler) -> None:
        handler.reply(200, DATA)

    (tmp_path / "f").write_bytes(DATA[:1000])
    with serving(whole) as server:
        Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
    assert (tmp_path / "f").read_bytes() == DATA


def test_wrong_bytes_leave_nothing(tmp_path: Path) -> None:
    with serving(lambda handler: handler.ranged(DATA[:-1] + b"!")) as server:
        with pytest.raises(HashMismatch):
            Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        assert (tmp_path / "f").read_bytes() == b""
        for size in (len(DATA) - 1, len(DATA) + 1):
            with pytest.raises(HashMismatch):
                Transport(FAST).download(server.base, tmp_path / "f", size_bytes=size)
        with pytest.raises(HashMismatch):
            Transport(FAST).download(server.base, tmp_path / "f", max_bytes=1000)


def test_a_download_that_never_ends_well_is_bounded_and_keeps_its_part(tmp_path: Path) -> None:
    with serving(lambda handler: handler.ranged(sent=10)) as server:
        with pytest.raises(TransferError):
            Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        assert len(server.seen) == 5 - 1
    assert (tmp_path / "f").read_bytes() == DATA[:40]


def test_a_trickle_is_given_up(tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x")
            time.sleep(0.02)

    settings = replace(FAST, retries=0, slow_seconds=0.3, slow_bytes_per_second=500)
    with serving(slow) as server:
        started = time.monotonic()
        with pytest.raises(TransferError, match=r"sent .* bytes in"):
            Transport(settings).download(server.base, tmp_path / "f", digest=DIGEST)
        assert time.monotonic() - started < 15


def test_a_download_goes_on_elsewhere_where_its_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Store.open(tmp_path / "full") as store, serving(lambda handler: handler.ranged()) as server:
        full = store.root
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
        with store.partial(DIGEST, kind="wheel") as writer:
            writer.path.write_bytes(DATA[:1000])
            asked: list[OSError] = []

            def elsewhere(error: OSError) -> Path | None:
                asked.append(error)
                return writer.move(OSError(errno.ENOSPC, "No space left on device"))

            # What cannot be opened stands for what cannot be written.
            found = Transport(FAST).download(server.base, tmp_path / "no" / "f", digest=DIGEST, elsewhere=elsewhere)
            assert len(asked) == 1
            assert not writer.path.is_relative_to(full)
            assert writer.move(OSError(errno.ENOENT, "No such file or directory")) is None
            writer.commit(known=found.digest)
        assert found.resumed_from_bytes == 1000
        with store.reader(DIGEST) as stream:
            assert stream.read() == DATA


def test_a_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with serving(lambda handler: handler.ranged()) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            with pytest.raises(OutputError, match="File too large"):
                Transport(FAST).download(server.base, tmp_path / "f", digest=DIGEST)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        with pytest.raises(OutputError):
            Transport(FAST).download(server.base, tmp_path / "none" / "f", digest=DIGEST)


# Proxies and TLS.


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda handler: handler.reply(200, b"proxied")) as proxy:
        address = proxy.base.replace("http://", "http://me:s3cret@")
        with Transport(replace(FAST, proxy=address)).request("GET", "http://index.example/simple/") as found:
            assert found.read() == b"proxied"
        _, path, headers, _ = proxy.seen[0]
        assert path == "http://index.example/simple/"
        assert headers["Proxy-Authorization"].startswith("Basic ")
        monkeypatch.setenv("http_proxy", proxy.base)
        with Transport(FAST).request("GET", "http://index.example/") as found:
            assert found.read() == b"proxied"
        monkeypatch.setenv("no_proxy", "index.invalid")
        with pytest.raises(TransferError, match="not known"):
            Transport(replace(FAST, retries=0)).request("GET", "http://index.invalid/")
        with (
            serving(lambda handler: handler.reply(200, b"direct")) as server,
            Transport(FAST).request("GET", server.base) as found,
        ):
            assert found.read() == b"direct"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(path) + ".key",
            "-out",
            str(path) + ".crt",
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(Path(f"{path}.key").read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@contextlib.contextmanager
def serving_tls(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(lambda handler: handler.reply(200, b"secret"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.base.replace("http:", "https:")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_tls(certificate: Path, tmp_path: Path) -> None:
    crt = Path(f"{certificate}.crt")
    with serving_tls(certificate) as base:
        started = time.monotonic()
        with pytest.raises(TransferError, match="certificate is not trusted") as caught:
            Transport(replace(FAST, backoff_seconds=60)).request("GET", base)
        assert time.monotonic() - started < 15
        assert "trusted" in caught.value.hint
        for settings in (
            replace(FAST, ca_file=crt),
            replace(FAST, extra_ca_files=(crt,)),
            replace(FAST, trusted_hosts=("127.0.0.1",)),
            replace(FAST, trusted_hosts=(base.removeprefix("https://"),)),
            replace(FAST, ca_file=crt, client_cert=certificate),
        ):
            with Transport(settings).request("GET", base) as found:
                assert found.read() == b"secret"
        with pytest.raises(TransferError):
            Transport(replace(FAST, trusted_hosts=("other.example",), retries=0)).request("GET", base)
        with pytest.raises(UsageError):
            Transport(replace(FAST, ca_file=tmp_path / "none.pem")).request("GET", base)
    with serving(lambda handler: handler.reply(200)) as plain, pytest.raises(TransferError) as caught:
        Transport(replace(FAST, retries=0)).request("GET", plain.base.replace("http:", "https:"))
    assert "--insecure" in caught.value.hint
