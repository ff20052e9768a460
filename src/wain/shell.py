"""Shell text as a small typed tree: commands with their words, operators, redirections, assignments and blocks.

The grammar is tree-sitter's bash: it gives spans, survives errors, and reads POSIX sh as well. Every span points into
the Dockerfile that the text came from, through its continuations. What the tree has no type for is `Opaque`: it is
never guessed at.

Source: POSIX.1-2024, Shell Command Language; bash reference manual.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from wain.dockerfile import Instruction, SourceMap, Span
from wain.errors import DockerfileError
from wain.substitution import expand

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

TEXT_LIMIT = 200_000
_DEPTH_LIMIT = 60
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "ksh", "busybox"})
_SIMPLE_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?\Z")

Environment: TypeAlias = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Literal:
    """Text as the command gets it; `quoted` text is neither split nor a pattern."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name` or `${name...}` as written."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(...)`: what it runs; its output is unknown."""

    script: Script
    quoted: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part whose value is not computed (arithmetic, process substitution, ...)."""

    text: str
    quoted: bool


Part: TypeAlias = Literal | Variable | Substitution | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`name=value` in front of a command or alone; `value` None is an array or otherwise not one word."""

    name: str
    value: Word | None
    appends: bool
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirection:
    """`operator` with its target; `body` is a here-document's or here-string's text as far as it is literal."""

    operator: str
    descriptor: str
    target: Word | None
    body: str | None
    body_is_literal: bool
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A simple command; `words` is empty where it only assigns."""

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...]
    redirections: tuple[Redirection, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """`a | b`; each runs in a subshell."""

    commands: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class AndOr:
    """`left && right` or `left || right`."""

    left: Statement
    operator: str
    right: Statement
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Statements in order; `kind` is group (`{}`) or subshell (`()`)."""

    kind: str
    body: tuple[Statement, ...]
    redirections: tuple[Redirection, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """if and case: `always` runs in any case (conditions), of `branches` at most one."""

    always: tuple[Statement, ...]
    branches: tuple[tuple[Statement, ...], ...]
    has_else: bool
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """for, while and until; `values` are for's words, `body` runs for each, perhaps never."""

    kind: str
    variable: str | None
    values: tuple[Word, ...]
    condition: tuple[Statement, ...]
    body: tuple[Statement, ...]
    redirections: tuple[Redirection, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A definition; its body runs where its name is called."""

    name: str
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """`statement &`"""

    statement: Statement
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """Text with no type here: tests, arithmetic, or what does not parse. `commands` are those found inside."""

    text: str
    commands: tuple[Statement, ...]
    is_error: bool
    span: Span


Statement: TypeAlias = Command | Pipeline | AndOr | Block | Conditional | Loop | Function | Background | Opaque


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A parsed shell text. `source_map` leads back to the Dockerfile; where `is_exact` is false spans are those of
    the word that held the text, and nothing in it can be edited by its span."""

    text: str
    statements: tuple[Statement, ...]
    source_map: SourceMap | None
    is_exact: bool
    has_errors: bool

    def nested(self, word: Word, value: str) -> Script:
        """The script that a word holds, as `sh -c` gets it."""
        if word.inner is not None and self.source_map is not None:
            return parse_script(value, self.source_map.shifted(word.inner))
        return parse_script(value, None, within=word.span)


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


def run_script(instruction: Instruction, shell: tuple[str, ...] = ("/bin/sh", "-c")) -> Script | None:
    """What a RUN, CMD or ENTRYPOINT runs: the shell form's text, a here-document's script, or the JSON form's words.

    None where there is nothing, or where `shell` or a here-document's `#!` is no POSIX shell.
    """
    if not instruction.words:
        return None
    if instruction.is_json:
        words = tuple(
            Word(
                parts=(Literal(word.value, True),),
                span=word.span,
                inner=None,
            )
            for word in instruction.words
        )
        span = Span(words[0].span.start, words[-1].span.end)
        command = Command(words=words, assignments=(), redirections=(), span=span)
        return Script(
            text=instruction.arguments,
            statements=(command,),
            source_map=None,
            is_exact=True,
            has_errors=False,
        )
    if not shell or shell[0].rpartition("/")[2] not in _SHELLS:
        return None
    source_map = instruction.source_map.shifted(instruction.arguments_at)
    if not instruction.heredocs:
        return parse_script(instruction.arguments, source_map)
    first = instruction.heredocs[0]
    if len(instruction.heredocs) == 1 and _is_bare_heredoc(instruction.arguments):
        text = first.text
        if text.startswith("#!"):
            line = text.partition("\n")[0].split()
            program = " ".join(line).rpartition("/")[2].split()
            if not any(one in _SHELLS for one in program):
                return None
        return _heredoc_script(text, first.content, first.span.start)
    text = instruction.arguments + "\n"
    pieces = [(0, source_map.offset(0))]
    # The continuations of the first line are kept by joining its map with one piece for each here-document.
    offsets = [source_map.offset(index) for index in range(len(instruction.arguments))]
    pieces = [(index, offset) for index, offset in enumerate(offsets) if index == 0 or offset != offsets[index - 1] + 1]
    for heredoc in instruction.heredocs:
        pieces.append((len(text), heredoc.span.start))
        text += heredoc.content + heredoc.terminator.rstrip("\r\n") + "\n"
    return parse_script(text, SourceMap(pieces))


def _is_bare_heredoc(arguments: str) -> bool:
    return re.fullmatch(r"\d*<<-?\s*(['\"]?)[^\s'\"<>|&;]+\1", arguments) is not None


def _heredoc_script(text: str, content: str, start: int) -> Script:
    if text == content:
        return parse_script(text, SourceMap([(0, start)]))
    pieces: list[tuple[int, int]] = []
    joined = 0
    for line in content.splitlines(keepends=True):
        bare = line.lstrip("\t")
        pieces.append((joined, start + len(line) - len(bare)))
        joined += len(bare)
        start += len(line)
    return parse_script(text, SourceMap(pieces or [(0, start)]))


@functools.cache
def _parser() -> Parser:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


def parse_script(text: str, source_map: SourceMap | None, *, within: Span | None = None) -> Script:
    """Parse shell text; with `source_map` None all spans are `within`. Never fails: what does not parse is Opaque."""
    fixed = within or Span(0, 0)
    if len(text) > TEXT_LIMIT:
        span = source_map.span(0, len(text)) if source_map else fixed
        opaque = Opaque(text=text, commands=(), is_error=True, span=span)
        return Script(
            text=text,
            statements=(opaque,),
            source_map=source_map,
            is_exact=source_map is not None,
            has_errors=True,
        )
    return _Builder(text, source_map, fixed).script()


class _Builder:
    def __init__(self, text: str, source_map: SourceMap | None, within: Span) -> None:
        self.text = text
        self.source_map = source_map
        self.within = within
        self.table: list[int] | None = None
        if text.isascii():
            data = text.encode()
        else:
            data = text.encode("utf-8", "replace")
            self.table = []
            for index, char in enumerate(text):
                self.table.extend([index] * len(char.encode("utf-8", "replace")))
            self.table.append(len(text))
        self.data = data
        self.depth = 0

    def script(self) -> Script:
        root = _parser().parse(self.data).root_node
        statements = self.block(root.children)
        return Script(
            text=self.text,
            statements=tuple(statements),
            source_map=self.source_map,
            is_exact=self.source_map is not None,
            has_errors=root.has_error,
        )

    def bounds(self, node: Node) -> tuple[int, int]:
        if self.table is None:
            return node.start_byte, node.end_byte
        return self.table[node.start_byte], self.table[node.end_byte]

    def slice(self, node: Node) -> str:
        start, end = self.bounds(node)
        return self.text[start:end]

    def span(self, node: Node) -> Span:
        if self.source_map is None:
            return self.within
        if self.table is None:
            return self.source_map.span(node.start_byte, node.end_byte)
        return self.source_map.span(self.table[node.start_byte], self.table[node.end_byte])

    def block(self, nodes: list[Node]) -> list[Statement]:
        statements: list[Statement] = []
        for node in nodes:
            if node.is_named:
                statement = self.statement(node)
                if statement is not None:
                    statements.append(statement)
            elif node.type == "&" and statements:
                last = statements[-1]
                statements[-1] = Background(statement=last, span=last.span)
        return statements

    def statement(self, node: Node) -> Statement | None:
        self.depth += 1
        try:
            if self.depth > _DEPTH_LIMIT:
                return Opaque(text=self.slice(node), commands=(), is_error=True, span=self.span(node))
            kind = node.type
            if kind == "command":
                return self.command(node)
            builder = _STATEMENTS.get(kind)
            if builder is not None:
                return builder(self, node)
            if kind in {"comment", "heredoc_body", "heredoc_end"}:
                return None
            inner = self.block(node.children) if node.has_error or kind == "ERROR" else []
            return Opaque(text=self.slice(node), commands=tuple(inner), is_error=kind == "ERROR", span=self.span(node))
        finally:
            self.depth -= 1

    def command(self, node: Node) -> Command:
        words: list[Word] = []
        assignments: list[Assignment] = []
        redirections: list[Redirection] = []
        for child in node.children:
            kind = child.type
            if kind == "command_name":
                words.append(self.word(child.children[0] if child.children else child))
            elif kind == "variable_assignment":
                assignments.append(self.assignment(child))
            elif kind in _REDIRECTS:
                redirections.append(self.redirection(child))
            elif child.is_named:
                words.append(self.word(child))
        return Command(
            words=tuple(words),
            assignments=tuple(assignments),
            redirections=tuple(redirections),
            span=self.span(node),
        )

    def bare_assignment(self, node: Node) -> Statement:
        found = [node] if node.type == "variable_assignment" else node.named_children
        return Command(
            words=(),
            assignments=tuple(self.assignment(child) for child in found if child.type == "variable_assignment"),
            redirections=(),
            span=self.span(node),
        )

    def declaration(self, node: Node) -> Statement:
        words = [self.word(child) for child in node.children if child.type not in _REDIRECTS]
        return Command(words=tuple(words), assignments=(), redirections=(), span=self.span(node))

    def test(self, node: Node) -> Statement:
        return Opaque(text=self.slice(node), commands=(), is_error=False, span=self.span(node))

    def pipeline(self, node: Node) -> Statement:
        return Pipeline(commands=tuple(self.block(node.named_children)), span=self.span(node))

    def and_or(self, node: Node) -> Statement:
        """Chains hang under their left side, as deep as they are long: they are taken apart without recursion."""
        links: list[tuple[str, list[Node], Node]] = []
        current = node
        while True:
            parts = [child for child in current.children if child.type != "comment"]
            operator = next((child.type for child in parts if child.type in {"&&", "||"}), "&&")
            named = [child for child in parts if child.is_named]
            if not named:
                return Opaque(text=self.slice(node), commands=(), is_error=True, span=self.span(node))
            links.append((operator, named[1:], current))
            current = named[0]
            if current.type != "list":
                break
        result = self.statement(current)
        for operator, rest, whole in reversed(links):
            for right in self.block(rest):
                if result is None:
                    result = right
                else:
                    result = AndOr(left=result, operator=operator, right=right, span=self.span(whole))
        if result is None:
            return Opaque(text=self.slice(node), commands=(), is_error=True, span=self.span(node))
        return result

    def negated(self, node: Node) -> Statement | None:
        found = self.block(node.named_children)
        return found[0] if found else None

    def grouped(self, node: Node) -> Statement:
        return Block(
            kind="subshell" if node.type == "subshell" else "group",
            body=tuple(self.block(node.children)),
            redirections=(),
            span=self.span(node),
        )

    def conditional(self, node: Node) -> Statement:
        always: list[Statement] = []
        branches: list[tuple[Statement, ...]] = []
        has_else = False
        condition: list[Node] = []
        branch: list[Node] = []
        in_branch = False
        for child in node.children:
            kind = child.type
            if kind == "then":
                in_branch = True
            elif kind == "elif_clause":
                inner = self.conditional(child)
                assert isinstance(inner, Conditional)
                always.extend(inner.always)
                branches.extend(inner.branches)
            elif kind == "else_clause":
                has_else = True
                branches.append(tuple(self.block(child.children)))
            elif in_branch:
                branch.append(child)
            else:
                condition.append(child)
        always[:0] = self.block(condition)
        branches.insert(0, tuple(self.block(branch)))
        return Conditional(always=tuple(always), branches=tuple(branches), has_else=has_else, span=self.span(node))

    def case(self, node: Node) -> Statement:
        branches: list[tuple[Statement, ...]] = []
        has_else = False
        for item in node.named_children:
            if item.type != "case_item":
                continue
            body: list[Node] = []
            seen = False
            for child in item.children:
                if seen:
                    body.append(child)
                elif child.type == ")":
                    seen = True
                elif self.slice(child) == "*":
                    has_else = True
            branches.append(tuple(self.block(body)))
        return Conditional(always=(), branches=tuple(branches), has_else=has_else, span=self.span(node))

    def loop(self, node: Node) -> Statement:
        variable: str | None = None
        values: list[Word] = []
        condition: list[Node] = []
        body: list[Statement] = []
        is_for = node.type == "for_statement"
        for child in node.children:
            if child.type in {"do_group", "compound_statement"}:
                body.extend(self.block(child.children))
            elif is_for and child.type == "variable_name" and variable is None:
                variable = self.slice(child)
            elif is_for and child.is_named:
                values.append(self.word(child))
            elif not is_for:
                condition.append(child)
        return Loop(
            kind="for" if is_for else "while",
            variable=variable,
            values=tuple(values),
            condition=() if node.type == "c_style_for_statement" else tuple(self.block(condition)),
            body=tuple(body),
            redirections=(),
            span=self.span(node),
        )

    def function(self, node: Node) -> Statement:
        name = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        return Function(
            name=self.slice(name) if name is not None else "",
            body=tuple(self.block(body.children)) if body is not None else (),
            span=self.span(node),
        )

    def redirected(self, node: Node) -> Statement | None:
        redirections: list[Redirection] = []
        after: list[tuple[str, Statement]] = []
        inner: list[Node] = []
        for child in node.children:
            if child.type in _REDIRECTS:
                redirections.append(self.redirection(child))
                if child.type == "heredoc_redirect":
                    redirections.extend(self.redirection(one) for one in child.children if one.type in _REDIRECTS)
                    after.extend(self.after_heredoc(child))
            else:
                inner.append(child)
        found = self.block(inner)
        span = self.span(node)
        if not found:
            statement: Statement = Command(words=(), assignments=(), redirections=tuple(redirections), span=span)
        else:
            statement = _redirect(found[0], tuple(redirections))
        for operator, right in after:
            if operator == "|":
                statement = Pipeline(commands=(statement, right), span=span)
            else:
                statement = AndOr(left=statement, operator=operator, right=right, span=span)
        return statement

    def after_heredoc(self, node: Node) -> Iterator[tuple[str, Statement]]:
        """`cat <<E && next`: the grammar hangs what follows under the here-document."""
        operator = "&&"
        for child in node.children:
            if child.type in {"&&", "||"}:
                operator = child.type
            elif child.type == "pipeline":
                for statement in self.block(child.named_children):
                    yield "|", statement
            elif child.is_named and (child.type == "command" or child.type in _STATEMENTS):
                found = self.statement(child)
                if found is not None:
                    yield operator, found

    def redirection(self, node: Node) -> Redirection:
        operator = ""
        descriptor = ""
        target: Word | None = None
        body: str | None = None
        literal = True
        for child in node.children:
            kind = child.type
            if kind == "file_descriptor":
                descriptor = self.slice(child)
            elif kind == "heredoc_body":
                body = self.slice(child)
                literal = not any(one.type != "heredoc_content" for one in child.named_children)
            elif kind == "heredoc_start":
                target = Word(parts=(Literal(self.slice(child), True),), span=self.span(child), inner=None)
            elif not child.is_named and not operator:
                operator = kind
            elif child.is_named and target is None and kind in _WORD_KINDS:
                target = self.word(child)
        if operator == "<<-" and body is not None:
            body = re.sub(r"(?m)^\t+", "", body)
        if operator == "<<<" and target is not None:
            body = target.literal
            literal = body is not None
        return Redirection(
            operator=operator,
            descriptor=descriptor,
            target=target,
            body=body,
            body_is_literal=literal,
            span=self.span(node),
        )

    def assignment(self, node: Node) -> Assignment:
        name = ""
        value: Word | None = None
        appends = False
        has_value = False
        for child in node.children:
            kind = child.type
            if kind in {"variable_name", "subscript"} and not name:
                name = self.slice(child)
            elif kind in {"=", "+="}:
                appends = kind == "+="
                has_value = True
            elif kind == "array":
                return Assignment(name=name, value=None, appends=appends, span=self.span(node))
            elif child.is_named:
                value = self.word(child)
        if value is None and has_value:
            end = self.span(node).end
            value = Word(parts=(), span=Span(end, end), inner=None)
        return Assignment(name=name, value=value, appends=appends, span=self.span(node))

    def word(self, node: Node) -> Word:
        kind = node.type
        start, end = self.bounds(node)
        text = self.text[start:end]
        if kind == "word" or kind == "number":
            if "\\" not in text:
                parts: tuple[Part, ...] = (Literal(text, False),)
                span = self.within if self.source_map is None else self.source_map.span(start, end)
                return Word(parts=parts, span=span, inner=start)
            return Word(parts=tuple(_unescape(text)), span=self.span(node), inner=None)
        if kind == "raw_string":
            return Word(parts=(Literal(text[1:-1], True),), span=self.span(node), inner=start + 1)
        found: list[Part] = []
        self.depth += 1
        try:
            self.parts(node, False, found)
        finally:
            self.depth -= 1
        inner = None
        found = _merge(found)
        if kind == "string" and len(found) <= 1 and all(isinstance(one, Literal) for one in found):
            value = found[0].text if found and isinstance(found[0], Literal) else ""
            inner = start + 1 if value == text[1:-1] else None
            found = [Literal(value, True)]
        return Word(parts=tuple(found), span=self.span(node), inner=inner)

    def parts(self, node: Node, quoted: bool, found: list[Part]) -> None:
        kind = node.type
        text = self.slice(node)
        if self.depth > _DEPTH_LIMIT:
            found.append(Unknown(text, quoted))
        elif kind in {"word", "number", "extglob_pattern", "regex", "variable_name", "special_variable_name"}:
            found.extend([Literal(text, True)] if quoted else _unescape(text))
        elif kind == "raw_string":
            found.append(Literal(text[1:-1], True))
        elif kind == "ansi_c_string":
            inner = text[2:-1]
            found.append(Literal(inner, True) if "\\" not in inner else Unknown(text, True))
        elif kind == "string":
            self.string(node, found)
        elif kind in {"simple_expansion", "expansion"}:
            found.append(Variable(text, quoted))
        elif kind == "command_substitution":
            self.depth += 1
            script = Script(
                text=text,
                statements=tuple(self.block(node.children)) if self.depth < _DEPTH_LIMIT else (),
                source_map=self.source_map,
                is_exact=self.source_map is not None,
                has_errors=node.has_error,
            )
            self.depth -= 1
            found.append(Substitution(script, quoted))
        elif kind in {"concatenation", "variable_assignment"}:
            position = self.bounds(node)[0]
            for child in node.children:
                start, end = self.bounds(child)
                if start > position:
                    found.extend(_unescape(self.text[position:start]))
                self.parts(child, quoted, found)
                position = end
        elif not node.is_named:
            found.append(Literal(text, quoted))
        else:
            found.append(Unknown(text, quoted))

    def string(self, node: Node, found: list[Part]) -> None:
        """Double quotes: white space between the grammar's children is content as well."""
        start, end = self.bounds(node)
        position = start + 1
        found.append(Literal("", True))
        for child in node.children:
            first, last = self.bounds(child)
            kind = child.type
            if kind in {"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"}:
                found.append(Literal(_unescape_double(self.text[position:first]), True))
                self.parts(child, True, found)
                position = last
        found.append(Literal(_unescape_double(self.text[position : max(position, end - 1)]), True))


