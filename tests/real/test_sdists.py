"""sdists built by the back ends that people use, from the package index that this machine is configured for."""

from __future__ import annotations

import gzip
import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.real.machines.index_front import IndexFront
from tests.real.machines.processes import run
from tests.real.test_cache import NOBODY, ORDINARY
from wain import interpreters
from wain.digest import Digest
from wain.index import PackageIndexes
from wain.interpreters import own_interpreter
from wain.sdists import Builder, BuildOptions, BuiltWheel
from wain.settings import IndexSettings
from wain.store import Store
from wain.transport import Transport

pytestmark = [pytest.mark.real, pytest.mark.network]

_EXTENSION = """
#include <Python.h>
#include <zlib.h>
#ifndef VALUE
#define VALUE 1
#endif
static PyObject *value(PyObject *self, PyObject *none) { return PyLong_FromLong(VALUE + (zlibVersion() == 0)); }
static PyMethodDef methods[] = {{"value", value, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", 0, -1, methods};
PyMODINIT_FUNC PyInit_extension(void) { return PyModule_Create(&module); }
"""

SDISTS: dict[str, dict[str, str]] = {
    "byflit": {
        "pyproject.toml": '[build-system]\nrequires = ["flit_core>=3.2"]\nbuild-backend = "flit_core.buildapi"\n'
        '[project]\nname = "byflit"\nversion = "1.0"\ndescription = "d"\n',
        "byflit.py": '"""Doc"""\n',
    },
    "byhatchling": {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "byhatchling"\nversion = "1.0"\n',
        "byhatchling/__init__.py": "",
    },
    "bysetuptools": {
        "setup.py": "from setuptools import setup\n"
        'setup(name="bysetuptools", version="1.0", packages=["bysetuptools"])\n',
        "bysetuptools/__init__.py": "",
    },
    "extension": {
        "setup.py": "from setuptools import Extension, setup\n"
        'setup(name="extension", version="1.0", ext_modules=[Extension("extension", ["x.c"], libraries=["z"])])\n',
        "x.c": _EXTENSION,
    },
}


