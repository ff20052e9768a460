from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import pytest

from tests.unit.debian_maker import Made, link, make_deb
from tests.unit.elf_maker import make_elf
from wain.debian_rootfs import Rootfs
from wain.errors import DebianError
from wain.layers import Entry


def rootfs(folder: Path, *packages: Made, architecture: str = "amd64", finish: bool = True) -> Rootfs:
    made = Rootfs(folder / "spool", architecture)
    add(made, folder, *packages)
    if finish:
        made.finish("3.13")
    return made


def add(made: Rootfs, folder: Path, *packages: Made) -> None:
    files = []
    for item in packages:
        path = folder / f"{item.fields['Package']}.deb"
        path.write_bytes(item.data)
        files.append((item.fields["Package"], path))
    made.add(files)


def content(made: Rootfs, path: str) -> bytes:
    entry = made.files()[path]
    assert entry.open_data is not None
    with entry.open_data() as stream:
        data = stream.read()
    assert len(data) == entry.size_bytes
    return data


def target(made: Rootfs, path: str) -> str:
    entry = made.files()[path]
    assert entry.kind == "symlink"
    return entry.target


def test_an_empty_base_has_its_folders_users_and_links(tmp_path: Path) -> None:
    made = rootfs(tmp_path)
    modes = {path: made.files()[path].mode for path in ("tmp", "root", "var/tmp", "usr/bin", "run/lock")}
    assert modes == {"tmp": 0o1777, "root": 0o700, "var/tmp": 0o1777, "usr/bin": 0o755, "run/lock": 0o1777}
    assert {name: target(made, name) for name in ("bin", "lib", "lib64", "sbin")} == {
        "bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin",
    }  # fmt: skip
    assert target(made, "var/run") == "/run"
    assert target(made, "etc/localtime") == "/usr/share/zoneinfo/Etc/UTC"
    assert b"root:x:0:0:" in content(made, "etc/passwd")
    assert b"nobody:x:65534:65534:" in content(made, "etc/passwd")
    assert content(made, "etc/group").startswith(b"root:x:0:\n")
    assert b"hosts: files dns" in content(made, "etc/nsswitch.conf")
    assert "usr/local/lib/python3.13/dist-packages" in made.files()
    assert all(entry.mtime == 315532800 for entry in made.files().values())


def test_arm64_has_no_lib64(tmp_path: Path) -> None:
    assert "lib64" not in rootfs(tmp_path, architecture="arm64").files()


def test_usr_merge(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "libc6",
            files=[
                ("./lib/", b""),
                ("./lib/x86_64-linux-gnu/", b""),
                ("./lib/x86_64-linux-gnu/libc.so.6", b"c"),
                ("./sbin/ldconfig", b"l"),
                ("./usr/lib/x86_64-linux-gnu/gconv/ISO8859-1.so", b"kept"),
                ("./usr/lib/x86_64-linux-gnu/gconv/EUC-JP.so", b"left out"),
                link("./lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld.so"),
            ],
        ),
        make_deb("base-files", files=[link("./bin", "usr/bin"), link("./lib", "usr/lib"), ("./var/run/", b"")]),
    )
    assert content(made, "usr/lib/x86_64-linux-gnu/libc.so.6") == b"c"
    assert content(made, "usr/sbin/ldconfig") == b"l"
    assert made.files()["usr/sbin/ldconfig"].mode == 0o755
    assert target(made, "usr/lib64/ld-linux-x86-64.so.2") == "/lib/x86_64-linux-gnu/ld.so"
    assert made.files()["usr/lib"].kind == "directory"
    assert target(made, "var/run") == "/run"
    assert not any(path.startswith(("lib/", "sbin/", "bin/", "lib64/")) for path in made.files())
    converters = {path.rpartition("/")[2] for path in made.files() if path.endswith(".so")}
    assert converters == {"ISO8859-1.so"}


