"""What several commands have in common: their flags, and the store and transport that they open."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wain.request import Request, Workshop


def add_project_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is built, for which Python and platforms."""
    parser.add_argument("--base", metavar="REF", help="the base image, or debian:trixie for the built-in one")
    parser.add_argument("--python", metavar="X.Y", help="the version of Python")
    parser.add_argument(
        "--platform", action="append", default=[], metavar="OS/ARCH", help="the platforms, separated by commas"
    )
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help="an extra of the project")
    parser.add_argument("--group", action="append", default=[], metavar="NAME", help="a dependency group")
    parser.add_argument("--locked", action="store_true", help="fail where there is no lock that fits")
    parser.add_argument("--offline", action="store_true", help="make no request to any index or mirror")
    parser.add_argument("--refresh", action="store_true", help="ask again what was remembered of the last 10 minutes")


def project_request(
    args: argparse.Namespace, *, labels: Mapping[str, str] | None = None, destinations: Sequence[str] = ()
) -> Request:
    """What the flags ask for."""
    from wain.commands.build_options import build_flags
    from wain.commands.index_options import index_flags
    from wain.names import ArchiveReference, LayoutReference, parse_reference
    from wain.platforms import Platform
    from wain.request import Request

    outputs = [parse_reference(text) for text in args.output] if isinstance(args.output, list) else []
    leave_out = [ref.path for ref in outputs if isinstance(ref, ArchiveReference | LayoutReference)]
    return Request(
        path=Path(args.path),
        base=args.base,
        python=args.python,
        platforms=tuple(Platform.parse(text) for item in args.platform for text in item.split(",") if text),
        extras=tuple(args.extra),
        groups=tuple(args.group),
        locked=args.locked,
        offline=args.offline,
        refresh=args.refresh,
        labels=labels or {},
        index_flags=index_flags(args),
        builds=build_flags(args),
        leave_out=(Path(args.path) / "dist", *leave_out),
        cache_from=tuple(getattr(args, "cache_from", ())),
        compiles=getattr(args, "compile", None),
        tells=not args.quiet,
        verify_cache=getattr(args, "verify_cache", False),
        destinations=tuple(destinations),
    )


@contextmanager
def open_workshop(
    args: argparse.Namespace, project: Path | None = None, *, follows_pip: bool = False
) -> Iterator[Workshop]:
    """The store that the flags and settings decide on, and the ways out to the network."""
    from wain.cachedir import choose_cache, open_store
    from wain.commands.index_options import index_flags
    from wain.distribution import Access
    from wain.index import http_settings
    from wain.request import Workshop
    from wain.settings import WainSettings, index_settings, wain_settings
    from wain.transport import Transport

    settings = wain_settings(project) if project is not None and project.is_dir() else WainSettings()
    choice = choose_cache(flag_dir=args.cache_dir, flag_none=args.no_cache_dir, wain=settings, follows_pip=follows_pip)
    offline = getattr(args, "offline", False)
    folder = project if project is not None and project.is_dir() else None
    index = index_settings(folder, flags=index_flags(args), wain=settings)
    transport = Transport(http_settings(index), offline=offline)
    store = open_store(choice)
    try:
        yield Workshop(
            store=store,
            transport=transport,
            access=Access(
                transport=Transport(offline=offline), mirrors=settings.mirrors, insecure=args.insecure, store=store
            ),
            progress=args.console.progress,
            sending=args.console.sending,
            say=args.console.say,
        )
    finally:
        store.close(max_size_bytes=choice.max_size_bytes)
