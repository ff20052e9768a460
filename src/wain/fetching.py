"""Locked files -> verified files in the store: parallel, resumed where they broke off, each hash checked."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from wain.digest import CHUNK_BYTES, Digest
from wain.errors import (
    AuthError,
    EngineError,
    HashMismatch,
    NotFound,
    Offline,
    StoreError,
    TransferError,
    UsageError,
)
from wain.index import LockedFile, PackageIndexes, local_path, locked_file
from wain.settings import IndexSettings
from wain.store import Store, recipe_key

if TYPE_CHECKING:
    from wain.transport import Transport

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there and the size where it is known; from any thread."""

_WORKERS = 8
_MAX_FILE_BYTES = 16 << 30
_STRENGTH = ("sha256", "sha512", "sha384", "sha3_256", "sha3_512", "blake2b")


def fetch(
    files: Iterable[LockedFile],
    *,
    store: Store,
    transport: Transport,
    settings: IndexSettings | None = None,
    indexes: PackageIndexes | None = None,
    progress: Progress | None = None,
) -> dict[LockedFile, Digest]:
    """The files in the store, each checked against its hashes; what the store has is not asked for.

    Downloads run in parallel and are resumed where they broke off. The first failure ends the others.

    :raises HashMismatch: when bytes are not those promised.
    :raises TransferError: when a file cannot be had.
    :raises Offline: when the store lacks one and there is no network.
    """
    wanted = list(dict.fromkeys(files))
    done: dict[LockedFile, Digest] = {}
    missing: list[LockedFile] = []
    for file in wanted:
        known = _known(store, file)
        if known is not None:
            done[file] = known
        else:
            missing.append(file)
    if not missing:
        return done
    indexes = indexes or PackageIndexes(settings or IndexSettings(), store=store, transport=transport)
    fetcher = _Fetcher(indexes, progress)
    missing.sort(key=lambda file: -(file.size_bytes or 0))
    done.update(fetcher.fetch_all(missing))
    return {file: done[file] for file in wanted}


def _known(store: Store, file: LockedFile) -> Digest | None:
    digest = file.digest
    if digest is not None:
        return digest if store.has(digest) else None
    for text in (*(f"{name}:{value}" for name, value in file.hashes), *file.accepted):
        memo = store.memo("file-hash", recipe_key({"recipe": "file-hash/1", "hash": text}))
        if memo is not None and isinstance(blob := memo.get("digest"), str):
            found = Digest(blob)
            if memo.get("filename") == file.filename and store.has(found):
                return found
    return None


class _Stopped(Exception):
    """Another file failed: this one need not go on."""