def test_documentation_is_left_out_and_licences_stay(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "some",
            files=[
                ("./usr/share/doc/some/copyright", b"(c)"),
                ("./usr/share/doc/some/changelog.gz", b"x"),
                ("./usr/share/man/man1/some.1.gz", b"x"),
                ("./usr/share/locale/de/LC_MESSAGES/some.mo", b"x"),
                ("./usr/share/some/man", b"stays"),
                link("./usr/share/doc/other", "some"),
            ],
        ),
    )
    some = {path for path in made.files() if path.startswith("usr/share/") and made.files()[path].kind != "directory"}
    assert some == {"usr/share/doc/some/copyright", "usr/share/some/man", "usr/share/doc/other"}


def test_the_bundle_of_certificates(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "ca-certificates",
            files=[
                ("./usr/share/ca-certificates/mozilla/B.crt", b"BBB"),
                ("./usr/share/ca-certificates/mozilla/A.crt", b"AAA\n"),
                ("./usr/share/ca-certificates/README", b"no"),
                ("./usr/sbin/update-ca-certificates", b"#!/bin/sh"),
                ("./etc/ssl/certs/", b""),
            ],
        ),
    )
    assert content(made, "etc/ssl/certs/ca-certificates.crt") == b"AAA\nBBB\n"
    assert target(made, "usr/lib/ssl/cert.pem") == "/etc/ssl/certs/ca-certificates.crt"
    assert not [path for path in made.files() if "usr/share/ca-certificates" in path or "update-ca" in path]


def test_libc_bin_brings_ldconfig_and_no_scripts(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "libc-bin",
            files=[
                ("./sbin/ldconfig", b"l"),
                ("./usr/bin/ldd", b"#!/bin/bash"),
                ("./usr/bin/getent", b"g"),
                ("./usr/lib/locale/C.utf8/LC_CTYPE", b"c"),
                ("./usr/share/libc-bin/nsswitch.conf", b"passwd: files systemd\n"),
            ],
        ),
    )
    programs = [path for path in made.files() if path.startswith(("usr/bin/", "usr/sbin/"))]
    assert sorted(programs) == ["usr/bin/getent", "usr/sbin/ldconfig"]
    assert content(made, "etc/nsswitch.conf") == b"passwd: files systemd\n"
    assert "usr/lib/locale/C.utf8/LC_CTYPE" in made.files()


def test_files_below_a_linked_folder_go_where_it_leads(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "aa", files=[("./usr/lib/real/", b""), link("./usr/lib/alias", "real"), link("./opt/abs", "/usr/lib")]
        ),
        make_deb("bb", files=[("./usr/lib/alias/", b""), ("./usr/lib/alias/f", b"1"), ("./opt/abs/alias/g", b"2")]),
    )
    assert content(made, "usr/lib/real/f") == b"1"
    assert content(made, "usr/lib/real/g") == b"2"
    assert target(made, "usr/lib/alias") == "real"


@pytest.mark.parametrize("leads", ["../../../../../etc", "/../../etc"])
def test_a_link_cannot_lead_out_of_the_root(tmp_path: Path, leads: str) -> None:
    made = rootfs(tmp_path, make_deb("aa", files=[link("./usr/out", leads), ("./usr/out/f", b"1")]))
    assert content(made, "etc/f") == b"1"


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    package = make_deb("aa", files=[link("./opt/x", "y"), link("./opt/y", "x"), ("./opt/x/f", b"1")])
    with pytest.raises(DebianError, match="circle of links"):
        rootfs(tmp_path, package)


def test_two_packages_with_the_same_file(tmp_path: Path) -> None:
    one, two = make_deb("aa", files=[("./usr/f", b"1")]), make_deb("bb", files=[("./usr/f", b"2")])
    with pytest.raises(DebianError, match="packages aa and bb both have /usr/f"):
        rootfs(tmp_path / "1" if (tmp_path / "1").mkdir() else tmp_path, one, two)
    winner = make_deb("bb", files=[("./usr/f", b"2")], Replaces="aa (<< 2)")
    assert content(rootfs(tmp_path / "1", one, winner), "usr/f") == b"2"
    first = make_deb("aa", files=[("./usr/f", b"1")], Replaces="bb")
    (tmp_path / "2").mkdir()
    assert content(rootfs(tmp_path / "2", first, two), "usr/f") == b"1"


