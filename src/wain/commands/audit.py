"""`wain audit TARGET...`: findings in Dockerfiles, as text, JSON, SARIF, GitHub annotations or an HTML page."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wain.errors import UsageError

if TYPE_CHECKING:
    from wain.audit import AuditSettings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "audit",
        help="find caches, bytecode, wrong owners and credentials that a Dockerfile puts into the image",
        description="Audit Dockerfiles: files, folders (searched for Dockerfiles), or - for standard input.",
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="a Dockerfile, a folder, or -")
    parser.add_argument(
        "--format",
        choices=("text", "json", "sarif", "github", "html"),
        default="text",
        help="how findings are written to standard output (html: one page that needs nothing else)",
    )
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning", "info", "never"),
        help="exit 1 where a finding is at least that severe (default: warning)",
    )
    add_selection(parser)
    parser.add_argument("--list-rules", action="store_true", help="print the rules and exit")
    parser.add_argument(
        "--parse-only",
        action="store_true",
        help="only parse, and check that the text comes back unchanged; folders are searched for all files",
    )
    parser.set_defaults(run=run)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The flags that audit and fix share."""
    parser.add_argument("--ignore", action="append", default=[], metavar="RULE", help="leave a rule out")
    parser.add_argument("--select", action="append", default=[], metavar="RULE", help="run these rules alone")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="paths that folders skip")
    parser.add_argument(
        "--prefer",
        choices=("auto", "mount", "flag", "env"),
        help="how a fix keeps a cache out (default: a mount where the file uses BuildKit features, else the flag)",
    )


def run(args: argparse.Namespace) -> int:
    """Audit, print, and return 1 where a finding is at or above --fail-on.

    :raises UsageError: where a target is not there or a rule's name is none.
    """
    if args.list_rules:
        return _list_rules()
    if not args.targets:
        raise UsageError("no target", hint="Name a Dockerfile, a folder, or - for standard input.")
    if args.parse_only:
        return _parse_only(args.targets)
    from wain.audit import Audit, audit_text, context_reader, find_dockerfiles, read_settings
    from wain.dockerfile import decode
    from wain.findings import Severity
    from wain.report import write_report

    # Syntax trees are many small objects without cycles: the collector's default would visit them over and over.
    gc.set_threshold(100_000, 20, 20)
    audits: list[Audit] = []
    fails = False
    for target in args.targets:
        path = Path() if target == "-" else Path(target)
        settings = chosen_settings(args, read_settings(path if path.is_dir() else path.parent))
        found: list[Audit] = []
        if target == "-":
            found.append(audit_text(decode(sys.stdin.buffer.read()), name="-", settings=settings))
        else:
            for file in find_dockerfiles([path], exclude=settings.exclude):
                text = decode(read_bytes(file))
                found.append(audit_text(text, name=str(file), settings=settings, read=context_reader(file.parent)))
        audits += found
        # Each target fails by the settings of its own project.
        fail_on = args.fail_on or settings.fail_on
        if fail_on != "never":
            limit = Severity(fail_on).rank
            fails = fails or any(audit.worst is not None and audit.worst.rank >= limit for audit in found)
    if not audits:
        print("no Dockerfile found", file=sys.stderr)
    color = args.format == "text" and sys.stdout.isatty()
    write_report(audits, form=args.format, color=color)
    return int(fails)


def chosen_settings(args: argparse.Namespace, settings: AuditSettings) -> AuditSettings:
    """The file's settings with the command line's over them."""
    from msgspec.structs import replace

    options = settings.options
    if args.prefer:
        options = replace(options, prefer=args.prefer)
    chosen = replace(
        settings,
        ignore=(*settings.ignore, *_names(args.ignore)),
        select=tuple(_names(args.select)) or settings.select,
        exclude=(*settings.exclude, *args.exclude),
        options=options,
    )
    chosen.rules()
    return chosen


def _names(values: list[str]) -> list[str]:
    return [name for value in values for name in value.split(",") if name]


def read_bytes(path: Path) -> bytes:
    """A Dockerfile's bytes.

    :raises UsageError: where it cannot be read or is far larger than a Dockerfile can be.
    """
    try:
        if path.is_file() and path.stat().st_size > _SIZE_LIMIT:
            raise UsageError(f"{path} is larger than {_SIZE_LIMIT} bytes", hint="Is it a Dockerfile?")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Name a file that can be read.") from error


_SIZE_LIMIT = 4 * 1024 * 1024


def _list_rules() -> int:
    from wain.rules import RULES

    width = max(len(rule.id) for rule in RULES)
    for rule in RULES:
        print(f"{rule.id:<{width}}  {rule.severity.value:<7}  {rule.title}")
    return 0


def _parse_only(targets: list[str]) -> int:
    """Parse each file; failures are named, with file and line, and make the exit code 1."""
    from wain.dockerfile import decode, encode, parse
    from wain.errors import DockerfileError

    good = 0
    bad: list[str] = []
    for target in targets:
        path = Path(target)
        if not path.exists():
            raise UsageError(f"{path} is not there", hint="Name a Dockerfile or a folder of them.")
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            data = read_bytes(file)
            try:
                parsed = parse(decode(data), name=str(file))
            except DockerfileError as error:
                bad.append(error.message)
                continue
            if encode(str(parsed)) != data:
                bad.append(f"{file}: the text does not come back unchanged")
            else:
                good += 1
    for message in bad:
        print(message)
    print(f"{good} of {good + len(bad)} files parse", file=sys.stderr)
    return int(bool(bad))
