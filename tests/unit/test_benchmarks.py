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


def _profile(start: float, imports: float, awaited: float, rest: float) -> dict[str, object]:
    stages = {"start of Python": start, "imports": imports, "lock": rest - 0.05, "the rest": 0.05, "bytecode": 0.0}
    return {"seconds": start + imports + rest, "stages": stages, "requests": 7, "awaited": awaited}


def _document() -> Document:
    uv, simple = "docker + uv sync, cache mount", "docker + uv pip, cache mount"
    cells = {
        "cold": {
            "wain": [_record(1, 2.0, first_answer_seconds=3.0), _record(2, 1.0)],
            "wain --compile": [_record(1, 4.0, first_answer_seconds=1.0)],
            uv: [_record(1, 8.0), _record(2, 5.0)],
            simple: [_record(1, 9.0), _record(2, 9.0)],
        },
        "bump": {"wain": [_record(1, 0.5)], uv: [_record(1, 3.0)]},
        "source": {"wain": [_record(1, 0.4)], uv: [_record(1, 0.6)], simple: [_record(1, 0.3)]},
        "fresh": {"wain": [_record(1, 0.4, index_requests=0, registry_bytes=9e3)]},
    }
    return {
        "format": 1,
        "machine": {"cpu": "a <fast> one", "cores": 2, "memory_bytes": 1 << 34, "python": "3.13.1"},
        "parts": {
            "builds": {
                "form": "short",
                "minutes": 35.0,
                "versions": {"wain": "1.2"},
                "at": "2026-01-02 03:04 UTC",
                "failures": ["data, buildah: it broke"],
                "scenarios": {"data": {"title": "some", "distributions": 25, "python": "3.13", "bump": "a 1 -> 2"}},
                "cells": {"data": cells},
                "profiles": {
                    "data, source": _profile(0.02, 0.2, 0.03, 0.15),
                    "data, bump": _profile(0.02, 0.2, 0.03, 0.25),
                },
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
    assert "| docker + uv sync, cache mount | 2 | 5.00 / 6.50 / 8.00 | 4.5 |" in text
    assert "| wain --compile * | 1 | 4.00 / 4.00 / 4.00 | 2.0 |" in text
    assert "| docker + uv pip, cache mount | 2 | 9.00" in text
    assert "| data, cold, against docker + uv sync, cache mount | 3 times as fast | 4.5 times | 2 | holds |" in text
    assert (
        "| data, bump, against docker + uv sync, cache mount | 8 times as fast | 6.0 times | 1 | **missed** |" in text
    )
    assert "| 1 layers, sum against gzip -6 | at most 1.01 | 1.0500 | 1 | **missed** |" in text
    assert "| data, first answer with --compile, share of without | 0.5 | 0.33 | 1 | holds |" in text
    assert "| `wain --version` | at most 0.15 s | 0.110 s | 3 | holds |" in text
    assert "| cold build | 9.00 | 1.00 | 19 | 9.0 | 7.00 | 50.0 | 6.99 |" in text
    assert "| anonymous memory, gpu, whole cold build | at most 250 MiB | 19 MiB | 1 | holds |" in text
    assert "| 1.5 s, no request to the index, 200 KB up | 0.40 s, 0 requests, 9.0 KB | 1 | holds |" in text
    assert "Versions: wain 1.2. The short form in 35 minutes, 2026-01-02 03:04 UTC." in text
    assert "measures now" not in text
    assert "- data, buildah: it broke" in text
    linked = [line.partition("(")[2].rstrip(")") for line in text.split("\n") if line.startswith("![")]
    assert linked and all((tmp_path / name).is_file() for name in linked)


def test_what_another_run_measured_is_told() -> None:
    document = _document()
    document["parts"]["sizes"]["at"] = "2026-01-01 03:04 UTC"
    document["parts"]["startup"]["at"] = "2026-01-02 00:00 UTC"
    assert "03:04 UTC. Of another run: sizes of 2026-01-01.\n" in report.text_of(document)


def test_an_aim_tells_the_other_form_of_uv_where_that_is_faster() -> None:
    text = report.text_of(_document())
    missed = "| 5 times as fast | 1.5 times; against docker + uv pip, cache mount 0.7 times (n = 1) | 1 | **missed** |"
    assert f"| data, source, against docker + uv sync, cache mount {missed}" in text


def test_misses_are_told_from_the_profile() -> None:
    document = _document()
    text = report.text_of(document)
    assert (
        "- data, one line of source changed: 0.40 s, where 0.12 s are wanted. Of 0.37 s in the profile below Python's"
        " start is 0.02 s, loading modules 0.20 s, and waiting for 7 answers 0.03 s: together 0.25 s, 68%, more than"
        " the aim leaves."
    ) in text
    assert "- data, one distribution bumped: 0.50 s, where 0.38 s are wanted. Of 0.47 s" in text
    assert "together 0.25 s, 53%; most of the rest is *lock* with 0.20 s." in text
    assert "| data | source | bump |" in text and "| imports | 0.200 | 0.200 |" in text
    assert "| bytecode |" not in text
    assert "| *requests* | 7 | 7 |" in text
    del document["parts"]["builds"]["profiles"]
    bare = report.text_of(document)
    assert "- data, one line of source changed: 0.40 s, where 0.12 s are wanted.\n" in bare
    assert "02 03:04 UTC lack: where the seconds of each step go." in bare and "Where a step's time goes" not in bare


def test_an_earlier_document_is_read_under_the_names_of_today() -> None:
    old = _document()
    cells = old["parts"]["builds"]["cells"]["data"]
    cells["bump"] = {"wain": cells["bump"]["wain"], "docker + uv, cache mount": [_record(1, 2.0)]}
    for step in ("cold", "source"):
        cells[step] = {"wain": cells[step]["wain"]}
    old["parts"]["builds"]["profiles"] = {"data, source": {"seconds": 1.0, "stages": {"imports": 0.6}}}
    text = report.text_of(old)
    assert "| docker + uv pip, cache mount | 1 | 2.00" in text and "docker + uv, cache mount" not in text
    assert "lack: docker + uv sync, cache mount; where the seconds of each step go." in text
    told = list(compare.told_apart(old, _document()))
    assert "renamed: docker + uv, cache mount is docker + uv pip, cache mount now" in told
    assert "only after: docker + uv sync, cache mount" in told
    assert any(line.startswith("only after: 8 numbers of wain, such as data, cold, wain --compile") for line in told)
    assert compare.worse(old, _document(), threshold=1.0) == []


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
    new["parts"]["builds"]["cells"]["data"]["bump"]["docker + uv sync, cache mount"][0]["seconds"] = 99.0
    new["parts"]["startup"]["seconds"]["wain --version"] = [0.13]
    found = compare.worse(old, new, threshold=1.15)
    assert [change.name for change in found] == ["data, bump, wain: seconds"]
    assert found[0].ratio == pytest.approx(2)
    assert compare.worse(old, old, threshold=1.0) == []
    assert dict(numbers(old))["start-up: wain --version: seconds"] == 0.11


def test_parts_are_replaced_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    results = Results.open(path)
    results.put("startup", {"seconds": {}, "failures": ["x"]}, form="short")
    Results.open(path).put("store", {"rates": {}}, form="full")
    again = Results.open(path)
    assert set(json.loads(path.read_text())["parts"]) == {"startup", "store"}
    assert again.part("startup")["failures"] == ["x"]
    assert again.is_recent("startup", "short") and not again.is_recent("startup", "full")
    assert not again.is_recent("builds", "short")
    again.put("builds", {"cells": {}}, form="short", is_whole=False)
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
