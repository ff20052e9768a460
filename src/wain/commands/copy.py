"""`wain copy`: an image from one place to another, its digest kept."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wain.distribution import Access


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `copy` with its flags."""
    parser = subparsers.add_parser("copy", help="copy an image from one place to another")
    places = "registry.example/app:1, oci:DIR[:TAG], archive:FILE.tar or daemon:NAME"
    parser.add_argument("source", metavar="SRC", help=places)
    parser.add_argument("destination", metavar="DEST", help="likewise")
    parser.add_argument("--platform", metavar="OS/ARCH", help="copy this platform's image alone, not the index")
    parser.add_argument(
        "-t",
        "--tag",
        metavar="NAME",
        action="append",
        default=[],
        help="what the image is called in an archive or layout; a registry's image keeps its own name",
    )
    parser.add_argument("--schema2", action="store_true", help="in Docker's older format, which changes the digest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the digest of what was written.

    :raises WainError: as reading and writing raise.
    """
    from wain.names import DaemonReference, RegistryReference, parse_reference
    from wain.platforms import Platform
    from wain.transfer import read_image, write_image

    source, destination = parse_reference(args.source), parse_reference(args.destination)
    access = access_of(args)
    image = read_image(source, platform=Platform.parse(args.platform) if args.platform else None, access=access)
    names = list(args.tag)
    if not names and isinstance(source, RegistryReference) and source.tag:
        names = [str(source).partition("@")[0]]
    elif not names and isinstance(source, DaemonReference):
        names = [source.name]
    console = getattr(args, "console", None)
    digest = write_image(
        image,
        destination,
        names=[] if isinstance(destination, DaemonReference) else names,
        access=access,
        progress=console.sending if console is not None else None,
        schema2=args.schema2,
    )
    print(digest)
    return 0


def access_of(args: argparse.Namespace) -> Access:
    """How registries are reached, by the flags that stand everywhere."""
    from wain.distribution import Access
    from wain.transport import Transport

    return Access(
        transport=Transport(offline=bool(getattr(args, "offline", False))),
        insecure=bool(getattr(args, "insecure", False)),
    )
