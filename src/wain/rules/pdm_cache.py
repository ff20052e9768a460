"""PDM's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def _fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    yield from append_fix(
        subject, run, use, f"rm -rf {left[0]}", is_safe=use.call.env.get("PDM_INSTALL_CACHE", "") == ""
    )


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pdm whose cache stays."""
    return check_tool(RULE, "pdm", subject, _fixes)


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
    mend=("Remove it in the same RUN, or mount a cache: `RUN --mount=type=cache,target=/root/.cache/pdm`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pdm sync --prod\n",
        fixed="FROM python:3.13-slim\nRUN pdm sync --prod && rm -rf /root/.cache/pdm\n",
        good=("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pdm pdm sync --prod\n",),
    ),
    hadolint=(),
)
