"""`wain lock`: the exact files of a project's dependencies, written to pylock.toml."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wain.commands.frame import add_project_flags, open_workshop, project_request
from wain.commands.index_options import add_index_arguments
from wain.errors import LockError, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wain.lock import Lock


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `lock`."""
    parser = subparsers.add_parser("lock", help="write the exact files of a project's dependencies to pylock.toml")
    parser.add_argument("path", metavar="PATH", nargs="?", default=".", help="the project's folder")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write (default: PATH/pylock.toml)")
    parser.add_argument(
        "--upgrade",
        metavar="NAME",
        nargs="?",
        action="append",
        const="",
        help="take newer versions, of NAME alone where it is given",
    )
    parser.add_argument("--layers", action="store_true", help="name the layers too, so that registries are caches")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="with --layers: name those of bytecode as well"
    )
    add_project_flags(parser)
    add_index_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Locks and writes.

    :raises LockError: when the project has a lock of another tool that would win over what is written.
    :raises OutputError: when the file cannot be written.
    """
    from wain.lock import Lock
    from wain.pipeline import lock_project, with_layers
    from wain.settings import normalize_name

    project = Path(args.path)
    if not project.is_dir():
        raise UsageError(f"{project} is no folder", hint="Name the folder with pyproject.toml.")
    output = Path(args.output) if args.output else project / "pylock.toml"
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is no folder", hint="Make it, or name another file.")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise OutputError(f"{output} may not be written", hint="Change its mode, or name another file with -o.")
    upgrade: Sequence[str] | None = None
    if args.upgrade is not None:
        upgrade = [normalize_name(name) for name in args.upgrade] if all(args.upgrade) else []
    before: Lock | None = None
    if output.is_file() and upgrade != []:
        before = Lock.read(output)
        unknown = [name for name in upgrade or () if name not in {package.name for package in before.packages}]
        if unknown:
            raise LockError(f"{output.name} has no {', '.join(unknown)} to upgrade", hint="Check the spelling.")
    with open_workshop(args, project) as workshop:
        request = project_request(args)
        lock = lock_project(request, workshop, before=before, upgrade=upgrade)
        if args.layers:
            lock = with_layers(lock, request, workshop)
    _write(output, lock.to_toml(output.parent))
    _report(args, lock, before, output)
    return 0


def _write(path: Path, text: str) -> None:
    """Replaces a file at once: it is the old one or the new one, never a part."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}", hint="Make room, or name another file with -o."
        ) from error


def _report(args: argparse.Namespace, lock: Lock, before: Lock | None, output: Path) -> None:
    from wain.known_layers import locked_digests

    say = args.console.say
    old = {package.name: package.version for package in before.packages} if before else {}
    new = {package.name: package.version for package in lock.packages}
    if before is not None:
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                say(f"- {name} {old[name]}")
            elif name not in old:
                say(f"+ {name} {new[name]}")
            elif old[name] != new[name]:
                say(f"~ {name} {old[name]} -> {new[name]}")
    packages = "1 package is" if len(new) == 1 else f"{len(new)} packages are"
    environments = {0: "all environments", 1: "one environment"}.get(
        len(lock.environments), f"{len(lock.environments)} environments"
    )
    layers = len(locked_digests(lock))
    named = f", and {layers} {'layer is' if layers == 1 else 'layers are'} named," if layers else ""
    say(f"{packages} locked for {environments}{named} in {output}")
    if before is None and (output.parent / "uv.lock").is_file():
        say("it counts before uv.lock, whose versions it has where they fit")
    if before is not None and not layers and locked_digests(before):
        say("the layers that it named are no longer named: that takes --layers")
