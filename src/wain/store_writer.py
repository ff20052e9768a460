"""Blobs in the making: files that move elsewhere when their disk is full or their folder is deleted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from wain import store_upkeep
from wain.digest import CHUNK_BYTES, Digest
from wain.errors import HashMismatch, StoreError
from wain.store_folder import Folder, impossible, is_full

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Keeper(Protocol):
    """What a writer asks of its store."""

    @property
    def place(self) -> Folder:
        """Where new files are made now."""

    def has(self, digest: Digest) -> bool: ...

    def new_file(self) -> tuple[Folder, Path, int]:
        """An empty file, with its place and an open descriptor."""

    def recover(self, place: Folder, error: OSError) -> bool:
        """Makes writing possible again, perhaps in another place; False when nothing is left to try."""

    def kept(self, size_bytes: int) -> None:
        """Is told of a new blob."""


class BlobWriter:
    """A blob in the making: bytes go to `write`, or by any order to `file`; `commit` makes it a blob."""

    def __init__(self, store: Keeper, *, kind: str, note: str, resumes: Digest | None = None) -> None:
        self._store = store
        self._kind = kind
        self._note = note
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._resumes = resumes
        self.present = False
        """Whether the store has the blob already (for `partial`)."""
        raw = _NewFile(store, resumes)
        if resumes is not None:
            self.present = store.has(resumes)
        self._raw = raw
        self._file: BinaryIO = cast("BinaryIO", io.BufferedRandom(raw, 1 << 18))

    @property
    def path(self) -> Path:
        """Where the bytes are until `commit`; what `file` buffers may not be there yet."""
        return self._raw.path

    @property
    def file(self) -> BinaryIO:
        """Binary, readable, writable and seekable. It closes with the writer."""
        return self._file

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        self._file.flush()
        return os.fstat(self._raw.fileno()).st_size

    def write(self, data: Buffer) -> int:
        """Appends bytes, and hashes them on the way.

        :raises StoreError: when neither the store nor a temporary folder can hold them.
        """
        written = self._file.write(data)
        self._hash.update(data)
        self._hashed += memoryview(data).nbytes
        return written

    def move(self, error: OSError) -> Path | None:
        """Goes on elsewhere, with the same bytes, after somebody could not write at `path`.

        :returns: the new path; None where there is no other place.
        :raises StoreError: when the other place cannot hold them either.
        """
        return self._raw.move(error)

    def restart(self) -> None:
        """Forgets all that was written."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self._hashed = 0

    def commit(self, expected: Digest | None = None, known: Digest | None = None) -> Digest:
        """Makes it a blob and says its digest.

        :param expected: what the bytes must be; with `partial`, the digest it was made for unless told.
        :param known: their digest, when the caller has hashed exactly what is in the file.
        :raises HashMismatch: when they are not; nothing is kept then.
        :raises StoreError: when neither the store nor a temporary folder can hold it.
        """
        expected = expected or self._resumes
        size_bytes = self.size_bytes
        algorithm = expected.algorithm if expected else "sha256"
        if known is not None and known.algorithm == algorithm:
            found = known
        elif self._hashed == size_bytes and algorithm == "sha256":
            found = Digest("sha256:" + self._hash.hexdigest())
        else:
            self._file.seek(0)
            stream = cast("io.BufferedRandom", self._file)
            found = Digest(f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}")
        if expected is not None and found != expected:
            self._raw.forget()
            raise HashMismatch(
                f"{self._note or expected} has digest {found}, not {expected}",
                hint="Run it again; if it happens again, the source serves wrong bytes and must not be used.",
            )
        self._raw.keep(found, self._kind, self._note)
        self._store.kept(size_bytes)
        return found

    def _close(self) -> None:
        with contextlib.suppress(OSError, ValueError, StoreError):
            self._file.flush()
        with contextlib.suppress(OSError, ValueError, StoreError):
            self._file.close()
        self._raw.close()


