"""The store: blobs by digest and memos by recipe key, in one folder that any number of processes share.

Nothing enters unverified where a digest was promised, and nothing leaves unverified. Every file is made under
another name and renamed, so that whoever is killed leaves no half of anything. Nothing is flushed to the disk
on purpose: what a power failure damages is found out when it is read, and made again.

The store never makes a build fail: a folder that cannot be used, fills up or goes away is replaced by a
temporary one, with one warning that says why.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, TypeVar, cast

from wain import store_upkeep
from wain.digest import CHUNK_BYTES, Digest, VerifyingReader
from wain.errors import (
    BaseError,
    DebianError,
    HashMismatch,
    ImageError,
    InstallError,
    SdistError,
    StoreError,
    WheelError,
)
from wain.oci import JSON, canonical_json
from wain.store_folder import UV, Folder, Unusable, impossible, is_full, is_gone
from wain.store_upkeep import Bad, Contents, Removed, Uses
from wain.store_writer import BlobWriter, rename_into

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

Done = TypeVar("Done")

log = logging.getLogger(__name__)

_MAY_BE_DAMAGE = (BaseError, DebianError, HashMismatch, ImageError, InstallError, SdistError, StoreError, WheelError)
_MORE_ATTEMPTS = 3
_TEMPORARY_PREFIX = "wain-store-"
_ALIVE = "0" * 15
_MAX_MEMO_BYTES = 64 << 20


def recipe_key(recipe: JSON) -> Digest:
    """SHA-256 of a recipe's canonical JSON."""
    return Digest.of(canonical_json(recipe))


