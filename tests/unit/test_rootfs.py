from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence

import pytest
import zstandard

from tests.unit.elf_maker import make_elf
from tests.unit.layer_maker import directory, file, hardlink, make_layer, symlink
from wain import rootfs
from wain.digest import Digest
from wain.errors import HashMismatch, ImageError
from wain.layers import Layer
from wain.rootfs import Rootfs


def rootfs_of(*layers: Sequence[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]) -> Rootfs:
    return Rootfs.of([make_layer(members) for members in layers], keep=lambda path, size: True)


def paths(rootfs: Rootfs) -> list[str]:
    return [path for path, _ in rootfs.walk()]


def test_a_higher_layer_wins_and_the_owner_layer_is_known() -> None:
    rootfs = rootfs_of([directory("a"), file("a/x", b"1"), file("a/y", b"2")], [file("a/x", b"3")])
    assert paths(rootfs) == ["a", "a/x", "a/y"]
    found = rootfs.get("a/x")
    assert found is not None
    assert (found.layer, found.data) == (1, b"3")
    kept = rootfs.get("/a/y/")
    assert kept is not None
    assert (kept.layer, kept.data) == (0, b"2")


def test_a_directory_keeps_what_is_in_it_and_takes_the_new_mode() -> None:
    rootfs = rootfs_of(
        [directory("tmp", mode=0o1777), file("tmp/x"), directory("root", mode=0o700)],
        [file("tmp/y"), directory("root", mode=0o755, uid=3)],
    )
    assert paths(rootfs) == ["root", "tmp", "tmp/x", "tmp/y"]
    tmp, root = rootfs.get("tmp"), rootfs.get("root")
    assert tmp is not None
    assert root is not None
    assert (tmp.mode, tmp.layer, tmp.is_implicit) == (0o1777, 0, False)
    assert (root.mode, root.uid, root.layer) == (0o755, 3, 1)


def test_whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() -> None:
    rootfs = rootfs_of(
        [file("a/x"), file("a/y"), file("b/c/d")],
        [file("a/x", b"new"), file("a/.wh.x"), file("a/.wh.y"), file(".wh.b"), file("b/e")],
    )
    assert paths(rootfs) == ["a", "a/x", "b", "b/e"]
    found = rootfs.get("a/x")
    assert found is not None
    assert found.data == b"new"


def test_an_opaque_directory_shows_only_its_own_layer() -> None:
    rootfs = rootfs_of(
        [directory("a", mode=0o700), file("a/x"), file("a/b/y")],
        [file("a/b/z"), file("a/.wh..wh..opq"), file("a/n")],
        [file("a/m")],
    )
    assert paths(rootfs) == ["a", "a/b", "a/b/z", "a/m", "a/n"]


def test_whiteouts_of_what_is_not_there_do_nothing() -> None:
    rootfs = rootfs_of([file("a")], [file("x/.wh.y"), file(".wh.b"), file("a/.wh.c"), file("q/.wh..wh..opq")])
    assert paths(rootfs) == ["a"]


def test_bookkeeping_of_aufs_is_no_content() -> None:
    rootfs = rootfs_of([directory(".wh..wh.plnk"), file(".wh..wh.plnk/12.3"), file(".wh..wh.aufs"), file("a")])
    assert paths(rootfs) == ["a"]


def test_whatever_replaces_a_directory_removes_what_was_in_it() -> None:
    rootfs = rootfs_of(
        [file("a/x"), file("b"), symlink("c", "a"), file("d/x")],
        [file("a"), directory("b"), file("b/y"), directory("c"), symlink("d", "b")],
    )
    assert paths(rootfs) == ["a", "b", "b/y", "c", "d"]
    assert [node.kind for _, node in rootfs.walk()] == ["file", "directory", "file", "directory", "symlink"]


