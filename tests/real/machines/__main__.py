"""Make what is slow to make and kept between runs: `python -m tests.real.machines`; what is there is only looked at."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.real.machines import bases, places, trixie

_KEPT: dict[str, Callable[[], object]] = {
    "a base with CPython 3.13 under /usr/local": lambda: bases.official_like_base("3.13"),
    "a Debian trixie with docker and podman": trixie.trixie_root,
    "a base with Debian trixie's python3": lambda: bases.debian_base("trixie"),
    "a base with Debian bookworm's python3": lambda: bases.debian_base("bookworm"),
}


def main() -> int:
    """0, or 1 where something could not be made and CI=true."""
    if os.geteuid() != 0 or places.find_tool("mmdebstrap") is None:
        print("tests/real makes its Debian roots as root with mmdebstrap: left out here", file=sys.stderr)
        return 1 if places.in_ci() else 0
    failed = 0
    # The first is bound by the processor, the others mostly by the mirror.
    with ThreadPoolExecutor(2) as pool:
        for name, future in [(name, pool.submit(_timed, make)) for name, make in _KEPT.items()]:
            try:
                seconds = future.result()
                if seconds > 1:
                    print(f"made {name} in {seconds:.0f} s, kept in {places.cache_dir()}", file=sys.stderr)
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                failed += 1
                print(f"could not make {name}: {error}", file=sys.stderr)
    return 1 if failed and places.in_ci() else 0


def _timed(make: Callable[[], object]) -> float:
    began = time.monotonic()
    make()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
