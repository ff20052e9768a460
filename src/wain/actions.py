"""What one command of a RUN does, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct, field

from wain.records import Record


class NeedsEngine(Exception):
    """A command that has to be run: `reason` says why, in words that follow "because"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Action(Record, frozen=True, kw_only=True):
    """What a command does; `told` is for people."""

    told: str


class Nothing(Action, frozen=True, kw_only=True):
    """Changes no file: true, set -e, pip cache purge where nothing is ever cached."""


class Fails(Action, frozen=True, kw_only=True):
    """Is known to fail, whatever the base."""


class Echo(Action, frozen=True, kw_only=True):
    """Writes `text` to where its output goes; with `words`, what the shell's own echo or printf makes of these."""

    text: str
    words: tuple[str, ...] = ()
    """The whole command, where shells differ or escapes are in it."""


class FileCommand(Action, frozen=True, kw_only=True):
    """A command of coreutils with its short flags; operands are indexes into argv."""

    name: str
    flags: frozenset[str]
    mode: str | None
    operands: tuple[int, ...]
    owner: str = ""
    """`user:group` of install."""


class Venv(Action, frozen=True, kw_only=True):
    """Makes virtual environments."""

    python: str
    """As called: decides the base interpreter."""
    folders: tuple[str, ...]
    with_pip: bool
    system_site: bool
    clear: bool
    is_uv: bool
    program: str = ""
    """uv as called."""
    prompt: str | None = None
    is_named: bool = True
    """Whether the folder was given."""
    has_project: bool = True
    """Whether uv looks for a project that says its Python."""


class PipConfig(Action, frozen=True, kw_only=True):
    """`pip config set name value`, in the scope user, global or site."""

    scope: str
    values: tuple[tuple[str, str], ...]


class PipInstall(Action, frozen=True, kw_only=True):
    """An installation: what pip's or uv's flags ask for, unexpanded paths as written."""

    unshown: ClassVar = ("options",)

    program: str
    """As called: `pip`, `/opt/venv/bin/pip`, `python3`, `uv`."""
    is_uv: bool
    requirements: tuple[str, ...]
    files: tuple[str, ...]
    constraints: tuple[str, ...]
    editables: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the index, by pip's name; lists separated by white space."""
    upgrade: bool = False
    eager: bool = False
    no_deps: bool = False
    force: bool = False
    user: bool = False
    target: str | None = None
    prefix: str | None = None
    require_hashes: bool = False
    compile: bool | None = None
    break_system_packages: bool = False
    python: str | None = None
    """uv's --python, or None."""
    system: bool = False
    """uv's --system."""
    extras: tuple[str, ...] = ()
    """uv's --extra, of the pyproject.toml among the files; `*` for all."""
    exact: bool = False
    """Whether what is not asked for is removed: `uv pip sync`."""


class UvSync(Action, frozen=True, kw_only=True):
    """`uv sync`: a project's environment made to be what its uv.lock says."""

    unshown: ClassVar = ("options",)

    program: str
    folder: str | None
    """`--project` or `--directory`."""
    switches: frozenset[str]
    """Flags without a value, without their dashes: `frozen`, `no-dev`, `no-install-project`."""
    extras: tuple[str, ...] = ()
    no_extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    no_groups: tuple[str, ...] = ()
    only_groups: tuple[str, ...] = ()
    no_install: tuple[str, ...] = ()
    package: str | None = None
    python: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the index, by pip's name."""
    compile: bool | None = None


class CompileAll(Action, frozen=True, kw_only=True):
    """`python -m compileall`: bytecode beside the modules of folders."""

    python: str
    """As called."""
    folders: tuple[str, ...]


class Account(Action, frozen=True, kw_only=True):
    """useradd, groupadd or `usermod -aG`."""

    program: str
    name: str
    """Of the user or group."""
    values: Mapping[str, str] = field(default_factory=dict)
    """By what they say: uid, gid, groups, home, shell, comment."""
    switches: frozenset[str] = frozenset()


class Expression(Struct, frozen=True, kw_only=True):
    """A part of find's expression.

    `kind` is or, and, not (of `parts`); true, type, name, iname, path, empty, prune, delete; each and together for
    what `-exec` runs, whose words are `words`.
    """

    kind: str
    words: tuple[str, ...] = ()
    parts: tuple[Expression, ...] = ()


class Find(Action, frozen=True, kw_only=True):
    """`find` below folders, which are indexes into argv."""

    folders: tuple[int, ...]
    expression: Expression
    depth_first: bool
    least: int
    most: int | None


class Look(Action, frozen=True, kw_only=True):
    """Tells of files, which must be there; operands are indexes into argv."""

    operands: tuple[int, ...]


class PipUninstall(Action, frozen=True, kw_only=True):
    """`pip uninstall -y`."""

    program: str
    names: tuple[str, ...]
    break_system_packages: bool = False


class Activate(Action, frozen=True, kw_only=True):
    """`. VENV/bin/activate`: the variables of a virtual environment for the rest of a shell."""

    script: str
    is_source: bool
    """Whether it is called `source`, which dash has not."""
