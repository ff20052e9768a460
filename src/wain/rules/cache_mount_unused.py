"""A cache mount over a cache that is off."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Rule, Run, Severity, Use


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Cache mounts over the folders of tools whose cache is off in every command."""
    for run in subject.trace.runs():
        for mounted in run.mounts:
            if mounted.kind != "cache" or mounted.target is None:
                continue
            over = [use for use in run.uses if any(run.mount_over(folder) is mounted for folder in use.cache.folders)]
            if not over or any(use.cache.enabled is not False for use in over):
                continue
            switch = over[0].cache.switch
            yield subject.finding(
                RULE,
                mounted.mount.flag.span,
                f"{over[0].cache.tool}'s cache is off ({switch.name if switch else 'switched off'}): "
                f"the mount on {mounted.target} does nothing",
                run.holder,
                fixes=tuple(_fix(subject, run, over)),
            )


def _fix(subject: DockerfileSubject, run: Run, over: list[Use]) -> Iterator[Fix]:
    """Take the flags out: the mount then does what it is there for."""
    edits: list[Edit] = []
    for use in over:
        switch = use.cache.switch
        if switch is None or switch.kind != "flag" or run.instruction.is_json or not use.call.is_editable:
            return
        for word, value in zip(use.call.words, use.call.argv, strict=True):
            if value is not None and value.startswith("--no-c") and value in {"--no-cache-dir", "--no-cache"}:
                if word is None or word.literal is None:
                    return
                start = word.span.start
                text = subject.dockerfile.text
                while start > 0 and text[start - 1] in " \t":
                    start -= 1
                edits.append(Edit(start=start, end=word.span.end, text=""))
    if edits and all(subject.dockerfile.text[edit.start - 1] != "\n" for edit in edits):
        yield Fix(title="take the flag out, so that the mount is used", edits=tuple(edits), is_safe=True)


RULE = Rule(
    id="cache-mount-unused",
    severity=Severity.WARNING,
    title="Cache mount that a switch makes useless",
    cost=("No bytes in the image, but every build downloads everything again."),
    why=(
        "With `--no-cache-dir`, `PIP_NO_CACHE_DIR` (any boolean), `UV_NO_CACHE` or a "
        "setting in a file or the base image the tool never looks into the mounted folder."
    ),
    mend=("Take the switch out where a mount keeps the cache out of the layer anyway, or drop the mount."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install --no-cache-dir flask\n"
        ),
        fixed="FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n",
        good=("FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n",),
    ),
    hadolint=(),
)
