"""What is in a store's folder, and how it is kept small and sound: listing, pruning, removing, verifying.

A listing opens no blob: names and `stat` say all. Whatever is removed is first seized by its lease, so that
nothing goes away that a running process uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import translate
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from wain.oci import JSON
from wain.store_folder import BLOBS, MEMOS, PARTIAL, SIZE, TEMPORARY, USES, UV, Folder, parse_label, shards

log = logging.getLogger(__name__)

DEFAULT_MAX_SIZE_BYTES = 20_000_000_000
MADE_AGAIN = frozenset({"layer", "bytecode"})
"""Kinds of blobs that are computed from other blobs; an eviction takes them first."""

UNKNOWN = "unknown"
_ABANDONED_SECONDS = 14 * 86400
_MAX_USES_BYTES = 64 << 10
_CHUNK_BYTES = 1 << 20
_COUNTED_SECONDS = 86400
_MAX_RUNS = 2000


class StoredBlob(NamedTuple):
    """A blob as a listing shows it. (A tuple: a listing makes a hundred thousand of them in a moment.)"""

    name: str
    """Its digest's hexadecimal digits."""
    kind: str
    note: str
    """What people call it; empty where nobody said."""
    size_bytes: int
    put_at: float
    """Since when it is there, in seconds since the epoch."""
    shard: str
    """The folder it lies in."""
    labels: tuple[str, ...]
    """Names of the files beside it that say what it is."""

    @property
    def path(self) -> Path:
        return Path(self.shard, self.name)

    def used_at(self) -> float:
        """When it was last put or used, in seconds since the epoch; 0 when it is gone."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0


class Amount(Struct, frozen=True, kw_only=True):
    """How much there is of a kind."""

    count: int = 0
    size_bytes: int = 0

    def plus(self, size_bytes: int) -> Amount:
        return Amount(count=self.count + 1, size_bytes=self.size_bytes + size_bytes)


class Contents(Struct, frozen=True, kw_only=True):
    """All that a folder holds, without uv's part."""

    blobs: tuple[StoredBlob, ...]
    memos: dict[str, Amount]
    """By kind."""
    unfinished: Amount

    @property
    def size_bytes(self) -> int:
        return (
            sum(blob.size_bytes for blob in self.blobs)
            + sum(amount.size_bytes for amount in self.memos.values())
            + self.unfinished.size_bytes
        )

    def by_kind(self) -> dict[str, Amount]:
        """How much there is of each kind of blob, by kind's name."""
        kinds: dict[str, list[int]] = {}
        for blob in self.blobs:
            kinds.setdefault(blob.kind, []).append(blob.size_bytes)
        return {kind: Amount(count=len(sizes), size_bytes=sum(sizes)) for kind, sizes in sorted(kinds.items())}


class Uses(Struct, frozen=True, kw_only=True):
    """How often look-ups found something, by kind."""

    hits: dict[str, int]
    misses: dict[str, int]

    @property
    def hit_rate(self) -> float | None:
        """From 0 to 1; None before the first look-up."""
        hits, misses = sum(self.hits.values()), sum(self.misses.values())
        return hits / (hits + misses) if hits + misses else None


class Removed(Struct, kw_only=True):
    """What an upkeep took away, and what it left because somebody uses it."""

    count: int = 0
    size_bytes: int = 0
    in_use: int = 0


class Bad(Struct, frozen=True, kw_only=True):
    """An entry whose bytes were not what its name promises; it has been dropped."""

    what: str
    """`blob` or `memo`."""
    name: str
    note: str


def contents(folder: Folder) -> Contents:
    """What the folder holds now. Others may add and remove meanwhile."""
    memos: dict[str, Amount] = {}
    for path, size_bytes, _ in _memo_files(folder):
        kind = path.parent.parent.name
        memos[kind] = memos.get(kind, Amount()).plus(size_bytes)
    unfinished = Amount()
    for _, size_bytes, _ in (*_files(folder.root / TEMPORARY), *_files(folder.root / PARTIAL)):
        unfinished = unfinished.plus(size_bytes)
    return Contents(blobs=tuple(blobs(folder)), memos=memos, unfinished=unfinished)


def blobs(folder: Folder) -> Iterator[StoredBlob]:
    """Every blob of the folder, in the order of their names."""
    for shard in shards(folder.root / BLOBS):
        try:
            names = sorted(os.listdir(shard))  # noqa: PTH208 - names alone, for speed
        except OSError:
            continue
        where = str(shard)
        blob = ""
        labels: list[str] = []
        # A blob's name comes right before those of its labels.
        for name in names:
            if "." not in name:
                if blob:
                    yield _stored(where, blob, labels)
                blob = name
                labels = []
            elif blob and name.startswith(blob):
                labels.append(name)
        if blob:
            yield _stored(where, blob, labels)


