"""An sdist or a project -> a wheel, built by PEP 517 in a declared environment that is part of its key.

A build back end runs code as the user: the environment is declared, not a sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from msgspec import Struct, field
from msgspec.structs import replace

from wain.backends import (
    COMPILER_VARIABLES,
    BuildSystem,
    keyed_environment,
    passed_environment,
    read_build_system,
)
from wain.compatibility import best_wheel
from wain.digest import Digest
from wain.editables import EditablePlace, snapshot, snapshot_digest
from wain.elf import parse_elf
from wain.errors import LockError, NoWheel, SdistError, WheelError
from wain.fetching import fetch
from wain.index import LockedFile, PackageIndexes
from wain.index_credentials import strip_credentials
from wain.interpreters import Interpreter, host_interpreter, library_digest, own_interpreter, tool_identities
from wain.lock import Lock, VcsSource, parse_pylock
from wain.oci import JSON, canonical_json
from wain.platforms import Target
from wain.records import Record
from wain.requirements import parse_requirement
from wain.resolve import ResolutionInput, resolve
from wain.settings import normalize_name
from wain.sources import clone_repository, copy_project, project_sources, unpack_sdist
from wain.store import Store, recipe_key
from wain.wheels import Wheel
from wain.workplace import BuildSource, Workplace

logger = logging.getLogger(__name__)

BUILD_RECIPE = "built-wheel/1"
"""Changes with whatever changes the wheel that the same source gives."""

_MAX_DEPTH = 6
_DEFAULT_VARIABLES = frozenset((*COMPILER_VARIABLES, "LC_ALL", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH"))


class BuiltWheel(Record, frozen=True, kw_only=True):
    """A wheel that was built here, now or before; it stands in the store."""

    unshown: ClassVar = ("left",)

    filename: str
    digest: Digest
    was_built: bool
    """Whether it was built just now."""
    reason: str
    """Why it was built, or what was the same as when it was, as one line."""
    left: Mapping[str, str] = field(default_factory=dict)
    """The texts that an editable build leaves beside the source, by their path in the project."""


class BuildOptions(Record, frozen=True, kw_only=True):
    """What a user declares for the builds of a distribution."""

    unshown: ClassVar = ("env",)

    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the build's environment; part of the key."""
    config_settings: Mapping[str, JSON] = field(default_factory=dict)
    """Given to the back end, as pip's `--config-settings`."""
    upgrade: bool = False
    """Whether the build requirements are locked anew."""


class Builder(Struct, frozen=True, kw_only=True):
    """Builds wheels for a target, each from the store where the same was built before.

    Of everything that builds: SdistError is raised when it is hostile, does not build, or what it builds does not fit
    the target, and NoWheel when only-binary forbids to build it. Where a `name` of a distribution is asked for, it is
    normalised, and None where the file or folder decides it.
    """

    target: Target
    indexes: PackageIndexes
    options: BuildOptions = BuildOptions()
    environ: Mapping[str, str] | None = None
    """The environment that variables are taken from; this process's unless given."""

    def sdist(
        self,
        path: Path,
        *,
        filename: str,
        digest: Digest,
        name: str | None,
        version: str | None = None,
        subdirectory: str | None = None,
    ) -> BuiltWheel:
        """The wheel of an sdist.

        :param digest: of the file, which was checked.
        """
        return self._built(
            BuildSource(
                what=filename,
                name=name,
                version=version,
                digest=digest,
                subdirectory=subdirectory or "",
                place=lambda folder: unpack_sdist(path, folder, filename=filename) / (subdirectory or ""),
            )
        )

    def project(self, folder: Path, *, name: str | None, tell: Callable[[str], None] | None = None) -> BuiltWheel:
        """The wheel of a project's folder, built from a copy: nothing is written into the folder.

        :param tell: hears that it is built, and why, in place of a warning.
        """
        files = project_sources(folder)
        return self._built(
            BuildSource(
                what=name or folder.resolve().name,
                name=name,
                version=None,
                digest=files.digest,
                subdirectory="",
                place=lambda target_folder: copy_project(files, target_folder),
                tell=tell,
            )
        )

    def editable(self, folder: Path, place: EditablePlace, *, name: str | None) -> BuiltWheel:
        """The editable wheel of a project that will stand at a place, built from a copy of all that is in its folder.

        :raises NotEditable: when it has to be made where it will stand.
        """
        return self._built(
            BuildSource(
                what=name or folder.name,
                name=name,
                version=None,
                digest=snapshot_digest(snapshot(folder)),
                subdirectory="",
                place=lambda target_folder: shutil.copytree(folder, target_folder / "project", symlinks=True),
                editable=place,
            )
        )

    def repository(
        self, vcs: VcsSource, *, name: str | None, version: str | None = None, credential_urls: Sequence[str] = ()
    ) -> BuiltWheel:
        """The wheel of a commit of a git repository; what was built before is not cloned again.

        :param credential_urls: URLs that may hold the repository's user and password; they reach git alone, and not
            by its arguments.
        :raises SdistError: also when it cannot be cloned.
        """
        url, offline = strip_credentials(vcs.url), self.indexes.transport.offline
        return self._built(
            BuildSource(
                what=f"{name or url} at {vcs.commit[:12]}",
                name=name,
                version=version,
                digest=Digest.of(canonical_json({"type": vcs.type, "url": url, "commit": vcs.commit})),
                subdirectory=vcs.subdirectory or "",
                place=lambda folder: (
                    clone_repository(
                        vcs.type, url, vcs.commit, folder, credential_urls=credential_urls, offline=offline
                    )
                    / (vcs.subdirectory or "")
                ),
            )
        )

    def _built(self, source: BuildSource) -> BuiltWheel:
        return _Build(source, self).run()


