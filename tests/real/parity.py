"""Whether wain gives the files that pip gives: `python -m tests.real.parity [NAME[==VERSION]...]`.

Both install the same wheels into /opt/venv of the same base: pip (the newest, `--no-compile --no-deps`) in a container
with an environment that the base's own `venv` made, and `wain build` of a folder whose requirements.txt pins and hashes
them. Then every name, byte, executable bit and link is compared. parity.toml has the distributions, and the differences
that are allowed with a reason each. Without a name all of the list are compared but the heavy ones; `--heavy` takes
those, and a name any distribution of the package index.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.machines.bases import Base, debian_base, official_like_base
from tests.real.machines.index_front import IndexFront, serve_index_front
from tests.real.machines.places import remove_tree
from tests.real.machines.processes import run
from tests.real.machines.runtime import Bundle, blob_path, select_manifest, unpack_image
from tests.real.machines.wain import Wain
from wain.interpreters import find_interpreter
from wain.settings import normalize_name
from wain.store import Store

DATA = Path(__file__).with_name("parity.toml")
VENV = "opt/venv"
_PIP = "/.parity/pip"
_WHEELS = "/.parity/wheels"
_OWN_FILES = ("INSTALLER", "REQUESTED", "RECORD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One that is compared, and why."""

    name: str
    version: str | None = None
    """None: the newest."""
    why: str = ""
    python: str = "3.13"
    batch: str = ""
    """Those with the same word here are installed together, and with no other."""
    heavy: bool = False
    run: str = ""
    """A command that runs in the image with status 0; its first word is looked up on PATH."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """A difference that may be. One of parity.toml's, each with its reason."""

    path: re.Pattern[str]
    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A path, relative to /opt/venv, that wain and pip have differently."""

    path: str
    what: str
    """`only pip`, `only wain`, `kind`, `bytes`, `executable`, `link`, `launcher`, `record`, `settings` or `owner`."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a comparison found."""

    distributions: tuple[str, ...]
    """`name==version` of each, as pip chose it."""
    files: int
    differences: tuple[Difference, ...]
    """Those that are not allowed."""
    allowed: tuple[Difference, ...]
    installed: tuple[str, ...]
    """What of them `wain install` and pip put here: all where this machine has the Python, else what fits any."""
    installed_differently: tuple[Difference, ...]
    """Those that are not allowed."""
    wain_told: str
    """Its standard error."""
    image: Path = field(repr=False)
    """An OCI layout with wain's image."""


def load() -> tuple[str, tuple[Distribution, ...], tuple[Allowed, ...]]:
    """(version of pip, distributions, allowed differences) of parity.toml."""
    document = tomllib.loads(DATA.read_text())
    distributions = tuple(Distribution(**entry) for entry in document["distributions"])
    allowed = tuple(
        Allowed(path=re.compile(entry["path"]), what=entry["what"], reason=entry["reason"])
        for entry in document["allowed"]
    )
    return document["pip"], distributions, allowed


def batches(distributions: Sequence[Distribution]) -> list[tuple[Distribution, ...]]:
    """Those that are installed together: of one Python, no name twice, each heavy one alone."""
    rows: dict[tuple[str, str], list[list[Distribution]]] = {}
    for item in distributions:
        key = (item.python, item.batch or (f"heavy {item.requirement}" if item.heavy else ""))
        several = rows.setdefault(key, [])
        for row in several:
            if all(other.name != item.name for other in row):
                row.append(item)
                break
        else:
            several.append([item])
    return [tuple(row) for several in rows.values() for row in several]


def base_of(python: str) -> Base:
    """The base for that minor version: like the official image for 3.13, Debian's own for 3.11."""
    return official_like_base("3.13") if python == "3.13" else debian_base({"3.11": "bookworm"}[python])


