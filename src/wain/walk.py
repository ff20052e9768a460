"""The calls of a shell script in order: each simple command with the environment, folder and user it runs with.

Wrappers (sudo, env, exec, xargs, timeout, sh -c, su, ...) are taken off. A call's `branch` says under which conditions
it runs: a call whose branch begins with another's runs only where that one's place is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wain.dockerfile import Span
from wain.installers import is_pip, is_python
from wain.paths import absolute
from wain.shell import (
    SHELLS,
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
    is_shell,
)

_CALL_LIMIT = 5_000
_NESTING_LIMIT = 12
_USER_CHANGERS = frozenset({"sudo", "su", "gosu", "su-exec", "runuser"})
# Wrappers that take options and then a command; the set has the options that take a value.
_WRAPPERS: dict[str, frozenset[str]] = {
    "exec": frozenset({"-a"}),
    "command": frozenset(),
    "builtin": frozenset(),
    "nohup": frozenset(),
    "time": frozenset({"-f", "-o"}),
    "nice": frozenset({"-n"}),
    "ionice": frozenset({"-c", "-n"}),
    "stdbuf": frozenset({"-i", "-o", "-e"}),
    "unbuffer": frozenset(),
    "chronic": frozenset(),
    "setarch": frozenset(),
    "eatmydata": frozenset(),
    "fakeroot": frozenset(),
    "catchsegv": frozenset(),
    "xargs": frozenset({"-n", "-I", "-i", "-P", "-d", "-L", "-a", "-s", "-E", "--max-args", "--max-procs"}),
    "retry": frozenset({"-t", "-d"}),
    "dumb-init": frozenset(),
    "tini": frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
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
                self.emit((), (), command, branch, (), self.share(), self.cwd, self.user)
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
        self.resolve(tuple(argv), tuple(words), command, branch, (), env, self.cwd, self.user)

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
        if name in {"cd", "pushd"}:
            targets = [value for value in argv[1:] if value is None or not value.startswith("-")]
            if not targets:
                self.cwd = self.env.get("HOME")
            else:
                self.cwd = absolute(targets[0], self.cwd) if targets[0] is not None else None
        elif name in {"export", "declare", "typeset", "readonly", "local"}:
            for value in argv[1:]:
                if value is not None and "=" in value and not value.startswith("-"):
                    key, _, text = value.partition("=")
                    self.own()[key] = text
        elif name == "unset":
            for value in argv[1:]:
                if value is not None and not value.startswith("-"):
                    self.own().pop(value, None)

    def resolve(
        self,
        argv: tuple[str | None, ...],
        words: tuple[Word | None, ...],
        command: Command,
        branch: tuple[int, ...],
        wrappers: tuple[str, ...],
        env: dict[str, str | None],
        cwd: str | None,
        user: str | None,
    ) -> None:
        """Take wrappers off until a plain command is left."""
        for _ in range(_NESTING_LIMIT):
            program = (argv[0] or "").rpartition("/")[2] if argv else ""
            if not argv:
                return
            index: int | None = None
            if program not in _SPECIAL and program not in self.functions:
                break
            if program in {"cd", "pushd", "export", "declare", "typeset", "readonly", "local", "unset"}:
                if not wrappers:
                    self.builtin_words(argv, words)
                break
            if program in {"source", "."}:
                self.activate(argv)
                break
            if program in self.functions and not wrappers:
                body = self.functions[program]
                if self.nesting < _NESTING_LIMIT:
                    self.nesting += 1
                    self.block(body, branch)
                    self.nesting -= 1
                return
            if program == "eval" or is_shell(program):
                if self.nested_shell(program, argv, words, command, branch, wrappers, env, cwd, user):
                    return
                break
            if program in {"su", "runuser"} and self.su(argv, words, command, branch, wrappers, env, cwd):
                return
            if program == "trap" and len(argv) > 1 and argv[1]:
                break
            if program == "sudo":
                index, env, user = self.sudo(argv, env, user)
            elif program == "env":
                index, env = _env(argv, env)
            elif program in {"gosu", "su-exec", "setpriv", "runuser", "chpst"} and len(argv) > 2:
                index = 2
                user = (argv[1] or "").partition(":")[0] if program in {"gosu", "su-exec"} else user
                home = self.home_of(user) if user else None
                env = {**env, "HOME": home} if program == "gosu" else env
            elif program == "timeout":
                index = _skip_options(argv, frozenset({"-k", "-s", "--signal", "--kill-after"})) + 1
            elif program == "chroot":
                return
            elif program in {"poetry", "pipenv", "pdm", "hatch", "uv", "rye"} and len(argv) > 2 and argv[1] == "run":
                following = argv[2] or ""
                inner = following.rpartition("/")[2]
                if is_pip(inner) or is_python(inner):
                    index = 2
            elif program in {"conda", "mamba", "micromamba"} and len(argv) > 2 and "run" in argv[1:3]:
                start = argv.index("run")
                index = start + _skip_options(
                    argv[start:], frozenset({"-n", "--name", "-p", "--prefix", "--cwd", "-r", "--root-prefix"})
                )
            elif program in _WRAPPERS:
                index = _skip_options(argv, _WRAPPERS[program])
            if index is None:
                break
            if index >= len(argv):
                return
            wrappers = (*wrappers, program)
            argv, words = argv[index:], words[index:]
        self.emit(argv, words, command, branch, wrappers, env, cwd, user)

    def builtin_words(self, argv: tuple[str | None, ...], words: tuple[Word | None, ...]) -> None:
        if argv[0] in {"export", "declare", "typeset", "readonly", "local"}:
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

    def sudo(
        self, argv: tuple[str | None, ...], env: dict[str, str | None], user: str | None
    ) -> tuple[int, dict[str, str | None], str | None]:
        index = 1
        target = "root"
        keeps = False
        sets_home = False
        while index < len(argv):
            word = argv[index]
            if word is None or not word.startswith("-"):
                if word is not None and "=" in word and not word.startswith(("/", "=")):
                    key, _, value = word.partition("=")
                    env = {**env, key: value}
                    index += 1
                    continue
                break
            index += 1
            if word == "--":
                break
            if word in {"-u", "--user", "-g", "-C", "-h", "-p", "-D"}:
                if word in {"-u", "--user"}:
                    target = argv[index] or "" if index < len(argv) else ""
                index += 1
            elif word.startswith("--user="):
                target = word.partition("=")[2]
            elif word == "--set-home":
                sets_home = True
            elif word.startswith("--preserve-env"):
                keeps = True
            elif not word.startswith("--"):
                keeps = keeps or "E" in word
                sets_home = sets_home or "H" in word or "i" in word
        kept = (
            dict(env)
            if keeps
            else {
                key: value
                for key, value in env.items()
                if key in {"PATH", "TERM", "LANG", "LC_ALL", "HOME"} or key in _given(argv)
            }
        )
        if not keeps or sets_home:
            # Debian's sudo sets HOME to the target's unless -E keeps the caller's.
            kept["HOME"] = self.home_of(target) if target else None
        return index, kept, target or None

    def su(
        self,
        argv: tuple[str | None, ...],
        words: tuple[Word | None, ...],
        command: Command,
        branch: tuple[int, ...],
        wrappers: tuple[str, ...],
        env: dict[str, str | None],
        cwd: str | None,
    ) -> bool:
        target = "root"
        at: int | None = None
        index = 1
        while index < len(argv):
            word = argv[index]
            if word in {"-c", "--command"}:
                at = index + 1
                index += 1
            elif word in {"-s", "--shell", "-g", "-G"}:
                index += 1
            elif word == "-u":
                target = argv[index + 1] or "" if index + 1 < len(argv) else ""
                index += 1
            elif word is not None and not word.startswith("-"):
                target = word
            index += 1
        if at is None or at >= len(argv):
            return False
        inner = dict(env)
        inner["HOME"] = self.home_of(target)
        self.nested(argv[at], words[at], command, branch, (*wrappers, "su"), inner, cwd, target)
        return True

    def nested_shell(
        self,
        program: str,
        argv: tuple[str | None, ...],
        words: tuple[Word | None, ...],
        command: Command,
        branch: tuple[int, ...],
        wrappers: tuple[str, ...],
        env: dict[str, str | None],
        cwd: str | None,
        user: str | None,
    ) -> bool:
        if program == "eval":
            values = argv[1:]
            if not values or any(value is None for value in values):
                return False
            text = " ".join(value for value in values if value is not None)
            self.nested(
                text, words[1] if len(words) == 2 else None, command, branch, wrappers, env, cwd, user, shares=True
            )
            return True
        index = 1
        while index < len(argv):
            word = argv[index]
            if word is None or not word.startswith(("-", "+")):
                return False
            index += 1
            joined = not word.startswith("--")
            if word in {"-O", "--rcfile"} or (joined and word.endswith("o") and "c" not in word):
                index += 1
            elif not word.startswith("--") and "c" in word:
                index += word.endswith("o")
                while index < len(argv) and (argv[index] or "").startswith("-"):
                    index += 1
                if index >= len(argv):
                    return False
                self.nested(argv[index], words[index], command, branch, (*wrappers, program), env, cwd, user)
                return True
        return False

    def nested(
        self,
        text: str | None,
        word: Word | None,
        command: Command,
        branch: tuple[int, ...],
        wrappers: tuple[str, ...],
        env: dict[str, str | None],
        cwd: str | None,
        user: str | None,
        *,
        shares: bool = False,
    ) -> None:
        if text is None or self.current is None or self.nesting >= _NESTING_LIMIT:
            return
        from wain.shell import nested_script, parse_script

        if word is not None:
            script = nested_script(self.current, word, text)
        else:
            script = parse_script(text, None, within=command.span)
        saved = self.share(), self.cwd, self.user
        outer = self.outer_wrappers
        self.outer_wrappers = (*outer, *(one for one in wrappers if one in _USER_CHANGERS))
        self.restore(env)
        self.cwd, self.user = cwd, user
        self.script(script, branch)
        self.outer_wrappers = outer
        if shares:
            saved = self.env, self.cwd, user
        self.restore(saved[0])
        _, self.cwd, self.user = saved

    def emit(
        self,
        argv: tuple[str | None, ...],
        words: tuple[Word | None, ...],
        command: Command,
        branch: tuple[int, ...],
        wrappers: tuple[str, ...],
        env: dict[str, str | None],
        cwd: str | None,
        user: str | None,
    ) -> None:
        home = env.get("HOME")
        call = Call(
            argv=argv,
            words=words,
            env=env,
            cwd=cwd,
            user=user,
            home=home,
            branch=branch,
            order=self.order_offset + len(self.calls),
            redirections=command.redirections,
            wrappers=(*self.outer_wrappers, *wrappers),
            command_span=command.span,
            is_editable=self.current is not None and self.current.is_exact,
            piped_output=self.piped,
        )
        self.calls.append(call)
        self.on_call(call)
        if argv and argv[0] == "trap" and len(argv) > 2 and "EXIT" in argv[2:] and argv[1]:
            # What a trap runs at the end comes after everything else.
            self.order_offset += _CALL_LIMIT * 2
            self.nested(argv[1], None, command, branch, wrappers, env, cwd, user)
            self.order_offset -= _CALL_LIMIT * 2


# Every program that `resolve` does something about.
_SPECIAL = frozenset(
    "cd pushd export declare typeset readonly local unset source . eval su runuser trap sudo env gosu su-exec setpriv "
    "chpst timeout chroot poetry pipenv pdm hatch uv rye conda mamba micromamba".split()
) | frozenset({*_WRAPPERS, *SHELLS})


def _given(argv: tuple[str | None, ...]) -> set[str]:
    return {word.partition("=")[0] for word in argv if word is not None and "=" in word and not word.startswith("-")}


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


def _skip_options(argv: tuple[str | None, ...], valued: frozenset[str]) -> int:
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None or not word.startswith("-") or word == "-":
            return index
        index += 1
        if word == "--":
            return index
        if word in valued:
            index += 1
    return index


def _env(argv: tuple[str | None, ...], env: dict[str, str | None]) -> tuple[int, dict[str, str | None]]:
    made = dict(env)
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None:
            return index, made
        if word in {"-u", "--unset"}:
            made.pop(argv[index + 1] or "" if index + 1 < len(argv) else "", None)
            index += 2
        elif word in {"-i", "-", "--ignore-environment"}:
            made = {}
            index += 1
        elif word in {"-C", "--chdir"}:
            index += 2
        elif word.startswith("-"):
            if word.startswith("--unset="):
                made.pop(word.partition("=")[2], None)
            index += 1
        elif "=" in word:
            key, _, value = word.partition("=")
            made[key] = value
            index += 1
        else:
            break
    return index, made
