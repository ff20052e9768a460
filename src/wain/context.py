"""The build context as a tree: what .dockerignore leaves of a folder, read when a layer is written.

Sources: Docker's documentation of the build context and .dockerignore.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from wain.errors import ProjectError
from wain.ignore import DockerIgnore
from wain.tree import Node, Tree, directory

MAX_ENTRIES = 2_000_000


class OnDisk(Struct, frozen=True):
    """A file of the context, as it was when it was found."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int

    def open(self) -> BinaryIO:
        """:raises ProjectError: when it cannot be read, or is not what it was."""
        try:
            # Not to wait for a pipe that took the file's place.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ProjectError(
                f"{self.path} cannot be read: {error.strerror}",
                hint="Make it readable, or name it in .dockerignore.",
            ) from error
        stream = _Watched(descriptor, self)
        try:
            stream.check()
        except ProjectError:
            stream.close()
            raise
        return stream


class _Watched(io.BufferedReader):
    """A file of the context that is looked at again when its end is read."""

    def __init__(self, descriptor: int, file: OnDisk) -> None:
        super().__init__(io.FileIO(descriptor, closefd=True))
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data and size != 0:
            self.check()
        return data

    def check(self) -> None:
        """:raises ProjectError: when the file is not what it was."""
        file, found = self._file, os.fstat(self.fileno())
        if (found.st_size, found.st_mtime_ns, found.st_ino) != (file.size_bytes, file.mtime_ns, file.inode):
            raise ProjectError(f"{file.path} changed during the build", hint="Build again when nothing writes to it.")


def ignore_file(context: Path, dockerfile: Path | None) -> Path:
    """Which file says what is left out: `Dockerfile.dockerignore` beside the Dockerfile, else `.dockerignore`."""
    if dockerfile is not None:
        own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
        if own.is_file():
            return own
    return context / ".dockerignore"


def read_context(root: Path, ignore: DockerIgnore, *, leave_out: Collection[Path] = ()) -> Tree:
    """The files of a folder as root's, with their modes; folders before what is in them. Sockets are left out.

    :param leave_out: the build's own outputs; a folder that has nothing else is left out too.
    :raises ProjectError: when a folder cannot be read, or there are too many entries.
    """
    tree = Tree()
    count = 0
    links: dict[tuple[int, int], int] = {}
    outputs = {str(path.absolute()) for path in leave_out}
    top = str(root.absolute())

    def walk(folder: str, relative: str) -> dict[str, Node]:
        nonlocal count
        children: dict[str, Node] = {}
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise ProjectError(
                f"the folder {folder} cannot be read: {error.strerror}",
                hint="Make it readable, or name it in .dockerignore.",
            ) from error
        for entry in entries:
            count += 1
            if count > MAX_ENTRIES:
                raise ProjectError(
                    f"{root} has more than {MAX_ENTRIES} files", hint="Name what is not needed in .dockerignore."
                )
            path = f"{relative}/{entry.name}" if relative else entry.name
            if outputs and f"{top}/{path}" in outputs:
                continue
            ignored = ignore.ignores(path)
            is_directory = entry.is_dir(follow_symlinks=False)
            if ignored and (not is_directory or ignore.prunes(path)):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_directory:
                node = directory(mode=stat.S_IMODE(facts.st_mode), mtime=int(facts.st_mtime))
                node.children = walk(entry.path, path)
                if not node.children and (ignored or any(out.startswith(f"{top}/{path}/") for out in outputs)):
                    continue
            elif stat.S_ISREG(facts.st_mode):
                node = Node(
                    kind="file",
                    mode=stat.S_IMODE(facts.st_mode),
                    mtime=int(facts.st_mtime),
                    size_bytes=facts.st_size,
                    content=OnDisk(entry.path, facts.st_size, facts.st_mtime_ns, facts.st_ino),
                )
                if facts.st_nlink > 1:
                    identity = (facts.st_dev, facts.st_ino)
                    node.inode = links.setdefault(identity, len(links) + 1)
            elif stat.S_ISLNK(facts.st_mode):
                target = str(Path(entry.path).readlink())
                node = Node(kind="symlink", mode=0o777, mtime=int(facts.st_mtime), target=target)
            elif stat.S_ISSOCK(facts.st_mode):
                continue
            else:
                node = Node(kind="other", mode=stat.S_IMODE(facts.st_mode))
            children[entry.name] = node
        return children

    tree.root.children = walk(str(root), "")
    return tree
