from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.unit.layer_maker import Member, directory, file, hardlink, symlink
from wain.errors import Offline, SdistError
from wain.sources import clone_repository, copy_project, project_sources, unpack_sdist


def sdist(path: Path, members: list[Member], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def unpacked(tmp_path: Path, members: list[Member]) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    return unpack_sdist(sdist(tmp_path / "p-1.tar.gz", members), target, filename="p-1.tar.gz")


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


def test_an_sdist_is_unpacked_with_plain_modes_and_its_own_times(tmp_path: Path) -> None:
    project = unpacked(
        tmp_path,
        [
            directory("p-1/", mode=0o777),
            file("p-1/setup.py", b"s", mode=0o600, mtime=1_600_000_000),
            file("p-1/configure", b"c", mode=0o4775),
            symlink("p-1/docs/link", "../setup.py"),
            hardlink("p-1/copy", "p-1/setup.py"),
        ],
    )
    assert project == tmp_path / "target/p-1"
    assert tree(project) == {"setup.py": "s", "configure": "c", "docs/link": "-> ../setup.py", "copy": "s"}
    assert (project / "setup.py").stat().st_mode & 0o7777 == 0o644
    assert (project / "configure").stat().st_mode & 0o7777 == 0o755
    assert (project / "setup.py").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize(("ending", "mode"), [("tar.bz2", "w:bz2"), ("tar.xz", "w:xz"), ("tgz", "w:gz"), ("tar", "w")])
def test_other_compressions_are_read(tmp_path: Path, ending: str, mode: str) -> None:
    (tmp_path / "t").mkdir()
    path = sdist(tmp_path / "x", [file("p-1/setup.py", b"s")], mode=mode)
    assert tree(unpack_sdist(path, tmp_path / "t", filename=f"p-1.{ending}")) == {"setup.py": "s"}


def test_a_zip_is_read(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with zipfile.ZipFile(tmp_path / "p-1.zip", "w") as archive:
        archive.writestr("p-1/", "")
        archive.writestr("p-1/a/setup.py", "s")
    project = unpack_sdist(tmp_path / "p-1.zip", tmp_path / "t", filename="p-1.zip")
    assert tree(project) == {"a/setup.py": "s"}


@pytest.mark.parametrize(
    "members",
    [
        [file("../x")],
        [file("p-1/../../x")],
        [symlink("p-1/x", "/etc/passwd")],
        [symlink("p-1/x", "../../y")],
        [symlink("p-1/x", "a/../../../y")],
        [symlink("p-1/x", "sub"), file("p-1/x/y")],
        [file("p-1/x"), file("p-1/x/y")],
        [hardlink("p-1/x", "p-1/missing")],
        [symlink("p-1/l", "x"), hardlink("p-1/x", "p-1/l")],
        [directory("p-1/x"), file("p-1/x")],
        [(tarfile.TarInfo("p-1/dev"), b"")],
        [file("a/x"), file("b/x")],
        [],
    ],
)
def test_hostile_sdists_are_refused_and_nothing_is_written_outside(tmp_path: Path, members: list[Member]) -> None:
    for info, _ in members:
        if info.name == "p-1/dev":
            info.type = tarfile.CHRTYPE
    with pytest.raises(SdistError) as caught:
        unpacked(tmp_path, members)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-1.tar.gz", "target"]


@pytest.mark.parametrize("name", ["../x", "/x/../../y", "a\\..\\..\\b"])
def test_hostile_zips_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "t").mkdir()
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("p-1/setup.py", "")
        archive.writestr(name, "x")
    with pytest.raises(SdistError):
        unpack_sdist(tmp_path / "p.zip", tmp_path / "t", filename="p.zip")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        link = zipfile.ZipInfo("p-1/l")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SdistError, match="link"):
        unpack_sdist(tmp_path / "p.zip", tmp_path / "t", filename="p.zip")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8bjunk", b"PK\x03\x04junk", b"x" * 600])
