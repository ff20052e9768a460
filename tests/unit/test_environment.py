"""The environment's skeleton, the user and the settings of an image."""

from __future__ import annotations

import io

import pytest

from wain.bases import BaseFacts, PipPaths
from wain.digest import Digest
from wain.environment import environment_entries, find_user, runtime
from wain.errors import UsageError
from wain.layers import Entry
from wain.oci import Runtime
from wain.platforms import Platform, PythonVersion

PASSWD = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin"
GROUP = "root:x:0:\nwww-data:x:33:\nstaff:x:50:\n"


def _facts(passwd: str = PASSWD, group: str = GROUP) -> BaseFacts:
    site = "usr/local/lib/python3.13/site-packages"
    return BaseFacts(
        config_digest=Digest.of(b""),
        platform=Platform(),
        interpreter="/usr/local/bin/python3.13",
        command="/usr/local/bin/python3",
        python=PythonVersion.parse("3.13.5"),
        abi="cp313",
        libc="glibc",
        libc_version=(2, 41),
        prefix="/usr/local",
        pip=PipPaths(
            purelib=site, platlib=site, scripts="usr/local/bin", headers="usr/local/include", data="usr/local"
        ),
        externally_managed=False,
        is_virtual=False,
        passwd=passwd,
        group=group,
        os_id="debian",
        os_version="13",
        links={"lib": "usr/lib", "home": "srv/home"},
        directories={"opt": (0o1777, 5, 6)},
        distributions=(),
        libraries={},
    )


def _text(entries: dict[str, Entry], path: str) -> str:
    opener = entries[path].open_data
    assert opener is not None
    with opener() as stream:
        assert isinstance(stream, io.BytesIO)
        return stream.read().decode()


def test_a_new_user_has_entries_and_a_home_that_group_0_may_write() -> None:
    user = find_user(_facts(), "65532")
    assert (user.name, user.uid, user.gid, user.home) == ("nonroot", 65532, 65532, "/home/nonroot")
    entries = {entry.path: entry for entry in environment_entries(_facts(), user)}
    assert _text(entries, "etc/passwd").splitlines()[-1] == (
        "nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin"
    )
    assert _text(entries, "etc/passwd").startswith(PASSWD + "\n")
    assert _text(entries, "etc/group") == GROUP + "nonroot:x:65532:\n"
    home = entries["srv/home/nonroot"]
    assert (home.kind, home.mode, home.uid, home.gid) == ("directory", 0o770, 65532, 0)


def test_a_user_of_the_base_is_taken_as_it_is() -> None:
    for wanted in ("www-data", "33"):
        user = find_user(_facts(), wanted)
        assert (user.name, user.uid, user.gid, user.home, user.is_new) == ("www-data", 33, 33, "/var/www", False)
        assert "etc/passwd" not in {entry.path for entry in environment_entries(_facts(), user)}
    assert find_user(_facts(), "33:staff").gid == 50
    assert find_user(_facts(), "0").home == "/root"


def test_a_base_without_passwd_gets_one() -> None:
    user = find_user(_facts("", ""), "1000:0")
    assert user.passwd == "nonroot:x:1000:0:nonroot:/home/nonroot:/usr/sbin/nologin\n"
    assert user.group == "nonroot:x:0:\n"


@pytest.mark.parametrize("wanted", ["nobody-here", "33:nobody-here", "99999999999"])
def test_who_is_not_there_is_an_error(wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_user(_facts(), wanted)
    assert "65532" in caught.value.hint or "number" in caught.value.hint


def test_the_skeleton_leads_to_the_bases_interpreter() -> None:
    entries = {entry.path: entry for entry in environment_entries(_facts(), find_user(_facts(), "0"))}
    assert entries["opt/venv/bin/python"].target == "/usr/local/bin/python3.13"
    assert entries["opt/venv/bin/python3.13"].target == "python"
    assert "home = /usr/local/bin\n" in _text(entries, "opt/venv/pyvenv.cfg")
    assert (entries["opt"].mode, entries["opt"].uid, entries["opt"].gid) == (0o1777, 5, 6)


def test_the_settings_of_the_base_stay_below_the_projects() -> None:
    base = Runtime(env=("PATH=/usr/local/bin:/usr/bin", "LANG=de_DE.UTF-8", "A=b"), cmd=("python3",), labels={"x": "1"})
    made = runtime(
        base,
        user=find_user(_facts(), "65532"),
        entrypoint=("python", "app.py"),
        command=None,
        env={"A": "c"},
        ports=("8000", "53/udp"),
        volumes=(),
        labels={"y": "2"},
        workdir="/app",
        stop_signal=None,
        has_bytecode=False,
    )
    assert made.environment() == {
        "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin",
        "LANG": "de_DE.UTF-8",
        "A": "c",
        "VIRTUAL_ENV": "/opt/venv",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert (made.user, made.working_dir, made.entrypoint, made.cmd) == (
        "65532:65532",
        "/app",
        ("python", "app.py"),
        None,
    )
    assert (made.exposed_ports, made.labels) == (("8000/tcp", "53/udp"), {"x": "1", "y": "2"})
