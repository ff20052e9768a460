"""What a command tells while it works, all of it on standard error: standard output is the result's."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Sequence

_REDRAW_SECONDS = 0.1
_SLOW_SECONDS = 1.0
_NAME_LENGTH = 120


def human_size(size_bytes: int | float) -> str:
    """Bytes with a decimal unit, three digits at most.

    >>> human_size(191_700_000)
    '192 MB'
    """
    size = float(size_bytes)
    if abs(size) < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if abs(size) < 999.5 or unit == "TB":
            break
    return f"{size:.{0 if abs(size) >= 99.95 else 1}f} {unit}"


def printable(text: str) -> str:
    """The text with what would steer a terminal written out: names come from files that others wrote.

    >>> printable("a\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text)


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows as columns, the first row as the heading; `right` names columns that are aligned right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Console:
    """Messages and progress in the way that `--progress`, `-q` and the terminal ask for.

    `progress` (of what is fetched) and `sending` may be called from any thread. In mode `auto` what took less than a
    second has no line of its own: one line counts them. `plain` names each.
    """

    def __init__(self, *, mode: str = "auto", quiet: bool = False) -> None:
        self._counts = mode == "auto"
        self._counted: dict[str, tuple[int, int]] = {}
        if mode == "auto":
            mode = "tty" if sys.stderr.isatty() else "plain"
        self.mode = "none" if quiet and mode != "json" else mode
        self.quiet = quiet
        self._lock = threading.Lock()
        self._active: dict[str, tuple[int, int | None, float]] = {}
        self._drawn = 0
        self._drawn_at = 0.0

    def say(self, text: str) -> None:
        """A line for the user, kept when progress is redrawn; nothing with `-q`."""
        if not self.quiet:
            with self._lock:
                self._tell_counted()
                self._write(text)

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """How far a download has come; it is finished when the two numbers are equal."""
        self._told(what, done_bytes, total_bytes, "file fetched")

    def sending(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """How far a blob has come on its way to where an image goes."""
        self._told(what, done_bytes, total_bytes, "blob written")

    def _told(self, what: str, done_bytes: int, total_bytes: int | None, counted: str) -> None:
        if self.mode == "none":
            return
        now = time.monotonic()
        with self._lock:
            started = self._active.get(what, (0, None, now))[2]
            finished = total_bytes is not None and done_bytes >= total_bytes
            if finished:
                self._active.pop(what, None)
                if self.mode == "json":
                    self._json(what, done_bytes, total_bytes)
                elif self._counts and now - started < _SLOW_SECONDS:
                    count, size_bytes = self._counted.get(counted, (0, 0))
                    self._counted[counted] = count + 1, size_bytes + done_bytes
                else:
                    rate = f", {human_size(done_bytes / (now - started))}/s" if now - started > 0.5 else ""
                    name = what if len(what) <= _NAME_LENGTH else f"{what[: _NAME_LENGTH - 1]}…"
                    self._write(f"{name} ({human_size(done_bytes)}{rate})")
                return
            self._active[what] = (done_bytes, total_bytes, started)
            if now - self._drawn_at < _REDRAW_SECONDS:
                return
            self._drawn_at = now
            if self.mode == "json":
                self._json(what, done_bytes, total_bytes)
            elif self.mode == "tty":
                self._redraw()

    def _json(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        print(json.dumps({"what": what, "done": done_bytes, "total": total_bytes}), file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        self._erase()
        print(printable(text), file=sys.stderr, flush=True)
        if self.mode == "tty":
            self._redraw()

    def _tell_counted(self) -> None:
        for what, (count, size_bytes) in self._counted.items():
            words = what if count == 1 else what.replace(" ", "s ", 1)
            self._write(f"{count} {words} ({human_size(size_bytes)})")
        self._counted.clear()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _redraw(self) -> None:
        self._erase()
        size = shutil.get_terminal_size()
        shown = list(self._active.items())[: max(size.lines - 2, 1)]
        for what, (done, total, _) in shown:
            if total:
                filled = int(20 * done / total)
                bar = "#" * filled + "." * (20 - filled)
                line = f"  [{bar}] {human_size(done)} of {human_size(total)}  {what}"
            else:
                line = f"  {human_size(done)}  {what}"
            sys.stderr.write(printable(line)[: size.columns - 1] + "\n")
        sys.stderr.flush()
        self._drawn = len(shown)

    def close(self) -> None:
        """Take the progress lines away."""
        with self._lock:
            self._active.clear()
            self._tell_counted()
            self._erase()
            sys.stderr.flush()


class ConsoleHandler(logging.Handler):
    """Log records as lines of the console: warnings always but each only once, the rest as `-v` says."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        if record.levelno > logging.WARNING:
            prefix = "error: "
        try:
            text = record.getMessage()
            if record.levelno == logging.WARNING:
                if text in self._warned:
                    return
                self._warned.add(text)
            self.console.say(prefix + text)
        except (OSError, ValueError):
            self.handleError(record)
