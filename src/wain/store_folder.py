"""The store's folder: where things lie in it, whether it may be used, and who uses what in it.

    CACHEDIR.TAG, .gitignore
    leases                      an empty file whose byte ranges are locked: one byte a blob or unfinished file
    uses                        lines of hits and misses
    blobs-v1/ab/HEX             a blob
    blobs-v1/ab/HEX.KIND.SIZE.TIME.NOTE     an empty file: what the blob is and since when, so that a listing
                                opens and asks nothing
    memos-v1/KIND/ab/HEX        a memo
    tmp/                        unfinished files; a dead process leaves some, which the next upkeep takes away
    partial/HEX                 unfinished downloads, to be resumed
    uv/                         uv's own cache folders, one a Python and platform

A blob's modification time is when it was last used.

Source of the tag file: Cache Directory Tagging Specification 0.6.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from wain.errors import StoreError

if TYPE_CHECKING:
    from wain.digest import Digest

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

BLOBS = "blobs-v1"
MEMOS = "memos-v1"
TEMPORARY = "tmp"
PARTIAL = "partial"
LEASES = "leases"
USES = "uses"
SIZE = "size"
UV = "uv"

_OWN = (BLOBS, MEMOS, TEMPORARY, PARTIAL, LEASES, USES, SIZE, UV)
_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This folder is wain's cache. It is safe to delete at any time.\n"
    b"# What the file is for: https://bford.info/cachedir/\n"
)
_NAME_BYTES = 240
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_LEASE_WAIT_SECONDS = 2.0


class Unusable(Exception):
    """The folder cannot be used; the text is the exact reason, and `hint` what helps."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def is_full(error: OSError) -> bool:
    """Whether the disk, the quota or the largest file size is exhausted."""
    return error.errno in _FULL


def is_gone(error: OSError) -> bool:
    """Whether a folder on the way has been deleted."""
    return error.errno in _GONE


class Leases:
    """Who uses what, across processes: byte ranges of one file are locked, and the kernel forgets the dead.

    A name is hexadecimal; its first 15 digits choose the byte, so two names may meet on one: then one is kept
    longer than needed, no more. On systems without such locks `working` is False and nothing can be seized.
    """

    __slots__ = ("_fd", "_path", "_shared", "working")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shared: set[str] = set()
        self._fd = self._open()
        # A lock that any number may have at once: others try the same at this moment.
        self.working = sys.platform != "win32" and self._try(self._fd, "read", 0)
        if self.working:
            self._try(self._fd, "none", 0)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.open(self._path, flags, 0o600)

    @staticmethod
    def _try(fd: int, kind: str, start: int) -> bool:
        if sys.platform == "win32":
            return False
        kinds = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
        # Locks of the open file, not of the process: two stores in one process see each other, and closing
        # one does not free what the other holds. Where the system lacks them, the process's own do.
        command = getattr(fcntl, "F_OFD_SETLK", fcntl.F_SETLK)
        if sys.platform == "darwin":
            request = struct.pack("qqihh", start, 1, 0, kinds[kind], os.SEEK_SET)
        else:
            request = struct.pack("hhqqi0q", kinds[kind], os.SEEK_SET, start, 1, 0)
        try:
            fcntl.fcntl(fd, command, request)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                log.debug("no locks in the store's folder: %s", error)
            return False
        return True

    @staticmethod
    def _byte(name: str) -> int:
        return int(name[:15], 16) + 1

    def share(self, name: str) -> bool:
        """Marks `name` as used by this store until `release` or `close`; others may share it.

        Waits a moment for an eviction that has its hands on it.
        """
        if name in self._shared:
            return True
        if not self.working:
            return False
        give_up = time.monotonic() + _LEASE_WAIT_SECONDS
        while not self._try(self._fd, "read", self._byte(name)):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.002)
        self._shared.add(name)
        return True

    def seize(self, name: str) -> bool:
        """Takes `name` for this store alone, or says at once that another has it; then `release`."""
        if name in self._shared or not self.working:
            return False
        return self._try(self._fd, "write", self._byte(name))

    def release(self, name: str) -> None:
        """Gives `name` free."""
        self._shared.discard(name)
        if self.working:
            self._try(self._fd, "none", self._byte(name))

    def release_all(self) -> None:
        """Gives free what `share` has marked."""
        for name in tuple(self._shared):
            self.release(name)

    @property
    def lost(self) -> bool:
        """Whether the file has been deleted or replaced, so that others no longer see these leases."""
        try:
            here, there = os.fstat(self._fd), self._path.stat()
        except OSError:
            return True
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def renew(self) -> None:
        """Opens the file anew, after the folder was deleted, and takes the same leases there."""
        new = self._open()
        os.close(self._fd)
        self._fd = new
        names, self._shared = self._shared, set()
        for name in names:
            self.share(name)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.working = False


