"""What a folder says of the image to make of it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from wain.errors import ProjectError
from wain.ignore import project_files
from wain.layers import Layer
from wain.project import Project, entry_point, file_entries, load_project, project_layer, source_time
from wain.store import Store


def _write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_toml", ".toml").replace("_py", ".py").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_folder_with_requirements_alone_is_a_project(tmp_path: Path) -> None:
    root = tmp_path / "My.App"
    root.mkdir()
    project = load_project(_write(root, requirements_txt="", app_py=""))
    assert (project.name, project.has_build_system) == ("my-app", False)
    assert entry_point(project) == ("python", "app.py")


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="nothing to build") as caught:
        load_project(tmp_path)
    assert "requirements.txt" in caught.value.hint


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="not a folder"):
        load_project(tmp_path / "none")


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [('one = "p:main"', ("one",)), ('other = "p:main"\nthing = "p:go"', ("thing",))],
)
def test_the_console_script_of_a_wheel_starts_it(tmp_path: Path, scripts: str, expected: tuple[str, ...]) -> None:
    text = f'[build-system]\nrequires = []\n[project]\nname = "thing"\nversion = "1"\n[project.scripts]\n{scripts}\n'
    assert entry_point(load_project(_write(tmp_path, pyproject_toml=text))) == expected


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"setup_py": "from setuptools import setup\nsetup(name='mill')\n"}, "my-app"),
        ({"pyproject_toml": '[build-system]\nrequires = []\n[tool.poetry]\nname = "Water_Mill"\n'}, "water-mill"),
        ({"pyproject_toml": '[build-system]\nrequires = []\n[tool.flit.metadata]\nmodule = "mill"\n'}, "mill"),
        (
            {"pyproject_toml": '[build-system]\nrequires = []\n[project]\nname = "mill"\ndynamic = ["scripts"]\n'},
            "mill",
        ),
    ],
)
def test_what_only_a_back_end_knows_is_asked_of_the_wheel(tmp_path: Path, files: dict[str, str], name: str) -> None:
    root = tmp_path / "my_app"
    root.mkdir()
    project = load_project(_write(root, **files))
    assert (project.name, project.has_build_system, project.scripts) == (name, True, None)


def test_a_setup_py_beside_requirements_makes_no_wheel(tmp_path: Path) -> None:
    project = load_project(_write(tmp_path, setup_py="", requirements_txt="", app_py=""))
    assert not project.has_build_system
    assert entry_point(project) == ("python", "app.py")


def test_several_console_scripts_are_a_question(tmp_path: Path) -> None:
    text = '[build-system]\nrequires = []\n[project]\nname = "thing"\n[project.scripts]\na = "p:a"\nb = "p:b"\n'
    with pytest.raises(ProjectError, match="several console scripts: a, b") as caught:
        entry_point(load_project(_write(tmp_path, pyproject_toml=text)))
    assert 'entrypoint = ["a"]' in caught.value.hint


def test_a_package_with_main(tmp_path: Path) -> None:
    project = load_project(_write(tmp_path, requirements_txt="", tool____main___py=""))
    (tmp_path / "tool").mkdir(exist_ok=True)
    (tmp_path / "tool/__main__.py").write_text("")
    assert entry_point(project) == ("python", "-m", "tool")
    (tmp_path / "app2").mkdir()
    (tmp_path / "app2/__main__.py").write_text("")
    with pytest.raises(ProjectError, match="several packages"):
        entry_point(project)


def test_nothing_to_start_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="nothing says how") as caught:
        entry_point(load_project(_write(tmp_path, requirements_txt="")))
    assert "entrypoint" in caught.value.hint
    (tmp_path / "manage.py").write_text("")
    with pytest.raises(ProjectError, match="nothing says how") as caught:
        entry_point(load_project(tmp_path))
    assert '"manage.py", "runserver"' in caught.value.hint


def test_the_setting_wins(tmp_path: Path) -> None:
    project = load_project(_write(tmp_path, requirements_txt="", app_py=""))
    assert entry_point(project, ("gunicorn", "app:app")) == ("gunicorn", "app:app")


def _git(root: Path, *words: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    environ = {**os.environ, "GIT_COMMITTER_DATE": "1700000000 +0000", "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", *names, *words], cwd=root, check=True, capture_output=True, env=environ, timeout=30)


def test_the_time_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    root = _write(tmp_path, requirements_txt="", app_py="")
    for name, mtime in (("requirements.txt", 1_500_000_000), ("app.py", 1_600_000_000)):
        os.utime(root / name, (mtime, mtime))
    project = load_project(root)
    files = list(project_files(root))
    assert source_time(project, files) == 1_600_000_000
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "x")
    assert source_time(project, files) == 1_700_000_000
    (root / "app.py").write_text("changed")
    os.utime(root / "app.py", (1_800_000_000, 1_800_000_000))
    assert source_time(project, list(project_files(root))) == 1_800_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "42")
    assert source_time(project, files) == 42
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(ProjectError, match="SOURCE_DATE_EPOCH"):
        source_time(project, files)


def test_entries_keep_what_matters_and_nothing_else(tmp_path: Path) -> None:
    root = _write(tmp_path, app_py="x = 1\n", run_py="#!/bin/sh\n")
    (root / "run.py").chmod(0o4750)
    (root / "link").symlink_to("app.py")
    entries = {entry.path: entry for entry in file_entries(list(project_files(root)), mtime=7)}
    assert set(entries) == {"app", "app/app.py", "app/run.py", "app/link"}
    assert entries["app/app.py"].mode == 0o644
    assert entries["app/run.py"].mode == 0o755
    assert entries["app/link"].target == "app.py"
    assert {entry.mtime for entry in entries.values()} == {7}
    opener = entries["app/app.py"].open_data
    assert opener is not None
    with opener() as stream:
        assert stream.read() == b"x = 1\n"


def test_a_socket_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(ProjectError, match="no file, folder or link"):
            file_entries(list(project_files(tmp_path)), mtime=0)


@pytest.fixture
def heavy(tmp_path: Path) -> Project:
    """A project with a file that is worth remembering."""
    root = tmp_path / "heavy"
    root.mkdir()
    _write(root, requirements_txt="", app_py="print(1)\n")
    (root / "model.bin").write_bytes(bytes(5 << 20))
    (root / "link").symlink_to("model.bin")
    (root / "folder").mkdir()
    return load_project(root)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands where the files were written long ago."""
    real = time.time_ns
    monkeypatch.setattr("wain.project.time.time_ns", lambda: real() + 60_000_000_000)


