"""project + lock + base Image -> Image.

Nothing is fetched here but what the caller's `wheels` opens: the base comes as an Image, the lock as what it
selected for the base's Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from wain.bases import LABEL, BaseFacts
from wain.digest import Digest
from wain.environment import DEFAULT_USER, VENV, environment_layer, find_user, runtime
from wain.errors import ImageError
from wain.grouping import OVERFLOW_SLOTS, SLOTS, Item, group
from wain.ignore import project_files
from wain.image import Image, check_image
from wain.install import Scheme, colliding, plan_install
from wain.layers import Layer, remembered_layer, wheel_layer, wheel_layer_key
from wain.oci import JSON
from wain.project import APP, Project, entry_point, own_sources, project_layer, source_time
from wain.records import Record
from wain.reuse import WHEELS_LABEL, KnownWheels, Reuse
from wain.settings import WainSettings
from wain.store import Store, recipe_key
from wain.ustar import ZIP_EPOCH
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.start_estimate import StartEstimate

log = logging.getLogger(__name__)

DEFAULT_LAYERS = 40
MAX_LAYERS = 100
"""With the base's. Docker stops at 125 and overlay file systems at 127."""
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_LAYERS = "dev.wain.base-layers"
"""Labels, and the first two annotations: what a rebase must know, wherever annotations are lost."""
_ALONE_BYTES = 64_000_000
"""Shares of wheels above this are made into layers one at a time."""
_OWN_LAYERS = 3
"""At most these come on top of the wheels': bytecode, environment, project."""


class WheelInput(Struct, frozen=True, kw_only=True):
    """A wheel that goes into the image."""

    name: str
    """Normalised."""
    version: str
    filename: str
    digest: Digest
    size_bytes: int


class LayerRow(Struct, frozen=True, kw_only=True):
    """A layer as the summary shows it."""

    what: str
    layer: Layer
    state: str
    """`base`, `new`, `cached` or `in registry`."""
    names: tuple[str, ...] = ()
    """Of the wheels in it."""


class Built(Record, frozen=True, kw_only=True):
    """An image, and how each of its layers came to be, in the image's order."""

    unshown: ClassVar = ("rows",)

    image: Image
    rows: tuple[LayerRow, ...]
    bytecode: StartEstimate | None = None
    """What bytecode would add and save, where there is none and it is known without fetching anything."""


def build(
    project: Project,
    wheels: Sequence[WheelInput],
    base: Image,
    facts: BaseFacts,
    *,
    settings: WainSettings,
    store: Store,
    open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
    project_wheel: WheelInput | None = None,
    shares_pure: bool = False,
    reuse: Reuse | None = None,
    compiles: bool = False,
    estimates: bool = False,
    base_name: str = "",
    leave_out: Sequence[Path] = (),
    labels: Mapping[str, str] | None = None,
    made: Callable[[Layer], None] = lambda layer: None,
) -> Built:
    """The image of a project for one platform.

    :param wheels: of the dependencies, each fitting the base's Python.
    :param open_wheels: gives the wheels of those that no layer is known for yet; it may download them.
    :param project_wheel: the project itself, where it is one; else its files go to /app.
    :param shares_pure: keep wheels that fit every platform in layers of their own, for several platforms to share.
    :param reuse: where layers may be found that the store does not have.
    :param compiles: whether bytecode of the wheels goes in, in layers of its own.
    :param estimates: whether to find out what bytecode would add and save, which takes about a second the first time.
    :param base_name: what the annotation names the base by.
    :param leave_out: paths that never go in: the build's outputs.
    :param made: is called with each of the wheels' layers that had to be made, as soon as it is; from any thread.
    :raises ImageError: when base and wheels have more layers than runtimes take.
    :raises ProjectError: when the project has no entry point or unreadable files.
    :raises WheelError: when a wheel is malformed.
    """
    entrypoint = entry_point(project, settings.entrypoint or ())
    user = find_user(facts, settings.user or DEFAULT_USER)
    scheme = Scheme.venv(f"/{VENV}", facts.python.short)
    maker = _Maker(scheme, store, open_wheels, reuse, made)
    dependencies = _dependencies(maker, wheels, _budget(base, settings), shares_pure=shares_pure)
    files = list(project_files(project.path, include=settings.include, leave_out=leave_out))
    time = source_time(project, files)
    created = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    environment, is_known_environment = environment_layer(facts, user, store=store)
    if project_wheel is not None:
        project_row = maker.row([project_wheel], mtime=max(time, ZIP_EPOCH))
    else:
        layer, is_known = project_layer(project, files, mtime=time, store=store)
        project_row = LayerRow(what=f"{project.name} in /{APP}", layer=layer, state="cached" if is_known else "new")
    if compiles:
        dependencies = _with_bytecode(maker, dependencies, wheels, facts, base)
    rows = [
        *dependencies.rows,
        LayerRow(
            what=f"environment, user {user.name}",
            layer=environment,
            state="cached" if is_known_environment else "new",
        ),
        project_row,
    ]
    made_labels = {**settings.labels, **(labels or {})}
    if (facts_label := facts.to_label()) is not None:
        made_labels[LABEL] = facts_label
    if base_name:
        made_labels[BASE_NAME] = base_name
    made_labels[BASE_DIGEST] = base.digest
    made_labels[BASE_LAYERS] = str(len(base.layers))
    if wheels:
        made_labels[WHEELS_LABEL] = dependencies.wheels.to_label()
    image = base.append(*(row.layer for row in rows), created=created)
    image = image.with_runtime(
        runtime(
            base.config.runtime,
            user=user,
            entrypoint=entrypoint,
            command=settings.command,
            env=settings.env,
            ports=settings.ports,
            volumes=settings.volumes,
            labels=made_labels,
            workdir=settings.workdir or (f"/{APP}" if project_wheel is None else user.home),
            stop_signal=settings.stop_signal,
            has_bytecode=compiles,
        )
    )
    image = image.with_config(replace(image.config, created=created))
    annotations = {"org.opencontainers.image.created": created, BASE_DIGEST: base.digest}
    if base_name:
        annotations[BASE_NAME] = base_name
    image = image.with_annotations({**annotations, **settings.annotations})
    check_image(image)
    base_rows = [
        LayerRow(what=layer.created_by or f"base layer {number}", layer=layer, state="base")
        for number, layer in enumerate(image.layers[: len(base.layers)], 1)
    ]
    estimate = None
    if estimates and not compiles:
        estimate = maker.estimate(wheels, own_sources(project, entrypoint))
    return Built(image=image, rows=(*base_rows, *rows), bytecode=estimate)


