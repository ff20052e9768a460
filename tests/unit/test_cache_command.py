from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wain.commands.main import main
from wain.digest import Digest
from wain.store import Store, recipe_key

NUMPY = "numpy-2.3.1-cp313-cp313-manylinux_2_28_x86_64.whl"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled cache that WAIN_CACHE_DIR names."""
    root = tmp_path / "cache"
    with Store.open(root) as store:
        store.put(b"n" * 1000, kind="wheel", note=NUMPY)
        store.put(b"c" * 500, kind="built-wheel", note="click-8.3-py3-none-any.whl")
        layer = store.put(b"l" * 2000, kind="layer", note="wain: numpy 2.3.1")
        store.put_memo("layer", recipe_key(1), {"size": 1}, [layer])
        store.memo("layer", recipe_key(1))
        store.memo("layer", recipe_key(2))
    monkeypatch.setenv("WAIN_CACHE_DIR", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["cache", *words]) == code
    return capsys.readouterr().out


def test_dir_and_what_decided_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "dir") == f"{root}\n"
    assert main(["cache", "dir", "-v"]) == 0
    assert "decided by: WAIN_CACHE_DIR" in capsys.readouterr().err
    assert main(["cache", "-v", "--cache-dir", str(tmp_path / "x"), "dir"]) == 0
    out = capsys.readouterr()
    assert (out.out, out.err) == (f"{tmp_path / 'x'}\n", "decided by: --cache-dir\n")
    told = {"path": str(root), "decided_by": "WAIN_CACHE_DIR", "problem": None}
    assert json.loads(run(capsys, "dir", "--format", "json")) == {**told, "install": told}


def test_where_an_installation_has_another_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "WAIN_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value, told in (
        ("PIP_CACHE_DIR", "/pips", "uses /pips/wain: PIP_CACHE_DIR"),
        ("PIP_NO_CACHE_DIR", "1", "uses no cache: PIP_NO_CACHE_DIR"),
        ("PIP_NO_CACHE_DIR", "junk", ""),
    ):
        monkeypatch.setenv(name, value)
        assert main(["cache", "dir", "-v"]) == 0
        out = capsys.readouterr()
        assert out.out == f"{tmp_path / '.cache' / 'wain'}\n"
        assert told in out.err
        assert ("wain install" in out.err) == bool(told)
    assert json.loads(run(capsys, "dir", "--format", "json"))["install"] is None


def test_a_listing_says_what_is_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    assert "3 entries, 3.5 kB" in capsys.readouterr().err
    assert main(["cache", "list", "--kind", "wheels"]) == 0
    told = "Nothing of kind wheels is in the cache (there are: built-wheel, layer, wheel).\n"
    assert capsys.readouterr().err == told
    assert main(["cache", "list", "--kind", "layer", "nothing"]) == 0
    assert capsys.readouterr().err == "Nothing of kind layer matches nothing.\n"


@pytest.mark.parametrize("verb", ["dir", "list", "info", "purge", "prune", "verify"])
def test_a_cache_that_is_switched_off_is_said(root: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main(["cache", "--no-cache-dir", verb]) == 22
    assert "switched off by --no-cache-dir" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["list", "info", "purge", "prune", "verify"])
@pytest.mark.parametrize("kind", ["text", "json"])
def test_looking_at_a_cache_that_is_not_there_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, kind: str
) -> None:
    out = run(capsys, verb, "--cache-dir", str(tmp_path / "none"), "--format", kind)
    if kind == "json":
        json.loads(out)
    assert list(tmp_path.iterdir()) == []


def test_info(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "info")
    assert f"Folder: {root}" in out
    assert "wheels downloaded" in out
    assert "Found when looked for: 50%" in out
    found = json.loads(run(capsys, "info", "--format", "json"))
    assert found["kinds"] == {
        "built-wheel": {"count": 1, "size_bytes": 500},
        "layer": {"count": 1, "size_bytes": 2000},
        "wheel": {"count": 1, "size_bytes": 1000},
    }
    assert found["memos"]["count"] == 1
    assert found["hit_rate"] == 0.5
    assert found["size_bytes"] == 3500 + found["memos"]["size_bytes"]


def test_list(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run(capsys, "list").splitlines()) == 3
    assert [line.split()[0] for line in run(capsys, "list", "numpy").splitlines()] == ["layer", "wheel"]
    assert run(capsys, "list", "--kind", "wheel").split() == ["wheel", "1.0", "kB", NUMPY]
    found = json.loads(run(capsys, "list", "CLICK", "--format", "json"))
    assert [(entry["digest"], entry["kind"], entry["size_bytes"]) for entry in found] == [
        (Digest.of(b"c" * 500), "built-wheel", 500)
    ]
    assert "used just now" in run(capsys, "list", "numpy", "-v")
    assert run(capsys, "list", "nothing") == ""
    assert json.loads(run(capsys, "list", "nothing", "--format", "json")) == []


def test_remove(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Entries removed: 2" in run(capsys, "remove", "numpy")
    assert [line.split()[0] for line in run(capsys, "list").splitlines()] == ["built-wheel"]
    assert main(["cache", "remove", "numpy"]) == 2
    assert "nothing in the cache matches numpy" in capsys.readouterr().err


def test_purge(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "purge", "--format", "json"))["removed"] == 4
    assert run(capsys, "list") == ""


def test_what_is_in_use_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(root) as store:
        assert store.has(Digest.of(b"n" * 1000))
        assert "something is using them: 1" in run(capsys, "purge")
    assert [line.split()[0] for line in run(capsys, "list").splitlines()] == ["wheel"]


def test_prune(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Entries removed: 0" in run(capsys, "prune")
    assert "Entries removed: 1 (2.0 kB)" in run(capsys, "prune", "--max-size", "2kB")
    for path in (root / "blobs-v1").rglob("*"):
        os.utime(path, (0, 0))
    assert "Entries removed: 2" in run(capsys, "prune", "--older-than", "30d")
    assert main(["cache", "prune", "--max-size", "much"]) == 2
    assert main(["cache", "prune", "--older-than", "long"]) == 2


def test_verify(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify") == ""
    with Store.open(root) as store:
        store.folder.blob(Digest.of(b"n" * 1000)).write_bytes(b"x")
    assert run(capsys, "verify") == f"dropped blob {NUMPY}\n"
    assert json.loads(run(capsys, "verify", "--format", "json")) == {"checked": 2, "dropped": []}


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["cache", "info", "--cache-dir", str(tmp_path / "file")]) == 22
    assert "is no folder" in capsys.readouterr().err
