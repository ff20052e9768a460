"""Which base an image is made on, and its image: the built-in one, or one by reference.

What a lock says of the built-in base counts; else its packages are resolved, and remembered for ten minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.choose import PythonChoice, choose_python, written_python
from wain.errors import (
    DebianError,
    LockError,
    PythonError,
    UsageError,
)
from wain.image import Image, Index
from wain.lock import Lock
from wain.names import SUITES, RegistryReference, parse_reference
from wain.oci import JSON
from wain.platforms import Platform, Target
from wain.project import Project
from wain.request import Request, Workshop
from wain.reuse import Reuse
from wain.settings import WainSettings
from wain.store import recipe_key

if TYPE_CHECKING:
    from wain.bases import BaseFacts
    from wain.debian import BaseLock, Mirrors


REMEMBERED_SECONDS = 600
"""How long a choice of the base's packages holds that no lock has written down."""


class BaseChoice(Struct, frozen=True, kw_only=True):
    """Which base, and the line that tells the user why."""

    name: str
    """`debian:trixie` for the built-in one, else a reference."""
    python: PythonChoice | None
    """None where the base decides it."""
    suite: str | None
    """Of the built-in base; None for a reference."""


def choose_base(
    project: Project, settings: WainSettings, request: Request, lock: Lock | None, *, renews: bool = False
) -> BaseChoice:
    """The base: the flag; the setting; the lock's; the built-in one where it can be had; else python:X.Y-slim.

    Where flag or setting name the base that the lock has, it is the lock's, with its digest.

    :param renews: whether the lock is being made anew: what it says of another base binds nobody.
    :raises LockError: with --locked, when the lock has another base.
    :raises PythonError: when the Python that is wanted cannot be had.
    """
    locked = lock.tool.get("base") if lock else None
    wanted = request.base or settings.base
    if wanted and locked is not None:
        name = _locked_name(locked)
        if name not in (wanted, _whole_name(wanted, settings)):
            if renews:
                locked = None
            elif request.locked:
                raise LockError(
                    f"the lock is for the base {name}, not for {wanted}", hint=f"Lock again: wain lock --base {wanted}."
                )
        elif isinstance(locked, str) and "@" not in wanted:
            wanted = locked
    locked_python = _locked_python(locked)
    written = written_python(project, flag=request.python, setting=settings.python, locked=locked_python)
    suites = {suite: minor for minor, suite in SUITES.items()}
    if wanted:
        suite = wanted.removeprefix("debian:") if wanted.startswith("debian:") else ""
        if suite not in suites:
            return BaseChoice(name=wanted, python=written, suite=None)
        if written is not None and written.minor != suites[suite]:
            raise PythonError(
                f"{wanted} has Python {suites[suite]}, and {written.reason} says {written.minor}",
                hint=other_python_hint(written, wanted),
            )
        chosen = PythonChoice(minor=suites[suite], reason=f"the base {wanted}", is_firm=True)
        return BaseChoice(name=wanted, python=chosen, suite=suite)
    if isinstance(locked, str) and not request.python:
        return BaseChoice(name=locked, python=written, suite=None)
    python = choose_python(
        project, flag=request.python, setting=settings.python, locked=locked_python, built_in=tuple(SUITES)
    )
    if python.minor in SUITES and (_has_lock(locked) or _mirrors(settings) is not None):
        suite = SUITES[python.minor]
        return BaseChoice(name=f"debian:{suite}", python=python, suite=suite)
    return BaseChoice(name=f"python:{python.minor}-slim", python=python, suite=None)


def other_python_hint(python: PythonChoice, base: str) -> str:
    """What to do where a base has another Python than was chosen."""
    if python.reason == "the lock":
        return f"Lock again for this base: wain lock --base {base}."
    return f"Use a base with that Python, such as python:{python.minor}-slim."


