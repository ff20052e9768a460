"""Bytecode that a build step writes by the way."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from wain.invocation import is_python, python_module
from wain.paths import absolute, inside
from wain.pip_commands import pip_call
from wain.rules.rule import (
    DockerfileSubject,
    Edit,
    Example,
    Finding,
    Fix,
    Rule,
    Run,
    Severity,
    copy_target,
    may_be_folder,
)
from wain.trace import span_of
from wain.walk import Call

_QUIET = frozenset({"--version", "-V", "-VV", "--help", "-h", "-B"})
_MODULES = frozenset({"pip", "venv", "ensurepip", "virtualenv", "compileall", "uv", "pipx", "poetry", "this", "site"})


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Python programs run in a stage that ships without PYTHONDONTWRITEBYTECODE, where bytecode is missing."""
    for stage in subject.trace.stages:
        if stage.ships != "final":
            continue
        for run in stage.runs:
            for call in run.calls:
                if _writes(call) and (_is_copied(run, call) or _has_no_bytecode(run)):
                    yield subject.finding(
                        RULE,
                        span_of(run, call),
                        "what this program imports is compiled into __pycache__ folders of the layer",
                        run.holder,
                        fixes=tuple(_fix(run, call)),
                    )


def _is_copied(run: Run, call: Call) -> bool:
    """Whether the program is, or stands in the folder of, what the file copies in."""
    module = python_module(call.argv)
    script = None
    if module is None:
        named = next((word for word in call.argv[1:] if word is not None and not word.startswith("-")), None)
        script = absolute(named, call.cwd)
    place = call.cwd if module is not None else posixpath.dirname(script or "")
    if not place or place == "/":
        return False
    for stage in (run.stage, *run.stage.ancestors()):
        for step in stage.steps:
            if step.instruction is run.holder:
                break
            target = copy_target(stage, step)
            if target is None or target == "/" or not (inside(place, target) or inside(target, place)):
                continue
            sources = step.instruction.values[:-1]
            if any(
                may_be_folder(one) or posixpath.basename(one) == posixpath.basename(script or "") for one in sources
            ):
                return True
    return False


def _has_no_bytecode(run: Run) -> bool:
    """Whether an earlier command installs without compiling, as uv does unless it is told to."""
    for stage in (run.stage, *run.stage.ancestors()):
        for earlier in stage.runs:
            for call in earlier.calls:
                pip = pip_call(call.argv)
                if pip is not None and pip.verb == "install" and pip.has("--no-compile"):
                    return True
                installs = call.program == "uv" and {"install", "sync"} & set(call.argv[1:3])
                if installs and "--compile-bytecode" not in call.argv and "UV_COMPILE_BYTECODE" not in call.env:
                    return True
            if earlier is run:
                break
    return False


def _fix(run: Run, call: Call) -> Iterator[Fix]:
    if call.wrappers or not call.is_editable or run.instruction.is_json:
        return
    at = call.command_span.start
    edit = Edit(start=at, end=at, text="PYTHONDONTWRITEBYTECODE=1 ")
    yield Fix(title="set PYTHONDONTWRITEBYTECODE=1 for this command", edits=(edit,), is_safe=True)


def _writes(call: Call) -> bool:
    if not is_python(call.program) or "PYTHONDONTWRITEBYTECODE" in call.env or "PYTHONPYCACHEPREFIX" in call.env:
        return False
    words = call.argv[1:]
    if not words or words[0] is None or any(word in _QUIET for word in words):
        return False
    module = python_module(call.argv)
    if module is not None:
        return module[0] not in _MODULES
    script = next((word for word in words if word is not None and not word.startswith("-")), "")
    # setup.py and -c leave next to nothing of their own.
    return script.endswith(".py") and not script.endswith(
        ("setup.py", "get-pip.py", "get-poetry.py", "install-poetry.py")
    )


RULE = Rule(
    id="bytecode-written",
    severity=Severity.INFO,
    title="Bytecode written by a program that the build runs",
    cost=(
        "The bytecode of the project's modules, and of all else that has none yet: the standard library in the "
        "official images (1 to 3 MB), and what uv installed (a quarter of its size)."
    ),
    why=(
        "Python writes `__pycache__` next to each module that it imports. In a build that "
        "lands in the layer, and is different each time (it holds the modules' times), so "
        "that the layer is never the same twice."
    ),
    mend=(
        "`ENV PYTHONDONTWRITEBYTECODE=1`. At run time modules are then compiled at every "
        "start (sklearn, pandas and flask: 3.1 s instead of 1.2 s); set it for the RUN "
        "alone, or compile on purpose, where that matters."
    ),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nCOPY . /app\nRUN python /app/manage.py collectstatic --noinput\n",
        fixed=(
            "FROM python:3.13-slim\n"
            "COPY . /app\n"
            "RUN PYTHONDONTWRITEBYTECODE=1 python /app/manage.py collectstatic --noinput\n"
        ),
        good=(
            ("FROM python:3.13-slim\nCOPY . /app\nRUN PYTHONDONTWRITEBYTECODE=1 python /app/manage.py migrate\n"),
            "FROM python:3.13-slim\nRUN python -m venv /opt/venv\n",
        ),
    ),
    hadolint=(),
)
