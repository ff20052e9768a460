"""Dockerfile -> steps: for each instruction who takes it, wain itself or an engine, and why.

What needs no command to run is native: everything but RUN, and those RUNs that only install distributions or work on
files. `plan` decides from the text alone; a build asks `run_commands` again with the values that only the base knows.

Sources: Dockerfile reference; POSIX.1-2024, Shell Command Language.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from wain.actions import Action, NeedsEngine, Nothing, PipInstall, UvSync
from wain.classify import classify
from wain.dockerfile import Dockerfile, Instruction, Span, Stage
from wain.errors import DockerfileError
from wain.index_credentials import strip_credentials
from wain.mounts import mounts
from wain.paths import absolute
from wain.scopes import Scope, global_scope, parent_stage, platform_args, source_stage, stage_scope
from wain.shell import (
    AndOr,
    Assignment,
    Block,
    Command,
    Literal,
    Redirection,
    Statement,
    Variable,
    Word,
    is_shell,
    run_script,
    variable_value,
)

NATIVE = "native"
ENGINE = "engine"
REFUSED = "refused"
UNUSED = "unused"
DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STANDARD_SYNTAX = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")
_SPECIAL_VARIABLES = frozenset("$$ $? $! $# $@ $* $- $0 $1 $2 $3 $4 $5 $6 $7 $8 $9".split())


class Step(Struct, frozen=True, kw_only=True):
    """One instruction of a stage: `taker` is native, engine, refused or unused; `why` is for people."""

    instruction: Instruction
    stage: int
    taker: str
    why: str


class StepPlan(Struct, frozen=True, kw_only=True):
    """What a build of a Dockerfile's target would do, in the file's order."""

    dockerfile: Dockerfile
    target: int
    """The index of the stage that becomes the image."""
    steps: tuple[Step, ...]

    @property
    def taker(self) -> str:
        """Who takes the file as a whole: refused before engine before native."""
        takers = {step.taker for step in self.steps}
        return next((taker for taker in (REFUSED, ENGINE) if taker in takers), NATIVE)

    def first(self, taker: str) -> Step | None:
        return next((step for step in self.steps if step.taker == taker), None)


class RunCommand(Struct, frozen=True, kw_only=True):
    """One simple command of a RUN, with the variables and folder that it runs in."""

    argv: tuple[str, ...]
    patterns: frozenset[int]
    """The indexes of words that are patterns of paths."""
    env: Mapping[str, str]
    cwd: str
    action: Action
    output: tuple[str, str] | None
    """Where its output goes: `>` or `>>`, and the path."""
    attempt: int
    """Not 0 for commands of `a && b || true`, the same for those of one: where one fails, the rest is left out."""
    span: Span


def plan(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str] | None = None,
    target: str | None = None,
    platform: str = "linux/amd64",
) -> StepPlan:
    """Who takes each instruction that the target needs, from the text alone.

    :param target: the name or number of the stage to build; the last one where it is None.
    :raises DockerfileError: where the file asks for what no builder does, or has no such target.
    """
    dockerfile.validate()
    stages = dockerfile.stages
    wanted = find_target(dockerfile, target)
    globals_ = global_scope(dockerfile, build_args=build_args, platform={**platform_args(platform)})
    needed = needed_stages(dockerfile, wanted, globals_)
    steps: list[Step] = []
    scopes: dict[int, tuple[Scope, tuple[str, ...], str | None]] = {}
    syntax = next((item for item in dockerfile.directives if item.name == "syntax"), None)
    foreign = syntax is not None and not is_standard_syntax(syntax.value)
    for stage in stages:
        if stage.index not in needed:
            why = f"the target does not need stage {_name(stage)}"
            steps += [_step(instruction, stage, UNUSED, why) for instruction in (stage.opening, *stage.instructions)]
            continue
        image = globals_.expand(stage.image, stage.opening).value
        parent = parent_stage(stages, stage, image)
        known = scopes.get(parent.index) if parent is not None else None
        scope = stage_scope(globals_, known[0] if known else None)
        shell = known[1] if known else DEFAULT_SHELL
        workdir = known[2] if known else None
        if foreign:
            assert syntax is not None
            steps.append(_step(stage.opening, stage, ENGINE, f"the front end {syntax.value} reads this file"))
        else:
            steps.append(_from_step(stage, image, parent))
        for instruction in stage.instructions:
            step = _judged(instruction, stage, scope, shell, workdir, stages)
            if foreign and step.taker == NATIVE:
                step = _step(instruction, stage, ENGINE, "the file is read by a front end of its own")
            steps.append(step)
            scope.apply(instruction)
            if instruction.keyword == "SHELL":
                shell = instruction.values
            elif instruction.keyword == "WORKDIR":
                value = scope.expand(instruction.arguments, instruction).value
                workdir = absolute(value, workdir or "/") if value is not None else None
        scopes[stage.index] = (scope, shell, workdir)
    return StepPlan(dockerfile=dockerfile, target=wanted, steps=tuple(steps))


def is_standard_syntax(value: str) -> bool:
    """Whether a `# syntax=` names Docker's own front end, whose language is built in here."""
    return value.partition("@")[0].partition(":")[0] in _STANDARD_SYNTAX


