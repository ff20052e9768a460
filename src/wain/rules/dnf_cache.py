"""The cache of dnf or yum stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    yield from append_fix(subject, run, use, f"{use.call.program} clean all")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of dnf whose cache stays."""
    return check_tool(RULE, "dnf", subject, fixes)


RULE = Rule(
    id="dnf-cache",
    severity=Severity.WARNING,
    title="The cache of dnf, yum or microdnf stays in the image",
    cost=("Repository metadata of 50 to 200 MB, and the packages themselves where keepcache is on."),
    why=("Metadata goes to `/var/cache/dnf`, `/var/cache/libdnf5` or `/var/cache/yum`, and stays until it is cleaned."),
    mend=("`dnf clean all` at the end of the same RUN."),
    check=check,
    example=Example(
        bad="FROM fedora:42\nRUN dnf install -y libpq\n",
        fixed="FROM fedora:42\nRUN dnf install -y libpq && dnf clean all\n",
        good=("FROM fedora:42\nRUN dnf install -y libpq && rm -rf /var/cache/dnf\n",),
    ),
    hadolint=("DL3040", "DL3032"),
)
