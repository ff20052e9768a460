"""Dockerfile + context + bases -> Image, without a container.

Stages that the target needs are built in the file's order; each is a tree of files with a configuration, and only the
target's becomes layers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field
from msgspec.structs import replace

from wain.actions import NeedsEngine
from wain.bases import BaseFacts, base_facts
from wain.context import ignore_file, read_context
from wain.dockerfile import Dockerfile, Instruction, Stage, dockerfile_error, parse
from wain.errors import DockerfileError, EngineError, ImageError, UsageError
from wain.ignore import DockerIgnore
from wain.image import Image, Index, check_image, padded_history
from wain.instructions import apply
from wain.layers import Layer
from wain.oci import Config, Runtime
from wain.pipsteps import Tools
from wain.platforms import Platform
from wain.scopes import global_scope, parent_stage, platform_args, source_stage, stage_scope
from wain.stage import Sources, StageBuild
from wain.steps import DEFAULT_PATH, Step, StepPlan, find_target, is_standard_syntax, needed_stages, plan
from wain.store import Store
from wain.tree import Tree, base_tree
from wain.ustar import ZIP_EPOCH

log = logging.getLogger(__name__)

MAX_LAYERS = 120

Reader = Callable[[str, Platform], Image | Index]
"""Gives a base by its reference."""

ENGINE_HINT = (
    "wain runs nothing in the image itself: an engine does (--engine docker, buildah or podman). Or take a base that"
    " has what this step makes, or `packages` on the built-in base of a project; wain fix mends what it can. wain build"
    " --dry-run shows every such step."
)


class EngineNeeded(EngineError):
    """A step has to be run: the message names its file, line and command."""


class DockerfileRequest(Struct, frozen=True, kw_only=True):
    """What is wanted of a build of a Dockerfile."""

    dockerfile: Dockerfile
    path: Path | None
    """Of the Dockerfile, where it is a file."""
    context: Path
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    platform: Platform = field(default_factory=Platform.host)
    labels: Mapping[str, str] = field(default_factory=dict)
    leave_out: tuple[Path, ...] = ()
    """The build's own outputs, which never go in."""


class DockerfileBuilt(Struct, frozen=True, kw_only=True):
    """An image, with how many of its layers are the base's."""

    image: Image
    base_layers: int


def dry_run(request: DockerfileRequest) -> StepPlan:
    """Who would take each instruction.

    :raises DockerfileError: when the file is wrong.
    """
    return plan(
        request.dockerfile, build_args=request.build_args, target=request.target, platform=str(request.platform)
    )


def build_dockerfile(request: DockerfileRequest, tools: Tools, read: Reader) -> DockerfileBuilt:
    """The image of a Dockerfile's target.

    :param read: gives a base by its reference.
    :raises EngineNeeded: when a step has to be run, with its file, line and command.
    :raises DockerfileError: when a step would fail.
    :raises WainError: of every kind that bases, indexes and files can have.
    """
    try:
        return _Build(request, tools, read).run()
    except RecursionError as error:
        raise DockerfileError(
            f"{request.dockerfile.name}: folders in the context or a base nest hundreds deep",
            hint="Name the deep folder in .dockerignore, or use another base.",
        ) from error


