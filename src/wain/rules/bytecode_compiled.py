"""Bytecode that the file says it does not want."""

from __future__ import annotations

from collections.abc import Iterator

from wain.pip_commands import pip_call
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Severity
from wain.trace import span_of

_OFF = frozenset({"0", "no", "n", "false", "f", "off"})


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Installs that compile although PYTHONDONTWRITEBYTECODE is set."""
    for run in subject.trace.runs():
        if run.stage.ships == "discarded":
            continue
        for call in run.calls:
            if not call.env.get("PYTHONDONTWRITEBYTECODE"):
                continue
            pip = pip_call(call.argv)
            if pip is not None and pip.verb == "install":
                if pip.has("--no-compile", "--dry-run", "--help") or _is_off(call.env):
                    continue
                flag, at = "--no-compile", pip.verb_at
            elif call.program == "uv" and "--compile-bytecode" in call.argv:
                flag, at = "", 0
            else:
                continue
            word = call.words[at] if flag else None
            fixes: tuple[Fix, ...] = ()
            if word is not None and call.is_editable and word.literal is not None:
                text = f', "{flag}"' if run.instruction.is_json else f" {flag}"
                edit = Edit(start=word.span.end, end=word.span.end, text=text)
                fixes = (Fix(title=f"add {flag}", edits=(edit,), is_safe=True),)
            yield subject.finding(
                RULE,
                span_of(run, call),
                "PYTHONDONTWRITEBYTECODE is set, but this install compiles every module all the same",
                run.holder,
                severity=Severity.INFO if run.stage.ships == "target" else None,
                fixes=fixes,
            )


def _is_off(env: dict[str, str | None]) -> bool:
    compiles = env.get("PIP_COMPILE", "1")
    skips = env.get("PIP_NO_COMPILE", "")
    return compiles is None or compiles.lower() in _OFF or skips is None or skips != ""


RULE = Rule(
    id="bytecode-compiled",
    severity=Severity.INFO,
    title="Bytecode compiled although the file asks for none",
    cost=("A fifth to a third of the environment's size: 30 MB on top of 110 for pandas and scikit-learn."),
    why=(
        "`PYTHONDONTWRITEBYTECODE` holds for imports. pip compiles what it installs "
        "whatever the variable says; only `--no-compile`, `PIP_NO_COMPILE=1` or `compile = "
        "no` under `[install]` stop it. Python then runs that bytecode, so starts are "
        "faster than the author asked for, and the image larger."
    ),
    mend=(
        "Decide: `--no-compile` for the smaller image, or drop the variable for the faster "
        "start (sklearn, pandas and flask import in 1.2 s instead of 3.1 s)."
    ),
    check=check,
    example=Example(
        bad=("FROM python:3.13-slim\nENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1\nRUN pip install flask\n"),
        fixed=(
            "FROM python:3.13-slim\n"
            "ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1\n"
            "RUN pip install --no-compile flask\n"
        ),
        good=(
            "FROM python:3.13-slim\nENV PIP_NO_CACHE_DIR=1\nRUN pip install flask\n",
            (
                "FROM python:3.13-slim\n"
                "ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_COMPILE=1 PIP_NO_CACHE_DIR=1\n"
                "RUN pip install flask\n"
            ),
        ),
    ),
    hadolint=(),
)
