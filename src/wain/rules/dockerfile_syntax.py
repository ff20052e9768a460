"""What a build refuses."""

from __future__ import annotations

from collections.abc import Iterator

from wain.dockerfile import Span
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Instructions that parse but that no build takes, and values that cannot be expanded."""
    dockerfile = subject.dockerfile
    problems = [(problem.line, problem.message) for problem in dockerfile.problems()]
    prefix = f"{dockerfile.name}:"
    for line, message in subject.trace.problems:
        text = message.removeprefix(prefix)
        number, colon, rest = text.partition(": ")
        problems.append((line, rest if colon and number.isdecimal() else text))
    seen: set[tuple[int, str]] = set()
    for line, message in problems:
        if (line, message) in seen:
            continue
        seen.add((line, message))
        instruction = next(
            (one for one in dockerfile.instructions if one.line <= line <= one.end_line),
            dockerfile.instructions[0],
        )
        start = dockerfile.line_start(line)
        span = Span(start, start + len(dockerfile.line_text(line)))
        yield subject.finding(RULE, span, message, instruction)


RULE = Rule(
    id="dockerfile-syntax",
    severity=Severity.ERROR,
    title="The build refuses the file",
    cost="The build.",
    why=(
        "The file does not parse, or it holds what no builder takes: an unknown instruction or flag, an instruction "
        "before the first FROM, a value whose quotes or braces are not closed."
    ),
    mend="Write what the message names as the Dockerfile reference has it.",
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUNN pip install flask\n",
        fixed="FROM python:3.13-slim\nRUN pip install --no-cache-dir flask\n",
    ),
)
