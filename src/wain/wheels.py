"""Wheels: files whose hash matches, their members without unpacking, their metadata.

Sources: PyPA specifications, binary distribution format, core metadata, recording installed distributions,
entry points.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import logging
import mmap
import re
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.digest import Digest
from wain.errors import HashMismatch, WheelError
from wain.zips import MAX_PART_BYTES, Inflation, Member, read_members

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

MAX_METADATA_BYTES = 64 << 20
"""The largest file of a .dist-info folder, or script, that is read."""
_MAX_SCRIPTS = 10_000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_WHEEL_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,9}")
_HINT = "The wheel is damaged or hostile: fetch it again, or build it again and tell who publishes it."


class EntryPoint(Struct, frozen=True, kw_only=True):
    """A script that an installer makes: its name, and the object that it calls."""

    name: str
    module: str
    attribute: str
    """Dotted, within the module."""
    is_gui: bool = False


class Metadata(Struct, frozen=True, kw_only=True):
    """What METADATA says of a distribution, as far as wain asks."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    provides_extra: tuple[str, ...] = ()
    summary: str = ""
    license: str = ""


def normalized_name(name: str) -> str:
    """PEP 503's form of a distribution's name.

    >>> normalized_name("Ruamel_YAML..clib")
    'ruamel-yaml-clib'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


class Wheel:
    """A wheel file: its members and metadata. Made by `open`, which checks its structure; closed by its user.

    The file's bytes are compared with the digest by `verify`, which whoever uses members calls, at the latest
    when it has read them and before it lets anything out. Safe for threads.
    """

    def __init__(self, data: mmap.mmap, *, filename: str, digest: Digest, verified: bool) -> None:
        self._map = data
        self.data = memoryview(data)
        """The file's bytes, mapped: reading them costs no anonymous memory."""
        self.filename = filename
        self.digest = digest
        self._verified = verified
        fields = _parse_filename(filename)
        self.version: str = fields["version"]
        self.tags: str = f"{fields['python']}-{fields['abi']}-{fields['platform']}"
        """As in the filename: compressed sets, `py2.py3-none-any`."""
        self.members: tuple[Member, ...] = read_members(self.data, what=filename)
        """In the order of the archive's central directory; without its directories."""
        self.by_path: Mapping[str, Member] = {member.path: member for member in self.members}
        self.dist_info = self._find_dist_info(fields["name"], fields["version"])
        """Name of the `.dist-info` folder."""
        self.name = normalized_name(fields["name"])
        """Normalised."""

    @classmethod
    def open(cls, path: Path, *, digest: Digest, filename: str = "", verified: bool = False) -> Wheel:
        """The wheel in a file.

        :param filename: the wheel's own name, where the file is not called so (in the store).
        :param verified: whether the file's bytes have been compared with `digest` by this process.
        :raises WheelError: when the file is no wheel, is damaged or hostile, or cannot be read.
        """
        filename = filename or path.name
        try:
            with path.open("rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise WheelError(f"{filename} cannot be read: {error}", hint=_HINT) from error
        try:
            wheel = cls(data, filename=filename, digest=digest, verified=verified)
        except BaseException:
            _close(data)
            raise
        try:
            wheel._check_metadata()
        except BaseException:
            wheel.close()
            raise
        return wheel

    def close(self) -> None:
        """Lets the file go; members cannot be read any more."""
        self.data.release()
        _close(self._map)

    def __enter__(self) -> Wheel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Wheel {self.filename}>"

    @property
    def size_bytes(self) -> int:
        """Of the wheel file."""
        return len(self.data)

    @cached_property
    def unpacked_bytes(self) -> int:
        """Sum of the members' sizes."""
        return sum(member.size_bytes for member in self.members)

    @property
    def data_folder(self) -> str:
        """Name of the `.data` folder, whether the wheel has one or not."""
        return self.dist_info.removesuffix(".dist-info") + ".data"

    def verify(self) -> None:
        """Compares the file's bytes with the digest, once.

        :raises HashMismatch: when they differ.
        """
        if self._verified:
            return
        found = hashlib.new(self.digest.algorithm)
        for start in range(0, len(self.data), 1 << 22):
            found.update(self.data[start : start + (1 << 22)])
        if found.hexdigest() != self.digest.hex:
            raise HashMismatch(
                f"{self.filename} has digest {self.digest.algorithm}:{found.hexdigest()}, not {self.digest}",
                hint="Run it again to fetch it anew; if it happens again, its source serves wrong bytes.",
            )
        self._verified = True

    def raw(self, member: Member) -> memoryview:
        """A member's bytes as they stand in the file."""
        return self.data[member.offset : member.offset + member.compressed_bytes]

    def chunks(self, member: Member) -> Iterator[bytes]:
        """A member's uncompressed bytes, in pieces of at most 256 KiB; right when the iteration has ended.

        :raises WheelError: when the stream is damaged, or size or CRC differ from those promised.
        """
        return Inflation(self.data, member, self.wrong).chunks()

    def read(self, member: Member, *, max_bytes: int = MAX_METADATA_BYTES) -> bytes:
        """A member's uncompressed bytes.

        :raises WheelError: when they are damaged or more than `max_bytes`.
        """
        if member.size_bytes > max_bytes:
            raise self.wrong(f"{member.path} has {member.size_bytes} bytes, more than the {max_bytes} allowed")
        return b"".join(self.chunks(member))

    def read_metadata_file(self, name: str) -> bytes | None:
        """A file of the `.dist-info` folder; None where there is none.

        :raises WheelError: when it is damaged or unreasonably large.
        """
        member = self.by_path.get(f"{self.dist_info}/{name}")
        return None if member is None else self.read(member)

    @cached_property
    def metadata(self) -> Metadata:
        """What METADATA says.

        :raises WheelError: when it is missing, damaged, or another distribution's than the filename says.
        """
        data = self.read_metadata_file("METADATA")
        if data is None:
            raise self.wrong(f"it has no {self.dist_info}/METADATA")
        message = HeaderParser().parsestr(data.decode("utf-8", "replace"))

        def one(key: str) -> str:
            return str(message.get(key) or "").strip()

        def several(key: str) -> tuple[str, ...]:
            return tuple(" ".join(str(value).split()) for value in message.get_all(key) or ())

        return Metadata(
            name=one("Name"),
            version=one("Version"),
            requires=several("Requires-Dist"),
            requires_python=one("Requires-Python"),
            provides_extra=several("Provides-Extra"),
            summary=one("Summary"),
            license=one("License-Expression") or one("License").partition("\n")[0],
        )

    @cached_property
    def is_purelib(self) -> bool:
        """Whether the archive's root goes to purelib, else to platlib.

        :raises WheelError: when WHEEL is missing or of a version that is not known.
        """
        data = self.read_metadata_file("WHEEL")
        if data is None:
            raise self.wrong(f"it has no {self.dist_info}/WHEEL")
        message = HeaderParser().parsestr(data.decode("utf-8", "replace"))
        version = str(message.get("Wheel-Version") or "").strip()
        if not _WHEEL_VERSION.fullmatch(version):
            raise self.wrong(f"its Wheel-Version is {version[:100]!r}")
        if int(version.partition(".")[0]) > 1:
            raise WheelError(
                f"{self.filename} is of wheel version {version}, which is not known",
                hint="Take another version of the distribution, or a newer wain.",
            )
        if version != "1.0":
            log.warning("%s is of wheel version %s; it is read as 1.0", self.filename, version)
        return str(message.get("Root-Is-Purelib") or "").strip().lower() == "true"

    @cached_property
    def record(self) -> Mapping[str, str]:
        """RECORD's hashes of members by path, as `sha256=` and unpadded URL-safe base64; hexadecimal ones are read too.

        Of what has none, or one of another kind, it is empty.

        :raises WheelError: when there is no RECORD.
        """
        data = self.read_metadata_file("RECORD")
        if data is None:
            raise self.wrong(f"it has no {self.dist_info}/RECORD")
        rows: dict[str, str] = {}
        try:
            for fields in csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline="")):
                if not fields or fields[0] not in self.by_path:
                    continue
                found = fields[1] if len(fields) > 1 else ""
                rows[fields[0]] = found if len(found) == 50 and found[:7] == "sha256=" else _record_digest(found)
        except csv.Error as error:
            log.warning("%s: its RECORD is malformed (%s); a right one is written", self.filename, error)
        return rows

    @cached_property
    def entry_points(self) -> tuple[EntryPoint, ...]:
        """The console and gui scripts of entry_points.txt, in its order; the last of one name counts.

        :raises WheelError: when one is malformed.
        """
        data = self.read_metadata_file("entry_points.txt")
        if data is None:
            return ()
        found: dict[str, EntryPoint] = {}
        section = ""
        for raw in data.decode("utf-8", "replace").splitlines():
            line = raw.strip()
            if not line or line[0] in "#;":
                continue
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1].strip()
            elif section in ("console_scripts", "gui_scripts"):
                point = self._entry_point(line, is_gui=section == "gui_scripts")
                found[point.name] = point
                if len(found) > _MAX_SCRIPTS:
                    raise self.wrong(f"it has more than {_MAX_SCRIPTS} entry points")
        return tuple(found.values())

    def wrong(self, detail: str) -> WheelError:
        """An error about this wheel."""
        return WheelError(f"{self.filename}: {detail}", hint=_HINT)

    def _entry_point(self, line: str, *, is_gui: bool) -> EntryPoint:
        name, equals, value = (part.strip() for part in line.partition("="))
        match = re.fullmatch(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*)\s*:\s*([^\W\d]\w*(?:\.[^\W\d]\w*)*)\s*(?:\[.*\])?", value)
        if not equals or not match:
            raise self.wrong(f"its entry point {line[:100]!r} is not of the form name = module:function")
        if not name or name in (".", "..") or "/" in name or not name.isprintable():
            raise self.wrong(f"its entry point {name[:100]!r} cannot be a script's name")
        if len(name.encode()) > MAX_PART_BYTES:
            raise self.wrong(f"its entry point {name[:100]!r}... has a name longer than any file system allows")
        return EntryPoint(name=name, module=match[1], attribute=match[2], is_gui=is_gui)

    def _find_dist_info(self, name: str, version: str) -> str:
        folders = {member.path.partition("/")[0] for member in self.members if ".dist-info/" in member.path}
        folders = {folder for folder in folders if folder.endswith(".dist-info")}
        if len(folders) != 1:
            raise self.wrong(f"it has {len(folders)} .dist-info folders" if folders else "it has no .dist-info folder")
        folder = folders.pop()
        if not normalized_name(folder).startswith(normalized_name(name)):
            raise self.wrong(f"its {folder} is another distribution's than its filename says ({name} {version})")
        return folder

    def _check_metadata(self) -> None:
        metadata = self.metadata
        if normalized_name(metadata.name) != self.name:
            raise self.wrong(f"its metadata is of {metadata.name[:100]!r}")
        if not _NAME.fullmatch(metadata.name):
            raise self.wrong(f"{metadata.name[:100]!r} is no name of a distribution")
        if metadata.version != self.version:
            from packaging.version import Version

            try:
                same = Version(metadata.version[:1000]) == Version(self.version.replace("_", "-"))
            except ValueError:
                same = metadata.version.replace("-", "_") == self.version.replace("-", "_")
            if not same:
                raise self.wrong(f"its metadata is of version {metadata.version[:100]!r}")


def _close(data: mmap.mmap) -> None:
    try:
        data.close()
    except BufferError:
        # Someone still looks at a member; the map goes when the last of them does.
        log.debug("a wheel is closed while its bytes are in use")


def _parse_filename(filename: str) -> dict[str, str]:
    match = re.fullmatch(
        r"(?P<name>[^-/]+)-(?P<version>[^-/]+)(?:-(?P<build>\d[^-/]*))?"
        r"-(?P<python>[^-/]+)-(?P<abi>[^-/]+)-(?P<platform>[^-/]+)\.whl",
        filename,
    )
    if match is None:
        raise WheelError(
            f"{filename!r} is not the filename of a wheel",
            hint="A wheel is called NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl.",
        )
    return {key: value or "" for key, value in match.groupdict().items()}


def _record_digest(text: str) -> str:
    """A RECORD's hash as `sha256=` and unpadded URL-safe base64; hexadecimal is read too; else empty."""
    algorithm, _, value = text.partition("=")
    if algorithm != "sha256":
        return ""
    if len(value) == 43:
        return text
    if re.fullmatch(r"[0-9a-fA-F]{64}", value):
        value = base64.urlsafe_b64encode(bytes.fromhex(value)).decode()
    return "sha256=" + value.rstrip("=")