def told(choice: BaseChoice, facts: BaseFacts | None = None) -> str:
    if choice.suite is None:
        return f"base {choice.name}" + (f", which has Python {facts.python}" if facts else "")
    assert choice.python is not None
    return f"base {choice.name}, made of Debian packages: Python {choice.python.minor} ({choice.python.reason})"


def bases_for(
    choice: BaseChoice,
    platforms: Sequence[Platform],
    request: Request,
    settings: WainSettings,
    lock: Lock | None,
    workshop: Workshop,
    reuse: Sequence[Reuse],
) -> tuple[Image, ...]:
    if choice.suite is None:
        if request.packages or settings.packages:
            raise UsageError(
                f"`packages` adds to the built-in base, not to {choice.name}",
                hint='Leave out packages, or set base = "debian:trixie".',
            )
        return referenced(choice.name, platforms, settings, workshop)[1]
    from wain.debian import base_image

    images = []
    for platform, known in zip(platforms, reuse, strict=True):
        packages = request.packages or settings.packages
        if (locked := _locked_packages(lock, choice, platform)) is not None and {*locked} != {*packages}:
            raise LockError(
                f"packages asks for {', '.join(packages) or 'none'}, and the lock's base has"
                f" {', '.join(locked) or 'none'}",
                hint="Lock again: wain lock.",
            )
        image = base_image(
            base_lock(choice, platform, request, settings, lock, workshop),
            store=workshop.store,
            transport=workshop.transport,
            mirrors=_mirrors(settings),
            elsewhere=known.find,
            progress=workshop.progress,
        )
        if known.verifies:
            for layer in image.layers:
                known.check(layer)
        images.append(image)
    return tuple(images)


def open_base(
    name: str, platform: Platform, settings: WainSettings, workshop: Workshop, *, packages: Sequence[str] = ()
) -> tuple[str, Image]:
    """A base by its name, and the name with a digest where a registry has it.

    :param name: a reference, or `debian:SUITE` for the built-in base with the newest packages.
    :raises WainError: of every kind that a registry or a mirror can have.
    """
    suite = name.removeprefix("debian:")
    if name.startswith("debian:") and suite in SUITES.values():
        from wain.debian import base_image, resolve_base

        mirrors = _mirrors(settings)
        lock = resolve_base(
            suite,
            platform=platform,
            packages=packages,
            mirrors=mirrors,
            store=workshop.store,
            transport=workshop.transport,
        )
        return name, base_image(
            lock,
            store=workshop.store,
            transport=workshop.transport,
            mirrors=mirrors,
            progress=workshop.progress,
        )
    found, images = referenced(name, (platform,), settings, workshop)
    return found, images[0]


def referenced(
    name: str, platforms: Sequence[Platform], settings: WainSettings, workshop: Workshop
) -> tuple[str, tuple[Image, ...]]:
    """A base by reference: its name, a registry's with the digest, and its image for each platform."""
    from wain.transfer import read_image

    reference = parse_reference(name)
    if not isinstance(reference, RegistryReference) and not Path(name).is_absolute():
        name = _beside(name, settings)
        reference = parse_reference(name)
    found = read_image(reference, platform=platforms[0] if len(platforms) == 1 else None, access=workshop.access)
    if isinstance(reference, RegistryReference):
        name = str(reference.with_digest(found.digest))
    return name, tuple(found.image_for(platform) if isinstance(found, Index) else found for platform in platforms)


def _locked_name(locked: JSON) -> str:
    """A lock's base as a user would name it: `debian:SUITE`, or a reference without its digest."""
    if isinstance(locked, list) and locked and isinstance(locked[0], dict):
        return f"debian:{locked[0].get('suite')}"
    return str(locked).partition("@")[0]


def _whole_name(name: str, settings: WainSettings) -> str:
    """What a lock calls a base that a user names so, without its digest."""
    reference = parse_reference(name)
    if isinstance(reference, RegistryReference):
        return str(reference).partition("@")[0]
    return _beside(name, settings)


