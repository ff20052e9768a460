"""Which action a command of a RUN is, where that is known without running it.

Sources: POSIX.1-2024 and the manual of GNU coreutils.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from wain.account_words import account_action
from wain.actions import Action, Activate, Echo, FileCommand, Look, NeedsEngine, Nothing, PipInstall
from wain.find_words import find_action
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
    if program in {".", "source"} and len(argv) == 2 and argv[1].endswith("/bin/activate"):
        return Activate(told="takes an environment", script=argv[1], is_source=program == "source")
    if program in {"cd", "export", "unset"}:
        return Nothing(told="sets the shell")
    if program in {"echo", "printf"}:
        return _echo(program, argv, writes)
    if writes:
        raise NeedsEngine(f"the output of {program} has to be found by running it")
    if program in _FILE_COMMANDS:
        return file_command(argv)
    if program == "find":
        return find_action(argv, file_command)
    if program in {"useradd", "groupadd", "usermod"}:
        return account_action(program, argv)
    if program in _TELL and (len(argv) == 1 or (program == "sleep" and len(argv) == 2)):
        return Nothing(told="tells something")
    if program in _LOOK:
        operands = tuple(index for index, word in enumerate(argv) if index and not word.startswith("-"))
        return Look(told="tells of files", operands=operands)
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
    if program == "printf":
        if not words or words[0].startswith("-"):
            raise NeedsEngine("printf with these arguments has to be run")
        return Echo(told="writes a file", text="", words=tuple(argv))
    if any("\\" in word for word in words) or (words and words[0].startswith("-") and words[0] != "-n"):
        return Echo(told="writes a file", text="", words=tuple(argv))
    end = "\n"
    if words[:1] == ["-n"]:
        words, end = words[1:], ""
    return Echo(told="writes a file", text=" ".join(words) + end)


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
    "install": ("dDvcTm", {"--directory": "d", "--mode": "m", "--owner": "o", "--group": "g", "--verbose": "v"}),
}
_WITH_VALUE = {"mkdir": "m", "install": "mog"}
_TELL = frozenset("pwd whoami id date env printenv uname sleep hostname nproc df free tty".split())
_LOOK = frozenset({"ls", "cat"})
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
    "install": "installs files",
}


def file_command(argv: Sequence[str]) -> FileCommand:
    """What a command of coreutils asks for.

    :raises NeedsEngine: for options that are not known here.
    """
    program = argv[0].rpartition("/")[2]
    letters, longs = _FILE_COMMANDS[program]
    flags: set[str] = set()
    operands: list[int] = []
    values: dict[str, str] = {}
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
            if letter is not None and letter in _WITH_VALUE.get(program, "") and equals:
                values[letter] = value
            elif letter is None or equals:
                raise NeedsEngine(f"{program} {name} has to be run")
            else:
                flags.add(letter)
        elif program == "chmod" and set(word[1:]) <= set("rwxXst,=+-ugoa"):
            operands.append(at)
        else:
            for position, letter in enumerate(word[1:], 1):
                if letter in _WITH_VALUE.get(program, ""):
                    rest = word[position + 1 :]
                    if not rest and index >= len(argv):
                        raise NeedsEngine(f"{program} -{letter} has no value, and would fail")
                    values[letter] = rest or argv[index]
                    index += not rest
                    break
                if letter not in letters:
                    raise NeedsEngine(f"{program} -{letter} has to be run")
                flags.add(letter)
    if program == "install" and "d" in flags:
        flags.add("p")
    least = {"mkdir": 1, "rm": 0 if "f" in flags else 1, "rmdir": 1, "touch": 1}.get(program, 2)
    if program == "install" and "d" in flags:
        least = 1
    if program == "ln" and ("s" not in flags or len(operands) < 2):
        raise NeedsEngine("ln without -s and two names has to be run")
    if len(operands) < least:
        raise NeedsEngine(f"{program} lacks an operand, and would fail")
    owner = values.get("o", "") + (f":{values['g']}" if "g" in values else "")
    return FileCommand(
        told=_TOLD[program],
        name=program,
        flags=frozenset(flags),
        mode=values.get("m"),
        operands=tuple(operands),
        owner=owner,
    )


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
