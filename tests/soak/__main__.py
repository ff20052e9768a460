"""`python -m tests.soak [NAME...] [--seconds N]`: each module here with a `main(seconds)` runs for that long."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from pathlib import Path


def run() -> int:
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    names.remove("__main__") if "__main__" in names else None
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of them unless named: {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=600, help="how long each runs at least (default 600)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    for name in args.names or names:
        main = getattr(importlib.import_module(f"tests.soak.{name}"), "main", None)
        if main is None:
            continue
        began = time.monotonic()
        print(f"== {name}", flush=True)
        main(args.seconds)
        print(f"== {name}: passed in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run())
