"""`wain build -f Dockerfile`: an image from a Dockerfile, as it is."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wain.commands.console import Console, printable, table
from wain.commands.frame import open_workshop
from wain.commands.outcome import image_before, layer_table, say_changes, say_how_to_run
from wain.errors import EngineError, UsageError
from wain.settings import ENGINES

if TYPE_CHECKING:
    from wain.digest import Digest
    from wain.dockerbuild import DockerfileBuilt, DockerfileRequest
    from wain.image import Image, Index
    from wain.pipconf import Setting
    from wain.pipsteps import Tools
    from wain.platforms import Platform
    from wain.request import Workshop
    from wain.settings import IndexSettings
    from wain.steps import StepPlan

    Reader = Callable[[str, Platform], Image | Index]


def add_dockerfile_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that only a Dockerfile has a use for."""
    group = parser.add_argument_group("Dockerfiles")
    group.add_argument("-f", "--file", metavar="FILE", help="build this Dockerfile; PATH is its context")
    group.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="the value of an ARG")
    group.add_argument("--target", metavar="STAGE", help="the stage to build (default: the last one)")
    group.add_argument(
        "--secret", action="append", default=[], metavar="id=ID,src=FILE", help="what RUN --mount=type=secret sees"
    )
    group.add_argument(
        "--base-mirror", action="append", default=[], metavar="FROM=TO", help="where a registry's images are read"
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        metavar="NAME",
        help="what runs the steps that have to be run: auto, docker, buildah, podman or none (default: auto)",
    )
    group.add_argument("--network", metavar="MODE", help="the network of the steps that an engine runs")
    group.add_argument(
        "--engine-arg", action="append", default=[], metavar="FLAG", help="a further flag for the engine's own build"
    )


def run_dockerfile(args: argparse.Namespace, labels: Mapping[str, str], given: Sequence[str]) -> int:
    """Build a Dockerfile, or tell who would take each step of it."""
    from wain.dockerbuild import dry_run
    from wain.image import Index
    from wain.pipeline import deliver

    console: Console = args.console
    _refuse_project_flags(args)
    destinations = list(given) or [f"archive:{_default_archive(Path(args.path))}"]
    requests = _requests(args, labels, destinations)
    if args.dry_run:
        _print_steps(console, requests[0], dry_run(requests[0]), _engine_name(args))
        return 0
    with open_workshop(args, Path(args.path)) as workshop:
        _add_mirrors(args, workshop)
        before = image_before(args, (), workshop)
        tools = _tools(args, workshop)
        built = workshop.store.attempt(lambda: [_built(args, request, tools, workshop) for request in requests])
        image: Image | Index = built[0].image if len(built) == 1 else Index(images=tuple(item.image for item in built))
        names: list[str] = args.tag or [f"{_name(Path(args.path))}:latest"]
        digest = image.digest
        delivery = deliver(image, destinations, names, workshop)
        console.close()
        for item in built:
            _summary(console, item, delivery.blobs)
            if before is not None:
                say_changes(console, before, item.image)
        say_how_to_run(console, destinations, names, delivery.unchanged, image)
        if args.metadata_file:
            _write_metadata(Path(args.metadata_file), built, str(digest), destinations)
    print(digest)
    return 0


def _refuse_project_flags(args: argparse.Namespace) -> None:
    """:raises UsageError: when a flag was given that only a project has a use for."""
    given = {
        "--base": args.base,
        "--python": args.python,
        "--extra": args.extra,
        "--group": args.group,
        "--locked": args.locked,
        "--verify-cache": args.verify_cache,
    }
    if names := [name for name, value in given.items() if value]:
        raise UsageError(
            f"{', '.join(names)} {'says' if len(names) == 1 else 'say'} nothing of a Dockerfile",
            hint="Its FROM and RUN decide that; without -f the project in the folder is built.",
        )
    if args.cache_from:
        args.console.say(
            "warning: --cache-from is for projects; an engine that has to run steps takes it with"
            f" --engine-arg=--cache-from={args.cache_from[0]}"
        )


