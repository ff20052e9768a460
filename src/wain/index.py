"""Package indexes and find-links: pages read, files fetched into the store with their hashes checked.

Source: PyPA specifications, simple repository API (HTML and JSON).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import (
    AuthError,
    EngineError,
    HashMismatch,
    NotFound,
    TransferError,
    WainError,
)
from wain.index_credentials import IndexCredentials, strip_credentials
from wain.records import Record
from wain.settings import IndexSettings
from wain.store import Store, recipe_key
from wain.transport import HttpSettings, Transport, redact_url

if TYPE_CHECKING:
    from wain.index_pages import PageLink
    from wain.oci import JSON

logger = logging.getLogger(__name__)

_WORKERS = 8
_MAX_PAGE_BYTES = 64 << 20
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"


class LockedFile(Record, frozen=True, kw_only=True):
    """One file of a distribution, by its hashes; where it may be had is a hint."""

    uncompared: ClassVar = ("upload_time",)

    filename: str
    url: str | None = None
    """Without credentials."""
    path: str | None = None
    """Of a file on this machine, absolute."""
    size_bytes: int | None = None
    hashes: tuple[tuple[str, str], ...] = ()
    """Algorithm and hexadecimal digest, all of which hold."""
    accepted: tuple[str, ...] = ()
    """`algorithm:hex`, one of which must hold, where it is not known which is this file's."""
    upload_time: str | None = None

    @property
    def digest(self) -> Digest | None:
        """What the store knows it by; None where it has to be fetched to be known."""
        by_name = dict(self.hashes)
        for algorithm in ("sha256", "sha512"):
            if algorithm in by_name:
                return Digest(f"{algorithm}:{by_name[algorithm].lower()}")
        return None

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {"filename": self.filename}
        if self.url:
            value["url"] = self.url
        if self.path:
            value["path"] = self.path
        if self.size_bytes is not None:
            value["size"] = self.size_bytes
        if self.hashes:
            value["hashes"] = dict(self.hashes)
        if self.accepted:
            value["accepted"] = list(self.accepted)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, JSON]) -> LockedFile:
        """:raises KeyError, TypeError: when it is not what `to_json` makes."""
        hashes, accepted, size = value.get("hashes", {}), value.get("accepted", []), value.get("size")
        if not isinstance(hashes, dict) or not isinstance(accepted, list):
            raise TypeError("hashes")
        url, path = value.get("url"), value.get("path")
        return cls(
            filename=str(value["filename"]),
            url=str(url) if url is not None else None,
            path=str(path) if path is not None else None,
            size_bytes=size if isinstance(size, int) else None,
            hashes=tuple(sorted((key, str(text)) for key, text in hashes.items())),
            accepted=tuple(str(item) for item in accepted),
        )


def http_settings(settings: IndexSettings, base: HttpSettings | None = None) -> HttpSettings:
    """How indexes are talked to: pip's settings over `base`."""
    base = base or HttpSettings()
    return replace(
        base,
        timeout_seconds=settings.timeout_seconds or base.timeout_seconds,
        retries=base.retries if settings.retries is None else settings.retries,
        proxy=settings.proxy or base.proxy,
        ca_file=settings.cert or base.ca_file,
        client_cert=settings.client_cert or base.client_cert,
        trusted_hosts=(*base.trusted_hosts, *settings.trusted_hosts),
    )


