"""PIP_NO_CACHE_DIR with a value that says something else than it does."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wain.errors import DockerfileError
from wain.pip_commands import pip_boolean
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Severity
from wain.trace import StageTrace

_OLD_PIP = re.compile(r"pip(==|<=?|~=)\s*(\d+)")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """PIP_NO_CACHE_DIR in ENV with a value that pip refuses, misreads or that readers misread."""
    for stage in subject.trace.stages:
        for step in stage.steps:
            if step.instruction.keyword != "ENV":
                continue
            for name, value in step.instruction.pairs():
                if name.value != "PIP_NO_CACHE_DIR":
                    continue
                try:
                    text = stage.scope.expand(value.value).value
                except DockerfileError:
                    continue
                if not text:
                    continue
                meaning = pip_boolean(text)
                fix = Fix(
                    title="write 1",
                    edits=(Edit(start=value.span.start, end=value.span.end, text="1"),),
                    is_safe=True,
                )
                if meaning is None:
                    yield subject.finding(
                        RULE,
                        value.span,
                        f"pip refuses {text!r} as a boolean and stops",
                        step.instruction,
                        severity=Severity.ERROR,
                        fixes=(fix,),
                    )
                elif _has_old_pip(stage):
                    if meaning:
                        yield subject.finding(
                            RULE,
                            value.span,
                            f"pip before 19.0 takes {text!r} for a folder's name; it wants a false value here",
                            step.instruction,
                        )
                elif not meaning:
                    yield subject.finding(
                        RULE,
                        value.span,
                        f"{text!r} switches the cache off as 1 does, though it reads as if the cache were on",
                        step.instruction,
                        severity=Severity.INFO,
                        fixes=(fix,),
                    )


def _has_old_pip(stage: StageTrace) -> bool:
    for run in stage.runs:
        for call in run.calls:
            for word in call.argv:
                match = _OLD_PIP.match(word or "")
                if match and int(match.group(2)) < 19:
                    return True
    return False


RULE = Rule(
    id="pip-no-cache-value",
    severity=Severity.WARNING,
    title="PIP_NO_CACHE_DIR with a misleading value",
    cost=("None while it works; a broken build, or a cache that stays, where it does not."),
    why=(
        "Every boolean that pip knows switches the cache off in this variable, `0`, `off` "
        "and `false` too. A word that is no boolean is an error. pip before 19.0 had it "
        "the other way round, and fails on the true values."
    ),
    mend=("Write `PIP_NO_CACHE_DIR=1`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=never\nRUN pip install flask\n",
        fixed="FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=1\nRUN pip install flask\n",
        good=("FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=true\nRUN pip install flask\n",),
    ),
    hadolint=(),
)