def test_a_file_where_another_has_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DebianError):
        rootfs(tmp_path, make_deb("aa", files=[("./usr/x", b"1")]), make_deb("bb", files=[("./usr/x/y", b"2")]))


def test_hard_links(tmp_path: Path) -> None:
    made = rootfs(
        tmp_path,
        make_deb(
            "aa",
            files=[
                ("./bin/one", b"1"),
                link("./usr/bin/two", "./bin/one", hard=True),
                ("./usr/share/man/x", b"m"),
                link("./usr/keep", "./usr/share/man/x", hard=True),
            ],
        ),
    )
    assert made.files()["usr/bin/two"].kind == "hardlink"
    assert made.files()["usr/bin/two"].target == "usr/bin/one"
    assert content(made, "usr/keep") == b"m", "what it links to is left out"
    with pytest.raises(DebianError, match="which it does not have"):
        rootfs(tmp_path, make_deb("bb", files=[link("./usr/x", "./etc/passwd", hard=True)]))


def test_owners_and_modes_are_kept(tmp_path: Path) -> None:
    info = tarfile.TarInfo("./usr/bin/wall")
    info.mode, info.uid, info.gid, info.size = 0o2755, 0, 5, 3
    entry = rootfs(tmp_path, make_deb("aa", files=[info])).files()["usr/bin/wall"]
    assert (entry.mode, entry.uid, entry.gid) == (0o2755, 0, 5)


def test_another_package_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(make_deb("evil").data)
    with pytest.raises(DebianError, match="the file of Debian's package good holds evil"):
        Rootfs(tmp_path / "spool", "amd64").add([("good", path)])
    path.write_bytes(make_deb("good", architecture="arm64").data)
    with pytest.raises(DebianError, match="for arm64"):
        Rootfs(tmp_path / "spool2", "amd64").add([("good", path)])


def test_a_path_with_control_characters(tmp_path: Path) -> None:
    with pytest.raises(DebianError, match="control characters"):
        rootfs(tmp_path, make_deb("aa", files=[("./usr/a\nb", b"")]))


def test_alternatives_go_to_the_highest_priority(tmp_path: Path) -> None:
    def package(name: str, priority: int) -> Made:
        script = (
            f"#!/bin/sh\nupdate-alternatives --install /usr/bin/tool tool /bin/{name} {priority}"
            f" --slave /usr/share/man/tool.1 tool.1 /usr/share/man/{name}.1\n"
        )
        return make_deb(name, files=[(f"./bin/{name}", b"x")], scripts={"postinst": script})

    made = rootfs(tmp_path, package("aa", 10), package("bb", 50), package("cc", 20))
    assert target(made, "usr/bin/tool") == "/etc/alternatives/tool"
    assert target(made, "etc/alternatives/tool") == "/bin/bb"
    assert "etc/alternatives/tool.1" not in made.files(), "its page is left out"


def test_a_shells_link(tmp_path: Path) -> None:
    made = rootfs(tmp_path, make_deb("bash", files=[("./bin/bash", b"b")]))
    assert target(made, "usr/bin/sh") == "bash"
    (tmp_path / "2").mkdir()
    own = make_deb("dash", files=[("./bin/dash", b"d"), link("./bin/sh", "dash")])
    assert target(rootfs(tmp_path / "2", make_deb("bash", files=[("./bin/bash", b"b")]), own), "usr/bin/sh") == "dash"


def test_what_scripts_would_have_made(tmp_path: Path) -> None:
    script = "#!/bin/sh\nmkdir -p /var/lib/x/y\ntouch /etc/odbc.ini\ncp -p /usr/share/x/conf /etc/x/\nln -s a /etc/l\n"
    made = rootfs(tmp_path, make_deb("xx", files=[("./usr/share/x/conf", b"c")], scripts={"postinst": script}))
    assert made.files()["var/lib/x/y"].kind == "directory"
    assert content(made, "etc/odbc.ini") == b""
    assert content(made, "etc/x/conf") == b"c"
    assert target(made, "etc/l") == "a"


