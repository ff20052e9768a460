"""Which files of a folder are left out: .dockerignore as BuildKit reads it, .gitignore as git does.

Sources: Docker's documentation of .dockerignore and moby's patternmatcher; gitignore(5), through pathspec.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.errors import ProjectError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class _Pattern(Struct, frozen=True):
    excludes: bool
    regex: re.Pattern[str]


class DockerIgnore:
    """The patterns of a .dockerignore; the last one that matches a path or a parent of it decides."""

    __slots__ = ("_has_exceptions", "_patterns")

    def __init__(self, text: str) -> None:
        self._patterns = [pattern for line in text.splitlines() if (pattern := _docker_pattern(line))]
        self._has_exceptions = any(not pattern.excludes for pattern in self._patterns)

    @classmethod
    def read(cls, path: Path) -> DockerIgnore:
        """The patterns of a file, none where it is not there.

        :raises ProjectError: when it cannot be read or a pattern is malformed.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(f"{path} cannot be read: {error}", hint="Make it readable UTF-8 text.") from error
        try:
            return cls(text)
        except re.error as error:
            raise ProjectError(f"{path} has a malformed pattern: {error}", hint="Mend the pattern.") from error

    def ignores(self, path: str) -> bool:
        """Whether a path, relative to the context with forward slashes, is left out."""
        parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        ignored = False
        for pattern in self._patterns:
            if pattern.excludes == ignored:
                continue
            if any(pattern.regex.fullmatch(candidate) for candidate in (path, *parents)):
                ignored = pattern.excludes
        return ignored

    def prunes(self, path: str) -> bool:
        """Whether nothing below a folder can be kept, so that it need not be walked."""
        return not self._has_exceptions and self.ignores(path)


def _docker_pattern(line: str) -> _Pattern | None:
    if line.startswith("#"):
        return None
    text = line.strip()
    excludes = not text.startswith("!")
    if not excludes:
        text = text[1:].strip()
    if not text:
        return None
    cleaned = os.path.normpath(text).lstrip("/")
    if cleaned in (".", ""):
        return None
    return _Pattern(excludes, re.compile(go_pattern(cleaned), re.DOTALL))


def go_pattern(pattern: str) -> str:
    """A regular expression for a pattern of Go's `filepath.Match`, with `**` for any number of folders.

    >>> bool(re.fullmatch(go_pattern("**/*.py[co]"), "a/b/c.pyc"))
    True
    """
    out = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            if pattern.startswith("**", at):
                at += 2
                if pattern.startswith("/", at):
                    at += 1
                    out.append("(?:.*/)?")
                else:
                    out.append(".*")
                continue
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise re.error("a [ without its ]", pattern, at)
            body = pattern[at + 1 : end].replace("[", "\\[").replace("&", "\\&").replace("~", "\\~")
            out.append(f"[{body}]")
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            out.append(re.escape(pattern[at]))
        else:
            out.append(re.escape(char))
        at += 1
    return "".join(out)


class GitIgnore:
    """The .gitignore files of a folder and of the folders below it that a walk has entered."""

    __slots__ = ("_specs",)

    def __init__(self) -> None:
        self._specs: list[tuple[str, GitIgnoreSpec]] = []

    def enter(self, folder: Path, relative: str) -> None:
        """Take in the .gitignore of a folder, where it has one.

        :param relative: the folder below the root, with forward slashes; empty for the root itself.
        """
        try:
            lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        from pathspec import GitIgnoreSpec

        self._specs.append((f"{relative}/" if relative else "", GitIgnoreSpec.from_lines(lines)))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Whether git would not take a path; the deepest file that speaks of it decides."""
        for prefix, spec in reversed(self._specs):
            if path.startswith(prefix):
                name = path[len(prefix) :] + ("/" if is_directory else "")
                included = spec.check_file(name).include
                if included is not None:
                    return included
        return False


class Found(Struct, frozen=True, kw_only=True):
    """A file, symbolic link or folder that a walk found."""

    path: str
    """Below the root, with forward slashes."""
    absolute: Path
    stat: os.stat_result
    """Of the link itself, where it is one."""


# Never part of an image, whatever the ignore files say: version control, environments, secrets, caches.
_NEVER = frozenset(
    (
        ".git .hg .svn .jj .env .venv .tox .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis"
        " __pycache__ .ipynb_checkpoints .DS_Store"
    ).split()
)


def project_files(root: Path, *, include: Sequence[str] = (), leave_out: Sequence[Path] = ()) -> Iterator[Found]:
    """The files of a project that go into its image, folders before what is in them, sorted by name.

    :param include: patterns of what is wanted, as in .dockerignore; none: all that the ignore files leave.
    :param leave_out: files and folders that never go in, such as the outputs of the build.
    :raises ProjectError: when a folder cannot be read.
    """
    docker = DockerIgnore.read(root / ".dockerignore")
    wanted = [re.compile(go_pattern(os.path.normpath(item).lstrip("/"))) for item in include]
    outputs = {path.absolute() for path in leave_out}
    git = GitIgnore()

    def walk(folder: Path, relative: str) -> Iterator[Found]:
        git.enter(folder, relative)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ProjectError(
                f"the folder {folder} cannot be read: {error.strerror}",
                hint="Make it readable, or name it in .dockerignore.",
            ) from error
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            absolute = Path(entry.path)
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name in _NEVER or entry.name.startswith(".env.") or absolute.absolute() in outputs:
                continue
            if is_directory and ((absolute / "pyvenv.cfg").is_file() or entry.name.endswith(".egg-info")):
                continue
            if wanted:
                ignored = not _is_wanted(path, wanted)
            elif git.ignores(path, is_directory=is_directory):
                continue
            else:
                ignored = docker.ignores(path)
            if is_directory:
                if not wanted and docker.prunes(path):
                    continue
                below = list(walk(absolute, path))
                if below or not ignored:
                    yield Found(path=path, absolute=absolute, stat=entry.stat(follow_symlinks=False))
                yield from below
            elif not ignored:
                yield Found(path=path, absolute=absolute, stat=entry.stat(follow_symlinks=False))

    return walk(root, "")


def _is_wanted(path: str, wanted: Sequence[re.Pattern[str]]) -> bool:
    parts = path.split("/")
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return any(pattern.fullmatch(prefix) for pattern in wanted for prefix in prefixes)
