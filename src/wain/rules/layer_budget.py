"""More layers than an image should have."""

from __future__ import annotations

from collections.abc import Iterator

from wain.rules.rule import DockerfileSubject, Example, Finding, Rule, Severity


def check(subject: DockerfileSubject) -> Iterator[Finding]:
    """Files whose final image has more layers of its own than the budget."""
    if not subject.trace.stages:
        return
    last = subject.trace.stages[-1]
    lineage = [*reversed(list(last.ancestors())), last]
    makers = [
        step.instruction
        for stage in lineage
        for step in stage.steps
        if step.instruction.keyword in {"RUN", "COPY", "ADD"}
    ]
    budget = subject.options.max_layers
    if len(makers) > budget:
        over = makers[budget]
        yield subject.finding(
            RULE,
            over.span,
            f"the image gets {len(makers)} layers on top of its base's, over the budget of {budget}",
            over,
        )


def _copies(count: int) -> str:
    return "FROM python:3.13-slim\n" + "".join(f"COPY f{number} /f{number}\n" for number in range(count))


RULE = Rule(
    id="layer-budget",
    severity=Severity.WARNING,
    title="More layers than the budget",
    cost=("Docker stops at 125 layers, overlay file systems at 127 or 128; BuildKit builds more than it can run."),
    why=("Each RUN, COPY and ADD makes a layer, and the base has its own."),
    mend=("Join RUNs that belong together; copy folders rather than files."),
    check=check,
    example=Example(bad=_copies(101), fixed="FROM python:3.13-slim\nCOPY . /\n", good=(_copies(20),)),
    hadolint=(),
)