class _Build:
    """One build: finds what it depends on, looks for it in the store, else runs the back end."""

    def __init__(self, source: BuildSource, builder: Builder, *, depth: int = 0) -> None:
        self._source = source
        self._target = builder.target
        self._indexes = builder.indexes
        self._store: Store = builder.indexes.store
        self._options = builder.options
        self._environ = dict(os.environ if builder.environ is None else builder.environ)
        self._depth = depth

    def run(self) -> BuiltWheel:
        source, settings = self._source, self._indexes.settings
        if source.name is not None and not settings.allows_sdist(source.name):
            raise NoWheel(
                f"{source.what} would have to be built, and only-binary forbids it",
                hint="Name a version that has wheels, or allow the build.",
            )
        if self._depth > _MAX_DEPTH:
            raise SdistError(
                f"{source.what} is a build requirement of build requirements without end",
                hint="Allow wheels for build requirements.",
            )
        interpreter = host_interpreter(self._target.python.short, self._store)
        self._fits = interpreter is not None and (
            (interpreter.target.platform, interpreter.target.libc) == (self._target.platform, self._target.libc)
        )
        self._interpreter: Interpreter = interpreter or own_interpreter(self._store)
        self._keyed = keyed_environment(self._environ, self._options.env)
        passed = passed_environment(self._environ)
        parts: dict[str, JSON] = {
            "recipe": BUILD_RECIPE,
            "source": str(source.digest),
            "subdirectory": source.subdirectory,
            "interpreter": [str(self._interpreter.target), self._interpreter.soabi],
            "environment": {name: _shown(name, value) for name, value in sorted(self._keyed.items())},
            "config-settings": _digest_text(dict(self._options.config_settings)),
        }
        if source.editable is not None:
            parts["editable"] = [source.editable.path, source.editable.direct_url]
        # The path of the build may be in what it makes: of all that the key has, what differs between users for no
        # good reason, such as where rustup lies, plays no part in it.
        with contextlib.ExitStack() as stack:
            work = Workplace(stack, recipe_key(parts), source, self._interpreter, {**passed, **self._keyed})
            system = self._build_system(work)
            lock = self._lock(system.requires)
            parts["tools"] = dict(
                tool_identities({**passed, **self._keyed}, self._store, with_rust=_is_rust(system, lock))
            )
            extra = self._extra_requires(work, system, lock, parts)
            if extra:
                lock = self._lock((*system.requires, *extra))
            parts["build-requirements"] = _requirement_lines(lock)
            key = recipe_key(parts)
            found = self._remembered(key, parts)
            if found is not None:
                self._store.count("built-wheel", hit=True)
                logger.debug("%s: %s", source.what, found.reason)
                return found
            reason = self._difference(parts)
            work.open()
            found = self._remembered(key, parts)  # another process may have built it meanwhile
            if found is not None:
                return found
            self._store.count("built-wheel", hit=False)
            # Rare, slow, and it runs the source's code: worth a line even to those who asked for none.
            (source.tell or logger.warning)(f"{source.what} is built here: {reason}")
            work.environment(self._wheels(lock, work))
            path, left = work.build(system, self._options.config_settings)
            return self._keep(path, key, parts, reason, left)

    # -- what a build depends on ---------------------------------------------------------------------------

    def _build_system(self, work: Workplace) -> BuildSystem:
        key = recipe_key(
            {"recipe": "build-system/1", "source": str(self._source.digest), "folder": self._source.subdirectory}
        )
        memo = self._store.memo("build-system", key)
        if memo is not None:
            requires, backend, path = memo.get("requires"), memo.get("backend"), memo.get("backend-path")
            if isinstance(requires, list) and isinstance(backend, str) and isinstance(path, list):
                return BuildSystem(
                    requires=tuple(map(str, requires)), backend=backend, backend_path=tuple(map(str, path))
                )
        system = read_build_system(work.source(), what=self._source.what)
        self._store.put_memo("build-system", key, system.to_json())
        return system

    def _extra_requires(
        self, work: Workplace, system: BuildSystem, lock: Lock, parts: Mapping[str, JSON]
    ) -> tuple[str, ...]:
        """What the back end asks for when it is asked; remembered, because asking means running it."""
        key = recipe_key({**parts, "recipe": "build-requires/1", "build-requirements": _requirement_lines(lock)})
        memo = self._store.memo("build-requires", key)
        if memo is not None and isinstance(texts := memo.get("requires"), list):
            return tuple(map(str, texts))
        work.open()
        work.environment(self._wheels(lock, work))
        extra = work.requires(system, self._options.config_settings)
        self._store.put_memo("build-requires", key, {"requires": [*extra]})
        return extra

    def _lock(self, requires: Sequence[str]) -> Lock:
        """The build requirements' lock; remembered, so that a new release of one of them rebuilds nothing."""
        texts = sorted(set(requires))
        if not texts:
            return Lock(packages=())
        settings = self._indexes.settings
        target = self._interpreter.target
        constraints: list[JSON] = []
        for name in settings.build_constraints:
            with contextlib.suppress(OSError):
                constraints.append(hashlib.sha256(Path(name).read_bytes()).hexdigest())
        key = recipe_key(
            {
                "recipe": "build-lock/1",
                "requires": [*texts],
                "sources": [strip_credentials(url) for url in (*settings.index_urls, *settings.find_links)],
                "options": [settings.no_index, settings.pre, [*settings.only_binary], settings.uv_configuration],
                "constraints": constraints,
                "python": target.python.short,
                "platform": [str(target.platform), target.libc],
            }
        )
        memo = None if self._options.upgrade else self._store.memo("build-lock", key)
        if memo is not None and isinstance(text := memo.get("lock"), str):
            with contextlib.suppress(LockError):
                return parse_pylock(text, Path("/pylock.toml"))
        origin = f"the build of {self._source.what}"
        lines = tuple(parse_requirement(text, origin) for text in texts)
        lock = resolve(
            ResolutionInput(folder=Path("/"), lines=lines, origin=origin),
            [target],
            settings=replace(settings, constraints=settings.build_constraints, no_binary=()),
            store=self._store,
            indexes=self._indexes,
        )
        try:
            text = lock.to_toml(Path("/"))
        except LockError as error:
            logger.debug("the lock of %s is not remembered: %s", origin, error.message)
            return lock
        self._store.put_memo("build-lock", key, {"lock": text})
        return parse_pylock(text, Path("/pylock.toml"))

    def _wheels(self, lock: Lock, work: Workplace) -> list[Path]:
        """The build requirements as files with wheels' names."""
        target = self._interpreter.target
        chosen = lock.select(target, allow_sdist=lambda name: True)
        files = [item.file for item in chosen if item.file is not None]
        digests = fetch(files, store=self._store, transport=self._indexes.transport, indexes=self._indexes)
        folder = work.requirements()
        paths = []
        for item in chosen:
            if item.file is None:
                raise SdistError(
                    f"{item.name}, which the build of {self._source.what} requires, is a folder or a repository",
                    hint="Name a version of it that an index has.",
                )
            digest, filename = digests[item.file], item.file.filename
            if not filename.endswith(".whl"):
                built = self._build_requirement(item.name, filename, digest)
                digest, filename = built.digest, built.filename
            stored = self._store.path(digest)
            if stored is None:
                raise SdistError(f"{filename} vanished from the store", hint="Run it again.")
            shutil.copyfile(stored, folder / filename)
            paths.append(folder / filename)
        return paths

    def _build_requirement(self, name: str, filename: str, digest: Digest) -> BuiltWheel:
        path = self._store.path(digest)
        if path is None:
            raise SdistError(f"{filename} vanished from the store", hint="Run it again.")
        source = BuildSource(
            what=filename,
            name=name,
            version=None,
            digest=digest,
            subdirectory="",
            place=lambda folder: unpack_sdist(path, folder, filename=filename),
        )
        builder = Builder(
            target=self._interpreter.target,
            indexes=self._indexes,
            options=BuildOptions(upgrade=self._options.upgrade),
            environ=self._environ,
        )
        return _Build(source, builder, depth=self._depth + 1).run()

    # -- what was built before -----------------------------------------------------------------------------

    def _remembered(self, key: Digest, parts: Mapping[str, JSON]) -> BuiltWheel | None:
        memo = self._store.memo("built-wheel", key)
        if memo is None:
            return None
        text, filename, libraries = memo.get("digest"), memo.get("filename"), memo.get("libraries")
        if not isinstance(text, str) or not isinstance(filename, str) or not isinstance(libraries, dict):
            return None
        for soname, known in libraries.items():
            now = library_digest(soname, self._store)
            if known != (str(now[1]) if now else None):
                logger.info("%s: the library %s changed since it was built", self._source.what, soname)
                self._store.delete_memo("built-wheel", key)
                return None
        digest = Digest(text)
        if self._store.path(digest) is None:
            return None
        self._check_fit(filename, memo.get("glibc"))
        left = memo.get("left")
        return BuiltWheel(
            filename=filename,
            digest=digest,
            was_built=False,
            left={name: str(text) for name, text in left.items()} if isinstance(left, dict) else {},
            reason="built before with the same " + ", ".join(name for name in parts if name != "recipe"),
        )

    def _last_key(self) -> Digest:
        name = self._source.name or re.split(r"-\d", self._source.what)[0]
        return recipe_key({"recipe": "last-build/1", "name": name, "target": str(self._target)})

    def _difference(self, parts: Mapping[str, JSON]) -> str:
        """In what this build differs from the last one of the same distribution, as one line."""
        memo = self._store.memo("last-build", self._last_key())
        if memo is None:
            return "it was not built before"
        before, now = _flat(memo), _flat(parts)
        changes = []
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new and name == "source":
                changes.append("its source changed")
            elif old != new:
                changes.append(f"{name} was {old or 'not there'}, is {new or 'not there'}")
        return "; ".join(changes[:6]) or "its wheel is no longer in the store, or a library it links to changed"

    # -- what comes out ------------------------------------------------------------------------------------

    def _keep(
        self, path: Path, key: Digest, parts: dict[str, JSON], reason: str, left: Mapping[str, str]
    ) -> BuiltWheel:
        filename = path.name
        self._check_name(filename)
        with path.open("rb") as stream:
            digest = self._store.put(stream, kind="built-wheel", note=filename)
        stored = self._store.path(digest)
        if stored is None:
            raise SdistError(f"{filename} vanished from the store", hint="Run it again.")
        try:
            with Wheel.open(stored, digest=digest, filename=filename) as wheel:
                wheel.verify()
                sonames, glibc = _linked(wheel)
        except WheelError as error:
            self._store.drop(digest)
            raise SdistError(
                f"what the back end of {self._source.what} built is no sound wheel: {error.message}",
                hint="Name another version, or report it to its authors.",
            ) from error
        libraries: dict[str, JSON] = {}
        for soname in sonames:
            found = library_digest(soname, self._store)
            libraries[soname] = str(found[1]) if found else None
        value: dict[str, JSON] = {
            "digest": str(digest),
            "filename": filename,
            "libraries": libraries,
            "glibc": [*glibc] if glibc else None,
            "parts": parts,
            "left": {**left},
        }
        self._store.put_memo("built-wheel", key, value, refers=[digest])
        self._store.put_memo("last-build", self._last_key(), parts)
        self._check_fit(filename, value["glibc"])
        return BuiltWheel(filename=filename, digest=digest, was_built=True, reason=reason, left=left)

    def _check_name(self, filename: str) -> None:
        from packaging.utils import parse_wheel_filename

        try:
            name, version, _, _ = parse_wheel_filename(filename)
        except ValueError as error:
            raise SdistError(
                f"the back end of {self._source.what} built {filename}, which is no wheel's name",
                hint="Name another version.",
            ) from error
        wanted = self._source
        if wanted.name is not None and normalize_name(name) != normalize_name(wanted.name):
            raise SdistError(
                f"{wanted.what} builds a wheel of {name}, not of {wanted.name}", hint="Name another version."
            )
        if wanted.version is not None and not _same_version(str(version), wanted.version):
            raise SdistError(
                f"{wanted.what} builds a wheel of version {version}, not {wanted.version}",
                hint="Name another version.",
            )

    def _check_fit(self, filename: str, glibc: JSON) -> None:
        """Whether the wheel runs on the target, as far as its tags and its C library's symbols say.

        :raises SdistError: when it does not.
        """
        target = self._target
        is_pure = filename.endswith("-none-any.whl")
        if best_wheel([LockedFile(filename=filename)], target) is None or (not self._fits and not is_pure):
            raise SdistError(
                f"{self._source.what} was built as {filename} here, which does not fit {target}",
                hint=f"Build it on a machine with {target.platform} and Python {target.python.short}, give the wheel"
                " with --find-links, or name a version that has wheels.",
            )
        if isinstance(glibc, list) and target.libc == "glibc":
            needed = tuple(item for item in glibc if isinstance(item, int))
            if needed > target.libc_version:
                raise SdistError(
                    f"{filename} was built here against glibc {'.'.join(map(str, needed))}, and the base has"
                    f" {'.'.join(map(str, target.libc_version))}",
                    hint="Use a base as new as this machine's system, or build the wheel on an older system.",
                )


