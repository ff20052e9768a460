"""A cache that a later RUN removes."""

from __future__ import annotations

from collections.abc import Iterator

from wain.paths import covers
from wain.rules.caches import append_fix, enumerated
from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity
from wain.trace import span_of


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Removals that come a layer too late."""
    for stage in subject.trace.stages:
        if stage.ships == "discarded":
            continue
        lineage = [*reversed(list(stage.ancestors())), stage]
        runs = [run for one in lineage for run in one.runs]
        for run in stage.runs:
            seen: set[str] = set()
            for removal in run.removals:
                if "trap" in removal.call.wrappers:
                    continue
                for earlier in runs[: runs.index(run)]:
                    for use in earlier.uses:
                        folders = tuple(
                            folder
                            for folder in earlier.left(use)
                            if folder not in seen and covers(removal.pattern, folder)
                        )
                        if not folders:
                            continue
                        seen.update(folders)
                        were, it = ("was", "it") if len(folders) == 1 else ("were", "them")
                        yield subject.finding(
                            RULE,
                            span_of(run, removal.call),
                            f"{enumerated(folders)} {were} filled by {use.cache.tool} in the RUN of line "
                            f"{earlier.holder.line}: removing {it} here hides {it}, and frees nothing",
                            run.holder,
                            severity=Severity.INFO if stage.ships == "target" else RULE.severity,
                            paths=folders,
                            fixes=tuple(append_fix(subject, earlier, use, f"rm -rf {' '.join(folders)}")),
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