def _beside(name: str, settings: WainSettings) -> str:
    """A path in `[tool.wain]` is meant from where it is written."""
    scheme, colon, path = name.partition(":")
    if settings.path is None or settings.base != name or scheme not in ("oci", "archive") or Path(path).is_absolute():
        return name
    return f"{scheme}{colon}{settings.path.parent / path}"


def base_lock(
    choice: BaseChoice,
    platform: Platform,
    request: Request,
    settings: WainSettings,
    lock: Lock | None,
    workshop: Workshop,
) -> BaseLock:
    packages = request.packages or settings.packages
    locked = _locked_base(lock, choice, platform, packages)
    return locked or _remembered_base(choice, platform, packages, request, workshop, settings)


def target_of(lock: BaseLock) -> Target:
    """The environment of a built-in base, known from its packages alone."""
    libc = next((item.version for item in lock.packages if item.name == "libc6"), "2.36")
    major, minor = libc.partition("-")[0].split(".")[:2]
    python = lock.python_version
    return Target(
        platform=lock.platform,
        python=python,
        abi=f"cp{python.major}{python.minor}",
        libc_version=(int(major), int(minor)),
    )


def _remembered_base(
    choice: BaseChoice,
    platform: Platform,
    packages: Sequence[str],
    request: Request,
    workshop: Workshop,
    settings: WainSettings,
) -> BaseLock:
    import time

    from wain.debian import BaseLock, resolve_base

    assert choice.suite is not None
    mirrors = _mirrors(settings)
    key = recipe_key(
        {
            "what": "recent-base",
            "suite": choice.suite,
            "platform": str(platform),
            "packages": [*sorted(packages)],
            "mirrors": [*mirrors.main, *mirrors.security] if mirrors else [],
        }
    )
    memo = workshop.store.memo("recent-base", key)
    if memo is not None and not request.refresh:
        at = memo.get("at")
        if isinstance(at, int) and (0 <= time.time() - at < REMEMBERED_SECONDS or request.offline):
            return BaseLock.from_json(memo.get("lock"))
    try:
        found = resolve_base(
            choice.suite,
            platform=platform,
            packages=packages,
            mirrors=mirrors,
            store=workshop.store,
            transport=workshop.transport,
        )
    except DebianError as error:
        if mirrors is None:
            raise DebianError(
                f"no Debian mirror is known for the base {choice.name}",
                hint='Set debian-mirrors = ["URL"] under [tool.wain] in pyproject.toml, or name a base with --base.',
            ) from error
        raise
    workshop.store.put_memo("recent-base", key, {"at": int(time.time()), "lock": found.to_json()})
    return found


def _locked_packages(lock: Lock | None, choice: BaseChoice, platform: Platform) -> Sequence[str] | None:
    """The packages that were asked for when a built-in base was locked; None where the lock has no such base."""
    from wain.debian import BaseLock

    value = lock.tool.get("base") if lock else None
    for item in value if isinstance(value, list) else []:
        found = BaseLock.from_json(item)
        if (found.suite, found.platform) == (choice.suite, platform):
            return found.requested
    return None


def _locked_base(lock: Lock | None, choice: BaseChoice, platform: Platform, packages: Sequence[str]) -> BaseLock | None:
    """What the lock file says of the built-in base; None where it says nothing or speaks of another one."""
    value = lock.tool.get("base") if lock else None
    if not _has_lock(value):
        return None
    from wain.debian import BaseLock

    assert isinstance(value, list)
    for item in value:
        found = BaseLock.from_json(item)
        if (found.suite, found.platform) == (choice.suite, platform) and found.requested == tuple(
            sorted(set(packages))
        ):
            return found
    return None


def _has_lock(value: JSON) -> bool:
    return isinstance(value, list) and bool(value)


def _locked_python(value: JSON) -> str | None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return str(value[0].get("python"))
    return None


def _mirrors(settings: WainSettings) -> Mirrors | None:
    from wain.debian_archive import debian_mirrors

    return debian_mirrors(settings.debian_mirrors)