class Dependencies(Struct, frozen=True, kw_only=True):
    """The layers of an image's dependencies, and what the next build should know of their wheels."""

    rows: tuple[LayerRow, ...]
    """Those of the wheels, then those of their bytecode."""
    wheels: KnownWheels


def build_dependencies(
    wheels: Sequence[WheelInput],
    base: Image,
    facts: BaseFacts,
    *,
    settings: WainSettings,
    store: Store,
    open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
    shares_pure: bool = False,
    compiles: bool = False,
) -> Dependencies:
    """The layers that `build` gives the dependencies, alone; raises what it raises for them."""
    maker = _Maker(Scheme.venv(f"/{VENV}", facts.python.short), store, open_wheels, None)
    found = _dependencies(maker, wheels, _budget(base, settings), shares_pure=shares_pure)
    return _with_bytecode(maker, found, wheels, facts, base) if compiles else found


def _dependencies(maker: _Maker, wheels: Sequence[WheelInput], budget: int, *, shares_pure: bool) -> Dependencies:
    together = maker.together(wheels)
    for cluster in together:
        names = sorted(wheel.name for wheel in wheels if wheel.digest in cluster)
        log.warning("%s write the same paths; the first of them by name has them, as with pip", " and ".join(names))
    groups = maker.known_groups(wheels) or _groups(wheels, together, budget, shares_pure=shares_pure)
    return Dependencies(
        rows=maker.rows(groups),
        wheels=KnownWheels(sizes={wheel.digest: wheel.size_bytes for wheel in wheels}, together=together),
    )


def _budget(base: Image, settings: WainSettings) -> int:
    wanted = settings.layers or DEFAULT_LAYERS
    most = min(wanted, MAX_LAYERS) - len(base.layers) - _OWN_LAYERS
    least = SLOTS + OVERFLOW_SLOTS + 1
    if most < least and len(base.layers) + _OWN_LAYERS + least > MAX_LAYERS:
        raise ImageError(
            f"the base has {len(base.layers)} layers, which leaves too few for the wheels",
            hint=f"At most {MAX_LAYERS} layers run everywhere; use a base with fewer, or flatten it.",
        )
    return max(most, least)


