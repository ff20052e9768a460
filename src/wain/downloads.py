"""One file's download, over as many attempts as it takes: what came is kept, the rest asked for, the whole verified.

Source: RFC 9110, "Range Requests" and "If-Range".
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from msgspec import Struct

from wain.digest import CHUNK_BYTES, Digest
from wain.errors import HashMismatch, TransferError
from wain.urls import redact_url

log = logging.getLogger(__name__)

_RESUME_PROGRESS_BYTES = 64 << 10


class Answer(Protocol):
    """What is used of a response."""

    status: int
    headers: Mapping[str, str]

    @property
    def size_bytes(self) -> int | None: ...

    def chunks(self) -> Iterator[bytes]: ...


Ask = Callable[[Mapping[str, str], tuple[int, ...]], AbstractContextManager[Answer]]
"""Makes the request with these headers more; the statuses are those that do not raise."""


class Download(Struct, frozen=True, kw_only=True):
    """What `Transport.download` wrote."""

    size_bytes: int
    digest: Digest
    """SHA-256."""
    resumed_from_bytes: int = 0
    """Bytes that an earlier attempt had left and that were not asked for again."""


class Fetch:
    """One file's download, over as many attempts as it takes."""

    def __init__(
        self,
        ask: Ask,
        url: str,
        file: BinaryIO,
        *,
        digest: Digest | None,
        size_bytes: int | None,
        max_bytes: int | None,
        retries: int,
        pause: Callable[[int], None],
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self._ask = ask
        self._url = url
        self._file = file
        self._digest = digest
        self._size_bytes = size_bytes
        self._limit = size_bytes if size_bytes is not None else max_bytes
        self._retries = retries
        self._pause = pause
        self._progress = progress or (lambda done, total: None)
        self._total = size_bytes
        self._validator: str | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._done = 0
        self._validator = None
        self._hash = hashlib.sha256()
        other = self._digest is not None and self._digest.algorithm != "sha256"
        self._other_hash = hashlib.new(self._digest.algorithm) if other and self._digest else None

    def _empty(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._start_over()

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        if self._other_hash is not None:
            self._other_hash.update(data)
        self._done += len(data)

    def run(self) -> Download:
        self._file.seek(0)
        left = os.fstat(self._file.fileno()).st_size
        while left > 0 and (data := self._file.read(min(left, CHUNK_BYTES))):
            self._take(data)
            left -= len(data)
        # Without the digest nobody can say that the old part and the new rest belong together.
        if self._digest is None or (self._limit is not None and self._done > self._limit):
            self._empty()
        left = self._done
        failures = 0
        while True:
            before = self._done
            try:
                if not (self._done and self._done == self._size_bytes):
                    self._attempt()
                problem = self._problem()
            except TransferError as error:
                gained = self._done - before
                failures = 0 if gained >= _RESUME_PROGRESS_BYTES else failures + 1
                if error.status is not None or failures > self._retries:
                    raise
                log.info("%s; resumed at %d bytes", error.message, self._done)
                self._pause(max(failures - 1, 0))
                continue
            if problem is None:
                self._file.flush()
                return Download(
                    size_bytes=self._done,
                    digest=Digest("sha256:" + self._hash.hexdigest()),
                    resumed_from_bytes=left,
                )
            self._empty()
            if not left:
                raise problem
            # The part that was there may have been of another file: once more from the first byte.
            left = 0

    def _attempt(self) -> None:
        headers: dict[str, str] = {}
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        ok = (200, 206, 416) if self._done else (200,)
        with self._ask(headers, ok) as response:
            if response.status == 416:
                self._after_unsatisfiable(response)
                return
            if response.status == 206:
                self._check_range(response)
            elif self._done:
                self._empty()
            total = None if response.size_bytes is None else self._done + response.size_bytes
            if self._size_bytes is not None and total is not None and total != self._size_bytes:
                raise self._mismatch(f"{total} bytes, not {self._size_bytes}")
            self._total = self._size_bytes or total
            etag = response.headers.get("ETag", "")
            self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
            self._file.seek(self._done)
            for data in response.chunks():
                if self._limit is not None and self._done + len(data) > self._limit:
                    raise self._mismatch(f"more than {self._limit} bytes")
                self._file.write(data)
                self._take(data)
                self._progress(self._done, self._total)

    def _after_unsatisfiable(self, response: Answer) -> None:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if not total or int(total[1]) != self._done:
            self._empty()
            raise TransferError(
                f"{redact_url(self._url)} cannot be resumed",
                hint="Run it again; it starts from the beginning.",
            )

    def _check_range(self, response: Answer) -> None:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != self._done:
            self._empty()
            raise TransferError(
                f"{redact_url(self._url)} answered with another range than was asked for",
                hint="Run it again; it starts from the beginning.",
            )

    def _problem(self) -> HashMismatch | None:
        if self._size_bytes is not None and self._done != self._size_bytes:
            return self._mismatch(f"{self._done} bytes, not {self._size_bytes}")
        if self._digest is not None:
            found = (self._other_hash or self._hash).hexdigest()
            if found != self._digest.hex:
                return self._mismatch(f"{self._digest.algorithm}:{found}, not {self._digest}")
        return None

    def _mismatch(self, detail: str) -> HashMismatch:
        return HashMismatch(
            f"{redact_url(self._url)} is not what was promised: {detail}",
            hint="The server has other bytes than the lock or index says; do not use them. Lock again if the"
            " change is meant.",
        )