def _stored(shard: str, name: str, labels: list[str]) -> StoredBlob:
    if labels and (label := parse_label(labels[0])):
        _, kind, size_bytes, put_at, note = label
        return StoredBlob(name, kind, note, size_bytes, put_at, shard, tuple(labels))
    try:
        status = Path(shard, name).stat()
    except OSError:
        return StoredBlob(name, UNKNOWN, "", 0, 0.0, shard, ())
    return StoredBlob(name, UNKNOWN, "", status.st_size, status.st_mtime, shard, ())


def matching(stored: Iterable[StoredBlob], pattern: str) -> list[StoredBlob]:
    """Those that a pattern names: a glob over the note, the name of a distribution, or the digest's start.

    >>> matching([], "numpy")
    []
    """
    wanted = re.sub(r"[-_.]+", "-", pattern.lower())
    digits = re.fullmatch(r"(?:sha256:)?([0-9a-f]{6,})", pattern.lower())
    start = digits[1] if digits else "-"
    spelled = re.compile(translate(pattern)).match
    plain = re.compile(f"{translate(wanted)}|{translate(wanted + '-*')}").match
    apart = re.compile(r"[\s,:]+").split
    separators = re.compile(r"[-_.]+").sub
    found = []
    for blob in stored:
        note = blob.note
        normal = separators("-", note.lower())
        if (
            spelled(note)
            or plain(normal)
            or blob.name.startswith(start)
            or (" " in note and any(spelled(word) or plain(separators("-", word.lower())) for word in apart(note)))
        ):
            found.append(blob)
    return found


def prune(
    folder: Folder,
    *,
    max_size_bytes: int | None = None,
    older_than_seconds: float | None = None,
    now: float | None = None,
) -> Removed:
    """Takes away what is too old and what is too much: what can be made again first, then the least recently
    used. Sweeps up after dead processes. What somebody uses stays, and is counted as such.

    :param now: seconds since the epoch; times after it count as now, so that a clock which once ran ahead
        keeps nothing forever.
    """
    now = time.time() if now is None else now
    removed = sweep(folder, now=now)
    found = [
        (blob.kind not in MADE_AGAIN, min(blob.used_at(), now), blob.size_bytes, blob.path, blob.labels)
        for blob in blobs(folder)
    ]
    found += [(True, min(mtime, now), size, path, ()) for path, size, mtime in _memo_files(folder)]
    found += [
        (True, min(mtime, now), size, path, ())
        for path, size, mtime in _files(folder.root / PARTIAL)
        if path.name not in folder.unfinished
    ]
    total = sum(item[2] for item in found)
    oldest = None if older_than_seconds is None else now - older_than_seconds
    for _, used_at, size_bytes, path, labels in sorted(found, key=lambda item: item[:2]):
        too_old = oldest is not None and used_at < oldest
        too_much = max_size_bytes is not None and total > max_size_bytes
        if not too_old and not too_much:
            continue
        if _remove(folder, path, labels, removed, size_bytes):
            total -= size_bytes
    with contextlib.suppress(OSError):
        new, fd = folder.new_file()
        with os.fdopen(fd, "w") as stream:
            stream.write(f"{total} {int(now)}\n")
        new.replace(folder.root / SIZE)
        folder.discard(new)
    return removed


def grow(folder: Folder, size_bytes: int, *, now: float | None = None) -> int | None:
    """Adds what a run has put to what the folder holds, so that not every run has to count it.

    :returns: how many bytes it holds by that, at least; None where they were not counted in the last day.
    """
    now = time.time() if now is None else now
    path = folder.root / SIZE
    try:
        # Each run adds a line, which is not torn where many do so at once.
        fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(fd, "r+") as stream:
            counted, *added = stream.read(_MAX_USES_BYTES).splitlines()
            total, at = map(int, counted.split())
            if len(added) >= _MAX_RUNS or not at <= now < at + _COUNTED_SECONDS:
                return None
            stream.write(f"{size_bytes}\n")
        return total + sum(map(int, added)) + size_bytes
    except (OSError, ValueError):
        return None


