"""A cache mount that platforms share."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Severity

_MARKS = frozenset({"TARGETPLATFORM", "TARGETARCH", "TARGETVARIANT", "TARGETOS", "BUILDPLATFORM"})


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Cache mounts without an id of their own in a file that is built for several platforms."""
    if not _is_for_several(subject):
        return
    for run in subject.trace.runs():
        for mounted in run.mounts:
            mount = mounted.mount
            if mounted.kind != "cache" or mounted.target is None or mount.id is not None:
                continue
            if (mount.target and "$" in mount.target) or not any(
                use.cache.tool in {"pip", "apt", "npm", "poetry", "pdm", "pipenv"}
                and run.mount_over(use.cache.folders[0]) is mounted
                for use in run.uses
            ):
                continue
            at = mount.flag.span.end
            has_arg = "TARGETARCH" in run.env
            edit = Edit(start=at, end=at, text=f",id={mounted.target.strip('/').replace('/', '-')}-$TARGETARCH")
            yield subject.finding(
                RULE,
                mount.flag.span,
                f"every platform of this file shares the cache on {mounted.target}: its id is the path alone",
                run.holder,
                fixes=(Fix(title="give each architecture a cache", edits=(edit,), is_safe=True),) if has_arg else (),
            )


def _is_for_several(subject: DockerfileSubject) -> bool:
    for instruction in subject.dockerfile.instructions:
        if instruction.keyword == "ARG" and any(word.value.partition("=")[0] in _MARKS for word in instruction.words):
            return True
        if instruction.keyword == "FROM" and "$" in (instruction.flag("platform") or ""):
            return True
    return False


RULE = Rule(
    id="cache-mount-platform",
    severity=Severity.INFO,
    title="Cache mount that several platforms share",
    cost=(
        "A wheel that was built for another libc or processor can be taken from the cache; "
        "what was meant as a cache hit fails at run time."
    ),
    why=(
        "The id of a cache mount is its target path, so all architectures, and all bases "
        "of one builder, share it. pip's key for wheels that it built itself has no libc "
        "and no compiler flags in it."
    ),
    mend=("Give the mount an id with the architecture: `id=pip-$TARGETARCH`."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\nARG TARGETARCH\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "ARG TARGETARCH\n"
            "RUN --mount=type=cache,target=/root/.cache/pip,id=root-.cache-pip-$TARGETARCH pip "
            "install flask\n"
        ),
        good=(
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n",
            (
                "FROM python:3.13-slim\n"
                "ARG TARGETARCH\n"
                "RUN --mount=type=cache,id=pip-$TARGETARCH,target=/root/.cache/pip pip install flask\n"
            ),
        ),
    ),
    hadolint=(),
)
