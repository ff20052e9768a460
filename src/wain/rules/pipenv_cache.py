"""pipenv's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    mount = list(mount_fix(subject, run, *left)) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from mount or append_fix(subject, run, use, "rm -rf " + " ".join(left))


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pipenv whose cache stays."""
    return check_tool(RULE, "pipenv", subject, fixes)


RULE = Rule(
    id="pipenv-cache",
    severity=Severity.WARNING,
    title="pipenv's cache stays in the image",
    cost=("About the size of everything that was downloaded; 12 MB more where pipenv makes the environment."),
    why=(
        "pipenv caches in `$PIPENV_CACHE_DIR`, else `~/.cache/pipenv`: it gives its pip that folder. "
        "`PIP_NO_CACHE_DIR` keeps `pipenv sync` and `pipenv install --deploy` from filling it, but not what "
        "resolves (`lock`, `update`, `install PACKAGE`). Without `--system` virtualenv unpacks pip and setuptools "
        "into `~/.cache/virtualenv` as well."
    ),
    mend=("Remove it in the same RUN, or mount a cache: `RUN --mount=type=cache,target=/root/.cache/pipenv`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pipenv sync --system\n",
        fixed="FROM python:3.13-slim\nRUN pipenv sync --system && rm -rf /root/.cache/pipenv\n",
        good=(("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pipenv pipenv sync --system\n"),),
    ),
    hadolint=(),
)
