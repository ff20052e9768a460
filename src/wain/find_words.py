"""What a `find` asks for: its expression as a tree.

Sources: POSIX.1-2024, find; the manual of GNU findutils.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wain.actions import Expression, FileCommand, Find, NeedsEngine

_TYPES = {"f": "file", "d": "directory", "l": "symlink"}
_EXECUTED = frozenset({"rm", "rmdir", "chmod", "chown", "chgrp", "touch"})
_TRUE = Expression(kind="true")


def find_action(argv: Sequence[str], command: Callable[[Sequence[str]], FileCommand]) -> Find:
    """What a find asks for.

    :param command: reads a command of coreutils, which `-exec` names.
    :raises NeedsEngine: for an expression that is not known here.
    """
    start = 1
    while start < len(argv) and not argv[start].startswith("-") and argv[start] not in {"(", "!"}:
        start += 1
    if start == 1:
        raise NeedsEngine("find without a folder has to be run")
    parser = _Parser(argv[start:], command)
    expression = parser.whole()
    return Find(
        told="finds files",
        folders=tuple(range(1, start)),
        expression=expression,
        depth_first="-depth" in argv or "-delete" in argv,
        least=parser.least,
        most=parser.most,
    )


class _Parser:
    def __init__(self, words: Sequence[str], command: Callable[[Sequence[str]], FileCommand]) -> None:
        self._words = list(words)
        self._command = command
        self.least = 0
        self.most: int | None = None

    def whole(self) -> Expression:
        found = self._either() if self._words else _TRUE
        if self._words:
            raise NeedsEngine(f"find {self._words[0]} has to be run")
        return found

    def _either(self) -> Expression:
        parts = [self._all()]
        while self._words[:1] in (["-o"], ["-or"]):
            self._words.pop(0)
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Expression(kind="or", parts=tuple(parts))

    def _all(self) -> Expression:
        parts = [self._one()]
        while self._words and self._words[0] not in {"-o", "-or", ")"}:
            if self._words[0] in {"-a", "-and"}:
                self._words.pop(0)
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Expression(kind="and", parts=tuple(parts))

    def _one(self) -> Expression:
        word = self._take()
        if word in {"!", "-not"}:
            return Expression(kind="not", parts=(self._one(),))
        if word == "(":
            found = self._either()
            if self._take() != ")":
                raise NeedsEngine("find's expression is not understood")
            return found
        if word == "-type":
            kind = _TYPES.get(self._take())
            if kind is None:
                raise NeedsEngine("find -type of this kind has to be run")
            return Expression(kind="type", words=(kind,))
        if word in {"-name", "-iname", "-path", "-wholename"}:
            return Expression(kind="path" if word == "-wholename" else word[1:], words=(self._take(),))
        if word in {"-maxdepth", "-mindepth"}:
            text = self._take()
            if not text.isdecimal() or len(text) > 4:
                raise NeedsEngine(f"find {word} {text} has to be run")
            if word == "-maxdepth":
                self.most = int(text)
            else:
                self.least = int(text)
            return _TRUE
        if word in {"-depth", "-print", "-print0", "-mount", "-xdev"}:
            return _TRUE
        if word in {"-empty", "-prune", "-delete"}:
            return Expression(kind=word[1:])
        if word == "-exec":
            return self._execute()
        raise NeedsEngine(f"find {word} has to be run")

    def _take(self) -> str:
        if not self._words:
            raise NeedsEngine("find's expression is not understood")
        return self._words.pop(0)

    def _execute(self) -> Expression:
        words: list[str] = []
        while True:
            word = self._take()
            if word == ";" or (word == "+" and words[-1:] == ["{}"]):
                break
            words.append(word)
        if not words or words[0].rpartition("/")[2] not in _EXECUTED or words.count("{}") != 1:
            raise NeedsEngine(f"find -exec {' '.join(words[:1])} has to be run")
        self._command(["./x" if one == "{}" else one for one in words])
        return Expression(kind="together" if word == "+" else "each", words=tuple(words))
