"""From a project's folder to its images: chooses Python and base, locks, fetches, builds. Writes no image.

Everything that needs the network happens here, in this order: the base, the lock, the wheels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wain.bases import LABEL, base_facts
from wain.build import Built, WheelInput, build, build_dependencies
from wain.choose import PythonChoice, choose_python
from wain.debian import SUITES, BaseLock, Mirrors, base_image, debian_mirrors, resolve_base
from wain.digest import Digest
from wain.errors import (
    DebianError,
    ImageError,
    LockError,
    NotFound,
    PythonError,
    StoreError,
    TransferError,
    UsageError,
)
from wain.fetching import Progress
from wain.image import Image, Index
from wain.index import PackageIndexes
from wain.lock import Lock, Selected
from wain.locking import fetch_selected, find_lock, lock_for, make_lock, select_for
from wain.names import ArchiveReference, RegistryReference, parse_reference
from wain.oci import JSON, Config, Runtime
from wain.pipconf import Setting
from wain.platforms import Platform, Target
from wain.project import Project, load_project
from wain.reuse import KnownLayer, KnownWheels, Reuse, Source, layers_of
from wain.settings import IndexSettings, WainSettings, index_settings, wain_settings
from wain.store import Store, recipe_key
from wain.transport import Transport
from wain.wheelhouse import build_selected
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.bases import BaseFacts
    from wain.distribution import Access
    from wain.sdists import BuiltWheel

log = logging.getLogger(__name__)

REMEMBERED_SECONDS = 600
"""How long a choice of the base's packages holds that no lock has written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a build; where a field says nothing, `[tool.wain]` does, then the default."""

    path: Path
    base: str | None = None
    python: str | None = None
    platforms: tuple[Platform, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    locked: bool = False
    offline: bool = False
    refresh: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    index_flags: Mapping[str, Setting] = field(default_factory=dict, repr=False)
    leave_out: tuple[Path, ...] = ()
    cache_from: tuple[str, ...] = ()
    """Images whose layers are trusted and taken where they fit."""
    verify_cache: bool = False
    compiles: bool | None = None
    estimates: bool = False
    """Whether somebody reads what bytecode would add and save."""
    destinations: tuple[str, ...] = ()
    """Where the image will go: registries among them are asked for layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """Which base, and the line that tells the user why."""

    name: str
    """`debian:trixie` for the built-in one, else a reference."""
    python: PythonChoice
    suite: str | None
    """Of the built-in base; None for a reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build will do: everything is decided, and of wheels only the names are known."""

    project: Project
    settings: WainSettings
    index: IndexSettings = field(repr=False)
    base: BaseChoice
    images: tuple[Image, ...] = field(repr=False)
    """The base's, one a platform."""
    reuse: tuple[Reuse, ...] = field(repr=False)
    facts: tuple[BaseFacts, ...] = field(repr=False)
    lock: Lock = field(repr=False)
    selected: tuple[tuple[Selected, ...], ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What a build works with."""

    store: Store
    transport: Transport
    access: Access
    progress: Progress | None = None
    say: Callable[[str], None] = lambda text: None
    """Tells the user a decision."""


def choose_base(project: Project, settings: WainSettings, request: Request, lock: Lock | None) -> BaseChoice:
    """The base: the flag; the setting; the lock's; the built-in one where it can be had; else python:X.Y-slim.

    :raises PythonError: when the Python that is wanted cannot be had.
    """
    locked = lock.tool.get("base") if lock else None
    wanted = request.base or settings.base
    locked_python = _locked_python(locked)
    python = choose_python(
        project, flag=request.python, setting=settings.python, locked=locked_python, built_in=tuple(SUITES)
    )
    suites = {suite: minor for minor, suite in SUITES.items()}
    if wanted:
        suite = wanted.removeprefix("debian:") if wanted.startswith("debian:") else ""
        if suite not in suites:
            return BaseChoice(name=wanted, python=python, suite=None)
        if python.is_firm and python.minor != suites[suite]:
            raise PythonError(
                f"{wanted} has Python {suites[suite]}, and {python.reason} says {python.minor}",
                hint=f"Use another base (python:{python.minor}-slim), or leave one of the two out.",
            )
        chosen = PythonChoice(minor=suites[suite], reason=f"the base {wanted}", is_firm=True)
        return BaseChoice(name=wanted, python=chosen, suite=suite)
    if isinstance(locked, str) and not request.python:
        return BaseChoice(name=locked, python=python, suite=None)
    if python.minor in SUITES and (_has_lock(locked) or _mirrors(settings) is not None):
        suite = SUITES[python.minor]
        return BaseChoice(name=f"debian:{suite}", python=python, suite=suite)
    return BaseChoice(name=f"python:{python.minor}-slim", python=python, suite=None)


def lock_project(request: Request, workshop: Workshop, *, before: Lock | None, upgrade: Sequence[str] | None) -> Lock:
    """A fresh lock of a project, base included: the built-in base's packages, or a reference with its digest.

    :param before: the lock whose versions are kept where they still fit.
    :param upgrade: names that may change; None for none, empty for everything, the base too.
    :raises WainError: of every kind that a base or an index can have.
    """
    project = load_project(request.path)
    settings = wain_settings(project.path)
    index = index_settings(project.path, flags=request.index_flags, wain=settings)
    earlier = None if upgrade is not None and not upgrade else before
    choice = choose_base(project, settings, request, earlier)
    workshop.say(_told(choice))
    base: JSON
    if choice.suite is not None:
        locks = [
            _base_lock(choice, platform, request, settings, earlier, workshop)
            for platform in _platforms(request, settings, earlier)
        ]
        targets = tuple(_target_of(item) for item in locks)
        base = [item.to_json() for item in locks]
    else:
        platforms = _platforms(request, settings, earlier)
        name, images = _referenced(choice.name, platforms, settings, workshop)
        targets = tuple(base_facts(image, workshop.store).target for image in images)
        base = name
    lock = make_lock(
        project.path,
        targets=targets,
        extras=request.extras or settings.extras,
        groups=request.groups or settings.groups,
        settings=index,
        store=workshop.store,
        transport=workshop.transport,
        before=before,
        upgrade=upgrade,
        refresh=request.refresh,
    )
    return replace(lock, tool={**lock.tool, "base": base, "platforms": [str(target.platform) for target in targets]})


def with_layers(lock: Lock, request: Request, workshop: Workshop) -> Lock:
    """The lock with the layers that its wheels and base make, so that a fresh machine can ask a registry for them.

    :raises WainError: of every kind that a base, an index or a wheel can have.
    """
    decided = plan(request, workshop, lock=lock)
    found: list[JSON] = []
    for image, facts, selected in zip(decided.images, decided.facts, decided.selected, strict=True):
        wheels = _Wheels(decided, selected, facts.target, workshop)
        made = build_dependencies(
            wheels.inputs(),
            image,
            facts,
            settings=decided.settings,
            store=workshop.store,
            open_wheels=wheels.open,
            shares_pure=len(decided.images) > 1,
        )
        base = [KnownLayer.of(layer).to_json() for layer in image.layers] if decided.base.suite else []
        layers = [KnownLayer.of(row.layer, row.names).to_json() for row in made.rows]
        entry: dict[str, JSON] = {
            "platform": str(facts.platform),
            "layers": [*base, *layers],
            "wheels": made.wheels.to_json(),
        }
        if (label := facts.to_label()) is not None:
            entry["facts"] = label
        found.append(entry)
    return replace(lock, tool={**lock.tool, "layers": found})


def plan(request: Request, workshop: Workshop, *, lock: Lock | None = None) -> Plan:
    """Decide everything: base and its facts, lock, and the files for each platform.

    :param lock: instead of the project's own.
    :raises WainError: of every kind that a base, a lock or an index can have.
    """
    project = load_project(request.path)
    settings = wain_settings(project.path)
    if settings.name:
        project = replace(project, name=settings.name)
    index = index_settings(project.path, flags=request.index_flags, wain=settings)
    early = lock
    found = find_lock(project.path)
    if early is None and found is not None and found.name == "pylock.toml":
        early = Lock.read(found)
    choice = choose_base(project, settings, request, early)
    platforms = _platforms(request, settings, early)
    earlier = _earlier_images(request.cache_from or settings.cache_from, workshop)
    reuse = tuple(_reuse(platform, early, earlier, request, settings, workshop) for platform in platforms)
    images = _bases(choice, platforms, request, settings, early, workshop, reuse)
    facts = tuple(
        base_facts(image, workshop.store, earlier=[*_locked_facts(early), *earlier.values()]) for image in images
    )
    workshop.say(_told(choice, facts[0]))
    for fact in facts:
        if choice.python.is_firm and fact.python.short != choice.python.minor:
            raise PythonError(
                f"{choice.name} has Python {fact.python}, and {choice.python.reason} says {choice.python.minor}",
                hint=f"Use a base with that Python, such as python:{choice.python.minor}-slim.",
            )
    targets = tuple(fact.target for fact in facts)
    extras = request.extras or settings.extras
    groups = request.groups or settings.groups
    if lock is None:
        lock = lock_for(
            project.path,
            targets=targets,
            extras=extras,
            groups=groups,
            settings=index,
            store=workshop.store,
            transport=workshop.transport,
            locked=request.locked,
            offline=request.offline,
            refresh=request.refresh,
        )
    selected = tuple(
        select_for(lock, target, extras=extras, groups=groups, settings=index, store=workshop.store)
        for target in targets
    )
    return Plan(
        project=project,
        settings=settings,
        index=index,
        base=choice,
        images=images,
        reuse=reuse,
        facts=facts,
        lock=lock,
        selected=selected,
    )


def carry_out(plan: Plan, request: Request, workshop: Workshop) -> tuple[Built, ...]:
    """Build the image of each platform of a plan; wheels are downloaded where no layer is known for them.

    :raises WainError: of every kind that a wheel, an index or a project can have.
    """
    results = []
    for image, facts, selected, reuse in zip(plan.images, plan.facts, plan.selected, plan.reuse, strict=True):
        wheels = _Wheels(plan, selected, facts.target, workshop, reuse)
        inputs = wheels.inputs()
        results.append(
            build(
                plan.project,
                inputs,
                image,
                facts,
                settings=plan.settings,
                store=workshop.store,
                open_wheels=wheels.open,
                project_wheel=wheels.project() if plan.project.has_build_system else None,
                shares_pure=len(plan.images) > 1,
                reuse=reuse,
                compiles=bool(plan.settings.compile if request.compiles is None else request.compiles),
                estimates=request.estimates,
                base_name=plan.base.name,
                leave_out=request.leave_out,
                labels=request.labels,
            )
        )
        for line in wheels.missing_libraries(inputs, facts):
            log.warning("%s", line)
    return tuple(results)


def open_base(
    name: str, platform: Platform, settings: WainSettings, workshop: Workshop, *, packages: Sequence[str] = ()
) -> tuple[str, Image]:
    """A base by its name, and the name with a digest where a registry has it.

    :param name: a reference, or `debian:SUITE` for the built-in base with the newest packages.
    :raises WainError: of every kind that a registry or a mirror can have.
    """
    suite = name.removeprefix("debian:")
    if name.startswith("debian:") and suite in SUITES.values():
        mirrors = _mirrors(settings)
        lock = resolve_base(
            suite,
            platform=platform,
            packages=packages,
            mirrors=mirrors,
            store=workshop.store,
            transport=workshop.transport,
        )
        return name, base_image(
            lock,
            store=workshop.store,
            transport=workshop.transport,
            mirrors=mirrors,
            progress=workshop.progress,
        )
    found, images = _referenced(name, (platform,), settings, workshop)
    return found, images[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of an image at its destinations."""

    unchanged: frozenset[str]
    """The destinations that had it already and were left as they are."""
    blobs: Mapping[Digest, str]
    """Of blobs that went to registries: `uploaded`, `mounted` or `present`."""


def deliver(image: Image | Index, destinations: Sequence[str], names: Sequence[str], workshop: Workshop) -> Delivery:
    """Put an image where it should go.

    :raises WainError: of every kind that a registry, a daemon or a disk can have.
    """
    from wain.transfer import write_image

    unchanged = set()
    blobs: dict[Digest, str] = {}
    for destination in destinations:
        reference = parse_reference(destination)
        path = reference.path.absolute() if isinstance(reference, ArchiveReference) else None
        key = recipe_key({"what": "archive", "path": str(path), "image": image.digest, "names": [*names]})
        before = _file_state(path) if path is not None else None
        if before is not None and workshop.store.memo("archive", key) == before:
            unchanged.add(destination)
            continue
        write_image(image, reference, names=names, access=workshop.access, progress=workshop.progress, outcome=blobs)
        if path is not None and (state := _file_state(path)) is not None:
            workshop.store.put_memo("archive", key, state)
    return Delivery(unchanged=frozenset(unchanged), blobs=blobs)


def _file_state(path: Path) -> dict[str, JSON] | None:
    """What tells a file that was written here from one that was changed since; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return {"inode": found.st_ino, "size": found.st_size, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}


class _Wheels:
    """The wheels of one platform: known by digest from the lock, fetched when somebody must read them."""

    def __init__(
        self,
        plan: Plan,
        selected: Sequence[Selected],
        target: Target,
        workshop: Workshop,
        reuse: Reuse | None = None,
    ) -> None:
        self._reuse = reuse
        self._plan = plan
        self._target = target
        self._workshop = workshop
        self._selected = {item.name: item for item in selected if item.name != plan.project.name}
        self._paths: dict[Digest, Path] = {}
        self._indexes = PackageIndexes(
            plan.index, store=workshop.store, transport=workshop.transport, folder=plan.project.path.absolute()
        )

    def inputs(self) -> list[WheelInput]:
        """One for each distribution; what the lock does not say of it is known once it is in the store.

        :raises SdistError: when something that has no wheel does not build.
        """
        made = {item.name: self._built(item) for item in self._selected.values() if item.kind != "wheel"}
        wheels = [item for item in self._selected.values() if item.kind == "wheel"]
        self._fetch([item for item in wheels if self._input(item) is None])
        for item in wheels:
            known = self._input(item)
            assert known is not None
            made[item.name] = known
        return [made[name] for name in sorted(made)]

    def project(self) -> WheelInput:
        """The project's own wheel.

        :raises SdistError: when it does not build.
        """
        from wain.sdists import BuildOptions, build_project

        project = self._plan.project
        built = build_project(
            project.path,
            name=project.name if project.has_project_table else None,
            target=self._target,
            indexes=self._indexes,
            options=BuildOptions(env=self._build_env(project.name)),
        )
        return self._of_built(project.name, built)

    def open(self, wanted: Sequence[WheelInput]) -> list[Wheel]:
        """The wheels, in the order asked for."""
        self._fetch(
            [
                self._selected[wheel.name]
                for wheel in wanted
                if wheel.digest not in self._paths and self._selected[wheel.name].kind == "wheel"
            ]
        )
        return [Wheel.open(self._paths[wheel.digest], digest=wheel.digest, filename=wheel.filename) for wheel in wanted]

    def missing_libraries(self, inputs: Sequence[WheelInput], facts: BaseFacts) -> tuple[str, ...]:
        """What native libraries would be missing on the base, one line a distribution.

        Where a wheel was read neither now nor before, nothing is said: what seems to be missing may be in it.
        """
        from wain.natives import NativeFile, advice, known_natives, missing_libraries, natives_of

        files: dict[str, Sequence[NativeFile]] = {}
        for wheel in inputs:
            if wheel.filename.endswith("-none-any.whl"):
                continue
            found = known_natives(wheel.digest, self._workshop.store)
            if found is None:
                path = self._paths.get(wheel.digest)
                if path is None:
                    return ()
                with Wheel.open(path, digest=wheel.digest, filename=wheel.filename) as opened:
                    found = natives_of(opened, self._workshop.store)
            files[wheel.name] = found
        return advice(missing_libraries(facts, files))

    def _fetch(self, items: Sequence[Selected]) -> list[Path]:
        if not items:
            return []
        paths = []
        for item, path, digest in fetch_selected(
            items,
            store=self._workshop.store,
            transport=self._workshop.transport,
            settings=self._plan.index,
            project=self._plan.project.path,
            progress=self._workshop.progress,
        ):
            self._paths[digest] = path
            paths.append(path)
            if item.file is not None and item.file.digest is None:
                self._workshop.store.put_memo("file-digest", _file_key(item), {"digest": str(digest)}, refers=[digest])
            self._workshop.store.put_memo("wheel-size", digest, {"size": path.stat().st_size})
        return paths

    def _built(self, item: Selected) -> WheelInput:
        digest = None
        if item.file is not None:
            [path] = self._fetch([item])
            digest = next(digest for digest, known in self._paths.items() if known == path)
        built = build_selected(item, digest, self._target, self._indexes, env=self._build_env(item.name))
        return self._of_built(item.name, built)

    def _of_built(self, name: str, built: BuiltWheel) -> WheelInput:
        log.info("%s: %s", built.filename, built.reason)
        path = self._workshop.store.path(built.digest)
        if path is None:
            raise StoreError(f"{built.filename} vanished from the store", hint="Run it again.")
        self._paths[built.digest] = path
        return WheelInput(
            name=name,
            version=built.filename.split("-")[1],
            filename=built.filename,
            digest=built.digest,
            size_bytes=path.stat().st_size,
        )

    def _build_env(self, name: str) -> dict[str, str]:
        env = self._plan.settings.build_env
        return {**env.get("", {}), **env.get(name, {})}

    def _input(self, item: Selected) -> WheelInput | None:
        assert item.file is not None
        digest = item.file.digest
        store = self._workshop.store
        if digest is None and (memo := store.memo("file-digest", _file_key(item))) is not None:
            digest = Digest(str(memo.get("digest")))
        if digest is None:
            return None
        size = item.file.size_bytes
        if size is None and (memo := store.memo("wheel-size", digest)) is not None:
            number = memo.get("size")
            size = number if isinstance(number, int) else None
        if size is None and self._reuse is not None:
            size = self._reuse.size_bytes(digest)
        if size is None:
            return None
        return WheelInput(
            name=item.name, version=item.version or "", filename=item.file.filename, digest=digest, size_bytes=size
        )


def _file_key(item: Selected) -> Digest:
    assert item.file is not None
    return recipe_key({"what": "file-digest", "file": item.file.to_json()})


def _platforms(request: Request, settings: WainSettings, lock: Lock | None) -> tuple[Platform, ...]:
    """The platforms: the flag's, the setting's, those that the lock was made for, else this machine's."""
    wanted = request.platforms or tuple(Platform.parse(text) for text in settings.platforms)
    if not wanted and lock is not None and isinstance(locked := lock.tool.get("platforms"), list):
        wanted = tuple(Platform.parse(str(text)) for text in locked)
    return tuple(dict.fromkeys(wanted or (Platform.host(),)))


def _earlier_images(references: Sequence[str], workshop: Workshop) -> dict[tuple[str, Platform], Image]:
    """The images that --cache-from names, by reference and platform; what is not there yet is passed over."""
    from wain.transfer import read_image

    found = {}
    for text in references:
        try:
            image = read_image(text, access=workshop.access)
        except NotFound:
            log.info("%s is not there yet, so it has no layers to take", text)
            continue
        except (TransferError, ImageError) as error:
            log.warning("no layers are taken from %s: %s", text, error.message)
            continue
        for item in image.images if isinstance(image, Index) else (image,):
            found[text, item.platform] = item
    return found


def _reuse(
    platform: Platform,
    lock: Lock | None,
    earlier: Mapping[tuple[str, Platform], Image],
    request: Request,
    settings: WainSettings,
    workshop: Workshop,
) -> Reuse:
    """Where a platform's layers may be found: the lock's own, then those of the earlier images."""
    entries = [entry for entry in _locked_layers(lock) if entry.get("platform") == str(platform)]
    sources = [_locked_source(entry) for entry in entries]
    for (name, of), image in earlier.items():
        if of.same_as(platform):
            why = f"{name} has it, which --cache-from names"
            sources.append(Source(why=why, layers=layers_of(image), wheels=KnownWheels.of_image(image)))
    names = (*request.destinations, *(request.cache_from or settings.cache_from))
    places = [place for name in names if isinstance(place := parse_reference(name), RegistryReference)]
    return Reuse(sources, places, workshop.access, verify=request.verify_cache)


def _locked_layers(lock: Lock | None) -> list[dict[str, JSON]]:
    value = lock.tool.get("layers") if lock else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _locked_source(entry: Mapping[str, JSON]) -> Source:
    """:raises LockError: when the lock's layers are malformed."""
    layers = entry.get("layers")
    try:
        wheels = KnownWheels.from_json(entry.get("wheels"))
    except (ValueError, KeyError, TypeError, AttributeError, ImageError) as error:
        raise LockError("the lock's layers are malformed", hint="Renew the lock with wain lock --layers.") from error
    return Source(
        why="the lock names its digest",
        layers=tuple(KnownLayer.from_json(item) for item in layers) if isinstance(layers, list) else (),
        wheels=wheels,
        is_whole=True,
    )


def _locked_facts(lock: Lock | None) -> list[Image]:
    """The base facts that a lock has, in the form in which an earlier image has them: its label."""
    return [
        Image(config=Config(platform=Platform(), runtime=Runtime(labels={LABEL: facts})))
        for entry in _locked_layers(lock)
        if isinstance(facts := entry.get("facts"), str)
    ]


def _bases(
    choice: BaseChoice,
    platforms: Sequence[Platform],
    request: Request,
    settings: WainSettings,
    lock: Lock | None,
    workshop: Workshop,
    reuse: Sequence[Reuse],
) -> tuple[Image, ...]:
    if choice.suite is None:
        if request.packages or settings.packages:
            raise UsageError(
                f"`packages` adds to the built-in base, not to {choice.name}",
                hint='Leave out packages, or set base = "debian:trixie".',
            )
        return _referenced(choice.name, platforms, settings, workshop)[1]
    return tuple(
        base_image(
            _base_lock(choice, platform, request, settings, lock, workshop),
            store=workshop.store,
            transport=workshop.transport,
            mirrors=_mirrors(settings),
            elsewhere=known.find,
            progress=workshop.progress,
        )
        for platform, known in zip(platforms, reuse, strict=True)
    )


def _referenced(
    name: str, platforms: Sequence[Platform], settings: WainSettings, workshop: Workshop
) -> tuple[str, tuple[Image, ...]]:
    """A base by reference: its name, a registry's with the digest, and its image for each platform."""
    from wain.transfer import read_image

    reference = parse_reference(name)
    if not isinstance(reference, RegistryReference) and not Path(name).is_absolute():
        name = _beside(name, settings)
        reference = parse_reference(name)
    found = read_image(reference, platform=platforms[0] if len(platforms) == 1 else None, access=workshop.access)
    if isinstance(reference, RegistryReference):
        name = str(reference.with_digest(found.digest))
    return name, tuple(found.image_for(platform) if isinstance(found, Index) else found for platform in platforms)


def _beside(name: str, settings: WainSettings) -> str:
    """A path in `[tool.wain]` is meant from where it is written."""
    scheme, colon, path = name.partition(":")
    if settings.path is None or settings.base != name or scheme not in ("oci", "archive") or Path(path).is_absolute():
        return name
    return f"{scheme}{colon}{settings.path.parent / path}"


def _base_lock(
    choice: BaseChoice,
    platform: Platform,
    request: Request,
    settings: WainSettings,
    lock: Lock | None,
    workshop: Workshop,
) -> BaseLock:
    packages = request.packages or settings.packages
    locked = _locked_base(lock, choice, platform, packages)
    return locked or _remembered_base(choice, platform, packages, request, workshop, settings)


def _target_of(lock: BaseLock) -> Target:
    """The environment of a built-in base, known from its packages alone."""
    libc = next((item.version for item in lock.packages if item.name == "libc6"), "2.36")
    major, minor = libc.partition("-")[0].split(".")[:2]
    python = lock.python_version
    return Target(
        platform=lock.platform,
        python=python,
        abi=f"cp{python.major}{python.minor}",
        libc_version=(int(major), int(minor)),
    )


def _remembered_base(
    choice: BaseChoice,
    platform: Platform,
    packages: Sequence[str],
    request: Request,
    workshop: Workshop,
    settings: WainSettings,
) -> BaseLock:
    import time

    assert choice.suite is not None
    mirrors = _mirrors(settings)
    key = recipe_key(
        {
            "what": "recent-base",
            "suite": choice.suite,
            "platform": str(platform),
            "packages": [*sorted(packages)],
            "mirrors": [*mirrors.main, *mirrors.security] if mirrors else [],
        }
    )
    memo = workshop.store.memo("recent-base", key)
    if memo is not None and not request.refresh:
        at = memo.get("at")
        if isinstance(at, int) and (0 <= time.time() - at < REMEMBERED_SECONDS or request.offline):
            return BaseLock.from_json(memo.get("lock"))
    try:
        found = resolve_base(
            choice.suite,
            platform=platform,
            packages=packages,
            mirrors=mirrors,
            store=workshop.store,
            transport=workshop.transport,
        )
    except DebianError as error:
        if mirrors is None:
            raise DebianError(
                f"no Debian mirror is known for the base {choice.name}",
                hint='Set debian-mirrors = ["URL"] under [tool.wain] in pyproject.toml, or name a base with --base.',
            ) from error
        raise
    workshop.store.put_memo("recent-base", key, {"at": int(time.time()), "lock": found.to_json()})
    return found


def _locked_base(lock: Lock | None, choice: BaseChoice, platform: Platform, packages: Sequence[str]) -> BaseLock | None:
    """What the lock file says of the built-in base; None where it says nothing or speaks of another one."""
    value = lock.tool.get("base") if lock else None
    if not _has_lock(value):
        return None
    assert isinstance(value, list)
    for item in value:
        found = BaseLock.from_json(item)
        if (found.suite, found.platform) == (choice.suite, platform) and found.requested == tuple(
            sorted(set(packages))
        ):
            return found
    return None


def _has_lock(value: JSON) -> bool:
    return isinstance(value, list) and bool(value)


def _locked_python(value: JSON) -> str | None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return str(value[0].get("python"))
    return None


def _mirrors(settings: WainSettings) -> Mirrors | None:
    return debian_mirrors(settings.debian_mirrors)


def _told(choice: BaseChoice, facts: BaseFacts | None = None) -> str:
    if choice.suite is None:
        return f"base {choice.name}" + (f", which has Python {facts.python}" if facts else "")
    return f"base {choice.name}, made of Debian packages: Python {choice.python.minor} ({choice.python.reason})"
