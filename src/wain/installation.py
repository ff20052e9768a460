"""The directory sink: wheels become files of a virtual environment or folder.

Everything is unpacked and checked beside its place, then moved in, a distribution at a time, its `.dist-info` last;
what fails on the way is undone. Files get the present time: with a fixed one an upgraded module of the same size would
run its predecessor's bytecode.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from wain.digest import Digest
from wain.distributions import Distribution, bytecode_of, installed_distributions, roots
from wain.errors import InstallError, OutputError, WainError
from wain.install import InstallPlan, PlannedFile, Scheme, copied_members, plan_install, row_digest
from wain.unpacking import Hashes, NewFile, Unpacking
from wain.wheels import Wheel, normalized_name

log = logging.getLogger(__name__)

_STAGE_PREFIX = ".wain-install-"


class Installed(Struct, frozen=True, kw_only=True):
    """What an installation did, by distributions' names."""

    new: tuple[str, ...]
    replaced: Mapping[str, str]
    """Name -> the version that went."""
    unchanged: tuple[str, ...]
    right_records: tuple[Digest, ...]
    """The wheels whose RECORD turned out to be right."""
    files: tuple[str, ...]
    """Absolute paths of every file that was written."""


def install_directory(
    wheels: Iterable[Wheel], scheme: Scheme, *, workers: int | None = None, right_records: Collection[Digest] = ()
) -> Installed:
    """Makes the files of a plan of these wheels; the scheme's paths are absolute ones without their leading slash.

    A distribution that is there in another version is replaced. One that is there as planned stays as it is. A file
    that belongs to nobody is left alone, and so are the other distributions.

    :param right_records: wheels whose RECORD has been compared with their files before; that is not done again.
    :raises InstallError: when the wheels do not go together, a file would overwrite one that belongs to no
        distribution, or a distribution is there that has no record of its files.
    :raises HashMismatch: when a wheel's bytes are not its digest's.
    :raises WheelError: when a wheel is damaged.
    :raises OutputError: when the folder cannot be written.
    """
    site = Path("/", scheme.purelib)
    try:
        site.mkdir(parents=True, exist_ok=True)
        _clean(site)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=site))
        try:
            return _Installation(wheels, scheme, stage, workers or os.cpu_count() or 1, right_records).run()
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{error.filename or site} cannot be written: {error.strerror}",
            hint="Nothing was changed. Make room, change its owner or mode, or name another folder.",
        ) from error


