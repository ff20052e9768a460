"""Which Python an image gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wain.choose import _fits, choose_python
from wain.errors import PythonError
from wain.project import Project

BUILT_IN = ("3.9", "3.11", "3.13")


def _choose(project: Project | None = None, **options: str | None) -> tuple[str, str]:
    chosen = choose_python(
        project or Project(path=Path(), name="x"),
        flag=options.get("flag"),
        setting=options.get("setting"),
        locked=options.get("locked"),
        built_in=BUILT_IN,
    )
    return chosen.minor, chosen.reason


def test_precedence() -> None:
    project = Project(path=Path(), name="x", python_minor="3.10", requires_python=">=3.9")
    assert _choose(project, flag="3.13", setting="3.12", locked="3.9") == ("3.13", "--python")
    assert _choose(project, setting="3.12", locked="3.9") == ("3.12", "python in [tool.wain]")
    assert _choose(project, locked="3.9") == ("3.10", ".python-version")
    assert _choose(locked="3.9") == ("3.9", "the lock")


def test_requires_python_and_the_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(path=Path(), name="x", requires_python=">=3.11")
    monkeypatch.setattr(sys, "version_info", _Version(3, 11))
    assert _choose(project)[0] == "3.11"
    monkeypatch.setattr(sys, "version_info", _Version(3, 12))
    assert _choose(project)[0] == "3.13"
    assert _choose()[0] == "3.13"
    assert _choose(Project(path=Path(), name="x", requires_python=">=3.14"))[0] == "3.14"
    assert _choose(Project(path=Path(), name="x", requires_python="<3.12,>=3.11.4"))[0] == "3.11"


class _Version(tuple[int, int]):
    def __new__(cls, major: int, minor: int) -> _Version:
        return super().__new__(cls, (major, minor))

    major = property(lambda self: self[0])
    minor = property(lambda self: self[1])


def test_what_does_not_exist_is_an_error() -> None:
    with pytest.raises(PythonError, match="no known Python"):
        _choose(Project(path=Path(), name="x", requires_python=">=4"))
    with pytest.raises(PythonError, match="malformed"):
        _choose(Project(path=Path(), name="x", requires_python="three"))
    with pytest.raises(PythonError, match="free-threaded"):
        _choose(flag="3.13t")


def test_numbers_of_thousands_of_digits_are_malformed() -> None:
    with pytest.raises(PythonError, match="malformed"):
        _fits("3.13", ">=" + "9" * 5000)
