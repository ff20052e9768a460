"""The numbers of a run as a document, `docs/benchmarks.json`; its parts are replaced one by one."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Document = dict[str, Any]
FORMAT = 1
RENAMED = {"docker + uv, cache mount": "docker + uv pip, cache mount"}
"""Builders by the name that earlier documents have for them."""


@dataclass(slots=True, kw_only=True)
class Results:
    """What is known so far, and the file that keeps it."""

    path: Path
    document: Document = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Results:
        document: Document = {}
        if path.exists():
            document = json.loads(path.read_text())
        if document.get("format") != FORMAT:
            document = {"format": FORMAT, "parts": {}}
        document = with_names_of_today(document)
        return cls(path=path, document=document)

    def put(self, part: str, value: Mapping[str, Any], *, form: str, is_whole: bool = True) -> None:
        """Replace a part, and write the file.

        :param value: what was measured; what failed, and why, under `failures`.
        :param is_whole: whether nothing more of it is to come.
        """
        self.document["machine"] = machine()
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self.document["parts"][part] = {"form": form, "at": now, "is_whole": is_whole, "failures": [], **value}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document, indent=1) + "\n")
        partial.replace(self.path)

    def is_recent(self, part: str, form: str) -> bool:
        """Whether a part was measured in that form within a day, to its end."""
        found = self.part(part)
        if found.get("form") != form or not found.get("is_whole", True):
            return False
        at = datetime.strptime(str(found["at"]), "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
        return datetime.now(UTC) - at < timedelta(days=1)

    def part(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document.get("parts", {}).get(name, {})
        return found


def with_names_of_today(document: Document) -> Document:
    """A document with its builders named as they are now; those that there are no more stay as they were."""
    parts = dict(document.get("parts", {}))
    for name in ("builds", "large"):
        if cells := parts.get(name, {}).get("cells"):
            renamed = {
                scenario: {
                    step: {RENAMED.get(builder, builder): records for builder, records in builders.items()}
                    for step, builders in steps.items()
                }
                for scenario, steps in cells.items()
            }
            parts[name] = {**parts[name], "cells": renamed}
    return {**document, "parts": parts}


def builders_of(document: Document) -> set[str]:
    """The names of all builders that were measured."""
    cells = document.get("parts", {}).get("builds", {}).get("cells", {})
    return {builder for steps in cells.values() for builders in steps.values() for builder in builders}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[1]) * 1024 if memory else 0,
        "kernel": platform.release(),
        "system": release[1] if release else "",
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Of the last minute: what others did on the machine meanwhile."""
    return os.getloadavg()[0]


def version_of(command: Sequence[str | Path]) -> str:
    """The first version number that a program says; empty where it does not run."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+\.\d+(\.\w+)*", told.stdout + told.stderr)
    return found[0] if found else ""


def median(records: Sequence[Mapping[str, float]], key: str) -> float | None:
    values = [record[key] for record in records if key in record]
    return statistics.median(values) if values else None


def ratios(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], key: str) -> list[float]:
    """Theirs over ours, of the rounds that both have."""
    other = {record["round"]: record[key] for record in theirs if key in record}
    return [other[record["round"]] / record[key] for record in ours if record.get("round") in other and record.get(key)]


def numbers(document: Document) -> Iterator[tuple[str, float]]:
    """Every number that may be compared between runs, by a name that stays; medians of rounds. Less is better."""
    parts = document.get("parts", {})
    measured = {**parts.get("large", {}).get("cells", {}), **parts.get("builds", {}).get("cells", {})}
    for scenario, steps in measured.items():
        for step, builders in steps.items():
            for builder, records in builders.items():
                if not builder.startswith("wain"):
                    continue
                for key in sorted({key for record in records for key in record} - {"round"}):
                    value = median(records, key)
                    if value is not None:
                        yield f"{scenario}, {step}, {builder}: {key}", value
    for key, value in parts.get("splice", {}).items():
        if key.startswith(("splice_", "layer_", "anonymous_")) and isinstance(value, int | float):
            yield f"splice: {key}", value
    for what, taken in parts.get("startup", {}).get("seconds", {}).items():
        yield f"start-up: {what}: seconds", statistics.median(taken)
    for what, rate in parts.get("store", {}).get("rates", {}).items():
        yield f"store: {what}: seconds each", 1 / rate
    if taken := parts.get("unchanged", {}).get("seconds"):
        yield "unchanged archive: seconds", statistics.median(taken)
    for source, taken in parts.get("install", {}).get("seconds", {}).items():
        yield f"install, {source}: wain: seconds", statistics.median(taken["wain"])
    if rate := parts.get("audit", {}).get("speed", {}).get("wain"):
        yield "audit: seconds a file", 1 / rate
