"""Install plans: which file of which wheel goes where, and which files are made.

Sources: PyPA specifications, binary distribution format, "Installing a wheel"; recording installed
distributions; entry points, "Use for scripts".
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from msgspec import Struct

from wain.errors import InstallError
from wain.records import Record
from wain.wheels import EntryPoint, Wheel
from wain.zips import Member

log = logging.getLogger(__name__)

INSTALLER = b"wain\n"
FILE_MODE = 0o644
EXECUTABLE_MODE = 0o755
_SHEBANG_BYTES = 127
"""The longest line that every Linux kernel takes whole."""
_SCHEMES = ("purelib", "platlib", "scripts", "headers", "data")


class Scheme(Struct, frozen=True, kw_only=True):
    """Where the kinds of files go: paths within the image or folder, without a leading slash."""

    purelib: str
    platlib: str
    scripts: str
    headers: str
    """A distribution's headers go to a folder of its name in here."""
    data: str
    interpreter: str
    """Absolute path, for the first line of scripts."""
    python: str
    """Minor version, `3.13`."""

    @classmethod
    def venv(cls, root: str, python: str, *, interpreter: str = "") -> Scheme:
        """A virtual environment's, on Linux.

        >>> Scheme.venv("/opt/venv", "3.13").purelib
        'opt/venv/lib/python3.13/site-packages'
        """
        inside = root.strip("/")
        packages = posixpath.join(inside, f"lib/python{python}/site-packages")
        return cls(
            purelib=packages,
            platlib=packages,
            scripts=posixpath.join(inside, "bin"),
            headers=posixpath.join(inside, f"include/site/python{python}"),
            data=inside,
            interpreter=interpreter or f"{root.rstrip('/')}/bin/python",
            python=python,
        )

    def to_json(self) -> dict[str, str]:
        """For a recipe."""
        return {name: getattr(self, name) for name in (*_SCHEMES, "interpreter", "python")}


class PlannedFile(NamedTuple):
    """One file that is to be. (A tuple, for a plan may have a hundred thousand of them.)"""

    path: str
    """Within the root, without a leading slash."""
    mode: int
    size_bytes: int
    wheel: Wheel
    member: Member | None
    """What it is a copy of; None where it is made."""
    data: bytes | None
    """What it holds where it is made."""
    digest: str
    """Its row's hash in RECORD, `sha256=` and unpadded URL-safe base64; a member's as the wheel claims it:
    the sink compares, and plans again with what it found. Empty for RECORD itself."""


class Collision(Struct, frozen=True, kw_only=True):
    """A path that several distributions have with different bytes."""

    path: str
    winner: str
    losers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path} is in {', '.join(sorted((*self.losers, self.winner)))}; that of {self.winner} is taken"


