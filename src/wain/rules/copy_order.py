"""Requirements installed after the whole source was copied."""

from __future__ import annotations

from collections.abc import Iterator

from wain.dockerfile import Instruction
from wain.pip_commands import pip_call
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Run, Severity, Use, call_span


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """pip install -r below a COPY of the whole source, with nothing of the file copied on its own before."""
    for stage in subject.trace.stages:
        whole: Instruction | None = None
        runs = {id(run.holder): run for run in stage.runs}
        for index, step in enumerate(stage.steps):
            instruction = step.instruction
            if instruction.keyword in {"COPY", "ADD"} and instruction.flag("from") is None:
                if whole is None and any(value in {".", "./", "*"} for value in instruction.values[:-1]):
                    whole = instruction
            elif instruction.keyword == "RUN" and whole is not None:
                run = runs.get(id(instruction))
                found = _requirements(run) if run is not None else None
                if run is None or found is None:
                    continue
                use, names = found
                copied = {
                    value.rpartition("/")[2]
                    for one in stage.steps[:index]
                    for value in one.instruction.values[:-1]
                    if one.instruction.keyword == "COPY" and one.instruction.line < whole.line
                }
                if any(name.rpartition("/")[2] in copied for name in names):
                    continue
                yield subject.finding(
                    RULE,
                    call_span(run, use),
                    f"every change to the source installs {', '.join(names)} again: "
                    f"line {whole.line} copies the whole source before it",
                    instruction,
                    fixes=tuple(_fix(subject, stage.steps[index - 1].instruction, whole, run, names)),
                )
                break


def _requirements(run: Run) -> tuple[Use, list[str]] | None:
    for use in run.uses:
        if use.cache.tool == "pip" and use.cache.verb == "install":
            pip = pip_call(use.call.argv)
            if (
                pip is None
                or pip.has("--editable")
                or any(one is None or one.startswith((".", "/")) for one in pip.operands)
            ):
                continue
            names = [value for name, value, _ in pip.options if name == "--requirement" and value]
            given = sum(name == "--requirement" for name, _, _ in pip.options)
            if names and len(names) == given and all("://" not in name and name[0] != "-" for name in names):
                return use, names
    return None


def _fix(
    subject: DockerfileSubject, before: Instruction, whole: Instruction, run: Run, names: list[str]
) -> Iterator[Fix]:
    """Copy the files and install above the copy of the source, where the two stand next to each other."""
    dockerfile = subject.dockerfile
    instruction = run.instruction
    if (
        before is not whole
        or run.holder is not instruction
        or any(comment.line >= whole.line for comment in instruction.comments)
        or len(run.calls) != len(run.uses)
        or any(name.startswith("/") or any(char in name for char in " \"'$*?[") for name in names)
        or whole.flags
        or instruction.heredocs
    ):
        return
    newline = dockerfile.newline
    start = dockerfile.line_start(whole.line)
    folders = {name.rpartition("/")[0] for name in names}
    copies = ""
    for folder in sorted(folders):
        files = " ".join(name for name in names if name.rpartition("/")[0] == folder)
        copies += f"COPY {files} ./{folder}{'/' if folder else ''}{newline}"
    if whole.values[-1] not in {".", "./"} and run.workdir != whole.values[-1].rstrip("/"):
        return
    edits = (
        Edit(start=start, end=start, text=copies + dockerfile.source(instruction.span) + newline),
        Edit(
            start=dockerfile.line_start(instruction.line),
            end=dockerfile.line_start(instruction.end_line + 1),
            text="",
        ),
    )
    yield Fix(title="install before the source is copied", edits=edits, is_safe=False)


RULE = Rule(
    id="copy-order",
    severity=Severity.WARNING,
    title="Requirements installed after the source was copied",
    cost=(
        "Nothing in bytes; minutes in every build, and a dependency layer that every push "
        "uploads and every pull downloads again."
    ),
    why=(
        "A changed file in a COPY makes that layer new, and every layer after it. With the "
        "whole source above the install, a change to one comment installs everything again."
    ),
    mend=("Copy the requirements alone, install, then copy the source."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "WORKDIR /app\n"
            "COPY . .\n"
            "RUN pip install --no-cache-dir -r requirements.txt\n"
            'CMD ["python", "app.py"]\n'
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "WORKDIR /app\n"
            "COPY requirements.txt ./\n"
            "RUN pip install --no-cache-dir -r requirements.txt\n"
            "COPY . .\n"
            'CMD ["python", "app.py"]\n'
        ),
        good=(
            (
                "FROM python:3.13-slim\n"
                "WORKDIR /app\n"
                "COPY requirements.txt .\n"
                "RUN pip install --no-cache-dir -r requirements.txt\n"
                "COPY . .\n"
            ),
            ("FROM python:3.13-slim\nCOPY . /src\nRUN pip install --no-cache-dir --no-build-isolation /src\n"),
        ),
    ),
    hadolint=(),
)
