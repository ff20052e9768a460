"""A base image without a version."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """FROM lines whose image is another one tomorrow."""
    for stage in subject.trace.stages:
        image = stage.image
        if stage.parent is not None or not image or image == "scratch" or "@" in image:
            continue
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag and tag != "latest":
            continue
        opening = stage.stage.opening
        what = "the tag latest" if tag else "no tag"
        yield subject.finding(
            RULE,
            opening.words[0].span,
            f"{image} has {what}: it is another image whenever its makers publish one",
            opening,
        )


RULE = Rule(
    id="unpinned-base",
    severity=Severity.WARNING,
    title="Base image without a version",
    cost=(
        "None in bytes; an upgrade of Python or of the distribution that nobody asked for, "
        "and caches that are lost with it."
    ),
    why=("Without a tag, `latest` is meant: the newest at the time of the build, and a different one on each machine."),
    mend=("Name a version (`python:3.13-slim`), better with the digest that you tested (`@sha256:...`)."),
    check=check,
    example=Example(
        bad='FROM python\nCMD ["python"]\n',
        fixed='FROM python:3.13-slim\nCMD ["python"]\n',
        good=("FROM scratch\nCOPY a /\n", "FROM python:3.13 AS build\nRUN true\nFROM build\nCMD x\n"),
    ),
    hadolint=("DL3006", "DL3007"),
)
