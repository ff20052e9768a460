"""Absolute paths and patterns inside an image, as text."""

from __future__ import annotations

import functools
import posixpath
import re
from fnmatch import translate


def absolute(path: str | None, cwd: str | None) -> str | None:
    """The path made absolute and normal; None where it, or the folder it is relative to, is unknown."""
    if path is None:
        return None
    if path.startswith("~"):
        return path.rstrip("/") or path
    if not path.startswith("/"):
        if cwd is None:
            return None
        path = f"{cwd}/{path}"
    return posixpath.normpath("/" + path.lstrip("/"))


def inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it."""
    return path == folder or folder == "/" or path.startswith(folder.rstrip("/") + "/")


@functools.lru_cache(maxsize=65_536)
def covers(pattern: str, folder: str) -> bool:
    """Whether removing what `pattern` matches empties `folder`: it is the folder, above it, or everything in it.

    `~/x` on either side stands for any home, as nothing better is known there.
    """
    if folder.startswith("~/") and not pattern.startswith("~/"):
        tail = folder[1:]
        stem = pattern.removesuffix("/*")
        return stem.endswith(tail) or any(
            stem.endswith(tail[:index]) for index, char in enumerate(tail) if char == "/" and index > 1
        )
    if not any(char in pattern for char in "*?["):
        return inside(folder, pattern.rstrip("/") or "/")
    wanted = pattern.split("/")
    have = folder.split("/")
    if len(wanted) == len(have) + 1 and set(wanted[-1]) <= set("*.") and "*" in wanted[-1]:
        return _matches(wanted[:-1], have)
    if len(wanted) <= len(have):
        return _matches(wanted, have[: len(wanted)])
    return False


def _matches(patterns: list[str], names: list[str]) -> bool:
    return all(
        pattern == name or (any(char in pattern for char in "*?[") and re.match(translate(pattern), name))
        for pattern, name in zip(patterns, names, strict=True)
    )


def expand_braces(text: str, *, limit: int = 64) -> list[str]:
    """`a/{b,c}` as bash expands it; at most `limit` words, the text itself beyond."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", text)
    if match is None:
        return [text]
    found: list[str] = []
    for choice in match.group(1).split(","):
        found.extend(expand_braces(text[: match.start()] + choice + text[match.end() :], limit=limit))
        if len(found) > limit:
            return [text]
    return found
