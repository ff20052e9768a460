"""Members of wheels become files: on every core, while the caller does something else.

In processes where that is safe: with many small files, threads wait for each other more than they work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, NoReturn

from wain.install import row_digest
from wain.wheels import Wheel
from wain.zips import DEFLATED, Member

_WHOLE_BYTES = 1 << 23
"""What a worker holds of a member at once."""
_FILE_COST_BYTES = 1 << 16
"""What making a file costs, in bytes that could be written meanwhile."""
_SHARES_EACH = 6
"""Shares for each worker: who is done early takes another."""
_MAX_SHARES = 256


class NewFile(NamedTuple):
    """A file that is to be written. (A tuple, for there may be a hundred thousand of them.)"""

    path: str
    """Absolute. Its folder is made where it is not there; no two have the same one."""
    is_executable: bool
    wheel: Wheel
    member: Member | None
    """What it is a copy of; None where `data` is what it holds."""
    data: bytes | None
    is_checked: bool
    """Whether the member's CRC is compared and its hash told. It need not be where the same was done before for a
    wheel of this digest, as long as the caller verifies the wheel."""


Hashes = dict[tuple[str, str], str]
"""(wheel's name, member's path) -> its hash as RECORD writes it, of all that were to be checked."""


class Unpacking:
    """Writes files; begins when it is made, and has ended when `finish` returns. Leaving its block ends it.

    :raises OSError: from `finish`, where a file cannot be written.
    :raises WheelError: from `finish`, where a member is damaged.
    """

    def __init__(self, files: Sequence[NewFile], *, workers: int) -> None:
        self._shares = _shares(files, min(_MAX_SHARES, workers * _SHARES_EACH))
        self._children: dict[int, int] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._threads: list[Future[Hashes]] = []
        if not self._shares:
            return
        if workers == 1 or not hasattr(os, "fork") or threading.active_count() > 1:
            self._pool = ThreadPoolExecutor(max(2, workers), thread_name_prefix="unpack")
            self._threads = [self._pool.submit(_write, share) for share in self._shares]
            return
        # Each number in the pipe is read by one child.
        numbers, writer = os.pipe()
        os.write(writer, bytes(range(len(self._shares))))
        os.close(writer)
        try:
            for _ in range(workers):
                reader, writer = os.pipe()
                child = os.fork()
                if not child:
                    _work(self._shares, numbers, writer)
                os.close(writer)
                self._children[child] = reader
        except BaseException:
            self.abandon()
            raise
        finally:
            os.close(numbers)

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def finish(self) -> Hashes:
        """Waits until all is written."""
        hashes: Hashes = {}
        if self._pool is not None:
            for done in self._threads:
                hashes.update(done.result())
            return hashes
        missing = set(range(len(self._shares)))
        for child, reader in list(self._children.items()):
            said = b""
            while chunk := os.read(reader, 1 << 16):
                said += chunk
            self._reap(child)
            # Of a child that failed, nothing may be here; the work is done again, which tells why.
            with contextlib.suppress(ValueError):
                done, found = json.loads(said)
                missing.difference_update(done)
                hashes.update({(name, path): digest for name, path, digest in found})
        for number in sorted(missing):
            hashes.update(_write(self._shares[number]))
        return hashes

    def abandon(self) -> None:
        """Ends what still runs; files may be missing then, or have a part of their bytes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for child in list(self._children):
            os.kill(child, signal.SIGKILL)
            self._reap(child)

    def _reap(self, child: int) -> None:
        os.waitpid(child, 0)
        os.close(self._children.pop(child))


def _shares(files: Sequence[NewFile], count: int) -> list[Sequence[NewFile]]:
    """The files in runs of about the same work: neighbours stay together, so that two workers seldom write into one
    folder, where they would wait for each other."""
    costs = [_FILE_COST_BYTES + (file.member.size_bytes if file.member else len(file.data or b"")) for file in files]
    total = sum(costs)
    shares: list[Sequence[NewFile]] = []
    start, done = 0, 0
    for number, cost in enumerate(costs):
        done += cost
        if done * count >= total * (len(shares) + 1):
            shares.append(files[start : number + 1])
            start = number + 1
    return shares


def _work(shares: Sequence[Sequence[NewFile]], numbers: int, writer: int) -> NoReturn:
    """The whole life of a child process."""
    done: list[int] = []
    hashes: Hashes = {}
    try:
        while number := os.read(numbers, 1):
            hashes.update(_write(shares[number[0]]))
            done.append(number[0])
        with os.fdopen(writer, "wb") as stream:
            stream.write(json.dumps([done, [[*key, digest] for key, digest in hashes.items()]]).encode())
    finally:
        os._exit(0)


def _write(files: Iterable[NewFile]) -> Hashes:
    hashes: Hashes = {}
    made: set[str] = set()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
    for path, is_executable, wheel, member, data, is_checked in files:
        folder = path.rpartition("/")[0]
        if folder not in made:
            _make_folders(folder, made)
        # With the umask, as for any file that the user makes.
        fd = os.open(path, flags, 0o777 if is_executable else 0o666)
        try:
            if member is None:
                _write_all(fd, data or b"")
            elif not is_checked:
                for chunk in _pieces(wheel, member, is_checked=False):
                    _write_all(fd, chunk)
            else:
                digest = hashlib.sha256()
                for chunk in _pieces(wheel, member, is_checked=True):
                    digest.update(chunk)
                    _write_all(fd, chunk)
                hashes[wheel.name, member.path] = row_digest(digest.digest())
        finally:
            os.close(fd)
    return hashes


def _make_folders(folder: str, made: set[str]) -> None:
    """Makes a folder with its parents, which other workers make meanwhile too."""
    try:
        os.mkdir(folder)  # noqa: PTH102  # three thousand times in a large installation
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_folders(folder.rpartition("/")[0], made)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)  # noqa: PTH102
    made.add(folder)


def _pieces(wheel: Wheel, member: Member, *, is_checked: bool) -> Iterable[bytes | bytearray | memoryview]:
    """A member's uncompressed bytes; those of a small one in a single step, which is faster.

    :raises WheelError: when the stream is damaged, or size or CRC differ from those promised.
    """
    from deflate import DeflateError, deflate_decompress
    from isal.isal_zlib import crc32

    if member.method != DEFLATED or member.size_bytes > _WHOLE_BYTES:
        return wheel.chunks(member)
    try:
        data = deflate_decompress(wheel.raw(member), member.size_bytes)
    except DeflateError:
        return wheel.chunks(member)
    if len(data) == member.size_bytes and (not is_checked or crc32(data) == member.crc):
        return (data,)
    # What is not as promised is read again by the reader that says what is wrong.
    return wheel.chunks(member)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            view = view[os.write(fd, view) :]
