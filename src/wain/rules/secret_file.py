"""A file of credentials in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity

_NAMES = frozenset(
    {".netrc", "_netrc", ".pypirc", ".env", ".npmrc", "id_rsa", "id_ed25519", "id_ecdsa", ".git-credentials"}
)


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """COPY and ADD of files that are known to hold credentials."""
    for stage in subject.trace.stages:
        for step in stage.steps:
            instruction = step.instruction
            if instruction.keyword not in {"COPY", "ADD"} or instruction.flag("from") is not None:
                continue
            for word in instruction.words[:-1]:
                name = word.value.strip("\"'").rstrip("/").rpartition("/")[2]
                if name not in _NAMES:
                    continue
                shipped = stage.ships != "discarded"
                yield subject.finding(
                    RULE,
                    word.span,
                    f"{name} is copied into a layer, and stays there even where it is removed later"
                    if shipped
                    else f"{name} is copied into the build cache of this stage",
                    instruction,
                    severity=None if shipped else Severity.INFO,
                )


RULE = Rule(
    id="secret-file",
    severity=Severity.WARNING,
    title="File of credentials copied into the image",
    cost=("No bytes; the credentials in it, for everyone who can pull."),
    why=("What a COPY brings in stays in its layer, even if a later RUN deletes it."),
    mend=(
        "Mount it for the RUN that needs it: "
        "`--mount=type=secret,id=netrc,target=/root/.netrc`; name it in `.dockerignore`."
    ),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nCOPY .netrc /root/\nRUN pip install --no-cache-dir app\n",
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN --mount=type=secret,id=netrc,target=/root/.netrc pip install --no-cache-dir app\n"
        ),
        good=("FROM python:3.13-slim\nCOPY .env.example /app/\n",),
    ),
    hadolint=(),
)
