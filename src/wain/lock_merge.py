"""Locks of single targets put together, and cut down to the files that a user's hashes allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from wain.errors import HashMismatch
from wain.index import LockedFile
from wain.lock import Lock, LockedPackage

if TYPE_CHECKING:
    from wain.platforms import Target


def environment_marker(target: Target) -> str:
    """The marker of the environments that a resolution for a target is for."""
    return (
        f"python_version == '{target.python.short}' and implementation_name == 'cpython'"
        f" and sys_platform == 'linux' and platform_machine == '{target.platform.machine}'"
    )


def merge_locks(locks: Sequence[Lock], targets: Sequence[Target], *, origin: str) -> Lock:
    """One lock of those for each target: equal packages once, under a marker where not all have them."""
    versions: dict[str, dict[tuple[object, ...], list[tuple[Target, LockedPackage]]]] = {}
    for target, lock in zip(targets, locks, strict=True):
        for package in lock.packages:
            identity = (
                package.version,
                package.vcs,
                package.directory,
                (package.archive.hashes or package.archive.url) if package.archive else None,
            )
            versions.setdefault(package.name, {}).setdefault(identity, []).append((target, package))
    packages = []
    for by_identity in versions.values():
        for found in by_identity.values():
            wheels: dict[str, LockedFile] = {}
            for _, package in found:
                for file in package.wheels:
                    wheels.setdefault(file.filename, file)
            marker = None
            if len(found) < len(targets):
                marker = " or ".join(dict.fromkeys(f"({_short_marker(item, targets)})" for item, _ in found))
            first = found[0][1]
            sdist = next((item.sdist for _, item in found if item.sdist), None)
            packages.append(replace(first, wheels=tuple(wheels.values()), sdist=sdist, marker=marker))
    minors = sorted({target.python.minor for target in targets})
    return Lock(
        packages=tuple(sorted(packages, key=lambda item: (item.name, item.version or ""))),
        environments=tuple(dict.fromkeys(environment_marker(target) for target in targets)),
        requires_python=f"==3.{minors[0]}.*" if len(minors) == 1 else f">=3.{minors[0]}",
        created_by="wain",
        origin=origin,
    )


def _short_marker(target: Target, targets: Sequence[Target]) -> str:
    """The marker that tells a target from the others of the lock."""
    parts = []
    if len({item.python.short for item in targets}) > 1:
        parts.append(f"python_version == '{target.python.short}'")
    if len({item.platform.machine for item in targets}) > 1 or not parts:
        parts.append(f"platform_machine == '{target.platform.machine}'")
    return " and ".join(parts)


def restrict_to_hashes(lock: Lock, hashes: Mapping[str, frozenset[str]]) -> Lock:
    """The lock with only those files that the user's hashes allow.

    :raises HashMismatch: when that leaves none of a package.
    """
    if not hashes:
        return lock

    def allowed(file: LockedFile, texts: frozenset[str]) -> bool:
        told = {f"{name}:{text}" for name, text in file.hashes}
        # Hashes of another algorithm than the index tells are checked when the file is fetched.
        comparable = {name for name, _ in file.hashes} & {text.partition(":")[0] for text in texts}
        return bool(told & texts) or not comparable

    packages = []
    for package in lock.packages:
        texts = hashes.get(package.name)
        if texts:
            wheels = tuple(file for file in package.wheels if allowed(file, texts))
            sdist = package.sdist if package.sdist and allowed(package.sdist, texts) else None
            archive = package.archive
            gone = (package.wheels or package.sdist) and not wheels and not sdist
            if gone or (archive is not None and not allowed(archive, texts)):
                had = {f"{n}:{t}" for f in (*package.wheels, archive) if f for n, t in f.hashes}
                raise HashMismatch(
                    f"no file of {package} has a hash that was asked for ({', '.join(sorted(texts))[:300]});"
                    f" the index has {', '.join(sorted(had))[:300]}",
                    hint="Correct the --hash if the files were meant to change; if not, do not trust the index.",
                )
            package = replace(package, wheels=wheels, sdist=sdist)
        packages.append(package)
    return replace(lock, packages=tuple(packages))