class Store:
    """Blobs and memos. Made by `open`; safe for threads and for any number of processes.

    What a process has used or put stays until it closes the store, whatever others prune.
    """

    def __init__(self, folder: Folder, *, temporary: bool) -> None:
        self._places = [folder]
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._touched: set[str] = set()
        self._closed = False
        self._put_bytes = 0
        self.temporary = temporary
        """Whether it vanishes when it is closed."""
        self.dropped = 0
        """How many bad blobs this process has found and dropped."""
        self._revived = False
        self.hits: dict[str, int] = {}
        """How often something was found, by kind."""
        self.misses: dict[str, int] = {}
        if temporary:
            atexit.register(self.close)

    @classmethod
    def open(cls, root: Path | None, *, make_parent: bool = False, problem: str = "") -> Store:
        """The store in a folder, which is made if its parent is there.

        Without a folder, or with one that cannot be used (then one warning says exactly why), a temporary
        store that vanishes at exit.

        :param make_parent: whether the parent may be made too, for the platform's own cache folder.
        :param problem: why there is no folder, for the warning; empty where none is wanted.
        :raises StoreError: when not even a temporary folder can be made.
        """
        hint = "Name another folder with --cache-dir, or say --no-cache-dir."
        if root is not None:
            try:
                return cls(Folder(root.absolute(), make_parent=make_parent), temporary=False)
            except Unusable as reason:
                problem, hint = str(reason), reason.hint
        if problem:
            log.warning("the cache is not used: %s. %s", problem, hint)
        return cls(_temporary_folder(), temporary=True)

    @property
    def root(self) -> Path:
        """The folder that the store stands in."""
        return self._places[0].root

    @property
    def disturbed(self) -> bool:
        """Whether something in the store turned out damaged or was taken away while it was in use.

        A build that failed meanwhile succeeds when it is run again with the same store.
        """
        return self.dropped > 0 or self._revived or self.folder.leases.lost

    def attempt(self, work: Callable[[], Done]) -> Done:
        """What the work gives, which may be done more than once.

        Where it fails, the blobs that this process has used are looked at; if one was damaged, which drops it, or
        taken away, the work is done again. (Then it reads others: the wheels that a damaged layer is made from.)

        :raises WainError, FileNotFoundError: what the work raises in a sound store, or the last time.
        """
        known_lost = False
        for _ in range(_MORE_ATTEMPTS):
            dropped = self.dropped
            try:
                return work()
            except (*_MAY_BE_DAMAGE, FileNotFoundError) as error:
                gone = self._drop_damaged()
                lost = self._revived or self.folder.leases.lost
                if not gone and self.dropped == dropped and lost == known_lost:
                    raise
                known_lost = lost
                log.warning("once more, for the cache was damaged or emptied meanwhile: %s", error)
        return work()

    @property
    def place(self) -> Folder:
        """Where new files are made now: the store's folder, or the temporary one that took over."""
        return self._places[-1]

    def kept(self, size_bytes: int) -> None:
        """Is told by writers of a new blob."""
        with self._lock:
            self._put_bytes += size_bytes

    @property
    def folder(self) -> Folder:
        """The same, with its leases, for upkeep."""
        return self._places[0]

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- blobs ---------------------------------------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there; it counts as used from now on."""
        return self._find(digest) is not None

    def size_bytes(self, digest: Digest) -> int | None:
        """The size of a blob as it lies there; None when it does not."""
        path = self._find(digest)
        try:
            return None if path is None else path.stat().st_size
        except OSError:
            return None

    def path(self, digest: Digest) -> Path | None:
        """The blob's file, for callers that verify while they read; None when it is not there.

        It counts as used, and no upkeep takes it away before this store is closed.
        """
        return self._find(digest)

    def reader(self, digest: Digest) -> BinaryIO:
        """The blob's bytes; the reader raises at the end of bytes that are not the blob's, and drops it.

        :raises StoreError: when it is not there.
        :raises HashMismatch: from the reader.
        """
        path = self._find(digest)
        if path is not None:
            try:
                return cast("BinaryIO", _DroppingReader(self, path.open("rb"), digest))
            except OSError as error:
                log.debug("%s: %s", path, error)
        raise StoreError(
            f"{digest} is not in the store",
            hint="Somebody emptied the cache while it was in use; run the same again.",
        )

    def drop(self, digest: Digest) -> None:
        """Forgets a blob whose bytes turned out wrong."""
        with self._lock:
            self.dropped += 1
            for place in self._places:
                with contextlib.suppress(OSError):
                    place.blob(digest).unlink()
        log.warning("dropped a damaged entry of the cache: %s", digest)

    def put(
        self,
        data: IO[bytes] | Buffer,
        *,
        kind: str,
        expected: Digest | None = None,
        size_bytes: int | None = None,
        note: str = "",
    ) -> Digest:
        """Stores bytes, or a stream to its end; the same bytes again change nothing.

        :param kind: what it is, a lower-case word: `wheel`, `built-wheel`, `sdist`, `layer`, `deb`, `base`.
        :param note: what people call it, for instance its file name.
        :raises HashMismatch: when the bytes are not `expected`, or not `size_bytes`; nothing is kept then.
        :raises StoreError: when neither the store nor a temporary folder can hold it.
        """
        with self.writer(kind=kind, note=note) as writer:
            if hasattr(data, "read"):
                stream = cast("IO[bytes]", data)
                while chunk := stream.read(CHUNK_BYTES):
                    writer.write(chunk)
                    if size_bytes is not None and writer.size_bytes > size_bytes:
                        break
            else:
                writer.write(data)
            if size_bytes is not None and writer.size_bytes != size_bytes:
                raise HashMismatch(
                    f"{note or expected or 'the stream'} does not have the {size_bytes} bytes promised",
                    hint="Run it again; if it happens again, the source serves wrong bytes.",
                )
            return writer.commit(expected)

    @contextlib.contextmanager
    def writer(self, *, kind: str, note: str = "") -> Iterator[BlobWriter]:
        """A blob that is written bit by bit; leaving without `commit` discards it.

        :raises StoreError: when neither the store nor a temporary folder can hold it.
        """
        writer = BlobWriter(self, kind=kind, note=note)
        try:
            yield writer
        finally:
            writer._close()

    @contextlib.contextmanager
    def partial(self, digest: Digest, *, kind: str, note: str = "") -> Iterator[BlobWriter]:
        """A download that may have begun earlier: a writer that stands at the end of what is there.

        Its `size_bytes` says how much that is; `restart` empties it. Leaving without `commit` keeps what was
        written, for the next time. While another process fetches the same, this waits as long as it makes
        progress; then `present` is true if the store has the blob by now, and nothing is left to do.

        :raises StoreError: when neither the store nor a temporary folder can hold it.
        """
        writer = BlobWriter(self, kind=kind, note=note, resumes=digest)
        try:
            yield writer
        finally:
            writer._close()

    # -- memos ---------------------------------------------------------------------------------------------

    def memo(self, kind: str, key: Digest) -> dict[str, JSON] | None:
        """What was remembered under a recipe key; None when nothing was or it is damaged."""
        for place in self._places:
            path = place.memo(kind, key)
            try:
                with path.open("rb") as stream:
                    data = stream.read(_MAX_MEMO_BYTES)
            except OSError:
                continue
            value = _parse_memo(data, kind, key)
            if value is None:
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            self._touch(path, f"{kind}/{key}")
            self.count(kind, hit=True)
            return value
        self.count(kind, hit=False)
        return None

    def put_memo(self, kind: str, key: Digest, value: dict[str, JSON], refers: Iterable[Digest] = ()) -> None:
        """Remembers a value under a recipe key; what was there is replaced.

        :param refers: blobs that the value speaks of; when one is removed by name, so is the memo.
        """
        references: list[JSON] = [*sorted(set(refers))]
        body = canonical_json({"key": key, "kind": kind, "refers": references, "value": value})
        data = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        with self._lock:
            for attempt in range(3):
                place = self._places[-1]
                try:
                    path, fd = place.new_file()
                    try:
                        with os.fdopen(fd, "wb") as stream:
                            stream.write(data)
                        rename_into(path, place.memo(kind, key))
                    finally:
                        place.discard(path)
                    self._put_bytes += len(data)
                    return
                except OSError as error:
                    if attempt == 2 or not self.recover(place, error):
                        log.debug("a memo was not kept: %s", error)
                        return

    def delete_memo(self, kind: str, key: Digest) -> None:
        """Forgets a memo."""
        for place in self._places:
            with contextlib.suppress(OSError):
                place.memo(kind, key).unlink()

    # -- others' folders -----------------------------------------------------------------------------------

    def uv_folder(self, name: str) -> Path:
        """A cache folder for uv, made if it is not there: one for each `name` (a Python and platform).

        :raises StoreError: when it cannot be made.
        """
        for place in reversed(self._places):
            path = place.root / UV / name
            try:
                path.parent.mkdir(mode=0o700, exist_ok=True)  # of parents mkdir makes, the umask decides the mode
                path.mkdir(mode=0o700, exist_ok=True)
                return path
            except OSError as error:
                if not self.recover(place, error):
                    raise impossible(f"uv's cache folder {path}", error) from error
        return self.uv_folder(name)

    # -- upkeep --------------------------------------------------------------------------------------------

    def count(self, kind: str, *, hit: bool) -> None:
        """Counts a look-up for the hit rate."""
        table = self.hits if hit else self.misses
        with self._lock:
            table[kind] = table.get(kind, 0) + 1

    def contents(self) -> Contents:
        """What it holds."""
        return store_upkeep.contents(self.folder)

    def uses(self) -> Uses:
        """The look-ups of all runs before this one."""
        return store_upkeep.uses(self.folder)

    def remove(self, pattern: str) -> Removed:
        """Takes away the blobs that `pattern` names (see `store_upkeep.matching`) and the memos about them."""
        return store_upkeep.remove(self.folder, store_upkeep.matching(store_upkeep.blobs(self.folder), pattern))

    def purge(self) -> Removed:
        """Takes away all but what somebody uses."""
        return store_upkeep.purge(self.folder)

    def prune(self, *, max_size_bytes: int | None = None, older_than_seconds: float | None = None) -> Removed:
        """Takes away what is too old or too much; layers first, then the least recently used."""
        return store_upkeep.prune(self.folder, max_size_bytes=max_size_bytes, older_than_seconds=older_than_seconds)

    def verify(self) -> Iterator[Bad]:
        """Reads all, drops what is bad and tells of each."""
        return store_upkeep.verify(self.folder)

    def close(self, *, max_size_bytes: int | None = None) -> None:
        """Gives free what is in use; a temporary store vanishes. A forked child changes nothing.

        :param max_size_bytes: if this process has put something and the store is larger now, it is pruned; and once
            a day, when what it holds is counted.
        """
        if self._closed or self._owner != os.getpid():
            return
        self._closed = True
        if not self.temporary:
            if self.hits or self.misses:
                store_upkeep.add_uses(self.folder, self.hits, self.misses)
            if max_size_bytes is not None and self._put_bytes:
                held = store_upkeep.grow(self.folder, self._put_bytes)
                if held is None or held > max_size_bytes:
                    self.folder.leases.release_all()
                    self.prune(max_size_bytes=max_size_bytes)
        for place in self._places:
            place.close()
        for place in self._places if self.temporary else self._places[1:]:
            import shutil

            shutil.rmtree(place.root, ignore_errors=True)
        atexit.unregister(self.close)

    # -- inside --------------------------------------------------------------------------------------------

    def _find(self, digest: Digest) -> Path | None:
        for place in self._places:
            path = place.blob(digest)
            try:
                path.stat()
            except OSError:
                continue
            # Leased first and looked at again: an eviction holds the lease while it removes.
            place.leases.share(digest.hex)
            try:
                path.stat()
            except OSError:
                continue
            self._touch(path, digest)
            return path
        return None

    def _touch(self, path: Path, name: str) -> None:
        if name not in self._touched:
            self._touched.add(name)
            with contextlib.suppress(OSError):
                os.utime(path)

    def _drop_damaged(self) -> bool:
        """Drops what is damaged of the blobs that this process has used; whether one of them is gone."""
        gone = False
        with self._lock:
            used = {name for name in self._touched if "/" not in name}
        for name in used:
            digest = Digest(name)
            path = self._find(digest)
            try:
                if path is None:
                    raise FileNotFoundError
                with path.open("rb") as stream:
                    if hashlib.file_digest(stream, digest.algorithm).hexdigest() == digest.hex:
                        continue
                self.drop(digest)
            except FileNotFoundError:
                gone = True
            except OSError as error:
                log.debug("%s: %s", path, error)
                self.drop(digest)
            self._touched.discard(name)
        return gone

    def new_file(self) -> tuple[Folder, Path, int]:
        """An unfinished file, for writers: its place, path and descriptor.

        :raises StoreError: when neither the store nor a temporary folder can hold it.
        """
        with self._lock:
            for _ in range(3):
                place = self._places[-1]
                try:
                    return place, *place.new_file()
                except OSError as error:
                    if not self.recover(place, error):
                        raise impossible("an unfinished file", error) from error
        raise StoreError("no unfinished file can be made", hint="Look at the cache folder's disk.")

    def recover(self, place: Folder, error: OSError) -> bool:
        """Makes writing possible again after an error: in the same folder made anew, or in a temporary one.

        False when nothing is left to try.
        """
        with self._lock:
            if place is not self._places[-1]:
                return True
            if is_gone(error) and len(self._places) == 1:
                try:
                    place.revive()
                    self._revived = True
                    log.info("the cache folder %s was deleted; made it again", place.root)
                    return True
                except Unusable as reason:
                    return self._spill(reason)
            if len(self._places) > 1 or self.temporary:
                return False
            if is_full(error):
                return self._spill(Unusable(f"the disk of {place.root} is full"))
            return self._spill(Unusable(f"{error.filename or place.root}: {error.strerror}"))

    def _spill(self, reason: Unusable) -> bool:
        try:
            folder = _temporary_folder()
        except StoreError:
            return False
        log.warning("the cache takes nothing more: %s. Going on in %s", reason, folder.root)
        self._places.append(folder)
        atexit.register(self.close)
        return True


class _DroppingReader(VerifyingReader):
    """A verifying reader that drops a blob whose bytes are wrong."""

    def __init__(self, store: Store, stream: IO[bytes], digest: Digest) -> None:
        super().__init__(stream, digest, what=f"the cache's entry {digest}")
        self._store = store

    def _mismatch(self, detail: str) -> HashMismatch:
        self._store.drop(self._digest)
        return super()._mismatch(detail)


def _parse_memo(data: bytes, kind: str, key: Digest) -> dict[str, JSON] | None:
    checksum, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return None
    try:
        memo = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if memo.get("kind") != kind or memo.get("key") != key:
        return None
    value = memo.get("value")
    return value if isinstance(value, dict) else None


def _temporary_folder() -> Folder:
    """A new private folder where temporary files go; those of the dead are removed."""
    import shutil
    import tempfile

    try:
        base = Path(tempfile.gettempdir())
        _remove_orphans(base)
        root = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=base))
    except OSError as error:
        raise impossible("a temporary folder", error) from error
    try:
        folder = Folder(root)
    except Unusable as error:
        shutil.rmtree(root, ignore_errors=True)
        raise impossible("a temporary folder", error) from error
    folder.leases.share(_ALIVE)
    return folder


def _remove_orphans(base: Path) -> None:
    import shutil

    for path in base.glob(_TEMPORARY_PREFIX + "*"):
        try:
            if path.lstat().st_uid != os.geteuid() or time.time() - path.lstat().st_mtime < 60:
                continue
            folder = Folder(path)
            try:
                if folder.leases.seize(_ALIVE):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                folder.close()
        except (OSError, Unusable, AttributeError):
            continue
