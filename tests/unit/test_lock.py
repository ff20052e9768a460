from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import pytest
from packaging.pylock import Pylock

from wain.compatibility import best_wheel, evaluate_marker, satisfies
from wain.errors import LockError, NoWheel
from wain.lock import DirectorySource, Lock, LockedFile, LockedPackage, VcsSource, parse_pylock
from wain.lockformats import FOREIGN_LOCKS, read_uv_lock, refuse_foreign_lock
from wain.platforms import Platform, PythonVersion, Target

H = "a" * 64


def target(architecture: str = "amd64", python: str = "3.13.5", *, glibc: int = 36, libc: str = "glibc") -> Target:
    version = PythonVersion.parse(python)
    return Target(
        platform=Platform("linux", architecture),
        python=version,
        abi=f"cp{version.major}{version.minor}",
        libc=libc,
        libc_version=(2, glibc) if libc == "glibc" else (1, 2),
    )


def file(name: str, **changes: object) -> LockedFile:
    values: dict[str, object] = {
        "filename": name,
        "url": f"https://files.example/{name}",
        "hashes": (("sha256", H),),
    }
    values.update(changes)
    return LockedFile(**values)  # type: ignore[arg-type]


def wheels(*tags: str) -> tuple[LockedFile, ...]:
    return tuple(file(f"pkg-1.0-{tag}.whl") for tag in tags)


def package(name: str = "pkg", *tags: str, **changes: object) -> LockedPackage:
    values: dict[str, object] = {"name": name, "version": "1.0", "wheels": wheels(*tags or ("py3-none-any",))}
    values.update(changes)
    return LockedPackage(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "best"),
    [
        (["py3-none-any", "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64"], 1),
        (["cp313-cp313-manylinux_2_17_x86_64", "cp313-cp313-manylinux_2_28_x86_64"], 1),
        (["cp313-cp313-manylinux_2_17_x86_64", "cp313-cp313-manylinux_2_39_x86_64"], 0),
        (["cp39-abi3-manylinux_2_17_x86_64", "cp311-abi3-manylinux_2_17_x86_64"], 1),
        (["py2.py3-none-any", "py313-none-any"], 1),
        (["cp313-cp313-linux_x86_64", "py3-none-any"], 0),
        (["1-py3-none-any", "2-py3-none-any"], 1),
        (["9-py3-none-any", "10-py3-none-any"], 1),
        (["cp313-cp313t-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_17_x86_64"], None),
        (["cp313-cp313-manylinux_2_17_aarch64", "cp313-cp313-win_amd64", "cp313-cp313-musllinux_1_2_x86_64"], None),
    ],
)
def test_best_wheel(tags: list[str], best: int | None) -> None:
    files = wheels(*tags)
    for order in (files, files[::-1]):
        assert best_wheel(order, target()) == (None if best is None else files[best])


def test_best_wheel_agrees_with_packaging_for_other_platforms() -> None:
    files = wheels("cp313-cp313-manylinux_2_17_aarch64", "cp313-cp313-musllinux_1_1_aarch64", "py3-none-any")
    assert best_wheel(files, target("arm64")) == files[0]
    assert best_wheel(files, target("arm64", libc="musl")) == files[1]
    assert best_wheel(files, target()) == files[2]


def test_malformed_wheel_names_are_passed_over() -> None:
    assert best_wheel([file("pkg.whl"), file("a-b-c-d-e-f-g.whl"), file("pkg-1.0.tar.gz")], target()) is None


def test_markers_are_the_targets_alone() -> None:
    none: frozenset[str] = frozenset()
    assert evaluate_marker("platform_machine == 'aarch64'", target("arm64"), none, none)
    assert evaluate_marker("python_full_version >= '3.13.5'", target(), none, none)
    assert not evaluate_marker("sys_platform == 'win32' or python_version < '3.13'", target(), none, none)
    assert evaluate_marker(
        "'x' in extras and 'dev' in dependency_groups", target(), frozenset({"x"}), frozenset({"dev"})
    )
    with pytest.raises(LockError, match="is no marker"):
        evaluate_marker("what is this", target(), none, none)


def test_selection_is_by_name_with_platform_only_packages() -> None:
    lock = Lock(
        packages=(
            package("zeta"),
            package("alpha", marker="platform_machine == 'x86_64'"),
            package("beta", marker="sys_platform == 'win32'"),
        )
    )
    assert [item.name for item in lock.select(target())] == ["alpha", "zeta"]
    assert [item.name for item in lock.select(target("arm64"))] == ["zeta"]


