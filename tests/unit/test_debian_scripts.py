from __future__ import annotations

import re

import pytest

from wain.debian_scripts import Alternative, Effects, script_effects
from wain.errors import DebianError


def effects(postinst: str, *, exists: tuple[str, ...] = (), match: bool = False, package: str = "some") -> Effects:
    return script_effects(
        package,
        {"postinst": ("#!/bin/sh\nset -e\n" + postinst).encode()},
        has_match=lambda _: match,
        exists=lambda path: path in exists,
    )


@pytest.mark.parametrize(
    "script",
    [
        "",
        'if [ "$1" = "configure" ]; then ldconfig; fi',
        'case "$1" in configure) py3compile -p some;; *) echo "unknown $1" >&2; exit 1;; esac',
        'if [ "$1" = upgrade ]; then adduser x; fi',
        'if [ "$1" = "configure" ] && [ -n "$2" ]; then mv /etc/a /etc/b; fi',
        'if [ "$1" = "configure" -a -n "$2" ]; then mv /etc/a /etc/b; fi',
        'if [ -z "$2" ]; then exit 0; fi; adduser x',
        '[ "$1" = configure ] || exit 0; true; exit 0; adduser x',
        'case "$1" in abort-*|upgrade) adduser x;; configure) ;; esac',
        'if dpkg --compare-versions "$2" lt-nl 1.0; then mv /a /b; fi',
        'if dpkg --compare-versions "$2" gt 1.0; then mv /a /b; fi',
        "f() { adduser x; }",
        "if [ -x /usr/bin/gizmo ]; then gizmo --all; fi",
        "if command -v gizmo >/dev/null 2>&1; then gizmo; fi",
        "if ! which gizmo; then :; else gizmo; fi",
        ". /usr/share/debconf/confmodule\ndb_version 2.0\ndb_get some/thing\n",
        'for i in a b; do echo "$i"; done',
        "rm -f /etc/old.conf",
        'dpkg-maintscript-helper rm_conffile /etc/x 1.0 -- "$@"',
        "echo hello >/dev/null",
        "glib-compile-schemas /usr/share/glib-2.0/schemas",
        "update-alternatives --remove editor /bin/nano",
    ],
)
def test_scripts_without_consequence(script: str) -> None:
    assert effects(script) == Effects()


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("adduser --system _x", "adduser --system _x"),
        ('if [ "$1" = configure ]; then useradd x; fi', "useradd x"),
        ('case "$1" in configure) chown x /y;; esac', "chown x /y"),
        ("echo x > /etc/conf", "> /etc/conf"),
        ("cat >>/etc/conf <<EOF\nx\nEOF", ">>/etc/conf"),
        ("setcap cap_net_raw+ep /bin/ping", "setcap"),
        ("f() { chmod 4755 /x; }\nf", "chmod 4755 /x"),
        ("if [ -x /usr/bin/gizmo ]; then gizmo; fi\n", "gizmo"),
        ("x=$(gizmo)", "gizmo"),
        ("true && gizmo", "gizmo"),
        ("false || gizmo", "gizmo"),
        ('if [ "$UNKNOWN" = 1 ]; then exit 0; fi\ngizmo', "gizmo"),
        ("sed -i s/a/b/ /etc/x", "sed -i"),
        ('eval "$x"', "eval"),
        ("$program --do", "$program"),
        ("/usr/lib/some/helper", "/usr/lib/some/helper"),
        ("find / -name x -delete", "find"),
        ("exec gizmo", "exec gizmo"),
        ("update-alternatives --install /usr/bin/$i $i /usr/bin/x 10", "update-alternatives"),
        ("mkdir -p /var/lib/$x", "mkdir"),
        ("dpkg-divert --add /bin/x", "dpkg-divert"),
        ("echo x | gizmo", "gizmo"),
        ("(cd /; gizmo)", "gizmo"),
        ("while read x; do gizmo; done", "gizmo"),
    ],
)
def test_what_does_more_is_refused_by_name(script: str, command: str) -> None:
    with pytest.raises(DebianError, match=r"the postinst script of Debian's package some") as caught:
        effects(script, exists=("/usr/bin/gizmo",))
    assert command in caught.value.message
    assert "Leave some out of `packages`" in caught.value.hint
    assert re.search(r"in line \d+", caught.value.message)


def test_preinst_is_read_as_at_an_installation() -> None:
    script = b'#!/bin/sh\nif [ "$1" = install ]; then addgroup x; fi\n'
    with pytest.raises(DebianError, match="preinst"):
        script_effects("some", {"preinst": script})
    assert script_effects("some", {"preinst": script.replace(b"install", b"upgrade")}) == Effects()


def test_an_index_of_an_empty_folder_is_no_matter() -> None:
    with pytest.raises(DebianError, match="glib-compile-schemas"):
        effects("/usr/lib/x86_64-linux-gnu/glib-2.0/glib-compile-schemas /usr/share/glib-2.0/schemas", match=True)


def test_alternatives() -> None:
    found = effects(
        'if [ "$1" = configure ]; then\n'
        '  update-alternatives --quiet --install /usr/bin/editor editor "/bin/nano" 40 \\\n'
        "    --slave /usr/share/man/man1/editor.1.gz editor.1.gz /usr/share/man/man1/nano.1.gz\nfi"
    )
    assert found.alternatives == [
        Alternative(name="editor", link="/usr/bin/editor", path="/bin/nano", priority=40),
        Alternative(
            name="editor.1.gz",
            link="/usr/share/man/man1/editor.1.gz",
            path="/usr/share/man/man1/nano.1.gz",
            priority=40,
        ),
    ]


def test_folders_links_files_and_copies() -> None:
    found = effects(
        'mkdir -p "$DPKG_ROOT/var/lib/x"\nln -sf ../a /etc/b\ntouch /etc/odbc.ini\ncp -a /usr/share/x/conf /etc/x/\n'
        "install -d /usr/lib/y"
    )
    assert found.directories == ["/var/lib/x", "/usr/lib/y"]
    assert found.links == [("/etc/b", "../a")]
    assert found.files == ["/etc/odbc.ini"]
    assert found.copies == [("/usr/share/x/conf", "/etc/x/conf")]


@pytest.mark.parametrize("path", ["/../etc/x", "/etc/../../x", "relative"])
def test_no_path_of_a_script_leaves_the_root(path: str) -> None:
    for line in (f"mkdir -p {path}", f"touch {path}", f"ln -s x {path}", f"cp -p /a {path}"):
        with pytest.raises(DebianError):
            effects(line)


@pytest.mark.parametrize(
    "script", [b"#!/usr/bin/perl\nunlink 'x';", b"\x7fELF", b"#!/bin/sh\nif then (", b"#!/bin/sh\n" + b"(" * 3000]
)
def test_what_is_no_shell_script_is_refused(script: bytes) -> None:
    with pytest.raises(DebianError):
        script_effects("some", {"postinst": script})


def test_shells_get_their_link_and_the_bases_scripts_are_known() -> None:
    assert effects("whatever", package="dash").links == [("/usr/bin/sh", "dash")]
    assert effects("whatever", package="libpython3.13-minimal") == Effects()


def test_what_is_left_unmade_is_said(caplog: pytest.LogCaptureFixture) -> None:
    effects("gdk-pixbuf-query-loaders > /x", package="libgdk-pixbuf-2.0-0")
    assert "table of image loaders" in caplog.text


def test_a_function_that_calls_itself_ends() -> None:
    assert effects("f() { f; }\nf") == Effects()