class _NewFile(io.RawIOBase):
    """An unfinished file that moves elsewhere when its disk is full."""

    def __init__(self, store: Keeper, resumes: Digest | None) -> None:
        self._store = store
        self._fd = -1
        if resumes is None or not self._resume(resumes):
            self._hold(*store.new_file())

    def _hold(self, place: Folder, path: Path, fd: int, *, lease: str | None = None) -> None:
        """Has this file from now on; with a lease that is not its name's, it is a download that can be resumed."""
        self._place, self.path, self._fd = place, path, fd
        self._lease = lease or path.name
        self._stays = lease is not None
        self._held = True

    def _resume(self, digest: Digest) -> bool:
        place = self._store.place
        path = place.partial(digest)
        name = store_upkeep.partial_name(digest.hex)
        size, deadline = -1, 0.0
        while not place.leases.seize(name):
            if not place.leases.working or name in place.unfinished or self._store.has(digest):
                return False
            try:
                now_size = path.stat().st_size
            except OSError:
                now_size = 0
            if now_size != size:
                size, deadline = now_size, time.monotonic() + 10
            elif time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            fd = os.open(path, flags, 0o600)
            os.lseek(fd, 0, os.SEEK_END)
        except OSError:
            place.leases.release(name)
            return False
        place.unfinished.add(name)
        self._hold(place, path, fd, lease=name)
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._fd, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = os.lseek(self._fd, 0, os.SEEK_CUR) if size is None else size
        os.ftruncate(self._fd, size)
        return size

    def readinto(self, buffer: Buffer) -> int:
        return os.readv(self._fd, [buffer])

    def write(self, data: Buffer) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except OSError as error:
                if not is_full(error):
                    raise impossible("a file of the store", error) from error
                if not self._store.recover(self._place, error):
                    raise impossible("a file of the store", error) from error
                self._move()

    def move(self, error: OSError) -> Path | None:
        """The new path after an error of somebody who writes at `path`; None where there is no other place."""
        if not is_full(error) or not self._store.recover(self._place, error):
            return None
        self._move()
        return self.path

    def _move(self) -> None:
        """Goes on in the store's present place, with the same bytes and position."""
        position = os.lseek(self._fd, 0, os.SEEK_CUR)
        place, path, fd = self._store.new_file()
        try:
            offset = 0
            while chunk := os.pread(self._fd, CHUNK_BYTES, offset):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
                offset += len(chunk)
            os.lseek(fd, position, os.SEEK_SET)
        except OSError as error:
            os.close(fd)
            place.discard(path)
            raise impossible("a file of the store", error) from error
        self.forget()
        os.close(self._fd)
        self._hold(place, path, fd)

    def keep(self, digest: Digest, kind: str, note: str) -> None:
        """Renames the file to be the blob."""
        size_bytes = os.fstat(self._fd).st_size
        for _ in range(4):
            try:
                leases = self._place.leases
                # An eviction that has its hands on the blob even now may take the label that is there.
                taken = not leases.share(digest.hex) and leases.working
                if taken or not self._is_labelled(digest):
                    self._label(digest, kind=kind, size_bytes=size_bytes, note=note)
                rename_into(self.path, self._place.blob(digest))
                break
            except OSError as error:
                if not self._store.recover(self._place, error):
                    raise impossible("a blob", error) from error
                self._move()
        else:
            raise StoreError(f"{digest} cannot be kept", hint="Something keeps deleting the cache folder.")
        self._release()

    def _is_labelled(self, digest: Digest) -> bool:
        """Whether the blob is there with its label."""
        blob = self._place.blob(digest)
        if not blob.exists():
            return False
        return any(name.startswith(f"{blob.name}.") for name in os.listdir(blob.parent))  # noqa: PTH208 - for speed

    def _label(self, digest: Digest, *, kind: str, size_bytes: int, note: str) -> None:
        label = self._place.label(digest, kind=kind, size_bytes=size_bytes, note=note)
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            os.close(os.open(label, flags, 0o600))
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                label.parent.mkdir(mode=0o700)
            os.close(os.open(label, flags, 0o600))

    def forget(self) -> None:
        """Removes the file, unless it is a blob by now; the descriptor stays open until `close`."""
        if self._held:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._release()

    def _release(self) -> None:
        """Leaves what is at `path` to others."""
        self._held = False
        self._place.unfinished.discard(self._lease)
        self._place.leases.release(self._lease)

    def close(self) -> None:
        if self._fd >= 0:
            if self._held and self._stays:
                self._release()
            self.forget()
            os.close(self._fd)
            self._fd = -1
        super().close()


def rename_into(source: Path, target: Path) -> None:
    """Renames a file, into a folder that is made if it is not there.

    :raises OSError: as `rename` does.
    """
    try:
        source.replace(target)
    except FileNotFoundError:
        # The shard's folder is made only now; the grandparent must be there, else the store was deleted.
        if not source.exists():
            raise
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source.replace(target)
