"""conda's package cache stays in the image."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.caches import append_fix, check_tool
from wain.rules.rule import DockerfileSubject, Example, Finding, Fix, Rule, Run, Severity, Use


def fixes(subject: DockerfileSubject, run: Run, use: Use, left: tuple[str, ...]) -> Iterator[Fix]:
    """What keeps the cache of one command out of its layer, the best first."""
    # By its path, where it is called so: the PATH may not have it.
    program = use.call.argv[0] or use.call.program
    yield from append_fix(subject, run, use, f"{program} clean --all --yes")


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Commands of conda whose cache stays."""
    return check_tool(RULE, "conda", subject, fixes)


RULE = Rule(
    id="conda-cache",
    severity=Severity.WARNING,
    title="The package cache of conda, mamba or micromamba stays in the image",
    cost=(
        "The downloaded archives, often as much as the environment again. Unpacked "
        "packages are hard links into the environment and cost little."
    ),
    why=(
        "Packages are downloaded to and unpacked in `<prefix>/pkgs`; archives, and "
        "packages that no environment uses any more, stay there."
    ),
    mend=("`conda clean --all --yes` at the end of the same RUN."),
    check=check,
    example=Example(
        bad="FROM condaforge/miniforge3\nRUN conda install -y numpy\n",
        fixed="FROM condaforge/miniforge3\nRUN conda install -y numpy && conda clean --all --yes\n",
        good=("FROM condaforge/miniforge3\nRUN mamba install -y numpy && mamba clean -afy\n",),
    ),
    hadolint=(),
)
