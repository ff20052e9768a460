"""Files that ADD fetches from the web, kept in the store.

Sources: Dockerfile reference (ADD); RFC 9110, Last-Modified.
"""

from __future__ import annotations

import email.utils
import logging
import posixpath
from typing import IO, BinaryIO, ClassVar, cast
from urllib.parse import unquote, urlsplit

from wain.digest import Digest
from wain.errors import DockerfileError, ImageError, TransferError
from wain.oci import JSON
from wain.records import Record
from wain.store import Store, recipe_key
from wain.transport import Transport
from wain.tree import Node
from wain.urls import redact_url, split_credentials

log = logging.getLogger(__name__)

_MEMO = "added-file"
_ATTEMPTS = 3


class Stored(Record, frozen=True):
    """A file's bytes in the store."""

    unshown: ClassVar = ("store",)

    store: Store
    digest: Digest

    def open(self) -> BinaryIO:
        return self.store.reader(self.digest)


def remote_name(url: str) -> str:
    """What a file from a URL is called where ADD's destination is a folder.

    >>> remote_name("https://host.example/a/b%20c.txt?x=1")
    'b c.txt'
    >>> remote_name("https://host.example")
    '__unnamed__'
    """
    return posixpath.basename(posixpath.normpath(unquote(urlsplit(url).path) or "/")) or "__unnamed__"


def remote_file(url: str, *, checksum: str | None, store: Store, transport: Transport) -> Node:
    """The file at a URL, with the mode and time that ADD gives it.

    What has a checksum is asked for once: the store keeps it.

    :param checksum: `sha256:` and 64 digits, of which the file must be.
    :raises DockerfileError: when the checksum is none.
    :raises HashMismatch: when the file is another.
    :raises TransferError: when it cannot be had.
    """
    expected: Digest | None = None
    if checksum is not None:
        try:
            expected = Digest(checksum)
        except ImageError as error:
            raise DockerfileError(f"--checksum={checksum} is no digest", hint="Write --checksum=sha256:...") from error
    key = recipe_key({"what": _MEMO, "url": url, "checksum": checksum})
    memo = store.memo(_MEMO, key) if expected is not None else None
    digest: Digest | None = None
    mtime: JSON = 0
    if memo is not None and expected is not None and store.has(expected):
        digest, mtime = expected, memo.get("mtime")
    if digest is None:
        digest, mtime = _fetched(url, expected, store, transport)
        if expected is not None:
            store.put_memo(_MEMO, key, {"mtime": mtime}, [digest])
    size = store.size_bytes(digest)
    return Node(
        kind="file",
        mode=0o600,
        mtime=mtime if isinstance(mtime, int) else 0,
        size_bytes=size or 0,
        content=Stored(store, digest),
    )


def _fetched(url: str, expected: Digest | None, store: Store, transport: Transport) -> tuple[Digest, int]:
    plain, credentials = split_credentials(url)
    attempt = 0
    while True:
        attempt += 1
        with transport.request("GET", plain, credentials=credentials) as response:
            moment = _moment(response.headers.get("Last-Modified", ""))
            try:
                digest = store.put(cast("IO[bytes]", response), kind="file", expected=expected, note=remote_name(plain))
            except TransferError as error:
                if attempt >= _ATTEMPTS:
                    raise
                log.info("%s: %s; it is asked for again", redact_url(plain), error.message)
                continue
        return digest, moment


def _moment(text: str) -> int:
    """Seconds since the epoch; 0 where the server does not say."""
    try:
        return max(0, int(email.utils.parsedate_to_datetime(text).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0
