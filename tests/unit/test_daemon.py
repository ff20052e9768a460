"""Daemons: found as docker's clients find them, loaded and saved through the API."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wain import archive, daemon
from wain.digest import Digest
from wain.engine import Endpoint, Engine, find_endpoint
from wain.errors import EngineError, UsageError
from wain.image import Image
from wain.names import DaemonReference
from wain.oci import JSON
from wain.testing import random_image


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeEngine

    def log_message(self, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "socket"

    def reply(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        found = self.server.answers.get(self.path)
        self.reply(b'{"message":"no such image"}', 404) if found is None else self.reply(found)

    def do_POST(self) -> None:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.server.loaded.append(data)
        answer = self.server.load_answers.pop(0) if self.server.load_answers else b'{"stream":"Loaded image"}\n'
        self.reply(answer)


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.answers: dict[str, bytes] = {}
        self.loaded: list[bytes] = []
        self.load_answers: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def set(self, path: str, value: JSON) -> None:
        self.answers[path] = json.dumps(value).encode()

    def be(self, *, containerd: bool = False, podman: bool = False) -> None:
        self.set("/version", {"Components": [{"Name": "Podman Engine" if podman else "Engine"}]})
        status: JSON = [["driver-type", "io.containerd.snapshotter.v1"]] if containerd else [["Backing", "extfs"]]
        self.set("/info", {"Driver": "overlayfs" if containerd else "overlay2", "DriverStatus": status})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[FakeEngine, Engine]]:
    path = tmp_path / "docker.sock"
    server = FakeEngine(path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server, Engine(Endpoint(socket_path=path))
    server.shutdown()
    server.server_close()
    thread.join()


def archived(image: Image, *names: str) -> bytes:
    stream = io.BytesIO()
    archive.stream(image, stream, names=names)
    return stream.getvalue()


def test_an_image_is_loaded_under_its_names(engine: tuple[FakeEngine, Engine]) -> None:
    server, client = engine
    server.be(containerd=True)
    image = random_image(1)
    assert daemon.write(image, DaemonReference(name="app:1"), names=("app:2",), engine=client) == image.digest
    assert server.loaded == [archived(image, "app:1", "app:2")]


def test_an_image_is_read_from_what_is_saved(engine: tuple[FakeEngine, Engine]) -> None:
    server, client = engine
    image = random_image(2)
    server.answers["/images/team/app:1/get"] = archived(image, "team/app:1")
    found = daemon.read(DaemonReference(name="team/app:1"), engine=client)
    assert isinstance(found, Image)
    assert found.digest == image.digest
    for mine, theirs in zip(found.layers, image.layers, strict=True):
        with mine.open() as one, theirs.open() as other:
            assert one.read() == other.read()
    with pytest.raises(EngineError, match="no such image"):
        daemon.read(DaemonReference(name="none"), engine=client)


@pytest.mark.parametrize(("containerd", "podman", "left_out"), [(False, False, 2), (True, False, 0), (False, True, 0)])
def test_layers_are_left_out_for_the_classic_store_alone(
    engine: tuple[FakeEngine, Engine], containerd: bool, podman: bool, left_out: int
) -> None:
    server, client = engine
    server.be(containerd=containerd, podman=podman)
    image = random_image(3, layers=4)
    diff_ids: list[JSON] = [str(item) for item in image.config.diff_ids]
    other: list[JSON] = [str(Digest.of(b"other")), diff_ids[1]]
    server.set("/images/json", [{"Id": "sha256:a"}, {"Id": "sha256:b"}])
    server.set("/images/sha256:a/json", {"RootFS": {"Layers": [*diff_ids[:2], str(Digest.of(b"x"))]}})
    server.set("/images/sha256:b/json", {"RootFS": {"Layers": other}})
    daemon.write(image, DaemonReference(name="app:1"), engine=client)
    missing = [layer for layer in image.layers if layer.digest.hex.encode() + b"\0" not in server.loaded[0]]
    assert missing == list(image.layers[:left_out])


def test_a_layer_that_was_pruned_meanwhile_is_sent_after_all(engine: tuple[FakeEngine, Engine]) -> None:
    server, client = engine
    server.be()
    image = random_image(4)
    server.set("/images/json", [{"Id": "sha256:a"}])
    server.set("/images/sha256:a/json", {"RootFS": {"Layers": [str(item) for item in image.config.diff_ids]}})
    server.load_answers.append(b'{"error":"open /tmp/x/blobs: no such file or directory"}\n')
    daemon.write(image, DaemonReference(name="app:1"), engine=client)
    assert len(server.loaded) == 2
    assert server.loaded[1] == archived(image, "app:1")


def test_a_load_that_fails(engine: tuple[FakeEngine, Engine]) -> None:
    server, client = engine
    server.be(containerd=True)
    server.load_answers.append(b'{"stream":"x"}\n{"error":"no space left \x1b on device"}\n')
    with pytest.raises(EngineError, match="no space left") as caught:
        daemon.write(random_image(5), DaemonReference(name="app:1"), engine=client)
    assert "\x1b" not in caught.value.message
    with pytest.raises(UsageError):
        daemon.write(random_image(5), DaemonReference(name="UPPER"), engine=client)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not answer"):
        daemon.read(DaemonReference(name="x"), engine=Engine(Endpoint(socket_path=tmp_path / "none.sock")))


def test_where_the_engine_is(tmp_path: Path) -> None:
    socket_path = Path("/var/run/docker.sock")
    assert find_endpoint({"DOCKER_HOST": f"unix://{socket_path}"}, tmp_path) == Endpoint(socket_path=socket_path)
    assert find_endpoint({"DOCKER_HOST": "tcp://h.example:1"}, tmp_path) == Endpoint(host="h.example", port=1)
    secure = find_endpoint({"DOCKER_HOST": "tcp://h.example", "DOCKER_TLS_VERIFY": "1"}, tmp_path)
    assert secure == Endpoint(host="h.example", port=2376, certificates=tmp_path / ".docker")
    for bad in ("ssh://h.example", "npipe:////./pipe/x", "nonsense", "tcp://h:port"):
        with pytest.raises(EngineError, match="kind"):
            find_endpoint({"DOCKER_HOST": bad}, tmp_path)


def test_contexts(tmp_path: Path) -> None:
    key = hashlib.sha256(b"mine").hexdigest()
    meta = tmp_path / ".docker" / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text('{"Name":"mine","Endpoints":{"docker":{"Host":"unix:///run/mine.sock"}}}')
    assert find_endpoint({"DOCKER_CONTEXT": "mine"}, tmp_path).socket_path == Path("/run/mine.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext":"mine"}')
    assert find_endpoint({}, tmp_path).socket_path == Path("/run/mine.sock")
    with pytest.raises(EngineError, match="'other' cannot be read"):
        find_endpoint({"DOCKER_CONTEXT": "other"}, tmp_path)
    assert find_endpoint({"DOCKER_CONTEXT": "other", "DOCKER_HOST": "tcp://h:1"}, tmp_path).host == "h"


def test_a_socket_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wain.engine._DEFAULT_SOCKETS", ("{runtime}/docker.sock",))
    with pytest.raises(EngineError, match="no container engine"):
        find_endpoint({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path)
    with contextlib.closing(FakeEngine(tmp_path / "docker.sock").socket):
        assert find_endpoint({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path).socket_path == tmp_path / "docker.sock"
