"""The directory sink: a plan becomes files of a virtual environment or folder.

Everything is unpacked and checked beside its place, then moved in, a distribution at a time, its `.dist-info` last;
what fails on the way is undone. Files get the present time: with a fixed one an upgraded module of the same size would
run its predecessor's bytecode.

Sources: PyPA specifications, recording installed distributions; PEP 668.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import logging
import os
import posixpath
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from wain.digest import Digest
from wain.errors import InstallError, OutputError, WainError
from wain.install import InstallPlan, PlannedFile, plan_install, row_digest
from wain.wheels import Wheel, normalized_name
from wain.zips import DEFLATED, Member

log = logging.getLogger(__name__)

_STAGE_PREFIX = ".wain-install-"
_MAX_RECORD_BYTES = 64 << 20
_WHOLE_BYTES = 1 << 23
"""What a worker holds of a member at once."""
_FILE_COST_BYTES = 1 << 16
"""What making a file costs, in bytes that could be written meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A distribution that is there already."""

    name: str
    """Normalised."""
    version: str
    info: Path
    """Its `.dist-info` folder."""
    files: tuple[Path, ...]
    """What its RECORD lists, within the roots that may be touched."""
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
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
    plan: InstallPlan, *, workers: int | None = None, right_records: Collection[Digest] = ()
) -> Installed:
    """Makes the plan's files; its scheme's paths are absolute ones without their leading slash.

    A distribution of the plan that is there in another version is replaced. One that is there as planned stays as it
    is. A file that belongs to nobody is left alone, and so are the other distributions.

    :param right_records: wheels whose RECORD has been compared with their files before; that is not done again.
    :raises InstallError: when a file of the plan would overwrite one that belongs to no distribution, or a
        distribution is there that has no record of its files.
    :raises HashMismatch: when a wheel's bytes are not its digest's.
    :raises WheelError: when a wheel is damaged.
    :raises OutputError: when the folder cannot be written.
    """
    site = Path("/", plan.scheme.purelib)
    try:
        site.mkdir(parents=True, exist_ok=True)
        _clean(site)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=site))
        try:
            return _Installation(plan, site, stage, workers or os.cpu_count() or 1, right_records).run()
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{error.filename or site} cannot be written: {error.strerror}",
            hint="Nothing was changed. Make room, change its owner or mode, or name another folder.",
        ) from error


def installed_distributions(plan: InstallPlan) -> dict[str, Distribution]:
    """The distributions in the plan's site-packages, by name."""
    found: dict[str, Distribution] = {}
    roots = _roots(plan)
    for place in dict.fromkeys((plan.scheme.purelib, plan.scheme.platlib)):
        try:
            names = sorted(path.name for path in Path("/", place).iterdir() if path.name.endswith(".dist-info"))
        except OSError:
            continue
        for name in names:
            known, _, version = name.removesuffix(".dist-info").rpartition("-")
            info = Path("/", place, name)
            record = _read(info / "RECORD")
            found[normalized_name(known)] = Distribution(
                name=normalized_name(known),
                version=version,
                info=info,
                files=tuple(_record_files(record, Path("/", place), roots)),
                record=record,
            )
    return found


def refuse_managed(site: Path) -> None:
    """:raises InstallError: when another package manager says that site-packages are its own (PEP 668)."""
    for folder in (site, *site.parents):
        candidates = [folder / "EXTERNALLY-MANAGED"]
        if folder.name.startswith("python") and folder.parent.name in ("lib", "lib64"):
            with contextlib.suppress(OSError):
                candidates += sorted(folder.parent.glob("python3*/EXTERNALLY-MANAGED"))
        for marker in candidates:
            if marker.is_file():
                raise InstallError(
                    f"{site} is managed by another package manager: {marker} says so",
                    hint="Install into a virtual environment with --venv, or into a folder of your own with --target.",
                )


