"""A credential in a build argument."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wain.dockerfile import Instruction
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Severity
from wain.rules.secrets import is_secret_name
from wain.trace import StageTrace


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """ARGs that are named like credentials."""
    stages = subject.trace.stages
    for instruction in subject.dockerfile.instructions:
        if instruction.keyword != "ARG":
            continue
        for word in instruction.words:
            name, _, default = word.value.partition("=")
            if not is_secret_name(name):
                continue
            stage = next((one for one in stages if any(step.instruction is instruction for step in one.steps)), None)
            yield subject.finding(
                RULE,
                word.span,
                f"the value of {name} stands in the image's history, for everyone who has the image",
                instruction,
                severity=Severity.ERROR if default.strip("\"'") and "$" not in default else None,
                fixes=tuple(_fix(subject, stage, instruction, name)) if stage is not None else (),
            )


def _fix(subject: DockerfileSubject, stage: StageTrace, instruction: Instruction, name: str) -> Iterator[Fix]:
    """Mount a secret in each RUN that uses the variable, under the variable's name."""
    dockerfile = subject.dockerfile
    if len(instruction.words) != 1 or any(comment.line >= instruction.line for comment in instruction.comments):
        return
    edits = [
        Edit(
            start=dockerfile.line_start(instruction.line),
            end=dockerfile.line_start(instruction.end_line + 1),
            text="",
        )
    ]
    for step in stage.steps:
        one = step.instruction
        if one is instruction or one.line < instruction.line:
            continue
        uses = re.search(rf"\$\{{?{re.escape(name)}\b", one.joined) is not None
        if not uses and any(re.search(rf"\$\{{?{re.escape(name)}\b", heredoc.content) for heredoc in one.heredocs):
            uses = True
        if not uses:
            continue
        if one.keyword != "RUN" or one.is_json:
            return
        at = one.keyword_end
        edits.append(Edit(start=at, end=at, text=f" --mount=type=secret,id={name},env={name}"))
    if len(edits) > 1:
        yield Fix(title=f"mount a secret: docker build --secret id={name}", edits=tuple(edits), is_safe=False)


RULE = Rule(
    id="secret-arg",
    severity=Severity.WARNING,
    title="Credential in a build argument",
    cost=("No bytes; the credential itself, readable with `docker history` for as long as the image exists."),
    why=("BuildKit writes the values of used ARGs into the history of each RUN, and into provenance attestations."),
    mend=("`RUN --mount=type=secret,id=NAME,env=NAME`, and `docker build --secret id=NAME`."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "ARG PIP_TOKEN\n"
            "RUN pip install --no-cache-dir --index-url "
            "https://__token__:$PIP_TOKEN@index.example/simple app\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN --mount=type=secret,id=PIP_TOKEN,env=PIP_TOKEN pip install --no-cache-dir "
            "--index-url https://__token__:$PIP_TOKEN@index.example/simple app\n"
        ),
        good=("FROM python:3.13-slim\nARG VERSION=1\nRUN pip install --no-cache-dir app==$VERSION\n",),
    ),
    hadolint=(),
)
