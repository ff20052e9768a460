"""A credential in the image's environment."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity
from wain.rules.secrets import is_placeholder, is_secret_name


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """ENVs that are named like credentials and have a value."""
    for stage in subject.trace.stages:
        for step in stage.steps:
            if step.instruction.keyword != "ENV":
                continue
            for name, value in step.instruction.pairs():
                text = value.value.strip("\"'")
                if not text or not is_secret_name(name.value) or is_placeholder(text):
                    continue
                yield subject.finding(
                    RULE,
                    name.span,
                    f"the value of {name.value} is in the image's configuration, and in every container's environment",
                    step.instruction,
                    severity=None if stage.ships == "final" else Severity.INFO,
                )


RULE = Rule(
    id="secret-env",
    severity=Severity.ERROR,
    title="Credential in ENV",
    cost=("No bytes; the credential itself, in `docker inspect`, and in whatever prints its environment."),
    why=(
        "ENV is written to the image's configuration, which everyone reads who can pull, "
        "and is inherited by every process."
    ),
    mend=(
        "Give it when the container starts (`--env-file`, an orchestrator's secret), or to one RUN as a secret mount."
    ),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nENV API_TOKEN=abc123secret\n",
        fixed="FROM python:3.13-slim\n",
        good=(
            "FROM python:3.13-slim\nENV TOKEN_URL=https://id.example/token\n",
            "FROM python:3.13-slim\nENV API_TOKEN=\n",
        ),
    ),
    hadolint=(),
)
