"""Editable wheels: built where a project stands now, for a place where it will stand.

What the back end writes names the place of the build; every such text is made to name the other. Only text can be:
what is compiled has to be built in its place.

Sources: PEP 660; PEP 610.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from wain.digest import Digest
from wain.errors import SdistError
from wain.oci import canonical_json

_MAX_LEFT_BYTES = 4 << 20
_MAX_MEMBER_BYTES = 64 << 20


class NotEditable(Exception):
    """A project whose editable installation has to be made where it will stand; the message says why."""


class EditablePlace(Struct, frozen=True, kw_only=True):
    """Where an editable project will stand."""

    path: str
    """Absolute, without a slash at its end."""
    direct_url: str
    """What direct_url.json says of it, as the installer writes it."""


Snapshot = Mapping[str, str]
"""Paths below a folder with what tells a change; no directories."""


def snapshot(folder: Path) -> Snapshot:
    """What stands in a project's folder.

    :raises SdistError: when it cannot be read.
    """
    found: dict[str, str] = {}
    try:
        for path in _files(folder):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
                continue
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            found[name] = f"{executable} {Digest.of_file(path)}"
    except OSError as error:
        raise SdistError(
            f"{error.filename} cannot be read: {error.strerror}", hint="Make the project's files readable."
        ) from error
    return found


def snapshot_digest(found: Snapshot) -> Digest:
    return Digest.of(canonical_json({**found}))


def left_behind(before: Snapshot, folder: Path, place: EditablePlace) -> dict[str, str]:
    """The texts that a build wrote beside its source: path below the project's folder -> text.

    :raises NotEditable: when some of it is no text.
    """
    built_at = os.path.realpath(folder)
    left: dict[str, str] = {}
    size = 0
    for name, what in snapshot(folder).items():
        if before.get(name) == what or "__pycache__" in name.split("/"):
            continue
        path = folder / name
        size += path.lstat().st_size
        if path.is_symlink() or size > _MAX_LEFT_BYTES:
            raise NotEditable(f"the back end writes {name} beside the source")
        try:
            left[name] = path.read_bytes().decode("utf-8").replace(built_at, place.path)
        except UnicodeDecodeError as error:
            raise NotEditable(f"{name} is compiled beside the source") from error
    return left


def point_to(wheel: Path, built_at: Path, place: EditablePlace) -> None:
    """Makes an editable wheel name the place in place of where it was built, and say that it is editable.

    :raises NotEditable: when it holds more than text.
    :raises SdistError: when it is damaged.
    """
    here, there = os.path.realpath(built_at).encode(), place.path.encode()
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.file_size > _MAX_MEMBER_BYTES:
                    raise NotEditable(f"{info.filename} in its wheel is large")
                data = archive.read(info)
                if data.startswith(b"\x7fELF"):
                    raise NotEditable(f"{info.filename} is compiled")
                members[info.filename] = data.replace(here, there)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise SdistError(f"{wheel.name} is damaged: {error}", hint="Name another version.") from error
    record = next((name for name in members if name.endswith(".dist-info/RECORD") and name.count("/") == 1), None)
    if record is None:
        raise SdistError(f"{wheel.name} has no RECORD", hint="Name another version.")
    del members[record]
    members[f"{record.removesuffix('RECORD')}direct_url.json"] = place.direct_url.encode()
    rows = [f"{_quoted(name)},sha256={_row_hash(data)},{len(data)}\n" for name, data in sorted(members.items())]
    members[record] = "".join([*rows, f"{_quoted(record)},,\n"]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            made.external_attr = (stat.S_IFREG | 0o644) << 16
            made.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(made, data)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted((*names, *(one for one in folders if (Path(where) / one).is_symlink()))):
            yield Path(where) / name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def _row_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
