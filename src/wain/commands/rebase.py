"""`wain rebase`: an image's layers on another base."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("rebase", help="put an image's layers on another base, without its project")
    parser.add_argument("image", metavar="IMAGE", help="an image that wain built")
    parser.add_argument("--onto", metavar="BASE", required=True, help="a base image, or debian:trixie")
    parser.add_argument(
        "-o", "--output", action="append", default=[], metavar="DEST", help="where it goes (default: where it was)"
    )
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="REF", help="the name it loads under")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rebases and writes; the digest goes to standard output."""
    from wain.commands.frame import open_workshop
    from wain.pipeline import deliver
    from wain.rebasing import rebase
    from wain.transfer import read_image

    with open_workshop(args) as workshop:
        image = read_image(args.image, access=workshop.access)
        moved = rebase(image, args.onto, workshop)
        destinations = args.output or [args.image]
        deliver(moved, destinations, args.tag, workshop)
    if moved.digest == image.digest:
        args.console.say(f"{args.image} stands on {args.onto} already")
    else:
        args.console.say(f"{args.image} stands on {args.onto} now, in {', '.join(destinations)}")
    print(moved.digest)
    return 0
