"""Build tools left in the final stage."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity
from wain.trace import span_of

_TOOLS = frozenset(
    "build-essential gcc g++ clang cmake make autoconf automake libtool ninja-build rustc cargo gfortran pkg-config "
    "build-base musl-dev linux-headers python3-dev libc6-dev libc-dev gcc-c++ python3-devel rust golang "
    "alpine-sdk dpkg-dev".split()
)
_INSTALLERS = {
    "apt-get": {"install"},
    "apt": {"install"},
    "apk": {"add"},
    "dnf": {"install"},
    "yum": {"install"},
    "microdnf": {"install"},
}
_REMOVERS = {"remove", "purge", "autoremove", "del", "erase", "autopurge"}


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Compilers and headers installed in the final stage and not removed by the same RUN."""
    for run in subject.trace.runs():
        if run.stage.ships != "final" or (run.stage.stage.index == 0 and not _installs_python(subject)):
            continue
        for call in run.calls:
            verbs = _INSTALLERS.get(call.program)
            if verbs is None or not verbs & set(call.argv):
                continue
            found = [word for word in call.argv if word is not None and word.partition("=")[0] in _TOOLS]
            if not found or any(
                other.program == call.program and _REMOVERS & set(other.argv) and other.order > call.order
                for other in run.calls
            ):
                continue
            yield subject.finding(
                RULE,
                span_of(run, call),
                f"{', '.join(found)} {'stay' if len(found) > 1 else 'stays'} in the image: "
                "build in a stage of its own, and copy the environment over",
                run.holder,
                estimate="200 MB and more" if {"build-essential", "g++", "build-base"} & set(found) else "",
            )


def _installs_python(subject: DockerfileSubject) -> bool:
    return any(
        use.cache.tool in {"pip", "uv", "poetry", "pdm", "pipenv", "pipx"}
        for run in subject.trace.runs()
        for use in run.uses
    )


RULE = Rule(
    id="build-tools",
    severity=Severity.INFO,
    title="Build tools stay in the final stage",
    cost=("200 to 350 MB for build-essential, 150 MB for gcc alone, and what scanners find in them."),
    why=(
        "A compiler is needed while a distribution builds, and never again. What one RUN "
        "installs and another removes stays in the first one's layer."
    ),
    mend=("Build the environment in a first stage and `COPY --from` it, or install and remove in one RUN."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "RUN apt-get update && apt-get install -y gcc && rm -rf /var/lib/apt/lists/*\n"
            "RUN pip install --no-cache-dir uwsgi\n"
        ),
        fixed=(
            "FROM python:3.13-slim\n"
            "RUN apt-get update && apt-get install -y gcc && pip install --no-cache-dir uwsgi "
            "&& apt-get purge -y --auto-remove gcc && rm -rf /var/lib/apt/lists/*\n"
        ),
        good=(
            (
                "FROM python:3.13 AS build\n"
                "RUN apt-get update && apt-get install -y gcc\n"
                "RUN pip install --no-cache-dir --prefix /out uwsgi\n"
                "FROM python:3.13-slim\n"
                "COPY --from=build /out /usr/local\n"
            ),
        ),
    ),
    hadolint=(),
)
