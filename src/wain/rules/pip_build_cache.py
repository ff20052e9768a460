"""pip's flag does not reach its build environments."""

from __future__ import annotations

from collections.abc import Iterator

from wain.pip_commands import PipCall, pip_boolean, pip_call
from wain.rules.caches import env_fix
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity, call_span, stage_severity


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """`pip install --no-cache-dir` of something that pip builds in an isolated environment."""
    for run in subject.trace.runs():
        for use in run.uses:
            switch = use.cache.switch
            if use.cache.tool != "pip" or use.cache.enabled is not False or switch is None or switch.kind != "flag":
                continue
            pip = pip_call(use.call.argv)
            if pip is None or pip.has("--no-build-isolation") or not builds(pip):
                continue
            inherited = use.call.env.get("PIP_NO_CACHE_DIR", "")
            if inherited is None or (inherited and pip_boolean(inherited) is not None):
                continue
            folder = use.cache.home
            if run.mount_over(folder) is not None or run.removed(folder, use):
                continue
            severity = stage_severity(RULE, run, folder)
            if severity is None:
                continue
            yield subject.finding(
                RULE,
                call_span(run, use),
                f"--no-cache-dir does not reach the environment that pip builds in: its downloads stay in {folder}",
                run.holder,
                severity=severity,
                paths=(folder,),
                # pip before 19.0, which old distributions have, stumbles over the variable.
                fixes=tuple(env_fix(subject, run, "PIP_NO_CACHE_DIR", is_safe=run.stage.base.python)),
            )


def builds(pip: PipCall) -> bool:
    """Whether pip builds something in an environment of its own."""
    for name, value, _ in pip.options:
        if name == "--editable" or (name == "--no-binary" and value not in {None, ":none:"}):
            return True
    return any(
        operand is not None
        and (operand.startswith((".", "/", "git+")) or operand.endswith((".tar.gz", ".zip")))
        and not operand.endswith(".whl")
        for operand in pip.operands
    )


RULE = Rule(
    id="pip-build-cache",
    severity=Severity.INFO,
    title="pip's --no-cache-dir does not reach isolated builds",
    cost=(
        "The build back end and what it needs: 3 MB for setuptools and wheel, 30 MB and "
        "more with numpy or Cython among them."
    ),
    why=(
        "pip builds a project or sdist in an environment of its own, and installs that "
        "with another pip that gets variables and files, but not the flags. Seen with pip 26.3."
    ),
    mend=("`ENV PIP_NO_CACHE_DIR=1`, which reaches it, or a cache mount."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nCOPY . /src\nRUN pip install --no-cache-dir /src\n",
        fixed=("FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=1\nCOPY . /src\nRUN pip install --no-cache-dir /src\n"),
        good=(
            "FROM python:3.13-slim\nRUN pip install --no-cache-dir flask\n",
            "FROM python:3.13-slim\nRUN pip install --no-cache-dir --no-build-isolation .\n",
        ),
    ),
    hadolint=(),
)