def _engine_name(args: argparse.Namespace) -> str:
    from wain.settings import wain_settings

    return args.engine or wain_settings(Path(args.path)).engine or "auto"


def _built(args: argparse.Namespace, request: DockerfileRequest, tools: Tools, workshop: Workshop) -> DockerfileBuilt:
    """The image: made here, or where a step has to be run, by an engine."""
    from wain.dockerbuild import ENGINE_HINT, EngineNeeded, build_dockerfile
    from wain.engines import EngineFailed, find_engine
    from wain.handover import EngineOptions, build_with_engine

    wanted = _engine_name(args)
    try:
        return build_dockerfile(request, tools, _reader(workshop))
    except EngineNeeded as need:
        if wanted == "none":
            raise
        try:
            engine = find_engine(wanted)
        except EngineError as error:
            raise EngineNeeded(f"{need.message}; {error.message}", hint=ENGINE_HINT) from error
        chosen = "as asked" if wanted != "auto" else "the first that answers"
        workshop.say(f"{need.message}: the file goes to {engine}, {chosen}")
    console: Console = args.console
    options = EngineOptions(
        secrets=tuple(args.secret), network=args.network, insecure=args.insecure, more=tuple(args.engine_arg)
    )
    try:
        return build_with_engine(request, tools, _reader(workshop), engine, options, say=workshop.say, tell=console.say)
    except EngineFailed as error:
        if console.quiet:
            print(printable(error.tail), file=sys.stderr)
        raise


def _name(path: Path) -> str:
    import re

    return re.sub(r"[^a-z0-9._-]+", "-", path.absolute().name.lower()).strip("-._") or "image"


def _default_archive(path: Path) -> Path:
    return path / "dist" / f"{_name(path)}.tar"


def _requests(
    args: argparse.Namespace, labels: Mapping[str, str], destinations: Sequence[str]
) -> list[DockerfileRequest]:
    from wain.dockerbuild import DockerfileRequest, read_dockerfile
    from wain.dockerfile import decode, parse
    from wain.names import ArchiveReference, LayoutReference, parse_reference
    from wain.platforms import Platform

    outputs = [parse_reference(text) for text in destinations]
    paths = [ref.path for ref in outputs if isinstance(ref, ArchiveReference | LayoutReference)]
    # A build before may have left its archive there, which is no part of the context that the user wrote.
    before = _default_archive(Path(args.path))
    leave_out = (*([before] if before.is_file() else []), *paths)
    if args.file == "-":
        dockerfile, path = parse(decode(sys.stdin.buffer.read()), name="standard input"), None
    else:
        path = Path(args.file)
        if not path.is_file() and not path.is_absolute() and (Path(args.path) / path).is_file():
            path = Path(args.path) / path
        dockerfile = read_dockerfile(path)
    platforms = tuple(Platform.parse(text) for item in args.platform for text in item.split(",") if text)
    return [
        DockerfileRequest(
            dockerfile=dockerfile,
            path=path,
            context=Path(args.path),
            build_args=dict(_build_arg(text) for text in args.build_arg if "=" in text or text in os.environ),
            target=args.target,
            platform=platform,
            labels=labels,
            leave_out=leave_out,
        )
        for platform in platforms or (Platform.host(),)
    ]


def _build_arg(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f"--build-arg {text!r} has no name", hint="Write NAME=VALUE, or NAME to take it from here.")
    return name, value if equals else os.environ[name]


def _add_mirrors(args: argparse.Namespace, workshop: Workshop) -> None:
    mirrors = dict(workshop.access.mirrors)
    for text in args.base_mirror:
        source, equals, target = text.partition("=")
        if not equals or not source or not target:
            raise UsageError(f"--base-mirror {text!r} is not FROM=TO", hint="Write docker.io=registry.example/mirror.")
        mirrors[source] = target
    workshop.access.mirrors = mirrors


def _reader(workshop: Workshop) -> Reader:
    def read(name: str, platform: Platform) -> Image | Index:
        from wain.transfer import read_image

        workshop.say(f"base {name}")
        return read_image(name, platform=platform, access=workshop.access)

    return read


