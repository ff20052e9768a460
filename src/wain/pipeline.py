"""From a project's folder to its images: base, lock, wheels, layers, in this order.

Everything that needs the network happens below here. Until `deliver` nothing is written but the store, and to
registries layers that no manifest names yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from wain.base_choice import (
    BaseChoice,
    base_lock,
    bases_for,
    choose_base,
    other_python_hint,
    referenced,
    target_of,
    told,
)
from wain.bases import base_facts
from wain.build import Built, build, build_dependencies
from wain.digest import Digest
from wain.errors import LockError, PythonError
from wain.image import Image, Index
from wain.known_layers import earlier_images, locked_facts, reuse_for
from wain.lock import Lock, Selected
from wain.locked_wheels import LockedWheels
from wain.locking import LockRequest, as_made, find_lock, lock_for, make_lock, select_for
from wain.names import ArchiveReference, RegistryReference, parse_reference
from wain.oci import JSON
from wain.platforms import Platform, Target
from wain.project import Project, entry_point, load_project
from wain.records import Record
from wain.request import Request, Workshop
from wain.reuse import KnownLayer, Reuse
from wain.settings import IndexSettings, WainSettings, index_settings, wain_settings
from wain.store import recipe_key

if TYPE_CHECKING:
    from wain.bases import BaseFacts
    from wain.layers import Layer

log = logging.getLogger(__name__)


class Plan(Record, frozen=True, kw_only=True):
    """What a build will do: everything is decided, and of wheels only the names are known."""

    unshown: ClassVar = ("index", "images", "reuse", "facts", "lock", "selected")

    project: Project
    settings: WainSettings
    index: IndexSettings
    base: BaseChoice
    images: tuple[Image, ...]
    """The base's, one a platform."""
    reuse: tuple[Reuse, ...]
    facts: tuple[BaseFacts, ...]
    lock: Lock
    selected: tuple[tuple[Selected, ...], ...]


def lock_project(request: Request, workshop: Workshop, *, before: Lock | None, upgrade: Sequence[str] | None) -> Lock:
    """A fresh lock of a project, base included: the built-in base's packages, or a reference with its digest.

    :param before: the lock whose versions are kept where they still fit.
    :param upgrade: names that may change; None for none, empty for everything, the base too.
    :raises WainError: of every kind that a base or an index can have.
    """
    project = load_project(request.path)
    settings = wain_settings(project.path).with_builds(request.builds)
    index = index_settings(project.path, flags=request.index_flags, wain=settings)
    earlier = None if upgrade is not None and not upgrade else before
    choice = choose_base(project, settings, request, earlier, renews=True)
    workshop.say(told(choice))
    base: JSON
    if choice.suite is not None:
        locks = [
            base_lock(choice, platform, request, settings, earlier, workshop)
            for platform in platforms_for(request, settings, earlier)
        ]
        targets = tuple(target_of(item) for item in locks)
        base = [item.to_json() for item in locks]
    else:
        platforms = platforms_for(request, settings, earlier)
        name, images = referenced(choice.name, platforms, settings, workshop)
        targets = tuple(base_facts(image, workshop.store).target for image in images)
        base = name
    lock = make_lock(
        _lock_request(project, targets, request, settings, index, workshop), before=before, upgrade=upgrade
    )
    return replace(lock, tool={**lock.tool, "base": base, "platforms": [str(target.platform) for target in targets]})


def _lock_request(
    project: Project,
    targets: Sequence[Target],
    request: Request,
    settings: WainSettings,
    index: IndexSettings,
    workshop: Workshop,
) -> LockRequest:
    return LockRequest(
        project=project.path,
        targets=targets,
        extras=request.extras or settings.extras,
        groups=request.groups or settings.groups,
        settings=index,
        store=workshop.store,
        transport=workshop.transport,
        refresh=request.refresh,
    )


