"""Which action a command of a RUN is, where that is known without running it.

Sources: POSIX.1-2024 and the manual of GNU coreutils.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wain.actions import Action, Echo, FileCommand, NeedsEngine, Nothing, PipInstall
from wain.invocation import is_python, python_module
from wain.pip_commands import pip_call
from wain.pip_words import compileall_action, pip_action, venv_action
from wain.uv_words import uv_action

_SETS = frozenset("e u x v o a f".split())


def classify(argv: Sequence[str], env: Mapping[str, str], cwd: str, *, writes: bool = False) -> Action:
    """What a command does.

    :param writes: its output goes to a file of the image.
    :raises NeedsEngine: when that is not known, or takes running it.
    """
    program = argv[0].rpartition("/")[2]
    if program in {"true", ":"} and not writes:
        return Nothing(told="does nothing")
    if program == "set" and not writes:
        letters = "".join(word[1:] for word in argv[1:] if word[:1] in "-+")
        rest = [word for word in argv[1:] if word[:1] not in ("-", "+")]
        if set(letters) <= _SETS and set(rest) <= {"pipefail", "errexit", "nounset", "xtrace"}:
            return Nothing(told="does nothing")
        raise NeedsEngine("set with these options has to be run by a shell")
    if program in {"cd", "export", "unset"}:
        return Nothing(told="sets the shell")
    if program in {"echo", "printf"}:
        return _echo(program, argv, writes)
    if writes:
        raise NeedsEngine(f"the output of {program} has to be found by running it")
    if program in _FILE_COMMANDS:
        return _file_command(program, argv)
    pip = pip_call(argv)
    if pip is not None:
        return pip_action(pip, argv, env)
    if program == "uv":
        return uv_action(argv)
    if is_python(program):
        module = python_module(argv)
        if module is not None and module[0] == "venv":
            return venv_action(argv, module[1] + 1)
        if module is not None and module[0] == "compileall":
            return compileall_action(argv, module[1] + 1)
        if list(argv[1:]) in (["--version"], ["-V"]):
            return Nothing(told="tells the version")
        raise NeedsEngine(f"{' '.join(argv[:3])[:60]} has to be run")
    raise NeedsEngine(f"{program} has to be run")


def _echo(program: str, argv: Sequence[str], writes: bool) -> Action:
    if not writes:
        return Nothing(told="tells something")
    words = list(argv[1:])
    if any("\\" in word for word in words):
        raise NeedsEngine(f"{program} treats backslashes as its shell does")
    if program == "echo":
        end = "\n"
        if words[:1] == ["-n"]:
            words, end = words[1:], ""
        if words and words[0].startswith("-"):
            raise NeedsEngine("echo treats options as its shell does")
        return Echo(told="writes a file", text=" ".join(words) + end)
    if len(words) == 1 and "%" not in words[0]:
        return Echo(told="writes a file", text=words[0])
    raise NeedsEngine("printf with a format has to be run")


_FILE_COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "mkdir": ("pv", {"--parents": "p", "--verbose": "v", "--mode": "m"}),
    "rm": ("rRfvd", {"--recursive": "r", "--force": "f", "--verbose": "v", "--dir": "d"}),
    "rmdir": ("pv", {"--parents": "p"}),
    "ln": ("sfvnT", {"--symbolic": "s", "--force": "f", "--no-dereference": "n", "--no-target-directory": "T"}),
    "cp": (
        "rRapfvTdL",
        {"--recursive": "r", "--archive": "a", "--force": "f", "--no-target-directory": "T", "--verbose": "v"},
    ),
    "mv": ("fvTn", {"--force": "f", "--verbose": "v", "--no-target-directory": "T"}),
    "chmod": ("Rvfc", {"--recursive": "R", "--verbose": "v"}),
    "chown": ("Rvfch", {"--recursive": "R", "--verbose": "v", "--no-dereference": "h"}),
    "chgrp": ("Rvfch", {"--recursive": "R", "--verbose": "v", "--no-dereference": "h"}),
    "touch": ("c", {"--no-create": "c"}),
}
_TOLD = {
    "mkdir": "makes folders",
    "rm": "removes files",
    "rmdir": "removes folders",
    "ln": "makes links",
    "cp": "copies files",
    "mv": "moves files",
    "chmod": "changes modes",
    "chown": "changes owners",
    "chgrp": "changes owners",
    "touch": "touches files",
}


def _file_command(program: str, argv: Sequence[str]) -> FileCommand:
    letters, longs = _FILE_COMMANDS[program]
    flags: set[str] = set()
    operands: list[int] = []
    mode: str | None = None
    only = False
    index = 1
    while index < len(argv):
        word = argv[index]
        at = index
        index += 1
        if only or not word.startswith("-") or word == "-":
            operands.append(at)
        elif word == "--":
            only = True
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            letter = longs.get(name)
            if letter == "m" and equals:
                mode = value
            elif letter is None or equals:
                raise NeedsEngine(f"{program} {name} has to be run")
            else:
                flags.add(letter)
        elif program == "chmod" and set(word[1:]) <= set("rwxXst,=+-ugoa"):
            operands.append(at)
        else:
            for position, letter in enumerate(word[1:], 1):
                if program == "mkdir" and letter == "m":
                    mode = word[position + 1 :] or (argv[index] if index < len(argv) else None)
                    index += not word[position + 1 :]
                    break
                if letter not in letters:
                    raise NeedsEngine(f"{program} -{letter} has to be run")
                flags.add(letter)
    least = {"mkdir": 1, "rm": 0 if "f" in flags else 1, "rmdir": 1, "touch": 1}.get(program, 2)
    if program == "ln" and ("s" not in flags or len(operands) < 2):
        raise NeedsEngine("ln without -s and two names has to be run")
    if len(operands) < least:
        raise NeedsEngine(f"{program} lacks an operand, and would fail")
    return FileCommand(told=_TOLD[program], name=program, flags=frozenset(flags), mode=mode, operands=tuple(operands))


def installation(argv: Sequence[str]) -> PipInstall:
    """What a `pip install`, `pip wheel`, `pip download` or `uv pip install` asks for, whoever runs it.

    :raises NeedsEngine: when that is not known, or it is no such command.
    """
    pip = pip_call(argv)
    if pip is not None and pip.verb in {"install", "wheel", "download"}:
        kept = tuple(option for option in pip.options if option[0] not in {"--wheel-dir", "--dest"})
        action = pip_action(replace(pip, verb="install", options=kept), argv, {})
    else:
        action = uv_action(argv) if pip is None else Nothing(told="")
    if isinstance(action, PipInstall):
        return action
    raise NeedsEngine(f"{' '.join(argv[:2])[:40]} chooses its files itself")
