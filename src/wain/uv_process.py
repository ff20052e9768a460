"""Runs uv as a process: its program, a clean environment, and its output without secrets."""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING, ClassVar

from wain.errors import EngineError
from wain.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_USERINFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@'\"`>]*@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*://[^\s?#'\"`>]+)\?[^\s#'\"`>]+", re.IGNORECASE)
_MAX_OUTPUT_BYTES = 64 << 20
# The first look at sysconfig is not safe for threads.
_finding = threading.Lock()


class UvResult(Record, frozen=True, kw_only=True):
    """What uv answered; `errors` is fit for people, without credentials."""

    unshown: ClassVar = ("output",)

    exit_code: int
    output: str
    errors: str


def redact_text(text: str) -> str:
    """A text whose URLs have lost user, password and query."""
    return _QUERY.sub(r"\1?...", _USERINFO.sub(r"\1", text))


def find_uv() -> str:
    """The path of uv's program.

    :raises EngineError: when it is not installed.
    """
    with _finding:
        return _find_uv()


@functools.cache
def _find_uv() -> str:
    import uv

    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise EngineError(
            "uv's program is not installed beside wain", hint="Install wain again, with its dependencies."
        ) from error


def uv_environment(environ: Mapping[str, str] | None = None, *, own_configuration: bool) -> dict[str, str]:
    """The environment to run uv in: quiet, without downloads of interpreters.

    :param own_configuration: keep the user's UV_* variables and let uv read its configuration files.
    """
    environ = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in environ.items()
        if own_configuration or not name.startswith("UV_") or name in ("UV_OFFLINE", "UV_SYSTEM_CERTS")
    }
    for name in ("UV_PYTHON", "UV_CACHE_DIR", "UV_CUSTOM_COMPILE_COMMAND", "RUST_LOG", "RUST_BACKTRACE"):
        kept.pop(name, None)
    kept.update({"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"})
    if not own_configuration:
        kept["UV_NO_CONFIG"] = "1"
    return kept


def run_uv(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path | None = None,
    given: str = "",
    timeout_seconds: float = 1800,
    stop: threading.Event | None = None,
) -> UvResult:
    """Runs uv to its end. No argument may hold a secret: those go into `environ`.

    :param given: its standard input.
    :param stop: ends it when it is set.
    :raises EngineError: when it is missing, does not start or does not end.
    """
    program = find_uv()
    logger.debug("uv %s", redact_text(" ".join(arguments)))
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            cwd=folder,
        )
    except OSError as error:
        raise EngineError(f"uv does not start: {error.strerror}", hint="Install wain again.") from error
    deadline = time.monotonic() + timeout_seconds
    pending: bytes | None = given.encode()
    try:
        while True:
            try:
                output, errors = process.communicate(pending, timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                pending = None
            if stop is not None and stop.is_set():
                raise EngineError("uv was stopped", hint="Another run of it failed or was interrupted.")
            if time.monotonic() > deadline:
                raise EngineError(
                    f"uv did not finish within {timeout_seconds:.0f} s",
                    hint="Look whether the package index answers, and run it again.",
                )
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if len(output) > _MAX_OUTPUT_BYTES:
        raise EngineError("uv's answer is larger than 64 MiB", hint="Lock fewer packages at once.")
    text = redact_text(errors.decode("utf-8", "replace"))
    for line in text.splitlines():
        logger.debug("uv: %s", line)
    return UvResult(exit_code=process.returncode, output=output.decode("utf-8", "replace"), errors=text)