def sweep(folder: Folder, *, now: float | None = None) -> Removed:
    """Takes away what dead processes left: unfinished files, downloads abandoned two weeks ago, and labels
    without a blob."""
    now = time.time() if now is None else now
    removed = Removed()
    for path, size_bytes, _ in _files(folder.root / TEMPORARY):
        if path.name not in folder.unfinished:
            _remove(folder, path, (), removed, size_bytes, counts_use=False)
    for path, size_bytes, mtime in _files(folder.root / PARTIAL):
        if now - mtime > _ABANDONED_SECONDS:
            _remove(folder, path, (), removed, size_bytes, counts_use=False)
    for shard in shards(folder.root / BLOBS):
        try:
            names = [path.name for path in shard.iterdir()]
        except OSError:
            continue
        there = {name for name in names if "." not in name}
        for name in names:
            label = parse_label(name)
            if label and label.name not in there and folder.leases.seize(label.name):
                try:
                    if not (shard / label.name).exists():
                        (shard / name).unlink(missing_ok=True)
                except OSError as error:
                    log.debug("%s stays: %s", shard / name, error)
                finally:
                    folder.leases.release(label.name)
    return removed


def remove(folder: Folder, stored: Iterable[StoredBlob]) -> Removed:
    """Takes away these blobs and the memos that speak of them."""
    removed = Removed()
    gone = set()
    for blob in stored:
        if _remove(folder, blob.path, blob.labels, removed, blob.size_bytes):
            gone.add(blob.name)
    if gone:
        for path, _, _ in _memo_files(folder):
            if _refers(path) & gone:
                with contextlib.suppress(OSError):
                    path.unlink()
    return removed


def purge(folder: Folder) -> Removed:
    """Takes away all but what somebody uses; uv's part too."""
    removed = sweep(folder)
    for blob in list(blobs(folder)):
        _remove(folder, blob.path, blob.labels, removed, blob.size_bytes)
    for path, size_bytes, _ in [*_memo_files(folder), *_files(folder.root / PARTIAL)]:
        _remove(folder, path, (), removed, size_bytes)
    with contextlib.suppress(OSError):
        (folder.root / USES).unlink()
    for parent in [*shards(folder.root / BLOBS), *_memo_folders(folder)]:
        with contextlib.suppress(OSError):
            parent.rmdir()
    for path in uv_folders(folder):
        size_bytes = _tree_bytes(path)
        if _uv("clean", path):
            removed.count += 1
            removed.size_bytes += size_bytes
        else:
            removed.in_use += 1
    return removed


def prune_uv(folder: Folder) -> None:
    """Lets uv prune its own folders."""
    for path in uv_folders(folder):
        _uv("prune", path)


def uv_folders(folder: Folder) -> list[Path]:
    """uv's cache folders in the store's."""
    try:
        return sorted(path for path in (folder.root / UV).iterdir() if path.is_dir())
    except OSError:
        return []


def uv_bytes(folder: Folder, *, limit_seconds: float = 0.3) -> tuple[int, bool]:
    """How much uv's part takes, and whether that is all: counting stops after a while."""
    give_up = time.monotonic() + limit_seconds
    return _tree_bytes(folder.root / UV, give_up=give_up), time.monotonic() <= give_up


