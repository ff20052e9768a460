"""Lossless parse of a Dockerfile: every instruction, flag, word and heredoc with its place in the text.

`parse(text)` never changes a byte: `str(parse(text)) == text`. What is an instruction, a flag and a value is what
BuildKit's parser says it is. Offsets count code points of the text, from 0; lines and columns count from 1.
Values are kept as written, quotes and variables included; `wain.substitution` says what they come to.

Source: Dockerfile reference (format, parser directives, escape, here-documents).
"""

from __future__ import annotations

import json
import re

from msgspec.structs import replace

from wain.dockerfile_tree import (
    INSTRUCTIONS,
    Comment,
    Directive,
    Dockerfile,
    Flag,
    Heredoc,
    Instruction,
    Problem,
    SourceMap,
    Span,
    Stage,
    Word,
    dockerfile_error,
)
from wain.errors import DockerfileError
from wain.substitution import SPACE, split_words, unquote_heredoc

LINE_LIMIT_BYTES = 65_535

_HEREDOC_INSTRUCTIONS = frozenset({"ADD", "COPY", "RUN"})
_DIRECTIVES = frozenset({"syntax", "escape", "check"})

_DIRECTIVE = re.compile(r"#[\s]*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_WHITESPACE = re.compile(r"[\t\v\f\r ]+")
_NOT_WHITESPACE = re.compile(r"[^\t\v\f\r ]+")
_CONTINUED = {
    "\\": re.compile(r"(?:(?<=[^\\])|^)\\[ \t]*$"),
    "`": re.compile(r"(?:(?<=[^`])|^)`[ \t]*$"),
}
_JSON_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_JSON_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ASCII_SPACE = " \t\n\v\f\r"
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]+)\Z")


def parse(text: str, *, name: str = "Dockerfile") -> Dockerfile:
    """The parsed file; `name` is used in errors.

    :raises DockerfileError: where BuildKit's parser refuses the text (the message has file and line).
    """
    return _Parser(text, name).parse()