def test_no_wheel_says_which_exist() -> None:
    sdist = file("pkg-1.0.tar.gz")
    lock = Lock(packages=(package("pkg", "cp312-cp312-win_amd64", "cp313-cp313-macosx_11_0_arm64", sdist=sdist),))
    with pytest.raises(NoWheel) as caught:
        lock.select(target())
    message = caught.value.message
    assert "pkg 1.0 has no wheel for CPython 3.13.5 (cp313, glibc 2.36) on linux/amd64" in message
    assert "cp312-cp312-win_amd64, cp313-cp313-macosx_11_0_arm64, and an sdist" in message
    assert caught.value.exit_code == 6


def test_all_that_lack_a_wheel_are_told_together() -> None:
    lock = Lock(packages=(package("one", "cp312-cp312-win_amd64"), package("two", wheels=(), sdist=None)))
    with pytest.raises(NoWheel, match=r"one 1\.0 has no wheel .*; two 1\.0 has no wheel .*: there is none at all"):
        lock.select(target())


def test_an_sdist_is_taken_only_with_permission_and_said(caplog: pytest.LogCaptureFixture) -> None:
    sdist = file("pkg-1.0.tar.gz")
    lock = Lock(packages=(package("pkg", "cp312-cp312-win_amd64", sdist=sdist),))
    with caplog.at_level(logging.INFO, "wain.lock"):
        (chosen,) = lock.select(target(), allow_sdist=lambda name: name == "pkg")
    assert (chosen.kind, chosen.file) == ("sdist", sdist)
    assert "pkg 1.0 has no wheel for linux/amd64 that may be taken: its sdist is built" in caplog.text
    both = Lock(packages=(package("pkg", sdist=sdist),))
    assert both.select(target())[0].kind == "wheel"
    assert both.select(target(), prefer_sdist=lambda name: True)[0].kind == "sdist"


def test_a_lock_for_others_is_refused() -> None:
    lock = Lock(packages=(package(),), environments=("platform_machine == 'x86_64'",), requires_python=">=3.13")
    assert lock.select(target())
    with pytest.raises(LockError, match="is not for CPython"):
        lock.select(target("arm64"))
    with pytest.raises(LockError, match=r"is for Python >=3\.13, not for 3\.11\.2"):
        lock.select(target(python="3.11.2"))
    with pytest.raises(LockError, match=r"needs Python >=3\.14"):
        Lock(packages=(package(requires_python=">=3.14"),)).select(target())


def test_two_versions_for_one_target_are_refused() -> None:
    with pytest.raises(LockError, match=r"has both pkg 1\.0 and pkg 2\.0"):
        Lock(packages=(package(), package(version="2.0"))).select(target())


def test_unknown_extras_and_groups_are_named() -> None:
    lock = Lock(packages=(package(),), extras=("a",), groups=("g",))
    assert lock.select(target(), extras=["a"], groups=["g"])
    with pytest.raises(LockError, match="without the extra b and the group h") as caught:
        lock.select(target(), extras=["b"], groups=["h"])
    assert "wain lock --extra b --group h" in caught.value.hint


def sample_lock(folder: Path) -> Lock:
    return Lock(
        packages=(
            package(
                "pkg",
                "cp313-cp313-manylinux_2_17_x86_64",
                "py3-none-any",
                sdist=file("pkg-1.0.tar.gz", size_bytes=12, upload_time="2026-01-02T03:04:05+00:00"),
                marker="platform_machine == 'x86_64'",
                index="https://me:s3cr3t@index.example/simple",
            ),
            package(
                "local",
                wheels=(
                    file("local-1.0-py3-none-any.whl", url=None, path=str(folder / "links/local-1.0-py3-none-any.whl")),
                ),
            ),
            package(
                "direct",
                wheels=(),
                archive=file("direct-1.0.zip", url="https://me:s3cr3t@files.example/direct-1.0.zip#x"),
                subdirectory="sub",
            ),
            package(
                "repo",
                wheels=(),
                version=None,
                vcs=VcsSource(
                    type="git", url="https://me:s3cr3t@git.example/r", commit="f" * 40, requested_revision="main"
                ),
            ),
            package(
                "folder", wheels=(), version=None, directory=DirectorySource(path=str(folder / "sub"), editable=True)
            ),
        ),
        environments=("python_version == '3.13'",),
        requires_python="==3.13.*",
        created_by="wain",
        tool={"requires": ["pkg"], "note": 'quoted "text" \u00e9 \x7f'},
    )


