"""A cache mount that its user cannot write."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Edit, Example, Finding, Fix, Mounted, Rule, Severity, User


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Cache mounts whose owner is not the user who runs the tool."""
    for run in subject.trace.runs():
        seen: set[int] = set()
        for use in run.uses:
            if use.cache.enabled is not True:
                continue
            for folder in use.cache.folders:
                mounted = run.mount_over(folder)
                if mounted is None or mounted.kind != "cache" or mounted.mount.flag.span.start in seen:
                    continue
                owner = mounted.uid if mounted.mount.uid is not None else "0"
                user = run.user if not use.call.wrappers or use.call.user == run.user.name else None
                if user is None or owner is None or _may_write(user, owner, mounted):
                    continue
                seen.add(mounted.mount.flag.span.start)
                yield subject.finding(
                    RULE,
                    mounted.mount.flag.span,
                    f"the mount on {mounted.target} belongs to uid {owner}, but {user.name} runs "
                    f"{use.cache.tool}: it cannot write there",
                    run.holder,
                    fixes=tuple(_fix(user, mounted)),
                )


def _may_write(user: User, owner: str, mounted: Mounted) -> bool:
    if user.is_root is None or mounted.mount.readonly:
        return True
    if user.is_root:
        return owner == "0"
    mode = mounted.mount.mode or "0755"
    if mode[-1:] in {"2", "3", "6", "7"}:
        return True
    return owner != "0" if user.uid is None else owner == user.uid


def _fix(user: User, mounted: Mounted) -> Iterator[Fix]:
    if user.uid is None or mounted.mount.uid is not None:
        return
    at = mounted.mount.flag.span.end
    yield Fix(
        title=f"give the mount to uid {user.uid}",
        edits=(Edit(start=at, end=at, text=f",uid={user.uid}"),),
        is_safe=True,
    )


RULE = Rule(
    id="cache-mount-owner",
    severity=Severity.WARNING,
    title="Cache mount that belongs to another user",
    cost=("Nothing is cached, and pip may stop with `[Errno 13] Permission denied` on a wheel that it builds."),
    why=(
        "A cache mount belongs to uid 0 unless `uid=` says otherwise. pip goes without a "
        "cache that it does not own, and as root it refuses one that belongs to somebody else."
    ),
    mend=("Add `uid=` (and `gid=`) of the user who runs."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "RUN useradd -m -u 1000 app\n"
            "USER app\n"
            "RUN --mount=type=cache,target=/home/app/.cache/pip pip install flask\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN useradd -m -u 1000 app\n"
            "USER app\n"
            "RUN --mount=type=cache,target=/home/app/.cache/pip,uid=1000 pip install flask\n"
        ),
        good=(
            (
                "FROM python:3.13-slim\n"
                "USER 1000\n"
                "ENV HOME=/tmp/h\n"
                "RUN --mount=type=cache,target=/tmp/h/.cache/pip,uid=1000 pip install flask\n"
            ),
            "FROM python:3.13-slim\nRUN --mount=type=cache,target=/root/.cache/pip pip install flask\n",
        ),
    ),
    hadolint=(),
)
