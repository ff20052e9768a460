"""What the instructions of a Dockerfile do, stage by stage, as data: who runs what where, and what that leaves behind.

`wain.follow` makes it. What could not be known is None, and no rule guesses on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct, field

from wain.dockerfile import Dockerfile, Instruction, Span, Stage
from wain.invocation import CacheUse
from wain.known_images import KnownImage
from wain.mounts import Mount
from wain.paths import covers, inside
from wain.scopes import Scope
from wain.shell import Script
from wain.walk import Call

Reader = Callable[[str], str | None]
CONFIGURATIONS = frozenset({"pip.conf", "uv.toml", "poetry.toml"})
"""Names of files whose text decides about caches."""


class User(Struct, frozen=True, kw_only=True):
    """Who runs: `name` as in USER, uid where it is known ("0" for root), home where it is known."""

    name: str | None
    uid: str | None
    home: str | None

    @property
    def is_root(self) -> bool | None:
        """Whether it is root; None where it is not known."""
        if self.uid == "0" or self.name in {"root", "0"}:
            return True
        return None if self.name is None else False


ROOT = User(name="root", uid="0", home="/root")


class Mounted(Struct, frozen=True, kw_only=True):
    """A RUN's mount with its values expanded; None where one is unknown."""

    mount: Mount
    target: str | None
    id: str | None
    uid: str | None

    @property
    def kind(self) -> str:
        """bind, cache, tmpfs, secret or ssh."""
        return self.mount.kind


class Removal(Struct, frozen=True, kw_only=True):
    """Something a command deletes: an absolute path or pattern, and where in the script."""

    pattern: str
    branch: tuple[int, ...]
    order: int
    call: Call


class Use(Struct, frozen=True, kw_only=True):
    """A cache use by one command of a RUN."""

    cache: CacheUse
    call: Call


class Run(Struct, kw_only=True):
    """One RUN (or a shell form inside ONBUILD), with everything its commands do."""

    instruction: Instruction
    holder: Instruction
    stage: StageTrace
    script: Script | None
    env: Mapping[str, str | None]
    user: User
    workdir: str | None
    mounts: tuple[Mounted, ...]
    calls: list[Call] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)

    def mount_over(self, folder: str) -> Mounted | None:
        """The mount that keeps a folder out of the layer; None where there is none."""
        for mounted in self.mounts:
            if mounted.kind in {"cache", "tmpfs", "bind"} and mounted.target is not None:
                if inside(folder, mounted.target):
                    return mounted
                if folder.startswith("~/") and f"{mounted.target}/".endswith(f"{folder[1:]}/"):
                    return mounted
        return None

    @property
    def has_unknown_mount(self) -> bool:
        """Whether a mount's target could not be expanded."""
        return any(mounted.target is None and mounted.kind in {"cache", "tmpfs"} for mounted in self.mounts)

    def removed(self, folder: str, use: Use) -> bool:
        """Whether the RUN itself removes a folder after the command that filled it, whenever that command ran."""
        return any(
            removal.order > use.call.order
            and use.call.branch[: len(removal.branch)] == removal.branch
            and covers(removal.pattern, folder)
            for removal in self.removals
        )

    def left(self, use: Use) -> tuple[str, ...]:
        """The folders of an enabled cache that this RUN leaves in its layer."""
        if use.cache.enabled is not True or self.has_unknown_mount:
            return ()
        return tuple(
            folder for folder in use.cache.folders if self.mount_over(folder) is None and not self.removed(folder, use)
        )


class CopiedFrom(Struct, frozen=True, kw_only=True):
    """COPY --from=stage: what of the stage goes on."""

    instruction: Instruction
    stage_index: int
    sources: tuple[str | None, ...]


class Step(Struct, kw_only=True):
    """An instruction with the state in which it stands."""

    instruction: Instruction
    env: Mapping[str, str | None]
    args: Mapping[str, str | None]
    user: User
    workdir: str | None


class StageTrace(Struct, kw_only=True):
    """One stage: its base, its steps and runs in order, and whether its files reach an image.

    `ships` is final (its layers are in the last stage's image), target (only in an image built with --target) or
    discarded. `copied` are the folders that COPY --from takes from it into stages that ship.
    """

    stage: Stage
    image: str | None
    parent: StageTrace | None
    base: KnownImage
    steps: list[Step] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    copies: list[CopiedFrom] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    user: User = ROOT
    workdir: str | None = "/"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    ships: str = "discarded"
    copied: list[str | None] = field(default_factory=list)

    def keeps(self, folder: str) -> bool:
        """Whether a folder of this stage's end reaches the image: by FROM, or by a COPY --from that takes it in."""
        if self.ships != "discarded":
            return True
        return any(source is not None and (inside(folder, source) or inside(source, folder)) for source in self.copied)

    def ancestors(self) -> Iterator[StageTrace]:
        """The stages that this one is FROM, nearest first."""
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    @property
    def root_image(self) -> str | None:
        """The image at the bottom; None where it is unknown."""
        return self.parent.root_image if self.parent is not None else self.image


class Trace(Struct, kw_only=True):
    """The whole file, followed. `problems` are what could not be followed: (line, message)."""

    dockerfile: Dockerfile
    globals: Scope
    stages: list[StageTrace]
    problems: list[tuple[int, str]]

    def runs(self) -> Iterator[Run]:
        """All RUNs in order."""
        for stage in self.stages:
            yield from stage.runs

    def release(self) -> None:
        """Take the runs off their stages: what points both ways waits for the collector, which is slow."""
        for stage in self.stages:
            stage.runs.clear()

    @property
    def uses_buildkit(self) -> bool:
        """Whether the file already uses what only BuildKit has: mounts, heredocs, --link, a syntax directive."""
        return any(directive.name == "syntax" for directive in self.dockerfile.directives) or any(
            instruction.heredocs
            or any(flag.name in {"mount", "link", "parents", "exclude", "network"} for flag in instruction.flags)
            for instruction in self.dockerfile.instructions
        )


def span_of(run: Run, call: Call) -> Span:
    """Where to point for a call: its command, or the whole instruction where it has no place of its own."""
    return call.command_span if call.command_span.end > call.command_span.start else run.instruction.span
