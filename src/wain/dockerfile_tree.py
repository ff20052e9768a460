"""A parsed Dockerfile as data: its instructions with their flags, words and heredocs, its stages, and what a build
would refuse of it.

Offsets count code points of the text, from 0; lines and columns count from 1. Values are as written, quotes and
variables included.

Source: Dockerfile reference.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from wain.errors import DockerfileError

INSTRUCTIONS = frozenset(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER "
    "VOLUME WORKDIR".split()
)


class Span(NamedTuple):
    """Half-open range of offsets into the Dockerfile's text. A tuple, as there are hundreds in each file."""

    start: int
    end: int

    def __contains__(self, other: object) -> bool:
        return isinstance(other, Span) and self.start <= other.start and other.end <= self.end


class SourceMap:
    """Maps offsets in text joined from pieces of the file back to the file.

    `pieces` are (offset in the joined text, offset in the file), ascending, the first at 0.
    """

    __slots__ = ("_joined", "_source")

    def __init__(self, pieces: list[tuple[int, int]]) -> None:
        self._joined = [joined for joined, _ in pieces]
        self._source = [source for _, source in pieces]

    def offset(self, position: int) -> int:
        """The file's offset of the joined text's character at `position`."""
        if len(self._joined) == 1:
            return self._source[0] + position
        index = bisect_right(self._joined, position) - 1
        return self._source[index] + position - self._joined[index]

    def span(self, start: int, end: int) -> Span:
        """The file's span of the joined text's `[start, end)`; continuations within it are part of it."""
        joined = self._joined
        if len(joined) == 1:
            base = self._source[0]
            return Span(base + start, base + end)
        index = bisect_right(joined, start) - 1
        first = self._source[index] + start - joined[index]
        if end <= start:
            return Span(first, first)
        if index + 1 == len(joined) or end <= joined[index + 1]:
            return Span(first, first + end - start)
        return Span(first, self.offset(end - 1) + 1)

    def shifted(self, start: int) -> SourceMap:
        """The map of the joined text's tail that begins at `start`."""
        pieces = [(0, self.offset(start))]
        pieces += [
            (joined - start, source)
            for joined, source in zip(self._joined, self._source, strict=True)
            if joined > start
        ]
        return SourceMap(pieces)


class Word(Struct, frozen=True):
    """One value of an instruction, as BuildKit's parser gives it: quotes and variables are still in it."""

    value: str
    span: Span


class Flag(Struct, frozen=True, kw_only=True):
    """`--name=value` in front of an instruction's values; `value` is None where there is no `=`."""

    name: str
    value: str | None
    text: str
    span: Span


class Heredoc(Struct, frozen=True, kw_only=True):
    """A here-document: `content` as written (tabs of `<<-` not yet removed), its span without the terminator's line."""

    name: str
    file_descriptor: int
    expand: bool
    chomp: bool
    content: str
    span: Span
    terminator: str

    @property
    def text(self) -> str:
        """The content as its reader gets it: `<<-` has lost the leading tabs of each line."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


class Comment(Struct, frozen=True):
    """A comment line: `text` without the `#` and the spaces around it."""

    text: str
    line: int
    span: Span


class Directive(Struct, frozen=True, kw_only=True):
    """A parser directive (`syntax`, `escape`, `check`) at the top of the file."""

    name: str
    value: str
    line: int
    span: Span


class Instruction(Struct, frozen=True, kw_only=True):
    """One instruction with everything that belongs to it.

    `keyword` is upper case, `word` as written, at offset `word_at` of `joined`. `span` runs from the keyword to the
    end of the last line that belongs to it (heredocs included), without that line's end; `line` and `end_line` are its
    first and last line.
    `joined` is the text with continuations, and comments between them, taken out. `arguments` is what follows
    keyword and flags, trimmed; `arguments_at` its offset in `joined`. `words` are the values: one for the shell form
    of RUN, CMD, ENTRYPOINT and SHELL; names and values in turn for ENV and LABEL. `trigger` is what ONBUILD holds.
    `comments` are the comment lines above it (since the last instruction) and between its continuation lines.
    """

    keyword: str
    word: str
    word_at: int
    span: Span
    line: int
    end_line: int
    joined: str
    source_map: SourceMap
    flags: tuple[Flag, ...]
    words: tuple[Word, ...]
    is_json: bool
    arguments: str
    arguments_at: int
    heredocs: tuple[Heredoc, ...]
    trigger: Instruction | None
    comments: tuple[Comment, ...]

    @property
    def keyword_end(self) -> int:
        """The offset after the keyword, where a flag may be put."""
        return self.source_map.span(self.word_at, self.word_at + len(self.word)).end

    @property
    def values(self) -> tuple[str, ...]:
        """The words' values."""
        return tuple(word.value for word in self.words)

    def flag(self, name: str) -> str | None:
        """The value of the first flag of that name, "" for one without a value, None where there is none."""
        for flag in self.flags:
            if flag.name == name:
                return flag.value if flag.value is not None else ""
        return None

    def pairs(self) -> Iterator[tuple[Word, Word]]:
        """Names and values of ENV and LABEL."""
        return zip(self.words[::2], self.words[1::2], strict=True)


class Stage(Struct, frozen=True, kw_only=True):
    """A FROM and the instructions up to the next; `image` and `platform` are unsubstituted."""

    index: int
    image: str
    name: str | None
    platform: str | None
    opening: Instruction
    instructions: tuple[Instruction, ...]