def find_target(dockerfile: Dockerfile, target: str | None) -> int:
    """The index of the stage that a `--target` names: its name, or its number.

    :raises DockerfileError: when there is no such stage.
    """
    stages = dockerfile.stages
    if not target:
        return len(stages) - 1
    for stage in reversed(stages):
        if stage.name == target.lower():
            return stage.index
    if target.isdecimal() and int(target) < len(stages):
        return int(target)
    names = ", ".join(_name(stage) for stage in stages)
    raise DockerfileError(f"{dockerfile.name} has no stage {target!r}", hint=f"It has: {names}.")


def needed_stages(dockerfile: Dockerfile, target: int, globals_: Scope) -> frozenset[int]:
    """The stages that a target is made from, itself among them."""
    stages = dockerfile.stages
    needed: set[int] = set()
    todo = [target]
    while todo:
        index = todo.pop()
        if index in needed:
            continue
        needed.add(index)
        stage = stages[index]
        parent = parent_stage(stages, stage, globals_.expand(stage.image, stage.opening).value)
        if parent is not None:
            todo.append(parent.index)
        for instruction in stage.instructions:
            references = [instruction.flag("from")] if instruction.keyword == "COPY" else []
            if instruction.keyword == "RUN":
                references = [mount.from_ for mount in mounts(instruction)]
            for reference in references:
                source = source_stage(stages, stage, reference)
                if source is not None:
                    todo.append(source.index)
    return frozenset(needed)


def _name(stage: Stage) -> str:
    return stage.name or str(stage.index)


def _step(instruction: Instruction, stage: Stage, taker: str, why: str) -> Step:
    return Step(instruction=instruction, stage=stage.index, taker=taker, why=why)


def _from_step(stage: Stage, image: str | None, parent: Stage | None) -> Step:
    if parent is not None:
        return _step(stage.opening, stage, NATIVE, f"goes on from stage {_name(parent)}")
    if image == "scratch":
        return _step(stage.opening, stage, NATIVE, "begins empty")
    if not image:
        return _step(stage.opening, stage, REFUSED, f"{stage.image} comes to nothing: give its value with --build-arg")
    return _step(stage.opening, stage, NATIVE, f"the base {image} is read where it is")


_CONFIG = frozenset(
    "ENV LABEL USER EXPOSE VOLUME STOPSIGNAL HEALTHCHECK SHELL CMD ENTRYPOINT MAINTAINER ONBUILD".split()
)


