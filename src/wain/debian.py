"""The built-in base: Debian's Python and what it needs, as layers made from packages, without root.

No program of the image runs. `resolve_base` names the exact packages (a `BaseLock`), `base_image` makes the image of
them: the same lock gives the same layers, byte for byte, and from a store that has them no request is made.

Sources: Debian repository format; Debian policy; OCI image specification.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from wain.debian_archive import Archive, Mirrors, Progress, debian_mirrors
from wain.debian_bytecode import can_run, compile_library, interpreter_packages
from wain.debian_packages import NAME, Package, PackageIndex, resolve
from wain.debian_rootfs import Rootfs
from wain.digest import Digest
from wain.errors import ImageError, LockError, OutputError, PythonError, UsageError, WainError
from wain.image import Image
from wain.layers import RECIPE_KEY, Entry, Layer, files_layer, stored_layer
from wain.names import SUITES
from wain.oci import JSON, Config, Runtime
from wain.platforms import Platform, PythonVersion, parse_python_minor
from wain.store import Store, recipe_key
from wain.transport import Transport

__all__ = [
    "ARCHITECTURES",
    "BaseLock",
    "LockedDeb",
    "Mirrors",
    "base_image",
    "built_base",
    "debian_mirrors",
    "resolve_base",
    "suite_of",
]

log = logging.getLogger(__name__)

RECIPE = "wain.debian.1"
ARCHITECTURES = ("amd64", "arm64")
"""What the base is made for; the same names for Debian and OCI."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BASE_RUNTIME = Runtime(env=(f"PATH={PATH}", "LANG=C.UTF-8"))
"""Of every built-in base, but for the command, which is its interpreter."""

_ROOTS = (
    "base-files ca-certificates libc-bin libc6 libcrypt1 libgcc-s1 libgomp1 libstdc++6 media-types ncurses-base netbase"
    " python3 tzdata"
).split()
# Where the suite has them apart.
_OPTIONAL_ROOTS = ("python3-distutils",)
_DOWNLOADS = 6


class LockedDeb(Struct, frozen=True, kw_only=True):
    """A package's file: which one, never where."""

    name: str
    version: str
    digest: Digest
    size_bytes: int
    filename: str
    """Path below a mirror's root."""
    origin: str = "main"
    """`main` or `security`: the mirror that had it."""

    @classmethod
    def of(cls, package: Package) -> LockedDeb:
        return cls(
            name=package.name,
            version=package.version,
            digest=package.digest,
            size_bytes=package.size_bytes,
            filename=package.filename,
            origin=package.origin,
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.digest.hex,
            "size": self.size_bytes,
            "filename": self.filename,
            "origin": self.origin,
        }

    @classmethod
    def from_json(cls, value: JSON) -> LockedDeb:
        """:raises LockError: when it is no such thing."""
        if isinstance(value, dict):
            texts = [value.get(key) for key in ("name", "version", "sha256", "filename", "origin")]
            size = value.get("size")
            if all(isinstance(text, str) for text in texts) and isinstance(size, int) and 0 < size < 1 << 40:
                name, version, sha256, filename, origin = (str(text) for text in texts)
                parts = filename.split("/")
                if (
                    NAME.fullmatch(name)
                    and origin in ("main", "security")
                    and filename.isascii()
                    and filename.isprintable()
                    and not any(part in ("", ".", "..") for part in parts)
                    and not any(char in filename for char in "?#\\ @")
                ):
                    with contextlib.suppress(ImageError):
                        return cls(
                            name=name,
                            version=version,
                            digest=Digest("sha256:" + sha256),
                            size_bytes=size,
                            filename=filename,
                            origin=origin,
                        )
        raise LockError(
            "the lock's entry of a Debian package is malformed",
            hint="Renew the lock with `wain lock --upgrade`.",
        )


