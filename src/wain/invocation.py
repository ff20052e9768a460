"""One command line of a package tool with what it runs in, and what such a line says of the tool's cache.

`None` in an argument, a variable or a folder is "not known". A folder under an unknown home begins with `~`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
"""What tools take for yes in a variable, in lower case."""
_PIP_PROGRAM = re.compile(r"pip(\d+(\.\d+)*)?\Z")
_PYTHON_PROGRAM = re.compile(r"(python|pypy)(\d+(\.\d+)*)?t?\Z")


class Setting(Struct, frozen=True, kw_only=True):
    """What decided something: kind is flag, variable, file or default; `name` the flag, variable or path."""

    kind: str
    name: str


class CacheUse(Struct, frozen=True, kw_only=True):
    """A command that fills a cache, or would if it were on.

    `enabled` None is "not known". `folders` are what fills, `home` the folder that a mount should have as its target.
    `switch` is what turned the cache off, `place` what decided the folder.
    """

    tool: str
    verb: str
    enabled: bool | None
    folders: tuple[str, ...]
    home: str
    switch: Setting | None
    place: Setting


class Invocation(Struct, frozen=True, kw_only=True):
    """One command after wrappers (sudo, env, sh -c, ...) are taken off: `argv[0]` is the program as called.

    `files` maps paths of configuration files written in the Dockerfile to their text, None where the text is unknown.
    """

    argv: tuple[str | None, ...]
    env: Mapping[str, str | None]
    home: str | None
    files: Mapping[str, str | None]
    cwd: str | None = None

    @property
    def program(self) -> str:
        """The program's name without its folder; "" where it is unknown."""
        first = self.argv[0] if self.argv else None
        return (first or "").rpartition("/")[2]

    def under_home(self, rest: str) -> str:
        """A path below HOME; HOME is the variable where it is set."""
        home = self.env.get("HOME", self.home)
        return f"{home.rstrip('/')}/{rest}" if home else f"~/{rest}"

    def cache_home(self, name: str) -> tuple[str, Setting]:
        """`$XDG_CACHE_HOME/name` or `~/.cache/name`."""
        xdg = self.env.get("XDG_CACHE_HOME")
        if xdg:
            return f"{xdg.rstrip('/')}/{name}", Setting(kind="variable", name="XDG_CACHE_HOME")
        return self.under_home(f".cache/{name}"), Setting(kind="default", name="")

    def config_home(self, rest: str) -> str:
        """A path below `$XDG_CONFIG_HOME` or `~/.config`."""
        xdg = self.env.get("XDG_CONFIG_HOME")
        return f"{xdg.rstrip('/')}/{rest}" if xdg else self.under_home(f".config/{rest}")

    def path(self, value: str) -> str:
        """A path as the tool takes it: `~` expanded, relative ones under the working directory."""
        if value == "~" or value.startswith("~/"):
            return self.under_home(value[2:]).rstrip("/")
        if not value.startswith("/") and self.cwd:
            return f"{self.cwd.rstrip('/')}/{value}"
        return value.rstrip("/") or "/"

    def variable_place(self, variable: str, default: tuple[str, Setting]) -> tuple[str, Setting, bool | None]:
        """The folder that a variable names, else the default; the last is None where the value is unknown."""
        if variable in self.env:
            value = self.env[variable]
            setting = Setting(kind="variable", name=variable)
            if value is None:
                return default[0], setting, None
            if value:
                return self.path(value), setting, True
        return (*default, True)

    def with_argv(self, *argv: str | None) -> Invocation:
        """Another command line, run in the same place."""
        return replace(self, argv=argv)


class Tool(Struct, frozen=True, kw_only=True):
    """A package tool: `programs` are its names on the command line, `module` its name after `python -m`.

    `use` says what cache a command fills (None: it is no such command), `cleaned` which folders one empties.
    """

    name: str
    programs: frozenset[str]
    module: str | None
    use: Callable[[Invocation], CacheUse | None]
    cleaned: Callable[[Invocation], tuple[str, ...]]


@functools.lru_cache(maxsize=4096)
def is_pip(program: str) -> bool:
    """Whether a program's name is pip's: pip, pip3, pip3.12."""
    return _PIP_PROGRAM.match(program) is not None


@functools.lru_cache(maxsize=4096)
def is_python(program: str) -> bool:
    """Whether a program's name is an interpreter's."""
    return _PYTHON_PROGRAM.match(program) is not None


def python_module(argv: Sequence[str | None]) -> tuple[str, int] | None:
    """The module of `python [options] -m module` and the index of the module's name in argv."""
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None or not word.startswith("-") or word in {"-", "--"}:
            return None
        if word == "-m":
            name = argv[index + 1] if index + 1 < len(argv) else None
            return (name, index + 1) if name else None
        if word == "-c":
            return None
        if not word.startswith("--") and "m" in word[1:]:
            flags, _, rest = word[1:].partition("m")
            if all(char in "bBdEhiIOPqRsSuvVx" for char in flags):
                if rest:
                    return rest, index
                name = argv[index + 1] if index + 1 < len(argv) else None
                return (name, index + 1) if name else None
        if word in {"-W", "-X", "--check-hash-based-pycs"}:
            index += 1
        index += 1
    return None


def options(
    argv: Sequence[str | None], valued: frozenset[str]
) -> tuple[list[tuple[str, str | None]], list[str | None]]:
    """Options (with values for those in `valued` and for `--name=value`) and operands of a command line."""
    found: list[tuple[str, str | None]] = []
    operands: list[str | None] = []
    index = 1
    while index < len(argv):
        word = argv[index]
        index += 1
        if word is None or not word.startswith("-") or word == "-":
            operands.append(word)
        elif word == "--":
            operands.extend(argv[index:])
            break
        else:
            name, equals, value = word.partition("=")
            if equals:
                found.append((name, value))
            elif name in valued:
                found.append((name, argv[index] if index < len(argv) else None))
                index += 1
            else:
                found.append((name, None))
    return found, operands


def verb_of(
    call: Invocation, valued: frozenset[str] = frozenset()
) -> tuple[str, list[str], list[tuple[str, str | None]]]:
    """The subcommand ("" without one), the known operands after it, and the options."""
    found, operands = options(call.argv, valued)
    words = [operand for operand in operands if operand is not None]
    return (words[0] if words else "", words[1:], found)


def begins_with(call: Invocation, *words: str, valued: frozenset[str] = frozenset()) -> bool:
    """Whether the subcommand and its operands begin with these words, as `cache clear`."""
    verb, rest, _ = verb_of(call, valued)
    return (verb, *rest)[: len(words)] == words