def test_pylock_round_trip_with_relative_paths_and_no_credentials(tmp_path: Path) -> None:
    lock = sample_lock(tmp_path)
    text = lock.to_toml(tmp_path / "app")
    assert "s3cr3t" not in text
    assert str(tmp_path) not in text
    assert '"../links/local-1.0-py3-none-any.whl"' in text
    Pylock.from_dict(tomllib.loads(text)).validate()
    (tmp_path / "app").mkdir()
    path = tmp_path / "app" / "pylock.toml"
    path.write_text(text)
    back = Lock.read(path)
    assert back.to_toml(tmp_path / "app") == text
    assert back.tool == lock.tool
    by_name = {item.name: item for item in back.packages}
    assert by_name["local"].wheels[0].path == str(tmp_path / "links/local-1.0-py3-none-any.whl")
    assert by_name["folder"].directory == DirectorySource(path=str(tmp_path / "sub"), editable=True)
    assert by_name["pkg"].sdist is not None
    assert by_name["pkg"].sdist.size_bytes == 12
    assert by_name["direct"].subdirectory == "sub"


def test_a_file_without_a_hash_is_not_locked(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="has no hash"):
        Lock(packages=(package(wheels=(file("pkg-1.0-py3-none-any.whl", hashes=()),)),)).to_toml(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lock-version = ", "no valid lock file"),
        ('lock-version = "1.0"\ncreated-by = "x"\n', "no valid lock file"),
        ('lock-version = "2.0"\ncreated-by = "x"\npackages = []\n', "of a version that wain does not know"),
        (
            (
                'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "a"\nversion = "1"\n'
                '[[packages.wheels]]\nname = "../a-1-py3-none-any.whl"\nurl = "https://x.example/a"\n'
                f'hashes = {{ sha256 = "{H}" }}\n'
            ),
            "file's name|no valid lock file",
        ),
        (
            (
                'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "a"\nversion = "1"\n'
                '[[packages.wheels]]\nname = "a-1-py3-none-any.whl"\nurl = "https://x.example/a"\n'
                'hashes = { sha256 = "../../x" }\n'
            ),
            "is locked with the hash",
        ),
    ],
)
def test_malformed_pylocks_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LockError, match=told):
        parse_pylock(text, tmp_path / "pylock.toml")


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="there is no"):
        Lock.read(tmp_path / "pylock.toml")


UV_LOCK = (
    """
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "app"
version = "1"
source = { virtual = "." }
dependencies = [
    { name = "direct" },
    { name = "member" },
    { name = "num", version = "1.0", source = { registry = "INDEX" }, marker = "python_full_version < '3.12'" },
    { name = "num", version = "2.0", source = { registry = "INDEX" }, marker = "python_full_version >= '3.12'" },
    { name = "web", extra = ["fast"] },
]

[package.optional-dependencies]
all = [{ name = "app", extra = ["db"] }]
db = [{ name = "driver" }]

[package.dev-dependencies]
dev = [{ name = "tester", marker = "sys_platform == 'linux'" }]

[package.metadata]
requires-dist = []
provides-extras = ["all", "db"]

[[package]]
name = "web"
version = "3.0"
source = { registry = "https://me:s3cr3t@index.example/simple" }
dependencies = [{ name = "base" }]
wheels = [{ url = "https://files.example/web-3.0-py3-none-any.whl", hash = "sha256:HASH", size = 7 }]

[package.optional-dependencies]
fast = [{ name = "speed", marker = "platform_machine == 'x86_64'" }]

[[package]]
name = "base"
version = "1"
source = { registry = "https://index.example/simple" }
dependencies = [{ name = "web" }]
wheels = [{ url = "https://files.example/base-1-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "speed"
version = "1"
source = { registry = "links" }
wheels = [{ path = "speed-1-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "num"
version = "1.0"
source = { registry = "https://index.example/simple" }
resolution-markers = ["python_full_version < '3.12'"]
wheels = [{ url = "https://files.example/num-1.0-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "num"
version = "2.0"
source = { registry = "https://index.example/simple" }
resolution-markers = ["python_full_version >= '3.12'"]
wheels = [{ url = "https://files.example/num-2.0-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "driver"
version = "1"
source = { git = "https://me:s3cr3t@git.example/driver?rev=main#COMMIT" }

[[package]]
name = "tester"
version = "1"
source = { registry = "https://index.example/simple" }
wheels = [{ url = "https://files.example/tester-1-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "direct"
version = "1"
source = { url = "https://files.example/direct-1-py3-none-any.whl" }
wheels = [{ filename = "direct-1-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "member"
version = "1"
source = { editable = "packages/member" }
""".replace("HASH", H)
    .replace("COMMIT", "c" * 40)
    .replace("INDEX", "https://index.example/simple")
)


