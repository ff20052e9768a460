"""`find` of a RUN, done on a stage's tree: what it removes, and what it hands to rm, chmod and chown.

Sources: POSIX.1-2024, find; the manual of GNU findutils.
"""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import re
from collections.abc import Sequence

from wain.actions import Expression, Find
from wain.classify import file_command
from wain.filework import Actor, CommandFails, do, joined_raw
from wain.tree import Node, Tree


def find(tree: Tree, action: Find, folders: Sequence[str], actor: Actor) -> None:
    """Does it.

    :raises CommandFails: when find would say that something failed, after all that it could do.
    """
    _Finding(tree, action, actor).run(folders)


@functools.cache
def _pattern(text: str, ignore_case: bool) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(text), re.IGNORECASE if ignore_case else 0)


class _Finding:
    def __init__(self, tree: Tree, action: Find, actor: Actor) -> None:
        self._tree = tree
        self._action = action
        self._actor = actor
        self._batches: dict[int, tuple[Expression, list[str]]] = {}
        self._pruned = False
        self._failed = ""

    def run(self, folders: Sequence[str]) -> None:
        for folder in folders:
            real = self._tree.resolve(joined_raw(self._actor.cwd, folder), follow_last=False)
            if self._tree.get(real) is None:
                self._fail(f"there is no {folder}")
                continue
            self._visit(folder, real, 0)
        for expression, paths in self._batches.values():
            try:
                self._do([*expression.words[:-1], *paths])
            except CommandFails as error:
                self._fail(str(error))
        if self._failed:
            raise CommandFails(f"find: {self._failed}")

    def _fail(self, reason: str) -> None:
        self._failed = self._failed or reason

    def _visit(self, path: str, real: str, depth: int) -> None:
        action = self._action
        node = self._tree.get(real)
        if node is None:
            return
        if not action.depth_first:
            self._pruned = False
            if depth >= action.least:
                self._holds(action.expression, path, node)
            if self._pruned:
                return
        descends = node.kind == "directory" and (action.most is None or depth < action.most)
        if descends:
            now = self._tree.get(real)
            if now is None:
                self._fail(f"{path} was removed before it was looked into")
                return
            for name in sorted(now.children or {}):
                self._visit(f"{path.rstrip('/')}/{name}", f"{real}/{name}".lstrip("/"), depth + 1)
        if action.depth_first and depth >= action.least and (last := self._tree.get(real)) is not None:
            self._holds(action.expression, path, last)

    def _holds(self, expression: Expression, path: str, node: Node) -> bool:
        kind = expression.kind
        if kind == "or":
            return any(self._holds(part, path, node) for part in expression.parts)
        if kind == "and":
            return all(self._holds(part, path, node) for part in expression.parts)
        if kind == "not":
            return not self._holds(expression.parts[0], path, node)
        if kind == "type":
            return node.kind == expression.words[0]
        if kind in {"name", "iname"}:
            name = posixpath.basename(path.rstrip("/")) or "/"
            return _pattern(expression.words[0], kind == "iname").match(name) is not None
        if kind == "path":
            return _pattern(expression.words[0], False).match(path) is not None
        if kind == "empty":
            return node.kind in {"file", "directory"} and not node.children and not node.size_bytes
        if kind == "prune":
            self._pruned = True
        elif kind == "delete":
            try:
                self._do(["rmdir" if node.kind == "directory" else "rm", path])
            except CommandFails as error:
                self._fail(str(error))
                return False
        elif kind == "together":
            self._batches.setdefault(id(expression), (expression, []))[1].append(path)
        elif kind == "each":
            try:
                self._do([path if word == "{}" else word for word in expression.words])
            except CommandFails:
                return False
        return True

    def _do(self, words: Sequence[str]) -> None:
        action = file_command(words)
        do(self._tree, action, [words[index] for index in action.operands], self._actor)
