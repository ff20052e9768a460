"""Poetry's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def _fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    # The cache folder may hold the live environment (virtualenvs): only what is a cache is removed.
    yield from append_fix(subject, run, use, "rm -rf " + " ".join(left))


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of poetry whose cache stays."""
    return check_tool(RULE, "poetry", subject, _fixes)


RULE = Rule(
    id="poetry-cache",
    severity=Severity.WARNING,
    title="Poetry's cache stays in the image",
    cost=(
        "Every wheel is kept a second time under `artifacts`, and the index pages under "
        "`cache`: about the size of the downloads."
    ),
    why=(
        "Poetry caches in `$POETRY_CACHE_DIR`, else `~/.cache/pypoetry`. `--no-cache` "
        "stops only the index pages; the wheels are written to `artifacts` all the same. "
        "`virtualenvs` in the same folder may be the environment that the image runs, so "
        "deleting the whole folder can break it."
    ),
    mend=("Remove `cache` and `artifacts` in the same RUN, or mount a cache over each; leave `virtualenvs`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN poetry install --only main\n",
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN poetry install --only main && rm -rf /root/.cache/pypoetry/cache "
            "/root/.cache/pypoetry/artifacts\n"
        ),
        good=(("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pypoetry poetry install\n"),),
    ),
    hadolint=(),
)
