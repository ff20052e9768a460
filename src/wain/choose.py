"""Which Python and which base an image is made on, and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from msgspec import Struct

from wain.errors import PythonError
from wain.platforms import parse_python_minor
from wain.project import Project

# The minors that a base by reference may have, newest first; the built-in base has fewer.
_KNOWN_MINORS = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9")


class PythonChoice(Struct, frozen=True, kw_only=True):
    """A minor version of Python, and what said so."""

    minor: str
    reason: str
    is_firm: bool
    """Whether the user wrote it; else another may be taken where no base has it."""


def written_python(
    project: Project, *, flag: str | None, setting: str | None, locked: str | None
) -> PythonChoice | None:
    """The Python that somebody wrote down: the flag's; the setting's; .python-version's; the lock's.

    :raises PythonError: when what is written is no Python that can be had.
    """
    for text, origin in (
        (flag, "--python"),
        (setting, "python in [tool.wain]"),
        (project.python_minor, ".python-version"),
        (locked, "the lock"),
    ):
        if text:
            return PythonChoice(minor=parse_python_minor(text), reason=origin, is_firm=True)
    return None


def choose_python(
    project: Project,
    *,
    flag: str | None,
    setting: str | None,
    locked: str | None,
    built_in: Sequence[str],
) -> PythonChoice:
    """The Python of the image.

    The flag; the setting; .python-version; the lock's; requires-python together with the running interpreter;
    else the running interpreter's minor where a built-in base has it, else the newest that one has.

    :param locked: the minor version that the lock was made for, where it says so.
    :param built_in: the minors that the built-in base has.
    :raises PythonError: when what is written is no Python that can be had, or nothing fits requires-python.
    """
    if (written := written_python(project, flag=flag, setting=setting, locked=locked)) is not None:
        return written
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    candidates = sorted({*built_in, *_KNOWN_MINORS}, key=lambda minor: int(minor.partition(".")[2]), reverse=True)
    if project.requires_python:
        fitting = [minor for minor in candidates if _fits(minor, project.requires_python)]
        if not fitting:
            raise PythonError(
                f"no known Python fits requires-python {project.requires_python!r}",
                hint=f"Known are {', '.join(reversed(candidates))}; name a base image that has it with --base.",
            )
        in_base = [minor for minor in fitting if minor in built_in]
        chosen = running if running in in_base else (in_base or fitting)[0]
        return PythonChoice(minor=chosen, reason=f"requires-python {project.requires_python}", is_firm=False)
    if running in built_in:
        return PythonChoice(minor=running, reason="as the Python that runs wain", is_firm=False)
    newest = max(built_in, key=lambda minor: int(minor.partition(".")[2]), default=candidates[0])
    return PythonChoice(minor=newest, reason="the newest of the built-in base", is_firm=False)


def _fits(minor: str, requires_python: str) -> bool:
    from packaging.specifiers import SpecifierSet

    try:
        specifiers = SpecifierSet(requires_python)
        # A minor fits where some patch version of it does: the highest stands for "late enough".
        return any(specifiers.contains(f"{minor}.{patch}") for patch in (0, 5, 10, 99))
    except ValueError as error:
        raise PythonError(
            f"requires-python {requires_python!r} is malformed", hint='Write it like ">=3.11" in pyproject.toml.'
        ) from error
