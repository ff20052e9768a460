from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.small_wheel import opened, small_wheel
from wain import bytecode
from wain.bytecode import Compiler, bytecode_layer, bytecode_path, remove_orphans
from wain.errors import PythonError
from wain.install import InstallPlan, Scheme, plan_install
from wain.layers import Layer
from wain.rootfs import Rootfs
from wain.store import Store

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"opt/venv/lib/python{MINOR}/site-packages"
TAG = f"cpython-{MINOR.replace('.', '')}"
HERE = Compiler(version=sys.version.split()[0], command=(sys.executable,), environ={})
MODULES = {
    "app/__init__.py": "from app.deep import value\n",
    "app/deep.py": "NAMES = frozenset({'a', 'b', 'c'})\nvalue = 'right'\n\n\ndef fail():\n    raise KeyError\n",
    "app/broken.py": "def (:\n",
    "app/null.py": b"x = '\0'\n",
    "app/latin.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
    "app/data.txt": "text\n",
    "top.py": "import app\n",
    **{f"many/m{number}.py": f"x = {number}\nnames = {{'m{number}', 'shared'}}\n" for number in range(150)},
}


@pytest.fixture
def plan(tmp_path: Path) -> InstallPlan:
    return plan_install([opened(small_wheel(tmp_path, "app", MODULES))], Scheme.venv("/opt/venv", MINOR))


def files_of(layer: Layer) -> dict[str, bytes]:
    rootfs = Rootfs.of([layer], keep=lambda path, size: True)
    return {path: node.data or b"" for path, node in rootfs.walk() if node.kind == "file"}


def test_every_module_that_compiles_has_bytecode(plan: InstallPlan) -> None:
    with Store.open(None) as store:
        layer = bytecode_layer(plan, HERE, store=store)
        files = files_of(layer)
    wanted = {path for path in MODULES if path.endswith(".py")} - {"app/broken.py", "app/null.py"}
    assert set(files) == {f"{SITE}/{bytecode_path(path, MINOR)}" for path in wanted}
    for data in files.values():
        assert data[:4] == importlib.util.MAGIC_NUMBER
        assert data[4:8] == b"\x01\0\0\0"  # by hash, unchecked
    assert layer.created_by == f"wain: bytecode of 1 wheels by Python {HERE.version}"
    assert layer.unpacked_bytes == sum(map(len, files.values()))


def test_python_takes_it_without_a_look_at_the_source(plan: InstallPlan, tmp_path: Path) -> None:
    with Store.open(None) as store:
        files = files_of(bytecode_layer(plan, HERE, store=store))
    site = tmp_path / SITE
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    for name in ("__init__.py", "deep.py"):
        (site / "app" / name).write_text("value = 'changed meanwhile'\n")
    script = "import app, traceback; print(app.value)\ntry: app.deep.fail()\nexcept KeyError: traceback.print_exc()"
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "right\n"
    assert f'{SITE}/app/deep.py", line 6, in fail' in done.stderr


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bytes_each_time(plan: InstallPlan, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    with Store.open(None) as store:
        first = bytecode_layer(plan, HERE, store=store)
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    with Store.open(None) as store:
        second = bytecode_layer(plan, HERE, store=store)
    assert (first.digest, first.diff_id) == (second.digest, second.diff_id)


def test_nothing_is_compiled_twice(plan: InstallPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(None) as store:
        first = bytecode_layer(plan, HERE, store=store)
        monkeypatch.setattr(bytecode, "_run", None)
        assert bytecode_layer(plan, HERE, store=store).digest == first.digest
        key = bytecode.bytecode_layer_key([wheel.digest for wheel in plan.wheels], plan.scheme, HERE.version)
        store.delete_memo("bytecode-layer", key)
        assert bytecode_layer(plan, HERE, store=store).digest == first.digest
        other = Compiler(version="3.0.0", command=HERE.command, environ={})
        with pytest.raises(TypeError):
            bytecode_layer(plan, other, store=store)


def test_damaged_bytecode_is_made_again(plan: InstallPlan) -> None:
    with Store.open(None) as store:
        first = bytecode_layer(plan, HERE, store=store)
        for blob in store.contents().blobs:
            blob.path.write_bytes(blob.path.read_bytes()[:-1] + b"x")
        store.drop(first.digest)
        assert bytecode_layer(plan, HERE, store=store).digest == first.digest


def test_an_interpreter_that_fails_is_an_error(plan: InstallPlan) -> None:
    with Store.open(None) as store:
        for command in (("/bin/false",), ("/nonexistent",)):
            with pytest.raises(PythonError, match="does not compile"):
                bytecode_layer(plan, Compiler(version="3.9.9", command=command, environ={}), store=store)
        assert [blob.kind for blob in store.contents().blobs] == []


def test_orphans_go(tmp_path: Path) -> None:
    cache = tmp_path / "pkg" / "__pycache__"
    cache.mkdir(parents=True)
    (tmp_path / "pkg" / "kept.py").touch()
    for name in ("kept.cpython-311.pyc", "gone.cpython-311.pyc", "gone.cpython-311.opt-1.pyc"):
        (cache / name).touch()
    lonely = tmp_path / "gone" / "__pycache__"
    lonely.mkdir(parents=True)
    (lonely / "x.cpython-311.pyc").touch()
    assert remove_orphans(tmp_path) == 3
    assert [path.name for path in cache.iterdir()] == ["kept.cpython-311.pyc"]
    assert not lonely.exists()
