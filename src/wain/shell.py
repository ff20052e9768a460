"""The shell text that an instruction runs, as a typed tree (`wain.shell_tree`) whose spans point into the Dockerfile.

Plain commands are read in one pass, everything else by the grammar; both make the same tree.
"""

from __future__ import annotations

import re

from wain.dockerfile import Instruction, SourceMap, Span
from wain.plain_shell import plain_script
from wain.shell_grammar import Builder
from wain.shell_tree import (
    TEXT_LIMIT,
    AndOr,
    Assignment,
    Background,
    Block,
    Command,
    Conditional,
    Environment,
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
    variable_value,
)

__all__ = [
    "SHELLS",
    "TEXT_LIMIT",
    "AndOr",
    "Assignment",
    "Background",
    "Block",
    "Command",
    "Conditional",
    "Environment",
    "Function",
    "Literal",
    "Loop",
    "Opaque",
    "Part",
    "Pipeline",
    "Redirection",
    "Script",
    "Statement",
    "Substitution",
    "Unknown",
    "Variable",
    "Word",
    "is_shell",
    "nested_script",
    "parse_script",
    "run_script",
    "variable_value",
]

SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "ksh", "busybox"})


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
    if not shell or shell[0].rpartition("/")[2] not in SHELLS:
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
            if not any(one in SHELLS for one in program):
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
    return plain_script(text, source_map, fixed) or Builder(text, source_map, fixed).script()


def nested_script(script: Script, word: Word, value: str) -> Script:
    """The script that a word of another one holds, as `sh -c` gets it."""
    if word.inner is not None and script.source_map is not None:
        return parse_script(value, script.source_map.shifted(word.inner))
    return parse_script(value, None, within=word.span)


def is_shell(program: str) -> bool:
    """Whether a program's path is a POSIX shell's."""
    return program.rpartition("/")[2] in SHELLS
