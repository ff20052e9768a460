"""What the installations of an engine's RUNs are given: the files that they would download, from the store.

The Dockerfile is followed as far as it can be without running anything, so that each installation is met with the
files, settings and base that it will have. What it asks for is resolved for the base's Python, and the files are copied
into a folder of their own, which alone the engine sees. Sdists come with the wheels that their builds need.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from wain.actions import Echo, Fails, FileCommand, NeedsEngine, Nothing, PipConfig, PipInstall, Venv
from wain.asked import asked_requirements
from wain.backends import read_build_system
from wain.bases import BaseFacts
from wain.digest import Digest
from wain.dockerbuild import DockerfileRequest, Reader, StageWalk
from wain.dockerfile import Instruction
from wain.engine_installs import EngineInstall, engine_installs
from wain.errors import UsageError, WainError
from wain.filework import CommandFails
from wain.follow import follow
from wain.image import Image
from wain.instructions import apply
from wain.known_images import KnownImage, known_image
from wain.lock import Selected
from wain.mounting import put_mounts
from wain.mounts import mounts
from wain.names import parse_registry_reference
from wain.oci import canonical_json
from wain.pipsteps import Tools, index_settings_of
from wain.platforms import Platform, Target
from wain.pythons import environment_of, find_program
from wain.requirements import RequirementLine, Requirements, parse_requirement
from wain.scopes import platform_args, source_stage
from wain.settings import IndexSettings
from wain.sources import unpack_sdist
from wain.stage import Sources, StageBuild
from wain.steps import ShellVariables, is_remote, run_commands
from wain.trace import Run, Trace
from wain.tree import Tree
from wain.urls import is_loopback

log = logging.getLogger(__name__)

_MAX_DEPTH = 4
_ON_FILES = (Echo, Fails, FileCommand, Nothing, PipConfig, Venv)


class Supply(Struct, frozen=True, kw_only=True):
    """What an installation is given; several where a loop runs one command's text again."""

    installs: tuple[EngineInstall, ...]
    key: str | None
    """The folder with its files, below that of all supplies; None where there are none."""
    why: str
    """How many files there are, or why there are none."""

    @property
    def install(self) -> EngineInstall:
        return self.installs[0]

    @property
    def offset(self) -> int:
        """Where in the file it stands."""
        place = self.install.place
        return self.install.instruction.span.start if place is None else place