@pytest.mark.parametrize("filename", ["p-1.tar.gz", "p-1.zip", "p-1.tar.bz2", "p-1.tar.xz", "p-1.rar"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes, filename: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(SdistError):
        unpack_sdist(tmp_path / "f", tmp_path / "t", filename=filename)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wain.sources.MAX_UNPACKED_BYTES", 100_000)
    with pytest.raises(SdistError, match=r"member of|unpacks to"):
        unpacked(tmp_path, [file("p-1/zeros", bytes(1_000_000))])
    monkeypatch.setattr("wain.sources.MAX_MEMBERS", 3)
    (tmp_path / "other").mkdir()
    with pytest.raises(SdistError, match="more than 3 members"):
        unpacked(tmp_path / "other", [file(f"p-1/{n}") for n in range(5)])


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@mail.example", "-c", "init.defaultBranch=main", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_project_without_git_is_copied_without_what_tools_leave(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write(
        project,
        {
            "pyproject.toml": "",
            "src/app/__init__.py": "a",
            "src/app/build/x.py": "kept",
            "src/app/__pycache__/x.pyc": "",
            "src/app.egg-info/PKG-INFO": "",
            "build/lib/old.py": "",
            "env/pyvenv.cfg": "",
            "env/lib/x.py": "",
            ".venv/x": "",
        },
    )
    (project / "link").symlink_to("src")
    files = project_sources(project)
    assert files.paths == ("link", "pyproject.toml", "src/app/__init__.py", "src/app/build/x.py")
    copy = copy_project(files, tmp_path / "copy")
    assert (copy / "link").is_symlink()
    assert (copy / "src/app/__init__.py").read_text() == "a"
    # Names, bytes, executable bits and link targets count; times do not.
    os.utime(project / "pyproject.toml", (1, 1))
    assert project_sources(project).digest == files.digest
    (project / "pyproject.toml").chmod(0o755)
    assert project_sources(project).digest != files.digest


def test_git_says_what_belongs_to_a_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write(project, {".gitignore": "*.log\n", "pyproject.toml": "", "a.py": "", "gone.py": "", "x.log": ""})
    git(project, "init", "-q")
    git(project, "add", "-A")
    (project / "gone.py").unlink()
    write(project, {"untracked.py": ""})
    assert project_sources(project).paths == (".gitignore", "a.py", "pyproject.toml", "untracked.py")


def test_a_version_from_git_is_told_without_touching_the_repository(tmp_path: Path) -> None:
    top = tmp_path / "repository"
    project = top / "packages/app"
    write(
        top,
        {
            "README": "r",
            "packages/app/pyproject.toml": '[build-system]\nrequires = ["setuptools-scm"]\n',
            "packages/app/app.py": "",
        },
    )
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "one")
    git(top, "tag", "v1.2")
    (top / "README").touch()  # git has to look at its bytes again
    before = {path: path.is_file() and path.read_bytes() for path in top.rglob("*")}
    files = project_sources(project)
    copy = copy_project(files, tmp_path / "copy")
    assert copy == tmp_path / "copy/packages/app"
    said = subprocess.run(
        ["git", "describe", "--tags", "--dirty"], cwd=copy, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "v1.2"
    git(copy, "add", "-A")
    git(copy, "tag", "of-the-copy")
    assert {path: path.is_file() and path.read_bytes() for path in top.rglob("*")} == before
    git(top, "tag", "v1.3")
    assert project_sources(project).digest != files.digest


def test_an_unreadable_project_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a": ""})

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a"))

    monkeypatch.setattr("wain.sources.hashlib.file_digest", refused)
    with pytest.raises(SdistError, match="a cannot be read: Permission denied"):
        project_sources(tmp_path)


def test_a_commit_is_checked_out_with_its_tags(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write(repository, {"a.py": "one"})
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "one")
    git(repository, "tag", "v1")
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    write(repository, {"a.py": "two"})
    git(repository, "commit", "-q", "-a", "-m", "two")
    (tmp_path / "clone").mkdir()
    folder = clone_repository("git", str(repository), said.stdout.strip(), tmp_path / "clone")
    assert (folder / "a.py").read_text() == "one"
    tags = subprocess.run(["git", "tag"], cwd=folder, capture_output=True, text=True, check=True)
    assert tags.stdout == "v1\n"
    with pytest.raises(SdistError, match="cannot be had at 0000"):
        clone_repository("git", str(repository), "0" * 40, tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "url", "commit"),
    [
        ("hg", "https://code.example/x", "0" * 40),
        ("git", "https://code.example/x", "main"),
        ("git", "--upload-pack=touch x", "0" * 40),
        ("git", "https://code.example/x", "--help"),
    ],
)
def test_what_is_no_commit_is_refused(tmp_path: Path, kind: str, url: str, commit: str) -> None:
    with pytest.raises(SdistError, match="no commit of git"):
        clone_repository(kind, url, commit, tmp_path)


def test_a_remote_repository_is_not_cloned_offline(tmp_path: Path) -> None:
    with pytest.raises(Offline):
        clone_repository("git", "https://code.example/x", "0" * 40, tmp_path, offline=True)


def test_a_repositorys_credentials_reach_git_by_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/git"
    write(tmp_path, {"bin/git": '#!/bin/sh\necho "$@" >&2\nenv | grep ^GIT_CONFIG_ >&2\nexit 1\n'})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(SdistError) as caught:
        clone_repository(
            "git",
            "https://code.example/x",
            "0" * 40,
            tmp_path / "clone",
            credential_urls=["https://eve:wrong@other.example/", "git+https://ann:hunter2@code.example/x"],
        )
    assert "GIT_CONFIG_KEY_0=url.https://code.example/.insteadOf" in caught.value.message  # redacted
    assert "hunter2" not in caught.value.message
    assert "wrong" not in caught.value.message
