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


RULE = Rule(
    id="layer-budget",
    severity=Severity.WARNING,
    title="More layers than the budget",
    cost=("Docker stops at 125 layers, overlay file systems at 127 or 128; BuildKit builds more than it can run."),
    why=("Each RUN, COPY and ADD makes a layer, and the base has its own."),
    mend=("Join RUNs that belong together; copy folders rather than files."),
    check=check,
    example=Example(
        bad=(
            "FROM python:3.13-slim\n"
            "COPY f0 /f0\n"
            "COPY f1 /f1\n"
            "COPY f2 /f2\n"
            "COPY f3 /f3\n"
            "COPY f4 /f4\n"
            "COPY f5 /f5\n"
            "COPY f6 /f6\n"
            "COPY f7 /f7\n"
            "COPY f8 /f8\n"
            "COPY f9 /f9\n"
            "COPY f10 /f10\n"
            "COPY f11 /f11\n"
            "COPY f12 /f12\n"
            "COPY f13 /f13\n"
            "COPY f14 /f14\n"
            "COPY f15 /f15\n"
            "COPY f16 /f16\n"
            "COPY f17 /f17\n"
            "COPY f18 /f18\n"
            "COPY f19 /f19\n"
            "COPY f20 /f20\n"
            "COPY f21 /f21\n"
            "COPY f22 /f22\n"
            "COPY f23 /f23\n"
            "COPY f24 /f24\n"
            "COPY f25 /f25\n"
            "COPY f26 /f26\n"
            "COPY f27 /f27\n"
            "COPY f28 /f28\n"
            "COPY f29 /f29\n"
            "COPY f30 /f30\n"
            "COPY f31 /f31\n"
            "COPY f32 /f32\n"
            "COPY f33 /f33\n"
            "COPY f34 /f34\n"
            "COPY f35 /f35\n"
            "COPY f36 /f36\n"
            "COPY f37 /f37\n"
            "COPY f38 /f38\n"
            "COPY f39 /f39\n"
            "COPY f40 /f40\n"
            "COPY f41 /f41\n"
            "COPY f42 /f42\n"
            "COPY f43 /f43\n"
            "COPY f44 /f44\n"
            "COPY f45 /f45\n"
            "COPY f46 /f46\n"
            "COPY f47 /f47\n"
            "COPY f48 /f48\n"
            "COPY f49 /f49\n"
            "COPY f50 /f50\n"
            "COPY f51 /f51\n"
            "COPY f52 /f52\n"
            "COPY f53 /f53\n"
            "COPY f54 /f54\n"
            "COPY f55 /f55\n"
            "COPY f56 /f56\n"
            "COPY f57 /f57\n"
            "COPY f58 /f58\n"
            "COPY f59 /f59\n"
            "COPY f60 /f60\n"
            "COPY f61 /f61\n"
            "COPY f62 /f62\n"
            "COPY f63 /f63\n"
            "COPY f64 /f64\n"
            "COPY f65 /f65\n"
            "COPY f66 /f66\n"
            "COPY f67 /f67\n"
            "COPY f68 /f68\n"
            "COPY f69 /f69\n"
            "COPY f70 /f70\n"
            "COPY f71 /f71\n"
            "COPY f72 /f72\n"
            "COPY f73 /f73\n"
            "COPY f74 /f74\n"
            "COPY f75 /f75\n"
            "COPY f76 /f76\n"
            "COPY f77 /f77\n"
            "COPY f78 /f78\n"
            "COPY f79 /f79\n"
            "COPY f80 /f80\n"
            "COPY f81 /f81\n"
            "COPY f82 /f82\n"
            "COPY f83 /f83\n"
            "COPY f84 /f84\n"
            "COPY f85 /f85\n"
            "COPY f86 /f86\n"
            "COPY f87 /f87\n"
            "COPY f88 /f88\n"
            "COPY f89 /f89\n"
            "COPY f90 /f90\n"
            "COPY f91 /f91\n"
            "COPY f92 /f92\n"
            "COPY f93 /f93\n"
            "COPY f94 /f94\n"
            "COPY f95 /f95\n"
            "COPY f96 /f96\n"
            "COPY f97 /f97\n"
            "COPY f98 /f98\n"
            "COPY f99 /f99\n"
            "COPY f100 /f100\n"
        ),
        fixed="FROM python:3.13-slim\nCOPY . /\n",
        good=(
            (
                "FROM python:3.13-slim\n"
                "COPY f0 /f0\n"
                "COPY f1 /f1\n"
                "COPY f2 /f2\n"
                "COPY f3 /f3\n"
                "COPY f4 /f4\n"
                "COPY f5 /f5\n"
                "COPY f6 /f6\n"
                "COPY f7 /f7\n"
                "COPY f8 /f8\n"
                "COPY f9 /f9\n"
                "COPY f10 /f10\n"
                "COPY f11 /f11\n"
                "COPY f12 /f12\n"
                "COPY f13 /f13\n"
                "COPY f14 /f14\n"
                "COPY f15 /f15\n"
                "COPY f16 /f16\n"
                "COPY f17 /f17\n"
                "COPY f18 /f18\n"
                "COPY f19 /f19\n"
            ),
        ),
    ),
    hadolint=(),
)