def test_a_script_that_does_more_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DebianError, match="the postinst script of Debian's package redis does more"):
        rootfs(tmp_path, make_deb("redis", scripts={"postinst": "#!/bin/sh\nadduser --system redis\n"}))


def test_status_for_scanners(tmp_path: Path) -> None:
    made = rootfs(tmp_path, make_deb("some", "2.0-1", Section="libs"))
    made.add_status(["some"])
    assert content(made, "var/lib/dpkg/status.d/some") == (
        b"Package: some\nStatus: install ok installed\nVersion: 2.0-1\nArchitecture: amd64\nSection: libs\n"
        b"Description: made up some\n"
    )


def libraries(made: Rootfs) -> list[tuple[str, str]]:
    data = content(made, "etc/ld.so.cache")
    count = struct.unpack_from("<I", data, 20)[0]
    pairs = [struct.unpack_from("<II", data, 48 + 24 * number + 4) for number in range(count)]
    return [tuple(data[at : data.index(b"\0", at)].decode() for at in pair) for pair in pairs]  # type: ignore[misc]


def test_the_loaders_cache(tmp_path: Path) -> None:
    folder = "./usr/lib/x86_64-linux-gnu"
    made = rootfs(
        tmp_path,
        make_deb(
            "libx1",
            files=[
                ("./etc/ld.so.conf.d/x.conf", b"# Multiarch\n/usr/local/lib/none\n/lib/x86_64-linux-gnu\n/../bad\n"),
                (f"{folder}/libx.so.1.2", make_elf(soname="libx.so.1")),
                link(f"{folder}/libx.so.1", "libx.so.1.2"),
                link(f"{folder}/libx.so", "libx.so.1"),
                (f"{folder}/libnolink.so.3.1", make_elf(soname="libnolink.so.3")),
                (f"{folder}/libforeign.so.1", make_elf(soname="libforeign.so.1", machine=183)),
                (f"{folder}/libtext.so", b"GROUP ( libx.so.1 )"),
                (f"{folder}/sub/libhidden.so.1", make_elf(soname="libhidden.so.1")),
                ("./usr/lib/libplain.so", make_elf()),
            ],
        ),
    )
    made.add_loader_cache()
    here = "/lib/x86_64-linux-gnu"
    assert libraries(made) == [
        ("libx.so.1", f"{here}/libx.so.1"),
        ("libx.so", f"{here}/libx.so"),
        ("libplain.so", "/lib/libplain.so"),
        ("libnolink.so.3", f"{here}/libnolink.so.3"),
    ]
    assert target(made, "usr/lib/x86_64-linux-gnu/libnolink.so.3") == "libnolink.so.3.1"


def test_what_a_layer_owns_comes_with_its_folders(tmp_path: Path) -> None:
    made = rootfs(tmp_path, make_deb("aa", files=[("./opt/a/f", b"1")]), make_deb("bb", files=[("./opt/b/g", b"1")]))
    paths = [entry.path for entry in made.owned(lambda owner: owner == "bb")]
    assert paths == ["opt", "opt/b", "opt/b/g"]
    rest = {entry.path for entry in made.owned(lambda owner: owner != "bb")}
    assert {"opt", "opt/a", "opt/a/f", "tmp"} <= rest
    assert "opt/b" not in rest


def test_the_order_of_packages_does_not_matter(tmp_path: Path) -> None:
    packages = [
        make_deb("aa", files=[("./usr/lib/x/", b""), link("./usr/share/doc/aa", "bb")]),
        make_deb("bb", files=[("./usr/lib/x/f", b"1"), ("./usr/share/doc/bb/copyright", b"c")]),
    ]

    def shape(folder: str, order: list[Made]) -> list[tuple[Entry, bytes]]:
        (tmp_path / folder).mkdir()
        made = rootfs(tmp_path / folder, *order)
        return [
            (entry, content(made, path) if entry.kind == "file" else b"")
            for path, entry in sorted(made.files().items())
        ]

    assert shape("1", packages) == shape("2", packages[::-1])