class Parity:
    """Comparisons that share an unpacked base for each Python, and a folder that is the caller's to remove."""

    def __init__(self, folder: Path, *, front: IndexFront, wain: Wain, pip: str, allowed: Sequence[Allowed]) -> None:
        self.folder = folder
        self._front = front
        self._wain = wain
        self._pip_version = pip
        self._allowed = allowed
        self._bundles: dict[str, Bundle] = {}
        self._count = 0

    def compare(self, batch: Sequence[Distribution], *, links: Path | None = None) -> Compared:
        """Install a batch with both, and compare.

        :param links: a folder of wheels that are taken before the index's.
        :raises AssertionError: when pip or wain fails.
        """
        self._count += 1
        folder = self.folder / f"batch-{self._count}"
        python = batch[0].python
        wheels = folder / "wheels"
        theirs = self._pip(batch, python, wheels, links)
        pins = sorted(_pin(path) for path in wheels.iterdir())
        image, told = self._build(folder, base_of(python), wheels, pins, own_wheels=links is not None)
        ours = _unpack_layers(image, folder / "ours", below=len(_layers(base_of(python).layout)))
        files, found = compare_trees(theirs, ours / VENV, base=self._bundles[python].rootfs, wheels=wheels)
        allowed = tuple(one for one in found if self._is_allowed(one))
        installed, differently = self._compare_installations(batch, wheels, pins)
        remove_tree(theirs)
        remove_tree(ours)
        return Compared(
            distributions=tuple(pin.split(" ")[0] for pin in pins),
            files=files,
            differences=tuple(one for one in found if one not in allowed),
            allowed=allowed,
            installed=installed,
            installed_differently=differently,
            wain_told=told,
            image=image,
        )

    def _compare_installations(
        self, batch: Sequence[Distribution], wheels: Path, pins: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[Difference, ...]]:
        """What `wain install` and pip put into an environment at one place of this machine."""
        with Store.open(None) as store:
            interpreter = find_interpreter(batch[0].python, store)
        anywhere = {_pin(path) for path in wheels.iterdir() if path.name.endswith("-none-any.whl")}
        chosen = [pin for pin in pins if interpreter or pin in anywhere]
        requirements = wheels.parent / "requirements.txt"
        # pip calls a folder of headers as its user spells the distribution.
        spelled = {normalize_name(item.name): item.name for item in batch}
        names = {pin: pin.partition("==")[0] for pin in chosen}
        lines = [pin.replace(name, spelled.get(normalize_name(name), name), 1) for pin, name in names.items()]
        requirements.write_text("".join(f"{line}\n" for line in lines))
        venv, theirs = wheels.parent / "venv", wheels.parent / "installed"
        source = ["--no-index", "--find-links", wheels, "-r", requirements]
        pip = [sys.executable, self._pip_folder() / "pip", "--python", venv / "bin" / "python", "install", "--quiet"]
        options = ["--no-compile", "--no-deps", "--ignore-requires-python", "--disable-pip-version-check"]
        make_venv = [interpreter or sys.executable, "-m", "venv", "--without-pip", venv]
        run(make_venv)
        run([*pip, *options, *source], env={**self._front.pip_env, "PIP_NO_CACHE_DIR": "1"}, timeout_seconds=600)
        venv.rename(theirs)
        run(make_venv)
        self._wain("install", "--venv", venv, "--no-compile", *source)
        _, found = compare_trees(theirs, venv, base=Path("/"), wheels=wheels)
        remove_tree(theirs)
        remove_tree(venv)
        return (
            tuple(pin.split(" ")[0] for pin in chosen),
            tuple(one for one in found if not self._is_allowed(one)),
        )

    def _is_allowed(self, difference: Difference) -> bool:
        return any(one.what == difference.what and one.path.search(difference.path) for one in self._allowed)

    def _bundle(self, python: str) -> Bundle:
        if python not in self._bundles:
            self._bundles[python] = unpack_image(base_of(python).layout, self.folder / f"base-{python}", tag="latest")
        return self._bundles[python]

    def _pip_folder(self) -> Path:
        """pip of that version, unpacked."""
        folder = self.folder / "pip"
        if not folder.exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            wheel = self.folder / "pip-wheel"
            run([*command, "--dest", wheel, f"pip=={self._pip_version}"], env=self._front.pip_env)
            with zipfile.ZipFile(next(wheel.iterdir())) as archive:
                archive.extractall(folder)
        return folder

    def _pip(self, batch: Sequence[Distribution], python: str, wheels: Path, links: Path | None) -> Path:
        """The /opt/venv that pip gives; the wheels it chose are in `wheels` afterwards."""
        bundle = self._bundle(python)
        wheels.mkdir(parents=True)
        kept = bundle.rootfs / _WHEELS.strip("/")
        kept.mkdir(parents=True)
        remove_tree(bundle.rootfs / VENV)
        if links is not None:
            for path in links.iterdir():
                shutil.copy(path, kept)
        environment = {key: value for key, value in self._front.pip_env.items() if value}
        environment |= {"PIP_NO_CACHE_DIR": "1", "PIP_ROOT_USER_ACTION": "ignore", "LC_ALL": "C.UTF-8"}
        requirements = [item.requirement for item in batch]
        pip = [f"/{VENV}/bin/python", f"{_PIP}/pip"]
        found = ["--find-links", _WHEELS]
        chosen = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", _WHEELS, *found]
        put = ["install", "--quiet", "--no-compile", "--no-deps", "--no-index", "--ignore-installed", *found]
        for command in (
            [base_of(python).interpreter, "-m", "venv", "--without-pip", f"/{VENV}"],
            [*pip, *chosen, *requirements],
            [*pip, *put, *requirements],
        ):
            bundle.run(
                command,
                env=environment,
                user=(0, 0),
                host_network=True,
                binds={self._pip_folder(): _PIP},
                timeout_seconds=900,
            )
        for path in list(kept.iterdir()):
            shutil.move(path, wheels)
        kept.rmdir()
        theirs = wheels.parent / "theirs"
        (bundle.rootfs / VENV).rename(theirs)
        return theirs

    def _build(
        self, folder: Path, base: Base, wheels: Path, pins: Sequence[str], *, own_wheels: bool
    ) -> tuple[Path, str]:
        project = folder / "project"
        project.mkdir()
        (project / "app.py").write_text("print('parity')\n")
        (project / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
        image = folder / "image"
        more = {"PIP_FIND_LINKS": str(wheels)} if own_wheels else {}
        told = self._wain(
            "build", project, "--base", f"oci:{base.layout}:latest", "--output", f"oci:{image}:parity", env=more
        )
        return image, told.stderr


def _pin(path: Path) -> str:
    name, version = path.name.split("-")[:2]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{name}=={version} --hash=sha256:{digest}"


def _layers(layout: Path) -> list[dict[str, Any]]:
    manifest = json.loads(blob_path(layout, select_manifest(layout)["digest"]).read_text())
    found: list[dict[str, Any]] = manifest["layers"]
    return found


def _unpack_layers(layout: Path, folder: Path, *, below: int) -> Path:
    """`folder`, with what the layers from number `below` on have, unpacked one over the other by tar."""
    folder.mkdir()
    for layer in _layers(layout)[below:]:
        blob = blob_path(layout, layer["digest"])
        run(["tar", "--extract", "--gzip", "--file", blob, "--numeric-owner", "--same-owner", "-p", "-C", folder])
    return folder


def compare_trees(theirs: Path, ours: Path, *, base: Path, wheels: Path) -> tuple[int, list[Difference]]:
    """(how many files pip made, every difference) of two environments that stand at /opt/venv over `base`.

    :param theirs: pip's. :param wheels: the wheels that both installed.
    """
    left, right = dict(_walk(theirs)), dict(_walk(ours))
    found = [Difference(path=path, what="only pip") for path in sorted(left.keys() - right.keys())]
    found += [Difference(path=path, what="only wain") for path in sorted(right.keys() - left.keys())]
    launchers = {path for path in left.keys() & right.keys() if _is_launcher(path, theirs / path, ours / path)}
    claimed = _claimed_rows(wheels)
    for path in sorted(left.keys() & right.keys()):
        one, other = left[path], right[path]
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
            found.append(Difference(path=path, what="kind"))
            continue
        if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
            found.append(Difference(path=path, what="owner", detail=f"{other.st_uid}:{other.st_gid}"))
        if stat.S_ISLNK(one.st_mode):
            targets = [_resolve(f"/{VENV}/{path}", venv, base) for venv in (theirs, ours)]
            if targets[0] != targets[1]:
                found.append(Difference(path=path, what="link", detail=" and ".join(targets)))
        elif stat.S_ISREG(one.st_mode):
            if bool(one.st_mode & 0o111) != bool(other.st_mode & 0o111):
                modes = f"pip {stat.S_IMODE(one.st_mode):o}, wain {stat.S_IMODE(other.st_mode):o}"
                found.append(Difference(path=path, what="executable", detail=modes))
            found += _compare_files(path, theirs, ours, launchers, claimed)
    return sum(stat.S_ISREG(one.st_mode) for one in left.values()), found


def _compare_files(
    path: str, theirs: Path, ours: Path, launchers: set[str], claimed: Mapping[tuple[str, str], str]
) -> Iterator[Difference]:
    if re.search(r"/site-packages/[^/]+\.dist-info/RECORD$", path):
        yield from _compare_records(path, theirs, ours, launchers, claimed)
        return
    left, right = (theirs / path).read_bytes(), (ours / path).read_bytes()
    if left == right:
        return
    if path in launchers:
        one, other = _launcher(left), _launcher(right)
        if one != other:
            yield Difference(path=path, what="launcher", detail=f"pip {one}, wain {other}")
        return
    if path == "pyvenv.cfg":
        if _settings(left) != _settings(right):
            yield Difference(path=path, what="settings", detail=f"pip {_settings(left)}, wain {_settings(right)}")
        return
    yield Difference(path=path, what="bytes", detail=f"pip {left[:60]!r}, wain {right[:60]!r}")


def _settings(data: bytes) -> dict[str, str]:
    """What Python itself reads of a pyvenv.cfg."""
    pairs = (line.partition("=")[::2] for line in data.decode().splitlines())
    found = {key.strip(): value.strip() for key, value in pairs}
    return {key: found.get(key, "") for key in ("home", "include-system-site-packages")}


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path.lstat()


def _resolve(path: str, venv: Path, base: Path) -> str:
    """Where a path leads in a root that is `base` with `venv` at /opt/venv. At most 40 links are followed."""
    for _ in range(40):
        inside = path.removeprefix(f"/{VENV}/")
        real = venv / inside if inside != path else base / path.strip("/")
        if not real.is_symlink():
            return path
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(real)))
    return path


