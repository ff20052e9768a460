from __future__ import annotations

import os
import sys
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.small_wheel import opened, small_wheel
from wain.digest import Digest
from wain.distributions import installed_distributions, refuse_managed
from wain.errors import HashMismatch, InstallError, OutputError, WheelError
from wain.install import Scheme
from wain.installation import Installed, install_directory
from wain.wheels import Wheel

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(params=["processes", "threads"])
def venv(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty environment's folder; each test runs with both ways of working in parallel."""
    alone = 1 if request.param == "processes" else 2
    monkeypatch.setattr(threading, "active_count", lambda: alone)
    return tmp_path / "venv"


def install_wheels(venv: Path, *wheels: Path | Wheel) -> Installed:
    found = [opened(wheel) if isinstance(wheel, Path) else wheel for wheel in wheels]
    return install_directory(found, Scheme.venv(str(venv), MINOR), workers=2)


def site(venv: Path) -> Path:
    return venv / "lib" / f"python{MINOR}" / "site-packages"


def install(venv: Path, name: str, files: Mapping[str, bytes | str], **options: object) -> Installed:
    folder = venv.parent / "wheels"
    folder.mkdir(exist_ok=True)
    return install_wheels(venv, small_wheel(folder, name, files, **options))  # type: ignore[arg-type]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_fresh_environment(venv: Path) -> None:
    before = time.time() - 2
    done = install(
        venv,
        "app",
        {"app/__init__.py": "x = 1\n", "app/sub/deep.py": "y = 2\n", "one.py": ""},
        scripts={"run": "app:x"},
    )
    assert (done.new, dict(done.replaced), done.unchanged) == (("app",), {}, ())
    files = tree(site(venv))
    assert files["app/__init__.py"] == b"x = 1\n"
    assert files["app-1.0.dist-info/INSTALLER"] == b"wain\n"
    assert set(files) == {
        "app/__init__.py",
        "app/sub/deep.py",
        "one.py",
        *(f"app-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "entry_points.txt")),
    }
    assert os.access(venv / "bin" / "run", os.X_OK)
    assert all(path.stat().st_mtime >= before for path in site(venv).rglob("*"))
    assert {str(path) for path in venv.rglob("*") if path.is_file()} == set(done.files)


def test_the_umask_counts(venv: Path) -> None:
    before = os.umask(0o027)
    try:
        install(venv, "app", {"app.py": ""}, scripts={"run": "app:x"})
    finally:
        os.umask(before)
    assert (site(venv) / "app.py").stat().st_mode & 0o777 == 0o640
    assert (venv / "bin" / "run").stat().st_mode & 0o777 == 0o750


def test_the_same_again_changes_nothing(venv: Path) -> None:
    install(venv, "app", {"app/__init__.py": "x = 1\n"})
    before = {path: path.stat() for path in venv.rglob("*")}
    done = install(venv, "app", {"app/__init__.py": "x = 1\n"})
    assert (done.new, dict(done.replaced), done.unchanged, done.files) == ((), {}, ("app",), ())
    assert {path: path.stat().st_ino for path in venv.rglob("*")} == {
        path: status.st_ino for path, status in before.items()
    }


def test_an_installation_that_lost_a_file_is_made_whole(venv: Path) -> None:
    install(venv, "app", {"app/__init__.py": "x = 1\n"})
    (site(venv) / "app" / "__init__.py").unlink()
    assert dict(install(venv, "app", {"app/__init__.py": "x = 1\n"}).replaced) == {"app": "1.0"}
    assert (site(venv) / "app" / "__init__.py").exists()


def test_an_upgrade_replaces_what_was_there_and_nothing_else(venv: Path) -> None:
    install(venv, "app", {"app/__init__.py": "1", "app/gone.py": "1", "app/old/x.py": "1"}, scripts={"old": "app:x"})
    cache = site(venv) / "app" / "__pycache__"
    cache.mkdir()
    for name in ("__init__", "gone", "mine"):
        (cache / f"{name}.cpython-311.pyc").touch()
    (site(venv) / "app" / "old" / "__pycache__").mkdir()
    (site(venv) / "app" / "old" / "__pycache__" / "x.cpython-311.pyc").touch()
    (site(venv) / "app" / "mine.py").write_text("mine")
    (site(venv) / "other.py").write_text("other")
    done = install(venv, "app", {"app/__init__.py": "2", "app/new.py": "2"}, version="2.0")
    assert dict(done.replaced) == {"app": "1.0"}
    files = tree(venv)
    inside = {path.split("site-packages/")[1] for path in files if "site-packages/" in path}
    assert {path for path in inside if "dist-info" not in path} == {
        "app/__init__.py",
        "app/new.py",
        "app/mine.py",
        "app/__pycache__/mine.cpython-311.pyc",
        "other.py",
    }
    assert not (venv / "bin" / "old").exists()
    assert not (site(venv) / "app" / "old").exists()
    assert {path.name for path in site(venv).iterdir() if path.name.endswith("-info")} == {"app-2.0.dist-info"}
    assert not [path for path in site(venv).iterdir() if path.name.startswith(".wain")]


def test_a_file_that_belongs_to_nobody_is_left_alone(venv: Path) -> None:
    install(venv, "base", {"base.py": ""})
    (site(venv) / "app").mkdir()
    (site(venv) / "app" / "__init__.py").write_text("precious")
    before = tree(venv)
    with pytest.raises(InstallError, match=r"app/__init__.py is there and belongs to no distribution"):
        install(venv, "app", {"app/__init__.py": "x = 1\n"})
    assert tree(venv) == before


def test_a_file_with_the_same_bytes_is_no_obstacle(venv: Path) -> None:
    (site(venv) / "app").mkdir(parents=True)
    (site(venv) / "app" / "__init__.py").write_text("x = 1\n")
    assert install(venv, "app", {"app/__init__.py": "x = 1\n"}).new == ("app",)


def test_a_file_of_another_distribution_changes_hands_with_a_warning(
    venv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(venv, "one", {"shared/__init__.py": "1"})
    install(venv, "two", {"shared/__init__.py": "2"})
    assert (site(venv) / "shared" / "__init__.py").read_text() == "2"
    assert "of one is replaced by that of two" in caplog.text


def test_a_folder_in_the_way_is_an_error(venv: Path) -> None:
    (site(venv) / "app.py").mkdir(parents=True)
    with pytest.raises(InstallError, match="is a folder, and a file of"):
        install(venv, "app", {"app.py": ""})


def test_what_has_no_record_is_not_replaced(venv: Path) -> None:
    (site(venv) / "My_App-1.0-py3.11.egg-info").mkdir(parents=True)
    with pytest.raises(InstallError, match="without a record"):
        install(venv, "my_app", {"my_app.py": ""})


def test_a_record_that_points_outside_is_not_believed(venv: Path) -> None:
    victim = venv.parent / "victim"
    victim.write_text("precious")
    install(venv, "app", {"app.py": ""})
    record = site(venv) / "app-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + f"../../../../victim,,\n{victim},,\n/etc/hostname,,\n")
    install(venv, "app", {"app.py": "2"}, version="2.0")
    assert victim.read_text() == "precious"
    assert Path("/etc").exists()


def test_wrong_bytes_leave_everything_as_it_was(venv: Path) -> None:
    install(venv, "app", {"app.py": "1"})
    before = tree(venv)
    path = small_wheel(venv.parent, "app", {"app.py": "2"}, version="2.0")
    wheel = Wheel.open(path, digest=Digest.of(b"another"))
    with pytest.raises(HashMismatch):
        install_wheels(venv, wheel)
    assert tree(venv) == before


def test_a_damaged_member_leaves_everything_as_it_was(venv: Path) -> None:
    install(venv, "app", {"app.py": "1"})
    before = tree(venv)
    path = small_wheel(venv.parent, "app", {"app.py": os.urandom(5000)}, version="2.0")
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("app.py").header_offset + 100
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(WheelError):
        install_wheels(venv, path)
    assert tree(venv) == before


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_failure_half_way_is_undone(venv: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    install(venv, "app", {"app/__init__.py": "1", "app/a.py": "1", "top.py": "1"}, scripts={"run": "app:x"})
    before = tree(venv)
    real = Path.rename
    count = 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == fails_at:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="No space left"):
        install(venv, "app", {"app/__init__.py": "2", "app/b.py": "2", "top.py": "2"}, version="2.0")
    monkeypatch.undo()
    assert tree(venv) == before


def test_a_wrong_hash_in_a_wheels_record_is_put_right(venv: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = small_wheel(venv.parent, "app", {"app.py": "1", "b.py": "2"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    record = "app-1.0.dist-info/RECORD"
    first, rest = members[record].split(b"\n", 1)
    members[record] = b"app.py,sha256=" + b"A" * 43 + b",1\n" + rest
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    install_wheels(venv, path)
    assert "RECORD has a wrong hash of app.py" in caplog.text
    assert first in (site(venv) / record).read_bytes().splitlines()


def test_what_a_killed_installation_left_is_swept_up(venv: Path) -> None:
    left = site(venv) / ".wain-install-abc"
    left.mkdir(parents=True)
    (left / "x").touch()
    os.utime(left, (0, 0))
    install(venv, "app", {"app.py": ""})
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_an_error(venv: Path) -> None:
    venv.parent.joinpath("venv").touch()
    with pytest.raises(OutputError):
        install(venv, "app", {"app.py": ""})


def test_externally_managed_folders_are_refused(tmp_path: Path) -> None:
    lib = tmp_path / "usr" / "lib"
    (lib / "python3.11").mkdir(parents=True)
    (lib / "python3.11" / "EXTERNALLY-MANAGED").touch()
    (lib / "python3" / "dist-packages").mkdir(parents=True)
    for folder in (lib / "python3" / "dist-packages", lib / "python3.11" / "site-packages"):
        with pytest.raises(InstallError, match="managed by another package manager"):
            refuse_managed(folder)
    refuse_managed(tmp_path / "home" / "target")


def test_children_leave_nothing_behind(venv: Path) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text().split()
    install(venv, "app", {f"m{number}.py": "x" for number in range(200)})
    assert set(children.read_text().split()) <= set(before)
    assert installed_distributions(Scheme.venv(str(venv), MINOR))["app"].version == "1.0"


@pytest.mark.parametrize("where", ["pkg", "pkg/sub", "../../../share"])
def test_no_link_leads_files_out(venv: Path, where: str) -> None:
    outside = venv.parent / "outside"
    outside.mkdir()
    (outside / "kept.py").write_text("mine")
    link = site(venv) / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    files = {"pkg/sub/a.py": "x", "pkg/kept.py": "x", "app-1.0.data/data/share/kept.py": "x"}
    with pytest.raises(InstallError, match="a link that leads to"):
        install(venv, "app", files)
    assert tree(outside) == {"kept.py": b"mine"}
    assert [path.name for path in site(venv).iterdir()] == ([] if where.startswith("..") else ["pkg"])


def test_links_within_are_followed(venv: Path) -> None:
    real = venv.parent / "real-site"
    real.mkdir()
    site(venv).parent.mkdir(parents=True)
    site(venv).symlink_to(real)
    (venv / "lib64").symlink_to("lib")
    (real / "other").mkdir()
    (real / "pkg").symlink_to("other")
    install(venv, "app", {"pkg/a.py": "x", "app-1.0.data/data/lib64/native.so": "y"})
    assert (real / "other" / "a.py").read_text() == "x"
    assert (venv / "lib" / "native.so").read_text() == "y"


def test_what_is_replaced_takes_nothing_from_outside(venv: Path) -> None:
    install(venv, "app", {"pkg/a.py": "x", "mod.py": "x"})
    outside = venv.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("a.py", "mod.cpython-311.pyc"):
        (outside / name).write_text("mine")
    (site(venv) / "pkg" / "a.py").unlink()
    (site(venv) / "pkg").rmdir()
    (site(venv) / "pkg").symlink_to(outside)
    (site(venv) / "__pycache__").symlink_to(outside)
    install(venv, "app", {"mod.py": "y"}, version="2.0")
    assert tree(outside) == {"a.py": b"mine", "mod.cpython-311.pyc": b"mine"}
    assert (site(venv) / "mod.py").read_text() == "y"


def test_names_that_are_patterns_stand_for_themselves(venv: Path) -> None:
    install(venv, "other", {"other.py": "x"})
    cache = site(venv) / "__pycache__"
    cache.mkdir()
    (cache / "other.cpython-311.pyc").write_bytes(b"code")
    for version in ("1.0", "2.0"):
        install(venv, "app", {"*.py": version, "**.py": version, "[.py": version}, version=version)
    assert (site(venv) / "**.py").read_text() == "2.0"
    assert (cache / "other.cpython-311.pyc").exists()


def test_of_two_wheels_with_a_path_the_earlier_name_has_it_and_that_is_told(
    venv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = venv.parent
    wheels = [
        small_wheel(folder, name, {"shared.py": name, "same.py": "x", f"{name}.py": "y"}) for name in ("aa", "bb")
    ]
    install_wheels(venv, *wheels)
    assert (site(venv) / "shared.py").read_text() == "aa"
    assert tree(site(venv)).keys() >= {"aa.py", "bb.py", "same.py"}
    assert "that of aa is taken" in caplog.text


def test_a_script_takes_the_place_of_a_module_with_its_path(venv: Path) -> None:
    target = venv.parent / "target"
    inside = str(target).strip("/")
    scheme = Scheme(
        purelib=inside, platlib=inside, scripts=f"{inside}/bin", headers=f"{inside}/include", data=inside,
        interpreter="/usr/bin/python3", python=MINOR,
    )  # fmt: skip
    files = {"bin/tool": "plain", "app-1.0.data/scripts/tool": "#!python\nprint(1)\n"}
    install_directory([opened(small_wheel(venv.parent, "app", files))], scheme, workers=2)
    assert (target / "bin" / "tool").read_text() == "#!/usr/bin/python3\nprint(1)\n"
    assert os.access(target / "bin" / "tool", os.X_OK)