class Supplier:
    """Collects the supplies of a Dockerfile's build, below a folder that the engine may read."""

    def __init__(self, request: DockerfileRequest, tools: Tools, read: Reader, folder: Path) -> None:
        self._request = request
        self._tools = tools
        self._folder = folder
        self._walk = StageWalk(request, tools, read)
        self._found: dict[int, list[Supply]] = {}
        self._trace: Trace | None = None
        self._unread: set[str] = set()

    @property
    def bases(self) -> tuple[Image, ...]:
        """The bases that were read on the way."""
        return self._walk.bases

    def supplies(self) -> tuple[Supply, ...]:
        """For each installation of the file what it is given; never fails for want of a file."""
        self._trace = trace_of(self._request, self._known)
        problem = "its stage is not needed"
        try:
            if any(install.action is not None for run in self._trace.runs() for install in engine_installs(run)):
                self._walk.go(self._do)
        except WainError as error:
            problem = _first_line(error.message)
        except RecursionError:
            problem = "folders in the context or a base nest hundreds deep"
        made: list[Supply] = []
        for run in self._trace.runs():
            made += self._found.get(id(run.instruction)) or nothing_for(run, problem)
        return tuple(made)

    def moved_bases(self) -> dict[str, str]:
        """Bases that were read from a mirror: their names in the file, and where they are, as contexts."""
        return {
            name: place
            for name, image in self._walk.named_bases.items()
            if (place := _elsewhere(name, image)) is not None
        }

    def is_on_loopback(self) -> bool:
        """Whether every image that the file names came from a registry of this machine, which speaks plain HTTP."""
        stages = self._request.dockerfile.stages
        named = {
            reference
            for stage in stages
            for instruction in stage.instructions
            for reference in (instruction.flag("from"), *(mount.from_ for mount in mounts(instruction)))
            if reference and source_stage(stages, stage, reference) is None
        }
        images = self._walk.named_bases
        if self._unread or not images or named - images.keys():
            return False
        return all(_is_on_loopback(image) for image in images.values())

    def _known(self, name: str | None) -> KnownImage:
        """What is known of a base: from the image itself, else by its name."""
        by_name = known_image(name)
        if not name or name == "scratch":
            return by_name
        try:
            image = self._walk.image(name, self._request.platform, 1)
        except WainError as error:
            log.debug("%s is not read: %s", name, error.message)
            self._unread.add(name)
            return by_name
        runtime = image.config.runtime
        users = dict(by_name.users)
        user = runtime.user.partition(":")[0] if runtime.user else None
        if user and user not in (*users, "root", "nobody"):
            users[user] = (user if user.isdigit() else "", "/" if user.isdigit() else f"/home/{user}")
        return replace(
            by_name,
            user=user or None,
            users=users,
            env=runtime.environment(),
            workdir=runtime.working_dir or "/",
        )

    def _do(self, state: StageBuild, instruction: Instruction, sources: Sources) -> None:
        """Follow one instruction as far as it can be without running anything."""
        if instruction.keyword == "RUN":
            self._run(state, instruction, sources)
        if not _is_followed(state, instruction):
            state.scope.apply(instruction)
            return
        try:
            apply(state, instruction, sources)
        except (WainError, NeedsEngine) as error:
            # What it makes will be missing; whoever asks for it is told so.
            log.debug("line %d is not followed: %s", instruction.line, error)
            state.scope.apply(instruction)

    def _run(self, state: StageBuild, instruction: Instruction, sources: Sources) -> None:
        assert self._trace is not None
        run = next((one for one in self._trace.runs() if one.instruction is instruction), None)
        if run is None:
            return
        seen, secrets, problem = state.child(state.scope), dict[str, str](), ""
        try:
            put_mounts(seen, instruction, sources, secrets)
        except (WainError, NeedsEngine) as error:
            problem = _first_line(error.message if isinstance(error, WainError) else error.reason)
        made: list[Supply] = []
        for installs in _by_place(run):
            try:
                if problem:
                    raise NeedsEngine(problem)
                files: dict[str, Path] = {}
                for install in installs:
                    files.update(self._files(install, seen, secrets))
                key = self._put(files)
                made.append(
                    Supply(installs=installs, key=key, why=f"{len(files)} file{'s' if len(files) != 1 else ''}")
                )
                continue
            except (WainError, NeedsEngine) as error:
                why = _first_line(error.message if isinstance(error, WainError) else error.reason)
            except CommandFails as error:
                why = f"before the build {error}"
            except OSError as error:
                why = f"its files cannot be copied: {error.strerror}"
            made.append(Supply(installs=installs, key=None, why=why))
        self._found[id(instruction)] = made

    def _files(self, install: EngineInstall, state: StageBuild, secrets: Mapping[str, str]) -> dict[str, Path]:
        """The files by name, in the store."""
        if install.action is None:
            raise NeedsEngine(install.reason)
        action, call = install.action, install.call
        env = {**secrets, **{name: value for name, value in call.env.items() if value is not None}}
        cwd = call.cwd or state.workdir()
        facts = state.facts()
        _check_python(action, state.tree, facts, env, cwd)
        settings = index_settings_of(action, state.tree, facts, env, self._tools)
        if settings.no_index:
            raise NeedsEngine("it asks no index")
        if ":all:" in settings.no_binary:
            raise NeedsEngine("it builds everything, its build tools among it")
        with tempfile.TemporaryDirectory(prefix="wain-requirements-") as folder:
            requirements = asked_requirements(action, state.tree, env, cwd, Path(folder)).requirements
            if action.is_uv and any(_is_remote(line) for line in (*requirements.lines, *requirements.constraints)):
                raise NeedsEngine("uv fetches what is named by its address itself")
            return self._resolved(requirements, facts.target, settings, depth=0)

    def _resolved(
        self, requirements: Requirements, target: Target, settings: IndexSettings, *, depth: int
    ) -> dict[str, Path]:
        from wain.locking import fetch_selected, lock_for_requirements

        tools = self._tools
        lock = lock_for_requirements(
            requirements, targets=[target], settings=settings, store=tools.store, transport=tools.transport
        )
        selected = lock.select(target, allow_sdist=settings.allows_sdist, prefer_sdist=settings.wants_sdist)
        for item in selected:
            if item.kind == "vcs":
                raise NeedsEngine(f"{item.name} is built from a repository")
        found: dict[str, Path] = {}
        fetched = fetch_selected(
            selected,
            store=tools.store,
            transport=tools.transport,
            settings=settings,
            project=requirements.path.parent,
            progress=tools.progress,  # type: ignore[arg-type]
        )
        for item, path, _ in fetched:
            assert item.file is not None
            found[item.file.filename] = path
        builds = [(item, path) for item, path, _ in fetched if item.kind in ("sdist", "archive")]
        projects = [
            (item, Path(item.package.directory.path, item.package.directory.subdirectory or ""))
            for item in selected
            if item.package.directory is not None
        ]
        for item, place in (*builds, *projects):
            if depth >= _MAX_DEPTH:
                raise NeedsEngine(f"{item.name} is a build requirement of build requirements without end")
            needs = _build_requires(item, place)
            inner = replace(settings, constraints=settings.build_constraints, no_binary=())
            lines = tuple(parse_requirement(text, f"the build of {item.name}") for text in dict.fromkeys(needs))
            asked = Requirements(path=requirements.path.parent / "build-requirements.txt", lines=lines)
            found.update(self._resolved(asked, target, inner, depth=depth + 1))
        return found

    def _put(self, files: Mapping[str, Path]) -> str:
        """A folder with copies of the files: an engine never sees the store itself."""
        key = Digest.of(canonical_json({name: path.name for name, path in files.items()})).hex[:16]
        place = self._folder / key
        if not place.is_dir():
            place.mkdir(mode=0o755)
            for name, path in files.items():
                shutil.copyfile(path, place / name)
                (place / name).chmod(0o644)
            place.chmod(0o755)
        return key


