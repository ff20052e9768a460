"""What got slower or larger between two runs: `python -m benchmarks.compare OLD.json NEW.json`.

Without files: the document as it was committed, and as it is now.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import RENAMED, Document, builders_of, numbers, with_names_of_today

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.json"
_LEAST = {"seconds": 0.05, "bytes": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A number that both runs have."""

    name: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else float("inf")

    def __str__(self) -> str:
        return f"{self.ratio:6.2f}  {self.name}: {self.before:,.4g} -> {self.after:,.4g}"


def changes(old: Document, new: Document) -> list[Change]:
    """All numbers that both have, what grew most first."""
    before = dict(numbers(old))
    found = [Change(name=name, before=before[name], after=value) for name, value in numbers(new) if name in before]
    return sorted((item for item in found if item.before or item.after), key=lambda item: -item.ratio)


def worse(old: Document, new: Document, *, threshold: float) -> list[Change]:
    """What grew by more than the threshold, and by more than what no two runs agree on."""
    return [
        change
        for change in changes(old, new)
        if change.ratio > threshold and change.after - change.before > _least(change.name)
    ]


def told_apart(old: Document, new: Document) -> Iterator[str]:
    """What cannot be compared, and why: builders under another name, and what only one of the documents has."""
    for before, after in RENAMED.items():
        if before in builders_of(old) and after in builders_of(new):
            yield f"renamed: {before} is {after} now"
    had, has = (builders_of(with_names_of_today(document)) for document in (old, new))
    for builder in sorted(had - has):
        yield f"only before: {builder}"
    for builder in sorted(has - had):
        yield f"only after: {builder}"
    before_names, after_names = ({name for name, _ in numbers(document)} for document in (old, new))
    for which, names in (("before", before_names - after_names), ("after", after_names - before_names)):
        if names:
            shown = "; ".join(sorted(names)[:3])
            yield f"only {which}: {len(names)} numbers of wain, such as {shown}"


def _least(name: str) -> float:
    if name.endswith(("each", "a file")):
        return 0.0
    return next((least for unit, least in _LEAST.items() if name.endswith(unit)), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", nargs="?", type=Path)
    parser.add_argument("new", nargs="?", type=Path, default=DOCUMENT)
    parser.add_argument("--threshold", type=float, default=1.2, help="how many times as much is told (default: 1.2)")
    args = parser.parse_args()
    if args.old:
        text = args.old.read_text()
    else:
        told = subprocess.run(
            ["git", "show", f"HEAD:docs/{DOCUMENT.name}"], capture_output=True, text=True, cwd=DOCUMENT.parent
        )
        if told.returncode:
            raise SystemExit("no earlier numbers are committed; name a file")
        text = told.stdout
    old, new = json.loads(text), json.loads(args.new.read_text())
    for which, document in (("before", old), ("after", new)):
        machine = document.get("machine", {})
        print(f"{which}: {machine.get('cpu')}, {machine.get('cores')} cores, Python {machine.get('python')}")
    for line in told_apart(old, new):
        print(line)
    found = worse(old, new, threshold=args.threshold)
    for change in found:
        print(change)
    print(f"{len(found)} of {len(changes(old, new))} numbers got worse by more than {args.threshold} times")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