class _Installation:
    def __init__(
        self,
        wheels: Iterable[Wheel],
        scheme: Scheme,
        stage: Path,
        workers: int,
        right_records: Collection[Digest],
    ) -> None:
        self._wheels = sorted(wheels, key=lambda wheel: wheel.name)
        self._scheme = scheme
        self._site = Path("/", scheme.purelib)
        self._stage = stage
        self._workers = workers
        self._right_records = frozenset(right_records)
        self._there = installed_distributions(scheme)
        self._numbers = {wheel.name: number for number, wheel in enumerate(self._wheels)}
        self._undo: list[tuple[Path, Path]] = []
        self._trash = stage / "old"
        self._outside: dict[Path, bool] = {}
        self._real_roots = tuple(os.path.realpath(root).rstrip("/") + "/" for root in roots(scheme))
        self._discarded = 0

    def run(self) -> Installed:
        # What is new is unpacked while it is found out what else there is to do.
        early = self._copies([wheel for wheel in self._wheels if wheel.name not in self._there])
        with Unpacking(list(early.values()), workers=self._workers) as unpacking:
            plan = plan_install(self._wheels, self._scheme)
            unchanged = [wheel for wheel in self._wheels if self._is_there(wheel, plan)]
            changed = [wheel for wheel in self._wheels if wheel not in unchanged]
            files: dict[str, list[PlannedFile]] = {wheel.name: [] for wheel in changed}
            for file in plan.files:
                if file.wheel.name in files:
                    files[file.wheel.name].append(file)
            self._refuse_foreign(changed, files)
            wrong = self._unpack(unpacking, early, changed, files)
        for collision in plan.collisions:
            log.warning("%s", collision)
        if wrong:
            self._correct(wrong, files)
        replaced = {}
        written: list[str] = []
        for wheel in changed:
            old = self._there.get(wheel.name)
            try:
                if old is not None:
                    self._take_out(old)
                    replaced[wheel.name] = old.version
                self._move_in(self._numbers[wheel.name])
            except BaseException:
                self._roll_back()
                raise
            self._undo.clear()
            if old is not None:
                _remove_empty(old.files, self._site)
            written += ["/" + file.path for file in files[wheel.name]]
        with_wrong = {name for name, _ in wrong}
        return Installed(
            new=tuple(wheel.name for wheel in changed if wheel.name not in replaced),
            replaced=replaced,
            unchanged=tuple(wheel.name for wheel in unchanged),
            right_records=tuple(wheel.digest for wheel in changed if wheel.name not in with_wrong),
            files=tuple(written),
        )

    def _is_there(self, wheel: Wheel, plan: InstallPlan) -> bool:
        old = self._there.get(wheel.name)
        if old is None:
            return False
        path = f"{_root_of(wheel, self._scheme)}/{wheel.dist_info}/RECORD"
        planned = next((file.data for file in plan.files if file.path == path), None)
        return planned == old.record and all(file.exists() for file in old.files)

    def _refuse_foreign(self, wheels: Sequence[Wheel], files: Mapping[str, Sequence[PlannedFile]]) -> None:
        """Looks for what stands in the way before anything is unpacked."""
        for wheel in wheels:
            for name in self._legacy(wheel.name):
                raise InstallError(
                    f"{name} is there without a record of its files, so that it cannot be replaced",
                    hint=f"Remove it first: pip uninstall {wheel.name}.",
                )
        going = {path for name in files if (old := self._there.get(name)) for path in old.files}
        owners: dict[Path, str] | None = None
        fresh: dict[str, bool] = {}
        for wheel in wheels:
            for file in files[wheel.name]:
                parent = file.path.rpartition("/")[0]
                if _is_fresh(parent, fresh):
                    continue
                path = Path("/", file.path)
                if self._leads_out(path.parent):
                    raise InstallError(
                        f"{path.parent}, where {wheel.filename} has {path.name}, is reached by a link that leads to"
                        f" {os.path.realpath(path.parent)}, outside of what is installed into",
                        hint="Remove the link, or install into another folder.",
                    )
                if path in going or not os.path.lexists(path):
                    continue
                if owners is None:
                    owners = {path: one.name for one in self._there.values() for path in one.files}
                if path.is_dir() and not path.is_symlink():
                    raise InstallError(
                        f"{path} is a folder, and a file of {wheel.filename}", hint="Move the folder away."
                    )
                if owner := owners.get(path):
                    log.warning("%s of %s is replaced by that of %s", path, owner, wheel.name)
                elif not _holds(path, file):
                    raise InstallError(
                        f"{path} is there and belongs to no distribution; {wheel.filename} has a file of that name",
                        hint="Move it away, or install into another folder.",
                    )

    def _leads_out(self, folder: Path) -> bool:
        """Whether links among a folder's parents lead it out of the folders that are installed into."""
        found = self._outside.get(folder)
        if found is None:
            real = os.path.realpath(folder) + "/"
            found = self._outside[folder] = not real.startswith(self._real_roots)
        return found

    def _legacy(self, name: str) -> list[str]:
        try:
            found = [path.name for path in self._site.iterdir() if path.name.endswith((".egg-info", ".egg-link"))]
        except OSError:
            return []
        return [one for one in found if normalized_name(one.rpartition(".")[0].partition("-")[0]) == name]

    def _staged(self, wheel: Wheel, path: str) -> str:
        number, site = self._numbers[wheel.name], self._scheme.purelib + "/"
        if path.startswith(site):
            return f"{self._stage}/{number}/site/{path[len(site) :]}"
        return f"{self._stage}/{number}/rest/{path}"

    def _copies(self, wheels: Iterable[Wheel]) -> dict[str, NewFile]:
        """What of the wheels is copied as it is, by where it is unpacked."""
        found: dict[str, NewFile] = {}
        for wheel in wheels:
            checks = wheel.digest not in self._right_records
            for path, mode, member in copied_members(wheel, self._scheme):
                staged = self._staged(wheel, path)
                found[staged] = NewFile(staged, mode & 0o100 != 0, wheel, member, None, checks)
        return found

    def _unpack(
        self,
        unpacking: Unpacking,
        early: Mapping[str, NewFile],
        wheels: Sequence[Wheel],
        files: Mapping[str, Sequence[PlannedFile]],
    ) -> Hashes:
        """Unpacks beside its place all that is not on the way; gives the hashes that are not as RECORDs claim."""
        late: list[NewFile] = []
        kept: set[str] = set()
        for wheel in wheels:
            checks = wheel.digest not in self._right_records
            for file in files[wheel.name]:
                staged = self._staged(wheel, file.path)
                if (copy := early.get(staged)) is not None and copy.member is file.member:
                    kept.add(staged)
                else:
                    late.append(NewFile(staged, file.mode & 0o100 != 0, wheel, file.member, file.data, checks))
        try:
            for wheel in sorted(wheels, key=lambda one: -one.size_bytes):
                wheel.verify()
            hashes = unpacking.finish()
            for staged in early.keys() - kept:  # the plan has another file there, or in another wheel's name
                Path(staged).unlink()
            with Unpacking(late, workers=self._workers) as rest:
                hashes |= rest.finish()
        except WainError:
            # A file with other bytes than promised is damaged in many ways; the cause is what to tell.
            for wheel in wheels:
                wheel.verify()
            raise
        if not hashes:
            return {}
        claims = {
            (file.wheel.name, file.member.path): file.digest
            for name in files
            for file in files[name]
            if file.member is not None
        }
        return {key: found for key, found in hashes.items() if key in claims and claims[key] != found}

    def _correct(self, corrections: Hashes, files: Mapping[str, list[PlannedFile]]) -> None:
        """Writes the RECORDs anew that spoke of wrong hashes."""
        for name, path in sorted(corrections):
            log.warning("%s: RECORD has a wrong hash of %s; a right one is written", name, path)
        plan = plan_install(self._wheels, self._scheme, corrections=corrections)
        wrong = {name for name, _ in corrections}
        for file in plan.files:
            if file.wheel.name in wrong and file.path.endswith(".dist-info/RECORD") and file.data is not None:
                Path(self._staged(file.wheel, file.path)).write_bytes(file.data)

    def _take_out(self, old: Distribution) -> None:
        # The record goes first: what is half there is not installed.
        for path in sorted(old.files, key=lambda file: file.name != "RECORD"):
            self._discard(path)
            if path.suffix == ".py":
                for compiled in bytecode_of(path):
                    self._discard(compiled)

    def _discard(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        if self._leads_out(path.parent):
            log.warning("%s is left as it is: it is reached by a link that leads elsewhere", path)
            return
        self._trash.mkdir(exist_ok=True)
        self._discarded += 1
        self._move(path, self._trash / str(self._discarded))

    def _move_in(self, number: int) -> None:
        top = self._stage / str(number)
        rest = top / "rest"
        for path in sorted(path for path in rest.rglob("*") if not path.is_dir()) if rest.exists() else ():
            target = Path("/", path.relative_to(rest))
            target.parent.mkdir(parents=True, exist_ok=True)
            self._replace(path, target)
        site = top / "site"
        if site.exists():
            entries = sorted(site.iterdir(), key=lambda path: (path.name.endswith(".dist-info"), path.name))
            for path in entries:
                self._merge(path, self._site / path.name)

    def _merge(self, staged: Path, target: Path) -> None:
        """Moves a file or tree in; a folder that is not there yet in one step."""
        if not os.path.lexists(target):
            self._move(staged, target)
        elif staged.is_dir():
            for child in sorted(staged.iterdir()):
                self._merge(child, target / child.name)
        else:
            self._replace(staged, target)

    def _replace(self, staged: Path, target: Path) -> None:
        self._discard(target)
        if target.suffix == ".py":
            for compiled in bytecode_of(target):
                self._discard(compiled)
        self._move(staged, target)

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.move(source, target)
        self._undo.append((source, target))

    def _roll_back(self) -> None:
        for source, target in reversed(self._undo):
            try:
                source.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(target, source)
            except OSError as error:
                log.warning("%s could not be put back: %s", source, error.strerror)
        self._undo.clear()


def _root_of(wheel: Wheel, scheme: Scheme) -> str:
    return scheme.purelib if wheel.is_purelib else scheme.platlib


def _is_fresh(folder: str, known: dict[str, bool]) -> bool:
    """Whether a folder is not there, so that nothing can be in the way in it."""
    found = known.get(folder)
    if found is None:
        parent = folder.rpartition("/")[0]
        found = known[folder] = (bool(parent) and _is_fresh(parent, known)) or not Path("/", folder).exists()
    return found


def _holds(path: Path, file: PlannedFile) -> bool:
    """Whether a file has the planned bytes already."""
    try:
        if path.is_symlink() or path.stat().st_size != file.size_bytes:
            return False
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return False
    if file.member is None:
        return found == hashlib.sha256(file.data or b"").digest()
    return row_digest(found) == file.digest


def _remove_empty(files: Iterable[Path], site: Path) -> None:
    """Removes the folders that are empty now, up to site-packages."""
    folders = {parent for path in files for parent in path.parents if parent != site and site in parent.parents}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        cache = folder / "__pycache__"
        for path in (cache, folder):
            with contextlib.suppress(OSError):
                path.rmdir()


def _clean(site: Path) -> None:
    """Removes what a killed installation left an hour ago or earlier."""
    import time

    for path in site.glob(_STAGE_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path, ignore_errors=True)