class _Fetcher:
    def __init__(self, indexes: PackageIndexes, progress: Progress | None) -> None:
        self._indexes = indexes
        self._store = indexes.store
        self._progress = progress
        self.stop = threading.Event()

    def fetch_all(self, files: Sequence[LockedFile]) -> dict[LockedFile, Digest]:
        """All of them, or the first error. The threads are daemons: an interrupt waits for no server."""
        todo: queue.SimpleQueue[LockedFile] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[LockedFile, Digest | BaseException]] = queue.SimpleQueue()
        for file in files:
            todo.put(file)

        def work() -> None:
            while not self.stop.is_set():
                try:
                    file = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    answers.put((file, self.fetch(file)))
                except BaseException as error:
                    answers.put((file, error))

        threads = [
            threading.Thread(target=work, name=f"fetch-{number}", daemon=True)
            for number in range(min(_WORKERS, len(files)))
        ]
        found: dict[LockedFile, Digest] = {}
        try:
            for thread in threads:
                thread.start()
            for _ in files:
                file, answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                found[file] = answer
        finally:
            self.stop.set()
        for thread in threads:
            thread.join()
        return found

    def fetch(self, file: LockedFile) -> Digest:
        if self.stop.is_set():
            raise _Stopped
        kind = "wheel" if file.filename.endswith(".whl") else "sdist"
        if file.path is not None or (file.url or "").startswith("file:"):
            return self._copy(file, kind)
        url = file.url
        if url is None:
            raise TransferError(f"the lock does not say where {file.filename} is", hint="Lock it again with wain lock.")
        try:
            return self._download(file, url, kind)
        except (NotFound, AuthError) as error:
            other = self._elsewhere(file)
            if other is None:
                raise _named(error, file) from error
            logger.info("%s has moved; an index has it with the same hash", file.filename)
            if other.path is not None:
                return self._copy(other, kind)
            return self._download(file, other.url or url, kind)

    def _elsewhere(self, file: LockedFile) -> LockedFile | None:
        """The same file (by hash) where the indexes list it now; its URL may carry what no lock may hold."""
        from wain.index_pages import distribution_of

        name = distribution_of(file.filename)
        if name is None or not file.hashes:
            return None
        try:
            sources = self._indexes.links(name)
        except (TransferError, Offline, EngineError, UsageError):
            return None
        wanted = set(file.hashes)
        for _, links in sources:
            for link in links:
                if link.filename == file.filename and wanted & set(link.hashes):
                    found = locked_file(link)
                    # The link as it is now, with the query that it may be signed with: a lock has none.
                    url = None if found.url is None else link.url
                    if found.path is not None or url != file.url:
                        return replace(found, url=url, size_bytes=file.size_bytes, hashes=file.hashes)
        return None

    def _told(self, filename: str) -> Callable[[int, int | None], None]:
        def told(done: int, total: int | None) -> None:
            if self.stop.is_set():
                raise _Stopped
            if self._progress is not None:
                self._progress(filename, done, total)

        return told

    def _download(self, file: LockedFile, url: str, kind: str) -> Digest:
        clean, credentials = self._indexes.credentials.for_url(url)
        try:
            return self._get(file, clean, credentials, kind)
        except AuthError:
            other = self._indexes.credentials.from_keyring(clean, credentials)
            if other is None:
                raise
            return self._get(file, clean, other, kind)

    def _get(self, file: LockedFile, url: str, credentials: object, kind: str) -> Digest:
        from wain.transport import Credentials

        given = credentials if isinstance(credentials, Credentials) else None
        digest = file.digest
        transport = self._indexes.transport
        told = self._told(file.filename)
        if digest is None:
            with self._store.writer(kind=kind, note=file.filename) as writer:
                download = transport.download(
                    url,
                    writer.path,
                    size_bytes=file.size_bytes,
                    max_bytes=_MAX_FILE_BYTES,
                    credentials=given,
                    progress=told,
                    elsewhere=writer.move,
                )
                held = self._check_other_hashes(file, writer.path)
                found = writer.commit(known=download.digest)
            self._remember(file, found, held)
            return found
        with self._store.partial(digest, kind=kind, note=file.filename) as writer:
            if writer.present:
                return digest
            try:
                download = transport.download(
                    url,
                    writer.path,
                    digest=digest,
                    size_bytes=file.size_bytes,
                    max_bytes=_MAX_FILE_BYTES,
                    credentials=given,
                    progress=told,
                    elsewhere=writer.move,
                )
            except HashMismatch as error:
                writer.restart()
                raise HashMismatch(
                    f"{file.filename} is not what the lock promises: {error.message}",
                    hint="If the file was meant to change, lock again; if not, do not trust its source.",
                ) from error
            return writer.commit(known=download.digest)

    def _copy(self, file: LockedFile, kind: str) -> Digest:
        source = Path(file.path) if file.path else local_path(file.url or "", self._indexes.folder)
        expected = file.digest
        told = self._told(file.filename)
        try:
            with source.open("rb") as stream, self._store.writer(kind=kind, note=file.filename) as writer:
                size = source.stat().st_size
                if file.size_bytes is not None and size != file.size_bytes:
                    raise HashMismatch(
                        f"{source} has {size} bytes, not the {file.size_bytes} that the lock promises",
                        hint="Lock again if the file was meant to change.",
                    )
                done = 0
                while data := stream.read(CHUNK_BYTES):
                    writer.write(data)
                    done += len(data)
                    told(done, size)
                held: list[str] = []
                if expected is None:
                    writer.file.flush()
                    held = self._check_other_hashes(file, writer.path)
                try:
                    found = writer.commit(expected=expected)
                except HashMismatch as error:
                    raise HashMismatch(
                        f"{source} is not what the lock promises: {error.message}",
                        hint="If the file was meant to change, lock again; if not, do not use it.",
                    ) from error
        except StoreError:
            raise
        except FileNotFoundError as error:
            raise NotFound(f"{source} is locked and does not exist", hint="Bring it back, or lock again.") from error
        except OSError as error:
            raise TransferError(
                f"{source} cannot be read: {error.strerror}", hint="Check its mode and owner."
            ) from error
        if expected is None:
            self._remember(file, found, held)
        return found

    def _check_other_hashes(self, file: LockedFile, path: Path) -> list[str]:
        """Checks hashes that are no digests of the store, and those of which any will do; says which held."""
        must = [f"{name}:{text.lower()}" for name, text in file.hashes if name in _STRENGTH]
        if file.hashes and not must:
            raise HashMismatch(
                f"{file.filename} is locked with {', '.join(name for name, _ in file.hashes)} alone",
                hint="Lock again with sha256.",
            )
        held = [text for text in (*must, *file.accepted) if _has_hash(path, text)]
        if not set(must) <= set(held) or (file.accepted and not set(file.accepted) & set(held)):
            raise HashMismatch(
                f"{file.filename} is not what was promised: {', '.join((*must, *file.accepted))[:400]}",
                hint="If the file was meant to change, lock again; if not, do not trust its source.",
            )
        return held

    def _remember(self, file: LockedFile, found: Digest, held: Sequence[str]) -> None:
        for text in held:
            self._store.put_memo(
                "file-hash",
                recipe_key({"recipe": "file-hash/1", "hash": text}),
                {"digest": str(found), "filename": file.filename},
                refers=[found],
            )


def _has_hash(path: Path, text: str) -> bool:
    algorithm, _, wanted = text.partition(":")
    if algorithm not in _STRENGTH:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == wanted.lower()


def _named(error: TransferError, file: LockedFile) -> TransferError:
    kind = type(error)
    return kind(f"{file.filename}: {error.message}", hint=error.hint, status=error.status)
