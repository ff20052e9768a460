"""PDM's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, env_fix, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    # With `install.cache` the environment consists of links into the cache.
    links = use.call.env.get("PDM_INSTALL_CACHE", "") != ""
    env = list(env_fix(subject, run, "PDM_NO_CACHE")) if subject.prefer == "env" and not use.call.wrappers else []
    mount = subject.prefer == "mount" and not use.call.wrappers and not links
    yield from env or (list(mount_fix(subject, run, *left)) if mount else [])
    yield from append_fix(subject, run, use, f"rm -rf {left[0]}", is_safe=not links)


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pdm whose cache stays."""
    return check_tool(RULE, "pdm", subject, fixes)


RULE = Rule(
    id="pdm-cache",
    severity=Severity.WARNING,
    title="PDM's cache stays in the image",
    cost=("About the size of everything that was downloaded."),
    why=(
        "PDM caches in `$PDM_CACHE_DIR`, else `~/.cache/pdm`. It may be linked from "
        "site-packages (`install.cache`), so that deleting it by name can break the "
        "environment."
    ),
    mend=(
        "`PDM_NO_CACHE=1` or `pdm --no-cache sync`, or mount a cache: `RUN "
        "--mount=type=cache,target=/root/.cache/pdm`, or remove it in the same RUN."
    ),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pdm sync --prod\n",
        fixed="FROM python:3.13-slim\nRUN pdm sync --prod && rm -rf /root/.cache/pdm\n",
        good=("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pdm pdm sync --prod\n",),
    ),
    hadolint=(),
)
