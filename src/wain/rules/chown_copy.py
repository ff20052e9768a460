"""A recursive chown or chmod that copies what lower layers have."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from wain.dockerfile import Instruction
from wain.invocation import is_python, python_module
from wain.paths import absolute, inside
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


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """chown -R and chmod -R over folders that an earlier instruction filled."""
    for run in subject.trace.runs():
        if run.stage.ships == "discarded":
            continue
        for call in run.calls:
            if call.program not in {"chown", "chmod", "chgrp"} or not _is_recursive(call):
                continue
            operands = [word for word in call.argv[1:] if word is None or not word.startswith("-")]
            for value in operands[1:]:
                path = absolute(value, call.cwd)
                if path is None:
                    continue
                source = _filled_before(run, path)
                if source is None:
                    continue
                yield subject.finding(
                    RULE,
                    span_of(run, call),
                    f"{call.program} -R {path} copies into this layer every file that line {source.line} put there",
                    run.holder,
                    severity=Severity.INFO if run.stage.ships == "target" else None,
                    paths=(path,),
                    fixes=tuple(_fix(subject, run, call, operands[0], path)),
                )
                break


def _is_recursive(call: Call) -> bool:
    return any(
        word is not None
        and (word == "--recursive" or (word.startswith("-") and not word.startswith("--") and "R" in word))
        for word in call.argv[1:]
    )


def _filled_before(run: Run, path: str) -> Instruction | None:
    """The earlier instruction of the stage that filled the folder."""
    for stage in (run.stage, *run.stage.ancestors()):
        for step in stage.steps:
            if step.instruction is run.holder:
                break
            target = copy_target(stage, step)
            if target is None or all(map(_is_small, step.instruction.values[:-1])):
                continue
            if inside(target, path) or (inside(path, target) and any(map(may_be_folder, step.instruction.values[:-1]))):
                return step.instruction
        for earlier in stage.runs:
            if earlier is run:
                break
            for call in earlier.calls:
                made = _made_environment(call)
                if made is not None and inside(made, path):
                    return earlier.holder
    return None


# What people copy by name and what is never large enough to matter.
_SMALL = frozenset(
    ".bash .cfg .conf .crt .css .env .html .ini .js .json .lock .md .pem .properties .py .r .rb .repo .service .sh "
    ".sql .template .toml .ts .txt .xml .yaml .yml .zsh".split()
)
_SMALL_NAMES = frozenset(
    "Makefile Gemfile Pipfile Procfile LICENSE crontab entrypoint gitconfig motd passwd sudoers .bashrc .gitconfig "
    ".npmrc .profile .vimrc .zshrc".split()
)


def _is_small(source: str) -> bool:
    """Whether a source of COPY is a single small file, by its name."""
    name = source.rpartition("/")[2]
    return not any(char in name for char in "*?[") and (
        name in _SMALL_NAMES or (posixpath.splitext(name)[1].lower() in _SMALL)
    )


def _made_environment(call: Call) -> str | None:
    """The folder of an environment that a command makes."""
    if is_python(call.program):
        module = python_module(call.argv)
        if module is not None and module[0] in {"venv", "virtualenv"}:
            return absolute(
                next((one for one in reversed(call.argv) if one and not one.startswith("-")), None), call.cwd
            )
    if call.program == "virtualenv" or (call.program == "uv" and call.argv[1:2] == ("venv",)):
        operands = [one for one in call.argv[1:] if one and not one.startswith("-") and one != "venv"]
        return absolute(operands[-1], call.cwd) if operands else absolute(".venv", call.cwd)
    return None


def _fix(subject: DockerfileSubject, run: Run, call: Call, owner: str | None, path: str) -> Iterator[Fix]:
    """Where the RUN is that chown alone and all that lies there was copied: COPY --chown instead."""
    script = run.script
    if (
        call.program != "chown"
        or owner is None
        or run.holder is not run.instruction
        or script is None
        or len(script.statements) != 1
        or script.statements[0].span != call.command_span
        or len([word for word in call.argv if word and not word.startswith("-")]) != 3
        or run.instruction.heredocs
        or any(comment.line >= run.instruction.line for comment in run.instruction.comments)
    ):
        return
    edits: list[Edit] = []
    for step in run.stage.steps:
        instruction = step.instruction
        if instruction is run.holder:
            break
        target = copy_target(run.stage, step)
        if target is None or not (inside(target, path) or inside(path, target)):
            continue
        if not inside(target, path) or instruction.flag("chown") is not None:
            return
        at = instruction.keyword_end
        edits.append(Edit(start=at, end=at, text=f" --chown={_owner(owner)}"))
    if not edits:
        return
    dockerfile = subject.dockerfile
    start = dockerfile.line_start(run.instruction.line)
    edits.append(Edit(start=start, end=dockerfile.line_start(run.instruction.end_line + 1), text=""))
    yield Fix(title=f"copy with --chown={_owner(owner)} instead", edits=tuple(edits), is_safe=False)


def _owner(text: str) -> str:
    """An owner of chown as COPY takes it: `app:` and `app.app` are chown's alone."""
    return re.sub(r"^(\w+)\.(\w+)$", r"\1:\2", text).removesuffix(":")


RULE = Rule(
    id="chown-copy",
    severity=Severity.WARNING,
    title="chown -R or chmod -R that copies an environment",
    cost=("All of it again: 9.12 GB became 18 GB in one published image, 6 GB became 12 in another."),
    why=(
        "A file whose owner or mode changes is copied into the new layer, whole. A "
        "recursive chown over what lower layers have doubles it."
    ),
    mend=("`COPY --chown=` (and `--chmod=`), or change the owner in the RUN that makes the files."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN useradd -m app\nCOPY . /app\nRUN chown -R app:app /app\nUSER app\n",
        fixed="FROM python:3.13-slim\nRUN useradd -m app\nCOPY --chown=app:app . /app\nUSER app\n",
        good=("FROM python:3.13-slim\nRUN useradd -m app && mkdir -p /data && chown -R app /data\n",),
    ),
    hadolint=(),
)