def test_uv_lock_is_walked_as_a_graph(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text(UV_LOCK)
    lock = read_uv_lock(tmp_path / "uv.lock")
    selected = {item.name: item for item in lock.select(target())}
    assert sorted(selected) == ["base", "direct", "member", "num", "speed", "web"]
    assert selected["num"].version == "2.0"
    assert selected["web"].file is not None
    assert selected["web"].file.size_bytes == 7
    assert selected["speed"].file is not None
    assert selected["speed"].file.path == str(tmp_path / "links/speed-1-py3-none-any.whl")
    assert selected["direct"].file is not None
    assert selected["direct"].file.url == "https://files.example/direct-1-py3-none-any.whl"
    assert selected["member"].kind == "directory"
    old = {item.name: item.version for item in lock.select(target("arm64", "3.11.2"))}
    assert old["num"] == "1.0"
    assert "speed" not in old
    more = {item.name: item for item in lock.select(target(), extras=["all"], groups=["dev"])}
    assert more["driver"].package.vcs is not None
    assert more["driver"].package.vcs.url == "https://git.example/driver"
    assert more["driver"].package.vcs.commit == "c" * 40
    assert "tester" in more
    assert "s3cr3t" not in repr(lock)


def test_conflicting_extras_of_a_uv_lock_are_told_apart(tmp_path: Path) -> None:
    text = """version = 1
requires-python = ">=3.11"
conflicts = [[{ package = "app", extra = "cpu" }, { package = "app", extra = "gpu" }]]

[[package]]
name = "app"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "plain", marker = "extra != 'extra-3-app-cpu' and extra != 'extra-3-app-gpu'" }]

[package.optional-dependencies]
cpu = [{ name = "lib", version = "1.0", source = { registry = "r" }, marker = "extra == 'extra-3-app-cpu'" }]
gpu = [{ name = "lib", version = "2.0", source = { registry = "r" }, marker = "extra == 'extra-3-app-gpu'" }]

[package.metadata]
provides-extras = ["cpu", "gpu"]
"""
    for name, version in (("lib", "1.0"), ("lib", "2.0"), ("plain", "1")):
        url = f"https://files.example/{name}-{version}-py3-none-any.whl"
        text += f"""
[[package]]
name = "{name}"
version = "{version}"
source = {{ registry = "https://index.example/simple" }}
wheels = [{{ url = "{url}", hash = "sha256:{H}" }}]
"""
    (tmp_path / "uv.lock").write_text(text)
    lock = read_uv_lock(tmp_path / "uv.lock")
    assert [str(item.package) for item in lock.select(target())] == ["plain 1"]
    assert [str(item.package) for item in lock.select(target(), extras=["cpu"])] == ["lib 1.0"]
    assert [str(item.package) for item in lock.select(target(), extras=["gpu"])] == ["lib 2.0"]


def test_default_groups_count_where_none_is_named() -> None:
    lock = Lock(
        packages=(package(), package("tool", marker="'dev' in dependency_groups")),
        groups=("dev", "docs"),
        default_groups=("dev",),
    )
    assert [item.name for item in lock.select(target())] == ["pkg", "tool"]
    assert [item.name for item in lock.select(target(), groups=["docs"])] == ["pkg"]


def test_uv_lock_is_not_rewritten(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text(UV_LOCK)
    with pytest.raises(LockError, match="a lock of another tool"):
        read_uv_lock(tmp_path / "uv.lock").to_toml(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = 2\n", "is of version 2"),
        ("version = [", "cannot be read"),
        ("version = 1\n", "does not hold the project"),
        ("version = 1\n[[package]]\nversion = '1'\n", "malformed"),
        ("version = 1\npackage = 3\n", "malformed"),
    ],
)
def test_malformed_uv_locks_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "uv.lock").write_text(text)
    with pytest.raises(LockError, match=told):
        read_uv_lock(tmp_path / "uv.lock")


def test_other_tools_locks_are_refused_with_the_command() -> None:
    for name, command in FOREIGN_LOCKS.items():
        error = refuse_foreign_lock(Path("x") / name)
        assert name in error.message
        assert command in error.hint


def test_a_marker_that_nests_too_deep_is_refused() -> None:
    deep = "(" * 5000 + "python_version > '3'" + ")" * 5000
    with pytest.raises(LockError, match="no marker") as caught:
        evaluate_marker(deep, target(), frozenset(), frozenset())
    assert len(caught.value.message) < 300
    with pytest.raises(LockError, match="no set of versions"):
        satisfies(">=" + "9" * 5000, "1.0")
