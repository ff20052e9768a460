"""The cache of pipx's pip stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool, env_fix, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def _fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    env = list(env_fix(subject, run, "PIP_NO_CACHE_DIR")) if subject.prefer == "env" else []
    mount = list(mount_fix(subject, run, left[0])) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from env or mount or append_fix(subject, run, use, f"rm -rf {left[0]}")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pipx whose cache stays."""
    return check_tool(RULE, "pipx", subject, _fixes)


RULE = Rule(
    id="pipx-cache",
    severity=Severity.WARNING,
    title="The cache of pipx's pip stays in the image",
    cost=("About the size of the tool and everything that it depends on."),
    why=("pipx runs pip, and pip caches in `~/.cache/pip` (or where its variables say)."),
    mend=("`ENV PIP_NO_CACHE_DIR=1`, `--pip-args=--no-cache-dir`, or remove the cache in the same RUN."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pipx install httpie\n",
        fixed="FROM python:3.13-slim\nRUN pipx install httpie && rm -rf /root/.cache/pip\n",
        good=(
            "FROM python:3.13-slim\nRUN pipx install --pip-args=--no-cache-dir httpie\n",
            "FROM python:3.13-slim\nRUN PIP_NO_CACHE_DIR=1 pipx install httpie\n",
        ),
    ),
    hadolint=(),
)
