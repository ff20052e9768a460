"""A front of this machine's package index on loopback: pip in a container and wain install from the same place.

It serves what pip's own configuration here gives (index-url, extra-index-url, find-links, `file:` among them) as one
simple index that tells the hashes of a folder's files too, keeps pages for a day and files for good in the tests'
cache, and logs each request, so that measurements do not depend on the network. It is a process of its own:
`python -m tests.real.machines.index_front LOG`.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import html.parser
import http.client
import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.real.machines.places import cache_dir, locked
from tests.real.machines.processes import Running, running

_PAGE_SECONDS = 24 * 3600
_KEPT_ATTRIBUTES = ("data-requires-python", "data-yanked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One request that the front answered. `size_bytes` is of the body that was sent."""

    method: str
    path: str
    status: int
    size_bytes: int
    range: str | None

    @property
    def is_file(self) -> bool:
        return self.path.startswith("/files/")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFront:
    """A front that runs now."""

    port: int
    running: Running
    requests_log: Path

    @property
    def url(self) -> str:
        """The index-url for pip, uv and wain."""
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def pip_env(self) -> dict[str, str]:
        """The environment in which pip asks this front and nothing else, whatever its files say."""
        return {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.url,
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_TRUSTED_HOST": "127.0.0.1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def mark(self) -> int:
        """A place in the request log, for `requests`."""
        return self.requests_log.stat().st_size

    def requests(self, since: int = 0) -> list[Fetched]:
        """The requests since `mark()`, in the order they were answered."""
        with open(self.requests_log, "rb") as log:
            log.seek(since)
            return [Fetched(**json.loads(line)) for line in log.read().splitlines()]

    def sent_bytes(self, since: int = 0) -> int:
        """The bytes of all bodies sent since `mark()`."""
        return sum(request.size_bytes for request in self.requests(since))


@contextlib.contextmanager
def serve_index_front(folder: Path) -> Iterator[IndexFront]:
    """Run the front with its logs in `folder` (made if missing), until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    requests_log, port_file = folder / "requests.jsonl", folder / "port"
    requests_log.touch()
    port_file.unlink(missing_ok=True)
    checkout = Path(__file__).resolve().parents[3]
    command: list[str | Path] = [sys.executable, "-m", "tests.real.machines.index_front", requests_log, port_file]
    with running(command, log=folder / "front.log", cwd=checkout, stop_seconds=1) as process:
        process.wait_until(lambda: port_file.exists() and port_file.read_text().endswith("\n"))
        yield IndexFront(port=int(port_file.read_text()), running=process, requests_log=requests_log)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upstream:
    """Where pip on this machine looks."""

    indexes: tuple[str, ...]
    links: tuple[str, ...]
    certificates: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A file that an upstream page names. `attributes` are what a simple page may say of it."""

    name: str
    url: str
    sha256: str | None
    attributes: tuple[tuple[str, str], ...]


def _pip_configuration() -> _Upstream:
    """What pip itself makes of its files and variables, its built-in index among it."""
    program = (
        "import json; from pip._internal.commands import create_command; "
        "o = create_command('download').parser.get_default_values(); "
        "print(json.dumps([([] if o.no_index else [o.index_url, *o.extra_index_urls]), o.find_links, o.cert]))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    indexes, links, certificates = json.loads(told)
    return _Upstream(indexes=tuple(indexes), links=tuple(links), certificates=certificates)


class _Anchors(html.parser.HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.links: list[_Link] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "base" and said.get("href"):
            self.base = urllib.parse.urljoin(self.base, said["href"])
        if tag != "a" or not said.get("href"):
            return
        url, _, fragment = urllib.parse.urljoin(self.base, said["href"]).partition("#")
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        if name.endswith((".whl", ".tar.gz", ".zip")):
            digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
            kept = tuple((key, said[key] or "") for key in _KEPT_ATTRIBUTES if key in said)
            self.links.append(_Link(name=name, url=url, sha256=digest[1] if digest else None, attributes=kept))


class _Store:
    """Pages and files from upstream, kept on disk; safe for many threads and for several fronts at once."""

    def __init__(self, upstream: _Upstream, folder: Path) -> None:
        self.upstream = upstream
        self.folder = folder
        self._links: dict[str, _Link] = {}
        self._pages: dict[str, tuple[float, list[_Link]]] = {}
        self._hashes: dict[str, str] = {}
        self._guard = threading.Lock()
        context = ssl.create_default_context(cafile=upstream.certificates)
        # file: is opened as a path, never through this opener.
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        for kind in ("pages", "files"):
            (folder / kind).mkdir(parents=True, exist_ok=True)

    def links_of(self, project: str) -> list[_Link]:
        """Every file of that (normalised) project; of two with the same name, the first index's."""
        with self._guard:
            known = self._pages.get(project)
        if known and time.time() - known[0] < 60:
            return known[1]
        found: dict[str, _Link] = {}
        for index in self.upstream.indexes:
            base = f"{index.rstrip('/')}/{project}/"
            for link in _read_links(*self._page(base)):
                found.setdefault(link.name, link)
        for place in self.upstream.links:
            for link in self._found_links(place):
                if _project_of(link.name) == project and link.name not in found:
                    found[link.name] = self._with_hash(link)
        links = sorted(found.values(), key=lambda link: link.name)
        with self._guard:
            self._pages[project] = (time.time(), links)
            self._links.update({_token(link.url): link for link in links})
        return links

    def _with_hash(self, link: _Link) -> _Link:
        """A link that tells its file's hash where the file lies in a folder, which tells none itself."""
        local = _local_path(link.url)
        if local is None or link.sha256 is not None or not local.is_file():
            return link
        with self._guard:
            if link.url not in self._hashes:
                with open(local, "rb") as file:
                    self._hashes[link.url] = hashlib.file_digest(file, "sha256").hexdigest()
            return replace(link, sha256=self._hashes[link.url])

    def file_of(self, token: str, name: str) -> Path | None:
        """The file behind a link that a page of this front has shown, fetched and checked if it is not here yet."""
        with self._guard:
            link = self._links.get(token)
        if link is None:
            # A lock file may name a URL of an earlier front: its project's page tells the link again.
            self.links_of(_project_of(name))
            with self._guard:
                link = self._links.get(token)
        if link is None or link.name != name:
            return None
        local = _local_path(link.url)
        if local is not None:
            return local if local.is_file() else None
        path = self.folder / "files" / token / name
        if not path.exists():
            with locked(self.folder / "locks" / token):
                if not path.exists():
                    self._fetch(link, path)
        return path

    def _fetch(self, link: _Link, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        digest = hashlib.sha256()
        for attempt in range(4):
            try:
                with self._opener.open(link.url, timeout=60) as answer, open(partial, "wb") as sink:
                    while chunk := answer.read(1 << 18):
                        digest.update(chunk)
                        sink.write(chunk)
                break
            except (OSError, http.client.HTTPException):
                if attempt == 3:
                    raise
                digest = hashlib.sha256()
                time.sleep(2**attempt)
        if link.sha256 is not None and digest.hexdigest() != link.sha256:
            partial.unlink()
            raise OSError(f"{link.name} has another SHA-256 than its page says")
        partial.rename(path)

    def _page(self, url: str) -> tuple[str, str]:
        """(text, its URL) of a simple page; an empty text where there is none."""
        local = _local_path(url)
        if local is not None:
            page = local / "index.html"
            return (page.read_text() if page.is_file() else ""), url
        path = self.folder / "pages" / _token(url)
        if path.exists() and time.time() - path.stat().st_mtime < _PAGE_SECONDS:
            return path.read_text(), url
        request = urllib.request.Request(
            url, headers={"Accept": "application/vnd.pypi.simple.v1+html, text/html;q=0.5"}
        )
        for attempt in range(3):
            try:
                with self._opener.open(request, timeout=60) as answer:
                    text: str = answer.read().decode()
                    # Links are relative to where a redirect led.
                    text = f'<base href="{html.escape(answer.url)}">' + text
                break
            except urllib.error.HTTPError as error:
                if error.code not in {404, 410}:
                    raise
                text = ""
                break
            except (OSError, http.client.HTTPException):
                if attempt == 2:
                    if path.exists():
                        return path.read_text(), url
                    raise
                time.sleep(2**attempt)
        partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        partial.write_text(text)
        partial.rename(path)
        return text, url

    def _found_links(self, place: str) -> list[_Link]:
        """What a find-links place names: a folder's files, or a page's links."""
        local = _local_path(place) or (Path(place) if "://" not in place else None)
        if local is not None and local.is_dir():
            return [
                _Link(name=path.name, url=path.resolve().as_uri(), sha256=None, attributes=())
                for path in sorted(local.iterdir())
                if path.name.endswith((".whl", ".tar.gz", ".zip"))
            ]
        if local is not None:
            return _read_links(local.read_text(), local.as_uri()) if local.is_file() else []
        return _read_links(*self._page(place))


def _read_links(text: str, url: str) -> list[_Link]:
    anchors = _Anchors(url)
    anchors.feed(text)
    return anchors.links


def _token(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:24]


def _local_path(url: str) -> Path | None:
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project_of(file_name: str) -> str:
    """The normalised project of a wheel's or sdist's file name."""
    if file_name.endswith(".whl"):
        return _normalise(file_name.partition("-")[0])
    return _normalise(re.sub(r"\.(tar\.gz|zip)$", "", file_name).rpartition("-")[0])


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: _Store
    log_file: Path
    log_guard = threading.Lock()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        try:
            if found := re.fullmatch(r"/simple/([A-Za-z0-9._-]+)/?", path):
                self._send_page(_normalise(found[1]))
            elif found := re.fullmatch(r"/files/([0-9a-f]{24})/([^/]+)", path):
                self._send_file(self.store.file_of(found[1], found[2]))
            else:
                self._send_bytes(404, b"no such page\n", "text/plain")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except (OSError, http.client.HTTPException) as error:
            self._send_bytes(502, f"upstream: {error}\n".encode(), "text/plain")

    def _send_page(self, project: str) -> None:
        links = self.store.links_of(project)
        if not links:
            self._send_bytes(404, b"no such project\n", "text/plain")
            return
        lines = ["<!DOCTYPE html><html><head>", '<meta name="pypi:repository-version" content="1.0">', "</head><body>"]
        for link in links:
            fragment = f"#sha256={link.sha256}" if link.sha256 else ""
            target = f"/files/{_token(link.url)}/{urllib.parse.quote(link.name)}{fragment}"
            more = "".join(f' {key}="{html.escape(value)}"' for key, value in link.attributes)
            lines.append(f'<a href="{target}"{more}>{html.escape(link.name)}</a><br>')
        self._send_bytes(200, "\n".join([*lines, "</body></html>\n"]).encode(), "text/html; charset=utf-8")

    def _send_bytes(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = 0
        if self.command != "HEAD":
            self.wfile.write(body)
            sent = len(body)
        self._record(status, sent)

    def _send_file(self, path: Path | None) -> None:
        if path is None:
            self._send_bytes(404, b"no such file\n", "text/plain")
            return
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end, status = 0, size, 200
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
            if asked and (asked[1] or asked[2]):
                status = 206
                if asked[1]:
                    start = int(asked[1])
                    end = min(size, int(asked[2]) + 1) if asked[2] else size
                else:
                    start = max(0, size - int(asked[2]))
                if start >= end:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    self._record(416, 0)
                    return
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.flush()
                self.connection.sendfile(file, start, end - start)
            self._record(status, end - start if self.command != "HEAD" else 0)

    def _record(self, status: int, size_bytes: int) -> None:
        entry = Fetched(
            method=self.command,
            path=self.path,
            status=status,
            size_bytes=size_bytes,
            range=self.headers.get("Range"),
        )
        with self.log_guard, open(self.log_file, "a") as log:
            log.write(json.dumps(asdict(entry)) + "\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: `_record` has it."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main(log_file: Path, port_file: Path) -> None:
    """Serve until the process is ended; the port is written to `port_file`."""
    _Handler.log_file = log_file
    _Handler.store = _Store(_pip_configuration(), cache_dir() / "index")
    with _Server(("127.0.0.1", 0), _Handler) as server:
        port_file.write_text(f"{server.server_address[1]}\n")
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
