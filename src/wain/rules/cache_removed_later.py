"""A cache that a later RUN removes."""

from __future__ import annotations

from collections.abc import Iterator

from wain.paths import covers
from wain.rules import (
    apk_cache,
    apt_cache,
    conda_cache,
    dnf_cache,
    npm_cache,
    pdm_cache,
    pip_cache,
    pipenv_cache,
    pipx_cache,
    pixi_cache,
    poetry_cache,
    uv_cache,
)
from wain.rules.caches import FixMaker, called, enumerated
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Run, Severity, Use
from wain.trace import Removal, span_of

_FIXES: dict[str, FixMaker] = {
    "apk": apk_cache.fixes,
    "apt": apt_cache.fixes,
    "conda": conda_cache.fixes,
    "dnf": dnf_cache.fixes,
    "npm": npm_cache.fixes,
    "pdm": pdm_cache.fixes,
    "pip": pip_cache.fixes,
    "pipenv": pipenv_cache.fixes,
    "pipx": pipx_cache.fixes,
    "pixi": pixi_cache.fixes,
    "poetry": poetry_cache.fixes,
    "uv": uv_cache.fixes,
}


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Removals that come a layer too late."""
    for stage in subject.trace.stages:
        if stage.ships == "discarded":
            continue
        filled: list[tuple[Run, Use, tuple[str, ...]]] = []
        told: set[tuple[int, str]] = set()
        for one in (*reversed(list(stage.ancestors())), stage):
            for run in one.runs:
                if one is stage and filled:
                    yield from _removals(subject, run, filled, told)
                filled += [(run, use, left) for use in run.uses if (left := run.left(use))]


def _removals(
    subject: DockerfileSubject,
    run: Run,
    filled: list[tuple[Run, Use, tuple[str, ...]]],
    told: set[tuple[int, str]],
) -> Iterator[Finding]:
    """What the RUN removes of what earlier ones filled; `told` is what was said before, by line and folder."""
    for removal in run.removals:
        if "trap" in removal.call.wrappers:
            continue
        by_folders: dict[tuple[str, ...], list[tuple[Run, Use]]] = {}
        for earlier, use, left in filled:
            folders = tuple(
                folder
                for folder in left
                if covers(removal.pattern, folder)
                and (earlier.holder.line, folder) not in told
                and not _fills(run, folder, removal)
            )
            if folders:
                told.update((earlier.holder.line, folder) for folder in folders)
                by_folders.setdefault(folders, []).append((earlier, use))
        for folders, uses in by_folders.items():
            yield _finding(subject, run, removal, folders, uses)


def _fills(run: Run, folder: str, removal: Removal) -> bool:
    """Whether the RUN fills the folder itself, so that the removal has something to do there."""
    return any(use.call.order < removal.order and folder in use.cache.folders for use in run.uses)


def _finding(
    subject: DockerfileSubject,
    run: Run,
    removal: Removal,
    folders: tuple[str, ...],
    uses: list[tuple[Run, Use]],
) -> Finding:
    were, it = ("was", "it") if len(folders) == 1 else ("were", "them")
    lines = tuple(dict.fromkeys(str(earlier.holder.line) for earlier, _ in uses))
    where = f"the RUN of line {lines[0]}" if len(lines) == 1 else f"the RUNs of lines {enumerated(lines)}"
    earlier, use = uses[0]
    return subject.finding(
        RULE,
        span_of(run, removal.call),
        f"{enumerated(folders)} {were} filled by {called(use)} in {where}: "
        f"removing {it} here hides {it}, and frees nothing",
        run.holder,
        severity=Severity.INFO if run.stage.ships == "target" else RULE.severity,
        paths=folders,
        # Several are mended by the findings about each of them.
        fixes=tuple(_FIXES[use.cache.tool](subject, earlier, use, earlier.left(use))) if len(uses) == 1 else (),
    )


RULE = Rule(
    id="cache-removed-later",
    severity=Severity.WARNING,
    title="Cache removed in a later RUN",
    cost=("The whole cache is still in the image, in the layer that made it; the removal adds a layer of its own."),
    why=(
        "A layer is never changed by a later one: a file that is deleted there is only "
        "hidden. `docker history` and every pull still have it."
    ),
    mend=("Remove the folder in the RUN that fills it, switch the cache off, or mount a cache."),
    check=check,
    example=Example(
        bad="FROM python:3.13-slim\nRUN poetry install\nRUN rm -rf /root/.cache\n",
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN poetry install && rm -rf /root/.cache/pypoetry/cache /root/.cache/pypoetry/artifacts "
            "/root/.cache/virtualenv\n"
            "RUN rm -rf /root/.cache\n"
        ),
        good=(
            "FROM python:3.13-slim\nRUN poetry install && rm -rf /root/.cache\n",
            (
                "FROM python:3.13-slim AS build\n"
                "RUN poetry install\n"
                "RUN rm -rf /root/.cache\n"
                "FROM scratch\n"
                "COPY --from=build / /\n"
            ),
        ),
    ),
    hadolint=(),
)
