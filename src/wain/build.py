"""project + lock + base Image -> Image.

Nothing is fetched here but what the caller's `wheels` opens: the base comes as an Image, the lock as what it
selected for the base's Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from wain.bases import LABEL, BaseFacts
from wain.digest import Digest
from wain.environment import DEFAULT_USER, VENV, environment_entries, find_user, runtime
from wain.errors import ImageError
from wain.grouping import OVERFLOW_SLOTS, SLOTS, Item, group
from wain.ignore import project_files
from wain.image import Image, check_image
from wain.install import Scheme, colliding
from wain.layers import Layer, files_layer, remembered_layer, wheel_layer, wheel_layer_key
from wain.oci import JSON
from wain.project import APP, Project, entry_point, file_entries, source_time
from wain.settings import WainSettings
from wain.store import Store, recipe_key
from wain.wheels import Wheel

log = logging.getLogger(__name__)

DEFAULT_LAYERS = 40
MAX_LAYERS = 100
"""With the base's. Docker stops at 125 and overlay file systems at 127."""
_OWN_LAYERS = 3
"""At most these come on top of the wheels': bytecode, environment, project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelInput:
    """A wheel that goes into the image."""

    name: str
    """Normalised."""
    version: str
    filename: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer as the summary shows it."""

    what: str
    layer: Layer
    state: str
    """`base`, `new` or `cached`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An image, and how each of its layers came to be, in the image's order."""

    image: Image
    rows: tuple[LayerRow, ...] = field(repr=False)


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
    base_name: str = "",
    leave_out: Sequence[Path] = (),
    labels: Mapping[str, str] | None = None,
) -> Built:
    """The image of a project for one platform.

    :param wheels: of the dependencies, each fitting the base's Python.
    :param open_wheels: gives the wheels of those that no layer is known for yet; it may download them.
    :param project_wheel: the project itself, where it is one; else its files go to /app.
    :param shares_pure: keep wheels that fit every platform in layers of their own, for several platforms to share.
    :param base_name: what the annotation names the base by.
    :param leave_out: paths that never go in: the build's outputs.
    :raises ImageError: when base and wheels have more layers than runtimes take.
    :raises ProjectError: when the project has no entry point or unreadable files.
    :raises WheelError: when a wheel is malformed.
    """
    entrypoint = entry_point(project, settings.entrypoint or ())
    user = find_user(facts, settings.user or DEFAULT_USER)
    scheme = Scheme.venv(f"/{VENV}", facts.python.short)
    budget = _budget(base, settings)
    groups = _groups(wheels, scheme, store, open_wheels, budget, shares_pure=shares_pure)
    dependency_rows = [_wheel_row(share, scheme, store, open_wheels) for share in groups]
    files = list(project_files(project.path, include=settings.include, leave_out=leave_out))
    time = source_time(project, files)
    created = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    environment = files_layer(
        environment_entries(facts, user),
        store=store,
        created_by=f"wain: /{VENV} for Python {facts.python}, user {user.name}",
    )
    if project_wheel is not None:
        project_row = _wheel_row([project_wheel], scheme, store, open_wheels)
    else:
        layer = files_layer(
            file_entries(files, mtime=time),
            store=store,
            created_by=f"wain: {project.name}, {len(files)} files in /{APP}",
        )
        project_row = LayerRow(what=f"{project.name} in /{APP}", layer=layer, state="new")
    rows = [
        *dependency_rows,
        LayerRow(what=f"environment, user {user.name}", layer=environment, state="new"),
        project_row,
    ]
    made_labels = {**settings.labels, **(labels or {})}
    if (facts_label := facts.to_label()) is not None:
        made_labels[LABEL] = facts_label
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
            has_bytecode=False,
        )
    )
    image = image.with_config(replace(image.config, created=created))
    annotations = {"org.opencontainers.image.created": created, "org.opencontainers.image.base.digest": base.digest}
    if base_name:
        annotations["org.opencontainers.image.base.name"] = base_name
    image = image.with_annotations({**annotations, **settings.annotations})
    check_image(image)
    base_rows = [
        LayerRow(what=layer.created_by or f"base layer {number}", layer=layer, state="base")
        for number, layer in enumerate(image.layers[: len(base.layers)], 1)
    ]
    return Built(image=image, rows=(*base_rows, *rows))


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
    wheels: Sequence[WheelInput],
    scheme: Scheme,
    store: Store,
    open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
    budget: int,
    *,
    shares_pure: bool,
) -> list[tuple[WheelInput, ...]]:
    """The wheels of each layer. Those that write the same path with other bytes share one."""
    by_digest = {wheel.digest: wheel for wheel in wheels}
    items = []
    for cluster in _clusters(wheels, scheme, store, open_wheels):
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


def _clusters(
    wheels: Sequence[WheelInput],
    scheme: Scheme,
    store: Store,
    open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
) -> list[tuple[Digest, ...]]:
    """The wheels, those together that have a path in common; remembered, because it takes all their names."""
    digests = sorted(wheel.digest for wheel in wheels)
    recipe: JSON = {"what": "collisions", "version": 1, "scheme": {**scheme.to_json()}, "wheels": [*digests]}
    key = recipe_key(recipe)
    memo = store.memo("collisions", key)
    together: list[list[str]] = []
    if memo is not None and isinstance(memo.get("together"), list):
        together = memo["together"]  # type: ignore[assignment]
    elif wheels:
        clusters = colliding(open_wheels(wheels), scheme)
        together = [[str(wheel.digest) for wheel in cluster] for cluster in clusters if len(cluster) > 1]
        store.put_memo("collisions", key, {"together": together})  # type: ignore[dict-item]
    shared = {Digest(digest) for cluster in together for digest in cluster}
    return [
        *(tuple(map(Digest, cluster)) for cluster in together),
        *((digest,) for digest in digests if digest not in shared),
    ]


def _wheel_row(
    share: Sequence[WheelInput],
    scheme: Scheme,
    store: Store,
    open_wheels: Callable[[Sequence[WheelInput]], Sequence[Wheel]],
) -> LayerRow:
    what = ", ".join(f"{wheel.name} {wheel.version}" for wheel in share)
    layer = remembered_layer(wheel_layer_key((wheel.digest for wheel in share), scheme), store=store)
    state = "cached"
    if layer is None:
        layer = wheel_layer(open_wheels(share), scheme, store=store)
        state = "new"
    return LayerRow(what=what, layer=layer, state=state)