class _Installation:
    def __init__(
        self, plan: InstallPlan, site: Path, stage: Path, workers: int, right_records: Collection[Digest]
    ) -> None:
        self._right_records = frozenset(right_records)
        self._plan = plan
        self._site = site
        self._stage = stage
        self._workers = workers
        self._there = installed_distributions(plan)
        self._undo: list[tuple[Path, Path]] = []
        self._trash = stage / "old"
        self._outside: dict[Path, bool] = {}
        self._real_roots = tuple(os.path.realpath(root).rstrip("/") + "/" for root in _roots(plan))
        self._discarded = 0

    def run(self) -> Installed:
        unchanged = [wheel for wheel in self._plan.wheels if self._is_there(wheel)]
        wheels = [wheel for wheel in self._plan.wheels if wheel not in unchanged]
        files: dict[str, list[PlannedFile]] = {wheel.name: [] for wheel in wheels}
        for file in self._plan.files:
            if file.wheel.name in files:
                files[file.wheel.name].append(file)
        self._refuse_foreign(wheels, files)
        corrections = self._unpack(wheels, files)
        if corrections:
            self._correct(corrections, files)
        replaced = {}
        written: list[str] = []
        for number, wheel in enumerate(wheels):
            old = self._there.get(wheel.name)
            try:
                if old is not None:
                    self._take_out(old)
                    replaced[wheel.name] = old.version
                self._move_in(number, files[wheel.name])
            except BaseException:
                self._roll_back()
                raise
            self._undo.clear()
            if old is not None:
                _remove_empty(old.files, self._site)
            written += ["/" + file.path for file in files[wheel.name]]
        return Installed(
            new=tuple(wheel.name for wheel in wheels if wheel.name not in replaced),
            replaced=replaced,
            unchanged=tuple(wheel.name for wheel in unchanged),
            right_records=tuple(
                wheel.digest for wheel in wheels if wheel.name not in {name for name, _ in corrections}
            ),
            files=tuple(written),
        )

    def _is_there(self, wheel: Wheel) -> bool:
        old = self._there.get(wheel.name)
        if old is None:
            return False
        path = f"{_root_of(wheel, self._plan)}/{wheel.dist_info}/RECORD"
        planned = next((file.data for file in self._plan.files if file.path == path), None)
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

    def _staged(self, number: int, path: str) -> str:
        site = self._plan.scheme.purelib + "/"
        if path.startswith(site):
            return f"{self._stage}/{number}/site/{path[len(site) :]}"
        return f"{self._stage}/{number}/rest/{path}"

    def _unpack(
        self, wheels: Sequence[Wheel], files: Mapping[str, Sequence[PlannedFile]]
    ) -> dict[tuple[str, str], str]:
        """Unpacks everything beside its place; gives the hashes that are not as the wheels' RECORDs claim."""
        jobs: list[_Job] = []
        for number, wheel in enumerate(wheels):
            checks = wheel.digest not in self._right_records
            jobs += [_Job(self._staged(number, file.path), file, checks) for file in files[wheel.name]]
        try:
            return _in_parallel(jobs, wheels, self._workers)
        except WainError:
            # A file with other bytes than promised is damaged in many ways; the cause is what to tell.
            for wheel in wheels:
                wheel.verify()
            raise

    def _correct(self, corrections: Mapping[tuple[str, str], str], files: Mapping[str, list[PlannedFile]]) -> None:
        """Writes the RECORDs anew that spoke of wrong hashes."""
        for name, path in sorted(corrections):
            log.warning("%s: RECORD has a wrong hash of %s; a right one is written", name, path)
        plan = plan_install(self._plan.wheels, self._plan.scheme, corrections=corrections)
        numbers = {name: number for number, name in enumerate(files)}
        wrong = {name for name, _ in corrections}
        for file in plan.files:
            if file.wheel.name in wrong and file.path.endswith(".dist-info/RECORD") and file.data is not None:
                Path(self._staged(numbers[file.wheel.name], file.path)).write_bytes(file.data)

    def _take_out(self, old: Distribution) -> None:
        # The record goes first: what is half there is not installed.
        for path in sorted(old.files, key=lambda file: file.name != "RECORD"):
            self._discard(path)
            if path.suffix == ".py":
                for compiled in _bytecode_of(path):
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

    def _move_in(self, number: int, files: Sequence[PlannedFile]) -> None:
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
            for compiled in _bytecode_of(target):
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


def _make_folders(folder: str, made: set[str]) -> None:
    """Makes a folder with its parents, which other workers make meanwhile too."""
    try:
        os.mkdir(folder)  # noqa: PTH102  # three thousand times in a large installation
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_folders(folder.rpartition("/")[0], made)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)  # noqa: PTH102
    made.add(folder)


class _Job(NamedTuple):
    path: str
    file: PlannedFile
    checks_record: bool


def _shares(jobs: Sequence[_Job], count: int) -> list[Sequence[_Job]]:
    """The jobs in runs of about the same work: neighbours stay together, so that two workers seldom write into one
    folder, where they would wait for each other."""
    total = sum(job.file.size_bytes + _FILE_COST_BYTES for job in jobs)
    shares: list[Sequence[_Job]] = []
    start, done = 0, 0
    for number, job in enumerate(jobs):
        done += job.file.size_bytes + _FILE_COST_BYTES
        if done * count >= total * (len(shares) + 1):
            shares.append(jobs[start : number + 1])
            start = number + 1
    return shares


