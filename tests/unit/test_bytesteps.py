from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import wain.bytesteps
from wain.actions import CompileAll, NeedsEngine
from wain.bytesteps import compile_tree, sources_below
from wain.classify import classify
from wain.filework import Actor
from wain.store import Store
from wain.tree import Data, Node, Tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


ACTOR = Actor(uid=7, gid=8, cwd="/", passwd="", group="", now=99)
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
FACTS: Any = SimpleNamespace(python=SimpleNamespace(short=MINOR))


def tree_of(**files: bytes) -> Tree:
    tree = Tree()
    tree.make_folders("/app/sub", uid=7)
    for name, data in files.items():
        path = f"app/{name.replace('__', '/')}.py"
        tree.put(path, Node(kind="file", mode=0o640, mtime=1234, size_bytes=len(data), content=Data(data)))
    return tree


def test_bytecode_has_its_source_s_time_and_size(store: Store) -> None:
    tree = tree_of(a=b"x = 1\n", sub__b=b"def f():\n    return 2\n", bad=b"def\n")
    paths = sources_below(tree, "app")
    assert compile_tree(tree, paths, FACTS, ACTOR, store) == ["app/bad.py"]
    tag = f"cpython-{MINOR.replace('.', '')}"
    node = tree.get(f"app/__pycache__/a.{tag}.pyc")
    assert node is not None and node.content is not None
    assert (node.mode, node.uid, node.gid, node.mtime) == (0o640, 7, 8, 99)
    data = node.content.open().read()
    assert len(data) == node.size_bytes
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert struct.unpack("<III", data[4:16]) == (0, 1234, 6)
    names: dict[str, object] = {}
    code = marshal.loads(data[16:])
    exec(code, names)
    assert (code.co_filename, names["x"]) == ("/app/a.py", 1)
    assert tree.get(f"app/sub/__pycache__/b.{tag}.pyc") is not None
    before = tree.mark()
    compile_tree(tree, ["app/a.py", "app/sub/b.py"], FACTS, ACTOR, store)
    assert tree.root is before
    tree.own("app/a.py").mtime = 5
    compile_tree(tree, ["app/a.py"], FACTS, ACTOR, store)
    assert tree.root is not before


def test_without_such_a_python_it_has_to_be_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wain.bytesteps, "host_interpreter", lambda minor, store: None)
    with pytest.raises(NeedsEngine, match="no Python"):
        compile_tree(tree_of(a=b""), ["app/a.py"], FACTS, ACTOR, store)


def test_compileall_is_read() -> None:
    action = classify(("python", "-m", "compileall", "-q", "-j", "4", "/app", "lib"), {}, "/")
    assert isinstance(action, CompileAll)
    assert action.folders == ("/app", "lib")
    for words in ("-b /app", "-q", "--invalidation-mode unchecked-hash /app"):
        with pytest.raises(NeedsEngine):
            classify(("python", "-m", "compileall", *words.split()), {}, "/")