def _judged(
    instruction: Instruction,
    stage: Stage,
    scope: Scope,
    shell: tuple[str, ...],
    workdir: str | None,
    stages: tuple[Stage, ...],
) -> Step:
    keyword = instruction.keyword
    if keyword == "ARG":
        return _step(instruction, stage, NATIVE, "a variable of the build")
    if keyword in _CONFIG:
        return _step(instruction, stage, NATIVE, "a setting of the image")
    if keyword == "WORKDIR":
        return _step(instruction, stage, NATIVE, "makes a folder")
    if keyword in {"COPY", "ADD"}:
        reason = copy_needs_engine(instruction, scope)
        if reason is not None:
            return _step(instruction, stage, ENGINE, reason)
        source = instruction.flag("from")
        if keyword == "ADD" and any(
            is_remote(scope.expand(one, instruction).value or one) for one in instruction.values
        ):
            return _step(instruction, stage, NATIVE, "fetches files")
        return _step(instruction, stage, NATIVE, f"copies files from {source}" if source else "copies files")
    try:
        values = {name: value for name, value in scope.variables().items() if value is not None}
        found = list(run_commands(instruction, Placeholders(values), workdir or "/", shell))
    except NeedsEngine as need:
        return _step(instruction, stage, ENGINE, need.reason)
    except DockerfileError as error:
        return _step(instruction, stage, REFUSED, error.message)
    told = list(dict.fromkeys(command.action.told for command in found))
    return _step(instruction, stage, NATIVE, "; ".join(told) or "does nothing")


def copy_needs_engine(instruction: Instruction, scope: Scope) -> str | None:
    """Why a COPY or ADD cannot be done here; None where it can."""
    if instruction.keyword == "COPY":
        return None
    sources = [*instruction.values[:-1]] if not instruction.heredocs else []
    for text in sources:
        value = scope.expand(text, instruction).value or text
        if is_repository(value):
            return f"ADD clones {strip_credentials(value.partition('?')[0])}"
    if instruction.flag("unpack") is not None:
        return "ADD --unpack is not done here"
    return None


def is_remote(source: str) -> bool:
    """Whether an ADD's source is a file on the web."""
    return source.startswith(("http://", "https://")) and not is_repository(source)


def is_repository(source: str) -> bool:
    """Whether an ADD's source is a git repository."""
    if source.startswith(("git@", "git://", "ssh://")):
        return True
    return source.startswith(("http://", "https://")) and source.partition("#")[0].partition("?")[0].endswith(".git")


class Placeholders(Mapping[str, str | None]):
    """Variables, of which those that are not known stand for themselves: for a plan without the base."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, f"${{{name}}}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


class ShellVariables(Mapping[str, str | None]):
    """Variables as a shell has them: one that is not set is empty."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return self._values.get(name, "" if default is None else default)


def run_commands(
    instruction: Instruction, env: Mapping[str, str | None], cwd: str, shell: Sequence[str] = DEFAULT_SHELL
) -> Iterator[RunCommand]:
    """The commands of a RUN in order, each with what it does.

    :raises NeedsEngine: at the first that has to be run, with the reason.
    """
    for flag in instruction.flags:
        if flag.name == "network" and flag.value not in (None, "default", "host"):
            raise NeedsEngine(f"RUN --network={flag.value} needs a container")
        if flag.name in {"security", "device"} and flag.value != "sandbox":
            raise NeedsEngine(f"RUN --{flag.name} needs a container")
    has_secrets = False
    for mount in mounts(instruction):
        if mount.kind == "secret" and not (mount.target or "").endswith("netrc"):
            has_secrets = True
        elif mount.kind not in {"bind", "cache", "tmpfs"} or not mount.is_known:
            raise NeedsEngine(f"RUN --mount=type={mount.kind} needs a container")
    if not shell or not is_shell(shell[0]):
        raise NeedsEngine(f"the shell {shell[0] if shell else ''} has to be run")
    script = run_script(instruction, tuple(shell))
    if script is None:
        raise NeedsEngine("its script is for a program that has to be run")
    if script.has_errors:
        raise NeedsEngine("its shell text is not understood")
    if instruction.is_json and script.statements:
        found = _json_command(instruction, env, cwd)
    else:
        walk = _Walk(env, cwd)
        found = itertools.chain.from_iterable(walk.statement(statement) for statement in script.statements)
    for command in found:
        if has_secrets and not isinstance(command.action, PipInstall | UvSync | Nothing):
            raise NeedsEngine(f"{command.argv[0]} sees a secret, so that it has to be run")
        yield command