class BaseLock(Struct, frozen=True, kw_only=True):
    """The packages of a built-in base, by name; no mirror is named in it."""

    suite: str
    python: str
    """`3.13`."""
    platform: Platform
    requested: tuple[str, ...] = ()
    """What the setting `packages` asked for, sorted."""
    packages: tuple[LockedDeb, ...]
    """The base's own."""
    extras: tuple[LockedDeb, ...] = ()
    """The requested ones with what they depend on."""
    interpreter: tuple[LockedDeb, ...] = ()
    """Packages of another architecture whose interpreter makes the byte code; empty where the base's own can."""

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "suite": self.suite,
            "python": self.python,
            "platform": str(self.platform),
            "packages": [item.to_json() for item in self.packages],
        }
        if self.requested:
            value["requested"] = list(self.requested)
        if self.extras:
            value["extras"] = [item.to_json() for item in self.extras]
        if self.interpreter:
            value["interpreter"] = [item.to_json() for item in self.interpreter]
        return value

    @classmethod
    def from_json(cls, value: JSON) -> BaseLock:
        """:raises LockError: when it is no such thing."""
        hint = "Renew the lock with `wain lock --upgrade`."
        if not isinstance(value, dict):
            raise LockError("the lock's base is malformed", hint=hint)
        lists: dict[str, tuple[LockedDeb, ...]] = {}
        for key in ("packages", "extras", "interpreter"):
            items = value.get(key, [])
            if not isinstance(items, list):
                raise LockError(f"the lock's base has {key} that are no list", hint=hint)
            lists[key] = tuple(LockedDeb.from_json(item) for item in items)
        suite, python, platform = (value.get(key) for key in ("suite", "python", "platform"))
        requested = value.get("requested", [])
        if (
            not isinstance(suite, str)
            or not isinstance(python, str)
            or SUITES.get(python) != suite
            or not isinstance(platform, str)
            or not isinstance(requested, list)
            or not lists["packages"]
        ):
            raise LockError("the lock's base is malformed", hint=hint)
        return cls(
            suite=suite,
            python=python,
            platform=Platform.parse(platform),
            requested=tuple(str(item) for item in requested),
            packages=lists["packages"],
            extras=lists["extras"],
            interpreter=lists["interpreter"],
        )

    @property
    def python_version(self) -> PythonVersion:
        """The interpreter's full version.

        :raises LockError: when the lock has no interpreter.
        """
        return PythonVersion.parse(self._version_of(f"python{self.python}-minimal").partition("-")[0])

    def _version_of(self, name: str) -> str:
        for item in self.packages:
            if item.name == name:
                return item.version
        raise LockError(f"the lock's base has no {name}", hint="Renew the lock with `wain lock --upgrade`.")


def suite_of(python: str) -> str:
    """The suite whose python3 it is.

    :param python: `3.13`, or a name of a suite, `trixie`.
    :raises PythonError: when no suite has that Python; says which do.
    """
    if python in SUITES.values():
        return python
    minor = parse_python_minor(python)
    if minor in SUITES:
        return SUITES[minor]
    have = ", ".join(f"{name} ({suite})" for name, suite in SUITES.items())
    raise PythonError(
        f"the built-in base has no Python {minor}",
        hint=f"It has {have}. Use one of them with --python, or a base image with --base python:{minor}-slim.",
    )


def resolve_base(
    python: str,
    *,
    platform: Platform,
    packages: Sequence[str] = (),
    mirrors: Mirrors | None,
    store: Store,
    transport: Transport,
    archive: Archive | None = None,
) -> BaseLock:
    """The newest packages of a base, from signed package lists.

    :param python: `3.13`, or the suite's name, `trixie`.
    :param packages: names of Debian packages to add with all they depend on.
    :raises PythonError: when no suite has that Python.
    :raises DebianError: when no mirror is known, a signature or hash does not hold, or a package cannot be had.
    :raises UsageError: when the base is not made for the platform, or a name is no package's.
    """
    suite = suite_of(python)
    minor = next(name for name, other in SUITES.items() if other == suite)
    architecture = _architecture(platform)
    requested = tuple(sorted(set(packages)))
    for name in requested:
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a Debian package", hint="Write `packages` like libpq5.")
    archive = archive or Archive(mirrors, store=store, transport=transport)
    releases = archive.releases(suite)
    foreign = None if can_run(architecture) else _host_architecture()
    key = recipe_key(
        {
            "recipe": RECIPE,
            "releases": [str(release.digest) for release in releases],
            "architectures": [architecture, foreign],
            "packages": list(requested),
        }
    )
    if (known := store.memo("debian-base-lock", key)) is not None:
        with contextlib.suppress(LockError):
            return BaseLock.from_json(known)
    index = archive.index(releases, architecture)
    base, extras = _resolve_both(index, minor, requested)
    interpreter: tuple[LockedDeb, ...] = ()
    if foreign is not None:
        interpreter = _interpreter(archive.index(releases, foreign), minor, base)
    lock = BaseLock(
        suite=suite,
        python=minor,
        platform=platform,
        requested=requested,
        packages=tuple(map(LockedDeb.of, base)),
        extras=tuple(map(LockedDeb.of, extras)),
        interpreter=interpreter,
    )
    store.put_memo("debian-base-lock", key, lock.to_json())
    return lock


