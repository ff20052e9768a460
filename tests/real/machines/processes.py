"""Programs that run beside a test: started, waited for within bounds, and always ended by their own id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.places import environment, require_tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a program that ran to its end gave."""

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Standard output and standard error, one after the other."""
        return self.stdout + self.stderr

    def check(self) -> Finished:
        """Itself.

        :raises AssertionError: when the exit code is not 0; it shows the command and the end of its output
        """
        if self.code != 0:
            raise AssertionError(
                f"{' '.join(self.command)} ended with {self.code}\n{self.stdout[-4000:]}\n{self.stderr[-8000:]}"
            )
        return self


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout_seconds: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: Path | str | None = None,
    check: bool = True,
) -> Finished:
    """Run `command` to its end. `env` is added to the environment; `stdin` is a file's path or a text.

    :raises AssertionError: when it fails, unless `check` is false, and when it takes longer than `timeout_seconds`
    """
    words = tuple(os.fspath(word) for word in command)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(stdin, "rb")) if isinstance(stdin, Path) else None
        text = stdin.encode() if isinstance(stdin, str) else None
        process = subprocess.Popen(
            words,
            env={**environment(), **(env or {})},
            cwd=cwd,
            stdin=subprocess.PIPE if text is not None else (source or subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        late = False
        try:
            stdout, stderr = process.communicate(text, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            # Also when a test is interrupted. The group is this call's own, a new session: nothing else is hit.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if late:
            stdout, stderr = process.communicate()
            told = (stdout + stderr).decode(errors="replace")[-8000:]
            raise AssertionError(f"{' '.join(words)} took over {timeout_seconds} s\n{told}")
    finished = Finished(
        command=words,
        code=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )
    return finished.check() if check else finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A program that runs now, and the file its output goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-6000:]

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
        """Return as soon as `ready()` holds.

        :raises AssertionError: when the program ends before, or time is up; it shows the end of its output
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.process.args!r} ended with {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.process.args!r} is not ready in {timeout_seconds} s\n{self.tail()}")
            time.sleep(0.05)


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stop_seconds: float = 15,
) -> Iterator[Running]:
    """Start `command`, and end it on the way out: politely, then after `stop_seconds` by force.

    The kernel also ends it if this process dies without getting there. Must be called from the main thread: that
    promise is tied to the thread that starts the program.
    """
    words = [os.fspath(require_tool("setpriv")), "--pdeathsig", "KILL", *(os.fspath(word) for word in command)]
    with open(log, "ab") as output:
        process = subprocess.Popen(
            words,
            env={**environment(), **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(process=process, log=log)
    finally:
        end(process, stop_seconds=stop_seconds)


def end(process: subprocess.Popen[bytes], *, stop_seconds: float = 15) -> None:
    """End `process` politely, and by force after `stop_seconds`; it is gone when this returns."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
