from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.unit.small_wheel import opened, small_wheel
from wain.editables import EditablePlace, NotEditable, left_behind, point_to, snapshot, snapshot_digest
from wain.errors import SdistError

PLACE = EditablePlace(path="/app", direct_url='{"url": "file:///app"}')


def test_a_wheel_names_the_place_and_not_where_it_was_built(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    wheel = small_wheel(
        tmp_path, "demo", {"_demo.pth": f"{project}/src", "_finder.py": f"MAPPING = {{'a': '{project}/a'}}\n"}
    )
    point_to(wheel, project, PLACE)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("_demo.pth") == b"/app/src"
        assert archive.read("_finder.py") == b"MAPPING = {'a': '/app/a'}\n"
        assert archive.read("demo-1.0.dist-info/direct_url.json") == PLACE.direct_url.encode()
        assert str(tmp_path).encode() not in b"".join(archive.read(name) for name in archive.namelist())
    with opened(wheel) as found:
        found.verify()
        assert found.record["_demo.pth"]
    before = wheel.read_bytes()
    point_to(wheel, project, PLACE)
    assert wheel.read_bytes() == before


def test_what_is_compiled_is_not_moved(tmp_path: Path) -> None:
    wheel = small_wheel(tmp_path, "demo", {"a.so": b"\x7fELF..."})
    with pytest.raises(NotEditable, match=r"a\.so is compiled"):
        point_to(wheel, tmp_path, PLACE)
    (tmp_path / "damaged.whl").write_bytes(b"PK")
    with pytest.raises(SdistError, match="damaged"):
        point_to(tmp_path / "damaged.whl", tmp_path, PLACE)


def test_what_a_build_leaves_beside_the_source(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "demo.egg-info").mkdir(parents=True)
    (project / "a.py").write_text("a")
    (project / "demo.egg-info/PKG-INFO").write_text("old")
    before = snapshot(project)
    (project / "demo.egg-info/PKG-INFO").write_text(f"new {project}")
    (project / "__pycache__").mkdir()
    (project / "__pycache__/a.pyc").write_bytes(b"\xff")
    assert left_behind(before, project, PLACE) == {"demo.egg-info/PKG-INFO": "new /app"}
    assert snapshot_digest(before) != snapshot_digest(snapshot(project))
    (project / "native.so").write_bytes(b"\x7fELF\xff")
    with pytest.raises(NotEditable, match=r"native\.so is compiled"):
        left_behind(before, project, PLACE)
