"""Which markers hold for a target, and which of a version's wheels it gets; nothing is asked of this machine.

Source: PyPA specifications, dependency specifiers, platform compatibility tags, binary distribution format.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wain.errors import LockError
from wain.index import LockedFile

if TYPE_CHECKING:
    from wain.platforms import Target


def evaluate_marker(text: str, target: Target, extras: frozenset[str], groups: frozenset[str]) -> bool:
    """Whether a marker holds in a target's environment; nothing is taken from this machine.

    :raises LockError: when it is no marker.
    """
    return _evaluate(text, target, extras, groups)


@functools.lru_cache(maxsize=8192)
def _evaluate(text: str, target: Target, extras: frozenset[str], groups: frozenset[str]) -> bool:
    from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName

    environment: dict[str, Any] = {**target.markers(), "extras": extras, "dependency_groups": groups}
    try:
        return Marker(text).evaluate(environment, context="lock_file")
    except (ValueError, RecursionError, UndefinedComparison, UndefinedEnvironmentName, KeyError) as error:
        raise LockError(f"{text[:200]!r} is no marker of a lock", hint="Lock again.") from error


@functools.lru_cache(maxsize=1024)
def satisfies(specifiers: str, version: str) -> bool:
    """Whether a version is in a set of specifiers; pre-releases may be.

    :raises LockError: when it is no set of specifiers.
    """
    if specifiers == f"=={version}":
        return True
    from packaging.specifiers import SpecifierSet

    try:
        return SpecifierSet(specifiers).contains(version, prereleases=True)
    except ValueError as error:
        raise LockError(f"{specifiers[:200]!r} is no set of versions", hint="Lock again.") from error


@functools.lru_cache(maxsize=8)
def _ranks(target: Target) -> dict[str, int]:
    return {str(tag): rank for rank, tag in reversed(list(enumerate(target.tags())))}


def best_wheel(files: Iterable[LockedFile], target: Target) -> LockedFile | None:
    """The wheel whose tags come first for the target; of equals the highest build number; None if none fits."""
    best: LockedFile | None = None
    best_key: tuple[int, tuple[int, str]] | None = None
    ranks = _ranks(target)
    for file in files:
        parts = file.filename.removesuffix(".whl").split("-")
        if not file.filename.endswith(".whl") or len(parts) not in (5, 6):
            continue
        interpreters, abis, platforms = (part.lower().split(".") for part in parts[-3:])
        rank = min(
            (
                ranks[text]
                for interpreter in interpreters
                for abi in abis
                for name in platforms
                if (text := f"{interpreter}-{abi}-{name}") in ranks
            ),
            default=None,
        )
        if rank is None:
            continue
        key = (-rank, _build_number(parts[2]) if len(parts) == 6 else (-1, ""))
        if best_key is None or key > best_key:
            best, best_key = file, key
    return best


def _build_number(text: str) -> tuple[int, str]:
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return (int(digits) if digits else -1, text[len(digits) :])
