from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.small_wheel import opened, small_wheel
from wain.install import InstallPlan, Scheme, plan_install
from wain.start_estimate import StartEstimate, estimate_start, imported, known_estimate
from wain.store import Store

BODY = """def f{n}(a, b):
    '''Says something of a and b.'''
    return [a + b + i for i in range({n})] or {{'a': a, 'b': b}}

"""
CODE = "".join(BODY.format(n=n) for n in range(300))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a", ["a"]),
        ("import a.b as c, d  # e", ["a.b", "d"]),
        ("from a import b, c as d", ["a", "a.b", "a.c"]),
        ("from a import *", ["a"]),
        ("from a import (\n    b,  # why\n    c,\n)\nimport d", ["a", "a.b", "a.c", "d"]),
        ("from a import b, \\\n    c", ["a", "a.b", "a.c"]),
        ("from . import b", ["p.m", "p.m.b"]),
        ("from .x import b", ["p.m.x", "p.m.x.b"]),
        ("from ..x import b", ["p.x", "p.x.b"]),
        ("from .....x import b", []),
        ("try:\n    import a\nexcept ImportError:\n    import b", ["a", "b"]),
        ("if True:\n    with x:\n        import a", ["a"]),
        ("def f():\n    import a\nimport b", ["b"]),
        ("class C:\n    import a\n\n    def f(self):\n        import c\nimport b", ["b"]),
        ("async def f():\n    import a", []),
        ("@decorator(\n    1)\ndef f():\n    import a\nimport b", ["b"]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", ["b"]),
        ("if typing.TYPE_CHECKING:\n    from a import b\nimport c", ["c"]),
        ("if sys.platform == 'win32':\n    import winreg", []),
        ("if __name__ == '__main__':\n    import a", []),
        ("important = 1\nfrom_ = 2\nimporta", []),
        ("from a import (", ["a"]),
        ("import", []),
        ("", []),
    ],
)
def test_what_a_module_imports_when_it_runs(source: str, names: list[str]) -> None:
    assert list(imported(source.encode(), "p.m", is_package=True)) == names


def test_relative_imports_of_a_plain_module() -> None:
    assert list(imported(b"from . import b\nfrom .c import d", "p.m", is_package=False)) == ["p", "p.b", "p.c", "p.c.d"]


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00import a", b"import a\0", b"(" * 10_000, b"from " * 1000, b"\\\n" * 500]
)
def test_junk_is_no_harm(data: bytes) -> None:
    list(imported(data, "m", is_package=False))


def plan_of(folder: Path) -> InstallPlan:
    files = {
        "used/__init__.py": "from .deep import x\nimport other\n",
        "used/deep.py": CODE,
        "used/tests/__init__.py": "",
        "used/tests/test_all.py": CODE * 3,
        "used/broken.py": "def (:\n",
    }
    wheels = [
        small_wheel(folder, "used", files),
        small_wheel(folder, "other", {"other.py": "def f():\n    import lazy\n" + CODE}),
        small_wheel(folder, "lazy", {"lazy.py": CODE}),
    ]
    return plan_install([opened(wheel) for wheel in wheels], Scheme.venv("/opt/venv", "3.13"))


def test_only_what_a_start_imports_costs_time(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    with Store.open(None) as store:
        some = estimate_start(plan, {"app": b"import used\nimport json\n"}, store=store)
        none = estimate_start(plan, {"app": b"import json\n"}, store=store)
    assert some.modules == 3  # used, used.deep, other
    assert some.source_bytes == sum(
        file.size_bytes for file in plan.files if file.path.endswith(("used/__init__.py", "deep.py", "other.py"))
    )
    assert some.saved_seconds > 0
    assert (none.modules, none.source_bytes, none.saved_seconds) == (0, 0, 0)
    assert none.added_bytes == some.added_bytes > len(CODE)
    assert 0 < some.added_compressed_bytes < some.added_bytes


def test_it_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path)
    with Store.open(None) as store:
        first = estimate_start(plan, {"app": b"import used\n"}, store=store)
        monkeypatch.setattr("wain.start_estimate._measure", None)
        assert estimate_start(plan, {"app": b"import used  # again\n"}, store=store) == first
        digests = [wheel.digest for wheel in plan.wheels]
        assert known_estimate(digests, {"app": b"import used\n"}, store=store) == first
        assert known_estimate(digests, {"app": b"import other\n"}, store=store) is None
        assert isinstance(first, StartEstimate)


def test_nothing_to_import(tmp_path: Path) -> None:
    plan = plan_install([], Scheme.venv("/opt/venv", "3.13"))
    with Store.open(None) as store:
        assert estimate_start(plan, {}, store=store).added_bytes == 0