def _linked(wheel: Wheel) -> tuple[list[str], tuple[int, ...] | None]:
    """The libraries outside the wheel that its ELF files link to, and the newest glibc that they need."""
    needed: set[str] = set()
    own: set[str] = set()
    newest: tuple[int, ...] | None = None
    for member in wheel.members:
        if member.path.endswith("/") or (".so" not in member.path and "/bin/" not in member.path):
            continue
        chunks = wheel.chunks(member)
        data = next(chunks, b"")
        if data[:4] != b"\x7fELF":
            continue
        elf = parse_elf(data + b"".join(chunks))
        if elf is None:
            continue
        own.update((elf.soname, member.path.rpartition("/")[2]))
        needed.update(elf.needed)
        for version in (version for versions in elf.requires.values() for version in versions):
            if match := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", version):
                newest = max(newest or (0, 0), (int(match[1]), int(match[2])))
    return sorted(needed - own), newest


def _is_rust(system: BuildSystem, lock: Lock) -> bool:
    words = (system.backend, *system.requires, *(package.name for package in lock.packages))
    return any(word in text for text in words for word in ("rust", "maturin", "puccinialin"))


def _requirement_lines(lock: Lock) -> list[JSON]:
    lines = []
    for package in lock.packages:
        files = (*package.wheels, *(file for file in (package.sdist, package.archive) if file is not None))
        hashes = sorted(text for file in files for text in (*dict(file.hashes).values(), *file.accepted))
        whole = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
        lines.append(f"{package} {whole}")
    return [*sorted(lines)]


def _shown(name: str, value: str) -> str:
    """A variable's value for key and messages; what a user declared may be a secret, so its digest alone."""
    if name in _DEFAULT_VARIABLES:
        return value
    return "sha256:" + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _digest_text(value: JSON) -> str:
    return "" if not value else "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()[:16]


def _flat(parts: Mapping[str, JSON], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in parts.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name} "))
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = str(value)
    return flat


def _same_version(one: str, other: str) -> bool:
    from packaging.version import Version

    try:
        return Version(one) == Version(other)
    except ValueError:
        return one == other