def _tools(args: argparse.Namespace, workshop: Workshop) -> Tools:
    from wain.commands.build_options import build_flags
    from wain.commands.index_options import index_flags
    from wain.pipsteps import Tools
    from wain.settings import index_settings, wain_settings

    own = index_flags(args)
    wain = wain_settings(Path(args.path))

    def settings(flags: Mapping[str, Setting]) -> IndexSettings:
        return index_settings(None, flags={**own, **flags}, wain=wain)

    return Tools(
        store=workshop.store,
        transport=workshop.transport,
        settings=settings,
        progress=workshop.progress,
        builds=wain.with_builds(build_flags(args)).builds,
        compile=bool(args.compile),
        secrets=dict(_secret(text) for text in args.secret),
    )


def _secret(text: str) -> tuple[str, bytes]:
    """`id=ID[,src=FILE][,env=NAME]` as docker reads it: without either, a variable of the id's name, else a file."""
    import csv

    values = dict(field.partition("=")[::2] for field in next(csv.reader([text]), []))
    name = values.get("id", "")
    if not name or set(values) - {"id", "src", "source", "env", "type"}:
        raise UsageError(f"--secret {text!r} is not id=ID,src=FILE", hint="Or give a variable: id=ID,env=NAME.")
    place = values.get("src") or values.get("source")
    variable = values.get("env") or (name if place is None and name in os.environ else None)
    if variable is not None:
        if variable not in os.environ:
            raise UsageError(f"--secret id={name}: there is no variable {variable}", hint="Set it, or give src=FILE.")
        return name, os.environ[variable].encode("utf-8", "surrogateescape")
    path = Path(place or name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--secret id={name}: {path} cannot be read: {error.strerror}", hint="Check its path."
        ) from error
    if len(data) > 500_000:
        raise UsageError(f"--secret id={name}: {path} has more than 500 kB", hint="Secrets are small files.")
    return name, data


def _print_steps(console: Console, request: DockerfileRequest, plan: StepPlan, engine: str) -> None:
    from wain.handover import is_foreign, previews
    from wain.steps import ENGINE

    given: Mapping[int, Sequence[str]] = {}
    if plan.taker == ENGINE and not is_foreign(request.dockerfile):
        given = previews(request)
    rows = [("line", "who", "instruction", "why")]
    for step in plan.steps:
        text = " ".join(f"{step.instruction.keyword} {step.instruction.arguments}".split())
        why = "; ".join((step.why, *given.get(step.instruction.span.start, ())))
        rows.append((str(step.instruction.line), step.taker, text[:50] + ("…" if len(text) > 50 else ""), why))
    console.say(table(rows, right=frozenset({0})))
    counts = Counter(step.taker for step in plan.steps)
    console.say(", ".join(f"{counts[taker]} {taker}" for taker in ("native", "engine", "refused", "unused")))
    if plan.taker == ENGINE:
        line = next(step.instruction.line for step in plan.steps if step.taker == ENGINE)
        whom = {"auto": "docker, buildah or podman, whichever answers first", "none": "nobody: --engine is none"}
        console.say(f"line {line} has to be run, so the whole file goes to {whom.get(engine, engine)}")


def _summary(console: Console, built: DockerfileBuilt, blobs: Mapping[Digest, str]) -> None:
    rows = [
        (
            " ".join((layer.created_by or f"base layer {number + 1}").split()),
            layer,
            "base" if number < built.base_layers else "",
        )
        for number, layer in enumerate(built.image.layers)
    ]
    console.say(layer_table(rows, blobs))


def _write_metadata(path: Path, built: Sequence[DockerfileBuilt], digest: str, destinations: Sequence[str]) -> None:
    import json

    document = {
        "digest": digest,
        "destinations": list(destinations),
        "images": [
            {
                "platform": str(item.image.platform),
                "digest": item.image.digest,
                "layers": [
                    {"digest": layer.digest, "diff_id": layer.diff_id, "size": layer.size_bytes}
                    for layer in item.image.layers
                ],
            }
            for item in built
        ],
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(path)
