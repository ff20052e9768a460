"""Builds with a back end that stands in the sdist itself: nothing is fetched."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import wain.sdists
import wain.workplace
from wain.digest import Digest
from wain.errors import NoWheel, SdistError
from wain.index import PackageIndexes
from wain.interpreters import own_interpreter
from wain.lock import VcsSource
from wain.platforms import Platform, PythonVersion, Target
from wain.sdists import Builder, BuildOptions, BuiltWheel
from wain.settings import IndexSettings
from wain.store import Store
from wain.transport import Transport

# Writes what it saw of its environment into the wheel.
BACKEND = """
import json, os, sys, zipfile
NAME, TAG = "thing", {tag!r}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    {extra}
    path = f"{{NAME}}-1.0-{{TAG}}.whl"
    names = ("HOME", "LC_ALL", "SECRET", "SETTING", "CFLAGS", "TMPDIR", "UNRELATED")
    seen = {{name: os.environ.get(name) for name in names}}
    seen |= {{"cwd": os.getcwd(), "config": config_settings, "umask": os.umask(0o022), "path": sys.path[:1]}}
    files = {{
        "thing/__init__.py": json.dumps(seen, sort_keys=True),
        f"{{NAME}}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: 1.0\\n",
        f"{{NAME}}-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {{TAG}}\\n",
    }}
    record = f"{{NAME}}-1.0.dist-info/RECORD"
    files[record] = "".join(f"{{name}},,\\n" for name in (*files, record))
    with zipfile.ZipFile(os.path.join(folder, path), "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return path
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def make_sdist(
    folder: Path, *, tag: str = "py3-none-any", extra: str = "pass", files: dict[str, str] | None = None
) -> Path:
    path = folder / "thing-1.0.tar.gz"
    texts = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND.format(tag=tag, extra=extra), **(files or {})}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"thing-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(stream.getvalue(), mtime=0))
    return path


