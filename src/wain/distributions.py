"""The distributions that a folder of this machine has, by their records, and whether it is another's to change.

Sources: PyPA specifications, recording installed distributions; PEP 668.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import posixpath
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from wain.errors import InstallError
from wain.install import Scheme
from wain.wheels import normalized_name

_MAX_RECORD_BYTES = 64 << 20


class Distribution(Struct, frozen=True, kw_only=True):
    """A distribution that is there already."""

    name: str
    """Normalised."""
    version: str
    info: Path
    """Its `.dist-info` folder."""
    files: tuple[Path, ...]
    """What its RECORD lists, within the roots that may be touched."""
    record: bytes


def installed_distributions(scheme: Scheme) -> dict[str, Distribution]:
    """The distributions in a scheme's site-packages, by name."""
    found: dict[str, Distribution] = {}
    within = roots(scheme)
    for place in dict.fromkeys((scheme.purelib, scheme.platlib)):
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
                files=tuple(_record_files(record, Path("/", place), within)),
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


def roots(scheme: Scheme) -> tuple[str, ...]:
    """The folders that an installation may touch, with a slash at both ends."""
    places = {scheme.purelib, scheme.platlib, scheme.scripts, scheme.headers, scheme.data}
    return tuple(f"/{place}/" for place in sorted(places))


def bytecode_of(module: Path) -> list[Path]:
    """The bytecode that lies beside a module, of any Python."""
    try:
        return list((module.parent / "__pycache__").glob(f"{glob.escape(module.stem)}.*.pyc"))
    except OSError:
        return []


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
