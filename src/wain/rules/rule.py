"""The shape of a rule: what it is called, what it says, how it checks a subject, and its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct, field

from wain.dockerfile import Dockerfile, Instruction, Span
from wain.errors import DockerfileError
from wain.findings import Cost, Edit, Finding, Fix, Location, Severity
from wain.follow import follow
from wain.paths import absolute
from wain.substitution import expand
from wain.trace import Mounted, Reader, Run, StageTrace, Step, Trace, Use, User, span_of

__all__ = [
    "Cost",
    "DockerfileSubject",
    "Edit",
    "Example",
    "Finding",
    "Fix",
    "Mounted",
    "Options",
    "Reader",
    "Rule",
    "Run",
    "Severity",
    "Use",
    "User",
    "copy_target",
    "may_be_folder",
]


_NOT_KNOWN = Cost()


class Options(Struct, frozen=True, kw_only=True):
    """What a caller may choose: `prefer` is how a cache is kept out (auto, mount, flag or env)."""

    prefer: str = "auto"
    max_layers: int = 100


class DockerfileSubject(Struct, frozen=True, kw_only=True):
    """A Dockerfile under audit: its text, its name in messages, and what was followed in it."""

    name: str
    dockerfile: Dockerfile
    trace: Trace
    options: Options = field(default_factory=Options)

    @classmethod
    def of(
        cls, dockerfile: Dockerfile, *, options: Options | None = None, read: Reader | None = None
    ) -> DockerfileSubject:
        """The subject of a parsed file."""
        return cls(
            name=dockerfile.name,
            dockerfile=dockerfile,
            trace=follow(dockerfile, read=read),
            options=options or Options(),
        )

    @property
    def prefer(self) -> str:
        """mount, flag or env: what the options say, else what the file already does."""
        if self.options.prefer != "auto":
            return self.options.prefer
        return "mount" if self.trace.uses_buildkit else "flag"

    def location(self, span: Span) -> Location:
        """A span of the file as a location."""
        line, column = self.dockerfile.position(span.start)
        end_line, end_column = self.dockerfile.position(max(span.end, span.start))
        return Location(
            file=self.name,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            start=span.start,
            end=span.end,
        )

    def finding(
        self,
        rule: Rule,
        span: Span,
        message: str,
        instruction: Instruction,
        *,
        severity: Severity | None = None,
        cost: Cost = _NOT_KNOWN,
        estimate: str = "",
        paths: tuple[str, ...] = (),
        fixes: tuple[Fix, ...] = (),
    ) -> Finding:
        """A finding of `rule` at a span."""
        return Finding(
            rule=rule.id,
            severity=severity or rule.severity,
            message=message,
            location=self.location(span),
            instruction=instruction.keyword,
            cost=cost,
            estimate=estimate,
            paths=paths,
            fixes=tuple(fix for fix in fixes if fix.edits),
        )


class Example(Struct, frozen=True, kw_only=True):
    """A Dockerfile that the rule finds fault with, and the same one mended; `good` ones are left alone."""

    bad: str
    fixed: str
    good: tuple[str, ...] = ()


class Rule(Struct, frozen=True, kw_only=True):
    """One rule. Its page in docs/rules is made from these fields alone.

    `cost`, `why` and `mend` are Markdown paragraphs. `hadolint` are the pragmas that silence it as well.
    """

    id: str
    severity: Severity
    title: str
    cost: str
    why: str
    mend: str
    check: Callable[[DockerfileSubject], Iterator[Finding]]
    example: Example
    hadolint: tuple[str, ...] = ()


def copy_target(stage: StageTrace, step: Step) -> str | None:
    """Where a COPY or ADD of a stage puts what it copies; None for other instructions and where it is unknown."""
    instruction = step.instruction
    if instruction.keyword not in {"COPY", "ADD"} or len(instruction.words) < 2:
        return None
    try:
        value = expand(instruction.words[-1].value, {**step.args, **step.env}, escape=stage.scope.escape).value
    except DockerfileError:
        return None
    return absolute(value, step.workdir)


def may_be_folder(source: str) -> bool:
    """Whether a source of COPY may be a folder: it is one, or its name has no ending as files have."""
    name = source.rstrip("/").rpartition("/")[2]
    return source.endswith("/") or name in {"", ".", ".."} or "." not in name


def delivered(stage: StageTrace) -> str:
    """How a stage's layers reach an image: "final", "target" (only with --target), or "" where they do not."""
    return "" if stage.ships == "discarded" else stage.ships


def stage_severity(rule: Rule, run: Run, folder: str | None = None) -> Severity | None:
    """The severity of something that a RUN leaves: less in a stage that only --target builds, None where it is gone."""
    if run.stage.ships == "final":
        return rule.severity
    if run.stage.ships == "target":
        return Severity.INFO
    if folder is not None and run.stage.keeps(folder):
        return rule.severity
    return None


def call_span(run: Run, use: Use) -> Span:
    """Where a cache use is pointed at."""
    return span_of(run, use.call)
