"""`wain fix DOCKERFILE...`: mend what an audit finds, in place, as a diff, or as a check."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

from wain.commands.audit import add_selection, chosen_settings, read_bytes
from wain.errors import DockerfileError, OutputError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "fix",
        help="mend what an audit of Dockerfiles finds",
        description="Mend Dockerfiles in place: files, folders, or - (standard input to standard output).",
    )
    parser.add_argument("targets", nargs="+", metavar="DOCKERFILE", help="a Dockerfile, a folder, or -")
    parser.add_argument("--diff", action="store_true", help="print what would change, and change nothing")
    parser.add_argument("--check", action="store_true", help="exit 1 where something would change; change nothing")
    parser.add_argument("--unsafe", action="store_true", help="also apply fixes that may change what the image does")
    add_selection(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mend each file; 1 with --check or --diff where something would change.

    :raises UsageError: where a target is not there.
    :raises OutputError: where a file cannot be written.
    :raises DockerfileError: where a file does not parse (the others are mended first).
    """
    from wain.audit import context_reader, find_dockerfiles, read_settings
    from wain.dockerfile import decode, encode
    from wain.fix import fix

    changed = 0
    failure: DockerfileError | None = None
    for target in args.targets:
        path = Path(target)
        settings = chosen_settings(args, read_settings(path if path.is_dir() else path.parent))
        files = [None] if target == "-" else list(find_dockerfiles([path], exclude=settings.exclude))
        for file in files:
            name = str(file) if file is not None else "-"
            data = sys.stdin.buffer.read() if file is None else read_bytes(file)
            text = decode(data)
            try:
                result = fix(
                    text,
                    name=name,
                    unsafe=args.unsafe,
                    settings=settings,
                    read=context_reader(file.parent) if file is not None else None,
                )
            except DockerfileError as error:
                failure = error
                print(error.message, file=sys.stderr)
                if file is None and not (args.diff or args.check):
                    sys.stdout.buffer.write(data)
                continue
            for finding, reason in result.refused:
                print(f"{name}:{finding.location.line}: {finding.rule} was not mended: {reason}", file=sys.stderr)
            is_changed = result.after != text
            changed += is_changed
            if args.diff:
                lines = difflib.unified_diff(
                    text.splitlines(keepends=True),
                    result.after.splitlines(keepends=True),
                    f"a/{name.lstrip('/')}",
                    f"b/{name.lstrip('/')}",
                )
                sys.stdout.write("".join(lines).encode("utf-8", "replace").decode("utf-8"))
            elif args.check:
                if is_changed:
                    print(f"{name} would change")
            elif file is None:
                sys.stdout.buffer.write(encode(result.after))
            elif is_changed:
                _write(file, encode(result.after))
            if is_changed and not args.check:
                for applied in result.applied:
                    line = applied.finding.location.line
                    print(f"{name}:{line}: {applied.finding.rule}: {applied.fix.title}", file=sys.stderr)
            left = len(result.remaining.findings)
            if left and not args.diff:
                print(f"{name}: {left} finding{'s' if left > 1 else ''} left, see `wain audit`", file=sys.stderr)
    if failure is not None:
        raise failure
    return int(bool(changed) and (args.check or args.diff))


def _write(path: Path, data: bytes) -> None:
    """Replace a file's content at once, keeping its mode; a symlink's target is what is replaced."""
    path = path.resolve()
    try:
        mode = path.stat().st_mode & 0o7777
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}", hint="Check the file's permissions."
        ) from error


__all__ = ["add_parser", "run"]
