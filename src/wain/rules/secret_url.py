"""A URL with a password."""

from __future__ import annotations

from collections.abc import Iterator

from wain.dockerfile import Span
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity
from wain.rules.secrets import credentials, is_placeholder


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """URLs with credentials in ENV, ARG, RUN and files that the Dockerfile writes."""
    for stage in subject.trace.stages:
        secrets = {
            mounted.mount.env
            for run in stage.runs
            for mounted in run.mounts
            if mounted.kind == "secret" and mounted.mount.env
        }
        for step in stage.steps:
            instruction = step.instruction
            words: list[tuple[str, Span]] = []
            if instruction.keyword in {"ENV", "ARG"}:
                words = [(word.value, word.span) for word in instruction.words]
            elif instruction.keyword in {"RUN", "COPY", "ADD"}:
                words = [(word.value, word.span) for word in instruction.words]
                words += [(heredoc.content, heredoc.span) for heredoc in instruction.heredocs]
            for text, span in words:
                if "://" not in text or "@" not in text:
                    continue
                found = next(credentials(text), None)
                if found is None:
                    continue
                user, password, host = found
                given = password or user
                if given.startswith("$(") or "/run/secrets" in given:
                    continue
                variable = given.lstrip("$").strip("{}")
                if given.startswith("$") and variable in secrets:
                    continue
                is_literal = "$" not in given
                if is_literal and is_placeholder(given):
                    continue
                yield subject.finding(
                    RULE,
                    span,
                    f"the URL to {host} carries a {'password' if password else 'token'}"
                    + (
                        ": it stays in the image's history"
                        if is_literal
                        else f" from {given}: its value stays in the image's history"
                    ),
                    instruction,
                    severity=Severity.ERROR if is_literal else Severity.WARNING,
                )
                break


RULE = Rule(
    id="secret-url",
    severity=Severity.WARNING,
    title="URL with credentials",
    cost=(
        "No bytes; the credential itself, in the history, in pip.conf, and in "
        "`direct_url.json` of what was installed from it."
    ),
    why=(
        "The text of RUN and ENV, and the values of ARGs, are part of the image. pip also "
        "writes the URL of a direct requirement into its metadata."
    ),
    mend=("A secret mount: `--mount=type=secret,id=netrc,target=/root/.netrc`, or one with `env=` for the URL."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "RUN pip install --no-cache-dir --index-url "
            "https://me:hunter2@index.example/simple app\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN --mount=type=secret,id=netrc,target=/root/.netrc pip install --no-cache-dir "
            "--index-url https://index.example/simple app\n"
        ),
        good=(
            (
                "FROM python:3.13-slim\n"
                "RUN --mount=type=secret,id=T,env=T pip install --no-cache-dir --index-url "
                "https://me:$T@index.example/simple app\n"
            ),
        ),
    ),
    hadolint=(),
)
