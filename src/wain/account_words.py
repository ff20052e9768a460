"""What a useradd, groupadd or usermod asks for, as an action.

Sources: the manuals useradd(8), groupadd(8), usermod(8).
"""

from __future__ import annotations

from collections.abc import Sequence

from wain.actions import Account, NeedsEngine

_VALUES = {
    "useradd": {
        "-u": "uid",
        "--uid": "uid",
        "-g": "gid",
        "--gid": "gid",
        "-G": "groups",
        "--groups": "groups",
        "-d": "home",
        "--home-dir": "home",
        "--home": "home",
        "-s": "shell",
        "--shell": "shell",
        "-c": "comment",
        "--comment": "comment",
    },
    "groupadd": {"-g": "gid", "--gid": "gid"},
    "usermod": {"-G": "groups", "--groups": "groups"},
}
_SWITCHES = {
    "useradd": {
        "-m": "make-home",
        "--create-home": "make-home",
        "-M": "no-home",
        "--no-create-home": "no-home",
        "-r": "system",
        "--system": "system",
        "-l": "no-log",
        "--no-log-init": "no-log",
        "-N": "no-group",
        "--no-user-group": "no-group",
        "-U": "own-group",
        "--user-group": "own-group",
    },
    "groupadd": {"-r": "system", "--system": "system", "-f": "force", "--force": "force"},
    "usermod": {"-a": "append", "--append": "append"},
}


def account_action(program: str, argv: Sequence[str]) -> Account:
    """What a useradd, groupadd or usermod asks for.

    :raises NeedsEngine: for options that are not known here.
    """
    values: dict[str, str] = {}
    switches: set[str] = set()
    operands: list[str] = []
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2:
            # Joined short options: `-ms /bin/sh`, `-u1000`.
            rest = word[2:]
            word = word[:2]
            if word in _SWITCHES[program]:
                words.insert(0, f"-{rest}")
            else:
                words.insert(0, rest)
            name, equals = word, ""
        if name in _VALUES[program]:
            if not equals:
                if not words:
                    raise NeedsEngine(f"{program} {name} has no value, and would fail")
                value = words.pop(0)
            values[_VALUES[program][name]] = value
        elif name in _SWITCHES[program] and not equals:
            switches.add(_SWITCHES[program][name])
        else:
            raise NeedsEngine(f"{program} {name} has to be run")
    if len(operands) != 1 or (program == "usermod" and ("append" not in switches or "groups" not in values)):
        raise NeedsEngine(f"{program} with these arguments has to be run")
    if switches >= {"force"} and "gid" in values:
        raise NeedsEngine("groupadd -f -g has to be run")
    return Account(
        told="adds users and groups", program=program, name=operands[0], values=values, switches=frozenset(switches)
    )
