"""The `wain` command: parse, call the verb, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from wain.errors import OutputError, WainError

if TYPE_CHECKING:
    from wain.commands.console import Console

VERBS = {
    "build": "make an image of a project",
    "lock": "write the exact files of a project's dependencies to pylock.toml",
    "install": "install into a folder or virtual environment, from the cache",
    "audit": "find waste and mistakes in Dockerfiles",
    "fix": "mend what audit finds in Dockerfiles",
    "inspect": "show what is in an image, layer by layer",
    "rebase": "put an image's layers on another base, without its project",
    "copy": "copy an image from one place to another",
    "cache": "look at, check and clean the cache",
}

_INTERNAL_ERROR = 70


class _Parser(argparse.ArgumentParser):
    verb = ""
    """What the command line asks for, where the parser of all commands meets a mistake."""

    def error(self, message: str) -> NoReturn:
        from wain.commands.console import printable

        hint = _docker_hint(message)
        command = f"{self.prog} {self.verb}".strip()
        print(f"{command}: {printable(message)}{hint}\n  See {command} --help.", file=sys.stderr)
        raise SystemExit(2)


_DOCKER_FLAGS = {
    "--no-cache": "wain's cache never reaches an image; --no-cache-dir goes without it",
    "--pull": "a tag is asked for anew each time",
    "--squash": "not needed: no layer holds what another deletes",
    "--cache-to": "an image that was pushed is its own cache: see --cache-from",
    "--build-context": "copy what is needed into the project; an engine takes it with --engine-arg=--build-context=...",
    "--add-host": "an engine takes it with --engine-arg=--add-host=...",
    "--ssh": "an engine takes it with --engine-arg=--ssh=...",
    "--iidfile": "--metadata-file has the digests",
    "--rm": "there are no containers that would stay",
    "--force-rm": "there are no containers that would stay",
    "--no-cache-filter": "wain's cache never reaches an image; --no-cache-dir goes without it",
    "--provenance": "no attestations are made",
    "--sbom": "no attestations are made",
    "--attest": "no attestations are made",
    "--annotation": "--label sets labels",
    "--memory": "an engine takes it with --engine-arg=--memory=...",
    "--shm-size": "an engine takes it with --engine-arg=--shm-size=...",
    "--ulimit": "an engine takes it with --engine-arg=--ulimit=...",
    "--builder": "--engine names what runs the steps that have to be run",
    "--progress=": "auto, plain, json or none",
}


def _docker_hint(message: str) -> str:
    for flag, hint in _DOCKER_FLAGS.items():
        if flag in message.split() or any(word.startswith(flag + "=") for word in message.split()):
            return f"\n  {flag}: {hint}"
    return ""


class _CacheFlag(argparse.Action):
    """Of --cache-dir and --no-cache-dir the last one counts, as with pip."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.no_cache_dir = self.dest == "no_cache_dir"
        namespace.cache_dir = None if namespace.no_cache_dir else values


def _global_flags() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("everywhere")
    group.add_argument("--cache-dir", metavar="DIR", action=_CacheFlag, help="the folder of the cache")
    group.add_argument("--no-cache-dir", nargs=0, action=_CacheFlag, default=False, help="read and write no cache")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but the result and errors")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice for every step")
    group.add_argument("--progress", choices=("auto", "plain", "json", "none"), default="auto", help="how to show it")
    group.add_argument("--insecure", action="store_true", help="allow plain HTTP to registries beyond loopback")
    return parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; never raises.

    :returns: the exit code, as errors.py lists them.
    """
    # Hardly anything here is in a cycle; at the default of 700 objects, looking for some takes 7% of a short command.
    gc.set_threshold(20_000, 20, 20)
    words = list(sys.argv[1:] if argv is None else argv)
    # The process ends: to go through all objects once more for cycles costs a fifth of a short command.
    atexit.register(gc.freeze)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _terminated)
    try:
        return _run(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("wain: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; what is left of it must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _run(words: list[str]) -> int:
    verb = next((word for word in words if not word.startswith("-")), "")
    parser = _Parser(prog="wain", description="Container images of Python programs, straight from wheels.")
    parser.verb = verb if verb in VERBS else ""
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    if verb in VERBS:
        parents = _Parents(subparsers, _global_flags())
        importlib.import_module(f"wain.commands.{verb}").add_parser(parents)
    else:
        for name, help_text in VERBS.items():
            subparsers.add_parser(name, help=help_text)
    args = parser.parse_args(words)
    if args.version:
        from importlib.metadata import version

        print(f"wain {version('wain')}")
        return 0
    if not verb:
        parser.print_help()
        return 0
    from wain.commands.console import Console

    console = Console(mode=args.progress, quiet=args.quiet)
    args.console = console
    _log_to(console, args.verbose)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        console.close()
        print("wain: interrupted; nothing is left half-written", file=sys.stderr)
        return 130
    except WainError as error:
        return _failed(console, error, verbose=args.verbose)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(console, _os_error(error), verbose=args.verbose)
    except Exception as error:
        console.close()
        if args.verbose >= 2:
            raise
        print(f"wain: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  This is a defect of wain. Run it with -vv for what to report.", file=sys.stderr)
        return _INTERNAL_ERROR
    finally:
        console.close()


class _Parents:
    """`add_subparsers()`'s object, with the global flags as a parent of each verb."""

    def __init__(self, subparsers: argparse._SubParsersAction[_Parser], parent: argparse.ArgumentParser) -> None:
        self._subparsers = subparsers
        self._parent = parent

    def add_parser(self, name: str, **options: object) -> argparse.ArgumentParser:
        options.setdefault("description", options.get("help"))
        parents = options.pop("parents", [])
        return self._subparsers.add_parser(
            name,
            parents=[self._parent, *parents],  # type: ignore[list-item, misc]
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]
        )


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _log_to(console: Console, verbose: int) -> None:
    import logging

    from wain.commands.console import ConsoleHandler

    logger = logging.getLogger("wain")
    logger.handlers = [ConsoleHandler(console)]
    logger.propagate = False
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))


def _os_error(error: OSError) -> WainError:
    where = f" {error.filename}" if error.filename else ""
    hints = {
        errno.ENOSPC: "The disk is full; free some space, or name another place with -o or --cache-dir.",
        errno.EDQUOT: "The quota is used up; free some space, or name another place with -o or --cache-dir.",
        errno.EACCES: "Make it readable and writable for this user, or name another place.",
    }
    return OutputError(f"{error.strerror or error}:{where}", hint=hints.get(error.errno or 0, "Check the path."))


def _failed(console: Console, error: WainError, *, verbose: int) -> int:
    from wain.commands.console import printable

    console.close()
    print(f"wain: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        for line in error.hint.splitlines():
            print(f"  {printable(line)}", file=sys.stderr)
    if verbose >= 2:
        import traceback

        traceback.print_exception(error)
    return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