def _groups(
    wheels: Sequence[WheelInput], together: Sequence[tuple[Digest, ...]], budget: int, *, shares_pure: bool
) -> list[tuple[WheelInput, ...]]:
    """The wheels of each layer. Those that write the same path with other bytes share one."""
    by_digest = {wheel.digest: wheel for wheel in wheels}
    shared = {digest for cluster in together for digest in cluster}
    items = []
    for cluster in (*together, *((wheel.digest,) for wheel in wheels if wheel.digest not in shared)):
        members = sorted((by_digest[digest] for digest in cluster), key=lambda wheel: wheel.name)
        items.append(
            Item(
                name=members[0].name,
                size_bytes=sum(member.size_bytes for member in members),
                digests=tuple(member.digest for member in members),
                row=int(shares_pure and not all(member.filename.endswith("-none-any.whl") for member in members)),
            )
        )
    return [
        tuple(sorted((by_digest[digest] for item in share for digest in item.digests), key=lambda wheel: wheel.name))
        for share in group(items, budget=budget)
    ]


def _with_bytecode(
    maker: _Maker, dependencies: Dependencies, wheels: Sequence[WheelInput], facts: BaseFacts, base: Image
) -> Dependencies:
    """The same with the bytecode of each of the layers."""
    by_name = {wheel.name: wheel for wheel in wheels}
    shares = [tuple(by_name[name] for name in row.names) for row in dependencies.rows]
    compiled = maker.bytecode(shares, facts, base)
    return Dependencies(
        rows=(*dependencies.rows, *compiled.rows),
        wheels=replace(dependencies.wheels, compilers=compiled.compilers, bare=compiled.bare),
    )


class _Compiled(NamedTuple):
    """Bytecode's layers, by which Pythons they were made, and the wheels that have no module."""

    rows: tuple[LayerRow, ...]
    compilers: tuple[str, ...]
    bare: frozenset[Digest]


