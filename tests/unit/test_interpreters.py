from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wain.interpreters
from wain.interpreters import (
    examine_interpreter,
    find_interpreter,
    host_interpreter,
    library_digest,
    own_interpreter,
    tool_identities,
)
from wain.platforms import Platform
from wain.store import Store

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def says(version: str, **more: str) -> str:
    """A program that answers as an interpreter of that version, and leaves a line in `runs` beside itself."""
    import json

    value = {
        "version": version,
        "implementation": "cpython",
        "soabi": f"cpython-{version.replace('.', '')[:3]}-x86_64-linux-gnu",
        "flags": "",
        "machine": "x86_64",
        "system": "linux",
        "libc": "glibc 2.36",
        **more,
    }
    return f"echo x >> \"$(dirname $0)/runs\"\necho '{json.dumps(value)}'"


def test_the_running_interpreter_is_known_to_itself(store: Store) -> None:
    own = own_interpreter(store)
    assert own.path == sys.executable
    assert own.target.python.short == RUNNING
    assert own.target.platform == Platform.host()
    assert own.target.abi == f"cp{RUNNING.replace('.', '')}"
    assert find_interpreter(RUNNING, store) == sys.executable


def test_an_interpreter_is_asked_once_until_it_changes(store: Store, tmp_path: Path) -> None:
    path = program(tmp_path / "bin/python3.77", says("3.77.1"))
    for _ in range(3):
        found = examine_interpreter(str(path), store)
        assert found is not None
        assert str(found.target) == "CPython 3.77.1 (cp377, glibc 2.36) on linux/amd64"
    assert (tmp_path / "bin/runs").read_text() == "x\n"
    program(path, says("3.77.12"))
    changed = examine_interpreter(str(path), store)
    assert changed is not None
    assert changed.target.python.patch == 12


@pytest.mark.parametrize(
    "text",
    [
        says("3.77.1", implementation="pypy"),
        says("3.77.1", flags="t"),
        says("3.77.1", system="darwin"),
        "echo junk",
        "echo []",
        "exit 1",
    ],
)
def test_what_wheels_are_not_made_for_is_no_interpreter(store: Store, tmp_path: Path, text: str) -> None:
    path = program(tmp_path / "python3.77", text)
    assert examine_interpreter(str(path), store) is None
    assert examine_interpreter(str(tmp_path / "missing"), store) is None


def test_path_is_searched_in_order(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "broken/python3.77", "exit 1")
    first = program(tmp_path / "one/python3.77", says("3.77.1"))
    program(tmp_path / "two/python3.77", says("3.77.2"))
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / name) for name in ("none", "broken", "one", "two")))
    assert find_interpreter("3.77", store) == str(first)
    assert host_interpreter("3.78", store) is None


def test_what_stands_beside_shims_is_found(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = program(tmp_path / "shims/python3.77", "touch ran; exit 127")
    program(tmp_path / "versions/3.77.2/bin/python3.77", says("3.77.2"))
    newest = program(tmp_path / "versions/3.77.10/bin/python3.77", says("3.77.10"))
    program(tmp_path / "versions/3.77.11t/bin/python3.77", says("3.77.11", flags="t"))
    program(tmp_path / "versions/3.7.1/bin/python3.77", "exit 1")
    monkeypatch.setenv("PATH", str(shim.parent))
    assert find_interpreter("3.77", store) == str(newest)


def test_what_uv_keeps_is_found(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "cpython-3.77.3-linux-x86_64-gnu/bin/python3.77", says("3.77.3"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
    assert find_interpreter("3.77", store) == str(path)


def test_tools_are_known_by_what_they_say_not_by_where_they_are(store: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        program(tmp_path / name / "cc", "echo cc 12; echo more")
        program(tmp_path / name / "rustc", "echo rustc 1")
    first = tool_identities({"PATH": str(tmp_path / "one")}, store, with_rust=False)
    assert first == {"cc": "cc 12"}
    assert tool_identities({"PATH": f"/nowhere:{tmp_path / 'two'}"}, store, with_rust=False) == first
    assert tool_identities({"PATH": str(tmp_path / "one")}, store, with_rust=True) == {
        "cc": "cc 12",
        "rustc": "rustc 1",
    }
    other = program(tmp_path / "other-cc", "echo cc 13")
    assert tool_identities({"PATH": str(tmp_path / "one"), "CC": f"{other} -m64"}, store, with_rust=False) == {
        "cc": "cc 13"
    }
    program(tmp_path / "one/cc", "echo cc 14")
    assert tool_identities({"PATH": str(tmp_path / "one")}, store, with_rust=False) == {"cc": "cc 14"}


def test_a_library_is_known_by_its_bytes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libx.so.1"
    library.write_bytes(b"one")
    monkeypatch.setattr(wain.interpreters, "_LIBRARIES", {"libx.so.1": str(library)})
    one = library_digest("libx.so.1", store)
    assert one is not None
    assert one[0] == str(library)
    assert library_digest("libx.so.1", store) == one
    library.write_bytes(b"two!")
    two = library_digest("libx.so.1", store)
    assert two is not None
    assert two[1] != one[1]
    assert library_digest("libnone.so.1", store) is None


def test_this_machines_c_library_is_found(store: Store) -> None:
    assert library_digest("libc.so.6", store) is not None