class Bench:
    """Builds with one store; the environment is empty but for PATH and what a test adds."""

    def __init__(self, root: Path, settings: IndexSettings | None = None) -> None:
        self.store = Store.open(root)
        transport = Transport(offline=True)
        self.indexes = PackageIndexes(settings or IndexSettings(no_index=True), store=self.store, transport=transport)
        self.target = own_interpreter(self.store).target

    def builder(
        self,
        *,
        target: Target | None = None,
        environ: dict[str, str] | None = None,
        options: BuildOptions | None = None,
    ) -> Builder:
        return Builder(
            target=target or self.target,
            indexes=self.indexes,
            options=options or BuildOptions(),
            environ={"PATH": os.environ["PATH"], **(environ or {})},
        )

    def sdist(
        self,
        path: Path,
        *,
        target: Target | None = None,
        environ: dict[str, str] | None = None,
        options: BuildOptions | None = None,
        name: str = "thing",
        version: str = "1.0",
    ) -> BuiltWheel:
        builder = self.builder(target=target, options=options, environ=environ)
        return builder.sdist(path, filename=path.name, digest=Digest.of_file(path), name=name, version=version)

    def seen(self, built: BuiltWheel) -> dict[str, object]:
        path = self.store.path(built.digest)
        assert path is not None
        with zipfile.ZipFile(path) as archive:
            found: dict[str, object] = json.loads(archive.read("thing/__init__.py"))
            return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where builds happen: apart from those of other tests."""
    path = tmp_path / "builds"
    path.mkdir()
    monkeypatch.setattr(wain.workplace, "_FOLDER", path)
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    with made.store:
        yield made


def test_a_wheel_is_built_once_in_a_declared_environment(
    bench: Bench, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_sdist(tmp_path)
    first = bench.sdist(path, environ={"HOME": "/home/ann", "SECRET": "x", "CFLAGS": "-O1"})
    seen = bench.seen(first)
    assert first.was_built
    assert first.reason == "it was not built before"
    assert seen["SECRET"] is None
    assert (seen["LC_ALL"], seen["CFLAGS"], seen["umask"]) == ("C.UTF-8", "-O1", 0o022)
    assert str(seen["HOME"]).startswith(f"{folder}/wain-")
    assert str(seen["cwd"]).startswith(f"{folder}/wain-")
    assert list(folder.iterdir()) == []
    with caplog.at_level(logging.DEBUG, "wain.sdists"):
        second = bench.sdist(path, environ={"HOME": "/home/ben", "USER": "ben", "CFLAGS": "-O1", "UNRELATED": "y"})
    assert not second.was_built
    assert second.digest == first.digest
    assert "built before with the same source" in caplog.text


def test_another_store_home_and_path_give_the_same_wheel(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Bench(tmp_path / "elsewhere/store")
    with other.store:
        moved = make_sdist(tmp_path / "elsewhere")
        environ = {"HOME": "/home/ben", "PATH": os.environ["PATH"] + ":/nowhere"}
        assert other.sdist(moved, environ=environ).digest == bench.sdist(make_sdist(tmp_path)).digest


@pytest.mark.parametrize(
    ("environ", "options", "reason"),
    [
        ({"CFLAGS": "-O2"}, None, "environment CFLAGS was not there, is -O2"),
        ({}, BuildOptions(env={"SETTING": "openssl"}), "environment SETTING was not there, is sha256:"),
        ({}, BuildOptions(config_settings={"--with": "x"}), "config-settings was not there, is sha256:"),
        ({"CC": "sh"}, None, "environment CC was not there, is sh; tools cc was"),
    ],
)
def test_what_the_build_depends_on_makes_another_wheel(
    bench: Bench, tmp_path: Path, environ: dict[str, str], options: BuildOptions | None, reason: str
) -> None:
    path = make_sdist(tmp_path)
    first = bench.sdist(path)
    changed = bench.sdist(path, environ=environ, options=options)
    assert changed.was_built
    assert reason in changed.reason
    assert not bench.sdist(path, environ=environ, options=options).was_built
    again = bench.sdist(path)
    assert not again.was_built
    assert again.digest == first.digest


def test_a_secret_in_the_build_environment_stands_in_no_message(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_sdist(tmp_path)
    with caplog.at_level(logging.DEBUG):
        for value in ("hunter2", "hunter3"):
            built = bench.sdist(path, options=BuildOptions(env={"SETTING": value}))
            assert bench.seen(built)["SETTING"] == value
            assert "hunter" not in built.reason
    assert "hunter" not in caplog.text


def test_a_changed_source_is_built_again(bench: Bench, tmp_path: Path) -> None:
    bench.sdist(make_sdist(tmp_path))
    changed = bench.sdist(make_sdist(tmp_path, files={"more.py": ""}))
    assert changed.was_built
    assert changed.reason == "its source changed"


def test_a_changed_tool_or_linked_library_is_built_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sdist(tmp_path)
    monkeypatch.setattr(wain.sdists, "tool_identities", lambda *_, **__: {"cc": "cc 12"})
    monkeypatch.setattr(wain.sdists, "_linked", lambda wheel: (["libz.so.1"], None))
    library = ("/lib/libz.so.1", Digest.of(b"one"))
    monkeypatch.setattr(wain.sdists, "library_digest", lambda soname, store: library)
    bench.sdist(path)
    assert not bench.sdist(path).was_built
    library = ("/lib/libz.so.1", Digest.of(b"two"))
    again = bench.sdist(path)
    assert again.was_built
    assert "library" in again.reason
    assert not bench.sdist(path).was_built
    monkeypatch.setattr(wain.sdists, "tool_identities", lambda *_, **__: {"cc": "cc 13"})
    assert "tools cc was cc 12, is cc 13" in bench.sdist(path).reason


def test_a_wheel_that_left_the_store_is_built_again(bench: Bench, tmp_path: Path) -> None:
    path = make_sdist(tmp_path)
    first = bench.sdist(path)
    bench.store.drop(first.digest)
    second = bench.sdist(path)
    assert (second.was_built, second.digest) == (True, first.digest)


def foreign(target: Target) -> Target:
    architecture = "arm64" if target.platform.architecture != "arm64" else "amd64"
    return Target(platform=Platform("linux", architecture), python=target.python, abi=target.abi)


def test_a_pure_wheel_is_taken_for_another_platform_or_python(bench: Bench, tmp_path: Path) -> None:
    path = make_sdist(tmp_path)
    assert bench.sdist(path, target=foreign(bench.target)).was_built
    old = Target(platform=bench.target.platform, python=PythonVersion(major=3, minor=4, patch=0), abi="cp34")
    assert bench.sdist(path, target=old).filename == "thing-1.0-py3-none-any.whl"


def test_a_platform_wheel_is_for_this_machine_alone(bench: Bench, tmp_path: Path) -> None:
    own = bench.target
    path = make_sdist(tmp_path, tag=f"{own.abi}-{own.abi}-linux_{own.platform.machine}")
    assert bench.sdist(path).was_built
    with pytest.raises(SdistError, match="does not fit") as caught:
        bench.sdist(path, target=foreign(own))
    assert "--find-links" in caught.value.hint


def test_a_wheel_that_needs_a_newer_c_library_than_the_bases_is_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wain.sdists, "_linked", lambda wheel: ([], (2, 99)))
    path = make_sdist(tmp_path)
    for _ in range(2):  # just built, and remembered
        with pytest.raises(SdistError, match=r"against glibc 2\.99"):
            bench.sdist(path)


@pytest.mark.parametrize(
    ("extra", "message", "hint"),
    [
        ("raise RuntimeError('no luck')", "no luck", "wheels"),
        (
            "print('x.c:1:10: fatal error: openssl/ssl.h: No such file or directory'); sys.exit(1)",
            "ssl.h",
            "libssl-dev",
        ),
        ("import pkg_resources_gone", "did not build", "pkg_resources_gone"),
        ("print(\"error: command 'gcc' failed: No such file or directory\"); sys.exit(1)", "gcc", "build-essential"),
        ("return '../x.whl'", "built no wheel", ""),
        ("return None", "built no wheel", ""),
        ("os._exit(0)", "gave no answer", ""),
        (
            "open(os.path.join(folder, 'thing-1.0-py3-none-any.whl'), 'w'); return 'thing-1.0-py3-none-any.whl'",
            "no sound wheel",
            "",
        ),
        ("open(os.path.join(folder, 'junk.whl'), 'w'); return 'junk.whl'", "no wheel's name", ""),
        ("globals().update(NAME='other')", "builds a wheel of other", ""),
    ],
)
def test_a_failed_build_says_why_and_leaves_nothing(
    bench: Bench, tmp_path: Path, folder: Path, extra: str, message: str, hint: str
) -> None:
    path = make_sdist(tmp_path, extra=extra.replace("{", "{{"))
    with pytest.raises(SdistError, match=message) as caught:
        bench.sdist(path)
    assert caught.value.hint
    assert hint in caught.value.hint
    assert list(folder.iterdir()) == []


def test_credentials_in_the_output_of_a_build_are_left_out(bench: Bench, tmp_path: Path) -> None:
    path = make_sdist(tmp_path, extra="sys.exit('no https://ann:hunter2@index.example/simple')")
    with pytest.raises(SdistError) as caught:
        bench.sdist(path)
    assert "hunter2" not in caught.value.message
    assert "index.example" in caught.value.message


@pytest.mark.parametrize(
    "pyproject",
    [
        "not toml",
        "build-system = 3",
        "[build-system]\nrequires = 7",
        '[build-system]\nrequires = []\nbackend-path = ["../x"]',
    ],
)
def test_a_malformed_pyproject_is_refused(bench: Bench, tmp_path: Path, pyproject: str) -> None:
    with pytest.raises(SdistError):
        bench.sdist(make_sdist(tmp_path, files={"pyproject.toml": pyproject}))


def test_a_wrong_version_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(SdistError, match=r"version 1\.0, not 2\.0"):
        bench.sdist(make_sdist(tmp_path), version="2.0")


def test_only_binary_forbids_builds(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "store", IndexSettings(no_index=True, only_binary=(":all:",)))
    with bench.store, pytest.raises(NoWheel, match="only-binary"):
        bench.sdist(make_sdist(tmp_path))


def test_a_path_that_is_anothers_is_not_used(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wain.workplace, "_FOLDER", tmp_path / "taken")
    (tmp_path / "taken").write_text("no folder")
    seen = bench.seen(bench.sdist(make_sdist(tmp_path)))
    assert str(tmp_path) not in str(seen["cwd"])
    assert seen["CFLAGS"] is None  # setuptools would drop its own flags


def test_builds_of_the_same_at_once_build_once(tmp_path: Path) -> None:
    path = make_sdist(tmp_path, extra="import time; time.sleep(0.5)")
    results: list[BuiltWheel] = []

    def build() -> None:
        bench = Bench(tmp_path / "store")
        with bench.store:
            results.append(bench.sdist(path))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({built.digest for built in results}) == 1
    assert sorted(built.was_built for built in results) == [False, False, True]


def test_what_a_killed_build_left_is_removed(bench: Bench, tmp_path: Path, folder: Path) -> None:
    path = make_sdist(tmp_path)
    built = bench.sdist(path)
    place = Path(str(bench.seen(built)["cwd"])).parents[1]
    assert place.parent == folder
    bench.store.drop(built.digest)
    (place / "source/old").mkdir(parents=True)
    place.chmod(0o700)
    (place / "link").symlink_to(tmp_path)
    assert bench.sdist(path).digest == built.digest
    assert not place.exists()
    assert (tmp_path / "store").exists()


def test_a_project_is_built_from_a_copy(bench: Bench, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "backend.py").write_text(BACKEND.format(tag="py3-none-any", extra="open('left-behind', 'w')"))

    def build() -> BuiltWheel:
        return bench.builder().project(project, name="thing")

    assert build().was_built
    assert not build().was_built
    assert sorted(path.name for path in project.iterdir()) == ["backend.py", "pyproject.toml"]
    (project / "new.py").write_text("")
    assert build().was_built


def test_a_folder_that_is_no_project_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SdistError, match=r"neither pyproject\.toml nor setup\.py"):
        bench.builder().project(tmp_path / "empty", name=None)


def test_a_commit_is_cloned_and_built_once(bench: Bench, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "pyproject.toml").write_text(PYPROJECT)
    (repository / "backend.py").write_text(BACKEND.format(tag="py3-none-any", extra="pass"))
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@mail.example"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    source = VcsSource(type="git", url=str(repository), commit=said.stdout.strip())

    def build() -> BuiltWheel:
        return bench.builder().repository(source, name="thing")

    assert build().was_built
    shutil.rmtree(repository)
    assert not build().was_built
