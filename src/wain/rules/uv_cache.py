"""uv's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import check_tool, env_fix, mount_fix, word_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    verb_at = next((index for index, value in enumerate(use.call.argv) if value == use.cache.verb.split()[-1]), 0)
    flag = list(word_fix(run, use, verb_at, "--no-cache"))
    mount = list(mount_fix(subject, run, left[0])) if not use.call.wrappers else []
    env = list(env_fix(subject, run, "UV_NO_CACHE")) if "sudo" not in use.call.wrappers else []
    for found in {"mount": (mount, flag), "flag": (flag, mount), "env": (env, flag)}[subject.prefer]:
        yield from found


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of uv whose cache stays."""
    return check_tool(RULE, "uv", subject, fixes)


RULE = Rule(
    id="uv-cache",
    severity=Severity.WARNING,
    title="uv's cache stays in the image",
    cost=(
        "Every wheel is kept unpacked. Where cache and environment are on one file system "
        "they are hard links of each other: 106 MB by name, 2.5 MB that deleting would "
        "free. Where they are not (another layer, a copy), all of it is extra."
    ),
    why=(
        "uv caches in `$UV_CACHE_DIR`, else `$XDG_CACHE_HOME/uv`, else `~/.cache/uv`; the "
        "files that it links into the environment are counted again by tools that copy or "
        "scan the image, and everything that was downloaded for builds and for other "
        "versions stays."
    ),
    mend=("`--no-cache` (or `ENV UV_NO_CACHE=1`), or a cache mount: `RUN --mount=type=cache,target=/root/.cache/uv`."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN uv pip install --system flask\n",
        fixed="FROM python:3.13-slim\nRUN uv pip install --no-cache --system flask\n",
        good=(
            "FROM python:3.13-slim\nENV UV_NO_CACHE=1\nRUN uv sync --locked\n",
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/uv uv sync --locked\n",
        ),
    ),
    hadolint=(),
)
