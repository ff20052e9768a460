"""Pages of package indexes: the files they list, from HTML or JSON.

Source: PyPA specifications, simple repository API, versions 1.0 to 1.4.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from msgspec import Struct

from wain.errors import TransferError
from wain.settings import normalize_name
from wain.transport import redact_url

_HASH = re.compile(r"(sha256|sha512|sha384|sha224|sha1|md5|blake2b|sha3_256|sha3_512)=([0-9a-fA-F]+)")
_WEAK = frozenset({"md5", "sha1", "sha224"})
_MAX_LINKS = 200_000


class PageLink(Struct, frozen=True, kw_only=True):
    """One file that a page lists."""

    filename: str
    url: str
    """Absolute, without the fragment."""
    hashes: tuple[tuple[str, str], ...] = ()
    size_bytes: int | None = None
    requires_python: str | None = None
    yanked: bool = False


def parse_page(data: bytes, content_type: str, *, base_url: str) -> tuple[PageLink, ...]:
    """The files on a page, in its order; links that are no files are left out.

    :param content_type: as the server told it.
    :param base_url: what relative links are relative to.
    :raises TransferError: when the page is malformed or of an unknown version.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("+json") or kind == "application/json":
        return _parse_json(data, base_url)
    parser = _Links(base_url)
    try:
        parser.feed(data.decode("utf-8", "replace"))
        parser.close()
    except (AssertionError, ValueError) as error:
        # What the standard library raises at declarations that are none.
        raise TransferError(
            f"{redact_url(base_url)} is no page of an index: its HTML is malformed",
            hint="Check the index's URL.",
        ) from error
    return tuple(parser.links)


def distribution_of(filename: str) -> str | None:
    """The normalised name in a wheel's or sdist's file name; None for other files.

    >>> distribution_of("Foo.Bar-1.0-py3-none-any.whl")
    'foo-bar'
    """
    if filename.endswith(".whl"):
        parts = filename.split("-")
        return normalize_name(parts[0]) if len(parts) in (5, 6) else None
    for suffix in (".tar.gz", ".zip", ".tar.bz2", ".tgz"):
        if filename.endswith(suffix):
            name, dash, version = filename.removesuffix(suffix).rpartition("-")
            # A version may hold a dash where an old sdist spelled it so: the name ends before a digit.
            while dash and version and not version[0].isdigit():
                name, dash, rest = name.rpartition("-")
                version = f"{rest}-{version}"
            return normalize_name(name) if dash else None
    return None


class _Links(HTMLParser):
    def __init__(self, base_url: str) -> None:
        super().__init__(convert_charrefs=True)
        self._base = base_url
        self._page = base_url
        self.links: list[PageLink] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "meta" and values.get("name", "").lower() == "pypi:repository-version":
            _check_version(values.get("content", "1.0"), self._page)
        elif tag == "base" and values.get("href"):
            self._base = _joined(self._page, values["href"]) or self._page
        elif tag == "a" and values.get("href"):
            if len(self.links) >= _MAX_LINKS:
                raise TransferError(
                    f"{redact_url(self._page)} has more than {_MAX_LINKS} links",
                    hint="It is no page of an index.",
                )
            link = _link(_joined(self._base, values["href"].strip()), values, self._base)
            if link is not None:
                self.links.append(link)


def _joined(base_url: str, url: str) -> str:
    """The URL made absolute; empty where it is malformed."""
    try:
        return urljoin(base_url, url)
    except ValueError:
        return ""


def _link(url: str, values: dict[str, str], base_url: str) -> PageLink | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if not _may_link(base_url, parts.scheme):
        return None
    filename = unquote(parts.path.rsplit("/", 1)[-1])
    if not _is_filename(filename):
        return None
    match = _HASH.search(parts.fragment)
    hashes = ((match[1].lower(), match[2].lower()),) if match and match[1] not in _WEAK else ()
    return PageLink(
        filename=filename,
        url=parts._replace(fragment="").geturl(),
        hashes=hashes,
        requires_python=values.get("data-requires-python") or None,
        yanked="data-yanked" in values,
    )


def _may_link(base_url: str, scheme: str) -> bool:
    """A page from the network may not name files of this machine."""
    if scheme in ("http", "https"):
        return True
    return scheme == "file" and base_url.startswith("file:")


def _is_filename(text: str) -> bool:
    return bool(text) and "/" not in text and "\\" not in text and "\0" not in text and text not in (".", "..")


def _parse_json(data: bytes, base_url: str) -> tuple[PageLink, ...]:
    try:
        document = json.loads(data)
        meta = document.get("meta", {})
        _check_version(str(meta.get("api-version", "1.0")), base_url)
        files = document["files"]
        links = []
        for file in files[:_MAX_LINKS]:
            url, filename = urljoin(base_url, str(file["url"])), str(file["filename"])
            if not _is_filename(filename) or not _may_link(base_url, urlsplit(url).scheme):
                continue
            size = file.get("size")
            hashes = {str(name).lower(): str(text).lower() for name, text in (file.get("hashes") or {}).items()}
            links.append(
                PageLink(
                    filename=filename,
                    url=urlsplit(url)._replace(fragment="").geturl(),
                    hashes=tuple(sorted((name, text) for name, text in hashes.items() if name not in _WEAK)),
                    size_bytes=size if isinstance(size, int) and size >= 0 else None,
                    requires_python=file.get("requires-python") or None,
                    yanked=bool(file.get("yanked")),
                )
            )
        return tuple(links)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TransferError(
            f"{redact_url(base_url)} is no page of an index: {type(error).__name__}",
            hint="Check the index's address; it ends in /simple/ at most servers.",
        ) from error


def _check_version(text: str, url: str) -> None:
    if not text.strip().startswith("1."):
        raise TransferError(
            f"{redact_url(url)} speaks version {text[:20]!r} of the index protocol",
            hint="wain knows version 1; use another index.",
        )