class InstallPlan(Record, frozen=True, kw_only=True):
    """What an installation of wheels consists of; a function of wheels and scheme alone."""

    unshown: ClassVar = ("files",)

    wheels: tuple[Wheel, ...]
    """By name."""
    scheme: Scheme
    files: tuple[PlannedFile, ...]
    """By path, each once."""
    collisions: tuple[Collision, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder that a file stands in, and theirs, by path."""
        found: set[str] = set()
        for parent in {file.path.rpartition("/")[0] for file in self.files}:
            current = parent
            while current and current not in found:
                found.add(current)
                current = current.rpartition("/")[0]
        return tuple(sorted(found))

    @property
    def unpacked_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


Corrections = Mapping[tuple[str, str], str]
"""(wheel's name, member's path) -> the hash for its row, where the wheel's own RECORD is wrong."""


def plan_install(wheels: Iterable[Wheel], scheme: Scheme, *, corrections: Corrections | None = None) -> InstallPlan:
    """What installing these wheels together gives.

    Where two have the same path with the same bytes it is written once; with other bytes, the wheel with the
    earlier name has it, and the plan's `collisions` tell. (pip installs what depends on nothing first, and those of
    one rank from the last name to the first, so that the first one's file is what stays.)

    :param corrections: hashes that a sink found to be other than the wheels' RECORDs claim.
    :raises WheelError: when a wheel breaks the specification.
    :raises InstallError: when a path is a file in one wheel and a folder in another, or a wheel stands twice.
    """
    ordered = sorted(wheels, key=lambda wheel: wheel.name)
    for one, other in itertools.pairwise(ordered):
        if one.name == other.name:
            raise InstallError(
                f"{one.filename} and {other.filename} are of one distribution",
                hint="Keep one of them in the lock.",
            )
    placed: dict[str, PlannedFile] = {}
    others: dict[str, list[PlannedFile]] = {}
    for wheel in reversed(ordered):
        for file in _Planning(wheel, scheme, corrections or {}).files():
            before = placed.setdefault(file.path, file)
            if before is not file:
                if not _same_bytes(before, file):
                    others.setdefault(file.path, []).append(before)
                placed[file.path] = file
    plan = InstallPlan(
        wheels=tuple(ordered),
        scheme=scheme,
        files=tuple(placed[path] for path in sorted(placed)),
        collisions=tuple(
            Collision(
                path=path,
                winner=placed[path].wheel.name,
                losers=tuple(dict.fromkeys(loser.wheel.name for loser in losers)),
            )
            for path, losers in sorted(others.items())
        ),
    )
    for folder in plan.folders:
        if folder in placed:
            raise InstallError(
                f"{folder} is a file of {placed[folder].wheel.filename} and a folder of another wheel",
                hint="The two distributions cannot be installed together; drop one of them.",
            )
    return plan


def colliding(wheels: Sequence[Wheel], scheme: Scheme) -> tuple[tuple[Wheel, ...], ...]:
    """The wheels, by name, in groups: those that have a path in common with different bytes are together.

    Scripts count too. Wheels with the same bytes at the same path need not be in one group.

    :raises WheelError: when a wheel breaks the specification.
    """
    ordered = sorted(wheels, key=lambda wheel: wheel.name)
    group_of = list(range(len(ordered)))

    def root(number: int) -> int:
        while group_of[number] != number:
            group_of[number] = group_of[group_of[number]]
            number = group_of[number]
        return number

    owners: dict[str, tuple[int, tuple[int, int]]] = {}
    folders: dict[str, int] = {}
    for number, wheel in enumerate(ordered):
        for path, identity in _Planning(wheel, scheme, {}).identities():
            owner, before = owners.setdefault(path, (number, identity))
            if before != identity:
                group_of[root(number)] = root(owner)
        for folder in {path.rpartition("/")[0] for path, _ in _Planning(wheel, scheme, {}).identities()}:
            folders.setdefault(folder, number)
    for folder, number in folders.items():
        if folder in owners:
            group_of[root(number)] = root(owners[folder][0])
    groups: dict[int, list[Wheel]] = {}
    for number, wheel in enumerate(ordered):
        groups.setdefault(root(number), []).append(wheel)
    return tuple(sorted((tuple(group) for group in groups.values()), key=lambda group: group[0].name))


def copied_members(wheel: Wheel, scheme: Scheme) -> Iterator[tuple[str, int, Member]]:
    """Where an installation copies members to, without a change: path, mode, member. The later of two with one path
    counts. A plan has the same, but for paths that another wheel gets.

    :raises WheelError: when the wheel breaks the specification.
    """
    planning = _Planning(wheel, scheme, {})
    for path, member, is_script in planning.members():
        if not is_script:
            yield path, planning.mode(path, member), member


class _Planning:
    """One wheel's part of a plan."""

    def __init__(self, wheel: Wheel, scheme: Scheme, corrections: Corrections) -> None:
        self._wheel = wheel
        self._scheme = scheme
        self._corrections = corrections
        self._root = scheme.purelib if wheel.is_purelib else scheme.platlib
        self._info = f"{self._root}/{wheel.dist_info}/"
        self._scripts = _scripts_of(wheel, scheme)
        self._unhashed: list[str] = []

    def files(self) -> Iterator[PlannedFile]:
        """In the order in which an installer writes them: the later of two with one path counts."""
        wheel = self._wheel
        scripts = self._scheme.scripts + "/"
        rows: dict[str, str] = {}
        record_path = self._info + "RECORD"
        for path, member, is_script in self.members():
            mode = self.mode(path, member)
            data = self._rewritten(member) if is_script else None
            if data is None:
                digest = self._claim(member)
                size_bytes = member.size_bytes
                file = PlannedFile(path, mode, size_bytes, wheel, member, None, digest)
            else:
                digest = _row_digest(data)
                size_bytes = len(data)
                file = PlannedFile(path, mode, size_bytes, wheel, None, data, digest)
            rows[path] = f"{digest},{size_bytes}"
            yield file
        made = [
            *((f"{scripts}{name}", EXECUTABLE_MODE, text.encode()) for name, text in self._scripts.items()),
            (self._info + "INSTALLER", FILE_MODE, INSTALLER),
        ]
        for path, mode, data in made:
            digest = _row_digest(data)
            rows[path] = f"{digest},{len(data)}"
            yield PlannedFile(path, mode, len(data), wheel, None, data, digest)
        if self._unhashed:
            what = names_of(self._unhashed)
            log.warning("%s: RECORD has no usable hash of %s; right ones are written", wheel.filename, what)
        rows[record_path] = ","
        record = self._record(rows)
        yield PlannedFile(record_path, FILE_MODE, len(record), wheel, None, record, "")

    def mode(self, path: str, member: Member) -> int:
        """Of a member's file."""
        executable = member.is_executable or path.startswith(self._scheme.scripts + "/")
        return EXECUTABLE_MODE if executable else FILE_MODE

    def identities(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each path with what tells its bytes from others, cheaply: size and CRC."""
        for path, member, _ in self.members():
            yield path, (member.size_bytes, member.crc)
        for name, text in self._scripts.items():
            yield f"{self._scheme.scripts}/{name}", (-1, hash(text))

    def members(self) -> Iterator[tuple[str, Member, bool]]:
        """Target path, member, whether it is of the `.data` folder's scripts; without what is made anew."""
        wheel, root = self._wheel, self._root + "/"
        data_prefix = wheel.data_folder + "/"
        info = wheel.dist_info + "/"
        skipped = {info + name for name in ("RECORD", "INSTALLER", "REQUESTED")}
        later = []
        for member in wheel.members:
            path = member.path
            if path.startswith(data_prefix):
                later.append(member)
            elif path not in skipped:
                yield root + path, member, False
        for member in later:
            kind, _, rest = member.path[len(data_prefix) :].partition("/")
            if kind not in _SCHEMES or not rest:
                raise wheel.wrong(f"{member.path} is of no kind that an installer knows")
            if kind == "scripts" and _launcher_name(rest) in self._scripts:
                continue
            folder = getattr(self._scheme, kind)
            if kind == "headers":
                folder = f"{folder}/{wheel.metadata.name}"
            yield f"{folder}/{rest}" if folder else rest, member, kind == "scripts"

    def _claim(self, member: Member) -> str:
        """The member's hash: as corrected, else as the wheel's RECORD has it, else by reading it."""
        wheel = self._wheel
        if self._corrections:
            corrected = self._corrections.get((wheel.name, member.path))
            if corrected:
                return corrected
        if claimed := wheel.record.get(member.path):
            return claimed
        if not re.search(r"\.dist-info/RECORD\.(jws|p7s)$", member.path):
            self._unhashed.append(member.path)
        digest = hashlib.sha256()
        for chunk in wheel.chunks(member):
            digest.update(chunk)
        return row_digest(digest.digest())

    def _rewritten(self, member: Member) -> bytes | None:
        """A script with its first line made right; None where that is not `#!python`."""
        head = next(iter(self._wheel.chunks(member)), b"")
        if not head.startswith(b"#!python"):
            return None
        _, _, rest = self._wheel.read(member).partition(b"\n")
        return shebang(self._scheme.interpreter).encode() + rest

    def _record(self, rows: Mapping[str, str]) -> bytes:
        root = self._root
        prefix, length = root + "/", len(root) + 1
        by_name = {
            path[length:] if path.startswith(prefix) else posixpath.relpath(path, root): row
            for path, row in rows.items()
        }
        lines = []
        for name in sorted(by_name):
            quoted = '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name
            lines.append(f"{quoted},{by_name[name]}\n")
        return "".join(lines).encode("utf-8", "surrogateescape")


def shebang(interpreter: str) -> str:
    """The first line or lines of a Python script for an interpreter, with the line break.

    A path that kernels would cut or split is started by the shell, in lines that Python takes for a string.
    """
    if len(interpreter.encode()) + 2 <= _SHEBANG_BYTES and not re.search(r"\s", interpreter):
        return f"#!{interpreter}\n"
    quoted = interpreter.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f"#!/bin/sh\n'''exec' \"{quoted}\" \"$0\" \"$@\"\n' '''\n"


def launcher(point: EntryPoint, interpreter: str) -> str:
    """The text of an entry point's script."""
    first = point.attribute.partition(".")[0]
    return (
        f"{shebang(interpreter)}import sys\n"
        f"\n"
        f"from {point.module} import {first}\n"
        f"\n"
        f'if __name__ == "__main__":\n'
        f"    sys.exit({point.attribute}())\n"
    )


def names_of(paths: Sequence[str]) -> str:
    """The first three of them, and how many more there are.

    >>> names_of(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def row_digest(raw: bytes) -> str:
    """A SHA-256 digest as RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _row_digest(data: bytes) -> str:
    return row_digest(hashlib.sha256(data).digest())


def _scripts_of(wheel: Wheel, scheme: Scheme) -> dict[str, str]:
    """The launchers that a wheel's entry points ask for: name -> text.

    pip's own wheel names the versions of whatever Python built it; installers give it those of the target.
    """
    points = {point.name: point for point in wheel.entry_points}
    if wheel.name == "pip" and "pip" in points:
        main = points["pip"]
        points = {name: point for name, point in points.items() if not re.fullmatch(r"pip[\d.]*", name)}
        points |= dict.fromkeys(("pip", f"pip{scheme.python.partition('.')[0]}", f"pip{scheme.python}"), main)
    return {name: launcher(point, scheme.interpreter) for name, point in points.items()}


def _launcher_name(filename: str) -> str:
    """The entry point that a shipped script would be the launcher of."""
    for suffix in (".exe", "-script.py", ".pya"):
        if filename.lower().endswith(suffix):
            return filename[: -len(suffix)]
    return filename


def _same_bytes(one: PlannedFile, other: PlannedFile) -> bool:
    if one.size_bytes != other.size_bytes:
        return False
    if one.member and other.member and one.member.crc != other.member.crc:
        return False
    return _content_digest(one) == _content_digest(other)


def _content_digest(file: PlannedFile) -> bytes:
    digest = hashlib.sha256(file.data or b"")
    if file.member is not None:
        for chunk in file.wheel.chunks(file.member):
            digest.update(chunk)
    return digest.digest()