class _Maker:
    """Gives the layers of wheels: from the store, from a registry that has them, or made."""

    def __init__(
        self,
        scheme: Scheme,
        store: Store,
        open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
        reuse: Reuse | None,
        made: Callable[[Layer], None] = lambda layer: None,
    ) -> None:
        self._scheme = scheme
        self._made = made
        self._opened: dict[Digest, Wheel] = {}
        self._store = store
        self._open_wheels = open_wheels
        self._reuse = reuse

    def known_groups(self, wheels: Sequence[WheelInput]) -> list[tuple[WheelInput, ...]] | None:
        """The grouping that a lock says, where it is of these very wheels."""
        shares = self._reuse.groups() if self._reuse else None
        if shares is None:
            return None
        by_name = {wheel.name: wheel for wheel in wheels}
        names = [name for share in shares for name in share]
        if sorted(names) != sorted(by_name):
            log.warning("the lock's layers are of other distributions than the lock; renew it with wain lock --layers")
            return None
        return [tuple(by_name[name] for name in share) for share in shares]

    def together(self, wheels: Sequence[WheelInput]) -> tuple[tuple[Digest, ...], ...]:
        """The wheels that have a path in common; remembered, because it takes the names of all their files."""
        digests = sorted(wheel.digest for wheel in wheels)
        recipe: JSON = {"what": "together", "version": 1, "scheme": {**self._scheme.to_json()}, "wheels": [*digests]}
        key = recipe_key(recipe)
        memo = self._store.memo("together", key)
        if memo is not None and isinstance(clusters := memo.get("together"), list):
            return tuple(tuple(Digest(str(text)) for text in cluster) for cluster in clusters)  # type: ignore[union-attr]
        if self._reuse is not None and (known := self._reuse.clusters(digests)) is not None:
            return known
        opened = self._open_wheels(wheels) if wheels else ()
        found = colliding(opened, self._scheme)
        self._opened = {wheel.digest: wheel for wheel in opened}
        made = tuple(tuple(wheel.digest for wheel in cluster) for cluster in found if len(cluster) > 1)
        self._store.put_memo("together", key, {"together": [[*cluster] for cluster in made]})
        return made

    def rows(self, shares: Sequence[Sequence[WheelInput]]) -> tuple[LayerRow, ...]:
        """The layers of all shares, in their order. Those that are not large are made two at a time, so that one's
        planning and last hashing go on beside the other's inflating; a large one fills the cores, and memory, alone.
        """
        made: dict[int, LayerRow] = {}
        small = []
        for number, share in enumerate(shares):
            if sum(wheel.size_bytes for wheel in share) > _ALONE_BYTES:
                made[number] = self.row(share)
            else:
                small.append(number)
        with ThreadPoolExecutor(2, thread_name_prefix="layers") as pool:
            made.update(zip(small, pool.map(lambda number: self.row(shares[number]), small), strict=True))
        return tuple(made[number] for number in range(len(shares)))

    def row(self, share: Sequence[WheelInput], *, mtime: int = ZIP_EPOCH) -> LayerRow:
        """The layer of some wheels, with how it came to be."""
        what = ", ".join(f"{wheel.name} {wheel.version}" for wheel in share)
        names = tuple(wheel.name for wheel in share)
        key = wheel_layer_key((wheel.digest for wheel in share), self._scheme, mtime=mtime)
        if (layer := remembered_layer(key, store=self._store)) is not None:
            self._verify(layer)
            return LayerRow(what=what, layer=layer, state="cached", names=names)
        if self._reuse is not None and (layer := self._reuse.find(key)) is not None:
            return LayerRow(what=what, layer=layer, state="in registry", names=names)
        layer = wheel_layer(self._open(share), self._scheme, store=self._store, mtime=mtime)
        self._check(layer)
        return LayerRow(what=what, layer=layer, state="new", names=names)

    def _open(self, share: Sequence[WheelInput]) -> list[Wheel]:
        """The wheels of a share; those that are open since their paths were compared are given once, and forgotten."""
        closed = [wheel for wheel in share if wheel.digest not in self._opened]
        opened = {wheel.digest: wheel for wheel in self._open_wheels(closed)} if closed else {}
        return [opened.get(wheel.digest) or self._opened.pop(wheel.digest) for wheel in share]

    def _verify(self, layer: Layer) -> None:
        """With --verify-cache what was made here before is compared as well."""
        if self._reuse is not None and self._reuse.verifies:
            self._reuse.check(layer)

    def _check(self, layer: Layer) -> None:
        """A layer that was made: compared with what sources say of it, then given away."""
        if self._reuse is not None:
            self._reuse.check(layer)
        self._made(layer)

    def estimate(self, wheels: Sequence[WheelInput], sources: Mapping[str, bytes]) -> StartEstimate | None:
        """What bytecode of these wheels would add and save; None where they are not on this machine."""
        if not wheels or not sources:
            return None
        from wain.start_estimate import estimate_start, known_estimate

        known = known_estimate((wheel.digest for wheel in wheels), sources, store=self._store)
        if known is None and all(self._store.has(wheel.digest) for wheel in wheels):
            plan = plan_install(self._open_wheels(wheels), self._scheme)
            known = estimate_start(plan, sources, store=self._store)
        return known

    def bytecode(self, shares: Sequence[Sequence[WheelInput]], facts: BaseFacts, base: Image) -> _Compiled:
        """The layers of the bytecode of shares of wheels; those without a module have none.

        What was made by another Python of the same minor version serves as well, so a lock's and an earlier image's
        are looked for first: a machine that has them needs no Python of its own.

        :raises PythonError: when no Python of the base's minor runs here.
        """
        from wain.bytecode import (
            bytecode_layer,
            bytecode_layer_key,
            compile_ahead,
            compiler_for,
            compiler_version,
            remembered_bytecode,
        )

        told = self._reuse.compilers() if self._reuse is not None else ()
        others = [version for version in told if version.startswith(f"{facts.python.short}.")]
        own = cache(lambda: compiler_version(facts, self._store))
        compilers: set[str] = set()
        bare: set[Digest] = set()
        rows = []

        def find(digests: Sequence[Digest], version: str) -> tuple[Layer, str] | None:
            key = bytecode_layer_key(digests, self._scheme, version)
            if (layer := remembered_bytecode(key, store=self._store)) is not None:
                self._verify(layer)
                return layer, "cached"
            if self._reuse is not None and (layer := self._reuse.find(key)) is not None:
                return layer, "in registry"
            return None

        layers: dict[int, tuple[Layer, str, str]] = {}
        """By the share's number: the layer, its state, and the Python that made it."""
        missing = []
        for number, share in enumerate(shares):
            digests = [wheel.digest for wheel in share]
            if self._reuse is not None and self._reuse.is_bare(digests):
                bare.update(digests)
                continue
            for version in (*others, ""):
                if (found := find(digests, version or own())) is not None:
                    layers[number] = (*found, version or own())
                    break
            else:
                missing.append(number)
        if missing:
            with compiler_for(facts, base, self._store) as compiler:
                plans = {number: plan_install(self._open_wheels(shares[number]), self._scheme) for number in missing}
                compile_ahead(plans.values(), compiler, store=self._store)
                for number, plan in plans.items():
                    layers[number] = bytecode_layer(plan, compiler, store=self._store), "new", own()
                    if layers[number][0].unpacked_bytes:
                        self._check(layers[number][0])
        for number, (layer, state, version) in sorted(layers.items()):
            if layer.unpacked_bytes == 0:
                bare.update(wheel.digest for wheel in shares[number])
                continue
            compilers.add(version)
            what = f"bytecode of {', '.join(wheel.name for wheel in shares[number])}"
            rows.append(LayerRow(what=what, layer=layer, state=state))
        return _Compiled(tuple(rows), tuple(sorted(compilers)), frozenset(bare))
