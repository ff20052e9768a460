"""A Dockerfile handed over to an engine: the file as it is, with what its installations are given put into their RUNs.

The engine sees the user's file, edited in the RUNs that run pip or uv: a mount with the files that they would download,
and in front of each command the variables that make it use these alone and keep no cache. Nothing of that reaches the
image: the mount lies below /dev, which is in no layer, and the history is put back as the file has it.

Sources: Dockerfile reference (RUN --mount, syntax); docker buildx build and buildah-build (named build contexts).
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from wain.context import ignore_file
from wain.digest import Digest
from wain.dockerbuild import DockerfileBuilt, DockerfileRequest, Reader
from wain.dockerfile import Dockerfile, encode
from wain.engines import BuildEngine, EngineBuild, EngineFailed, loaded, run_build
from wain.errors import UsageError
from wain.image import Image, Index, check_image
from wain.layers import Entry, compressed_layer, files_layer
from wain.oci import JSON, LAYER_TAR, Config, canonical_json
from wain.pipsteps import Tools
from wain.platforms import Platform
from wain.steps import is_standard_syntax
from wain.store import Store
from wain.supplies import Supplier, Supply, nothing_for, trace_of, without_supplies

log = logging.getLogger(__name__)

_CONTEXT = "wain-files"
_PLACE = "/dev/wain"
_LINKS = {
    "pip": (("PIP_FIND_LINKS", "{place}"), ("PIP_NO_INDEX", "1")),
    # uv has no variable for "no index"; offline, it takes what its find-links have.
    "uv": (("UV_FIND_LINKS", "{place}"), ("UV_OFFLINE", "1")),
}
# What buildah writes of the container that it built in.
_OF_CONTAINERS = frozenset(
    "Hostname Domainname AttachStdin AttachStdout AttachStderr OpenStdin StdinOnce Tty Image".split()
)
_COMPLAINT = re.compile(r"\s*error|.*did not complete successfully", re.IGNORECASE)
_BINDS = re.compile(r"--mount=(?!\S*type=(?:cache|tmpfs|secret|ssh))")
# What pip and uv say where they find too little.
_MISSES = re.compile(
    r"no matching distribution|could not find a version|resolutionimpossible|no solution found|network connectivity",
    re.IGNORECASE,
)


class EngineOptions(Struct, frozen=True, kw_only=True):
    """What an engine's build is told besides the request."""

    secrets: tuple[str, ...] = ()
    """As `--secret` takes them."""
    network: str | None = None
    insecure: bool = False
    more: tuple[str, ...] = ()


class Edited(Struct, frozen=True, kw_only=True):
    """A Dockerfile with its RUNs edited, and what was put in."""

    text: str
    mounts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    """As history shows them."""

    def restored(self, created_by: str) -> str:
        """A line of history without what was put in."""
        text = created_by
        mounted = False
        for mount in self.mounts:
            mounted = mounted or mount in text
            text = text.replace(f"{mount} ", "")
        for prefix in self.prefixes:
            text = text.replace(prefix, "")
        if mounted and not _BINDS.search(text):
            # buildah adds the digest of what was mounted from contexts and stages.
            text = re.sub(r":sha256:[0-9a-f]{64}\Z", "", text)
        return text

    def blamed(self, printed: str) -> bool:
        """Whether an engine failed because a RUN needs more than the files that it was given."""
        if not _MISSES.search(printed):
            return False
        return any(f"{_PLACE}/" in line for line in printed.splitlines() if _COMPLAINT.match(line))


def edit(dockerfile: Dockerfile, supplies: Iterable[Supply], *, source: str | None = None) -> Edited:
    """The file with what its installations are given; every byte outside of that is as it was.

    :param source: what their files are mounted from; without it they are only kept from leaving a cache.
    """
    text = dockerfile.text
    added: dict[int, str] = {}
    mounted: dict[int, list[str]] = {}
    prefixes: set[str] = set()
    for supply in supplies:
        install = supply.install
        if install.place is None:
            continue
        variables = dict(one.switch for one in supply.installs if one.switch is not None)
        if supply.key is not None and source is not None:
            place = f"{_PLACE}/{supply.key}"
            for tool in dict.fromkeys(one.tool for one in supply.installs):
                variables |= {name: value.format(place=place) for name, value in _LINKS[tool]}
            flag = f"--mount=type=bind,from={source},source={supply.key},target={place}"
            flags = mounted.setdefault(install.instruction.keyword_end, [])
            if flag not in flags:
                flags.append(flag)
        if not variables:
            continue
        words = ["env", *(f"{name}={value}" for name, value in variables.items())]
        # What the file has itself must not be taken for what was put in.
        while " ".join((*words, "")) in text:
            words.append(f"WAIN={len(words)}")
        plain, quoted = " ".join((*words, "")), "".join(f'"{word}", ' for word in words)
        is_json = install.instruction.is_json
        # BuildKit's history has the words of the JSON form, buildah's its text.
        prefixes |= {plain, quoted} if is_json else {plain}
        added[install.place] = quoted if is_json else plain
    for at, flags in mounted.items():
        added[at] = "".join(f" {flag}" for flag in flags)
    pieces: list[str] = []
    position = 0
    for at, piece in sorted(added.items()):
        pieces += [text[position:at], piece]
        position = at
    return Edited(
        text="".join((*pieces, text[position:])),
        mounts=tuple(dict.fromkeys(flag for flags in mounted.values() for flag in flags)),
        prefixes=tuple(sorted(prefixes, key=len, reverse=True)),
    )