class Problem(Struct, frozen=True):
    """Something that parses but that a build refuses."""

    message: str
    line: int


class Dockerfile(Struct, frozen=True, kw_only=True):
    """A parsed Dockerfile; `str()` is its text, unchanged."""

    text: str
    name: str
    escape: str
    newline: str
    directives: tuple[Directive, ...]
    instructions: tuple[Instruction, ...]
    comments: tuple[Comment, ...]
    _line_starts: list[int]

    def __str__(self) -> str:
        return self.text

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column (from 1, in code points) of an offset."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """The text of a line, without its end."""
        start = self._line_starts[line - 1]
        end = self._line_starts[line] if line < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def line_start(self, line: int) -> int:
        """The offset of a line's first character; past the last line, the text's length."""
        return self._line_starts[line - 1] if line <= len(self._line_starts) else len(self.text)

    def source(self, span: Span) -> str:
        """The text of a span, as written."""
        return self.text[span.start : span.end]

    @property
    def preamble(self) -> tuple[Instruction, ...]:
        """What stands before the first FROM: the global ARGs, where the file is right."""
        found = []
        for instruction in self.instructions:
            if instruction.keyword == "FROM":
                break
            found.append(instruction)
        return tuple(found)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The build stages in order."""
        stages: list[Stage] = []
        opening: Instruction | None = None
        body: list[Instruction] = []
        for instruction in (*self.instructions, None):
            if instruction is None or instruction.keyword == "FROM":
                if opening is not None:
                    stages.append(_stage(len(stages), opening, body))
                opening, body = instruction, []
            elif opening is not None:
                body.append(instruction)
        return tuple(stages)

    def problems(self) -> tuple[Problem, ...]:
        """What a build would refuse although it parses: unknown instructions, a missing or empty FROM, and so on."""
        return tuple(_problems(self))

    def validate(self) -> None:
        """Fail on the first problem.

        :raises DockerfileError: where `problems` is not empty.
        """
        for problem in self.problems():
            raise dockerfile_error(self.name, problem.line, problem.message)


def dockerfile_error(name: str, line: int, message: str, hint: str = "") -> DockerfileError:
    """An error that names the file and its line."""
    return DockerfileError(
        f"{name}:{line}: {message}",
        hint=hint or f"Look at line {line} of {name}; the Dockerfile reference has the form it should have.",
    )


def _stage(index: int, opening: Instruction, body: list[Instruction]) -> Stage:
    values = opening.values
    named = len(values) == 3 and values[1].upper() == "AS"
    return Stage(
        index=index,
        image=values[0] if values else "",
        name=values[2].lower() if named else None,
        platform=opening.flag("platform"),
        opening=opening,
        instructions=tuple(body),
    )


_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_ONE_VALUE = frozenset({"USER", "WORKDIR", "STOPSIGNAL", "MAINTAINER"})
_FLAGS = {
    "ADD": {"chown", "chmod", "link", "keep-git-dir", "checksum", "exclude", "unpack"},
    "COPY": {"chown", "chmod", "link", "from", "exclude", "parents"},
    "FROM": {"platform"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
    "RUN": {"mount", "network", "security", "device"},
}


def _problems(dockerfile: Dockerfile) -> Iterator[Problem]:
    seen_from = False
    for instruction in dockerfile.instructions:
        keyword = instruction.keyword
        if keyword == "FROM":
            seen_from = True
        elif not seen_from and keyword in INSTRUCTIONS and keyword != "ARG":
            yield Problem(f"{keyword} stands before the first FROM", instruction.line)
        yield from _instruction_problems(instruction)
        if instruction.trigger is not None:
            if instruction.trigger.keyword in {"ONBUILD", "FROM", "MAINTAINER"}:
                yield Problem(f"ONBUILD cannot hold {instruction.trigger.keyword}", instruction.line)
            yield from _instruction_problems(instruction.trigger)
    if not seen_from:
        yield Problem("no FROM: there is no base to build on", dockerfile.instructions[0].line)


def _instruction_problems(instruction: Instruction) -> Iterator[Problem]:
    keyword, words, line = instruction.keyword, instruction.words, instruction.line
    if keyword not in INSTRUCTIONS:
        yield Problem(f"unknown instruction {instruction.word or '(empty)'}", line)
        return
    known = _FLAGS.get(keyword, set())
    for flag in instruction.flags:
        if flag.name not in known:
            yield Problem(f"{keyword} has no flag --{flag.name}", line)
    if keyword == "FROM":
        values = instruction.values
        if len(values) not in {1, 3} or (len(values) == 3 and values[1].upper() != "AS"):
            yield Problem("FROM takes an image, or an image AS a name", line)
        elif len(values) == 3 and not _STAGE_NAME.match(values[2].lower()):
            yield Problem(f"{values[2]!r} cannot be a stage's name", line)
    elif keyword == "ONBUILD":
        if instruction.trigger is None:
            yield Problem("ONBUILD needs an instruction", line)
    elif not words and keyword not in {"CMD", "ENTRYPOINT"}:
        yield Problem(f"{keyword} needs an argument", line)
    elif keyword in {"ADD", "COPY"} and len(words) < 2:
        yield Problem(f"{keyword} needs at least one source and a destination", line)
    elif keyword == "SHELL" and not instruction.is_json:
        yield Problem('SHELL takes the JSON form: SHELL ["program", "argument"]', line)
    elif keyword in {"ENV", "LABEL"}:
        for name, _ in instruction.pairs():
            if not name.value:
                yield Problem(f"{keyword} has an empty name", line)
