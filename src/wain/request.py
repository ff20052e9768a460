"""What is asked of a build, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct, field

from wain.fetching import Progress
from wain.pipconf import Setting
from wain.platforms import Platform
from wain.records import Record
from wain.settings import BuildSettings
from wain.store import Store
from wain.transport import Transport

if TYPE_CHECKING:
    from wain.distribution import Access


class Request(Record, frozen=True, kw_only=True):
    """What is wanted of a build; where a field says nothing, `[tool.wain]` does, then the default."""

    unshown: ClassVar = ("index_flags",)

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
    index_flags: Mapping[str, Setting] = field(default_factory=dict)
    builds: BuildSettings = field(default_factory=BuildSettings)
    """What is declared for builds from source, beside the settings."""
    leave_out: tuple[Path, ...] = ()
    cache_from: tuple[str, ...] = ()
    """Images whose layers are trusted and taken where they fit."""
    verify_cache: bool = False
    reuses: bool = True
    """Whether registries are asked for layers; without, all that the store lacks is made."""
    compiles: bool | None = None
    tells: bool = False
    """Whether somebody reads more than the result: what bytecode would do, which native libraries are missing."""
    destinations: tuple[str, ...] = ()
    """Where the image will go: registries among them are asked for layers."""


class Workshop(Struct, frozen=True, kw_only=True):
    """What a build works with."""

    store: Store
    transport: Transport
    access: Access
    progress: Progress | None = None
    """Hears how far each download has come."""
    sending: Progress | None = None
    """Hears how far each blob has come on its way to where an image goes."""
    say: Callable[[str], None] = lambda text: None
    """Tells the user a decision."""