def decode(data: bytes) -> str:
    """A Dockerfile's bytes as text that `encode` gives back unchanged, whatever they are."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of a text read by `decode`."""
    return text.encode("utf-8", "surrogateescape")


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.escape = "\\"
        self.continued = _CONTINUED["\\"]
        self.directives: list[Directive] = []
        self.directives_done = False
        self.comments: list[Comment] = []
        self.instructions: list[Instruction] = []
        self.starts = [0]
        position = text.find("\n")
        while position >= 0:
            self.starts.append(position + 1)
            position = text.find("\n", position + 1)
        if len(self.starts) > 1 and self.starts[-1] == len(text):
            self.starts.pop()
        self.line_count = len(self.starts) if text else 0

    def fail(self, line: int, message: str, hint: str = "") -> DockerfileError:
        return dockerfile_error(self.name, line, message, hint)

    def raw_line(self, index: int) -> str:
        start = self.starts[index]
        end = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.text)
        if end - start > 16_000:
            size = len(self.text[start:end].encode("utf-8", "surrogatepass"))
            if size > LINE_LIMIT_BYTES:
                raise self.fail(
                    index + 1,
                    f"the line has {size} bytes, more than the {LINE_LIMIT_BYTES} that builders read",
                    "Split the line with continuations, or copy the data in as a file.",
                )
        return self.text[start:end]

    def parse(self) -> Dockerfile:
        index = 0
        pending: list[Comment] = []
        while index < self.line_count:
            raw = self.raw_line(index)
            line = raw.rstrip("\r\n")
            if index == 0 and line.startswith("\ufeff"):
                line = line[1:]
                raw = raw[1:]
                begin = 1
            else:
                begin = self.starts[index]
            stripped = line.lstrip(SPACE)
            if not self.directives_done:
                self.directive(stripped, index, begin + len(line) - len(stripped))
            if not stripped:
                index += 1
                continue
            if stripped[0] == "#":
                at = begin + len(line) - len(stripped)
                pending.append(Comment(stripped[1:].strip(), index + 1, Span(at, at + len(stripped))))
                index += 1
                continue
            index = self.instruction(stripped, index, begin + len(line) - len(stripped), pending)
            pending = []
        if not self.instructions:
            raise self.fail(max(1, self.line_count), "the file has no instructions", "A Dockerfile begins with FROM.")
        return Dockerfile(
            text=self.text,
            name=self.name,
            escape=self.escape,
            newline="\r\n" if self.text.count("\r\n") * 2 > self.text.count("\n") else "\n",
            directives=tuple(self.directives),
            instructions=tuple(self.instructions),
            comments=tuple(self.comments + pending),
            _line_starts=self.starts,
        )

    def directive(self, stripped: str, index: int, at: int) -> None:
        match = _DIRECTIVE.match(stripped)
        key = match.group(1).lower() if match else ""
        if match is None or key not in _DIRECTIVES:
            self.directives_done = True
            return
        value = match.group(2)
        if any(directive.name == key for directive in self.directives):
            raise self.fail(index + 1, f"only one {key} parser directive can be used", "Remove the second one.")
        self.directives.append(Directive(name=key, value=value, line=index + 1, span=Span(at, at + len(stripped))))
        if key == "escape":
            if value not in _CONTINUED:
                raise self.fail(
                    index + 1, f"{value!r} cannot be the escape character", "It is a backslash or a backtick."
                )
            self.escape = value
            self.continued = _CONTINUED[value]

    def instruction(self, first: str, index: int, at: int, pending: list[Comment]) -> int:
        """Read the instruction that begins at `at`; returns the index of the line after it."""
        begin_index = index
        match = self.continued.search(first)
        index += 1
        last_end = at + len(first)
        if match is None:
            joined = first
            source_map = SourceMap([(0, at)])
        else:
            parts = [first[: match.start()]]
            pieces = [(0, at)]
            length = len(parts[0])
            ended = False
            while not ended and index < self.line_count:
                start = self.starts[index]
                line = self.raw_line(index).rstrip("\r\n")
                index += 1
                last_end = start + len(line)
                stripped = line.lstrip(SPACE)
                if not stripped:
                    continue
                if stripped[0] == "#":
                    comment_at = start + len(line) - len(stripped)
                    pending.append(Comment(stripped[1:].strip(), index, Span(comment_at, comment_at + len(stripped))))
                    continue
                match = self.continued.search(line)
                if match is None:
                    ended = True
                else:
                    line = line[: match.start()]
                if line:
                    if length or len(pieces) > 1:
                        pieces.append((length, start))
                    else:
                        pieces = [(0, start)]
                    parts.append(line)
                    length += len(line)
            joined = "".join(parts)
            source_map = SourceMap(pieces)
        instruction = self.build(joined, source_map, 0, begin_index, index - 1, Span(at, last_end), pending)
        holder = instruction
        if holder.trigger is not None:
            holder = holder.trigger
        if holder.keyword in _HEREDOC_INSTRUCTIONS and not holder.is_json and "<<" in joined:
            index, instruction = self.heredocs(instruction, begin_index, index)
        self.instructions.append(instruction)
        self.comments.extend(pending)
        return index

    def heredocs(self, instruction: Instruction, begin: int, index: int) -> tuple[int, Instruction]:
        found: list[Heredoc] = []
        span_end = instruction.span.end
        for raw in split_words(instruction.joined):
            match = _HEREDOC.match(raw)
            if match is None:
                continue
            word = unquote_heredoc(match.group(3))
            if word is None:
                continue
            name, expand = word
            chomp = match.group(2) == "-"
            start = self.starts[index] if index < self.line_count else len(self.text)
            content: list[str] = []
            while True:
                if index >= self.line_count:
                    raise self.fail(
                        begin + 1,
                        f"the here-document {name!r} does not end",
                        f"End it with a line that holds {name} alone.",
                    )
                line = self.raw_line(index)
                line_start = self.starts[index]
                index += 1
                bare = line.rstrip("\r\n")
                if (bare.lstrip("\t") if chomp else bare) == name:
                    found.append(
                        Heredoc(
                            name=name,
                            file_descriptor=int(match.group(1)[:9] or 0),
                            expand=expand,
                            chomp=chomp,
                            content="".join(content),
                            span=Span(start, line_start),
                            terminator=line,
                        )
                    )
                    span_end = line_start + len(bare)
                    break
                content.append(line)
        if not found:
            return index, instruction
        return index, _with_heredocs(instruction, tuple(found), span_end, index)

    def build(
        self,
        joined: str,
        source_map: SourceMap,
        begin: int,
        first: int,
        last: int,
        span: Span,
        comments: list[Comment],
    ) -> Instruction:
        """The instruction that `joined[begin:]` holds."""
        begin = _skip_space(joined, begin)
        text_end = len(joined.rstrip(SPACE))
        match = _NOT_WHITESPACE.match(joined, begin)
        word_end = min(match.end(), text_end) if match else begin
        word = joined[begin:word_end]
        keyword = word.upper()
        rest = _WHITESPACE.match(joined, word_end)
        position = rest.end() if rest else word_end
        flags: tuple[Flag, ...] = ()
        if joined.startswith("-", _skip_space(joined, position)):
            flags, position = _flags(joined, position, text_end, source_map)
        start = _skip_space(joined, position)
        end = max(text_end, start)
        arguments = joined[start:end]
        words: tuple[Word, ...] = ()
        is_json = False
        trigger = None
        line = first + 1
        if keyword == "ONBUILD":
            if arguments:
                inner = joined[:end]
                trigger = self.build(
                    inner,
                    source_map,
                    start,
                    first,
                    last,
                    Span(source_map.offset(start), span.end),
                    comments,
                )
        elif arguments:
            words, is_json = self.words(keyword, joined, start, end, source_map, line)
        return Instruction(
            keyword=keyword,
            word=word,
            word_at=begin,
            span=span,
            line=line,
            end_line=last + 1,
            joined=joined,
            source_map=source_map,
            flags=flags,
            words=words,
            is_json=is_json,
            arguments=arguments,
            arguments_at=start,
            heredocs=(),
            trigger=trigger,
            comments=tuple(comments),
        )

    def words(
        self, keyword: str, joined: str, start: int, end: int, source_map: SourceMap, line: int
    ) -> tuple[tuple[Word, ...], bool]:
        if keyword in {"RUN", "CMD", "ENTRYPOINT", "SHELL"}:
            return self.json_or_text(joined, start, end, source_map, line)
        if keyword in {"ADD", "COPY", "VOLUME"}:
            if joined[start] == "[":
                found = self.json(joined, start, end, source_map, line)
                if found is not None:
                    return found, True
            return _plain_words(joined, start, end, source_map), False
        if keyword in {"FROM", "EXPOSE"}:
            return _plain_words(joined, start, end, source_map), False
        if keyword in {"ENV", "LABEL"}:
            return self.name_values(keyword, joined, start, end, source_map, line), False
        if keyword == "ARG":
            return tuple(
                Word(value, source_map.span(first, last))
                for value, first, last in _quoted_words(joined, start, end, self.escape)
            ), False
        if keyword == "HEALTHCHECK":
            kind_end = start
            while kind_end < end and joined[kind_end] not in SPACE:
                kind_end += 1
            kind = Word(joined[start:kind_end], source_map.span(start, kind_end))
            after = _skip_space(joined, kind_end)
            if after >= end:
                return (kind,), False
            words, is_json = self.json_or_text(joined, after, end, source_map, line)
            return (kind, *words), is_json
        if keyword in INSTRUCTIONS:
            return (Word(joined[start:end], source_map.span(start, end)),), False
        return (), False

    def json_or_text(
        self, joined: str, start: int, end: int, source_map: SourceMap, line: int
    ) -> tuple[tuple[Word, ...], bool]:
        if joined[start] == "[":
            found = self.json(joined, start, end, source_map, line)
            if found is not None:
                return found, True
        return (Word(joined[start:end], source_map.span(start, end)),), False

    def json(self, joined: str, start: int, end: int, source_map: SourceMap, line: int) -> tuple[Word, ...] | None:
        """The strings of the JSON array at `start`; None where the text is not JSON."""
        words: list[Word] = []
        position = _json_space(joined, start + 1)
        if joined.startswith("]", position):
            return ()
        while match := _JSON_STRING.match(joined, position, end):
            token = match.group()
            value = json.loads(token) if "\\" in token else token[1:-1]
            if "\\u" in token:
                value = _SURROGATE.sub("\ufffd", value)
            words.append(Word(value, source_map.span(match.start(), match.end())))
            position = _json_space(joined, match.end())
            if joined.startswith("]", position):
                return tuple(words)
            if not joined.startswith(",", position):
                break
            position = _json_space(joined, position + 1)
        try:
            json.JSONDecoder(parse_constant=_no_constant, parse_int=float).raw_decode(joined[start:end])
        except (ValueError, RecursionError):
            return None
        raise self.fail(line, "a JSON array here may hold strings only", "Put each argument in double quotes.")

    def name_values(
        self, keyword: str, joined: str, start: int, end: int, source_map: SourceMap, line: int
    ) -> tuple[Word, ...]:
        found = _quoted_words(joined, start, end, self.escape)
        if not found:
            return ()
        if "=" not in found[0][0]:
            gap = _WHITESPACE.search(joined, start, end)
            if gap is None:
                raise self.fail(line, f"{keyword} needs a name and a value", f"Write {keyword} name=value.")
            return (
                Word(joined[start : gap.start()], source_map.span(start, gap.start())),
                Word(joined[gap.end() : end], source_map.span(gap.end(), end)),
            )
        words: list[Word] = []
        for value, first, last in found:
            name, equals, rest = value.partition("=")
            if not equals:
                raise self.fail(
                    line,
                    f"{keyword} has {value!r}, which is not of the form name=value",
                    "Quote a value that has spaces.",
                )
            middle = joined.index("=", first, last)
            words.append(Word(name, source_map.span(first, middle)))
            words.append(Word(rest, source_map.span(middle + 1, last)))
        return tuple(words)


