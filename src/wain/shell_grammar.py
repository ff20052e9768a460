"""Shell text through tree-sitter's bash grammar: it gives spans, survives errors, and reads POSIX sh as well.

Source: bash reference manual.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from wain.dockerfile import SourceMap, Span
from wain.shell_tree import (
    AndOr,
    Assignment,
    Background,
    Block,
    Command,
    Conditional,
    Function,
    Literal,
    Loop,
    Opaque,
    Part,
    Pipeline,
    Redirection,
    Script,
    Statement,
    Substitution,
    Unknown,
    Variable,
    Word,
    merge,
)

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

_DEPTH_LIMIT = 60


@functools.cache
def _parser() -> Parser:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


class Builder:
    """Makes the typed tree of what the grammar reads; with `source_map` None all spans are `within`."""

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
        """The whole text; what does not parse in it is Opaque."""
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
        found = merge(found)
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
    return merge(parts)


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
    "list": Builder.and_or,
    "pipeline": Builder.pipeline,
    "redirected_statement": Builder.redirected,
    "subshell": Builder.grouped,
    "compound_statement": Builder.grouped,
    "if_statement": Builder.conditional,
    "case_statement": Builder.case,
    "for_statement": Builder.loop,
    "while_statement": Builder.loop,
    "c_style_for_statement": Builder.loop,
    "function_definition": Builder.function,
    "negated_command": Builder.negated,
    "declaration_command": Builder.declaration,
    "unset_command": Builder.declaration,
    "variable_assignment": Builder.bare_assignment,
    "variable_assignments": Builder.bare_assignment,
    "test_command": Builder.test,
}