class StageWalk:
    """The stages that a Dockerfile's target needs, instruction by instruction, with bases and context at hand."""

    def __init__(self, request: DockerfileRequest, tools: Tools, read: Reader) -> None:
        self._request = request
        self._tools = tools
        self._read = read
        self._file = request.dockerfile
        self._stages = self._file.stages
        self._context: Tree | None = None
        self._images: dict[tuple[str, Platform], Image] = {}
        self._built: dict[int, StageBuild] = {}

    def go(self, do: Callable[[StageBuild, Instruction, Sources], None]) -> StageBuild:
        """The target's stage after its last instruction, each having been done by `do`.

        :raises WainError: of every kind that bases and the context can have, and of what `do` raises.
        """
        request = self._request
        target = find_target(self._file, request.target)
        known: dict[str, str | None] = {**platform_args(str(request.platform), str(Platform.host()))}
        globals_ = global_scope(self._file, build_args=request.build_args, platform=known)
        needed = needed_stages(self._file, target, globals_)
        for stage in self._stages:
            if stage.index not in needed:
                continue
            image = globals_.expand(stage.image, stage.opening).value or ""
            parent = parent_stage(self._stages, stage, image)
            scope = stage_scope(globals_, self._built[parent.index].scope if parent is not None else None)
            if parent is not None:
                state = self._built[parent.index].child(scope)
            else:
                platform = request.platform
                if stage.platform is not None:
                    text = globals_.expand(stage.platform, stage.opening).value
                    platform = Platform.parse(text) if text else platform
                state = self._begin(stage, image, platform)
                state.scope = stage_scope(globals_, None, base_env=state.runtime.environment())
            self._built[stage.index] = state
            sources = Sources(context=self._files, named=lambda name, at=stage: self._named(name, at))  # type: ignore[misc]
            triggers = state.runtime.on_build or ()
            if triggers:
                state.runtime = replace(state.runtime, on_build=None)
                for text in triggers:
                    for instruction in parse(f"{text}\n", name=f"{stage.image} ONBUILD").instructions:
                        do(state, instruction, sources)
            for instruction in stage.instructions:
                do(state, instruction, sources)
        return self._built[target]

    def _begin(self, stage: Stage, name: str, platform: Platform) -> StageBuild:
        store = self._tools.store
        if name == "scratch":
            runtime = Runtime(env=(f"PATH={DEFAULT_PATH}",), working_dir="/")
            base = Image(config=Config(platform=platform, runtime=runtime))
            tree = Tree()
        else:
            if not name:
                raise dockerfile_error(
                    self._file.name, stage.opening.line, f"{stage.image} comes to nothing", "Give it with --build-arg."
                )
            base = self.image(name, platform, stage.opening.line)
            tree = base_tree(base.layers, store)
            runtime = base.config.runtime
            if "PATH" not in runtime.environment():
                runtime = runtime.with_env({"PATH": DEFAULT_PATH})
        facts: list[BaseFacts] = []

        def known() -> BaseFacts:
            if not facts:
                facts.append(base_facts(base, store))
            return facts[0]

        return StageBuild(
            name=self._file.name,
            tree=tree,
            runtime=runtime,
            base=base,
            scope=stage_scope(global_scope(self._file), None),
            facts=known,
            tools=self._tools,
            shell=runtime.shell or ("/bin/sh", "-c"),
            author=base.config.author,
            now=_epoch() or ZIP_EPOCH,
        )

    @property
    def bases(self) -> tuple[Image, ...]:
        """The images that were read."""
        return tuple(self._images.values())

    @property
    def named_bases(self) -> dict[str, Image]:
        """They by the name that the file has for them."""
        return {name: image for (name, _), image in self._images.items()}

    def image(self, name: str, platform: Platform, line: int) -> Image:
        """The image that a FROM or `--from` on `line` names.

        :raises WainError: of every kind that reading it can have.
        """
        key = (name, platform)
        if key not in self._images:
            try:
                found = self._read(name, platform)
            except UsageError as error:
                raise dockerfile_error(self._file.name, line, error.message, error.hint) from error
            image = found.image_for(platform) if isinstance(found, Index) else found
            store = self._tools.store
            self._images[key] = replace(
                image, layers=tuple(replace(layer, source=_keeping(layer, store)) for layer in image.layers)
            )
        return self._images[key]

    def _files(self) -> Tree:
        if self._context is None:
            request = self._request
            if not request.context.is_dir():
                raise UsageError(f"{request.context} is no folder", hint="Name the folder that COPY copies from.")
            ignore = DockerIgnore.read(ignore_file(request.context, request.path))
            self._context = read_context(request.context, ignore, leave_out=request.leave_out)
        return self._context

    def _named(self, name: str, stage: Stage) -> Tree:
        found = source_stage(self._stages, stage, name)
        if found is not None:
            return self._built[found.index].tree
        if name == "scratch":
            return Tree()
        image = self.image(name, self._request.platform, stage.opening.line)
        return base_tree(image.layers, self._tools.store)