def _redirect(statement: Statement, redirections: tuple[Redirection, ...]) -> Statement:
    if isinstance(statement, Command | Block | Loop):
        return replace(statement, redirections=statement.redirections + redirections)
    if isinstance(statement, AndOr):
        return replace(statement, right=_redirect(statement.right, redirections))
    if isinstance(statement, Pipeline) and statement.commands:
        last = _redirect(statement.commands[-1], redirections)
        return replace(statement, commands=(*statement.commands[:-1], last))
    return statement


def _merge(parts: list[Part]) -> list[Part]:
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


def _unescape(text: str) -> list[Part]:
    if "\\" not in text:
        return [Literal(text, False)]
    parts: list[Part] = []
    plain = ""
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text):
            following = text[position + 1]
            position += 2
            if following == "\n":
                continue
            if plain:
                parts.append(Literal(plain, False))
                plain = ""
            parts.append(Literal(following, True))
            continue
        plain += char
        position += 1
    if plain:
        parts.append(Literal(plain, False))
    return _merge(parts)


def _unescape_double(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r'\\([$`"\\\n])', lambda match: "" if match.group(1) == "\n" else match.group(1), text)


_REDIRECTS = frozenset({"file_redirect", "heredoc_redirect", "herestring_redirect"})
_WORD_KINDS = frozenset(
    "word number string raw_string ansi_c_string concatenation simple_expansion expansion command_substitution "
    "process_substitution".split()
)
_STATEMENTS = {
    "list": _Builder.and_or,
    "pipeline": _Builder.pipeline,
    "redirected_statement": _Builder.redirected,
    "subshell": _Builder.grouped,
    "compound_statement": _Builder.grouped,
    "if_statement": _Builder.conditional,
    "case_statement": _Builder.case,
    "for_statement": _Builder.loop,
    "while_statement": _Builder.loop,
    "c_style_for_statement": _Builder.loop,
    "function_definition": _Builder.function,
    "negated_command": _Builder.negated,
    "declaration_command": _Builder.declaration,
    "unset_command": _Builder.declaration,
    "variable_assignment": _Builder.bare_assignment,
    "variable_assignments": _Builder.bare_assignment,
    "test_command": _Builder.test,
}


def is_shell(program: str) -> bool:
    """Whether a program's path is a POSIX shell's."""
    return program.rpartition("/")[2] in _SHELLS
