"""docker-registry on a loopback port, with its storage and its request log at hand."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.places import free_port, require_tool
from tests.real.machines.processes import Running, run, running

_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d{3}) (?P<size>\d+|-)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of the registry's request log. `size_bytes` is of the answer's body."""

    method: str
    path: str
    status: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that runs now. `host` is `127.0.0.1:PORT`, as it stands in references."""

    port: int
    storage: Path
    running: Running
    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}"

    def get(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for `path` (as `/v2/...`) with the registry's credentials, where it has some."""
        sent = dict(headers or {})
        if self.username is not None:
            pair = f"{self.username}:{self.password}".encode()
            sent["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        connection: http.client.HTTPConnection
        if self.ca_file:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.getheaders()},
                body=answer.read(),
            )

    def mark(self) -> int:
        """A place in the request log, for `requests`."""
        return self.running.log.stat().st_size

    def requests(self, since: int = 0) -> list[Request]:
        """The requests since `mark()`, in the order they were answered; those of `get` count too."""
        with open(self.running.log, "rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        return [
            Request(
                method=found["method"],
                path=found["path"],
                status=int(found["status"]),
                size_bytes=0 if found["size"] == "-" else int(found["size"]),
            )
            for found in _ACCESS.finditer(text)
        ]

    def blobs(self) -> dict[str, int]:
        """Every blob that the storage holds (layers, configs, manifests): digest -> size in bytes.

        What a push uploaded is what is new here after it.
        """
        found = {}
        for data in self.storage.glob("docker/registry/v2/blobs/*/*/*/data"):
            found[f"{data.parts[-4]}:{data.parts[-2]}"] = data.stat().st_size
        return found

    def blobs_of(self, repository: str) -> dict[str, int]:
        """Those of one repository: digest -> size in bytes."""
        root = self.storage / "docker/registry/v2/repositories" / repository
        links = [*(root / "_layers").glob("*/*/link"), *(root / "_manifests/revisions").glob("*/*/link")]
        digests = {link.read_text().strip() for link in links}
        return {digest: self.blob_path(digest).stat().st_size for digest in digests}

    def blob_path(self, digest: str) -> Path:
        """The file in which the storage holds that blob."""
        algorithm, _, hexadecimal = digest.partition(":")
        return self.storage / f"docker/registry/v2/blobs/{algorithm}/{hexadecimal[:2]}/{hexadecimal}/data"

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether `repository` has that blob linked."""
        return self.get(f"/v2/{repository}/blobs/{digest}", method="HEAD").status == 200

    def docker_config(self, folder: Path) -> Path:
        """A docker `config.json` in `folder` (made if missing) with this registry's credentials."""
        folder.mkdir(parents=True, exist_ok=True)
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        path = folder / "config.json"
        path.write_text(json.dumps({"auths": {self.host: {"auth": pair}} if self.username else {}}))
        return path


@contextlib.contextmanager
def serve_registry(
    folder: Path, *, username: str | None = None, password: str | None = None, tls: bool = False
) -> Iterator[Registry]:
    """Run docker-registry with storage and log in `folder` (made if missing), until the block ends.

    With `username` and `password` it asks for basic auth; with `tls` it speaks HTTPS with a certificate of
    its own, which `Registry.ca_file` vouches for.
    """
    program = require_tool("docker-registry")
    storage = folder / "storage"
    storage.mkdir(parents=True)
    port = free_port()
    http_settings: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "not-a-secret"}
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http_settings,
    }
    if username is not None:
        hashed = run([require_tool("htpasswd"), "-nbB", "-C", "4", username, password or ""]).stdout
        (folder / "htpasswd").write_text(hashed)
        settings["auth"] = {"htpasswd": {"realm": "wain tests", "path": str(folder / "htpasswd")}}
    ca_file = _certificate(folder) if tls else None
    if ca_file:
        http_settings["tls"] = {"certificate": str(ca_file), "key": str(folder / "tls.key")}
    config = folder / "config.yml"
    config.write_text(json.dumps(settings))  # YAML reads JSON
    with running([program, "serve", config], log=folder / "registry.log") as process:
        registry = Registry(
            port=port, storage=storage, running=process, username=username, password=password, ca_file=ca_file
        )

        def answers() -> bool:
            try:
                return registry.get("/v2/").status == 200
            except OSError:
                return False

        process.wait_until(answers)
        yield registry


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, and its key beside it."""
    certificate = folder / "tls.crt"
    run(
        [
            require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", folder / "tls.key", "-out", certificate,
        ]
    )  # fmt: skip
    return certificate
