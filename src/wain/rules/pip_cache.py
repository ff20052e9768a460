"""pip's cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.pip_commands import pip_call
from wain.rules.caches import append_fix, check_tool, env_fix, mount_fix, word_fix
from wain.rules.pip_build_cache import builds
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    pip = pip_call(use.call.argv)
    flag = list(word_fix(run, use, pip.verb_at, "--no-cache-dir")) if pip is not None else []
    # A --cache-dir further on would win over a flag put in front of it.
    if pip is not None and pip.has("--cache-dir"):
        flag = []
    mount = list(mount_fix(subject, run, left[0])) if not use.call.wrappers else []
    env = list(env_fix(subject, run, "PIP_NO_CACHE_DIR")) if use.cache.place.kind != "flag" else []
    if "sudo" in use.call.wrappers:
        env = []
    order = {"mount": (mount, flag), "flag": (flag, mount), "env": (env, flag)}[subject.prefer]
    if order[0] is flag and any(map(_builds, run.stage.runs)):
        # The flag does not reach the environment that pip builds in. The variable does, for the whole stage at once,
        # but distributions' old releases of pip stumble over it.
        if env and run.stage.base.python:
            order = (env, flag)
        elif _builds_here(use):
            order = (list(append_fix(subject, run, use, f"rm -rf {left[0]}")), mount)
    for found in order:
        yield from found
    if not any(order):
        yield from append_fix(subject, run, use, f"rm -rf {left[0]}")


def _builds(run: Run) -> bool:
    """Whether pip builds something in this RUN while its cache is on."""
    return any(use.cache.tool == "pip" and _builds_here(use) and run.left(use) for use in run.uses)


def _builds_here(use: Use) -> bool:
    """Whether this command has pip build something in an environment of its own."""
    pip = pip_call(use.call.argv)
    return pip is not None and builds(pip) and not pip.has("--no-build-isolation")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """pip install, wheel and download whose cache stays."""
    return check_tool(RULE, "pip", subject, fixes)


RULE = Rule(
    id="pip-cache",
    severity=Severity.WARNING,
    title="pip's cache stays in the image",
    cost=(
        "Every downloaded wheel is kept a second time, compressed: 75 MB for numpy, pandas "
        "and scikit-learn, 7.5 GB in one published PyTorch image (26.1 GB to 18.6 GB "
        "without it)."
    ),
    why=(
        "pip caches what it downloads and what it builds in `$PIP_CACHE_DIR`, else "
        "`$XDG_CACHE_HOME/pip`, else `~/.cache/pip` of the user who runs it. Nothing in "
        "the image ever reads it again. The cache is off with `--no-cache-dir`, with *any* "
        "boolean in `PIP_NO_CACHE_DIR` (also `0` and `off`), or with `no-cache-dir` in a "
        "configuration file; `python -m pip`, `/opt/venv/bin/pip`, `sudo pip`, `sh -c`, "
        "`xargs pip` and `pip wheel` fill it as well. wain follows USER, HOME, mounts and "
        "what the same RUN removes again."
    ),
    mend=(
        "`--no-cache-dir` on the command, `ENV PIP_NO_CACHE_DIR=1` once, or a cache mount "
        "on the right folder, which also makes the next build faster: `RUN "
        "--mount=type=cache,target=/root/.cache/pip`."
    ),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN pip install flask\n",
        fixed="FROM python:3.13-slim\nRUN pip install --no-cache-dir flask\n",
        good=(
            "FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=off\nRUN pip install flask\n",
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache pip install flask\n",
        ),
    ),
    hadolint=("DL3042",),
)
