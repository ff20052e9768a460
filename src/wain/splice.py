"""The splice: a layer's tar and its gzip at once, of compressed bytes that are there already.

A gzip file may be a series of members. Small files share members that the pinned compressor makes; a large file of
a wheel keeps its DEFLATE stream as it stands in the wheel, between a gzip header and a trailer. What comes out is a
function of what goes in: threads work ahead, one assembles in order.

Sources: RFC 1952, section 2.2; OCI image specification, layer.md.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from wain import gzips
from wain.digest import Digest
from wain.errors import WheelError
from wain.install import PlannedFile, row_digest
from wain.ustar import END, padding
from wain.wheels import Wheel
from wain.zips import DEFLATED, STORED, Inflation, Member

if TYPE_CHECKING:
    from typing_extensions import Buffer

SMALL_BYTES = 1 << 16
"""A file below this size shares a gzip member with its neighbours."""
SHARED_BYTES = 4 << 20
"""A shared gzip member ends with the file that brings its tar to this."""
WINDOW_BYTES = 48 << 20
"""How much of the tar may be ready before its turn."""
KEEP_RATIO = 0.94
"""A wheel's streams are kept unless the compressor makes less than this of a sample of them."""
SAMPLE_BYTES = 1 << 19
SAMPLED_SIZES = (1 << 10, 1 << 18)

_BATCH_BYTES = 1 << 20
_HEAD_BATCHES = 4
_WRITE_BYTES = 4 << 20


class Spliced(Struct, frozen=True, kw_only=True):
    """What came out."""

    digest: Digest
    diff_id: Digest
    size_bytes: int
    wrong_rows: dict[tuple[str, str], str] = field(default_factory=dict)
    """(wheel's name, member's path) -> hash, of the members whose hash is not the one that the plan has."""


class Hash(Protocol):
    """What hashlib makes."""

    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class Emit(Protocol):
    """Where a part puts what it makes, in order."""

    def tar(self, data: Sequence[bytes], digest: Hash | None = None) -> None:
        """Bytes of the tar; `digest` takes them too."""

    def blob(self, *data: Buffer) -> None:
        """Bytes of the layer."""

    def row(self, file: PlannedFile, digest: Hash) -> None:
        """A member's digest, as it is when it has taken all that was put before; it is compared with the plan's."""


class Part(Protocol):
    """A run of the tar, and of the layer."""

    def run(self, emit: Emit) -> None: ...


class Shared:
    """Headers and small files that make one gzip member; also any bytes of a tar.

    :param pieces: bytes of the tar, or files whose bytes and padding stand there.
    """

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[bytes | PlannedFile]) -> None:
        self._pieces = pieces

    def run(self, emit: Emit) -> None:
        import deflate

        inflate, crc32, sha256 = deflate.deflate_decompress, deflate.crc32, hashlib.sha256
        error_type: type[Exception] = deflate.DeflateError
        parts: list[Buffer] = []
        for piece in self._pieces:
            if isinstance(piece, bytes):
                parts.append(piece)
                continue
            _, _, size_bytes, wheel, member, data, digest = piece
            if member is not None:
                raw = wheel.data[member.offset : member.offset + member.compressed_bytes]
                found: Buffer
                if member.method == DEFLATED and size_bytes:
                    try:
                        found = inflate(raw, size_bytes)
                    except error_type:
                        found = b""
                else:
                    found = bytes(raw)
                if len(found) != size_bytes or crc32(found) != member.crc:
                    # Either it is damaged, and this says how, or it goes on behind its end, and this cuts it.
                    found = b"".join(wheel.chunks(member))
                hashed = sha256(found)
                if row_digest(hashed.digest()) != digest:
                    emit.row(piece, hashed)
                parts.append(found)
            elif data is not None:
                parts.append(data)
            if rest := padding(size_bytes):
                parts.append(bytes(rest))
        tar = b"".join(parts)
        emit.tar([tar])
        emit.blob(gzips.gzip_member(tar))