def _architecture(platform: Platform) -> str:
    if platform.os != "linux" or platform.architecture not in ARCHITECTURES:
        raise UsageError(
            f"the built-in base is not made for {platform}",
            hint="It is made for linux/amd64 and linux/arm64. Name a base image with --base.",
        )
    return platform.debian_architecture


def _host_architecture() -> str | None:
    """Of the machine, where its interpreter can be run."""
    with contextlib.suppress(UsageError):
        name = Platform.host().debian_architecture
        if name in ARCHITECTURES and can_run(name):
            return name
    return None


def _resolve_both(
    index: PackageIndex, minor: str, requested: Sequence[str]
) -> tuple[tuple[Package, ...], tuple[Package, ...]]:
    names = [*_ROOTS, f"python{minor}", *(name for name in _OPTIONAL_ROOTS if index.newest(name) is not None)]
    base = resolve(index, names)
    return base, resolve(index, requested, present=base)


def _interpreter(index: PackageIndex, minor: str, base: Sequence[Package]) -> tuple[LockedDeb, ...]:
    """The interpreter's packages of another architecture; none where it is not the same version."""
    versions = {package.name: package.version for package in base}
    found = [index.newest(name) for name in interpreter_packages(minor)]
    if any(package is None for package in found):
        return ()
    packages = [package for package in found if package is not None]
    if any(versions.get(package.name) != package.version for package in packages if package.name.endswith("-minimal")):
        return ()
    return tuple(map(LockedDeb.of, packages))


def base_image(
    lock: BaseLock,
    *,
    store: Store,
    transport: Transport,
    mirrors: Mirrors | None,
    archive: Archive | None = None,
    elsewhere: Callable[[Digest], Layer | None] = lambda key: None,
    progress: Progress | None = None,
) -> Image:
    """The image of a lock: what the system needs, Python, and where there are some the added packages.

    :param elsewhere: gives a layer by its recipe key where the store has none, without making it.
    :param progress: is told of each download: its file's name, the bytes that are there, the size; from several
        threads.
    :raises OutputError: when the temporary folder cannot hold the packages' files.
    :raises DebianError: when a package is not to be had or not usable, or a script of it does more than wain.
    :raises HashMismatch: when a mirror serves other bytes than the lock says.
    """
    archive = archive or Archive(mirrors, store=store, transport=transport)
    maker = _Maker(lock, archive, store, progress)
    return Image(
        config=Config(
            platform=lock.platform,
            runtime=replace(BASE_RUNTIME, cmd=(f"/usr/bin/python{lock.python}",)),
        )
    ).append(*maker.layers(elsewhere))


def built_base(
    python: str,
    *,
    platform: Platform,
    packages: Sequence[str] = (),
    mirrors: Mirrors | None,
    store: Store,
    transport: Transport,
) -> Image:
    """`resolve_base` and `base_image` in one; raises what they raise."""
    lock = resolve_base(python, platform=platform, packages=packages, mirrors=mirrors, store=store, transport=transport)
    return base_image(lock, store=store, transport=transport, mirrors=mirrors)