def make_sdist(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        texts = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", **SDISTS[name]}
        for path, text in texts.items():
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size, info.mtime = len(text), 1_700_000_000
            archive.addfile(info, io.BytesIO(text.encode()))
    path = folder / f"{name}-1.0.tar.gz"
    path.write_bytes(gzip.compress(stream.getvalue(), mtime=0))
    return path


class Machine:
    """A store with the indexes that this machine is configured for."""

    def __init__(self, root: Path, settings: IndexSettings) -> None:
        self.store = Store.open(root)
        self.indexes = PackageIndexes(settings, store=self.store, transport=Transport())
        self.target = own_interpreter(self.store).target

    def build(
        self, path: Path, *, environ: Mapping[str, str] | None = None, options: BuildOptions | None = None
    ) -> BuiltWheel:
        builder = Builder(
            target=self.target,
            indexes=self.indexes,
            options=options or BuildOptions(),
            environ={"PATH": os.environ["PATH"], **(environ or {})},
        )
        return builder.sdist(
            path, filename=path.name, digest=Digest.of_file(path), name=path.name.split("-")[0], version="1.0"
        )

    def file(self, built: BuiltWheel) -> Path:
        path = self.store.path(built.digest)
        assert path is not None
        return path


@pytest.fixture
def settings(index_front: IndexFront) -> IndexSettings:
    return IndexSettings(index_url=index_front.url)


@pytest.fixture
def machine(tmp_path: Path, settings: IndexSettings) -> Iterator[Machine]:
    made = Machine(tmp_path / "store", settings)
    with made.store:
        yield made


@pytest.mark.parametrize("name", SDISTS)
def test_two_homes_stores_and_paths_give_the_same_wheel_and_the_second_time_asks_nobody(
    name: str, tmp_path: Path, settings: IndexSettings, index_front: IndexFront
) -> None:
    wheels = []
    for user in ("ann", "ben"):
        store = tmp_path / user / "store"
        path = make_sdist(tmp_path / user / "downloads", name)
        environ = {"HOME": str(tmp_path / user), "USER": user, "PATH": f"{os.environ['PATH']}:/{user}", user: "1"}
        first = Machine(store, settings)
        with first.store:
            built = first.build(path, environ=environ)
            assert built.was_built
            wheels.append(first.file(built).read_bytes())
        mark = index_front.mark()
        again = Machine(store, settings)
        with again.store:
            second = again.build(path, environ=environ)
        assert (second.was_built, second.digest) == (False, built.digest)
        assert index_front.requests(mark) == []
    assert wheels[0] == wheels[1]


def test_an_extension_is_built_again_for_what_changes_it(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_sdist(tmp_path, "extension")

    def value(built: BuiltWheel) -> str:
        folder = tmp_path / built.digest.short
        with zipfile.ZipFile(machine.file(built)) as archive:
            archive.extractall(folder)
        command = [sys.executable, "-c", "import extension; print(extension.value())"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    plain = machine.build(path)
    assert value(plain) == "1"
    assert value(machine.build(path, environ={"CFLAGS": "-DVALUE=2"})) == "2"
    assert value(machine.build(path, options=BuildOptions(env={"CPPFLAGS": "-DVALUE=3"}))) == "3"
    compiler = tmp_path / "bin/other-cc"
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo other 1; exit; }\nexec cc "$@"\n')
    compiler.chmod(0o755)
    with caplog.at_level(logging.INFO, "wain.sdists"):
        assert machine.build(path, environ={"CC": str(compiler)}).was_built
    assert "is other 1" in caplog.text
    unrelated = {"HOME": "/home/ann", "USER": "ann", "PATH": f"/nowhere:{os.environ['PATH']}", "EDITOR": "vi"}
    assert machine.build(path, environ=unrelated) == machine.build(path)
    assert machine.build(path).digest == plain.digest


def test_a_library_of_this_machine_that_changes_builds_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = make_sdist(tmp_path, "extension"), tmp_path / "lib"
    folder.mkdir()

    def make_library(value: int) -> None:
        words = ["cc", "-shared", "-Wl,-soname,libanswer.so.1", "-x", "c", "-o", str(folder / "libanswer.so"), "-"]
        subprocess.run(words, input=f"int answer(void) {{ return {value}; }}", text=True, check=True)

    make_library(1)
    monkeypatch.setitem(interpreters._library_paths(), "libanswer.so.1", str(folder / "libanswer.so"))
    environ = {"LDFLAGS": f"-L{folder} -Wl,--no-as-needed -lanswer"}
    first = machine.build(path, environ=environ)
    assert first.was_built
    assert not machine.build(path, environ=environ).was_built
    make_library(2)
    again = machine.build(path, environ=environ)
    assert again.was_built
    assert "library it links to changed" in again.reason
    assert not machine.build(path, environ=environ).was_built


def test_another_user_gets_the_same_wheels(index_front: IndexFront) -> None:
    """With a home, a cache, a temporary folder and a umask of their own."""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="wain-tests-") as name:
        Path(name).chmod(0o755)
        for user, before in (("root", ("sh", "-c", 'umask 077; exec "$@"', "sh")), ("nobody", ORDINARY)):
            home = Path(name, user)
            (home / "tmp").mkdir(parents=True)
            sdists = [make_sdist(home / "downloads", one) for one in SDISTS]
            if user != "root":
                for place in (home, home / "tmp"):
                    os.chown(place, NOBODY, NOBODY)
            variables = {"HOME": str(home), "USER": user, "TMPDIR": str(home / "tmp"), "PIP_CONFIG_FILE": os.devnull}
            source = ("--index-url", index_front.url, "--cache-dir", str(home / "cache"))
            words = (sys.executable, "-B", "-m", "wain", "install", *source, "--target", home / "target", *sdists)
            run(["env", *(f"{key}={value}" for key, value in variables.items()), *before, *words], cwd=home)
            labels = (home / "cache" / "blobs-v1").glob("*/*.built-wheel.*")
            found[user] = {label.name.split(".", 4)[4]: label.name.split(".")[0] for label in labels}
    assert sorted(one.partition("-")[0] for one in found["root"]) == sorted(SDISTS)
    assert found["nobody"] == found["root"]


def test_an_extension_built_at_another_path_is_the_same(
    machine: Machine, tmp_path: Path, settings: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sdist(tmp_path, "extension")
    built = machine.build(path)
    monkeypatch.setattr("wain.backends._hold", lambda path: None)
    other = Machine(tmp_path / "other", settings)
    with other.store:
        assert other.build(path).digest == built.digest


def test_a_new_release_of_a_build_requirement_rebuilds_when_asked_to(machine: Machine, tmp_path: Path) -> None:
    """The build lock is remembered by what was required; `upgrade` makes it anew."""
    links = tmp_path / "links"
    links.mkdir()
    settings = IndexSettings(no_index=True, find_links=(str(links),))
    own = Machine(tmp_path / "own", settings)
    backend = "import zipfile, os\nfrom tool import VERSION\n" + _BUILD_WHEEL
    stream = io.BytesIO()
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["tool"]\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
    }
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"user-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    path = tmp_path / "user-1.0.tar.gz"
    path.write_bytes(gzip.compress(stream.getvalue(), mtime=0))
    with own.store:
        _make_tool(links, "1.0")
        first = own.build(path)
        _make_tool(links, "2.0")
        assert own.build(path).digest == first.digest
        upgraded = own.build(path, options=BuildOptions(upgrade=True))
        assert upgraded.was_built
        assert "build-requirements was tool 1.0" in upgraded.reason
        with zipfile.ZipFile(own.file(upgraded)) as archive_:
            assert archive_.read("user.py") == b"2.0"


_BUILD_WHEEL = """
def build_wheel(folder, config_settings=None, metadata_directory=None):
    files = {
        "user.py": VERSION,
        "user-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: user\\nVersion: 1.0\\n",
        "user-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files["user-1.0.dist-info/RECORD"] = "".join(f"{n},,\\n" for n in (*files, "user-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(os.path.join(folder, "user-1.0-py3-none-any.whl"), "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return "user-1.0-py3-none-any.whl"
"""


def _make_tool(folder: Path, version: str) -> None:
    info = f"tool-{version}.dist-info"
    files = {
        "tool.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tool\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"tool-{version}-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def test_without_a_cache_no_cache_folder_is_touched(
    tmp_path: Path, settings: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(home / name.lower()) if name != "HOME" else str(home))
    store = Store.open(None)
    with store:
        indexes = PackageIndexes(settings, store=store, transport=Transport())
        path = make_sdist(tmp_path, "byhatchling")
        builder = Builder(target=own_interpreter(store).target, indexes=indexes)
        builder.sdist(path, filename=path.name, digest=Digest.of_file(path), name="byhatchling")
    assert list(home.rglob("*")) == []


def test_a_project_takes_its_version_from_git_and_nothing_is_written_into_it(machine: Machine, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src/versioned").mkdir(parents=True)
    (project / "src/versioned/__init__.py").write_text("")
    (project / "src/versioned/old.py").write_text("")
    (project / ".gitignore").write_text("*.egg-info\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=64", "setuptools-scm>=8"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "versioned"\ndynamic = ["version"]\n[tool.setuptools_scm]\n'
    )
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@mail.example"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"], ["tag", "v1.4"]):
        subprocess.run([*git, *words], cwd=project, check=True)

    def build() -> BuiltWheel:
        return Builder(target=machine.target, indexes=machine.indexes).project(project, name="versioned")

    before = {path: path.is_file() and path.read_bytes() for path in project.rglob("*")}
    first = build()
    assert first.filename == "versioned-1.4-py3-none-any.whl"
    assert not build().was_built
    assert {path: path.is_file() and path.read_bytes() for path in project.rglob("*")} == before
    (project / "src/versioned/old.py").unlink()
    changed = build()
    assert changed.filename.startswith("versioned-1.5.dev0+")
    with zipfile.ZipFile(machine.file(changed)) as archive:
        assert "versioned/old.py" not in archive.namelist()