class PackageIndexes:
    """All configured indexes and find-links, asked together."""

    def __init__(
        self,
        settings: IndexSettings,
        *,
        store: Store,
        transport: Transport,
        folder: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """:param folder: what relative find-links are relative to."""
        self.settings = settings
        self.store = store
        self.transport = transport.with_settings(http_settings(settings, transport.settings))
        self.folder = folder or Path.cwd()
        self.credentials = IndexCredentials.of(settings, environ)
        self._links: dict[str, tuple[PageLink, ...] | None] = {}
        self._lock = threading.Lock()

    def index_urls(self) -> tuple[str, ...]:
        """The indexes in order, uv's built-in one included where none is configured; with credentials.

        :raises EngineError: when uv does not tell its built-in one.
        """
        urls = self.settings.index_urls
        if self.settings.no_index or self.settings.index_url:
            return urls
        return (builtin_index_url(self.store), *urls)

    def links(self, name: str) -> list[tuple[str, tuple[PageLink, ...]]]:
        """What each source lists for a distribution, find-links first; sources without it are left out.

        :param name: normalised.
        :returns: source (redacted) and its links, in the order of the settings.
        :raises TransferError: when an index does not answer.
        :raises Offline: when an index is needed and there is no network.
        """
        from wain.index_pages import distribution_of

        found: list[tuple[str, tuple[PageLink, ...]]] = []
        for source in self.settings.find_links:
            links = self._page(source, is_index=False)
            of_name = tuple(link for link in links or () if distribution_of(link.filename) == name)
            if of_name:
                found.append((_shown(source), of_name))
        urls = [url.rstrip("/") + "/" + name + "/" for url in self.index_urls()]
        with ThreadPoolExecutor(_WORKERS) as pool:
            pages = list(pool.map(lambda url: self._page(url, is_index=True), urls))
        for url, page in zip(urls, pages, strict=True):
            of_name = tuple(link for link in page or () if distribution_of(link.filename) == name)
            if of_name:
                found.append((_shown(url.rstrip("/").rpartition("/")[0]), of_name))
        return found

    def has(self, name: str, *, keyring: bool = True) -> list[str]:
        """The indexes (redacted) that have a page for a distribution.

        :param name: normalised.
        :param keyring: whether keyring is asked where an index refuses.
        :raises AuthError: when an index refuses the credentials.
        :raises TransferError: when one does not answer.
        """
        urls = [url.rstrip("/") + "/" + name + "/" for url in self.index_urls()]
        with ThreadPoolExecutor(_WORKERS) as pool:
            known = list(pool.map(lambda url: self._exists(url, keyring=keyring), urls))
        return [_shown(url.rstrip("/").rpartition("/")[0]) for url, there in zip(urls, known, strict=True) if there]

    def locate(self, name: str, version: str, hashes: Sequence[str]) -> tuple[LockedFile, ...]:
        """The files of a version that have one of the hashes, from all sources, each once.

        A file whose page tells no hash is among them, to be checked when it is fetched. What was found is
        remembered without end: the hashes say which files they are.

        :param hashes: `algorithm:hex`; empty for all files of the version.
        :raises UnknownDistribution: when no source has the name.
        :raises ResolutionError: when no source has the version.
        :raises HashMismatch: when no file of the version has one of the hashes.
        """
        from wain.errors import ResolutionError, UnknownDistribution

        key = recipe_key(
            {
                "recipe": "index-files/1",
                "name": name,
                "version": version,
                "hashes": [*sorted(hashes)],
                "sources": [*map(_shown, (*self.settings.index_urls, *self.settings.find_links))],
                "folder": str(self.folder),
            }
        )
        if hashes and (memo := self.store.memo("index-files", key)) is not None:
            try:
                return _files_from_json(memo["files"])
            except (KeyError, TypeError, WainError):
                self.store.delete_memo("index-files", key)
        sources = self.links(name)
        if not sources:
            raise UnknownDistribution(
                f"no index has a distribution {name}",
                hint="Check the spelling, and whether --index-url or --find-links is right.",
            )
        of_version = [link for _, links in sources for link in links if _is_version(link.filename, name, version)]
        if not of_version:
            raise ResolutionError(
                f"no index has version {version} of {name}", hint="It may have been withdrawn; lock again."
            )
        files: dict[str, LockedFile] = {}
        for link in of_version:
            told = {f"{algorithm}:{text}" for algorithm, text in link.hashes}
            if not hashes or told & set(hashes):
                file = locked_file(link)
            elif not link.hashes:
                file = replace(locked_file(link), accepted=tuple(hashes))
            else:
                continue
            files.setdefault(link.filename, file)
        if not files:
            shown = ", ".join(sorted({f"{name}:{text}" for link in of_version for name, text in link.hashes}))
            raise HashMismatch(
                f"no file of {name} {version} has a hash that was asked for ({', '.join(hashes)[:400]});"
                f" the index has {shown[:600]}",
                hint="Lock again if the files were meant to change; if not, do not trust the index.",
            )
        found = tuple(files.values())
        if hashes:
            self.store.put_memo("index-files", key, {"files": [file.to_json() for file in found]}, refers=())
        return found

    def _exists(self, url: str, *, keyring: bool) -> bool:
        if not url.startswith(("http:", "https:")):
            path = local_path(url, self.folder)
            return path.is_file() or (path / "index.html").is_file()
        clean, credentials = self.credentials.for_url(url)
        try:
            try:
                self.transport.request("HEAD", clean, credentials=credentials).close()
            except AuthError as error:
                # Some servers answer 403 for what they do not have.
                if error.status == 403:
                    return False
                other = self.credentials.from_keyring(clean, credentials) if keyring else None
                if other is None:
                    raise
                self.transport.request("HEAD", clean, credentials=other).close()
        except NotFound:
            return False
        except TransferError as error:
            if error.status != 405:
                raise
            return bool(self._page(url, is_index=True))
        return True

    def _page(self, source: str, *, is_index: bool) -> tuple[PageLink, ...] | None:
        with self._lock:
            if source in self._links:
                return self._links[source]
        links = self._read_page(source, is_index=is_index)
        with self._lock:
            self._links[source] = links
        return links

    def _read_page(self, source: str, *, is_index: bool) -> tuple[PageLink, ...] | None:
        if not source.startswith(("http:", "https:")):
            return self._read_local(local_path(source, self.folder), source, is_index=is_index)
        clean, credentials = self.credentials.for_url(source)

        def get(who: object) -> tuple[PageLink, ...]:
            from wain.index_pages import parse_page
            from wain.transport import Credentials

            given = who if isinstance(who, Credentials) else None
            with self.transport.request("GET", clean, headers={"Accept": _ACCEPT}, credentials=given) as response:
                kind = response.headers.get("Content-Type", "text/html")
                return parse_page(response.content(_MAX_PAGE_BYTES), kind, base_url=response.url)

        try:
            try:
                return get(credentials)
            except AuthError:
                other = self.credentials.from_keyring(clean, credentials)
                if other is None:
                    raise
                return get(other)
        except NotFound:
            if not is_index:
                logger.warning("%s of find-links does not exist", redact_url(source))
            return None

    def _read_local(self, path: Path, source: str, *, is_index: bool) -> tuple[PageLink, ...] | None:
        from wain.index_pages import PageLink, parse_page

        try:
            if is_index and path.is_dir():
                path = path / "index.html"
            if path.is_dir():
                return tuple(
                    PageLink(filename=item.name, url=item.resolve().as_uri())
                    for item in sorted(path.iterdir())
                    if item.name.endswith((".whl", ".tar.gz", ".zip"))
                )
            if path.stat().st_size > _MAX_PAGE_BYTES:
                raise TransferError(f"{path} is larger than 64 MiB", hint="It is no page of an index.")
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if not is_index:
                logger.warning("%s of find-links does not exist", _shown(source))
            return None
        except OSError as error:
            raise TransferError(f"{path} cannot be read: {error.strerror}", hint="Check its mode and owner.") from error
        kind = "application/vnd.pypi.simple.v1+json" if path.suffix == ".json" else "text/html"
        return parse_page(data, kind, base_url=path.resolve().as_uri())


def builtin_index_url(store: Store) -> str:
    """The index that uv uses when nothing is configured.

    :raises EngineError: when uv does not tell.
    """
    from importlib.metadata import version

    from wain.uv_process import run_uv, uv_environment

    key = recipe_key({"recipe": "builtin-index/1", "uv": version("uv")})
    memo = store.memo("builtin-index", key)
    if memo is not None and isinstance(url := memo.get("url"), str):
        return url
    environ = uv_environment(own_configuration=False) | {"UV_NO_CACHE": "1"}
    result = run_uv(["pip", "compile", "--emit-index-url", "--no-header", "-"], environ=environ)
    for line in result.output.splitlines():
        option, _, url = line.partition(" ")
        if option in ("--index-url", "--default-index", "-i") and url:
            store.put_memo("builtin-index", key, {"url": url.strip()})
            return url.strip()
    raise EngineError("uv does not tell its index", hint="Name one with --index-url.")


def _is_version(filename: str, name: str, version: str) -> bool:
    from packaging.version import Version

    if filename.endswith(".whl"):
        text = filename.split("-")[1]
    else:
        stem = filename
        for suffix in (".tar.gz", ".zip", ".tar.bz2", ".tgz"):
            stem = stem.removesuffix(suffix)
        text = stem[len(stem) - len(stem.split("-", name.count("-") + 1)[-1]) :]
    try:
        return Version(text.replace("_", "+", 1) if "+" not in text and "_" in text else text) == Version(version)
    except ValueError:  # no version, or one with a number of thousands of digits
        return text == version


def locked_file(link: PageLink) -> LockedFile:
    """What a page's link names, without credentials."""
    clean = strip_credentials(link.url)
    local = clean.startswith("file:")
    return LockedFile(
        filename=link.filename,
        url=None if local else clean,
        path=str(local_path(clean, Path.cwd())) if local else None,
        size_bytes=link.size_bytes,
        hashes=link.hashes,
    )


def _files_from_json(value: JSON) -> tuple[LockedFile, ...]:
    if not isinstance(value, list):
        raise TypeError("files")
    return tuple(LockedFile.from_json(item) for item in value if isinstance(item, dict))


def _shown(source: str) -> str:
    return redact_url(source) if source.startswith(("http:", "https:")) else source


def local_path(source: str, folder: Path) -> Path:
    """The path of a `file:` URL, or of a path relative to `folder`."""
    if source.startswith("file:"):
        return Path(unquote(urlsplit(source).path))
    return folder / Path(source).expanduser()
