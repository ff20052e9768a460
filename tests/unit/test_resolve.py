from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.index_server import Index, make_wheel, serve_index
from wain.errors import (
    AuthError,
    HashMismatch,
    LockError,
    NoWheel,
    Offline,
    ProjectError,
    PythonError,
    ResolutionError,
    TransferError,
    UnknownDistribution,
    WainError,
)
from wain.lock import Lock, Selected
from wain.locking import LockRequest, fetch_selected, lock_for, make_lock, select_for
from wain.platforms import Platform, PythonVersion, Target
from wain.requirements import parse_requirement
from wain.resolve import _line_text, find_interpreter, python_platform
from wain.settings import IndexSettings, index_settings
from wain.store import Store
from wain.transport import HttpSettings, Transport
from wain.uv_process import UvResult, run_uv

SECRET = "s3cr3t-p4ss"


def target(architecture: str = "amd64", python: str = "3.13.5", glibc: int = 36) -> Target:
    version = PythonVersion.parse(python)
    return Target(
        platform=Platform("linux", architecture),
        python=version,
        abi=f"cp{version.major}{version.minor}",
        libc_version=(2, glibc),
    )


BOTH = (target(), target("arm64"))


class Bench:
    """A project folder, a store and an index, and what a build does with them."""

    def __init__(self, folder: Path, index: Index, store: Store) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        self.index = index
        self.store = store
        self.settings = IndexSettings(index_url=index.simple, retries=0)
        self.transport = Transport(HttpSettings(retries=0, timeout_seconds=5))

    def write(self, name: str, text: str) -> Path:
        path = self.project / name
        path.write_text(text)
        return path

    def asked(self, targets: tuple[Target, ...], *, settings: IndexSettings | None = None, **more: Any) -> LockRequest:
        return LockRequest(
            project=self.project,
            targets=targets or (target(),),
            settings=settings or self.settings,
            store=self.store,
            transport=self.transport,
            **more,
        )

    def lock(self, *targets: Target, locked: bool = False, offline: bool = False, **more: Any) -> Lock:
        return lock_for(self.asked(targets, **more), locked=locked, offline=offline)

    def select(self, lock: Lock, one: Target | None = None) -> dict[str, Selected]:
        chosen = select_for(lock, one or target(), settings=self.settings, store=self.store)
        return {item.name: item for item in chosen}

    def write_lock(
        self, *targets: Target, before: Lock | None = None, upgrade: Sequence[str] | None = None, **more: Any
    ) -> Lock:
        lock = make_lock(self.asked(targets, **more), before=before, upgrade=upgrade)
        self.write("pylock.toml", lock.to_toml(self.project))
        return lock


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "WAIN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "store").mkdir(mode=0o700)
    with serve_index() as index, Store.open(tmp_path / "store") as store:
        yield Bench(tmp_path, index, store)


X86, ARM = "cp313-cp313-manylinux_2_17_x86_64", "cp313-cp313-manylinux_2_17_aarch64"