class Large:
    """A large member of a wheel: its DEFLATE stream as it stands, where that is right and good enough."""

    __slots__ = ("_file", "_quality")

    def __init__(self, file: PlannedFile, quality: Quality) -> None:
        self._file = file
        self._quality = quality

    def run(self, emit: Emit) -> None:
        file, wheel = self._file, self._file.wheel
        member = file.member
        assert member is not None
        inflation = Inflation(wheel.data, member, wheel.wrong)
        batch: list[bytes] = []
        batch_bytes = 0
        digest = hashlib.sha256()
        for chunk in inflation.chunks():
            batch.append(chunk)
            batch_bytes += len(chunk)
            if batch_bytes >= _BATCH_BYTES:
                emit.tar(batch, digest)
                batch, batch_bytes = [], 0
        if batch:
            emit.tar(batch, digest)
        emit.row(file, digest)
        if inflation.exact and self._quality.is_good(member):
            emit.blob(gzips.HEADER, wheel.raw(member), gzips.trailer(member.crc, member.size_bytes))
        else:
            for piece in _pieces(inflation.chunks()):
                emit.blob(gzips.gzip_member(piece))


class Made:
    """Large bytes that no wheel has compressed: members of `SHARED_BYTES` of them.

    :param chunks: gives the bytes, exactly `size_bytes` of them.
    """

    __slots__ = ("_chunks", "_short", "_size_bytes")

    def __init__(self, chunks: Callable[[], Iterator[bytes]], size_bytes: int, short: Callable[[], Exception]) -> None:
        self._chunks = chunks
        self._size_bytes = size_bytes
        self._short = short

    def run(self, emit: Emit) -> None:
        left = self._size_bytes
        for piece in _pieces(self._chunks()):
            left -= len(piece)
            if left < 0:
                break
            emit.tar([piece])
            emit.blob(gzips.gzip_member(piece))
        if left:
            raise self._short()


class Quality:
    """Whether a wheel's own compression is worth keeping: what the pinned compressor makes of a sample of it.

    One tool made the whole wheel, so members of moderate size, compressed once more each by itself, tell of the
    others. Which are taken depends on the wheel alone.
    """

    __slots__ = ("_lock", "_verdict", "_wheel")

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._lock = threading.Lock()
        self._verdict: bool | None = None

    def is_good(self, member: Member) -> bool:
        """Whether the member's stream, if it is right, may be copied."""
        if member.method == STORED:
            return False
        with self._lock:
            if self._verdict is None:
                self._verdict = self._measure()
            return self._verdict

    def _measure(self) -> bool:
        low, high = SAMPLED_SIZES
        fitting = [m for m in self._wheel.members if m.method == DEFLATED and low <= m.size_bytes <= high]
        fitting.sort(key=lambda member: (member.crc, member.path))
        own_bytes = our_bytes = sampled_bytes = 0
        for member in fitting:
            if sampled_bytes + member.size_bytes > SAMPLE_BYTES:
                continue
            try:
                data = self._wheel.read(member)
            except WheelError:
                continue  # Whoever installs it tells.
            sampled_bytes += len(data)
            own_bytes += member.compressed_bytes
            our_bytes += len(gzips.deflate(data))
        return our_bytes >= KEEP_RATIO * own_bytes


def parts_of(files: Iterable[tuple[bytes, PlannedFile]], before: Sequence[bytes]) -> Iterator[Part]:
    """The parts that a plan's files make, with the tar's end.

    :param files: each with its header; by path.
    :param before: headers of folders.
    """
    pieces: list[bytes | PlannedFile] = list(before)
    size_bytes = sum(map(len, before))
    large: list[tuple[bytes, PlannedFile]] = []
    for head, file in files:
        if file.size_bytes >= SMALL_BYTES:
            large.append((head, file))
            continue
        pieces += (head, file)
        size_bytes += len(head) + file.size_bytes + padding(file.size_bytes)
        if size_bytes >= SHARED_BYTES:
            yield Shared(pieces)
            pieces, size_bytes = [], 0
    qualities: dict[str, Quality] = {}
    for head, file in large:
        yield Shared([*pieces, head])
        yield _large_part(file, qualities.setdefault(file.wheel.name, Quality(file.wheel)))
        pieces = [bytes(padding(file.size_bytes))]
    yield Shared([*pieces, END])