class Folder:
    """A folder that has been found fit, or made.

    :param make_parent: whether the folder's parent may be made too (for the platform's own cache folder).
    :raises Unusable: when it must not or cannot be used. Nothing has been made then that was not there,
        except the folder itself.
    """

    __slots__ = ("leases", "root", "unfinished")

    def __init__(self, root: Path, *, make_parent: bool = False) -> None:
        self.root = root
        self.unfinished: set[str] = set()
        _make(root, make_parent=make_parent)
        _check(root)
        try:
            self._prepare()
            self.leases = Leases(root / LEASES)
        except OSError as error:
            raise _unusable(root, error) from error

    def _prepare(self) -> None:
        for name in (BLOBS, MEMOS, TEMPORARY, PARTIAL):
            try:
                (self.root / name).mkdir(0o700)
            except FileExistsError:
                continue
        for name, content in (("CACHEDIR.TAG", _TAG), (".gitignore", b"*\n")):
            if not os.path.lexists(self.root / name):
                with contextlib.suppress(FileExistsError):
                    fd = os.open(self.root / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    with os.fdopen(fd, "wb") as stream:
                        stream.write(content)

    def revive(self) -> None:
        """Makes the folder again after somebody deleted it, and takes the leases there.

        :raises Unusable: when that cannot be.
        """
        _make(self.root, make_parent=False)
        _check(self.root)
        try:
            self._prepare()
            if self.leases.lost:
                self.leases.renew()
        except OSError as error:
            raise _unusable(self.root, error) from error

    def blob(self, digest: Digest) -> Path:
        name = digest.hex
        return self.root / BLOBS / name[:2] / name

    def label(self, digest: Digest, *, kind: str, size_bytes: int, note: str) -> Path:
        name = label_name(digest.hex, kind=kind, size_bytes=size_bytes, put_at=int(time.time()), note=note)
        return self.root / BLOBS / digest.hex[:2] / name

    def memo(self, kind: str, key: Digest) -> Path:
        return self.root / MEMOS / kind / key.hex[:2] / key.hex

    def partial(self, digest: Digest) -> Path:
        return self.root / PARTIAL / digest.hex

    def new_file(self) -> tuple[Path, int]:
        """An empty file of this process in the folder for unfinished files, open for reading and writing.

        :raises OSError: as `open` does.
        """
        if self.leases.lost:
            self.leases.renew()
        name = os.urandom(16).hex()
        self.leases.share(name)
        path = self.root / TEMPORARY / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError:
            self.leases.release(name)
            raise
        self.unfinished.add(name)
        return path, fd

    def discard(self, path: Path) -> None:
        """Removes an unfinished file, or forgets one that has been renamed."""
        with contextlib.suppress(OSError):
            path.unlink()
        self.unfinished.discard(path.name)
        self.leases.release(path.name)

    def close(self) -> None:
        self.leases.close()


class Label(NamedTuple):
    """What the name of a blob's label says."""

    name: str
    """The blob's."""
    kind: str
    size_bytes: int
    put_at: int
    """Seconds since the epoch."""
    note: str


def label_name(name: str, *, kind: str, size_bytes: int, put_at: int, note: str) -> str:
    """The name of the empty file that says what a blob is; a long note loses its end."""
    text = f"{name}.{kind}.{size_bytes}.{put_at}."
    room = _NAME_BYTES - len(text)
    encoded = quote(note, safe="+-._@")
    while len(encoded) > room:
        note = note[: -max(1, (len(encoded) - room) // 9)]
        encoded = quote(note, safe="+-._@")
    return text + encoded


def parse_label(text: str) -> Label | None:
    """What such a file name says; None for any other."""
    try:
        name, kind, size, put, note = text.split(".", 4)
        return Label(name, kind, int(size), int(put), unquote(note) if "%" in note else note)
    except ValueError:
        return None


def shards(folder: Path) -> Iterator[Path]:
    """The two-digit folders of a folder, by name; none when it is not there."""
    try:
        names = sorted(path for path in folder.iterdir() if len(path.name) == 2)
    except OSError:
        return
    yield from names


def _unusable(root: Path, error: OSError) -> Unusable:
    if is_full(error):
        return Unusable(f"the disk of {root} is full", hint="Free some space, or choose another --cache-dir.")
    if error.errno == errno.EROFS:
        return Unusable(f"{root} is on a read-only disk", hint="Choose another --cache-dir.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unusable(
            f"{error.filename or root} is not writable for this user",
            hint="Change its owner or mode, or choose another --cache-dir.",
        )
    return Unusable(f"{error.filename or root} cannot be used: {error.strerror}", hint="Choose another --cache-dir.")


def _make(root: Path, *, make_parent: bool) -> None:
    try:
        root.stat()
        return
    except FileNotFoundError:
        if root.is_symlink():
            raise Unusable(
                f"{root} is a symbolic link to a folder that does not exist",
                hint="Make that folder, or choose another --cache-dir.",
            ) from None
    except OSError as error:
        raise _unusable(root, error) from error
    parent = root.parent
    try:
        if not parent.exists():
            if not make_parent or not parent.parent.exists():
                raise Unusable(
                    f"{root} cannot be made, because {_first_missing(parent)} does not exist",
                    hint="Make that folder, or choose another --cache-dir.",
                )
            with contextlib.suppress(FileExistsError):
                parent.mkdir(0o700)
        with contextlib.suppress(FileExistsError):
            root.mkdir(0o700)
    except OSError as error:
        raise _unusable(parent, error) from error


def _first_missing(path: Path) -> Path:
    while not path.parent.exists():
        path = path.parent
    return path


def _check(root: Path) -> None:
    try:
        _check_owner(root, root.stat(), top=True)
        for name in _OWN:
            try:
                found = (root / name).lstat()
            except FileNotFoundError:
                continue
            _check_owner(root / name, found, top=False)
    except OSError as error:
        raise _unusable(root, error) from error


def _check_owner(path: Path, found: os.stat_result, *, top: bool) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise Unusable(f"{path} is a symbolic link", hint="Remove the link, or choose another --cache-dir.")
    wanted = path.name not in (LEASES, USES, SIZE) or top
    if stat.S_ISDIR(found.st_mode) != wanted:
        raise Unusable(f"{path} is no {'folder' if wanted else 'file'}", hint="Choose another --cache-dir.")
    if sys.platform == "win32":
        return
    me = os.geteuid()
    if found.st_uid != me:
        raise Unusable(
            f"{path} belongs to {user_name(found.st_uid)}, and this runs as {user_name(me)}",
            hint="Change its owner, or choose another --cache-dir.",
        )
    if found.st_mode & 0o022:
        # A folder that was made a moment ago under a loose umask holds nothing that another could have put
        # there.
        if top and not any(path.iterdir()):
            path.chmod(0o700)
            return
        raise Unusable(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"Run `chmod go-w {path}` if all that is in it is yours, or choose another --cache-dir.",
        )
    if top and found.st_mode & 0o077:
        with contextlib.suppress(OSError):
            path.chmod(0o700)


def user_name(uid: int) -> str:
    """`name (uid N)`, or `uid N` for a user that the system does not know."""
    try:
        import pwd

        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (ImportError, KeyError):
        return f"uid {uid}"


def impossible(what: str, error: OSError | Unusable) -> StoreError:
    """The error for when neither the store nor a temporary folder can hold something."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StoreError(
        f"{what} cannot be written: {reason}",
        hint="Free space in the cache folder or in the temporary folder (TMPDIR).",
    )
