"""A cache mount that is not where the tool caches."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import missed_mount
from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Mounted, Rule, Run, Severity, Use


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Cache mounts meant for a tool that caches elsewhere."""
    for run in subject.trace.runs():
        seen: set[int] = set()
        for use in run.uses:
            left = run.left(use)
            span = missed_mount(run, use) if left else None
            if span is None or span.start in seen:
                continue
            seen.add(span.start)
            mounted = next(one for one in run.mounts if one.mount.flag.span == span)
            yield subject.finding(
                RULE,
                span,
                f"{use.cache.tool} caches in {use.cache.home}{_because(run, use)}, not in {mounted.target}: "
                "the mount stays empty and the cache goes into the layer",
                run.holder,
                paths=left,
                fixes=tuple(_fix(subject, run, mounted, use)),
            )


def _because(run: Run, use: Use) -> str:
    place = use.cache.place
    if place.kind in {"flag", "variable", "file"}:
        return f" ({place.name})"
    return f" (user {run.user.name})" if run.user.is_root is False else ""


def _fix(subject: DockerfileSubject, run: Run, mounted: Mounted, use: Use) -> Iterator[Fix]:
    if use.cache.tool == "poetry" and any(folder.endswith("/virtualenv") for folder in use.cache.folders):
        # The environment that Poetry makes may lie in the same folder, and would be in the mount, not in the image.
        return
    written = mounted.mount.target
    span = mounted.mount.flag.span
    source = subject.dockerfile.source(span)
    home = use.cache.home
    if written is None or source.count(f"={written}") != 1 or home.startswith("~") or "," in home or " " in home:
        return
    owner = ""
    if mounted.mount.uid is None and run.user.is_root is False:
        if run.user.uid is None:
            return
        owner = f",uid={run.user.uid}"
    at = span.start + source.index(f"={written}") + 1
    edit = Edit(start=at, end=at + len(written), text=f"{home}{owner}")
    yield Fix(title=f"mount the cache over {home}", edits=(edit,), is_safe=True)


RULE = Rule(
    id="cache-mount-target",
    severity=Severity.WARNING,
    title="Cache mount that misses the tool's cache folder",
    cost=(
        "The whole cache goes into the layer, although the file says that it does not; and "
        "nothing is reused in the next build."
    ),
    why=(
        "A cache mount helps only where its target is the cache folder of the tool and the "
        "user that run. `USER`, `HOME`, `PIP_CACHE_DIR`, `XDG_CACHE_HOME` and "
        "`UV_CACHE_DIR` move that folder, and a change from pip to uv does too."
    ),
    mend=("Make the target the folder that the message names, with `uid=` of the user who runs."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "RUN useradd -m -u 1000 app\n"
            "USER app\n"
            "RUN --mount=type=cache,target=/root/.cache/pip pip install flask\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN useradd -m -u 1000 app\n"
            "USER app\n"
            "RUN --mount=type=cache,target=/home/app/.cache/pip,uid=1000 pip install flask\n"
        ),
        good=(
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n",
            (
                "FROM python:3.13-slim\n"
                "ENV PIP_CACHE_DIR=/cache\n"
                "RUN --mount=type=cache,target=/cache pip install flask\n"
            ),
        ),
    ),
    hadolint=(),
)