def with_layers(lock: Lock, request: Request, workshop: Workshop) -> Lock:
    """The lock with the layers that its wheels and base make, so that a fresh machine can ask a registry for them.

    :raises WainError: of every kind that a base, an index or a wheel can have.
    """
    decided = plan(request, workshop, lock=as_made(lock))
    found: list[JSON] = []
    for image, facts, selected in zip(decided.images, decided.facts, decided.selected, strict=True):
        wheels = _wheels(decided, selected, facts.target, workshop)
        made = build_dependencies(
            wheels.inputs(),
            image,
            facts,
            settings=decided.settings,
            store=workshop.store,
            open_wheels=wheels.open,
            shares_pure=len(decided.images) > 1,
            compiles=_compiles(decided, request),
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
    settings = wain_settings(project.path).with_builds(request.builds)
    if settings.name:
        project = replace(project, name=settings.name)
    if lock is None and project.scripts is not None:
        entry_point(project, settings.entrypoint or ())  # before anything is asked for or made
    index = index_settings(project.path, flags=request.index_flags, wain=settings)
    early = lock
    found = find_lock(project.path)
    if early is None and found is not None and found.name == "pylock.toml":
        early = Lock.read(found, store=workshop.store)
    choice = choose_base(project, settings, request, early)
    if choice.suite is not None and lock is None:
        workshop.say(told(choice))
    platforms = platforms_for(request, settings, early)
    if lock is None and early is not None:
        _check_platforms(early, platforms)
    earlier = earlier_images(request.cache_from or settings.cache_from, platforms, workshop)
    reuse = tuple(reuse_for(platform, early, earlier, request, settings, workshop) for platform in platforms)
    images = bases_for(choice, platforms, request, settings, early, workshop, reuse)
    told_facts = [] if request.verify_cache else [*locked_facts(early), *earlier.values()]
    facts = tuple(base_facts(image, workshop.store, earlier=told_facts) for image in images)
    if choice.suite is None and lock is None:
        workshop.say(told(choice, facts[0]))
    for fact in facts:
        if choice.python is not None and choice.python.is_firm and fact.python.short != choice.python.minor:
            raise PythonError(
                f"{choice.name} has Python {fact.python}, and {choice.python.reason} says {choice.python.minor}",
                hint=other_python_hint(choice.python, choice.name),
            )
    targets = tuple(fact.target for fact in facts)
    asked = _lock_request(project, targets, request, settings, index, workshop)
    if lock is None:
        lock = lock_for(asked, locked=request.locked, offline=request.offline)
    selected = tuple(
        select_for(lock, target, extras=asked.extras, groups=asked.groups, settings=index, store=workshop.store)
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


class Ahead:
    """Uploads of layers to the registries among an image's destinations, while the rest of the image is made."""

    def __init__(self, destinations: Sequence[str], workshop: Workshop) -> None:
        from wain.upload import UploadsAhead

        self._uploads: dict[tuple[str, str], UploadsAhead] = {}
        for reference in map(parse_reference, destinations):
            if isinstance(reference, RegistryReference):
                self._uploads[reference.registry, reference.repository] = UploadsAhead(
                    reference, access=workshop.access, progress=workshop.sending
                )

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        for uploads in self._uploads.values():
            uploads.stop()

    def send(self, layer: Layer) -> None:
        """Takes a layer that the image will have."""
        for uploads in self._uploads.values():
            uploads.send(layer)

    def finish(self, reference: RegistryReference) -> dict[Digest, str]:
        """Waits for what was taken; what became of it in the repository: `uploaded`, `mounted` or `present`."""
        return dict(self._uploads[reference.registry, reference.repository].finish())


def carry_out(
    plan: Plan, request: Request, workshop: Workshop, *, made: Callable[[Layer], None] = lambda layer: None
) -> tuple[Built, ...]:
    """Build the image of each platform of a plan; wheels are downloaded where no layer is known for them.

    :param made: is called with each of the wheels' layers that had to be made, as soon as it is; from any thread.
    :raises WainError: of every kind that a wheel, an index or a project can have.
    """
    results = []
    for image, facts, selected, reuse in zip(plan.images, plan.facts, plan.selected, plan.reuse, strict=True):
        wheels = _wheels(plan, selected, facts.target, workshop, reuse)
        inputs = wheels.inputs()
        own = wheels.project() if plan.project.has_build_system else None
        project = plan.project if own is None else wheels.described(own)
        results.append(
            build(
                project,
                inputs,
                image,
                facts,
                settings=plan.settings,
                store=workshop.store,
                open_wheels=wheels.open,
                project_wheel=own,
                shares_pure=len(plan.images) > 1,
                reuse=reuse,
                compiles=_compiles(plan, request),
                estimates=request.tells,
                base_name=_without_digest(plan.base.name),
                leave_out=request.leave_out,
                labels=request.labels,
                made=made,
            )
        )
        if request.tells:
            for line in wheels.missing_libraries(inputs, facts):
                log.warning("%s", line)
    return tuple(results)


def _without_digest(name: str) -> str:
    """A base's name as images have it, which does not vary with whether a lock has its digest."""
    tagged, _, digest = name.partition("@")
    return tagged if digest and ":" in tagged.rpartition("/")[2] else name


def _compiles(plan: Plan, request: Request) -> bool:
    """Whether bytecode goes in."""
    return bool(plan.settings.compile if request.compiles is None else request.compiles)


def _wheels(
    plan: Plan, selected: Sequence[Selected], target: Target, workshop: Workshop, reuse: Reuse | None = None
) -> LockedWheels:
    return LockedWheels(plan.project, selected, target, workshop, settings=plan.settings, index=plan.index, reuse=reuse)


class Delivery(Struct, frozen=True, kw_only=True):
    """What became of an image at its destinations."""

    unchanged: frozenset[str]
    """The destinations that had it already and were left as they are."""
    blobs: Mapping[Digest, str]
    """Of blobs that went to registries: `uploaded`, `mounted` or `present`."""


def deliver(
    image: Image | Index,
    destinations: Sequence[str],
    names: Sequence[str],
    workshop: Workshop,
    *,
    ahead: Ahead | None = None,
) -> Delivery:
    """Put an image where it should go.

    :param ahead: what was uploaded while it was made.

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
        has = ahead.finish(reference) if ahead is not None and isinstance(reference, RegistryReference) else {}
        write_image(image, reference, names=names, access=workshop.access, progress=workshop.sending, outcome=has)
        blobs |= has
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


def _check_platforms(lock: Lock, platforms: Sequence[Platform]) -> None:
    """Before the base of a platform is fetched that the lock says nothing of.

    :raises LockError: when the lock names its platforms, and one is not among them.
    """
    locked = lock.tool.get("platforms")
    if not isinstance(locked, list):
        return
    if missing := [str(platform) for platform in platforms if str(platform) not in locked]:
        wanted = ",".join(dict.fromkeys([*map(str, locked), *missing]))
        raise LockError(
            f"{lock.path.name if lock.path else 'the lock'} is for {', '.join(map(str, locked))},"
            f" not for {', '.join(missing)}",
            hint=f"Lock for all of them: wain lock --platform {wanted}.",
        )


def platforms_for(request: Request, settings: WainSettings, lock: Lock | None) -> tuple[Platform, ...]:
    """The platforms: the flag's, the setting's, those that the lock was made for, else this machine's."""
    wanted = request.platforms or tuple(Platform.parse(text) for text in settings.platforms)
    if not wanted and lock is not None and isinstance(locked := lock.tool.get("platforms"), list):
        wanted = tuple(Platform.parse(str(text)) for text in locked)
    return tuple(dict.fromkeys(wanted or (Platform.host(),)))
