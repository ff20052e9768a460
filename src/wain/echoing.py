"""What the echo and printf of a shell write.

Sources: POSIX.1-2024, echo and printf; the manuals of dash and bash.
"""

from __future__ import annotations

import re

from wain.actions import Echo, NeedsEngine

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_ESCAPE = re.compile(r"\\(0[0-7]{0,3}|.)", re.DOTALL)
_OCTAL = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
_FORMAT = re.compile(r"%(.?)", re.DOTALL)


def echo_text(action: Echo, shell: str) -> str:
    """The text, in the shell at that path, links followed.

    :raises NeedsEngine: for what is not known of that shell.
    """
    if not action.words:
        return action.text
    name = shell.rpartition("/")[2]
    if name not in {"dash", "bash"}:
        raise NeedsEngine(f"{action.words[0]} of {name} has to be run")
    if action.words[0].rpartition("/")[2] == "printf":
        return _printf(action.words[1], action.words[2:])
    words, end, escapes = list(action.words[1:]), "\n", name == "dash"
    if name == "dash":
        if words[:1] == ["-n"]:
            words, end = words[1:], ""
    else:
        while words and re.fullmatch(r"-[neE]+", words[0]):
            option = words.pop(0)
            end = "" if "n" in option else end
            for letter in option[1:]:
                escapes = letter == "e" if letter in "eE" else escapes
    text = " ".join(words)
    if not escapes:
        return text + end
    stopped = text.partition("\\c")
    if stopped[1]:
        raise NeedsEngine("echo that stops itself has to be run")
    return _ESCAPE.sub(lambda match: _escaped(match, name), text) + end


def _escaped(match: re.Match[str], shell: str) -> str:
    what = match[1]
    if what[0] == "0" and len(what) > 1:
        return _octal(what)
    if what in _ESCAPES:
        return _ESCAPES[what]
    if what in {"e", "E", "x", "u", "U", "0"}:
        raise NeedsEngine(f"echo treats \\{what} as its shell does")
    return match[0]


def _octal(digits: str) -> str:
    code = int(digits, 8)
    if not 0 < code < 128:
        raise NeedsEngine("a text with bytes in it has to be made by its shell")
    return chr(code)


def _printf(format_: str, arguments: tuple[str, ...]) -> str:
    text = _OCTAL.sub(_unescaped, format_)
    if format_.count("%") and "\\045" in format_:
        raise NeedsEngine("printf with a format has to be run")
    count = len([one for one in _FORMAT.findall(text) if one != "%"])
    rounds = (
        [arguments] if not count else [arguments[at : at + count] for at in range(0, len(arguments), count)] or [()]
    )
    written = []
    for values in rounds if count else [()]:
        left = list(values)

        def one(match: re.Match[str], left: list[str] = left) -> str:
            if match[1] == "%":
                return "%"
            value = left.pop(0) if left else ""
            if match[1] == "s":
                return value
            if match[1] in {"d", "i"} and re.fullmatch(r"-?[1-9]\d*|0", value):
                return value
            raise NeedsEngine(f"printf %{match[1]} has to be run")

        written.append(_FORMAT.sub(one, text))
    return "".join(written)


def _unescaped(match: re.Match[str]) -> str:
    what = match[1]
    if what[0] in "01234567":
        return _octal(what)
    if what in _ESCAPES:
        return _ESCAPES[what]
    if what in {'"', "'"}:
        return what
    raise NeedsEngine(f"printf treats \\{what} as its shell does")