def _source_name(dockerfile: Dockerfile, supplies: Sequence[Supply], engine: BuildEngine) -> str:
    """What the engine calls the files: a context, or where there are none, an image, named by what is in it."""
    taken = {stage.name for stage in dockerfile.stages}
    name = "wain-files"
    while name in taken:
        name += "-"
    if engine.has_contexts:
        return name
    keys: list[JSON] = [*sorted({supply.key for supply in supplies if supply.key is not None})]
    return f"{name}:{Digest.of(canonical_json(keys)).hex[:16]}"


def why_no_files(dockerfile: Dockerfile, engine: BuildEngine) -> str:
    """Why nothing can be mounted into the RUNs of a file; empty where it can."""
    for directive in dockerfile.directives:
        if directive.name != "syntax":
            continue
        if not is_standard_syntax(directive.value):
            return f"the front end {directive.value} reads the file"
        version = re.search(r":(\d+)\.(\d+)", directive.value)
        least = (1, 4) if engine.has_contexts else (1, 2)
        if engine.name == "docker" and version and (int(version[1]), int(version[2])) < least:
            return f"the front end {directive.value} mounts no named contexts"
    return engine.why_no_mounts


def build_with_engine(
    request: DockerfileRequest,
    tools: Tools,
    read: Reader,
    engine: BuildEngine,
    options: EngineOptions,
    *,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> DockerfileBuilt:
    """The image of a Dockerfile's target, built by an engine.

    :param say: takes what is decided; `tell`, what the engine prints.
    :raises EngineError: when the engine fails.
    :raises ImageError: when what it makes is no image.
    """
    dockerfile = request.dockerfile
    with tempfile.TemporaryDirectory(prefix="wain-engine-") as name:
        folder = Path(name)
        files = folder / "files"
        files.mkdir(mode=0o755)
        supplier = Supplier(request, tools, read, files)
        problem = why_no_files(dockerfile, engine)
        supplies = without_supplies(request, problem) if problem else supplier.supplies()
        if is_foreign(dockerfile):
            supplies = ()
        lines = (f"{dockerfile.name}:{dockerfile.position(one.offset)[0]}: {told(one)}" for one in supplies)
        for line in dict.fromkeys(lines):
            say(line)
        contexts = supplier.moved_bases()
        if contexts and not engine.has_contexts:
            say(f"{engine.name} without buildx reads {', '.join(contexts)} itself, and from no mirror")
            contexts = {}
        source = _source_name(dockerfile, supplies, engine)
        options = replace(options, insecure=options.insecure or supplier.is_on_loopback())
        edited = edit(dockerfile, supplies, source=source)
        try:
            if not edited.mounts:
                image = _run(request, engine, options, edited, contexts, folder, tell)
            elif engine.has_contexts:
                image = _run(request, engine, options, edited, {**contexts, source: str(files)}, folder, tell)
            else:
                with loaded(engine, _files_image(files, request.platform, tools.store), source, folder):
                    image = _run(request, engine, options, edited, contexts, folder, tell)
        except EngineFailed as error:
            if not edited.blamed(error.tail):
                raise
            say("the files from the store are not enough for what this step asks for; once more, and it asks the index")
            edited = edit(dockerfile, supplies)
            image = _run(request, engine, options, edited, contexts, folder, tell)
        return _finished(image, edited, supplier.bases, tools.store)


def is_foreign(dockerfile: Dockerfile) -> bool:
    """Whether a front end of its own reads the file: nobody else knows its language."""
    return any(one.name == "syntax" and not is_standard_syntax(one.value) for one in dockerfile.directives)


def told(supply: Supply) -> str:
    """What an installation is given, for people."""
    what = f"gets {supply.why} from the store" if supply.key is not None else f"asks the index itself: {supply.why}"
    return f"{supply.install.told} {what}"


def previews(request: DockerfileRequest) -> Mapping[int, Sequence[str]]:
    """By the offset of its RUN, what each installation will be given, as far as the file alone tells."""
    found: dict[int, list[str]] = {}
    for run in trace_of(request).runs():
        has_python = run.stage.base.python or "python" in (run.stage.root_image or "")
        for supply in nothing_for(run):
            if supply.why:
                told = f"asks the index itself: {supply.why}"
            else:
                told = f"gets its wheels from the store{'' if has_python else ' if the base has its Python'}"
            found.setdefault(run.instruction.span.start, []).append(f"{supply.install.told} {told}")
    return found


def _run(
    request: DockerfileRequest,
    engine: BuildEngine,
    options: EngineOptions,
    edited: Edited,
    contexts: dict[str, str],
    folder: Path,
    tell: Callable[[str], None],
) -> Image:
    path = folder / (request.path.name if request.path is not None else "Dockerfile")
    path.write_bytes(encode(edited.text))
    ignore = path.with_name(f"{path.name}.dockerignore")
    ignore.write_bytes(_ignored(request))
    wanted = EngineBuild(
        dockerfile=path,
        ignore=ignore,
        context=request.context,
        contexts=contexts,
        build_args=request.build_args,
        target=request.target,
        platform=None if request.platform == Platform.host() else str(request.platform),
        labels=request.labels,
        secrets=options.secrets,
        network=options.network,
        insecure=options.insecure,
        more=options.more,
    )
    try:
        found = run_build(engine, wanted, folder, tell=tell)
    except EngineFailed as error:
        line = re.findall(rf"(?m)^{re.escape(path.name)}:(\d+)$", error.tail)
        where = f"{request.dockerfile.name}:{line[-1]}: " if line else ""
        raise EngineFailed(f"{where}{edited.restored(error.message)}", hint=error.hint, tail=error.tail) from error
    return found.image_for(request.platform) if isinstance(found, Index) else found


def _files_image(files: Path, platform: Platform, store: Store) -> Image:
    """An image of nothing but the files, for an engine that mounts images alone."""
    entries = [
        Entry(
            path=f"{place.parent.name}/{place.name}",
            kind="file",
            size_bytes=place.stat().st_size,
            open_data=_opener(place),
        )
        for place in sorted(files.glob("*/*"))
    ]
    folders = [Entry(path=place.name, kind="directory", mode=0o755) for place in sorted(files.iterdir())]
    layer = files_layer([*folders, *entries], store=store, created_by="what installations are given")
    return Image(config=Config(platform=platform)).append(layer)


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _ignored(request: DockerfileRequest) -> bytes:
    """What is left out of the context: what the user's file says, and the build's own outputs."""
    if not request.context.is_dir():
        raise UsageError(f"{request.context} is no folder", hint="Name the folder that COPY copies from.")
    path = ignore_file(request.context, request.path)
    text = path.read_bytes() if path.is_file() else b""
    if not text.endswith(b"\n") and text:
        text += b"\n"
    top = request.context.absolute()
    outputs = {out.absolute() for out in request.leave_out}
    places = sorted({_outermost(out, top, outputs) for out in outputs if out.is_relative_to(top) and out != top})
    lines = [str(place.relative_to(top)) for place in places]
    return text + b"".join(b"/" + line.encode("utf-8", "surrogateescape") + b"\n" for line in lines)


def _outermost(output: Path, top: Path, outputs: Collection[Path]) -> Path:
    """An output, or the folder that has nothing but outputs."""
    place = output
    while place.parent != top and place.parent.is_dir():
        if any(child != place and child not in outputs for child in place.parent.iterdir()):
            break
        place = place.parent
    return place


def _finished(image: Image, edited: Edited, bases: Sequence[Image], store: Store) -> DockerfileBuilt:
    """The image with the bases' own layers, the others compressed, and its history as the file has it."""
    known = {
        layer.diff_id: layer
        for base in reversed(bases)
        for layer in base.to_oci().layers
        if layer.media_type != LAYER_TAR
    }
    converted = image.to_oci()
    runtime = converted.config.runtime
    others = {name: value for name, value in runtime.others.items() if name not in _OF_CONTAINERS}
    layers = tuple(known.get(layer.diff_id) or compressed_layer(layer, store) for layer in converted.layers)
    config = replace(
        converted.config,
        runtime=replace(runtime, others=others),
        history=tuple(
            replace(line, created_by=edited.restored(line.created_by)) if line.created_by else line
            for line in converted.config.history
        ),
    )
    created = _created_by(config, len(layers))
    layers = tuple(replace(layer, created_by=text) for layer, text in zip(layers, created, strict=True))
    changed = config != converted.config
    made = replace(
        converted,
        layers=layers,
        config=config,
        source_config=None if changed else converted.source_config,
        source_manifest=None,
    )
    check_image(made)
    count = 0
    while count < len(layers) and layers[count].diff_id in known:
        count += 1
    return DockerfileBuilt(image=made, base_layers=count)


def _created_by(config: Config, count: int) -> list[str]:
    texts = [line.created_by or "" for line in config.history if not line.empty_layer]
    return [*[""] * (count - len(texts)), *texts][:count]
