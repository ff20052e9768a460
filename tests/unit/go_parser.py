"""Holds wain's parse against the official Go parser's (`dockerfile` on the package index)."""

from __future__ import annotations

import dockerfile as official

from wain.dockerfile import Instruction, parse
from wain.errors import DockerfileError

Row = tuple[str, str, bool, str, int, int, tuple[str, ...], tuple[str, ...], tuple[tuple[str, int, str], ...]]


def official_rows(text: str) -> list[Row] | None:
    """The Go parser's instructions; None where it refuses the text."""
    try:
        commands = official.parse_string(text)
    except official.GoParseError:
        return None
    return [
        (
            command.cmd or "",
            command.sub_cmd or "",
            command.json,
            _without_heredocs(command.original or "", len(command.heredocs)),
            command.start_line,
            command.end_line,
            tuple(command.flags),
            tuple(command.value) if command.value != ("",) else (),
            tuple((heredoc.name, heredoc.file_descriptor, heredoc.content) for heredoc in command.heredocs),
        )
        for command in commands
    ]


def our_rows(text: str) -> list[Row] | None:
    """wain's instructions in the same shape; None where it refuses the text."""
    try:
        parsed = parse(text)
    except DockerfileError:
        return None
    assert str(parsed) == text
    return [_row(instruction) for instruction in parsed.instructions]


def _row(instruction: Instruction) -> Row:
    trigger = instruction.trigger
    inner = trigger if trigger is not None else instruction
    values = inner.values
    return (
        instruction.word,
        trigger.word if trigger is not None else "",
        inner.is_json,
        instruction.joined,
        instruction.line,
        instruction.end_line,
        tuple(flag.text for flag in instruction.flags),
        values if values != ("",) else (),
        # The binding gives no here-documents of what ONBUILD holds.
        tuple(
            (heredoc.name, heredoc.file_descriptor, heredoc.content)
            for heredoc in (instruction.heredocs if trigger is None else ())
        ),
    )


def _without_heredocs(original: str, count: int) -> str:
    return original.split("\n", 1)[0] if count else original