def without_supplies(request: DockerfileRequest, why: str = "") -> tuple[Supply, ...]:
    """The installations of a file that get nothing, with what is known of that from the text alone."""
    return tuple(supply for run in trace_of(request).runs() for supply in nothing_for(run, why))


def nothing_for(run: Run, why: str = "") -> list[Supply]:
    """The installations of a RUN without files: why they are given none, as far as that is known."""
    made = []
    for installs in _by_place(run):
        reason = next((install.reason for install in installs if install.reason), "")
        made.append(Supply(installs=installs, key=None, why=reason or why))
    return made


def _by_place(run: Run) -> list[tuple[EngineInstall, ...]]:
    """A loop runs one command's text several times: what it is given is what all of them need."""
    places: dict[object, list[EngineInstall]] = {}
    for number, install in enumerate(engine_installs(run)):
        places.setdefault(("at", install.place) if install.place is not None else number, []).append(install)
    return [tuple(installs) for installs in places.values()]


def _elsewhere(name: str, image: Image) -> str | None:
    """Where a base was read, if that is not where its name says."""
    try:
        reference = parse_registry_reference(name)
    except UsageError:
        return None
    origin = image.layers[0].origin if image.layers else None
    if origin is None or origin == f"{reference.registry}/{reference.repository}":
        return None
    return f"docker-image://{origin}{'@' if reference.digest else ':'}{reference.selector}"


def _is_on_loopback(image: Image) -> bool:
    origin = image.layers[0].origin if image.layers else None
    return origin is not None and is_loopback(urlsplit(f"//{origin}").hostname or "")


def trace_of(request: DockerfileRequest, base: Callable[[str | None], KnownImage] = known_image) -> Trace:
    """The request's Dockerfile, followed with its build arguments."""
    return follow(
        request.dockerfile,
        build_args=request.build_args,
        platform={**platform_args(str(request.platform), str(Platform.host()))},
        base=base,
    )


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 160 else f"{line[:159]}…"


def _is_followed(state: StageBuild, instruction: Instruction) -> bool:
    """Whether what an instruction does can be done here without running or fetching anything."""
    if instruction.keyword == "ADD":
        return not any(is_remote(state.text(word, instruction)) for word in instruction.values)
    if instruction.keyword != "RUN":
        return True
    values = {name: value for name, value in state.scope.variables().items() if value is not None}
    try:
        commands = list(run_commands(instruction, ShellVariables(values), state.workdir(), state.shell))
    except (NeedsEngine, WainError):
        return False
    return all(isinstance(command.action, _ON_FILES) for command in commands)


def _check_python(action: PipInstall, tree: Tree, facts: BaseFacts, env: Mapping[str, str], cwd: str) -> None:
    """Whether an installation is for the base's Python, as far as that is known; what the RUN itself made is not.

    :raises NeedsEngine: when it is another one.
    """
    if action.is_uv:
        python = action.python or env.get("UV_PYTHON") or ""
        number = python.removeprefix("python").removeprefix("cpython-")
        if number[:1].isdigit() and not f"{facts.python}.".startswith(f"{number}."):
            raise NeedsEngine(f"Python {number} is not the base's")
        return
    found = find_program(tree, action.program, env, cwd)
    if found is not None:
        environment_of(tree, action.program, facts, env, cwd)
        return
    digits = action.program.rpartition("/")[2].lstrip("abcdefghijklmnopqrstuvwxyz")
    if digits not in ("", "3", facts.python.short):
        raise NeedsEngine(f"{action.program} is not the base's Python {facts.python.short}")


def _is_remote(line: RequirementLine) -> bool:
    return line.url is not None and "://" in line.url and not line.url.startswith("file:")


def _build_requires(item: Selected, place: Path) -> tuple[str, ...]:
    """What the build of an sdist or a project's folder needs, before its back end is asked."""
    with tempfile.TemporaryDirectory(prefix="wain-sdist-") as folder:
        if item.file is not None:
            place = unpack_sdist(place, Path(folder), filename=item.file.filename) / (item.package.subdirectory or "")
        requires = read_build_system(place, what=item.name).requires
    # setuptools before 70.1 has its back end ask for wheel.
    return (*requires, *(["wheel"] if any(text.startswith("setuptools") for text in requires) else []))
