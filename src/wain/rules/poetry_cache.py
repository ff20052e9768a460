"""Poetry's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    # The cache folder may hold the live environment (virtualenvs): only what is a cache is mounted over or removed.
    mount = list(mount_fix(subject, run, *left)) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from mount or append_fix(subject, run, use, "rm -rf " + " ".join(left))


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of poetry whose cache stays."""
    return check_tool(RULE, "poetry", subject, fixes)


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
        "deleting the whole folder can break it, and a mount over it leaves the environment "
        "out of the image. Where Poetry makes the environment, virtualenv unpacks pip into "
        "`~/.cache/virtualenv` to copy it from there."
    ),
    mend=("Remove `cache` and `artifacts` in the same RUN, or mount a cache over each; leave `virtualenvs`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nENV POETRY_VIRTUALENVS_CREATE=false\nRUN poetry install --only main\n",
        fixed=(
            "FROM python:3.13-slim\n"
            "ENV POETRY_VIRTUALENVS_CREATE=false\n"
            "RUN poetry install --only main && rm -rf /root/.cache/pypoetry/cache "
            "/root/.cache/pypoetry/artifacts\n"
        ),
        good=(
            (
                "FROM python:3.13-slim\n"
                "RUN poetry config virtualenvs.create false\n"
                "RUN --mount=type=cache,target=/root/.cache/pypoetry poetry install\n"
            ),
        ),
    ),
    hadolint=(),
)
