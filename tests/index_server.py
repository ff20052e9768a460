"""A package index over loopback HTTP, with pages in HTML or JSON, passwords, ranges and faults."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit


def make_wheel(
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    extras: Mapping[str, Sequence[str]] | None = None,
    content: bytes = b"",
    scripts: Mapping[str, str] | None = None,
) -> tuple[str, bytes]:
    """A small, valid wheel: its file name and bytes."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requires]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    for extra, texts in (extras or {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {text}; extra == "{extra}"' for text in texts]
    members = {
        f"{module}/__init__.py": content,
        f"{info}/METADATA": "\n".join([*lines, ""]).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    if scripts:
        lines = ["[console_scripts]", *(f"{key} = {value}" for key, value in scripts.items())]
        members[f"{info}/entry_points.txt"] = "\n".join([*lines, ""]).encode()
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in members.items()
    )
    members[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), data)
    return f"{module}-{version}-{tag}.whl", stream.getvalue()


@dataclass
class Index:
    """What is served, what goes wrong, and what was asked for."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Normalised name -> file name -> bytes."""
    served: dict[str, bytes] = field(default_factory=dict)
    """File name -> other bytes than the page tells the hash of."""
    as_json: bool = False
    with_hashes: bool = True
    password: str | None = None
    """`user:password` that every request needs."""
    cut: dict[str, list[int]] = field(default_factory=dict)
    """File name -> after how many bytes the next answers break off."""
    gone: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    """Path -> the query that it needs, and has in pages of HTML."""
    files_never_change: bool = False
    """Whether files come with the headers that say so, as large indexes send them."""
    status: dict[str, list[int]] = field(default_factory=dict)
    """Path -> statuses of its next answers."""
    max_age_seconds: int | None = None
    """For how long caches may keep what is answered; without it pip keeps nothing."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of each request."""

    def add(self, name: str, version: str, **options: object) -> str:
        """Puts a made wheel on the index; its file name."""
        filename, data = make_wheel(name, version, **options)  # type: ignore[arg-type]
        self.files.setdefault(name.lower().replace("_", "-"), {})[filename] = data
        return filename

    def put(self, name: str, filename: str, data: bytes) -> None:
        self.files.setdefault(name, {})[filename] = data

    def sha256(self, filename: str) -> str:
        for files in self.files.values():
            if filename in files:
                return hashlib.sha256(files[filename]).hexdigest()
        raise KeyError(filename)

    def asked(self, part: str) -> list[str]:
        """The paths that were asked for and have `part` in them."""
        return [path for _, path, _ in self.requests if part in path]

    @property
    def simple(self) -> str:
        return f"{self.url}/simple"

    def with_password(self) -> str:
        """The index's URL with its password in it."""
        assert self.password
        return self.simple.replace("://", f"://{quote(self.password, safe=':')}@")


def _handler(index: Index) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def end_headers(self) -> None:
            if index.max_age_seconds is not None:
                self.send_header("Cache-Control", f"max-age={index.max_age_seconds}")
            super().end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            index.requests.append((self.command, path, self.headers.get("Range")))
            if index.status.get(path):
                return self._answer(index.status[path].pop(0), b"", "text/plain")
            if index.password is not None:
                wanted = "Basic " + base64.b64encode(index.password.encode()).decode()
                if self.headers.get("Authorization") != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
            if path in index.tokens and urlsplit(self.path).query != index.tokens[path]:
                return self._answer(403, b"", "text/plain")
            parts = path.strip("/").split("/")
            if parts[0] == "simple" and len(parts) == 2 and parts[1] in index.files:
                return self._page(parts[1])
            if parts[0] == "files" and len(parts) == 3:
                data = index.files.get(parts[1], {}).get(parts[2])
                if data is not None and parts[2] not in index.gone:
                    return self._file(parts[2], index.served.get(parts[2], data))
            return self._answer(404, b"no such thing", "text/plain")

        def _page(self, name: str) -> None:
            files = index.files[name]
            if index.as_json:
                document = {
                    "meta": {"api-version": "1.1"},
                    "name": name,
                    "versions": [],
                    "files": [
                        {
                            "filename": filename,
                            "url": f"../../files/{name}/{filename}",
                            "hashes": {"sha256": hashlib.sha256(data).hexdigest()} if index.with_hashes else {},
                            "size": len(data),
                        }
                        for filename, data in files.items()
                    ],
                }
                return self._answer(200, json.dumps(document).encode(), "application/vnd.pypi.simple.v1+json")
            links = []
            for filename, data in files.items():
                query = index.tokens.get(f"/files/{name}/{filename}", "")
                fragment = f"#sha256={hashlib.sha256(data).hexdigest()}" if index.with_hashes else ""
                fragment = f"?{html.escape(query)}{fragment}" if query else fragment
                links.append(f'<a href="../../files/{name}/{filename}{fragment}">{filename}</a><br/>')
            body = "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"
            return self._answer(200, body.encode(), "text/html")

        def _file(self, filename: str, data: bytes) -> None:
            start = 0
            asked = self.headers.get("Range")
            if asked:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                if start >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                ending = asked.removeprefix("bytes=").partition("-")[2]
                body = data[start : int(ending) + 1] if ending else data[start:]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
            else:
                body = data
                self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            if index.files_never_change:
                self.send_header("Cache-Control", "max-age=365000000, immutable, public")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if index.cut.get(filename):
                self.wfile.write(body[: index.cut[filename].pop(0)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(body)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serve_index(index: Index | None = None) -> Iterator[Index]:
    """The index on a loopback port, until the block ends."""
    index = index or Index()
    server = _Server(("127.0.0.1", 0), _handler(index))
    index.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
