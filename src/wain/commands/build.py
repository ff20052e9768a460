"""`wain build`: an image of a project."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wain.commands.build_options import add_build_arguments
from wain.commands.console import Console, human_size, table
from wain.commands.frame import add_project_flags, open_workshop, project_request
from wain.commands.from_dockerfile import add_dockerfile_flags, run_dockerfile
from wain.commands.index_options import add_index_arguments
from wain.commands.outcome import image_before, layer_table, say_changes, say_how_to_run
from wain.errors import UsageError

if TYPE_CHECKING:
    from wain.build import Built
    from wain.digest import Digest
    from wain.image import Image, Index
    from wain.pipeline import Delivery, Plan
    from wain.request import Request, Workshop
    from wain.reuse import Reuse

_EPILOG = """\
Without a destination the image is written to dist/NAME.tar, which `docker load` reads.
A destination is registry.example/app:1, oci:DIR[:TAG], archive:FILE.tar or daemon:NAME.
The digest is printed on standard output, all else on standard error."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("build", help="make an image of a project", epilog=_EPILOG)
    parser.add_argument("path", nargs="?", default=".", metavar="PATH", help="the project's folder (default: this one)")
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="REF", help="the image's name")
    parser.add_argument("-o", "--output", action="append", default=[], metavar="DEST", help="where the image goes")
    parser.add_argument("--push", action="store_true", help="push to the registry that each --tag names")
    parser.add_argument("--load", action="store_true", help="load into the Docker daemon under each --tag")
    add_project_flags(parser)
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the image")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="put bytecode in, which makes the first start faster"
    )
    parser.add_argument(
        "--cache-from", action="append", default=[], metavar="REF", help="an image whose layers are trusted and taken"
    )
    parser.add_argument(
        "--verify-cache", action="store_true", help="make every layer, and compare with the lock and --cache-from"
    )
    parser.add_argument("--explain", action="store_true", help="say what changed, and what the next pull costs")
    parser.add_argument(
        "--against", metavar="REF", help="the image that --explain compares with (default: --cache-from)"
    )
    parser.add_argument("--metadata-file", metavar="FILE", help="write digests and layers to this file, as JSON")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add_dockerfile_flags(parser)
    add_build_arguments(parser)
    add_index_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from wain.pipeline import plan

    console: Console = args.console
    labels = dict(_pair(text) for text in args.label)
    args.cache_from = [_earlier_image(text) for text in args.cache_from]
    if args.metadata_file and not Path(args.metadata_file).parent.is_dir():
        raise UsageError(f"--metadata-file {args.metadata_file}: there is no such folder", hint="Make it first.")
    if args.file is not None:
        return run_dockerfile(args, labels, _given_destinations(args))
    with open_workshop(args, Path(args.path)) as workshop:
        given = _given_destinations(args)
        request = project_request(args, labels=labels, destinations=given)
        if args.dry_run:
            decided = plan(request, workshop)
            _print_plan(console, decided, given or _default_destinations(decided))
            return 0
        made = workshop.store.attempt(lambda: _make(args, request, given, workshop))
        built, image, before, delivery = made.built, made.image, made.before, made.delivery
        names, destinations, digest = made.names, made.destinations, made.image.digest
        console.close()
        for item, reuse in zip(built, made.reuse, strict=True):
            _summary(console, item, delivery.blobs, several=len(built) > 1)
            if reuse.verifies:
                console.say(_verified(reuse, len(item.rows)))
            if before is not None:
                say_changes(console, before, item.image)
        say_how_to_run(console, destinations, names, delivery.unchanged, image)
        if args.metadata_file:
            _write_metadata(Path(args.metadata_file), built, digest, destinations)
    print(digest)
    return 0


class _Made(NamedTuple):
    """An image that has been delivered, and what is to be told of it."""

    built: tuple[Built, ...]
    image: Image | Index
    before: Image | Index | None
    """What `--explain` compares with."""
    delivery: Delivery
    names: Sequence[str]
    destinations: Sequence[str]
    reuse: Sequence[Reuse]


def _make(args: argparse.Namespace, request: Request, given: Sequence[str], workshop: Workshop) -> _Made:
    """Makes the image; once more without the layers that a registry has, where it does not give their bytes."""
    from msgspec.structs import replace

    from wain.errors import HashMismatch, TransferError
    from wain.pipeline import plan

    decided = plan(request, workshop)
    try:
        return _make_once(args, request, given, workshop, decided)
    except (TransferError, HashMismatch) as error:
        if not any(reuse.was_read for reuse in decided.reuse):
            raise
        workshop.say(f"warning: once more, without the layers that a registry has: {error.message}")
    request = replace(request, reuses=False)
    return _make_once(args, request, given, workshop, plan(request, workshop))


