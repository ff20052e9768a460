"""apk's index stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, word_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    if use.cache.verb == "add":
        at = next((index for index, value in enumerate(use.call.argv) if value == "add"), 0)
        yield from word_fix(run, use, at, "--no-cache")
    else:
        yield from append_fix(subject, run, use, "rm -rf /var/cache/apk/*")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of apk whose cache stays."""
    return check_tool(RULE, "apk", subject, fixes)


RULE = Rule(
    id="apk-cache",
    severity=Severity.WARNING,
    title="apk's index stays in the image",
    cost=("2 to 3 MB, a quarter of the alpine image."),
    why=("`apk update` and `apk add` without `--no-cache` keep the package index in `/var/cache/apk`."),
    mend=("`apk add --no-cache`, which fetches a fresh index and keeps none."),
    check=check,
    example=Example(
        bad="FROM alpine:3.20\nRUN apk add libpq\n",
        fixed="FROM alpine:3.20\nRUN apk add --no-cache libpq\n",
        good=("FROM alpine:3.20\nRUN apk add libpq && rm -rf /var/cache/apk/*\n",),
    ),
    hadolint=("DL3019",),
)
