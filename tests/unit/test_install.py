"""Plans: each file of a wheel goes where the specification says; what is made is right."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made import Item, make_wheel, make_zip, noise, save, wheel_items
from wain.errors import InstallError, WheelError
from wain.install import InstallPlan, PlannedFile, Scheme, colliding, launcher, plan_install, shebang
from wain.wheels import EntryPoint, Wheel

SCHEME = Scheme.venv("/opt/venv", "3.13")
SITE = "opt/venv/lib/python3.13/site-packages"


def content(file: PlannedFile) -> bytes:
    return file.wheel.read(file.member) if file.member else file.data or b""


def files(plan: InstallPlan) -> dict[str, bytes]:
    return {file.path: content(file) for file in plan.files}


def planned(plan: InstallPlan, path: str) -> PlannedFile:
    return next(file for file in plan.files if file.path == path)


def test_each_kind_of_file_goes_where_it_belongs(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        [
            Item(name="pkg/__init__.py", data=b"a"),
            Item(name="pkg/tool", data=b"#!/bin/sh\n", mode=0o100755),
            Item(name="space/sub/m.py", data=b"namespace"),
            Item(name="pkg/__pycache__/old.cpython-313.pyc", data=b"shipped"),
            Item(name="pkg-1.0.data/purelib/p.py", data=b"p"),
            Item(name="pkg-1.0.data/platlib/q.so", data=b"q", mode=0o100755),
            Item(name="pkg-1.0.data/scripts/run", data=b"#!python -E\nimport sys\n"),
            Item(name="pkg-1.0.data/scripts/win", data=b"#!pythonw\r\nx\n"),
            Item(name="pkg-1.0.data/scripts/binary", data=b"\x7fELF", mode=0o100644),
            Item(name="pkg-1.0.data/scripts/c.exe", data=b"shim"),
            Item(name="pkg-1.0.data/headers/h.h", data=b"h"),
            Item(name="pkg-1.0.data/data/share/d.txt", data=b"d"),
            Item(name="pkg-1.0.data/data/bin/e", data=b"e"),
            Item(name="pkg-1.0.dist-info/REQUESTED", data=b""),
            Item(name="pkg-1.0.dist-info/INSTALLER", data=b"other\n"),
        ],
        entry_points="[console_scripts]\nc = pkg:main\n[gui_scripts]\ng = pkg.a:b.c\n",
    )
    plan = plan_install([wheel], SCHEME)
    made = files(plan)
    info = f"{SITE}/pkg-1.0.dist-info"
    assert [*made] == sorted(made)
    assert {*made} == {
        *(f"{SITE}/{path}" for path in ("pkg/__init__.py", "pkg/tool", "space/sub/m.py", "p.py", "q.so")),
        f"{SITE}/pkg/__pycache__/old.cpython-313.pyc",
        *(f"opt/venv/bin/{name}" for name in ("run", "win", "binary", "c", "g", "e")),
        "opt/venv/include/site/python3.13/pkg/h.h",
        "opt/venv/share/d.txt",
        *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "entry_points.txt")),
    }
    assert made["opt/venv/bin/run"] == b"#!/opt/venv/bin/python\nimport sys\n"
    assert made["opt/venv/bin/win"] == b"#!/opt/venv/bin/python\nx\n"
    assert made[f"{info}/INSTALLER"] == b"wain\n"
    executable = {file.path for file in plan.files if file.mode == 0o755}
    assert {file.mode for file in plan.files} == {0o644, 0o755}
    assert executable == {f"{SITE}/pkg/tool", f"{SITE}/q.so", *(path for path in made if "/bin/" in path)}
    assert plan.folders[:4] == ("opt", "opt/venv", "opt/venv/bin", "opt/venv/include")


def test_the_record_is_what_an_installer_writes(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        {
            "pkg/a.py": b"a",
            'pkg/odd, "name".txt': b"o",
            "pkg/é.txt": b"e",
            "pkg-1.0.data/scripts/run": b"#!python\nx",
            "pkg-1.0.data/data/share/x": b"x",
        },
        entry_points="[console_scripts]\nc = pkg:main\n",
    )
    plan = plan_install([wheel], SCHEME)
    made = files(plan)
    record = made[f"{SITE}/pkg-1.0.dist-info/RECORD"].decode()
    rows = [*csv.reader(record.splitlines())]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert ["pkg-1.0.dist-info/RECORD", "", ""] in rows
    found = {}
    for path, digest, size in rows:
        target = path
        base = SITE
        while target.startswith("../"):
            target, base = target[3:], base.rpartition("/")[0]
        found[f"{base}/{target}"] = (digest, size)
    assert {*found} == {*made}
    for path, data in made.items():
        if not path.endswith("/RECORD"):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert found[path] == (f"sha256={digest}", str(len(data)))


def test_purelib_and_platlib_may_differ(tmp_path: Path) -> None:
    scheme = Scheme(
        purelib="usr/lib/p", platlib="usr/lib64/p", scripts="usr/bin", headers="usr/include", data="usr",
        interpreter="/usr/bin/python3", python="3.13",
    )  # fmt: skip
    items = {"pkg.py": b"1", "pkg-1.0.data/platlib/native.so": b"2", "pkg-1.0.data/purelib/pure.py": b"3"}
    pure = files(plan_install([make_wheel(tmp_path, items)], scheme))
    assert {"usr/lib/p/pkg.py", "usr/lib64/p/native.so", "usr/lib/p/pure.py"} < {*pure}
    assert b"../../lib64/p/native.so,sha256" in pure["usr/lib/p/pkg-1.0.dist-info/RECORD"]
    plat = files(plan_install([make_wheel(tmp_path, items, purelib=False)], scheme))
    assert {"usr/lib64/p/pkg.py", "usr/lib64/p/native.so", "usr/lib/p/pure.py"} < {*plat}
    assert "usr/lib64/p/pkg-1.0.dist-info/RECORD" in plat


@pytest.mark.parametrize("path", ["pkg-1.0.data/other/x", "pkg-1.0.data/x", "pkg-1.0.data/scripts"])
def test_an_unknown_kind_of_data_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(WheelError, match="kind"):
        plan_install([make_wheel(tmp_path, {path: b""})], SCHEME)


def test_missing_or_foreign_hashes_are_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wheel = make_wheel(tmp_path, {"a.py": b"aaa", "b.py": b"bbb"}, record="a.py,md5=abc,3\n")
    record = files(plan_install([wheel], SCHEME))[f"{SITE}/pkg-1.0.dist-info/RECORD"].decode()
    expected = base64.urlsafe_b64encode(hashlib.sha256(b"aaa").digest()).decode().rstrip("=")
    assert f"a.py,sha256={expected},3\n" in record
    assert "no usable hash of a.py" in caplog.text


def test_launchers_start_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("import sys\nclass A:\n    @staticmethod\n    def b(): return len(sys.argv)\n")
    point = EntryPoint(name="x", module="there", attribute="A.b")
    for folder in (tmp_path, tmp_path / ("long" * 40) / "with $odd `name`"):
        folder.mkdir(parents=True, exist_ok=True)
        interpreter = folder / "python"
        interpreter.symlink_to(sys.executable)
        script = tmp_path / "script"
        script.write_text(launcher(point, str(interpreter)))
        script.chmod(0o755)
        done = subprocess.run([script, "one", "two words"], env={"PYTHONPATH": str(tmp_path)}, check=False)
        assert done.returncode == 3


def test_a_short_interpreter_stands_in_the_first_line() -> None:
    assert shebang("/opt/venv/bin/python") == "#!/opt/venv/bin/python\n"
    assert shebang("/" + "x" * 126).startswith("#!/bin/sh\n")
    assert shebang("/a b").startswith("#!/bin/sh\n")


def test_pip_gets_the_scripts_of_the_target(tmp_path: Path) -> None:
    text = "[console_scripts]\npip = pip:main\npip3 = pip:main\npip3.8 = pip:main\nother = pip:o\n"
    wheel = make_wheel(tmp_path, name="pip", entry_points=text)
    names = {path.rpartition("/")[2] for path in files(plan_install([wheel], SCHEME)) if "/bin/" in path}
    assert names == {"pip", "pip3", "pip3.13", "other"}


def two(tmp_path: Path, one: dict[str, bytes], other: dict[str, bytes]) -> list[Wheel]:
    return [make_wheel(tmp_path, other, name="b_b"), make_wheel(tmp_path, one, name="a_a")]


def test_the_same_bytes_at_the_same_path_are_written_once(tmp_path: Path) -> None:
    wheels = two(tmp_path, {"s/__init__.py": b"same"}, {"s/__init__.py": b"same"})
    plan = plan_install(wheels, SCHEME)
    assert plan.collisions == ()
    assert [wheel.name for wheel in plan.wheels] == ["a-a", "b-b"]
    assert files(plan)[f"{SITE}/s/__init__.py"] == b"same"
    assert [len(group) for group in colliding(wheels, SCHEME)] == [1, 1]


def test_of_other_bytes_at_the_same_path_the_earlier_name_has_it(tmp_path: Path) -> None:
    wheels = two(tmp_path, {"s.py": b"one"}, {"s.py": b"two"})
    third = make_wheel(tmp_path, {"t.py": b""}, name="c")
    plan = plan_install([*wheels, third], SCHEME)
    assert files(plan)[f"{SITE}/s.py"] == b"one"
    assert [str(collision) for collision in plan.collisions] == [f"{SITE}/s.py is in a-a, b-b; that of a-a is taken"]
    assert [[wheel.name for wheel in group] for group in colliding([*wheels, third], SCHEME)] == [["a-a", "b-b"], ["c"]]


def test_equal_checksums_do_not_make_equal_bytes(tmp_path: Path) -> None:
    """Two different texts with one CRC-32, as anybody can make them."""
    one, other = b"plumless", b"buckeroo"
    plan = plan_install(two(tmp_path, {"s": one}, {"s": other}), SCHEME)
    assert len(plan.collisions) == 1
    assert files(plan)[f"{SITE}/s"] == one


def test_scripts_collide_too(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, name="a", entry_points="[console_scripts]\nx = a:m\n")
    other = make_wheel(tmp_path, name="b", entry_points="[console_scripts]\nx = b:m\n")
    assert len(colliding([one, other], SCHEME)) == 1
    assert b"from a import m" in files(plan_install([one, other], SCHEME))["opt/venv/bin/x"]


def test_a_file_where_another_has_a_folder_is_refused(tmp_path: Path) -> None:
    wheels = two(tmp_path, {"s": b""}, {"s/x": b""})
    assert len(colliding(wheels, SCHEME)) == 1
    with pytest.raises(InstallError, match="folder"):
        plan_install(wheels, SCHEME)


def test_one_distribution_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="one distribution"):
        plan_install([make_wheel(tmp_path), make_wheel(tmp_path, version="2.0")], SCHEME)


def test_the_order_of_members_does_not_matter(tmp_path: Path) -> None:
    items = wheel_items({f"m{n}.py": noise(100, n) for n in range(20)})
    plans = []
    for folder, order in ((tmp_path / "a", items), (tmp_path / "b", items[::-1])):
        folder.mkdir()
        plans.append(plan_install([save(folder, make_zip(order))], SCHEME))
    assert files(plans[0]) == files(plans[1])