class _Maker:
    """Makes the layers of one lock, those only that the store does not have."""

    def __init__(self, lock: BaseLock, archive: Archive, store: Store, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lock = lock
        self._archive = archive
        self._store = store
        self._architecture = _architecture(lock.platform)
        self._compiler: tuple[LockedDeb, ...] | None = lock.interpreter or None
        if not lock.interpreter and can_run(self._architecture):
            wanted = interpreter_packages(lock.python)
            self._compiler = tuple(item for item in lock.packages if item.name in wanted)
        # A machine that could not compile once is not asked again, else no build on it would find its layers.
        self._failure = recipe_key(
            {
                "recipe": RECIPE,
                "host": _host_architecture(),
                "interpreter": _digests(self._compiler or ()),
                "packages": _digests(lock.packages),
            }
        )
        if self._compiler is not None and store.memo("debian-no-bytecode", self._failure) is not None:
            self._compiler = None

    def layers(self, elsewhere: Callable[[Digest], Layer | None]) -> tuple[Layer, ...]:
        keys = self._keys(with_bytecode=self._compiler is not None)
        known = [self._known(key) or elsewhere(key) for key in keys]
        found = [layer for layer in known if layer is not None]
        if len(found) == len(keys):
            return tuple(found)
        files = self._fetch((*self._lock.packages, *self._lock.extras))
        try:
            return self._make(known, files)
        except OSError as error:
            raise OutputError(
                f"the files of Debian's packages cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="Make room there, or set TMPDIR to a folder that has it.",
            ) from error

    def _keys(self, *, with_bytecode: bool) -> list[Digest]:
        base: dict[str, JSON] = {"recipe": RECIPE, "packages": _digests(self._lock.packages)}
        keys = [
            recipe_key({**base, "part": "system"}),
            recipe_key({**base, "part": "python", "bytecode": with_bytecode}),
        ]
        if self._lock.extras:
            keys.append(recipe_key({**base, "part": "extras", "extras": _digests(self._lock.extras)}))
        return keys

    def _known(self, key: Digest) -> Layer | None:
        memo = self._store.memo("debian-layer", key)
        if memo is None:
            return None
        try:
            digest, diff_id = Digest(str(memo.get("digest"))), Digest(str(memo.get("diff_id")))
        except ImageError:
            return None
        size, unpacked = memo.get("size"), memo.get("unpacked")
        if not isinstance(size, int) or not isinstance(unpacked, int) or not self._store.has(digest):
            return None
        return stored_layer(
            digest,
            diff_id=diff_id,
            size_bytes=size,
            store=self._store,
            unpacked_bytes=unpacked,
            created_by=str(memo.get("created_by", "")),
            annotations={RECIPE_KEY: key},
        )

    def _make(self, known: Sequence[Layer | None], files: Mapping[Digest, Path]) -> tuple[Layer, ...]:
        lock = self._lock
        with tempfile.TemporaryDirectory(prefix="wain-debian-") as name:
            folder = Path(name)
            rootfs = Rootfs(folder / "spool", self._architecture)
            rootfs.add([(item.name, files[item.digest]) for item in lock.packages])
            rootfs.finish(lock.python)
            rootfs.add_status(item.name for item in lock.packages)
            rootfs.add_loader_cache()
            python = {item.name for item in lock.packages if item.name.startswith(("python3", "libpython3"))}
            system, interpreter, *extra = (*known, None)[:3]
            if interpreter is None:
                compiled = self._compile(rootfs, folder)
                if compiled is not None:
                    rootfs.add_bytecode(compiled, f"python{lock.python}")
                else:
                    self._store.put_memo("debian-no-bytecode", self._failure, {"failed": True})
                    log.warning(
                        "the standard library's byte code is left out: Python %s for this machine cannot be had or"
                        " does not run here; programs start a little slower",
                        lock.python,
                    )
                keys = self._keys(with_bytecode=compiled is not None)
            else:
                keys = self._keys(with_bytecode=self._compiler is not None)
            if system is None:
                count = sum(item.name not in python for item in lock.packages)
                system = self._layer(
                    keys[0], rootfs, lambda owner: owner not in python, f"wain: debian {lock.suite}, {count} packages"
                )
            if interpreter is None:
                version = lock._version_of(f"python{lock.python}-minimal")
                interpreter = self._layer(
                    keys[1], rootfs, lambda owner: owner in python, f"wain: python{lock.python} {version}"
                )
            if not lock.extras:
                return system, interpreter
            if extra and extra[0] is not None:
                return system, interpreter, extra[0]
            return system, interpreter, self._extra_layer(keys[2], rootfs, files)

    def _extra_layer(self, key: Digest, rootfs: Rootfs, files: Mapping[Digest, Path]) -> Layer:
        before = dict(rootfs.files())
        extras = self._lock.extras
        rootfs.add([(item.name, files[item.digest]) for item in extras])
        rootfs.add_status(item.name for item in extras)
        rootfs.add_loader_cache()
        shown = ", ".join(f"{item.name} {item.version}" for item in extras if item.name in self._lock.requested)
        return self._layer(
            key,
            rootfs,
            lambda owner: True,
            f"wain: debian packages: {shown or len(extras)}",
            without=before,
        )

    def _layer(
        self,
        key: Digest,
        rootfs: Rootfs,
        is_owner: Callable[[str], bool],
        created_by: str,
        *,
        without: Mapping[str, Entry] | None = None,
    ) -> Layer:
        """The layer of the files whose owner fits, but for those that are the same in `without`; remembered."""
        entries: Iterable[Entry] = rootfs.owned(is_owner)
        if without is not None:
            entries = _changed(rootfs.owned(is_owner), without)
        layer = files_layer(
            entries, store=self._store, created_by=created_by, kind="base", annotations={RECIPE_KEY: key}
        )
        self._store.put_memo(
            "debian-layer",
            key,
            {
                "digest": str(layer.digest),
                "diff_id": str(layer.diff_id),
                "size": layer.size_bytes,
                "unpacked": layer.unpacked_bytes or 0,
                "created_by": layer.created_by,
            },
            refers=[layer.digest],
        )
        return layer

    def _compile(self, rootfs: Rootfs, folder: Path) -> dict[str, Path] | None:
        """Byte code of the base's modules; None where no interpreter can make it."""
        lock = self._lock
        if self._compiler is None:
            return None
        place = folder / "bytecode"
        place.mkdir()
        if not lock.interpreter:
            return compile_library(
                rootfs.files(),
                rootfs.files(),
                architecture=self._architecture,
                python_minor=lock.python,
                folder=place,
            )
        host = _host_architecture()
        if host is None:
            return None
        try:
            files = self._fetch(lock.interpreter)
            other = Rootfs(folder / "interpreter-spool", host)
            other.add([(item.name, files[item.digest]) for item in lock.interpreter])
        except WainError as error:
            log.info("%s", error)
            return None
        return compile_library(rootfs.files(), other.files(), architecture=host, python_minor=lock.python, folder=place)

    def _fetch(self, packages: Iterable[LockedDeb]) -> dict[Digest, Path]:
        """The packages' files, fetched side by side.

        :raises DebianError: when no mirror has one.
        """

        def one(item: LockedDeb) -> Path:
            return self._archive.deb(
                item.name,
                filename=item.filename,
                origin=item.origin,
                digest=item.digest,
                size_bytes=item.size_bytes,
                progress=self._progress,
            )

        wanted = list(packages)
        pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="deb")
        try:
            return dict(zip([item.digest for item in wanted], pool.map(one, wanted), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)


def _changed(entries: Iterable[Entry], before: Mapping[str, Entry]) -> Iterator[Entry]:
    """What is not the same object in `before`, each after the folders it is in."""
    kept = list(entries)
    new = {entry.path for entry in kept if before.get(entry.path) is not entry}
    parents = {parent for path in new for parent in _parents_of(path)}
    return (entry for entry in kept if entry.path in new or entry.path in parents)


def _parents_of(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _digests(packages: Iterable[LockedDeb]) -> list[JSON]:
    return [f"{item.name} {item.digest.hex}" for item in packages]
