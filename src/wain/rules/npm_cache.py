"""npm's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    mount = list(mount_fix(subject, run, use.cache.home)) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from mount or append_fix(subject, run, use, "npm cache clean --force")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of npm whose cache stays."""
    return check_tool(RULE, "npm", subject, fixes)


RULE = Rule(
    id="npm-cache",
    severity=Severity.WARNING,
    title="npm's cache stays in the image",
    cost=("Every package's archive again: often 100 MB and more."),
    why=("npm keeps what it downloads in `~/.npm/_cacache`, and has no switch that stops it."),
    mend=("`npm cache clean --force` at the end of the same RUN, or a cache mount on `~/.npm`."),
    check=check,
    example=Example(
        bad="FROM node:22-slim\nRUN npm ci\n",
        fixed="FROM node:22-slim\nRUN npm ci && npm cache clean --force\n",
        good=("FROM node:22-slim\nRUN --mount=type=cache,target=/root/.npm npm ci\n",),
    ),
    hadolint=(),
)
