"""Which files of a project go into its image."""

from __future__ import annotations

from pathlib import Path

import pytest

from wain.errors import ProjectError
from wain.ignore import DockerIgnore, project_files


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "sub/a.pyc", False),
        ("**/*.pyc", "sub/deep/a.pyc", True),
        ("**/*.pyc", "a.pyc", True),
        ("docs", "docs/a/b.md", True),
        ("docs/", "docs/a.md", True),
        ("/docs", "docs/a.md", True),
        ("docs\n!docs/keep.md", "docs/keep.md", False),
        ("docs\n!docs/keep.md", "docs/other.md", True),
        ("!docs/keep.md\ndocs", "docs/keep.md", True),
        ("*\n!app", "app/main.py", False),
        ("*\n!app", "other/main.py", True),
        ("# docs", "# docs", False),
        ("  spaced  ", "spaced", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c].txt", "b.txt", True),
        ("[!a-c].txt", "b.txt", True),
        ("..\\*", "x", False),
        (".", "x", False),
        ("a/../b", "b", True),
        ("a.b", "axb", False),
        ("foo/**", "foo/x/y", True),
        ("**", "anything", True),
        ("**\n!**/*.py", "a/b.py", False),
    ],
)
def test_dockerignore_follows_docker(text: str, path: str, ignored: bool) -> None:
    assert DockerIgnore(text).ignores(path) is ignored


def _tree(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def _found(root: Path, **options: object) -> list[str]:
    return [found.path for found in project_files(root, **options)]  # type: ignore[arg-type]


def test_both_ignore_files_count(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        "app.py",
        "data/big.bin",
        "data/small.txt",
        "notes.md",
        "sub/.gitignore",
        "sub/x.log",
        "sub/y.py",
    )
    (tmp_path / ".gitignore").write_text("*.bin\n")
    (tmp_path / ".dockerignore").write_text("notes.md\n.gitignore\n**/.gitignore\n.dockerignore\n")
    (tmp_path / "sub/.gitignore").write_text("*.log\n")
    assert _found(tmp_path) == ["app.py", "data", "data/small.txt", "sub", "sub/y.py"]


def test_what_never_goes_in(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        "app.py",
        ".git/HEAD",
        ".env",
        ".env.local",
        "env/pyvenv.cfg",
        "env/lib/x.py",
        "p/__pycache__/a.pyc",
    )
    _tree(tmp_path, "dist/app.tar", "x.egg-info/PKG-INFO")
    assert _found(tmp_path, leave_out=[tmp_path / "dist"]) == ["app.py", "p"]


def test_include_wins_over_the_ignore_files(tmp_path: Path) -> None:
    _tree(tmp_path, "app/main.py", "app/static/a.css", "other/b.py", "top.py")
    (tmp_path / ".gitignore").write_text("static\n")
    assert _found(tmp_path, include=["app", "*.py"]) == [
        "app",
        "app/main.py",
        "app/static",
        "app/static/a.css",
        "top.py",
    ]


def test_an_exception_below_an_ignored_folder_brings_its_folder(tmp_path: Path) -> None:
    _tree(tmp_path, "docs/a.md", "docs/keep/b.md", "x.py")
    (tmp_path / ".dockerignore").write_text("docs\n!docs/keep\n.dockerignore")
    assert _found(tmp_path) == ["docs", "docs/keep", "docs/keep/b.md", "x.py"]


def test_a_malformed_pattern_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("[abc\n")
    with pytest.raises(ProjectError, match="malformed pattern"):
        _found(tmp_path)