def test_a_path_below_a_lower_layers_link_makes_a_directory_as_an_overlay_shows_it() -> None:
    rootfs = rootfs_of([symlink("lib", "usr/lib"), file("usr/lib/x")], [file("lib/foo")])
    assert paths(rootfs) == ["lib", "lib/foo", "usr", "usr/lib", "usr/lib/x"]


def test_a_path_below_a_link_of_the_same_layer_follows_it() -> None:
    rootfs = rootfs_of([directory("usr"), directory("usr/lib"), symlink("lib", "/usr/lib"), file("lib/foo")])
    assert paths(rootfs) == ["lib", "usr", "usr/lib", "usr/lib/foo"]


def test_hard_links_share_an_inode_and_bytes_but_not_the_owner() -> None:
    rootfs = rootfs_of([file("a", b"data", mode=0o755), hardlink("b", "a"), hardlink("d/c", "b")], [hardlink("e", "a")])
    nodes = [rootfs.get(path) for path in ("a", "b", "d/c", "e")]
    assert all(node is not None and node.data == b"data" and node.mode == 0o755 for node in nodes)
    assert len({node.inode for node in nodes if node}) == 1
    assert [node.layer for node in nodes if node] == [0, 0, 0, 1]
    # What one of them becomes later changes no other.
    changed = rootfs_of([file("a", b"1"), hardlink("b", "a")], [file("a", b"2")])
    kept = changed.get("b")
    assert kept is not None
    assert kept.data == b"1"


@pytest.mark.parametrize("target", ["missing", "folder", "folder/missing"])
def test_a_hard_link_to_nothing_or_to_a_directory_is_refused(target: str) -> None:
    with pytest.raises(ImageError, match="hard link to"):
        rootfs_of([directory("folder"), hardlink("x", target)])


@pytest.mark.parametrize(
    "members",
    [
        [file("a/.wh.")],
        [file("a/.wh...")],
        [file("a/.wh..")],
        [file(".wh.a/b")],
        [file("a"), file("a/b")],
        [symlink("a", "b"), symlink("b", "a"), file("a/x")],
        [file(".")],
    ],
)
def test_hostile_layers_are_refused(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(ImageError):
        rootfs_of(members)


def test_lookup_follows_links_inside_the_root() -> None:
    rootfs = rootfs_of(
        [
            symlink("bin", "usr/bin"),
            symlink("usr/bin/python3", "python3.13"),
            file("usr/bin/python3.13", mode=0o755),
            symlink("up", "../../../usr"),
            symlink("abs", "/bin/python3"),
            symlink("circle", "circle"),
            symlink("dangling", "nowhere/at/all"),
        ]
    )
    for path in ("bin/python3", "/usr/bin/python3", "up/bin/python3.13", "abs", "./up/../bin//python3"):
        found = rootfs.find(path)
        assert found is not None, path
        assert found[0] == "usr/bin/python3.13"
        assert found[1].is_executable
    assert rootfs.find("circle") is None
    assert rootfs.find("dangling") is None
    assert rootfs.find("bin/python3/x") is None
    assert rootfs.resolve("bin/new/file") == "usr/bin/new/file"
    assert rootfs.resolve("abs", follow_last=False) == "abs"
    assert rootfs.resolve("../..") == ""
    assert rootfs.get("bin/python3") is None


def test_bytes_that_were_not_kept_are_read_again() -> None:
    opened = 0
    layer = make_layer([file("x", b"no"), file("a", b"yes"), file("y", b"no")])

    def source() -> io.BytesIO:
        nonlocal opened
        opened += 1
        return layer.source()  # type: ignore[return-value]

    counted = Layer(digest=layer.digest, diff_id=layer.diff_id, size_bytes=layer.size_bytes, source=source)
    rootfs = Rootfs.of([counted])
    assert rootfs.read("a") == b"yes"
    assert rootfs.read("a") == b"yes"
    assert opened == 2
    assert rootfs.read("nothing") is None
    assert rootfs.read("/") is None
    with pytest.raises(ImageError, match="has 3 bytes"):
        Rootfs.of([layer]).read("a", max_bytes=2)


def test_what_elf_files_say_is_read_where_asked_for() -> None:
    layer = make_layer([file("lib.so", make_elf(soname="lib.so.1")), file("text", b"\x7fEL")])
    with_elf = Rootfs.of([layer], elf=True)
    library, text = with_elf.get("lib.so"), with_elf.get("text")
    assert library is not None
    assert library.elf is not None
    assert library.elf.soname == "lib.so.1"
    assert library.data is None
    assert text is not None
    assert text.elf is None
    without = Rootfs.of([layer]).get("lib.so")
    assert without is not None
    assert without.elf is None


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bytes])
def test_layers_of_every_compression_are_read(compress: Callable[[bytes], bytes]) -> None:
    layer = make_layer([file("a", b"x" * 100_000)], compress=compress)
    assert Rootfs.of([layer]).read("a", max_bytes=1 << 20) == b"x" * 100_000