def _no_constant(_: str) -> None:
    raise ValueError("not JSON")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def _json_space(text: str, position: int) -> int:
    match = _JSON_SPACE.match(text, position)
    return match.end() if match else position


def _plain_words(joined: str, start: int, end: int, source_map: SourceMap) -> tuple[Word, ...]:
    return tuple(
        Word(match.group(), source_map.span(match.start(), match.end()))
        for match in _NOT_WHITESPACE.finditer(joined, start, end)
    )


def _quoted_words(joined: str, start: int, end: int, escape: str) -> list[tuple[str, int, int]]:
    """Words with quotes kept, as ENV, LABEL and ARG have them: (text, start, end)."""
    words: list[tuple[str, int, int]] = []
    position = start
    while True:
        position = _skip_space(joined, position)
        if position >= end:
            return words
        first = position
        quote = ""
        dropped = -1
        while position < end:
            char = joined[position]
            if quote:
                if char == quote:
                    quote = ""
                elif char == escape and quote != "'":
                    if position + 1 >= end:
                        dropped = position
                    else:
                        position += 1
            elif char in SPACE:
                break
            elif char in "'\"":
                quote = char
            elif char == escape:
                if position + 1 >= end:
                    dropped = position
                else:
                    position += 1
            position += 1
        value = joined[first:position] if dropped < 0 else joined[first:dropped]
        if value:
            words.append((value, first, position))