def _make_once(
    args: argparse.Namespace, request: Request, given: Sequence[str], workshop: Workshop, decided: Plan
) -> _Made:
    from wain.image import Index
    from wain.pipeline import Ahead, carry_out, deliver

    before = image_before(args, args.cache_from or decided.settings.cache_from, workshop)
    names: list[str] = args.tag or list(decided.settings.tags) or [f"{decided.project.name}:latest"]
    destinations = given or _default_destinations(decided)
    with Ahead(destinations, workshop) as ahead:
        built = carry_out(decided, request, workshop, made=ahead.send)
        image = built[0].image if len(built) == 1 else Index(images=tuple(item.image for item in built))
        delivery = deliver(image, destinations, names, workshop, ahead=ahead)
    return _Made(built, image, before, delivery, names, destinations, decided.reuse)


def _default_destinations(plan: Plan) -> list[str]:
    return [f"archive:dist/{plan.project.name}.tar"]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--label {text!r} has no value", hint="Write NAME=VALUE.")
    return name, value


def _earlier_image(text: str) -> str:
    """An image that --cache-from names, by its reference or as buildx has it: `type=registry,ref=REF`."""
    values = dict(part.partition("=")[::2] for part in text.split(","))
    if "type" not in values:
        return text
    if values["type"] != "registry" or not values.get("ref"):
        raise UsageError(
            f"--cache-from {text}: layers are taken from images alone",
            hint="Name one that wain pushed before: --cache-from registry.example/app:main.",
        )
    return values["ref"]


def _given_destinations(args: argparse.Namespace) -> list[str]:
    """Where the flags say that the image goes.

    :raises UsageError: when one of them, or a tag, does not name an image.
    """
    from wain.names import parse_reference, parse_registry_reference
    from wain.settings import wain_settings

    tags: list[str] = args.tag
    if (args.push or args.load) and not tags:
        tags = list(wain_settings(Path(args.path)).tags)
        if not tags:
            raise UsageError("--push and --load need a name", hint="Give one with -t registry.example/app:1.")
    destinations = list(args.output)
    for destination in destinations:
        if re.fullmatch(r"[\w.-]+", destination) and not destination.endswith(".tar"):
            raise UsageError(
                f"-o {destination} does not say what it is",
                hint=f"Write oci:{destination}, archive:{destination}.tar, daemon:{destination}"
                f" or docker.io/library/{destination}.",
            )
    if args.push:
        destinations += tags
    if args.load:
        destinations += [f"daemon:{tag}" for tag in tags]
    for destination in destinations:
        parse_reference(destination)
    for tag in tags:
        parse_registry_reference(tag)
    return destinations


def _print_plan(console: Console, plan: Plan, destinations: Sequence[str]) -> None:
    console.say(f"lock: {plan.lock.origin}")
    for facts, selected in zip(plan.facts, plan.selected, strict=True):
        console.say(f"{facts.target}")
        rows = [("distribution", "version", "file")]
        rows += [(item.name, item.version or "", item.file.filename if item.file else item.kind) for item in selected]
        console.say(table(rows))
    console.say(f"to: {', '.join(destinations)}")


def _summary(console: Console, built: Built, blobs: Mapping[Digest, str], *, several: bool) -> None:
    if several:
        console.say(f"{built.image.platform}: {built.image.digest}")
    console.say(layer_table([(row.what, row.layer, row.state) for row in built.rows], blobs))
    if built.bytecode is not None and built.bytecode.modules:
        estimate = built.bytecode
        console.say(
            f"--compile would add {human_size(estimate.added_bytes)} ({human_size(estimate.added_compressed_bytes)}"
            f" compressed) and save about {estimate.saved_seconds:.2g} s at each start"
        )


def _verified(reuse: Reuse, layers: int) -> str:
    """What `--verify-cache` found, where it found nothing wrong."""
    if not reuse.compared:
        return "--verify-cache compared nothing: neither the lock nor --cache-from names a layer of this image"
    return f"{reuse.compared} of {layers} layers were compared with the lock and --cache-from, and are the same"


def _write_metadata(path: Path, built: Sequence[Built], digest: Digest, destinations: Sequence[str]) -> None:
    document = {
        "digest": digest,
        "destinations": list(destinations),
        "images": [
            {
                "platform": str(item.image.platform),
                "digest": item.image.digest,
                "config": item.image.manifest.config.digest,
                "layers": [
                    {
                        "what": row.what,
                        "digest": row.layer.digest,
                        "diff_id": row.layer.diff_id,
                        "size": row.layer.size_bytes,
                        "unpacked": row.layer.unpacked_bytes,
                        "state": row.state,
                    }
                    for row in item.rows
                ],
            }
            for item in built
        ],
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(path)
