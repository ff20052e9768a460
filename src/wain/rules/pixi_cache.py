"""pixi's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    mount = list(mount_fix(subject, run, left[0])) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from mount or append_fix(subject, run, use, f"rm -rf {left[0]}")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pixi whose cache stays."""
    return check_tool(RULE, "pixi", subject, fixes)


RULE = Rule(
    id="pixi-cache",
    severity=Severity.WARNING,
    title="pixi's cache stays in the image",
    cost=("About the size of everything that was downloaded."),
    why=(
        "pixi caches in `$PIXI_CACHE_DIR`, else `~/.cache/rattler`. Packages are linked "
        "from it into the environment where both are on one file system."
    ),
    mend=("Remove it in the same RUN, or mount a cache: `RUN --mount=type=cache,target=/root/.cache/rattler`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pixi install --locked\n",
        fixed="FROM python:3.13-slim\nRUN pixi install --locked && rm -rf /root/.cache/rattler\n",
        good=(("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/rattler pixi install --locked\n"),),
    ),
    hadolint=(),
)