def _flags(joined: str, position: int, end: int, source_map: SourceMap) -> tuple[tuple[Flag, ...], int]:
    """The flags at `position` and the offset after them; quotes are removed as BuildKit removes them."""
    flags: list[Flag] = []
    while True:
        # What is a space to other alphabets ends the flags.
        while position < end and joined[position] in _ASCII_SPACE:
            position += 1
        if position >= end or not joined.startswith("--", position):
            return tuple(flags), min(position, end)
        first = position
        text: list[str] = []
        quote = ""
        quoted = False
        while position < end:
            char = joined[position]
            if quote and char == quote:
                quote = ""
            elif not quote and char in _ASCII_SPACE:
                break
            elif not quote and char in "'\"":
                quote = char
                quoted = True
            elif char == "\\":
                if position + 1 < end:
                    position += 1
                    text.append(joined[position])
            else:
                text.append(char)
            position += 1
        word = "".join(text)
        if word == "--":
            return tuple(flags), position
        if word or quoted:
            name, equals, value = word.removeprefix("--").partition("=")
            flags.append(
                Flag(
                    name=name,
                    value=value if equals else None,
                    text=word,
                    span=source_map.span(first, position),
                )
            )


def _with_heredocs(instruction: Instruction, heredocs: tuple[Heredoc, ...], end: int, end_line: int) -> Instruction:
    trigger = instruction.trigger
    if trigger is not None:
        trigger = _with_heredocs(trigger, heredocs, end, end_line)
    return replace(
        instruction,
        heredocs=heredocs,
        span=Span(instruction.span.start, end),
        end_line=end_line,
        trigger=trigger,
    )


__all__ = [
    "INSTRUCTIONS",
    "LINE_LIMIT_BYTES",
    "Comment",
    "Directive",
    "Dockerfile",
    "Flag",
    "Heredoc",
    "Instruction",
    "Problem",
    "SourceMap",
    "Span",
    "Stage",
    "Word",
    "decode",
    "dockerfile_error",
    "encode",
    "parse",
]
