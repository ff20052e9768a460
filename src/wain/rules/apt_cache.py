"""apt's package lists stay in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use
from wain.trace import StageTrace

_READERS = frozenset(("install", "reinstall", "satisfy", "build-dep", "source", "download", "upgrade", "full-upgrade"))


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    folder = left[0]
    if not folder.endswith("/archives") and _lists_are_read_later(subject, run):
        return
    command = "apt-get clean" if folder.endswith("/archives") else "rm -rf /var/lib/apt/lists/*"
    yield from append_fix(subject, run, use, command)


def _lists_are_read_later(subject: DockerfileSubject, run: Run) -> bool:
    """Whether a later RUN on top of this one installs without fetching the lists itself."""
    found = False
    for later in subject.trace.runs():
        if later is run:
            found = True
            continue
        stage: StageTrace | None = later.stage
        while stage is not None and stage is not run.stage:
            stage = stage.parent
        if not found or stage is None:
            continue
        for call in later.calls:
            words = [word for word in call.argv[1:] if word is not None and not word.startswith("-")]
            if call.program not in ("apt", "apt-get", "aptitude") or not words:
                continue
            if "update" in words:
                break
            if not _READERS.isdisjoint(words):
                return True
    return False


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of apt whose cache stays."""
    return check_tool(RULE, "apt", subject, fixes)


RULE = Rule(
    id="apt-cache",
    severity=Severity.WARNING,
    title="apt's package lists stay in the image",
    cost=("20 MB on Debian, 40 MB and more on Ubuntu."),
    why=(
        "`apt-get update` writes the lists to `/var/lib/apt/lists`; nothing in the running "
        "image needs them. The official Debian and Ubuntu images delete downloaded "
        "packages themselves, but not the lists; where `/etc/apt/apt.conf.d/docker-clean` "
        "is removed the packages stay as well."
    ),
    mend=(
        "`apt-get update && apt-get install ... && rm -rf /var/lib/apt/lists/*` in one RUN, or mount a cache over "
        "`/var/lib/apt` and `/var/cache/apt`. What installs later has to update first."
    ),
    check=check,
    example=Example(
        bad="FROM debian:trixie\nRUN apt-get update && apt-get install -y --no-install-recommends libpq5\n",
        fixed=(
            "FROM debian:trixie\n"
            "RUN apt-get update && apt-get install -y --no-install-recommends libpq5 && rm -rf "
            "/var/lib/apt/lists/*\n"
        ),
        good=(
            (
                "FROM debian:trixie\n"
                "RUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y "
                "libpq5\n"
            ),
        ),
    ),
    hadolint=("DL3009",),
)