def _in_parallel(jobs: Sequence[_Job], wheels: Sequence[Wheel], workers: int) -> dict[tuple[str, str], str]:
    """Does the jobs on every core, and compares the wheels with their digests meanwhile.

    In processes where that is safe: with many small files, threads wait for each other more than they work.
    """
    corrections: dict[tuple[str, str], str] = {}
    largest_first = sorted(wheels, key=lambda one: -one.size_bytes)
    if workers == 1 or not hasattr(os, "fork") or threading.active_count() > 1:
        with ThreadPoolExecutor(max(2, workers), thread_name_prefix="install") as pool:
            verified = [pool.submit(wheel.verify) for wheel in largest_first]
            written = [pool.submit(_write_files, share) for share in _shares(jobs, 4 * workers)]
            try:
                for done in verified:
                    done.result()
                for found in written:
                    corrections.update(found.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return corrections
    children: dict[int, tuple[int, Sequence[_Job]]] = {}
    try:
        for share in _shares(jobs, workers):
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                _work(share, writer)
            os.close(writer)
            children[child] = reader, share
        for wheel in largest_first:
            wheel.verify()
        for child, (reader, share) in list(children.items()):
            said = b""
            while chunk := os.read(reader, 1 << 16):
                said += chunk
            os.waitpid(child, 0)
            del children[child]
            os.close(reader)
            try:
                corrections.update({(name, path): digest for name, path, digest in json.loads(said)})
            except ValueError:
                # It failed; done again here, what failed tells why.
                corrections.update(_write_files(share))
    finally:
        for child, (reader, _) in children.items():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
    return corrections


def _work(share: Sequence[_Job], writer: int) -> NoReturn:
    """The whole life of a child process."""
    try:
        found = _write_files(share)
        with os.fdopen(writer, "wb") as stream:
            stream.write(json.dumps([[name, path, digest] for (name, path), digest in found.items()]).encode())
    finally:
        os._exit(0)


def _write_files(jobs: Sequence[_Job]) -> dict[tuple[str, str], str]:
    """Writes them; gives the hashes that are not as the wheel's RECORD claims."""
    wrong: dict[tuple[str, str], str] = {}
    made: set[str] = set()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
    for path, file, checks_record in jobs:
        folder = path.rpartition("/")[0]
        if folder not in made:
            _make_folders(folder, made)
        # With the umask, as for any file that the user makes.
        fd = os.open(path, flags, 0o777 if file.mode & 0o100 else 0o666)
        try:
            if file.member is None:
                _write_all(fd, file.data or b"")
            elif not checks_record:
                for chunk in _pieces(file.wheel, file.member):
                    _write_all(fd, chunk)
            else:
                digest = hashlib.sha256()
                for chunk in _pieces(file.wheel, file.member):
                    digest.update(chunk)
                    _write_all(fd, chunk)
                found = row_digest(digest.digest())
                if found != file.digest:
                    wrong[file.wheel.name, file.member.path] = found
        finally:
            os.close(fd)
    return wrong


def _pieces(wheel: Wheel, member: Member) -> Iterable[bytes | bytearray | memoryview]:
    """A member's uncompressed bytes; those of a small one in a single step, which is faster.

    :raises WheelError: when the stream is damaged, or size or CRC differ from those promised.
    """
    from deflate import DeflateError, deflate_decompress
    from isal.isal_zlib import crc32

    if member.method != DEFLATED or member.size_bytes > _WHOLE_BYTES:
        return wheel.chunks(member)
    try:
        data = deflate_decompress(wheel.raw(member), member.size_bytes)
    except DeflateError:
        return wheel.chunks(member)
    # What is not as promised is read again by the reader that says what is wrong.
    return (data,) if len(data) == member.size_bytes and crc32(data) == member.crc else wheel.chunks(member)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            view = view[os.write(fd, view) :]


def _root_of(wheel: Wheel, plan: InstallPlan) -> str:
    return plan.scheme.purelib if wheel.is_purelib else plan.scheme.platlib


def _roots(plan: InstallPlan) -> tuple[str, ...]:
    scheme = plan.scheme
    places = {scheme.purelib, scheme.platlib, scheme.scripts, scheme.headers, scheme.data}
    return tuple(f"/{place}/" for place in sorted(places))


def _record_files(record: bytes, site: Path, roots: tuple[str, ...]) -> Iterator[Path]:
    """The files that a RECORD lists; what lies outside of the roots is never touched."""
    try:
        rows = list(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
    except csv.Error:
        return
    for row in rows:
        if row and row[0]:
            path = posixpath.normpath(posixpath.join(str(site), row[0]))
            if path.startswith(roots):
                yield Path(path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_RECORD_BYTES)
    except OSError:
        return b""


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


def _bytecode_of(module: Path) -> list[Path]:
    try:
        return list((module.parent / "__pycache__").glob(f"{glob.escape(module.stem)}.*.pyc"))
    except OSError:
        return []


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
