"""The report is made of numbers alone, says what holds, and a later run finds what got worse."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import compare, meters, report
from benchmarks.plots import Bar, Group, chart
from benchmarks.results import Document, Results, numbers, ratios


def _record(number: int, seconds: float, **more: float) -> dict[str, float]:
    sizes = {"image_bytes": 50e6, "registry_bytes": 7e6, "index_bytes": 9e6, "pull_containerd_bytes": 6.99e6}
    return {"round": number, "seconds": seconds, "cpu_seconds": 1.0, "anonymous_bytes": 2e7, **sizes, **more}


def _document() -> Document:
    uv = "docker + uv, cache mount"
    cells = {
        "cold": {
            "wain": [_record(1, 2.0, first_answer_seconds=3.0), _record(2, 1.0)],
            "wain --compile": [_record(1, 4.0, first_answer_seconds=1.0)],
            uv: [_record(1, 8.0), _record(2, 5.0)],
        },
        "bump": {"wain": [_record(1, 0.5)], uv: [_record(1, 3.0)]},
        "source": {"wain": [_record(1, 0.4)], uv: [_record(1, 0.6)]},
        "fresh": {"wain": [_record(1, 0.4, index_requests=0, registry_bytes=9e3)]},
    }
    return {
        "format": 1,
        "machine": {"cpu": "a <fast> one", "cores": 2, "memory_bytes": 1 << 34, "python": "3.13.1"},
        "parts": {
            "builds": {
                "form": "short",
                "at": "2026-01-02 03:04 UTC",
                "failures": ["data, buildah: it broke"],
                "scenarios": {"data": {"title": "some", "distributions": 25, "python": "3.13", "bump": "a 1 -> 2"}},
                "cells": {"data": cells},
                "profiles": {"data, source": {"seconds": 1.0, "stages": {"imports": 0.6, "lock": 0.1}}},
            },
            "large": {
                "load_before": 0.5,
                "scenarios": {"gpu": {"title": "big", "distributions": 60, "python": "3.11", "bump": "b 1 -> 2"}},
                "cells": {"gpu": {"cold": {"wain": [_record(1, 9.0)]}, "fresh": {"wain": [_record(1, 0.5)]}}},
            },
            "startup": {"seconds": {"wain --version": [0.1, 0.12, 0.11], "python -c pass": [0.04]}},
            "sizes": {"layers": [{"wheel": "a-1-py3-none-any.whl", "layer_bytes": 105, "gzip_bytes": 100}]},
        },
    }


def test_the_document_says_what_was_measured(tmp_path: Path) -> None:
    report.write(_document(), tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| docker + uv, cache mount | 5.00 / 6.50 / 8.00 | 4.5 |" in text
    assert "| wain --compile * | 4.00 / 4.00 / 4.00 | 2.0 |" in text
    assert "| data, cold, against docker + uv, cache mount | 3 times as fast | 4.5 times | holds |" in text
    assert "| data, bump, against docker + uv, cache mount | 8 times as fast | 6.0 times | **missed** |" in text
    assert "| 1 layers, sum against gzip -6 | at most 1.01 | 1.0500 | **missed** |" in text
    assert "| data, first answer with --compile, share of without | 0.5 | 0.33 | holds |" in text
    assert "| cold build | 9.00 | 1.00 | 19 | 9.0 | 7.00 | 50.0 | 6.99 |" in text
    assert "| anonymous memory, gpu, whole cold build | at most 250 MiB | 19 MiB | holds |" in text
    assert "| 1.5 s, no request to the index, 200 KB up | 0.40 s, 0 requests, 9.0 KB | holds |" in text
    assert "data, bump: 0.50 s, and 0.38 s are wanted; data, source: 0.40 s, and 0.12 s are wanted." in text
    assert "Python alone takes 0.04 s to start, and loading the modules that a build needs is 60% of one" in text
    assert "- data, buildah: it broke" in text
    linked = [line.partition("(")[2].rstrip(")") for line in text.split("\n") if line.startswith("![")]
    assert linked and all((tmp_path / name).is_file() for name in linked)


def test_plots_are_whole_xml() -> None:
    bars = [
        Bar(label="a & b", median=2.0, least=1.0, most=4.0, is_ours=True),
        Bar(label="c", median=0, least=0, most=0),
    ]
    root = ET.fromstring(chart("t <i>", [Group(title="g", bars=bars)], "s"))
    assert len(root.findall("{*}rect")) == 3 and len(root.findall("{*}line")) == 1


def test_ratios_pair_rounds_that_both_have() -> None:
    ours, theirs = [_record(1, 2.0), _record(3, 1.0)], [_record(3, 5.0), _record(2, 9.0), _record(1, 4.0)]
    assert ratios(ours, theirs, "seconds") == [2.0, 5.0]


def test_compare_finds_what_got_worse() -> None:
    old = _document()
    new = copy.deepcopy(old)
    for record in new["parts"]["builds"]["cells"]["data"]["bump"]["wain"]:
        record["seconds"] *= 2
    new["parts"]["builds"]["cells"]["data"]["bump"]["docker + uv, cache mount"][0]["seconds"] = 99.0
    new["parts"]["startup"]["seconds"]["wain --version"] = [0.13]
    found = compare.worse(old, new, threshold=1.15)
    assert [change.name for change in found] == ["data, bump, wain: seconds"]
    assert found[0].ratio == pytest.approx(2)
    assert compare.worse(old, old, threshold=1.0) == []
    assert dict(numbers(old))["start-up: wain --version: seconds"] == 0.11


def test_parts_are_replaced_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    results = Results.open(path)
    results.put("startup", {"seconds": {}}, form="short", failures=["x"])
    Results.open(path).put("store", {"rates": {}}, form="full")
    again = Results.open(path)
    assert set(json.loads(path.read_text())["parts"]) == {"startup", "store"}
    assert again.part("startup")["failures"] == ["x"]
    assert again.is_recent("startup", "short") and not again.is_recent("startup", "full")
    assert not again.is_recent("builds", "short")


def test_usage_counts_what_was_started_and_leaves_out_what_serves() -> None:
    work = "import time; block = bytearray(30_000_000)\nwhile time.process_time() < 0.4: pass"
    command = [sys.executable, "-c", work]
    with meters.metered() as usage:
        subprocess.run(command, check=True)
    assert usage.cpu_seconds >= 0.4 and usage.seconds >= 0.4
    assert usage.anonymous_bytes > 20e6
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        try:
            assert server.pid in meters._descendants(meters._stats(), ())
            assert server.pid not in meters._descendants(meters._stats(), (server.pid,))
        finally:
            server.kill()
    assert os.getpid() not in meters._descendants(meters._stats(), ())