class _Build(StageWalk):
    def run(self) -> DockerfileBuilt:
        request = self._request
        self._file.validate()
        for directive in self._file.directives:
            if directive.name == "syntax" and not is_standard_syntax(directive.value):
                raise self._engine_step(directive.line, f"the front end {directive.value} reads this file")
        early = plan(self._file, build_args=request.build_args, target=request.target, platform=str(request.platform))
        if (step := _certain(early)) is not None:
            raise self._engine_step(step.instruction.line, step.why, step.instruction)
        return self._finish(self.go(self._apply))

    def _apply(self, state: StageBuild, instruction: Instruction, sources: Sources) -> None:
        try:
            apply(state, instruction, sources)
        except NeedsEngine as need:
            raise self._engine_step(instruction.line, need.reason, instruction) from need

    def _engine_step(self, line: int, why: str, instruction: Instruction | None = None) -> EngineNeeded:
        what = f"{instruction.keyword} {instruction.arguments}"[:120] if instruction is not None else ""
        shown = f" ({what})" if what else ""
        return EngineNeeded(
            f"{self._file.name}:{line}: {why}{shown}",
            hint=ENGINE_HINT,
        )

    def _finish(self, state: StageBuild) -> DockerfileBuilt:
        request = self._request
        assert state.base is not None
        base = state.base.to_oci()
        layers, history = state.layers(self._tools.store)
        if len(base.layers) + len(layers) > MAX_LAYERS:
            raise ImageError(
                f"the image would have {len(base.layers) + len(layers)} layers, and runtimes take {MAX_LAYERS}",
                hint="Join steps, or use a base with fewer layers.",
            )
        runtime = state.runtime
        if request.labels:
            runtime = replace(runtime, labels={**runtime.labels, **request.labels})
        created = datetime.fromtimestamp(self._time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = replace(
            base.config,
            runtime=runtime,
            author=state.author,
            created=created,
            diff_ids=(*base.config.diff_ids, *(layer.diff_id for layer in layers)),
            history=(*padded_history(base.config), *(replace(line, created=created) for line in history)),
        )
        image = replace(base, layers=(*base.layers, *layers), config=config, source_config=None, source_manifest=None)
        check_image(image)
        return DockerfileBuilt(image=image, base_layers=len(base.layers))

    def _time(self) -> int:
        """The image's time: SOURCE_DATE_EPOCH, else that of the newest file of the context."""
        epoch = _epoch()
        if epoch is not None:
            return epoch
        times = [node.mtime for _, node in self._context.walk()] if self._context is not None else []
        return max([ZIP_EPOCH, *times])


def _certain(early: StepPlan) -> Step | None:
    """The first step that has to be run whatever the base is: told before anything is fetched."""
    return early.first("engine")


def _epoch() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdigit() else None


def _keeping(layer: Layer, store: Store) -> Callable[[], BinaryIO]:
    """Opens a base's layer from the store, where it is put when it is read the first time."""

    def opened() -> BinaryIO:
        if store.has(layer.digest):
            return store.reader(layer.digest)
        with layer.source() as stream:
            store.put(stream, kind="base", expected=layer.digest, note="a layer of a base")
        return store.reader(layer.digest)

    return opened


def read_dockerfile(path: Path) -> Dockerfile:
    """The parsed file.

    :raises DockerfileError: when it cannot be read, or does not parse.
    """
    from wain.dockerfile import decode

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DockerfileError(f"{path} cannot be read: {error.strerror}", hint="Name the file with -f.") from error
    return parse(decode(data), name=path.name)