def verify(folder: Folder, *, progress: Callable[[StoredBlob], None] | None = None) -> Iterator[Bad]:
    """Reads every blob and memo, drops the bad ones and tells of each."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        stored = list(blobs(folder))
        for blob, good in zip(stored, pool.map(_is_sound, stored), strict=True):
            if progress is not None:
                progress(blob)
            if not good:
                yield Bad(what="blob", name=blob.name, note=blob.note)
    for path, _, _ in _memo_files(folder):
        with contextlib.suppress(OSError):
            checksum, _, body = path.read_bytes().partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != checksum:
                path.unlink()
                yield Bad(what="memo", name=path.name, note=path.parent.parent.name)


def memos(folder: Folder, kind: str) -> Iterator[dict[str, JSON]]:
    """The values of all sound memos of a kind."""
    for shard in shards(folder.root / MEMOS / kind):
        for path, _, _ in _files(shard):
            with contextlib.suppress(OSError, ValueError, RecursionError):
                checksum, _, body = path.read_bytes().partition(b"\n")
                if hashlib.sha256(body).hexdigest().encode() == checksum:
                    value = json.loads(body).get("value")
                    if isinstance(value, dict):
                        yield value


def uses(folder: Folder) -> Uses:
    """The look-ups of all runs so far."""
    hits: dict[str, int] = {}
    misses: dict[str, int] = {}
    try:
        with (folder.root / USES).open(encoding="ascii", errors="replace") as stream:
            lines = stream.read(16 * _MAX_USES_BYTES).splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            hits[fields[0]] = hits.get(fields[0], 0) + int(fields[1])
            misses[fields[0]] = misses.get(fields[0], 0) + int(fields[2])
    return Uses(hits=hits, misses=misses)


def add_uses(folder: Folder, hits: dict[str, int], misses: dict[str, int]) -> None:
    """Adds the look-ups of a run. Of lines that many runs add at once, none is torn; some may be lost when
    the file is summed up."""
    kinds = sorted({*hits, *misses})
    text = "".join(f"{kind} {hits.get(kind, 0)} {misses.get(kind, 0)}\n" for kind in kinds)
    path = folder.root / USES
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            os.write(fd, text.encode())
            large = os.fstat(fd).st_size > _MAX_USES_BYTES
        finally:
            os.close(fd)
        if large:
            total = uses(folder)
            new, fd = folder.new_file()
            with os.fdopen(fd, "w") as stream:
                stream.writelines(f"{kind} {total.hits[kind]} {total.misses[kind]}\n" for kind in sorted(total.hits))
            new.replace(path)
            folder.discard(new)


def _files(parent: Path) -> list[tuple[Path, int, float]]:
    found = []
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((parent / entry.name, status.st_size, status.st_mtime))
    except OSError:
        return []
    return found


def _memo_folders(folder: Folder) -> Iterator[Path]:
    try:
        kinds = sorted((folder.root / MEMOS).iterdir())
    except OSError:
        return
    for kind in kinds:
        yield from shards(kind)


def _memo_files(folder: Folder) -> Iterator[tuple[Path, int, float]]:
    for shard in _memo_folders(folder):
        yield from _files(shard)


def _refers(memo: Path) -> set[str]:
    try:
        value = json.loads(memo.read_bytes().partition(b"\n")[2])
        return {str(text).partition(":")[2] for text in value["refers"]}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return set()


def _lease_name(path: Path) -> str:
    if path.parent.name == PARTIAL:
        return partial_name(path.name)
    return path.name


def partial_name(name: str) -> str:
    """The lease of an unfinished download: not the blob's own, for these are two things."""
    return hashlib.sha256(b"partial:" + name.encode()).hexdigest()


def _remove(
    folder: Folder,
    path: Path,
    labels: Collection[str],
    removed: Removed,
    size_bytes: int,
    *,
    counts_use: bool = True,
) -> bool:
    name = _lease_name(path)
    try:
        seized = folder.leases.seize(name)
    except ValueError:
        seized = True  # no name that wain gives: litter
    if not seized and not _long_unused(folder, path):
        removed.in_use += counts_use
        return False
    try:
        path.unlink()
        for label in labels:
            path.with_name(label).unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s stays: %s", path, error)
        return False
    finally:
        if seized:
            with contextlib.suppress(ValueError):
                folder.leases.release(name)
    removed.count += 1
    removed.size_bytes += size_bytes
    return True


def _long_unused(folder: Folder, path: Path) -> bool:
    """Without locks, only what nobody touched for a day is taken to be free."""
    if folder.leases.working:
        return False
    try:
        return time.time() - path.stat().st_mtime > 86400
    except OSError:
        return False


def _is_sound(blob: StoredBlob) -> bool:
    algorithm = "sha256" if len(blob.name) == 64 else "sha512"
    try:
        with blob.path.open("rb") as stream:
            found = hashlib.new(algorithm)
            while chunk := stream.read(_CHUNK_BYTES):
                found.update(chunk)
            if found.hexdigest() == blob.name:
                return True
            # Somebody may have put a sound one in its place meanwhile.
            here, there = os.fstat(stream.fileno()), blob.path.stat()
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                # Its labels stay: whoever puts it again at this moment has found them.
                blob.path.unlink()
        return False
    except FileNotFoundError:
        return True
    except OSError as error:
        log.debug("%s: %s", blob.path, error)
        return False


def _tree_bytes(root: Path, *, give_up: float | None = None) -> int:
    total = 0
    waiting = [root]
    while waiting and (give_up is None or time.monotonic() <= give_up):
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                        else:
                            total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def _uv(verb: str, path: Path) -> bool:
    import subprocess

    from uv import find_uv_bin

    try:
        done = subprocess.run(
            [find_uv_bin(), "cache", verb, "--quiet", "--cache-dir", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("uv did not %s its cache folder %s: %s", verb, path, error)
        return False
    if done.returncode:
        log.warning("uv did not %s its cache folder %s: %s", verb, path, done.stderr.decode(errors="replace"))
    return done.returncode == 0