def _launcher(data: bytes) -> tuple[str, str, str] | None:
    """(interpreter's line, module, attribute) of an entry point's script; None for any other file."""
    text = data.decode(errors="replace")
    source = re.search(r"^from (\S+) import (\S+)$", text, re.MULTILINE)
    call = re.search(r"^    sys\.exit\((\S+)\(\)\)$", text, re.MULTILINE)
    if not text.startswith("#!") or source is None or call is None or len(text.splitlines()) > 12:
        return None
    return text.partition("\n")[0], source[1], call[1]


def _is_launcher(path: str, one: Path, other: Path) -> bool:
    if not path.startswith("bin/") or one.is_symlink() or other.is_symlink() or one.is_dir():
        return False
    return None not in (_launcher(one.read_bytes()[:4096]), _launcher(other.read_bytes()[:4096]))


def _compare_records(
    path: str, theirs: Path, ours: Path, launchers: set[str], claimed: Mapping[tuple[str, str], str]
) -> Iterator[Difference]:
    """Ours is right in every row; pip's rows are the same but for launchers and what the wheel itself has wrong."""
    site = Path(path).parent.parent
    info = Path(path).parent.name
    left, right = _rows((theirs / path).read_bytes()), _rows((ours / path).read_bytes())
    own = {f"{info}/{name}" for name in _OWN_FILES}
    for name in sorted(left.keys() ^ right.keys()):
        if name not in own:
            yield Difference(path=path, what="record", detail=f"{name} is in {'pip' if name in left else 'wain'}'s")
    for name, row in sorted(right.items()):
        target = os.path.normpath(site / name)
        if name != f"{info}/RECORD" and row != _row_of(ours / target):
            # A file that a distribution with a later name has overwritten is not what its first row says.
            if left.get(name) == row and (theirs / target).read_bytes() == (ours / target).read_bytes():
                continue
            yield Difference(path=path, what="record", detail=f"wain's row of {name} is not of the file")
        elif name in left and name not in own and target not in launchers and left[name] != row:
            if claimed.get((info, name)) == left[name] or _in_base64(left[name]) == row:
                continue
            yield Difference(path=path, what="record", detail=f"{name}: pip {left[name]}, wain {row}")


