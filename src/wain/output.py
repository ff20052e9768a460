"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wain.errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes `path`'s place when the block ends well; else nothing is left of it.

    Folders above are made where they are missing. What stands at `path` and is no regular file (a pipe, a device)
    is written to as it is.

    :raises OutputError: when it cannot be written (disk full, no permission).
    """
    made: list[Path] = []
    temporary: Path | None = None
    try:
        with _told(path):
            special = _is_special(path)
            if not special:
                target = Path(os.path.realpath(path))
                made = _make_folders(target.parent)
                temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.part")
            flags = os.O_WRONLY | os.O_CLOEXEC | (0 if special else os.O_CREAT | os.O_EXCL)
            file = os.fdopen(os.open(temporary or path, flags, 0o666), "wb")
        try:
            with _told(path):
                yield file
                file.flush()
        finally:
            with _told(path):
                file.close()
        if temporary is not None:
            with _told(path):
                temporary.replace(target)
                temporary, made = None, []
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what the system says of writing the file into `OutputError`; errors of reading pass."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error for a destination that the system refuses."""
    return OutputError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="Make room there, or name a destination that can be written.",
    )


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder", hint="Name a file.")
    return not stat.S_ISREG(mode)


def _make_folders(folder: Path) -> list[Path]:
    """The folders that had to be made, the topmost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made = []
    for item in reversed(missing):
        item.mkdir(exist_ok=True)
        made.append(item)
    return made
