from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wain.context import ignore_file, read_context
from wain.copying import CopyOptions, NotFoundInSource, copy_sources
from wain.errors import DockerfileError, ProjectError
from wain.ignore import DockerIgnore
from wain.tree import Tree, changes, entries


def context(folder: Path, ignore: str = "") -> Tree:
    return read_context(folder, DockerIgnore(ignore))


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in tree.walk()]


def fill(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/one.txt").write_text("1")
    (folder / "a/b/two.txt").write_text("2")
    (folder / "top.py").write_text("top")


def test_exceptions_bring_back_what_a_folder_lost(tmp_path: Path) -> None:
    fill(tmp_path)
    assert paths(context(tmp_path, "*\n!a/b")) == ["a", "a/b", "a/b/two.txt"]
    assert paths(context(tmp_path, "a\n")) == ["top.py"]


def test_the_dockerfile_s_own_ignore_file_wins(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("x")
    file = tmp_path / "prod.Dockerfile"
    assert ignore_file(tmp_path, file).name == ".dockerignore"
    (tmp_path / "prod.Dockerfile.dockerignore").write_text("y")
    assert ignore_file(tmp_path, file).name == "prod.Dockerfile.dockerignore"


def test_sockets_are_left_out_and_pipes_refused_when_copied(tmp_path: Path) -> None:
    fill(tmp_path)
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        listener.bind("s")
    finally:
        os.chdir(here)
        listener.close()
    os.mkfifo(tmp_path / "pipe")
    tree = context(tmp_path)
    assert "s" not in paths(tree)
    with pytest.raises(DockerfileError, match="device or pipe"):
        copy_sources(tree, ["pipe"], Tree(), "/x/", CopyOptions())


def test_a_file_that_changes_during_the_build_is_told(tmp_path: Path) -> None:
    fill(tmp_path)
    tree = context(tmp_path)
    (tmp_path / "top.py").write_text("changed meanwhile")
    node = tree.get("top.py")
    assert node is not None and node.content is not None
    with pytest.raises(ProjectError, match="changed during the build"):
        node.content.open()


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    fill(tmp_path)
    node = context(tmp_path).get("top.py")
    assert node is not None and node.content is not None
    with node.content.open() as stream:
        assert stream.read(1) == b"t"
        (tmp_path / "top.py").write_text("toq")
        os.utime(tmp_path / "top.py", ns=(1, 1))
        with pytest.raises(ProjectError, match="changed during the build"):
            while stream.read(1):
                pass


def test_what_cannot_be_read_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    tree = context(tmp_path)
    node = tree.get("top.py")
    assert node is not None and node.content is not None

    def refuse(path: object, *words: object, **named: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    # Whoever runs the tests as root may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ProjectError, match=r"top\.py cannot be read: Permission denied") as caught:
        node.content.open()
    assert ".dockerignore" in caught.value.hint
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ProjectError, match="cannot be read: Permission denied"):
        context(tmp_path)


def test_links_never_leave_the_context(tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    fill(folder)
    (tmp_path / "secret").write_text("secret")
    (folder / "out").symlink_to("../secret")
    (folder / "absolute").symlink_to("/a/one.txt")
    tree = context(folder)
    target = Tree()
    with pytest.raises(NotFoundInSource):
        copy_sources(tree, ["out"], target, "/x", CopyOptions())
    copy_sources(tree, ["absolute"], target, "/y", CopyOptions())
    node = target.get("y")
    assert node is not None and node.kind == "file"
    copy_sources(tree, ["."], target, "/all/", CopyOptions())
    link = target.get("all/out")
    assert link is not None and (link.kind, link.target) == ("symlink", "../secret")


@pytest.mark.parametrize(
    ("sources", "destination", "expected"),
    [
        (["a"], "/d", ["d", "d/b", "d/b/two.txt", "d/one.txt"]),
        (["top.py"], "/d", ["d"]),
        (["top.py"], "/d/", ["d", "d/top.py"]),
        (["a/*.txt", "t?p.py"], "/d/", ["d", "d/one.txt", "d/top.py"]),
        (["a/[!x]/*.txt"], "/d/", ["d", "d/two.txt"]),
        (["*.none", "top.py"], "/d/", ["d", "d/top.py"]),
    ],
)
def test_sources_and_destinations(tmp_path: Path, sources: list[str], destination: str, expected: list[str]) -> None:
    fill(tmp_path)
    target = Tree()
    copy_sources(context(tmp_path), [one.replace("!", "^") for one in sources], target, destination, CopyOptions())
    assert paths(target) == expected


def test_parents_and_exclude(tmp_path: Path) -> None:
    fill(tmp_path)
    target = Tree()
    copy_sources(context(tmp_path), ["a/b/two.txt"], target, "/d/", CopyOptions(parents=True))
    assert paths(target) == ["d", "d/a", "d/a/b", "d/a/b/two.txt"]
    target = Tree()
    copy_sources(context(tmp_path), ["."], target, "/d/", CopyOptions(exclude=("**/*.txt",)))
    assert "d/top.py" in paths(target)
    assert not [path for path in paths(target) if path.endswith(".txt")]


def test_many_files_and_their_layer(tmp_path: Path) -> None:
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in range(100):
            (folder / str(name)).touch()
    tree = Tree()
    before = tree.mark()
    copy_sources(context(tmp_path), ["."], tree, "/x/", CopyOptions(owner=(5, 6)))
    found = entries(changes(before, tree.root))
    assert len(found) == 1 + 50 + 5000
    assert {(entry.uid, entry.gid) for entry in found if entry.kind == "file"} == {(5, 6)}


def test_a_very_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(2 << 30)
    node = context(tmp_path).get("big")
    assert node is not None and node.size_bytes == 2 << 30
    assert node.content is not None
    with node.content.open() as opened:
        assert len(opened.read(1 << 20)) == 1 << 20


def test_the_build_s_own_outputs_never_go_in(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/app.tar").write_text("an image")
    tree = read_context(tmp_path, DockerIgnore(""), leave_out=[tmp_path / "dist/app.tar"])
    assert "dist" not in paths(tree)
    (tmp_path / "dist/mine").write_text("")
    tree = read_context(tmp_path, DockerIgnore(""), leave_out=[tmp_path / "dist/app.tar"])
    assert [path for path in paths(tree) if path.startswith("dist")] == ["dist", "dist/mine"]