def _json_command(instruction: Instruction, env: Mapping[str, str | None], cwd: str) -> Iterator[RunCommand]:
    argv = instruction.values
    if len(argv) >= 3 and is_shell(argv[0]):
        raise NeedsEngine(f"{argv[0]} has to be run")
    span = Span(instruction.words[0].span.start, instruction.words[-1].span.end)
    yield RunCommand(
        argv=argv,
        patterns=frozenset(),
        env=_plain(env),
        cwd=cwd,
        action=classify(argv, _plain(env), cwd),
        output=None,
        attempt=0,
        span=span,
    )


def _plain(env: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name in env if (value := env[name]) is not None}


class _Walk:
    """Goes through a script whose commands all run, one after the other."""

    def __init__(self, env: Mapping[str, str | None], cwd: str) -> None:
        self.lenient = isinstance(env, Placeholders)
        self.values = _plain(env)
        self.cwd = cwd
        self.attempts = 0

    def env(self) -> Mapping[str, str | None]:
        return Placeholders(self.values) if self.lenient else ShellVariables(self.values)

    def statement(self, statement: Statement, *, attempt: int = 0) -> Iterator[RunCommand]:
        if isinstance(statement, Command):
            yield from self.command(statement, attempt=attempt)
        elif isinstance(statement, AndOr):
            if statement.operator == "&&":
                yield from self.statement(statement.left, attempt=attempt)
                yield from self.statement(statement.right, attempt=attempt)
            elif _is_true(statement.right) and not attempt and _is_chain(statement.left):
                self.attempts += 1
                yield from self.statement(statement.left, attempt=self.attempts)
            else:
                raise NeedsEngine("|| depends on what a command says")
        elif isinstance(statement, Block) and statement.kind == "group" and not statement.redirections:
            for one in statement.body:
                yield from self.statement(one, attempt=attempt)
        elif isinstance(statement, Block):
            raise NeedsEngine("a subshell has to be run")
        else:
            raise NeedsEngine(f"{_kind(statement)} has to be run by a shell")

    def command(self, command: Command, *, attempt: int) -> Iterator[RunCommand]:
        for assignment in command.assignments:
            if not command.words:
                self.values[assignment.name] = self.assigned(assignment)
        if not command.words:
            if command.redirections:
                raise NeedsEngine("a redirection without a command has to be run by a shell")
            return
        argv: list[str] = []
        patterns: set[int] = set()
        for word in command.words:
            for value in self.fields(word):
                if word.is_pattern:
                    patterns.add(len(argv))
                argv.append(value)
        if not argv:
            return
        output = self.output(command.redirections)
        values = dict(self.values)
        for assignment in command.assignments:
            values[assignment.name] = self.assigned(assignment)
        program = argv[0]
        if program == "cd":
            if len(argv) != 2 or patterns or output or argv[1].startswith("-"):
                raise NeedsEngine("cd with these arguments has to be run by a shell")
            self.cwd = absolute(argv[1], self.cwd) or "/"
        elif program == "export":
            for value in argv[1:]:
                name, equals, text = value.partition("=")
                if name.startswith("-"):
                    raise NeedsEngine("export with options has to be run by a shell")
                if equals:
                    self.values[name] = text
        elif program in {".", "source"}:
            self.source(argv)
        elif program == "unset":
            for value in argv[1:]:
                self.values.pop(value, None)
        yield RunCommand(
            argv=tuple(argv),
            patterns=frozenset(patterns),
            env=values,
            cwd=self.cwd,
            action=classify(tuple(argv), values, self.cwd, writes=output is not None),
            output=output,
            attempt=attempt,
            span=command.span,
        )

    def source(self, argv: list[str]) -> None:
        """An environment's activation script, which is the one that is known."""
        path = absolute(argv[1], self.cwd) if len(argv) == 2 and "/" in argv[1] else None
        if path is None or not path.endswith("/bin/activate"):
            raise NeedsEngine(f"{' '.join(argv[:2])[:60]} has to be read by a shell")
        root = path.removesuffix("/bin/activate")
        self.values["VIRTUAL_ENV"] = root
        self.values["PATH"] = f"{root}/bin:{self.values.get('PATH', DEFAULT_PATH)}"
        self.values.pop("PYTHONHOME", None)

    def assigned(self, assignment: Assignment) -> str:
        if assignment.value is None or assignment.appends:
            raise NeedsEngine(f"the value of {assignment.name} has to be found by a shell")
        value = assignment.value.value(self.env())
        if value is None or any(True for _ in assignment.value.substitutions()):
            raise NeedsEngine(f"the value of {assignment.name} has to be found by a shell")
        return value

    def fields(self, word: Word) -> list[str]:
        pieces: list[str] = []
        for part in word.parts:
            if isinstance(part, Literal):
                if not part.quoted and "{" in part.text and "," in part.text:
                    raise NeedsEngine(f"{part.text} is expanded by some shells and not by others")
                continue
            if not isinstance(part, Variable):
                raise NeedsEngine("the output of a command has to be found by running it")
            if part.text in _SPECIAL_VARIABLES:
                raise NeedsEngine(f"{part.text} is known to a shell only")
            value = variable_value(part.text, self.env())
            if value is None:
                if self.lenient:
                    continue
                raise NeedsEngine(f"{part.text} is known to a shell only")
            if not part.quoted and not self.lenient:
                if any(char in value for char in "*?["):
                    raise NeedsEngine(f"{part.text} is a pattern of paths")
                if len(word.parts) > 1 and value.split() not in ([], [value]):
                    raise NeedsEngine(f"{part.text} is split into words by a shell")
            pieces.append(value)
        first = word.parts[0] if word.parts else None
        if isinstance(first, Literal) and not first.quoted and first.text.startswith("~"):
            name = first.text[1:].partition("/")[0]
            if name or "HOME" not in self.values:
                if self.lenient:
                    return [first.text]
                raise NeedsEngine(f"{first.text} is known to a shell only")
        found = word.fields(self.env())
        if found is None:
            if self.lenient:
                return ["${...}"]
            raise NeedsEngine("a word of it is known to a shell only")
        return found

    def output(self, redirections: tuple[Redirection, ...]) -> tuple[str, str] | None:
        """Where the output goes, where that is a file of the image."""
        found: tuple[str, str] | None = None
        for one in redirections:
            target = None if one.target is None else one.target.value(self.env())
            if one.operator in {">&", "&>", ">&-"} or (one.operator in {">", ">>"} and one.descriptor == "2"):
                if target in {"1", "2", "/dev/null"}:
                    continue
            elif one.operator in {">", ">>"} and one.descriptor in {"", "1"} and target is not None:
                if target == "/dev/null":
                    continue
                if found is None:
                    found = (one.operator, absolute(target, self.cwd) or target)
                    continue
            raise NeedsEngine(f"the redirection {one.operator} has to be done by a shell")
        return found


def _is_true(statement: Statement) -> bool:
    return isinstance(statement, Command) and [word.literal for word in statement.words] in (["true"], [":"])


def _is_chain(statement: Statement) -> bool:
    """Whether a statement is commands joined by `&&` that leave the shell as it is."""
    if isinstance(statement, AndOr):
        return statement.operator == "&&" and _is_chain(statement.left) and _is_chain(statement.right)
    return (
        isinstance(statement, Command)
        and bool(statement.words)
        and statement.words[0].literal not in {"cd", "export", "unset", "set", ".", "source", None}
    )


def _kind(statement: Statement) -> str:
    return {"Pipeline": "a pipe", "Conditional": "a condition", "Loop": "a loop", "Function": "a function"}.get(
        type(statement).__name__, "this shell text"
    )
