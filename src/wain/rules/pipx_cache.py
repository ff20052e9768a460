"""The cache of pipx's pip stays in the image."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wain.known_images import repository
from wain.pip_commands import pip_call
from wain.rules.caches import append_fix, check_tool, env_fix, mount_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    variable = "UV_NO_CACHE" if left[0].endswith("/uv") else "PIP_NO_CACHE_DIR"
    env = list(env_fix(subject, run, variable)) if subject.prefer == "env" else []
    mount = list(mount_fix(subject, run, left[0])) if subject.prefer == "mount" and not use.call.wrappers else []
    yield from env or mount or append_fix(subject, run, use, f"rm -rf {left[0]}")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of pipx whose cache stays."""
    return check_tool(RULE, "pipx", subject, fixes, applies=_backend_is_known)


def _backend_is_known(run: Run, use: Use) -> bool:
    """Whether it is known that pip, or uv, does the work: where uv is at hand, that depends on pipx's release."""
    call = use.call
    if "PIPX_DEFAULT_BACKEND" in call.env or any((word or "").startswith("--backend") for word in call.argv):
        return True
    for stage in (run.stage, *run.stage.ancestors()):
        images = [stage.image or "", *(step.instruction.flag("from") or "" for step in stage.steps)]
        if any("uv" in repository(image).split("/") for image in images):
            return False
        pips = (pip_call(call.argv) for earlier in stage.runs for call in earlier.calls)
        if any(re.match(r"uv\b", operand or "") for pip in pips if pip is not None for operand in pip.operands):
            return False
    return True


RULE = Rule(
    id="pipx-cache",
    severity=Severity.WARNING,
    title="The cache of pipx's pip stays in the image",
    cost=("About the size of the tool and everything that it depends on."),
    why=(
        "pipx runs pip, and pip caches in `~/.cache/pip` (or where its variables say). New releases of pipx run uv "
        "where it is at hand, and then `~/.cache/uv` fills; which one does is known from `PIPX_DEFAULT_BACKEND` and "
        "`--backend`, and nothing is reported where it is not."
    ),
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
