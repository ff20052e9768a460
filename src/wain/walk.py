"""The calls of a shell script in order: each simple command with the environment, folder and user it runs with.

Wrappers (sudo, env, exec, xargs, timeout, sh -c, su, ...) are taken off. A call's `branch` says under which conditions
it runs: a call whose branch begins with another's runs only where that one's place is reached.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from wain.dockerfile import Span
from wain.invocation import is_pip, is_python
from wain.paths import absolute
from wain.shell import (
    TEXT_LIMIT,
    AndOr,
    Assignment,
    Background,
    Block,
    Command,
    Conditional,
    Function,
    Literal,
    Loop,
    Opaque,
    Pipeline,
    Redirection,
    Script,
    Statement,
    Word,
    nested_script,
    parse_script,
)
from wain.wrappers import SWITCHES_USER, WRAPPERS, Inner, Pending, unwrap

_CALL_LIMIT = 5_000
_NESTING_LIMIT = 12
_CHANGE_FOLDER = frozenset({"cd", "pushd"})
_SET_VARIABLES = frozenset({"export", "declare", "typeset", "readonly", "local"})
_BUILTINS = _CHANGE_FOLDER | _SET_VARIABLES | {"unset"}
# Every program that `resolve` does something about.
_SPECIAL = _BUILTINS | WRAPPERS | {"source", "."}


class Call(Struct, frozen=True, kw_only=True):
    """One command as it is run.

    `argv` is None where a word is unknown; `words` are aligned with it (None for one that a variable made).
    `env` holds every variable that is known to be set. `home` and `user` are who runs it.

    `wrappers` are the programs taken off in front; of those around an inner shell, the ones that change the user.
    `is_editable` is whether the words' spans may be edited in the file.
    """

    argv: tuple[str | None, ...]
    words: tuple[Word | None, ...]
    env: dict[str, str | None]
    cwd: str | None
    user: str | None
    home: str | None
    branch: tuple[int, ...]
    order: int
    redirections: tuple[Redirection, ...]
    wrappers: tuple[str, ...]
    command_span: Span
    is_editable: bool
    piped_output: str | None

    @property
    def program(self) -> str:
        """The program's name without its folder; "" where it is unknown."""
        first = self.argv[0] if self.argv else None
        return (first or "").rpartition("/")[2]

    def output(self) -> str | None:
        """What the command prints, for echo, printf and a here-document through cat; None where it is unknown."""
        for redirection in self.redirections:
            if redirection.operator in {"<<", "<<-"} and self.program in {"cat", "tee", ""}:
                return redirection.body if redirection.body_is_literal else None
        values = [value for value in self.argv[1:] if value is not None]
        if len(values) != len(self.argv) - 1 or not self.argv:
            return None
        if self.program == "echo":
            while values and values[0] in {"-e", "-n", "-en", "-ne"}:
                values.pop(0)
            return " ".join(values).replace("\\n", "\n") + "\n"
        if self.program == "printf" and values:
            text = values[0].replace("\\n", "\n")
            for value in values[1:]:
                text = text.replace("%s", value, 1)
            return None if "%" in text else text
        return None