def test_a_wrong_diff_id_or_digest_is_refused() -> None:
    layer = make_layer([file("a")])
    lying = Layer(digest=layer.digest, diff_id=Digest.of(b"other"), size_bytes=layer.size_bytes, source=layer.source)
    with pytest.raises(ImageError, match="diff ID"):
        Rootfs.of([lying])
    damaged = Layer(digest=Digest.of(b"other"), diff_id=layer.diff_id, size_bytes=layer.size_bytes, source=layer.source)
    with pytest.raises(HashMismatch):
        Rootfs.of([damaged])


def test_bytes_behind_the_archives_end_are_verified_too() -> None:
    layer = make_layer([file("a")], compress=lambda data: gzip.compress(data + bytes(1_000_000)))
    tar = gzip.decompress(layer.source().read())
    whole = Layer(digest=layer.digest, diff_id=Digest.of(tar), size_bytes=layer.size_bytes, source=layer.source)
    assert paths(Rootfs.of([whole])) == ["a"]


def test_the_number_of_entries_and_of_kept_bytes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wain.rootfs.MAX_ENTRIES", 10)
    with pytest.raises(ImageError, match="more than 10 entries"):
        rootfs_of([file(str(n)) for n in range(11)])
    with pytest.raises(ImageError, match="more than 10 entries"):
        rootfs_of([file("/".join("abcdefghijkl"))])
    monkeypatch.setattr("wain.rootfs.MAX_KEPT_BYTES", 10)
    with pytest.raises(ImageError, match="more than 10 bytes"):
        rootfs_of([file("a", bytes(6)), file("b", bytes(6))])


def test_large_elf_files_are_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer([file("lib.so", make_elf(soname="lib.so.1", rodata=bytes(700_000))), file("z", b"last")])
    monkeypatch.setattr("wain.rootfs._MAX_HELD_BYTES", 1000)
    rootfs = Rootfs.of([layer], elf=True, keep=lambda path, size: path == "z")
    library, last = rootfs.get("lib.so"), rootfs.get("z")
    assert library is not None
    assert library.elf is not None
    assert library.elf.soname == "lib.so.1"
    assert last is not None
    assert last.data == b"last"


def test_paths_links_and_attributes_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "MAX_TEXT_BYTES", 20_000)
    honest = [file(f"usr/lib/{number}", b"") for number in range(100)]
    rootfs_of(honest)
    chain = [symlink("l0", "d/../" * 100), *(symlink(f"l{number + 1}", f"l{number}/.") for number in range(9))]
    for members in (
        [file(f"{number}" * 150, b"") for number in range(300)],
        [file(f"x{number}", b"", pax_headers={"SCHILY.xattr.user.a": "v" * 900}) for number in range(30)],
        [directory("d"), *chain, *(file(f"l9/{number}", b"") for number in range(60))],
        [file("lib.so", make_elf(needed=["n" * 3000] * 10))],
    ):
        with pytest.raises(ImageError, match="paths and attributes"):
            Rootfs.of([make_layer(members)], elf=True)