def _large_part(file: PlannedFile, quality: Quality) -> Part:
    if file.member is not None:
        return Large(file, quality)
    data = file.data or b""
    return Made(lambda: iter([data]), len(data), lambda: AssertionError("bytes have changed"))


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `SHARED_BYTES`."""
    held: list[bytes] = []
    held_bytes = 0
    for chunk in chunks:
        rest = chunk
        while held_bytes + len(rest) >= SHARED_BYTES:
            cut = SHARED_BYTES - held_bytes
            yield b"".join((*held, rest[:cut]))
            held, held_bytes, rest = [], 0, rest[cut:]
        if rest:
            held.append(rest)
            held_bytes += len(rest)
    if held:
        yield b"".join(held)


def assemble(parts: Iterable[Part], write: Callable[[Buffer], object], *, threads: int | None = None) -> Spliced:
    """Runs the parts, and writes the layer in their order.

    :param write: takes the layer's bytes, from one other thread.
    :param threads: how many work ahead; the outcome is the same for any number.
    :raises: what the first part that fails raises, or `write`.
    """
    return _Assembly(parts, write, threads or min(os.cpu_count() or 1, 8)).run()


class _Item(Struct, frozen=True, kw_only=True):
    tar: Sequence[bytes] = ()
    blob: Sequence[Buffer] = ()
    digest: Hash | None = None
    file: PlannedFile | None = None


class _Queue:
    """What one part has put out and nobody has taken."""

    __slots__ = ("done", "error", "items", "tar_bytes")

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self.tar_bytes = 0
        self.done = False
        self.error: BaseException | None = None


class _Stopped(Exception):
    """Nobody waits for this any more."""


class _Assembly:
    """Workers take parts in order; each has a queue of its own; one thread takes from the queues in order.

    A worker waits while `WINDOW_BYTES` of the tar are ready, unless the part that it works on is the one
    whose turn it is: so there is always one that goes on.
    """

    def __init__(self, parts: Iterable[Part], write: Callable[[Buffer], object], threads: int) -> None:
        self._parts = iter(parts)
        self._write = write
        self._threads = max(1, threads)
        self._queues: dict[int, _Queue] = {}
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._ready = threading.Condition(self._lock)
        self._count = 0
        self._is_last = False
        self._turn = 0
        self._ready_bytes = 0
        self._stopped = False

    def run(self) -> Spliced:
        writer = _Writer(self._write)
        workers = [threading.Thread(target=self._work, name=f"splice-{n}", daemon=True) for n in range(self._threads)]
        tar = hashlib.sha256()
        wrong: dict[tuple[str, str], str] = {}
        writer.start()
        for worker in workers:
            worker.start()
        try:
            for number in itertools.count():
                queue = self._turn_of(number)
                if queue is None:
                    break
                for item in self._take(queue):
                    for data in item.tar:
                        tar.update(data)
                        if item.digest is not None:
                            # Here and not where it was inflated: a very large member keeps one worker busy alone.
                            item.digest.update(data)
                    if item.blob:
                        writer.put(item.blob)
                    if item.file is not None and item.file.member is not None and item.digest is not None:
                        found = row_digest(item.digest.digest())
                        if found != item.file.digest:
                            wrong[item.file.wheel.name, item.file.member.path] = found
            digest, size_bytes = writer.finish()
        finally:
            with self._lock:
                self._stopped = True
                self._room.notify_all()
            writer.stop()
            for worker in workers:
                worker.join()
        return Spliced(
            digest=digest,
            diff_id=Digest("sha256:" + tar.hexdigest()),
            size_bytes=size_bytes,
            wrong_rows=wrong,
        )

    def _turn_of(self, number: int) -> _Queue | None:
        """The queue whose turn it is, when somebody works on it; None behind the last."""
        with self._lock:
            self._queues.pop(number - 1, None)
            self._turn = number
            self._room.notify_all()
            while number >= self._count and not self._is_last:
                self._ready.wait()
            return self._queues.get(number)

    def _take(self, queue: _Queue) -> Iterator[_Item]:
        while True:
            with self._lock:
                while not queue.items and not queue.done:
                    self._ready.wait()
                items, queue.items = queue.items, deque()
                self._ready_bytes -= queue.tar_bytes
                queue.tar_bytes = 0
                done, error = queue.done, queue.error
                self._room.notify_all()
            yield from items
            if error is not None:
                raise error
            if done:
                return

    def _next_part(self) -> tuple[int, _Queue, Part] | None:
        with self._lock:
            if self._stopped or self._is_last:
                return None
            queue = _Queue()
            try:
                part = next(self._parts)
            except StopIteration:
                self._is_last = True
                self._ready.notify()
                return None
            except BaseException as error:
                self._is_last = True
                queue.error, queue.done = error, True
                part = None
            number = self._count
            self._queues[number] = queue
            self._count += 1
            self._ready.notify()
            return None if part is None else (number, queue, part)

    def _work(self) -> None:
        while (taken := self._next_part()) is not None:
            number, queue, part = taken
            error: BaseException | None = None
            try:
                part.run(_Emitter(self, number, queue))
            except _Stopped:
                return
            except BaseException as raised:
                error = raised
            with self._lock:
                queue.error = error
                queue.done = True
                if number == self._turn:
                    self._ready.notify()

    def put(self, number: int, queue: _Queue, item: _Item, tar_bytes: int) -> None:
        with self._lock:
            while not self._stopped and self._is_full(number, queue):
                self._room.wait()
            if self._stopped:
                raise _Stopped
            queue.items.append(item)
            queue.tar_bytes += tar_bytes
            self._ready_bytes += tar_bytes
            if number == self._turn:
                self._ready.notify()

    def _is_full(self, number: int, queue: _Queue) -> bool:
        if number == self._turn:
            return queue.tar_bytes >= _HEAD_BATCHES * _BATCH_BYTES and self._ready_bytes >= WINDOW_BYTES
        return self._ready_bytes >= WINDOW_BYTES


class _Emitter:
    __slots__ = ("_assembly", "_number", "_queue")

    def __init__(self, assembly: _Assembly, number: int, queue: _Queue) -> None:
        self._assembly = assembly
        self._number = number
        self._queue = queue

    def tar(self, data: Sequence[bytes], digest: Hash | None = None) -> None:
        self._assembly.put(self._number, self._queue, _Item(tar=data, digest=digest), sum(map(len, data)))

    def blob(self, *data: Buffer) -> None:
        self._assembly.put(self._number, self._queue, _Item(blob=data), 0)

    def row(self, file: PlannedFile, digest: Hash) -> None:
        self._assembly.put(self._number, self._queue, _Item(file=file, digest=digest), 0)


class _Writer:
    """Hashes and writes the layer in a thread of its own; holds few bytes back."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._sink = write
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._items: deque[Sequence[Buffer] | None] = deque()
        self._changed = threading.Condition()
        self._held_bytes = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="splice-write", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, data: Sequence[Buffer]) -> None:
        size_bytes = sum(len(piece) for piece in data if isinstance(piece, bytes))
        with self._changed:
            while self._held_bytes >= WINDOW_BYTES // 2 and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            self._items.append(data)
            self._held_bytes += size_bytes
            self._changed.notify_all()

    def finish(self) -> tuple[Digest, int]:
        """Digest and size of all that was put, when it is written."""
        with self._changed:
            self._items.append(None)
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return Digest("sha256:" + self._hash.hexdigest()), self._size_bytes

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._items and not self._stopped:
                        self._changed.wait()
                    if self._stopped or (data := self._items.popleft()) is None:
                        return
                    self._held_bytes -= sum(len(piece) for piece in data if isinstance(piece, bytes))
                    self._changed.notify_all()
                for piece in data:
                    view = memoryview(piece)
                    for start in range(0, len(view), _WRITE_BYTES):
                        part = view[start : start + _WRITE_BYTES]
                        self._hash.update(part)
                        self._sink(part)
                        self._size_bytes += len(part)
                    view.release()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()


class Verification:
    """Compares wheels' bytes with their digests, in a thread of its own."""

    def __init__(self, wheels: Sequence[Wheel]) -> None:
        self._wheels = wheels
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="verify", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for wheel in self._wheels:
                wheel.verify()
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        """:raises HashMismatch: when a wheel's bytes are not its digest's."""
        self._thread.join()
        if self._error is not None:
            raise self._error
