"""What every fuzzer of files shares: bytes made wrong, and what must hold whatever is read."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from wain.errors import WainError

SECONDS_PER_INPUT = 20
"""Far more than any input here needs, on a busy machine too."""
RESIDENT_BYTES = 600 << 20
"""More than reading any input may take; inputs are a few megabytes."""
_TRUNCATION_BYTES = 4096

Input = tuple[str, bytes]
"""How it was made, and it."""


def cuts(data: bytes, borders: Sequence[bytes]) -> Iterator[Input]:
    """The data cut off at every 4 KiB, at both sides of its structures' beginnings, and near its end."""
    places = {*range(0, len(data), _TRUNCATION_BYTES), *range(max(0, len(data) - 40), len(data))}
    for border in borders:
        place = data.find(border)
        while place >= 0:
            places |= {place - 1, place, place + 1, place + len(border), place + 30}
            place = data.find(border, place + 1)
    for place in sorted(places):
        if 0 <= place < len(data):
            yield f"cut at {place}", data[:place]


def damaged(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Some bits flipped, numbers made extreme, parts cut out, doubled, exchanged or taken from another input."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(found)) if found else 0
        length = chance.choice((1, 2, 4, 8, 60, 512, 4096))
        match chance.randrange(8):
            case 0 | 1 if found:
                found[at] ^= 1 << chance.randrange(8)
            case 2:
                found[at : at + 4] = chance.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"9999", b"7777", b"/../")
                )
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length]
            case 5:
                to = chance.randrange(len(found)) if found else 0
                found[at : at + length], found[to : to + length] = found[to : to + length], found[at : at + length]
            case 6:
                other = chance.choice(others)
                start = chance.randrange(len(other))
                found[at : at + length] = other[start : start + length]
            case _:
                if chance.random() < 0.2:
                    del found[at:]
    return bytes(found)


class Watch:
    """A folder to work in, and what must hold of every input that is tried there.

    :param attempt: reads the input in a folder that is empty and its own.
    """

    def __init__(self, attempt: Callable[[bytes, Path], None]) -> None:
        self._attempt = attempt
        self._top = Path(tempfile.mkdtemp(prefix="wain-soak-"))
        self._canary = self._top / "canary"
        self._canary.mkdir()
        (self._canary / "file").write_bytes(b"it sings")
        self._before = _seen(self._top)
        self.count = self.refused = 0

    def __enter__(self) -> Watch:
        logging.getLogger("wain").setLevel(logging.CRITICAL)
        warnings.simplefilter("error")
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._top)

    def attempt(self, how: str, data: bytes) -> None:
        """Tries one input: it is read, or refused by an error with a hint, in bounded time and memory, and nothing
        is written outside. What fails is kept in a file that is named."""
        self.count += 1
        folder = self._top / "inside"
        folder.mkdir()
        try:
            with _time_limit():
                try:
                    self._attempt(data, folder)
                except WainError as error:
                    self.refused += 1
                    assert type(error) is not WainError, "an error of no kind"
                    assert error.hint, "an error without a hint"
                    assert len(str(error)) < 5000, "an error of many pages"
            assert resident_bytes() < RESIDENT_BYTES, f"{resident_bytes()} bytes of memory are in use"
            shutil.rmtree(folder)
            assert _seen(self._top) == self._before, "something was written outside of its folder"
        except BaseException:
            kept = Path(tempfile.gettempdir()) / f"wain-soak-input-{os.getpid()}"
            kept.write_bytes(data)
            print(f"{how}: the input is kept in {kept}", flush=True)
            raise


def fuzz(
    attempt: Callable[[bytes, Path], None],
    inputs: Sequence[bytes],
    seconds: float,
    *,
    borders: Sequence[bytes],
    make: Callable[[random.Random], bytes],
    seed: int = 1,
) -> None:
    """Every cut of the inputs, then damaged ones and ones that `make` makes until the time is over."""
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + seconds
    with Watch(attempt) as watch:
        for data in inputs:
            watch.attempt("as it is", data)
        assert watch.refused == 0, "an honest input was refused"
        every_cut = [cut for data in inputs for cut in cuts(data, borders)]
        random.Random(seed).shuffle(every_cut)
        half = time.monotonic() + seconds / 2
        for how, data in every_cut:
            watch.attempt(how, data)
            if time.monotonic() > half:
                break
        number = 0
        while time.monotonic() < end:
            number += 1
            chance = random.Random(f"{seed} {number}")
            data = make(chance) if number % 2 else damaged(chance.choice(inputs), inputs, chance)
            watch.attempt(f"seed {seed}, number {number}", data)
        print(f"{watch.count} inputs, {watch.refused} of them refused", flush=True)


def resident_bytes() -> int:
    """Anonymous memory of this process; files that are mapped do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _seen(top: Path) -> Mapping[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(top)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(top.rglob("*"))
    }


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"took more than {SECONDS_PER_INPUT} s")

    before = signal.signal(signal.SIGALRM, too_long)
    began = os.times()
    signal.alarm(SECONDS_PER_INPUT * 6)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    ended = os.times()
    used = ended.user + ended.system - began.user - began.system
    assert used < SECONDS_PER_INPUT, f"took {used:.0f} s of a processor"
