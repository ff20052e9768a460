"""Where the real tests keep things, and what they do where a program is missing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Debian's folders come first: another `docker` may stand before Debian's on PATH and lack what Debian's has.
_DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_PACKAGES = {
    "htpasswd": "apache2-utils",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "strace": "strace",
    "qemu-aarch64-static": "qemu-user-static",
    "ctr": "containerd",
}


def cache_dir() -> Path:
    """The folder that keeps what is slow to make, between runs and outside the checkout; made if missing.

    `WAIN_TESTS_CACHE` names it, else it is `wain-tests` in the user's cache folder. It may be removed at any time.
    """
    named = os.environ.get("WAIN_TESTS_CACHE")
    if named:
        path = Path(named)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wain-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def environment() -> dict[str, str]:
    """The environment for other people's programs: Debian's own come first on PATH, messages are in English."""
    return {
        **os.environ,
        "PATH": f"{_DEBIAN_PATH}:{os.environ.get('PATH', '')}",
        "LC_ALL": "C.UTF-8",
    }


def in_ci() -> bool:
    """Whether the environment says CI=true."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(reason: str) -> None:
    """Leave the test out because of `reason`; where CI=true, fail it instead.

    :raises pytest.skip.Exception: when CI is not set
    :raises pytest.fail.Exception: when CI is set
    """
    if in_ci():
        pytest.fail(f"{reason}; with CI=true this is a failure", pytrace=False)
    pytest.skip(reason)


def find_tool(name: str) -> Path | None:
    """The program of that name, Debian's before any other, or None."""
    found = shutil.which(name, path=environment()["PATH"])
    return Path(found) if found else None


def require_tool(name: str) -> Path:
    """The program of that name; without it the test is left out, or fails where CI=true."""
    found = find_tool(name)
    if found is None:
        package = _PACKAGES.get(name, name)
        missing(f"needs {name}, of Debian's package {package} (`make test` as root on Debian installs it)")
        raise AssertionError("unreachable")
    return found


def require_root() -> None:
    """Leave the test out where it is not run as root; fail it where CI=true."""
    if os.geteuid() != 0:
        missing("needs root: containers and mounts are made by hand here")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` against other processes; waits at most 20 minutes.

    :raises TimeoutError: when another process holds it for longer
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 1200
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is locked by another process for 20 minutes") from None
                time.sleep(0.2)
        yield


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, made once by `make(folder)` by whoever comes first.

    `name` must say everything that its contents depend on. A `make` that fails leaves nothing behind.
    """
    final = cache_dir() / name
    if final.exists():
        return final
    with locked(cache_dir() / ".locks" / name):
        if not final.exists():
            partial = final.with_name(f".{name}.partial")
            remove_tree(partial)
            partial.mkdir(parents=True)
            try:
                make(partial)
            except BaseException:
                remove_tree(partial)
                raise
            partial.rename(final)
    return final


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; it need not exist, and others may still be removing parts of it."""
    for attempt in range(20):
        try:
            if path.exists():
                # Several times as fast as shutil.rmtree over the 50,000 files of a daemon's store.
                subprocess.run(["rm", "-rf", "--one-file-system", path], check=True, capture_output=True)
            return
        except subprocess.CalledProcessError:
            if attempt == 19:
                raise
            time.sleep(0.1)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
