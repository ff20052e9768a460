"""The programs in front of a command: what sudo, env, xargs, `sh -c` and their like run, and as whom.

`unwrap` takes one of them off. Nothing is run; `None` in an argument or a variable is "not known".
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from wain.invocation import is_pip, is_python
from wain.shell import SHELLS, Command, Word, is_shell

# Programs that take options and then a command; the set has the options that take a value.
_PLAIN: dict[str, frozenset[str]] = {
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
_USER_CHANGERS = frozenset({"gosu", "su-exec", "setpriv", "runuser", "chpst"})
_RUNNERS = frozenset({"poetry", "pipenv", "pdm", "hatch", "uv", "rye"})
_CONDA = frozenset({"conda", "mamba", "micromamba"})
WRAPPERS = (
    frozenset({*_PLAIN, *SHELLS, "eval", "su", "sudo", "env", "timeout", "chroot"}) | _USER_CHANGERS | _RUNNERS | _CONDA
)
"""Every program that `unwrap` may do something about."""
SWITCHES_USER = frozenset({"sudo", "su", "gosu", "su-exec", "runuser"})
"""Those after which another user may run."""

HomeOf = Callable[[str], str | None]


class Pending(Struct, frozen=True, kw_only=True):
    """A command with what it runs in, while the programs in front of it are taken off.

    `words` are aligned with `argv` (None for one that a variable made); `wrappers` are the programs taken off so far.
    """

    argv: tuple[str | None, ...]
    words: tuple[Word | None, ...]
    command: Command
    branch: tuple[int, ...]
    env: dict[str, str | None]
    cwd: str | None
    user: str | None
    wrappers: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """The program's name without its folder; "" where it is unknown."""
        first = self.argv[0] if self.argv else None
        return (first or "").rpartition("/")[2]

    def behind(self, index: int) -> Pending:
        """The command that begins at a word of this one; without words where there is none."""
        return replace(self, argv=self.argv[index:], words=self.words[index:], wrappers=(*self.wrappers, self.program))


class Inner(Struct, frozen=True, kw_only=True):
    """Shell text that a command runs, in the place of `pending`; `word` is where it stands, where it is one word.

    `shares` is whether it runs in the shell itself, as with eval, so that what it sets stays.
    """

    text: str | None
    word: Word | None
    pending: Pending
    shares: bool = False


def unwrap(pending: Pending, home_of: HomeOf) -> Pending | Inner | None:
    """The command or the shell text behind the first program; None where that program is the command."""
    program, argv = pending.program, pending.argv
    if program == "eval" or is_shell(program):
        return _eval(pending) if program == "eval" else _shell(pending)
    if program in {"su", "runuser"}:
        inner = _su(pending, home_of)
        if inner is not None:
            return inner
    if program == "sudo":
        return _sudo(pending, home_of)
    if program == "env":
        return _env(pending)
    if program in _USER_CHANGERS and len(argv) > 2:
        return _switch_user(pending, home_of)
    if program == "timeout":
        return pending.behind(_skip_options(argv, frozenset({"-k", "-s", "--signal", "--kill-after"})) + 1)
    if program == "chroot":
        return pending.behind(len(argv))
    if program in _RUNNERS and len(argv) > 2 and argv[1] == "run":
        inner_program = (argv[2] or "").rpartition("/")[2]
        return pending.behind(2) if is_pip(inner_program) or is_python(inner_program) else None
    if program in _CONDA and len(argv) > 2 and "run" in argv[1:3]:
        start = argv.index("run")
        valued = frozenset({"-n", "--name", "-p", "--prefix", "--cwd", "-r", "--root-prefix"})
        return pending.behind(start + _skip_options(argv[start:], valued))
    if program in _PLAIN:
        return pending.behind(_skip_options(argv, _PLAIN[program]))
    return None


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


def _switch_user(pending: Pending, home_of: HomeOf) -> Pending:
    inner = pending.behind(2)
    if pending.program not in {"gosu", "su-exec"}:
        return inner
    user = (pending.argv[1] or "").partition(":")[0]
    env = pending.env
    if pending.program == "gosu":
        env = {**env, "HOME": home_of(user) if user else None}
    return replace(inner, user=user, env=env)


def _env(pending: Pending) -> Pending:
    argv = pending.argv
    made = dict(pending.env)
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None:
            break
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
    return replace(pending.behind(index), env=made)


_SUDO_KEEPS = frozenset({"PATH", "TERM", "LANG", "LC_ALL", "HOME"})


def _sudo(pending: Pending, home_of: HomeOf) -> Pending:
    argv, env = pending.argv, pending.env
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
    given = {word.partition("=")[0] for word in argv if word is not None and "=" in word and not word.startswith("-")}
    kept = dict(env) if keeps else {key: value for key, value in env.items() if key in _SUDO_KEEPS or key in given}
    if not keeps or sets_home:
        # Debian's sudo sets HOME to the target's unless -E keeps the caller's.
        kept["HOME"] = home_of(target) if target else None
    return replace(pending.behind(index), env=kept, user=target or None)


def _su(pending: Pending, home_of: HomeOf) -> Inner | None:
    argv = pending.argv
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
        return None
    place = replace(
        pending, env={**pending.env, "HOME": home_of(target)}, user=target, wrappers=(*pending.wrappers, "su")
    )
    return Inner(text=argv[at], word=pending.words[at], pending=place)


def _eval(pending: Pending) -> Inner | None:
    values = [value for value in pending.argv[1:] if value is not None]
    if not values or len(values) != len(pending.argv) - 1:
        return None
    word = pending.words[1] if len(pending.words) == 2 else None
    return Inner(text=" ".join(values), word=word, pending=pending, shares=True)


def _shell(pending: Pending) -> Inner | None:
    argv = pending.argv
    index = 1
    while index < len(argv):
        word = argv[index]
        if word is None or not word.startswith(("-", "+")):
            return None
        index += 1
        joined = not word.startswith("--")
        if word in {"-O", "--rcfile"} or (joined and word.endswith("o") and "c" not in word):
            index += 1
        elif joined and "c" in word:
            index += word.endswith("o")
            while index < len(argv) and (argv[index] or "").startswith("-"):
                index += 1
            if index >= len(argv):
                return None
            place = replace(pending, wrappers=(*pending.wrappers, pending.program))
            return Inner(text=argv[index], word=pending.words[index], pending=place)
    return None