class Walker:
    """Walks scripts; `calls` are in order, and `on_call` is told each as it is reached."""

    def __init__(
        self,
        *,
        env: dict[str, str | None],
        cwd: str | None,
        user: str | None,
        home_of: Callable[[str], str | None],
        on_call: Callable[[Call], None],
    ) -> None:
        self.env = env
        self.is_shared = True
        self.cwd = cwd
        self.user = user
        self.home_of = home_of
        self.on_call = on_call
        self.calls: list[Call] = []
        self.functions: dict[str, tuple[Statement, ...]] = {}
        self.branches = 0
        self.nesting = 0
        self.current: Script | None = None
        self.piped: str | None = None
        self.order_offset = 0
        self.outer_wrappers: tuple[str, ...] = ()

    def script(self, script: Script, branch: tuple[int, ...] = ()) -> None:
        """Walk a script in the current state."""
        if self.nesting >= _NESTING_LIMIT:
            return
        self.nesting += 1
        outer, self.current = self.current, script
        self.block(script.statements, branch)
        self.current = outer
        self.nesting -= 1

    def own(self) -> dict[str, str | None]:
        """The variables to change: calls and saved states hold the ones before, which stay as they were."""
        if self.is_shared:
            self.env, self.is_shared = dict(self.env), False
        return self.env

    def share(self) -> dict[str, str | None]:
        """The variables to keep: what changes them later changes a copy."""
        self.is_shared = True
        return self.env

    def restore(self, env: dict[str, str | None]) -> None:
        """Back to variables that were kept."""
        self.env, self.is_shared = env, True

    def fresh(self, branch: tuple[int, ...]) -> tuple[int, ...]:
        self.branches += 1
        return (*branch, self.branches)

    def block(self, statements: tuple[Statement, ...], branch: tuple[int, ...]) -> None:
        for statement in statements:
            self.statement(statement, branch)

    def isolated(self, statements: tuple[Statement, ...], branch: tuple[int, ...]) -> None:
        """Walk in a subshell: variables and folder come back after it."""
        env, cwd = self.share(), self.cwd
        self.block(statements, branch)
        self.restore(env)
        self.cwd = cwd

    def statement(self, statement: Statement, branch: tuple[int, ...]) -> None:
        if len(self.calls) > _CALL_LIMIT:
            return
        if isinstance(statement, Command):
            self.command(statement, branch)
        elif isinstance(statement, AndOr):
            links: list[AndOr] = []
            first: Statement = statement
            while isinstance(first, AndOr):
                links.append(first)
                first = first.left
            self.statement(first, branch)
            for link in reversed(links):
                if link.operator == "||":
                    if not _always_succeeds(link.left):
                        self.statement(link.right, self.fresh(branch))
                elif _is_test(link.left):
                    # `[ -f x ] && rm y`: whether it runs is not known.
                    self.statement(link.right, self.fresh(branch))
                else:
                    self.statement(link.right, branch)
        elif isinstance(statement, Pipeline):
            earlier = self.piped
            for index, one in enumerate(statement.commands):
                before = len(self.calls)
                self.isolated((one,), branch)
                last = self.calls[-1] if len(self.calls) > before else None
                self.piped = last.output() if last is not None and index == 0 else None
            self.piped = earlier
        elif isinstance(statement, Block):
            if statement.kind == "subshell":
                self.isolated(statement.body, branch)
            else:
                self.block(statement.body, branch)
        elif isinstance(statement, Conditional):
            self.block(statement.always, branch)
            env, cwd = self.share(), self.cwd
            for body in statement.branches:
                self.restore(env)
                self.cwd = cwd
                self.block(body, self.fresh(branch))
            merged = {key: value for key, value in self.env.items() if env.get(key, "") == value}
            for key in {*env, *self.env} - set(merged):
                merged[key] = None
            self.env, self.is_shared, self.cwd = merged, False, cwd
        elif isinstance(statement, Loop):
            self.loop(statement, branch)
        elif isinstance(statement, Function):
            self.functions[statement.name] = statement.body
        elif isinstance(statement, Background):
            self.isolated((statement.statement,), branch)
        elif isinstance(statement, Opaque):
            self.block(statement.commands, self.fresh(branch) if statement.is_error else branch)

    def loop(self, loop: Loop, branch: tuple[int, ...]) -> None:
        inner = self.fresh(branch)
        self.block(loop.condition, branch)
        if loop.variable is not None:
            values = [word.fields(self.env) for word in loop.values]
            flat = [one for value in values if value is not None for one in value]
            if values and all(value is not None for value in values) and 0 < len(flat) <= 20:
                for value in flat:
                    self.own()[loop.variable] = value
                    self.block(loop.body, branch)
                return
            self.own()[loop.variable] = None
        self.block(loop.body, inner)

    def assign(self, assignment: Assignment) -> None:
        value = assignment.value.value(self.env) if assignment.value is not None else None
        if assignment.appends and value is not None:
            before = self.env.get(assignment.name, "")
            value = before + value if before is not None and len(before) < TEXT_LIMIT else None
        self.own()[assignment.name] = value

    def command(self, command: Command, branch: tuple[int, ...]) -> None:
        for word in command.words:
            if len(word.parts) == 1 and isinstance(word.parts[0], Literal):
                continue
            for script in word.substitutions():
                self.substitution(script, branch)
        for assignment in command.assignments:
            if assignment.value is not None:
                for script in assignment.value.substitutions():
                    self.substitution(script, branch)
        if not command.words:
            for assignment in command.assignments:
                self.assign(assignment)
            if command.redirections:
                self.emit(self.pending((), (), command, branch, self.share()))
            return
        argv: list[str | None] = []
        words: list[Word | None] = []
        for word in command.words:
            parts = word.parts
            if len(parts) == 1:
                only = parts[0]
                # What nearly all words are; `fields` says the same, slower.
                if isinstance(only, Literal) and (only.quoted or only.text[:1] != "~"):
                    argv.append(only.text)
                    words.append(word)
                    continue
            fields = word.fields(self.env)
            if fields is None:
                argv.append(_tail(word))
                words.append(word)
            elif len(fields) == 1:
                argv.append(fields[0])
                words.append(word)
            else:
                argv.extend(fields)
                words.extend([None] * len(fields))
        if not argv:
            return
        env = self.share()
        if command.assignments:
            outer = env
            for assignment in command.assignments:
                self.assign(assignment)
            env = self.env
            self.restore(outer)
        self.resolve(self.pending(tuple(argv), tuple(words), command, branch, env))

    def pending(
        self,
        argv: tuple[str | None, ...],
        words: tuple[Word | None, ...],
        command: Command,
        branch: tuple[int, ...],
        env: dict[str, str | None],
    ) -> Pending:
        return Pending(argv=argv, words=words, command=command, branch=branch, env=env, cwd=self.cwd, user=self.user)

    def substitution(self, script: Script, branch: tuple[int, ...]) -> None:
        env, cwd = self.share(), self.cwd
        if self.nesting < _NESTING_LIMIT:
            self.nesting += 1
            self.block(script.statements, branch)
            self.nesting -= 1
        self.restore(env)
        self.cwd = cwd

    def builtin(self, argv: tuple[str | None, ...]) -> None:
        """cd, export and the like, which change the state that later commands run in."""
        name = argv[0]
        if name in _CHANGE_FOLDER:
            targets = [value for value in argv[1:] if value is None or not value.startswith("-")]
            if not targets:
                self.cwd = self.env.get("HOME")
            else:
                self.cwd = absolute(targets[0], self.cwd) if targets[0] is not None else None
        elif name in _SET_VARIABLES:
            for value in argv[1:]:
                if value is not None and "=" in value and not value.startswith("-"):
                    key, _, text = value.partition("=")
                    self.own()[key] = text
        elif name == "unset":
            for value in argv[1:]:
                if value is not None and not value.startswith("-"):
                    self.own().pop(value, None)

    def resolve(self, pending: Pending) -> None:
        """Take wrappers off until a plain command is left."""
        for _ in range(_NESTING_LIMIT):
            if not pending.argv:
                return
            program = pending.program
            if program not in _SPECIAL and program not in self.functions:
                break
            if program in _BUILTINS:
                if not pending.wrappers:
                    self.builtin_words(pending.argv, pending.words)
                break
            if program in {"source", "."}:
                self.activate(pending.argv)
                break
            if program in self.functions and not pending.wrappers:
                if self.nesting < _NESTING_LIMIT:
                    self.nesting += 1
                    self.block(self.functions[program], pending.branch)
                    self.nesting -= 1
                return
            behind = unwrap(pending, self.home_of)
            if behind is None:
                break
            if isinstance(behind, Inner):
                self.nested(behind)
                return
            pending = behind
        self.emit(pending)

    def builtin_words(self, argv: tuple[str | None, ...], words: tuple[Word | None, ...]) -> None:
        if argv[0] in _SET_VARIABLES:
            for word, value in zip(words, argv, strict=False):
                if value is None and word is not None and word.parts:
                    first = word.parts[0]
                    text = getattr(first, "text", "")
                    name, equals, _ = text.partition("=")
                    if equals:
                        self.own()[name] = None
        self.builtin(argv)

    def activate(self, argv: tuple[str | None, ...]) -> None:
        """`. venv/bin/activate` sets VIRTUAL_ENV and PATH."""
        path = absolute(argv[1], self.cwd) if len(argv) > 1 else None
        if path is not None and path.endswith("/bin/activate"):
            venv = path.removesuffix("/bin/activate")
            own = self.own()
            own["VIRTUAL_ENV"] = venv
            before = own.get("PATH")
            own["PATH"] = f"{venv}/bin:{before}" if before else f"{venv}/bin"

    def nested(self, inner: Inner) -> None:
        """Walk the text that a command runs in a shell."""
        pending, text = inner.pending, inner.text
        if text is None or self.current is None or self.nesting >= _NESTING_LIMIT:
            return
        if inner.word is not None:
            script = nested_script(self.current, inner.word, text)
        else:
            script = parse_script(text, None, within=pending.command.span)
        env, cwd, user = self.share(), self.cwd, self.user
        outer = self.outer_wrappers
        self.outer_wrappers = (*outer, *(one for one in pending.wrappers if one in SWITCHES_USER))
        self.restore(pending.env)
        self.cwd, self.user = pending.cwd, pending.user
        self.script(script, pending.branch)
        self.outer_wrappers = outer
        if inner.shares:
            env, cwd, user = self.env, self.cwd, pending.user
        self.restore(env)
        self.cwd, self.user = cwd, user

    def emit(self, pending: Pending) -> None:
        """Note a call, and what a trap runs at the end."""
        argv, command = pending.argv, pending.command
        call = Call(
            argv=argv,
            words=pending.words,
            env=pending.env,
            cwd=pending.cwd,
            user=pending.user,
            home=pending.env.get("HOME"),
            branch=pending.branch,
            order=self.order_offset + len(self.calls),
            redirections=command.redirections,
            wrappers=(*self.outer_wrappers, *pending.wrappers),
            command_span=command.span,
            is_editable=self.current is not None and self.current.is_exact,
            piped_output=self.piped,
        )
        self.calls.append(call)
        self.on_call(call)
        if argv and argv[0] == "trap" and len(argv) > 2 and "EXIT" in argv[2:] and argv[1]:
            # What a trap runs at the end comes after everything else.
            self.order_offset += _CALL_LIMIT * 2
            self.nested(Inner(text=argv[1], word=None, pending=pending))
            self.order_offset -= _CALL_LIMIT * 2


def _tail(word: Word) -> str | None:
    """`$VENV/bin/pip` with VENV unknown is still pip: the known tail after the last slash, under an unknown folder."""
    last = word.parts[-1] if word.parts else None
    text = getattr(last, "text", "") if type(last).__name__ == "Literal" else ""
    if "/" in text and len(word.parts) > 1:
        tail = text[text.rindex("/") + 1 :]
        if is_pip(tail) or is_python(tail) or tail in {"uv", "poetry", "pipx", "conda", "mamba"}:
            return tail
    return None


def _always_succeeds(statement: Statement) -> bool:
    return (
        isinstance(statement, Command)
        and bool(statement.words)
        and statement.words[0].literal in {"true", ":"}
        and not statement.redirections
    )


def _is_test(statement: Statement) -> bool:
    if isinstance(statement, Opaque):
        return not statement.is_error
    return (
        isinstance(statement, Command)
        and bool(statement.words)
        and statement.words[0].literal in {"[", "test", "[[", "which", "command", "grep"}
    )