def test_each_platform_gets_its_own_wheels_and_versions(bench: Bench) -> None:
    bench.index.add(
        "app", "1.0", requires=["num>=1", 'extra-x; platform_machine == "x86_64"', 'w; sys_platform == "win32"']
    )
    for version in ("1.0", "2.0"):
        bench.index.add("num", version, tag=X86)
    bench.index.add("num", "1.0", tag=ARM)
    bench.index.add("num", "3.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    bench.index.add("extra-x", "1.0")
    bench.write("requirements.txt", "app\n")
    lock = bench.lock(*BOTH)
    x86, arm = bench.select(lock), bench.select(lock, BOTH[1])
    assert {name: item.version for name, item in x86.items()} == {"app": "1.0", "num": "2.0", "extra-x": "1.0"}
    assert {name: item.version for name, item in arm.items()} == {"app": "1.0", "num": "1.0"}
    with pytest.raises(LockError, match="is not for"):
        lock.select(target("s390x"))
    with pytest.raises(LockError, match="is for Python"):
        lock.select(target(python="3.12.1"))


def test_glibc_and_the_full_python_version_count(bench: Bench) -> None:
    bench.index.add("num", "2.0", tag="cp313-cp313-manylinux_2_39_x86_64")
    bench.index.add("num", "1.0", tag="cp313-cp313-manylinux_2_28_x86_64")
    bench.index.add("pure", "2.0", requires_python=">=3.13.6")
    bench.index.add("pure", "1.0", requires_python=">=3.13.1")
    bench.write("requirements.txt", "num\npure\n")
    found = bench.select(bench.lock())
    assert (found["num"].version, found["pure"].version) == ("1.0", "1.0")
    newer = target(glibc=41)
    assert bench.select(bench.lock(newer), newer)["num"].version == "2.0"


@pytest.mark.parametrize(
    ("glibc", "name"),
    [
        (17, "manylinux_2_17"),
        (27, "manylinux_2_17"),
        (28, "manylinux_2_28"),
        (30, "manylinux_2_28"),
        (36, "manylinux_2_36"),
        (41, "manylinux_2_40"),
    ],
)
def test_uvs_names_of_platforms(glibc: int, name: str) -> None:
    assert python_platform(target(glibc=glibc)) == f"x86_64-{name}"
    assert python_platform(replace(target("arm64"), libc="musl", libc_version=(1, 2))) == "aarch64-unknown-linux-musl"
    assert python_platform(target("s390x")) is None


def test_platforms_that_uv_does_not_name_are_resolved_by_marker(bench: Bench) -> None:
    bench.index.add("num", "1.0", tag="cp313-cp313-manylinux_2_17_s390x")
    bench.index.add("num", "1.0", tag=X86)
    bench.index.add("only", "1.0")
    bench.write("requirements.txt", "num\nonly; platform_machine == 's390x'\n")
    other = target("s390x")
    found = bench.select(bench.lock(other), other)
    assert found["num"].file is not None
    assert found["num"].file.filename.endswith("s390x.whl")
    assert "only" in found


def test_a_project_with_extras_and_groups(bench: Bench) -> None:
    for name in ("web", "speed", "driver", "tester", "typer"):
        bench.index.add(name, "1.0")
    bench.write(
        "pyproject.toml",
        """[project]
name = "App"
version = "1"
dependencies = ["web"]
[project.optional-dependencies]
all = ["app[db]", "speed"]
db = ["driver"]
[dependency-groups]
dev = ["tester", {include-group = "types"}]
types = ["typer"]
""",
    )
    assert set(bench.select(bench.lock())) == {"web"}
    lock = bench.lock(extras=("all",), groups=("dev",))
    names = {item.name for item in lock.select(target(), extras=["all"], groups=["dev"])}
    assert names == {"web", "speed", "driver", "tester", "typer"}
    with pytest.raises(ProjectError, match="has no extra nope"):
        bench.lock(extras=("nope",))
    with pytest.raises(ProjectError, match="has no group nope"):
        bench.lock(groups=("nope",))


def test_unknown_distribution(bench: Bench) -> None:
    bench.write("requirements.txt", "no-such-thing>1\n")
    with pytest.raises(UnknownDistribution, match="no index has a distribution no-such-thing") as caught:
        bench.lock()
    assert caught.value.exit_code == 5


def test_no_wheel_says_which_exist_and_never_takes_an_sdist_in_silence(bench: Bench) -> None:
    bench.index.add("num", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    bench.index.add("num", "2.0", tag="cp313-cp313-win_amd64")
    bench.index.put("num", "num-2.0.tar.gz", b"no archive at all")
    bench.write("requirements.txt", "num\n")
    with pytest.raises(NoWheel) as caught:
        bench.lock(target(python="3.13.5"), settings=replace(bench.settings, only_binary=(":all:",)))
    message = caught.value.message
    assert "num has no wheel for CPython 3.13.5" in message
    assert "2.0-cp313-cp313-win_amd64, 1.0-cp312-cp312-manylinux_2_17_x86_64, and sdists" in message


def test_a_conflict_is_told_in_one_sentence(bench: Bench) -> None:
    bench.index.add("a", "1.0", requires=["b<2"])
    bench.index.add("b", "1.0")
    bench.index.add("b", "2.0")
    bench.write("requirements.txt", "a\nb>=2\n")
    with pytest.raises(ResolutionError, match="all versions of a depend on b<2") as caught:
        bench.lock()
    assert "\n" not in caught.value.message
    assert type(caught.value) is ResolutionError


def test_an_index_that_does_not_answer(bench: Bench) -> None:
    bench.write("requirements.txt", "a\n")
    with pytest.raises(TransferError):
        bench.lock(settings=replace(bench.settings, index_url="http://127.0.0.1:9/simple"))


def test_offline_without_what_is_needed(bench: Bench) -> None:
    bench.write("requirements.txt", "a\n")
    bench.index.add("a", "1.0")
    with pytest.raises(Offline):
        bench.lock(offline=True)
    assert bench.index.requests == []


def test_a_resolution_is_remembered_for_ten_minutes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.index.add("a", "1.0")
    bench.write("requirements.txt", "a\n")
    first = bench.lock()
    bench.index.requests.clear()
    again = bench.lock(offline=True)
    assert again.packages == first.packages
    assert again.origin == "requirements.txt"
    assert bench.index.requests == []
    bench.index.add("a", "2.0")
    assert bench.select(bench.lock())["a"].version == "1.0"
    assert bench.select(bench.lock(refresh=True))["a"].version == "2.0"
    bench.write("requirements.txt", "a<2\n")
    assert bench.select(bench.lock())["a"].version == "1.0"
    now = time.time()
    monkeypatch.setattr("wain.locking.time.time", lambda: now + 601)
    bench.index.requests.clear()
    bench.lock()
    assert bench.index.requests


def test_the_best_version_of_all_indexes_wins_with_one_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with serve_index() as other:
        bench.index.add("a", "1.0")
        other.add("a", "2.0")
        bench.index.add("b", "2.0")
        other.add("b", "1.0")
        bench.index.add("only", "1.0")
        bench.write("requirements.txt", "a\nb\nonly\n")
        settings = replace(bench.settings, extra_index_urls=(other.simple,))
        lock = bench.lock(settings=settings)
        assert {name: item.version for name, item in bench.select(lock).items()} == {
            "a": "2.0",
            "b": "2.0",
            "only": "1.0",
        }
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert warnings[0].startswith("2 packages are on several indexes")
        assert warnings[0].endswith(": a, b")


def test_find_links_missing_folders_and_pre(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    links = tmp_path / "my links, here"
    links.mkdir()
    for version in ("1.0", "2.0rc1"):
        filename, data = make_wheel("a", version)
        (links / filename).write_bytes(data)
    bench.write("requirements.txt", "a\n")
    settings = IndexSettings(no_index=True, find_links=(str(tmp_path / "none"), str(links)))
    found = bench.select(bench.lock(settings=settings))["a"]
    assert found.version == "1.0"
    assert found.file is not None
    assert found.file.path == str(links / "a-1.0-py3-none-any.whl")
    assert found.file.size_bytes == (links / "a-1.0-py3-none-any.whl").stat().st_size
    assert "does not exist and is left out" in caplog.text
    assert bench.select(bench.lock(settings=replace(settings, pre=True)))["a"].version == "2.0rc1"
    text = bench.lock(settings=settings).to_toml(bench.project)
    assert str(tmp_path) not in text


def test_options_in_requirements_files_count(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    bench.index.add("a", "2.0")
    bench.write("limits.txt", "a<2\n")
    bench.write("requirements.txt", f"-i {bench.index.simple}\n-c limits.txt\na\n")
    settings = IndexSettings(index_url="http://127.0.0.1:9/simple")
    assert bench.select(bench.lock(settings=settings))["a"].version == "1.0"


# Hashes of the user


def test_hashes_restrict_the_lock(bench: Bench) -> None:
    plain = bench.index.add("a", "1.0")
    bench.index.add("a", "1.0", tag=X86)
    bench.index.add("b", "1.0")
    bench.write("requirements.txt", f"a==1.0 --hash=sha256:{bench.index.sha256(plain)}\nb\n")
    found = bench.select(bench.lock())["a"]
    assert found.file is not None
    assert found.file.filename == plain
    bench.write("requirements.txt", f"a==1.0 --hash=sha256:{'0' * 64}\nb\n")
    with pytest.raises(HashMismatch, match=r"no file of a 1\.0 has a hash that was asked for"):
        bench.lock()


def test_pinned_and_hashed_requirements_are_a_lock(bench: Bench) -> None:
    both = [bench.index.add("a", "1.0", tag=tag) for tag in (X86, ARM)]
    bench.index.add("win", "1.0")
    hashes = " ".join(f"--hash=sha256:{bench.index.sha256(name)}" for name in both)
    bench.write(
        "requirements.txt",
        f"a==1.0 {hashes}\nwin==1.0 --hash=sha256:{'1' * 64} ; sys_platform == 'win32'\n".replace(
            f"win==1.0 --hash=sha256:{'1' * 64} ; sys_platform == 'win32'",
            f"win==1.0 ; sys_platform == 'win32' --hash=sha256:{'1' * 64}",
        ),
    )
    lock = bench.lock(*BOTH, locked=True)
    for one, name in zip(BOTH, both, strict=True):
        found = bench.select(lock, one)
        assert list(found) == ["a"]
        assert found["a"].file is not None
        assert found["a"].file.filename == name
    fetched = fetch_selected(
        bench.select(lock).values(), store=bench.store, transport=bench.transport, settings=bench.settings
    )
    assert [digest for _, _, digest in fetched] == [f"sha256:{bench.index.sha256(both[0])}"]
    bench.index.requests.clear()
    again = bench.lock(*BOTH, locked=True, offline=True)
    fetch_selected(
        bench.select(again).values(),
        store=bench.store,
        transport=Transport(offline=True),
        settings=bench.settings,
        project=bench.project,
    )
    assert bench.index.requests == []


def test_a_wrong_hash_in_pinned_requirements(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    bench.write("requirements.txt", f"a==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(HashMismatch, match="the index has sha256:") as caught:
        bench.lock()
    assert caught.value.exit_code == 7


def test_an_index_without_hashes_is_checked_when_fetched(bench: Bench) -> None:
    filename = bench.index.add("a", "1.0")
    bench.index.with_hashes = False
    bench.write("requirements.txt", f"a==1.0 --hash=sha256:{bench.index.sha256(filename)}\n")
    chosen = bench.select(bench.lock()).values()
    fetch_selected(chosen, store=bench.store, transport=bench.transport, settings=bench.settings)
    bench.write("requirements.txt", f"a==1.0 --hash=sha256:{'0' * 64}\n")
    chosen = bench.select(bench.lock()).values()
    with pytest.raises(HashMismatch):
        fetch_selected(chosen, store=bench.store, transport=bench.transport, settings=bench.settings)


def test_a_direct_url_with_its_hash_is_a_lock(bench: Bench) -> None:
    filename = bench.index.add("a", "1.0")
    url = f"{bench.index.url}/files/a/{filename}"
    bench.write("requirements.txt", f"a @ {url} --hash=sha256:{bench.index.sha256(filename)}\n")
    chosen = bench.select(bench.lock(locked=True)).values()
    (fetched,) = fetch_selected(chosen, store=bench.store, transport=bench.transport, settings=bench.settings)
    assert fetched[2] == f"sha256:{bench.index.sha256(filename)}"


# Lock files and whether they fit


def test_wain_lock_makes_a_lock_that_is_used_without_a_request(bench: Bench) -> None:
    bench.index.add("a", "1.0", requires=["b"])
    bench.index.add("b", "1.0")
    bench.write("requirements.txt", "a\n")
    bench.write_lock(*BOTH)
    bench.index.add("b", "2.0")
    bench.index.requests.clear()
    lock = bench.lock(*BOTH, locked=True, offline=True)
    assert {item.version for item in bench.select(lock).values()} == {"1.0"}
    assert bench.index.requests == []
    with pytest.raises(LockError, match=r"pylock\.toml is not for"):
        bench.lock(target("s390x")).select(target("s390x"))


@pytest.mark.parametrize(
    ("text", "told"),
    [("a\nb\n", "now asks for b"), ("", "no longer asks for a"), ("a>=2\n", "now asks for a>=2")],
)
def test_a_lock_that_does_not_fit_says_how_to_renew_it(bench: Bench, text: str, told: str) -> None:
    bench.index.add("a", "1.0")
    bench.write("requirements.txt", "a\n")
    bench.write_lock()
    bench.write("requirements.txt", text)
    with pytest.raises(LockError, match=rf"pylock\.toml does not fit the project: .*{told}") as caught:
        bench.lock()
    assert "wain lock" in caught.value.hint


def test_a_lock_of_another_tool_is_compared_by_versions(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    bench.write("requirements.txt", "a\n")
    bench.write_lock()
    path = bench.project / "pylock.toml"
    path.write_text(path.read_text().replace('"wain"', '"other"').partition("[tool")[0])
    assert bench.lock(locked=True)
    bench.write("requirements.txt", "a>1\n")
    with pytest.raises(LockError, match=r"asks for a>1, and the lock has 1\.0"):
        bench.lock()
    bench.write("requirements.txt", "a\nzzz; sys_platform == 'win32'\nyyy\n")
    with pytest.raises(LockError, match="asks for yyy, which the lock lacks"):
        bench.lock()


def test_extras_that_the_lock_was_not_made_for(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    bench.index.add("b", "1.0")
    bench.write(
        "pyproject.toml",
        '[project]\nname = "x"\nversion = "1"\ndependencies = ["a"]\noptional-dependencies = { more = ["b"] }\n',
    )
    bench.write_lock()
    with pytest.raises(LockError, match="made for other extras") as caught:
        bench.lock(extras=("more",))
    assert "wain lock --extra more" in caught.value.hint
    bench.write_lock(extras=["more"])
    lock = bench.lock(extras=("more",))
    assert {item.name for item in lock.select(target(), extras=["more"])} == {"a", "b"}


def test_upgrade_all_one_or_none(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.index.add(name, "1.0")
    bench.write("requirements.txt", "a\nb\n")
    before = bench.write_lock()
    for name in ("a", "b"):
        bench.index.add(name, "2.0")

    def versions(**options: object) -> dict[str, str | None]:
        lock = bench.write_lock(refresh=True, **options)
        return {package.name: package.version for package in lock.packages}

    assert versions(before=before) == {"a": "1.0", "b": "1.0"}
    assert versions(before=before, upgrade=["b"]) == {"a": "1.0", "b": "2.0"}
    assert versions(before=before, upgrade=[]) == {"a": "2.0", "b": "2.0"}
    bench.write("requirements.txt", "a>1\nb\n")
    assert versions(before=before) == {"a": "2.0", "b": "1.0"}


def test_other_tools_locks_are_never_ignored(bench: Bench) -> None:
    bench.write("requirements.txt", "a\n")
    bench.write("poetry.lock", "")
    with pytest.raises(LockError, match=r"poetry\.lock is a lock that wain does not read") as caught:
        bench.lock()
    assert "poetry export" in caught.value.hint


def test_locked_without_a_lock(bench: Bench) -> None:
    bench.write("requirements.txt", "a\n")
    with pytest.raises(LockError, match="has no lock file, and --locked was given"):
        bench.lock(locked=True)


def test_a_python_that_the_project_does_not_allow(bench: Bench) -> None:
    text = '[project]\nname = "x"\nversion = "1"\nrequires-python = "%s"\ndependencies = ["a"]\n'
    bench.index.add("a", "1.0")
    bench.write("pyproject.toml", text % ">=3.14")
    with pytest.raises(PythonError, match=r"needs Python >=3\.14, and the image would have 3\.13\.5"):
        bench.lock()
    bench.write("pyproject.toml", text % ">=3.13")
    bench.write_lock()
    assert bench.lock(locked=True)
    bench.write("pyproject.toml", text % ">=3.13.6")
    with pytest.raises(PythonError):
        bench.lock(locked=True)


def test_nothing_to_lock(bench: Bench) -> None:
    with pytest.raises(ProjectError, match=r"neither requirements\.txt nor"):
        bench.lock()


UV_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "x"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "a" }]

[package.metadata]
requires-dist = [{ name = "a", specifier = ">=1" }, { name = "w", marker = "sys_platform == 'win32'" }]

[[package]]
name = "a"
version = "1.0"
source = { registry = "https://index.example/simple" }
wheels = [{ url = "https://files.example/a-1.0-py3-none-any.whl", hash = "sha256:%s" }]
""" % ("a" * 64)


def test_uv_lock_is_compared_with_the_project(bench: Bench) -> None:
    project = '[project]\nname = "x"\nversion = "1"\ndependencies = ["a>=1", "w; sys_platform==\'win32\'"%s]\n'
    bench.write("uv.lock", UV_LOCK)
    bench.write("pyproject.toml", project % "")
    assert set(bench.select(bench.lock(locked=True))) == {"a"}
    bench.write("pyproject.toml", project % ', "b"')
    with pytest.raises(LockError, match=r"uv\.lock does not fit the project: pyproject\.toml now asks for b") as caught:
        bench.lock()
    assert "uv lock" in caught.value.hint
    bench.write("pyproject.toml", (project % "").replace("a>=1", "a>=2"))
    with pytest.raises(LockError, match=r"now asks for a\s+>=2; it no longer asks for a\s+>=1"):
        bench.lock()


def test_a_lock_beside_uv_lock_has_its_versions(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    bench.index.add("a", "2.0")
    bench.write("uv.lock", UV_LOCK)
    bench.write("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = ["a"]\n')
    assert [package.version for package in bench.write_lock().packages] == ["1.0"]
    (bench.project / "pylock.toml").unlink()
    assert [package.version for package in bench.write_lock(upgrade=()).packages] == ["2.0"]
    bench.write("uv.lock", "version = 2")
    (bench.project / "pylock.toml").unlink()
    assert [package.version for package in bench.write_lock().packages] == ["2.0"]


# Sources that have to be built


def test_an_sdist_is_looked_at_only_with_a_python_of_the_targets_minor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.project / "local").mkdir()
    bench.write("requirements.txt", "./local\n")
    monkeypatch.setattr("wain.resolve.find_interpreter", lambda minor, store: None)
    with pytest.raises(WainError, match=r"there is no Python 3\.13 here"):
        bench.lock()
    with pytest.raises(NoWheel, match="only-binary forbids"):
        bench.lock(settings=replace(bench.settings, only_binary=(":all:",)))


def make_sdist(name: str, version: str, *, static: bool) -> tuple[str, bytes]:
    """An sdist whose back end comes with it, and which requires what the Python that runs it is called."""
    top = f"{name}-{version}"
    metadata = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"
    backend = f"""import os, sys, zipfile
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = "{top}.dist-info"
    os.mkdir(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w") as stream:
        stream.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        stream.write("Requires-Dist: ran-on-%d-%d\\n" % sys.version_info[:2])
    return info
def build_wheel(*args, **options):
    raise SystemExit("no wheel is wanted")
"""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    if not static:
        metadata += "Dynamic: Requires-Dist\n"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, text in (("PKG-INFO", metadata), ("pyproject.toml", project), ("backend.py", backend)):
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{top}.tar.gz", stream.getvalue()


RUNNING = PythonVersion(major=sys.version_info[0], minor=sys.version_info[1], patch=sys.version_info[2])


def test_an_sdist_says_what_it_requires_on_the_right_python_and_is_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.index.put("src", *make_sdist("src", "1.0", static=False))
    needed = f"ran-on-{RUNNING.major}-{RUNNING.minor}"
    bench.index.add(needed, "1.0")
    bench.write("requirements.txt", "src\n")
    here = target(python=str(RUNNING))
    found = bench.select(bench.lock(here), here)
    assert found["src"].kind == "sdist"
    assert set(found) == {"src", needed}
    assert "src 1.0: no wheel fits linux/amd64, so an sdist is locked and will be built" in caplog.text
    with pytest.raises(NoWheel, match=r"src has no wheel for .*: there are none, and sdists|src has no wheel"):
        bench.lock(here, settings=replace(bench.settings, only_binary=(":all:",)))


def test_no_sdist_is_run_on_another_python(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.index.put("src", *make_sdist("src", "1.0", static=False))
    bench.index.add(f"ran-on-{RUNNING.major}-{RUNNING.minor}", "1.0")
    bench.write("requirements.txt", "src\n")
    monkeypatch.setattr("wain.resolve.find_interpreter", lambda minor, store: None)
    with pytest.raises(NoWheel, match="src has no wheel for"):
        bench.lock(target(python="3.13.5"))


def test_an_older_wheel_is_taken_before_a_newer_sdist(bench: Bench) -> None:
    bench.index.put("src", *make_sdist("src", "2.0", static=True))
    bench.index.add("src", "1.0")
    bench.write("requirements.txt", "src\n")
    here = target(python=str(RUNNING))
    found = bench.select(bench.lock(here), here)["src"]
    assert (found.kind, found.version) == ("wheel", "1.0")


def test_a_folder_is_locked_as_a_folder_with_what_it_requires(bench: Bench) -> None:
    bench.index.add("a", "1.0")
    (bench.project / "local").mkdir()
    bench.write("local/pyproject.toml", '[project]\nname = "local"\nversion = "1"\ndependencies = ["a"]\n')
    bench.write("requirements.txt", "./local\n")
    here = target(python=str(RUNNING))
    found = bench.select(bench.lock(here), here)
    assert {name: item.kind for name, item in found.items()} == {"a": "wheel", "local": "directory"}
    assert found["local"].package.directory is not None
    assert found["local"].package.directory.path == str(bench.project / "local")


# uv's own configuration


def test_uvs_configuration_keeps_uvs_meaning(bench: Bench) -> None:
    with serve_index() as other:
        bench.index.add("a", "1.0")
        other.add("a", "2.0")
        other.add("b", "1.0")
        bench.write(
            "pyproject.toml",
            f"""[project]
name = "x"
version = "1"
dependencies = ["a", "b"]
[[tool.uv.index]]
url = "{bench.index.simple}"
[[tool.uv.index]]
url = "{other.simple}"
default = true
""",
        )
        settings = index_settings(bench.project)
        assert settings.uv_configuration
        found = bench.select(bench.lock(settings=settings))
        assert {name: item.version for name, item in found.items()} == {"a": "1.0", "b": "1.0"}


def test_a_named_index_gets_its_password_by_environment(private: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX_CORP_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_CORP_PASSWORD", SECRET)
    private.write(
        "pyproject.toml",
        f"""[project]
name = "x"
version = "1"
dependencies = ["a"]
[[tool.uv.index]]
name = "corp"
url = "{private.index.simple}"
default = true
""",
    )
    settings = index_settings(private.project)
    chosen = private.select(private.lock(settings=settings)).values()
    fetched = fetch_selected(chosen, store=private.store, transport=private.transport, settings=settings)
    assert len(fetched) == 2


def test_uv_trusts_whom_this_machine_trusts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Mapping[str, str]] = []

    def recorded(arguments: Sequence[str], *, environ: Mapping[str, str], **options: Any) -> UvResult:
        given.append(environ)
        return run_uv(arguments, environ=environ, **options)

    monkeypatch.setattr("wain.resolve.run_uv", recorded)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    bench.index.add("a", "1.0")
    bench.write("requirements.txt", "a\n")
    bench.lock()
    assert given[-1]["UV_SYSTEM_CERTS"] == "true"
    assert "SSL_CERT_FILE" not in given[-1]
    cert = bench.write("ca.pem", "")
    bench.lock(settings=replace(bench.settings, cert=cert), refresh=True)
    assert given[-1]["SSL_CERT_FILE"] == str(cert)
    assert "UV_SYSTEM_CERTS" not in given[-1]


def test_find_interpreter(bench: Bench) -> None:
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert find_interpreter(running, bench.store) == sys.executable
    assert find_interpreter("3.4", bench.store) is None


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("a[x]>=1 ; python_version > '3'", "a[x]>=1 ; python_version > '3'"),
        ("a @ https://x.example/a.zip", "a @ https://x.example/a.zip"),
        ("./dir[extra] ; sys_platform == 'linux'", "/base/dir[extra] ; sys_platform == 'linux'"),
        ("https://me:pw@x.example/a-1.tar.gz", "https://me:pw@x.example/a-1.tar.gz"),
    ],
)
def test_lines_as_uv_gets_them(text: str, given: str) -> None:
    assert _line_text(parse_requirement(text, "x", folder=Path("/base"))) == given


# Credentials


@pytest.fixture
def private(bench: Bench) -> Bench:
    bench.index.password = f"me:{SECRET}"
    bench.index.add("a", "1.0", requires=["b"])
    bench.index.add("b", "1.0")
    bench.settings = replace(bench.settings, index_url=bench.index.with_password())
    return bench


class CommandLines(threading.Thread):
    """Collects what /proc shows of every process, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.002):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue

    def stop(self) -> bytes:
        self._end.set()
        self.join()
        return b"\n".join(self.seen)


def test_credentials_are_nowhere_but_in_requests(
    private: Bench, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    direct = private.index.add("c", "1.0")
    url = f"{private.index.url}/files/c/{direct}".replace("://", f"://me:{SECRET}@")
    private.write("requirements.txt", f"a\nc @ {url}\n")
    watch = CommandLines()
    watch.start()
    with caplog.at_level(logging.DEBUG):
        lock = private.write_lock()
        chosen = private.select(private.lock()).values()
        fetched = fetch_selected(
            chosen,
            store=private.store,
            transport=private.transport,
            settings=private.settings,
            project=private.project,
        )
    lines = watch.stop()
    assert b"compile" in lines
    assert len(fetched) == 3
    assert SECRET.encode() not in lines
    assert SECRET not in caplog.text
    assert SECRET not in repr(lock)
    assert SECRET not in (private.project / "pylock.toml").read_text()
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_a_token_in_a_direct_url_stays_out_of_the_lock_and_is_used_to_fetch(bench: Bench) -> None:
    filename = bench.index.add("a", "1.0")
    path = f"/files/a/{filename}"
    bench.index.tokens[path] = f"file=1&token={SECRET}"
    bench.write("requirements.txt", f"a @ {bench.index.url}{path}?file=1&token={SECRET}\n")
    bench.write_lock()
    text = (bench.project / "pylock.toml").read_text()
    assert SECRET not in text
    assert f"{path}?file=1" in text
    chosen = bench.select(bench.lock()).values()
    (fetched,) = fetch_selected(
        chosen, store=bench.store, transport=bench.transport, settings=bench.settings, project=bench.project
    )
    assert fetched[2] == f"sha256:{bench.index.sha256(filename)}"


def test_refused_credentials_are_an_error_without_them(private: Bench) -> None:
    private.write("requirements.txt", "a\n")
    wrong = private.index.with_password().replace(SECRET, SECRET + "x")
    with pytest.raises(AuthError) as caught:
        private.lock(settings=replace(private.settings, index_url=wrong, keyring_provider="disabled"))
    assert SECRET not in caught.value.message + caught.value.hint


def test_keyring_serves_a_resolution(private: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "keyring"
    program.write_text(f'#!/bin/sh\n[ "$1 $3" = "get me" ] && echo "{SECRET}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    private.write("requirements.txt", "a\n")
    settings = replace(private.settings, index_url=private.index.simple.replace("://", "://me@"))
    assert set(private.select(private.lock(settings=settings))) == {"a", "b"}


def test_the_file_that_was_locked_is_the_file_that_is_fetched(bench: Bench) -> None:
    filename = bench.index.add("a", "1.0")
    bench.write("requirements.txt", "a\n")
    bench.write_lock()
    bench.index.served[filename] = make_wheel("a", "1.0", content=b"evil")[1]
    chosen = bench.select(bench.lock()).values()
    with pytest.raises(HashMismatch, match="is not what the lock promises"):
        fetch_selected(chosen, store=bench.store, transport=bench.transport, settings=bench.settings)
    digest = hashlib.sha256(bench.index.served[filename]).hexdigest()
    assert not any(digest in str(path) for path in bench.store.root.rglob("*"))
