"""Shell text of plain commands only, read in one pass: what most RUNs are, without a grammar.

`plain_script(text, ...)` reads simple commands joined by `&&`, `||` and `;` whose words are plain characters, quotes
and `$name`. Anything else is None, and the grammar reads it; what is read here is what the grammar makes of it.
"""

from __future__ import annotations

import re

from wain.dockerfile import SourceMap, Span
from wain.shell_tree import AndOr, Command, Literal, Part, Script, Statement, Variable, Word, merge

_CHARS = r"A-Za-z0-9_./:@%+,=^~*-"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*+"
_EXPANSION = rf"\$(?:{_NAME}|\{{{_NAME}\}})"
_END = r"(?=[ \t;&|]|\Z)"
_TOKEN = re.compile(
    rf"[ \t]*+(?:(?P<plain>[{_CHARS}]++){_END}"
    r"|(?P<operator>&&|\|\||;)(?![;&|])"
    rf"|(?P<single>'[^'\n]*+'){_END}"
    rf"|(?P<double>\"[^\"$`\\\n]*+\"){_END}"
    rf"|(?P<mixed>(?:[{_CHARS}]++|'[^'\n]*+'|{_EXPANSION}|\"(?:[^\"$`\\\n]++|{_EXPANSION})*+\")++){_END}"
    r"|(?P<end>\Z))"
)
_PIECE = re.compile(
    rf"(?P<plain>[{_CHARS}]++)|(?P<expansion>{_EXPANSION})|'(?P<single>[^']*+)'|\"(?P<double>[^\"]*+)\""
)
_IN_QUOTES = re.compile(_EXPANSION)
_PROGRAM = re.compile(r"[A-Za-z0-9_./+-]+\Z")
# What the grammar reads otherwise where it stands first.
_RESERVED = frozenset(
    "if then else elif fi for while until do done case esac in select function time coproc declare typeset export "
    "readonly local unset unsetenv".split()
)


def plain_script(text: str, source_map: SourceMap | None, within: Span) -> Script | None:
    """The script of plain commands that `text` is; None where any of it is something else."""
    statements: list[Statement] = []
    chain: Statement | None = None
    chain_start = 0
    operator = ""
    words: list[Word] = []
    start = end = position = 0
    match_token = _TOKEN.match
    span_of = source_map.span if source_map is not None else None
    while True:
        match = match_token(text, position)
        if match is None:
            return None
        kind = match.lastgroup
        position = match.end()
        if kind == "operator" or kind == "end":
            if not words:
                if kind == "end" and chain is None and statements:
                    break
                return None
            span = span_of(start, end) if span_of is not None else within
            command = Command(words=tuple(words), assignments=(), redirections=(), span=span)
            words = []
            if chain is None:
                chain, chain_start = command, start
            else:
                span = span_of(chain_start, end) if span_of is not None else within
                chain = AndOr(left=chain, operator=operator, right=command, span=span)
            operator = match.group(kind)
            if kind == "end" or operator == ";":
                statements.append(chain)
                chain = None
                if kind == "end":
                    break
            continue
        assert kind is not None
        first, end = match.span(kind)
        value = match.group(kind)
        if not words:
            if kind != "plain" or value in _RESERVED or not _PROGRAM.match(value):
                return None
            start = first
        span = span_of(first, end) if span_of is not None else within
        if kind == "plain":
            words.append(Word(parts=(Literal(value, False),), span=span, inner=first))
        elif kind == "mixed":
            words.append(Word(parts=_parts(value), span=span, inner=None))
        else:
            words.append(Word(parts=(Literal(value[1:-1], True),), span=span, inner=first + 1))
    return Script(
        text=text,
        statements=tuple(statements),
        source_map=source_map,
        is_exact=source_map is not None,
        has_errors=False,
    )


def _parts(text: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for match in _PIECE.finditer(text):
        kind = match.lastgroup
        value = match.group(kind or 0)
        if kind == "plain":
            parts.append(Literal(value, False))
        elif kind == "expansion":
            parts.append(Variable(value, False))
        elif kind == "single":
            parts.append(Literal(value, True))
        else:
            parts.append(Literal("", True))
            position = 0
            for inner in _IN_QUOTES.finditer(value):
                parts.append(Literal(value[position : inner.start()], True))
                parts.append(Variable(inner.group(), True))
                position = inner.end()
            parts.append(Literal(value[position:], True))
    return tuple(merge(parts))
