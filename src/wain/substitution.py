"""What a Dockerfile's variables come to: quotes, escapes, substitution with its modifiers.

A value may be unknown: an ARG without default whose build argument is not given. Unknown is None in a mapping, and
whatever depends on it comes out as None.

Source: Dockerfile reference (environment replacement, ARG, automatic platform ARGs, here-documents).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from wain.errors import DockerfileError

# What Go's unicode.IsSpace holds to be space: fewer characters than Python's str.isspace.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPECIAL = frozenset("@*#?-$!0")
_NESTING_LIMIT = 50
_PATTERN_LIMIT = 4_096
_VALUE_LIMIT = 1_000_000


class Expansion(Struct, frozen=True, kw_only=True):
    """What a text came to: None where it depends on an unknown value; the variables that are not set at all."""

    value: str | None
    unset: frozenset[str]


class _Unknown(Exception):
    pass


class _Lexer:
    """One pass over a text: quotes, escapes, variables; collects the whole and its words."""

    def __init__(
        self,
        text: str,
        env: Mapping[str, str | None],
        escape: str,
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
    ) -> None:
        self.text = text
        self.env = env
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.keep_unset = keep_unset
        self.position = 0
        self.depth = 0
        self.grown = 0
        self.unset: set[str] = set()
        self.unknown = False

    def peek(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else ""

    def next(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """The text up to `stop` ("" is the end), expanded, and its words."""
        result: list[str] = []
        words: list[str] = []
        word: list[str] = []
        outer, self.raw_escapes = self.raw_escapes, raw_escapes
        self.depth += 1
        if self.depth > _NESTING_LIMIT:
            raise DockerfileError("a variable's modifiers nest too deep", hint="Split the value.")
        try:
            while char := self.peek():
                if char == stop:
                    self.position += 1
                    if word:
                        words.append("".join(word))
                    return "".join(result), words
                if char in "'\"":
                    piece = self.single() if char == "'" else self.double()
                    result.append(piece)
                    word.append(piece)
                elif char == "$":
                    piece = self.dollar()
                    result.append(piece)
                    for one in piece:
                        if one in SPACE:
                            if word:
                                words.append("".join(word))
                                word = []
                        else:
                            word.append(one)
                else:
                    self.position += 1
                    if char == self.escape:
                        if self.raw_escapes:
                            word.append(char)
                            result.append(char)
                        char = self.next()
                        if not char:
                            break
                        word.append(char)
                    elif char in SPACE:
                        if word:
                            words.append("".join(word))
                            word = []
                    else:
                        word.append(char)
                    result.append(char)
        finally:
            self.raw_escapes = outer
            self.depth -= 1
        if stop:
            raise DockerfileError(f"a variable's {stop!r} is missing", hint="Close it, or escape the dollar sign.")
        if word:
            words.append("".join(word))
        return "".join(result), words

    def single(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise DockerfileError("a single quote is not closed", hint="Close it, or escape it.")
        inner = self.text[self.position + 1 : end]
        self.position = end + 1
        return f"'{inner}'" if self.raw_quotes else inner

    def double(self) -> str:
        result = [self.next()] if self.raw_quotes else []
        if not self.raw_quotes:
            self.position += 1
        while char := self.peek():
            if char == '"':
                self.position += 1
                if self.raw_quotes:
                    result.append(char)
                return "".join(result)
            if char == "$":
                result.append(self.dollar())
                continue
            self.position += 1
            if char == self.escape:
                if self.raw_escapes:
                    result.append(char)
                following = self.peek()
                if not following:
                    continue
                if following in {'"', "$", self.escape}:
                    char = self.next()
            result.append(char)
        raise DockerfileError("a double quote is not closed", hint="Close it, or escape it.")

    def name(self) -> str:
        start = self.position
        char = self.peek()
        if char.isdigit():
            while self.peek().isdigit():
                self.position += 1
        elif char in _SPECIAL and char:
            self.position += 1
        else:
            while (char := self.peek()) and (char.isalnum() or char == "_"):
                self.position += 1
        return self.text[start : self.position]

    def lookup(self, name: str) -> tuple[str, bool]:
        if name in self.env:
            value = self.env[name]
            if value is None:
                self.unknown = True
                return "", True
            self.grow(len(value))
            return value, True
        self.unset.add(name)
        return "", False

    def grow(self, length: int) -> None:
        """Count what variables put in: `A=$A$A` line after line doubles."""
        self.grown += length
        if self.grown > _VALUE_LIMIT:
            raise DockerfileError(
                f"variables make a value of more than {_VALUE_LIMIT} characters", hint="Shorten the values."
            )

    def dollar(self) -> str:
        start = self.position
        self.position += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value, is_set = self.lookup(name)
            return f"${name}" if self.keep_unset and not is_set else value
        self.position += 1
        if not self.peek() or self.peek() in "{}:":
            raise DockerfileError("a variable's braces hold no name", hint="Write ${NAME}.")
        name = self.name()
        char = self.next()
        if char == "}":
            value, is_set = self.lookup(name)
            return f"${{{name}}}" if self.keep_unset and not is_set else value
        colon = char == ":"
        if colon:
            char = self.next()
        if char and char in "+-?#%" and not (colon and char in "#%"):
            word, _ = self.until("}", char in "#%")
            if self.keep_unset and name not in self.env:
                return self.text[start : self.position]
            return self.modified(name, char, colon, word)
        if char == "/" and not colon:
            every = self.peek() == "/"
            if every:
                self.position += 1
            pattern, _ = self.until("/", True)
            replacement, _ = self.until("}", True)
            value, is_set = self.lookup(name)
            if self.keep_unset and not is_set:
                return self.text[start : self.position]
            return _replace(pattern, replacement, value, every=every)
        raise DockerfileError(
            f"the modifier {char!r} of ${{{name}}} is not one that builders know",
            hint="Builders know :- - :+ + :? ? # ## % %% / and //.",
        )

    def modified(self, name: str, char: str, colon: bool, word: str) -> str:
        known = self.env.get(name, "") is not None
        value, is_set = self.lookup(name)
        present = is_set and not (colon and not value)
        if not known and char in "-+?":
            return value
        if char == "-":
            return value if present else word
        if char == "+":
            return word if present else ""
        if char == "?":
            if not present:
                why = word or f"is not allowed to be {'empty' if is_set else 'unset'}"
                raise DockerfileError(f"{name}: {why}", hint=f"Set {name} with --build-arg or a default.")
            return value
        greedy = word.startswith(char)
        return _trim(word[1:] if greedy else word, value, greedy=greedy, suffix=char == "%")


def _tokens(pattern: str) -> list[str]:
    """`*` and `?` as themselves, every other character as an escaped one: two characters, a backslash and itself."""
    tokens: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char in "*?":
            tokens.append(char)
        elif char == "\\" and position < len(pattern):
            tokens.append("\\" + pattern[position])
            position += 1
        else:
            tokens.append("\\" + char)
    return tokens


def _ends(tokens: list[str], value: str) -> list[int]:
    """The lengths of the beginnings of `value` that match, ascending, in time length x tokens whatever they are."""
    reached = {0}
    for one in tokens:
        if one == "*":
            reached = set(range(min(reached), len(value) + 1))
        else:
            reached = {
                position + 1 for position in reached if position < len(value) and one in {"?", "\\" + value[position]}
            }
        if not reached:
            return []
    return sorted(reached)


def _bounded(value: str) -> None:
    if len(value) > _PATTERN_LIMIT:
        raise DockerfileError(
            f"a value of {len(value)} characters is too long for a pattern", hint="Shorten the value."
        )


def _trim(pattern: str, value: str, *, greedy: bool, suffix: bool) -> str:
    _bounded(value)
    tokens = _tokens(pattern)
    if suffix:
        tokens.reverse()
        ends = _ends(tokens, value[::-1])
    else:
        ends = _ends(tokens, value)
    if not ends:
        return value
    cut = ends[-1] if greedy else ends[0]
    return value[: len(value) - cut] if suffix else value[cut:]


def _replace(pattern: str, replacement: str, value: str, *, every: bool) -> str:
    _bounded(value)
    tokens = _tokens(pattern)
    if not tokens:
        return value
    pieces: list[str] = []
    position = 0
    while position < len(value):
        ends = _ends(tokens, value[position:])
        if ends and ends[-1]:
            pieces.append(replacement)
            position += ends[-1]
            if not every:
                break
        else:
            pieces.append(value[position])
            position += 1
    return "".join(pieces) + value[position:]


def expand(text: str, env: Mapping[str, str | None], *, escape: str = "\\") -> Expansion:
    """The text with quotes and escapes removed and variables replaced: one value, spaces kept.

    :raises DockerfileError: an unclosed quote or brace, an unknown modifier, or a failed `:?`.
    """
    if "$" not in text and "'" not in text and '"' not in text and escape not in text:
        return Expansion(value=text, unset=frozenset())
    lexer = _Lexer(text, env, escape)
    value, _ = lexer.until("", False)
    return Expansion(value=None if lexer.unknown else value, unset=frozenset(lexer.unset))


def expand_words(text: str, env: Mapping[str, str | None], *, escape: str = "\\") -> list[str] | None:
    """The text expanded, then split at unquoted spaces, as EXPOSE has it; None where a value is unknown.

    :raises DockerfileError: as `expand`.
    """
    lexer = _Lexer(text, env, escape)
    _, words = lexer.until("", False)
    return None if lexer.unknown else words


def split_words(line: str) -> list[str]:
    """The words of a line with quotes and escapes kept; none where a quote is not closed."""
    try:
        return _Lexer(line, {}, "\\", raw_quotes=True, raw_escapes=True, keep_unset=True).until("", True)[1]
    except DockerfileError:
        return []


def unquote_heredoc(word: str) -> tuple[str, bool] | None:
    """A here-document's name without quotes and whether its content is expanded; None where it is no single word."""
    try:
        words = _Lexer(word, {}, "\\", keep_unset=True).until("", False)[1]
        raw = _Lexer(word, {}, "\\", raw_quotes=True, keep_unset=True).until("", False)[1]
    except DockerfileError:
        return None
    if len(words) != 1 or len(raw) != 1:
        return None
    quotes = words[0].count("'") + words[0].count('"')
    return words[0], quotes == raw[0].count("'") + raw[0].count('"')
