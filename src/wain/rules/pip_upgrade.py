"""pip upgraded for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from wain.pip_commands import pip_call
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Run, Severity
from wain.shell import AndOr, Command, Statement
from wain.trace import span_of
from wain.walk import Call

_TOOLS = frozenset({"pip", "setuptools", "wheel"})


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """pip install --upgrade pip, where nothing but the tools themselves is installed."""
    for run in subject.trace.runs():
        if run.stage.ships == "discarded":
            continue
        for call in run.calls:
            pip = pip_call(call.argv)
            if pip is None or pip.verb != "install" or not pip.has("--upgrade") or pip.has("--requirement", "--target"):
                continue
            names = set(pip.operands)
            if not names or not names <= _TOOLS:
                continue
            yield subject.finding(
                RULE,
                span_of(run, call),
                f"upgrading {', '.join(sorted(name for name in names if name))} adds a second copy over the base's and "
                "ties the build to what is newest today",
                run.holder,
                severity=Severity.INFO,
                fixes=tuple(_fix(subject, run, call)),
            )


def _fix(subject: DockerfileSubject, run: Run, call: Call) -> Iterator[Fix]:
    """Drop the command where it is the first of a chain, or the instruction where it is alone."""
    script = run.script
    if script is None or len(script.statements) != 1 or not call.is_editable or run.instruction.heredocs:
        return
    first: Statement = script.statements[0]
    following: Statement | None = None
    while isinstance(first, AndOr):
        if first.operator != "&&":
            return
        following, first = first.right, first.left
    if not isinstance(first, Command) or first.span != call.command_span:
        return
    dockerfile = subject.dockerfile
    if following is not None:
        edit = Edit(start=first.span.start, end=following.span.start, text="")
    elif run.holder is not run.instruction or any(
        comment.line >= run.instruction.line for comment in run.holder.comments
    ):
        return
    else:
        line = run.instruction.line
        start = dockerfile.line_start(line)
        edit = Edit(start=start, end=dockerfile.line_start(run.instruction.end_line + 1), text="")
    yield Fix(title="leave what the base has as it is", edits=(edit,), is_safe=False)


RULE = Rule(
    id="pip-upgrade",
    severity=Severity.INFO,
    title="pip is upgraded for nothing",
    cost=("12 MB: the new pip beside the base's, whose files stay in the lower layer."),
    why=(
        "The base's pip installs wheels just as well. The upgrade hides the old one "
        "without freeing it, is not pinned, and makes every later layer depend on the day "
        "of the build."
    ),
    mend=("Leave it out; take a newer base where a newer pip is needed."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\nRUN pip install --no-cache-dir --upgrade pip && pip install --no-cache-dir flask\n"
        ),
        fixed="FROM python:3.13-slim\nRUN pip install --no-cache-dir flask\n",
        good=(
            "FROM python:3.13-slim\nRUN pip install --no-cache-dir --upgrade flask\n",
            "FROM python:3.13-slim\nRUN pip install --no-cache-dir pip==25.1\n",
        ),
    ),
    hadolint=(),
)
