"""Files that their user cannot write."""

from __future__ import annotations

from collections.abc import Iterator

from wain.paths import absolute, inside
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Severity, copy_target


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """What is copied into the home of the user who runs the image, but belongs to root."""
    if not subject.trace.stages:
        return
    stage = subject.trace.stages[-1]
    user = stage.user
    if user.is_root is not False or user.home is None or user.home in {"/", "/root", "/nonexistent"}:
        return
    chowned = [
        path
        for run in stage.runs
        for call in run.calls
        if call.program in {"chown", "chmod"}
        for path in (absolute(word, call.cwd) for word in call.argv[2:] if word and not word.startswith("-"))
        if path is not None
    ]
    for step in stage.steps:
        instruction = step.instruction
        target = copy_target(stage, step) if instruction.flag("chown") is None else None
        if target is None or not inside(target, user.home) or any(inside(target, path) for path in chowned):
            continue
        at = instruction.keyword_end
        edit = Edit(start=at, end=at, text=f" --chown={user.name}")
        yield subject.finding(
            RULE,
            instruction.span,
            f"{target} is in the home of {user.name}, but what is copied belongs to root: USER does not change that",
            instruction,
            paths=(target,),
            fixes=(Fix(title=f"copy with --chown={user.name}", edits=(edit,), is_safe=False),),
        )


RULE = Rule(
    id="root-owned",
    severity=Severity.INFO,
    title="A home or environment that belongs to root under another USER",
    cost=("None, until a `chown -R` is added that doubles the files."),
    why=(
        "COPY and ADD give files to uid 0 whatever USER says. A program that writes next "
        "to its code, into its home or its environment fails with `Permission denied`."
    ),
    mend=("`COPY --chown=user`; keep what must not change owned by root, outside the home."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN useradd -m app\nUSER app\nWORKDIR /home/app\nCOPY . .\n",
        fixed=("FROM python:3.13-slim\nRUN useradd -m app\nUSER app\nWORKDIR /home/app\nCOPY --chown=app . .\n"),
        good=("FROM python:3.13-slim\nRUN useradd -m app\nCOPY . /app\nUSER app\n",),
    ),
    hadolint=(),
)
