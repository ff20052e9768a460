"""The typed tree of a shell text: commands with their words, operators, redirections, assignments and blocks.

Every span points into the Dockerfile that the text came from. What the tree has no type for is `Opaque`: it is never
guessed at.

Source: POSIX.1-2024, Shell Command Language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from msgspec import Struct

from wain.dockerfile import SourceMap, Span
from wain.errors import DockerfileError
from wain.substitution import expand

TEXT_LIMIT = 200_000
_SIMPLE_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?\Z")

Environment: TypeAlias = Mapping[str, str | None]


class Literal(Struct, frozen=True):
    """Text as the command gets it; `quoted` text is neither split nor a pattern."""

    text: str
    quoted: bool


class Variable(Struct, frozen=True):
    """`$name` or `${name...}` as written."""

    text: str
    quoted: bool


class Substitution(Struct, frozen=True):
    """`$(...)`: what it runs; its output is unknown."""

    script: Script
    quoted: bool


class Unknown(Struct, frozen=True):
    """A part whose value is not computed (arithmetic, process substitution, ...)."""

    text: str
    quoted: bool


Part: TypeAlias = Literal | Variable | Substitution | Unknown


class Word(Struct, frozen=True, kw_only=True):
    """One word of a command.

    `inner` is the offset in the script's text at which the value stands unchanged, or None where quoting or variables
    change it.
    """

    parts: tuple[Part, ...]
    span: Span
    inner: int | None

    @property
    def literal(self) -> str | None:
        """The value where it needs no environment; patterns are given as written."""
        # Nearly all words are one literal.
        if len(self.parts) == 1 and isinstance(self.parts[0], Literal):
            return self.parts[0].text
        if all(isinstance(part, Literal) for part in self.parts):
            return "".join(part.text for part in self.parts if isinstance(part, Literal))
        return None

    def value(self, env: Environment) -> str | None:
        """The value in an environment, unsplit; None where any of it is unknown."""
        literal = self.literal
        if literal is not None:
            first = self.parts[0] if self.parts else None
            if literal.startswith("~") and isinstance(first, Literal) and not first.quoted:
                head, slash, tail = literal.partition("/")
                home = env.get("HOME") if head == "~" else f"/home/{head[1:]}"
                return None if home is None else f"{home.rstrip('/')}{slash}{tail}" or "/"
            return literal
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, Literal):
                pieces.append(part.text)
            elif isinstance(part, Variable):
                piece = variable_value(part.text, env)
                if piece is None or sum(map(len, pieces)) + len(piece) > TEXT_LIMIT:
                    return None
                pieces.append(piece)
            else:
                return None
        return "".join(pieces)

    def fields(self, env: Environment) -> list[str] | None:
        """The arguments that the word becomes: an unquoted variable is split, an empty one vanishes."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Variable) and not self.parts[0].quoted:
            value = variable_value(self.parts[0].text, env)
            return None if value is None else value.split()
        value = self.value(env)
        return None if value is None else [value]

    @property
    def is_pattern(self) -> bool:
        """Whether an unquoted `*`, `?` or `[` makes the word a pattern of paths."""
        return any(
            isinstance(part, Literal) and not part.quoted and any(char in part.text for char in "*?[")
            for part in self.parts
        )

    def substitutions(self) -> Iterator[Script]:
        """The scripts of the word's `$(...)`."""
        for part in self.parts:
            if isinstance(part, Substitution):
                yield part.script


class Assignment(Struct, frozen=True, kw_only=True):
    """`name=value` in front of a command or alone; `value` None is an array or otherwise not one word."""

    name: str
    value: Word | None
    appends: bool
    span: Span


class Redirection(Struct, frozen=True, kw_only=True):
    """`operator` with its target; `body` is a here-document's or here-string's text as far as it is literal."""

    operator: str
    descriptor: str
    target: Word | None
    body: str | None
    body_is_literal: bool
    span: Span


class Command(Struct, frozen=True, kw_only=True):
    """A simple command; `words` is empty where it only assigns."""

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...]
    redirections: tuple[Redirection, ...]
    span: Span


class Pipeline(Struct, frozen=True, kw_only=True):
    """`a | b`; each runs in a subshell."""

    commands: tuple[Statement, ...]
    span: Span


class AndOr(Struct, frozen=True, kw_only=True):
    """`left && right` or `left || right`."""

    left: Statement
    operator: str
    right: Statement
    span: Span


class Block(Struct, frozen=True, kw_only=True):
    """Statements in order; `kind` is group (`{}`) or subshell (`()`)."""

    kind: str
    body: tuple[Statement, ...]
    redirections: tuple[Redirection, ...]
    span: Span


class Conditional(Struct, frozen=True, kw_only=True):
    """if and case: `always` runs in any case (conditions), of `branches` at most one."""

    always: tuple[Statement, ...]
    branches: tuple[tuple[Statement, ...], ...]
    has_else: bool
    span: Span


class Loop(Struct, frozen=True, kw_only=True):
    """for, while and until; `values` are for's words, `body` runs for each, perhaps never."""

    kind: str
    variable: str | None
    values: tuple[Word, ...]
    condition: tuple[Statement, ...]
    body: tuple[Statement, ...]
    redirections: tuple[Redirection, ...]
    span: Span


class Function(Struct, frozen=True, kw_only=True):
    """A definition; its body runs where its name is called."""

    name: str
    body: tuple[Statement, ...]
    span: Span


class Background(Struct, frozen=True, kw_only=True):
    """`statement &`"""

    statement: Statement
    span: Span


class Opaque(Struct, frozen=True, kw_only=True):
    """Text with no type here: tests, arithmetic, or what does not parse. `commands` are those found inside."""

    text: str
    commands: tuple[Statement, ...]
    is_error: bool
    span: Span


Statement: TypeAlias = Command | Pipeline | AndOr | Block | Conditional | Loop | Function | Background | Opaque


class Script(Struct, frozen=True, kw_only=True):
    """A parsed shell text. `source_map` leads back to the Dockerfile; where `is_exact` is false spans are those of
    the word that held the text, and nothing in it can be edited by its span."""

    text: str
    statements: tuple[Statement, ...]
    source_map: SourceMap | None
    is_exact: bool
    has_errors: bool


def variable_value(text: str, env: Environment) -> str | None:
    """What `$name` or `${name...}` comes to; None where it is unknown or unset without a default."""
    match = _SIMPLE_VARIABLE.match(text)
    if match:
        return env.get(match.group(1))
    try:
        expansion = expand(text, env)
    except DockerfileError:
        return None
    if expansion.unset and not any(mark in text for mark in (":-", "-", ":+", "+")):
        return None
    return expansion.value


def merge(parts: list[Part]) -> list[Part]:
    """Parts with literals that stand together joined, and empty ones left out."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, Literal) and isinstance(last, Literal) and (part.quoted == last.quoted or not part.text):
            merged[-1] = Literal(last.text + part.text, last.quoted)
        elif isinstance(last, Literal) and not last.text and len(merged) == 1 and isinstance(part, Literal):
            merged[-1] = part
        else:
            merged.append(part)
    return [part for part in merged if not isinstance(part, Literal) or part.text or len(merged) == 1]