def _layer(project: Project, store: Store) -> tuple[Layer, bool]:
    return project_layer(project, list(project_files(project.path)), mtime=7, store=store)


@pytest.mark.usefixtures("later")
def test_files_that_have_not_changed_are_not_read_again(
    heavy: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path / "store") as store:
        first, known = _layer(heavy, store)
        assert not known
        with monkeypatch.context() as patch:
            patch.setattr("wain.project.file_entries", None)
            second, known = _layer(heavy, store)
        assert known
        assert second == first
        assert second.annotations == first.annotations == {}
        (heavy.path / "folder/new").touch()
        (heavy.path / "folder/new").unlink()
        assert _layer(heavy, store)[1], "a folder's own times are not in the layer"


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["content", "mode", "link", "new", "gone", "renamed"])
def test_any_change_makes_the_projects_layer_anew(heavy: Project, tmp_path: Path, change: str) -> None:
    model, app = heavy.path / "model.bin", heavy.path / "app.py"
    with Store.open(tmp_path / "store") as store:
        first, _ = _layer(heavy, store)
        if change == "content":
            # The same size and the same mtime, as some tools leave them.
            before = app.stat()
            app.write_text("print(2)\n")
            os.utime(app, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif change == "mode":
            app.chmod(0o755)
        elif change == "link":
            (heavy.path / "link").unlink()
            (heavy.path / "link").symlink_to("other.bin")
        elif change == "new":
            (heavy.path / "new").touch()
        elif change == "gone":
            app.unlink()
        else:
            model.rename(heavy.path / "other.bin")
        second, known = _layer(heavy, store)
        assert not known
        assert second.digest != first.digest
        with Store.open(tmp_path / "fresh") as fresh:
            assert _layer(heavy, fresh)[0] == second


def test_files_that_have_just_changed_are_not_remembered(heavy: Project, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        assert [_layer(heavy, store)[1] for _ in range(2)] == [False, False]


@pytest.mark.usefixtures("later")
def test_a_layer_that_the_store_lost_is_made_again(heavy: Project, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        first, _ = _layer(heavy, store)
        store.drop(first.digest)
        assert _layer(heavy, store) == (first, False)