def _in_base64(row: str) -> str:
    """A row whose hash the wheel wrote in hexadecimal, which pip keeps, as the specification has it."""
    found = re.fullmatch(r"sha256=([0-9a-f]{64})(,\d*)", row)
    if found is None:
        return row
    return "sha256=" + base64.urlsafe_b64encode(bytes.fromhex(found[1])).decode().rstrip("=") + found[2]


def _rows(data: bytes) -> dict[str, str]:
    return {row[0]: ",".join(row[1:]) for row in csv.reader(io.StringIO(data.decode())) if row}


def _row_of(path: Path) -> str:
    with open(path, "rb") as file:
        return f"{_hash(file)},{path.stat().st_size}"


def _hash(file: Any) -> str:
    digest = hashlib.file_digest(file, "sha256").digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _claimed_rows(wheels: Path) -> dict[tuple[str, str], str]:
    """(.dist-info folder, path) -> the row of the wheel's own RECORD, where that is wrong or no SHA-256 in base64."""
    found = {}
    for path in wheels.iterdir():
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            record = next(name for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
            for name, row in _rows(archive.read(record)).items():
                if name in members:
                    with archive.open(name) as file:
                        if row == f"{_hash(file)},{members[name].file_size}":
                            continue
                found[record.partition("/")[0], name] = row
    return found


@contextlib.contextmanager
def start_parity() -> Iterator[Parity]:
    """Comparisons in a temporary folder, with a store and a front of the package index of their own."""
    pip, _, allowed = load()
    folder = Path(tempfile.mkdtemp(prefix="wain-parity-"))
    try:
        with serve_index_front(folder / "front") as front:
            wain = Wain(store=folder / "store", env=front.pip_env)
            yield Parity(folder, front=front, wain=wain, pip=pip, allowed=allowed)
    finally:
        remove_tree(folder)


def main(words: Sequence[str] | None = None) -> int:
    """0 when all are the same but for what is allowed, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m tests.real.parity", description=__doc__.partition("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME[==VERSION]", help="of the list, or any of the index")
    parser.add_argument("--python", choices=("3.11", "3.13"), help="for names that are not in the list (default 3.13)")
    parser.add_argument("--heavy", action="store_true", help="the heavy ones of the list, each alone")
    parser.add_argument("--verbose", action="store_true", help="tell the allowed differences too")
    args = parser.parse_args(words)
    _, listed, _ = load()
    if args.names:
        chosen = [one for text in args.names for one in _named(text, listed, args.python)]
    else:
        chosen = [one for one in listed if one.heavy == args.heavy]
    failed = 0
    with start_parity() as parity:
        for batch in batches(chosen):
            began = time.monotonic()
            try:
                compared = parity.compare(batch)
            except AssertionError as error:
                print(f"{', '.join(item.requirement for item in batch)}: {error}", flush=True)
                failed += 1
                continue
            print(f"Python {batch[0].python}: {', '.join(compared.distributions)}")
            for difference in compared.allowed if args.verbose else ():
                print(f"  allowed: {difference}")
            for difference in compared.differences[:50]:
                print(f"  {difference}")
            told = f"{len(compared.differences)} differences, {len(compared.allowed)} allowed"
            print(f"  {compared.files} files, {told}, {time.monotonic() - began:.0f} s", flush=True)
            failed += bool(compared.differences)
            remove_tree(parity.folder / f"batch-{parity._count}")
    return 1 if failed else 0


def _named(text: str, listed: Sequence[Distribution], python: str | None) -> list[Distribution]:
    name, _, version = text.partition("==")
    known = [one for one in listed if one.name.lower() == name.lower() and version in ("", one.version)]
    known = [one for one in known if python in (None, one.python)]
    return known or [Distribution(name=name, version=version or None, python=python or "3.13")]


if __name__ == "__main__":
    sys.exit(main())
