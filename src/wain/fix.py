"""Fix: apply findings' edits to a Dockerfile, reparse, audit again, until nothing is left that can be mended.

Every byte outside the edits stays. A fix whose result does not parse, or has a finding that was not there before, is
taken back and named among `refused`.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from msgspec import Struct

from wain.audit import Audit, AuditSettings, audit_text
from wain.dockerfile import parse
from wain.errors import DockerfileError
from wain.findings import Edit, Finding, Fix
from wain.rules.rule import Reader

_Identity: TypeAlias = tuple[str, str, int, str]


class Applied(Struct, frozen=True, kw_only=True):
    """A fix that was applied, with the finding that it mends (its place is that of the round it was found in)."""

    finding: Finding
    fix: Fix


class Fixed(Struct, frozen=True, kw_only=True):
    """The mended text, what was applied, what was taken back and why, and the audit of the result."""

    before: str
    after: str
    applied: tuple[Applied, ...]
    refused: tuple[tuple[Finding, str], ...]
    remaining: Audit


def apply_edits(text: str, edits: tuple[Edit, ...]) -> str:
    """The text with edits applied; equal edits count once.

    :raises ValueError: where two edits overlap or an edit lies outside the text.
    """
    pieces: list[str] = []
    position = 0
    for edit in sorted(set(edits)):
        if edit.start < position or edit.end < edit.start or edit.end > len(text):
            raise ValueError(f"the edit at {edit.start} overlaps another or lies outside the text")
        pieces.append(text[position : edit.start])
        pieces.append(edit.text)
        position = edit.end
    pieces.append(text[position:])
    return "".join(pieces)


def fix(
    text: str,
    *,
    name: str = "Dockerfile",
    unsafe: bool = False,
    settings: AuditSettings | None = None,
    read: Reader | None = None,
) -> Fixed:
    """Mend what can be mended; `unsafe` also applies fixes that may change what the image does.

    :raises UsageError: where the settings name a rule that there is not.
    :raises DockerfileError: where the text does not parse.
    """
    settings = settings or AuditSettings()
    parse(text, name=name)
    current = text
    applied: list[Applied] = []
    refused: dict[_Identity, tuple[Finding, str]] = {}
    report = audit_text(current, name=name, settings=settings, read=read)
    changed = False
    # Every success leaves fewer findings than before, so this ends.
    while True:
        chosen = _choose(report, unsafe=unsafe, refused=refused)
        if not chosen:
            if not (changed and refused):
                break
            # What was refused may do no harm in the text as it is now; a second run would find that out.
            changed = False
            refused.clear()
            continue
        outcome = _try(current, chosen, report, name, settings, read)
        if outcome is None and len(chosen) > 1:
            # Together they do harm; one at a time tells which.
            single: list[Applied] = []
            for one in chosen:
                outcome = _try(current, [one], report, name, settings, read)
                if outcome is not None:
                    single = [one]
                    break
                refused[_identity(one)] = (one.finding, "the result has a finding that was not there before")
            chosen = single
        if outcome is None:
            for one in chosen:
                refused[_identity(one)] = (one.finding, "the result has a finding that was not there before")
            continue
        current, report = outcome
        changed = True
        applied.extend(chosen)
    return Fixed(
        before=text,
        after=current,
        applied=tuple(applied),
        refused=tuple(
            {
                finding.sort_key: (finding, reason)
                for finding, reason in refused.values()
                if any(one.rule == finding.rule and one.message == finding.message for one in report.findings)
            }.values()
        ),
        remaining=report,
    )


def _identity(applied: Applied) -> _Identity:
    finding = applied.finding
    return (finding.rule, finding.message, finding.location.line or 0, applied.fix.title)


def _choose(report: Audit, *, unsafe: bool, refused: dict[_Identity, tuple[Finding, str]]) -> list[Applied]:
    """For each finding its first suitable fix, as far as they do not overlap."""
    chosen: list[Applied] = []
    taken: set[Edit] = set()
    for finding in report.findings:
        for candidate in finding.fixes:
            if not candidate.is_safe and not unsafe:
                continue
            one = Applied(finding=finding, fix=candidate)
            if _identity(one) in refused:
                continue
            # What overlaps an edit of this round gets its turn in the next.
            if all(edit in taken or not _clashes(edit, taken) for edit in candidate.edits):
                chosen.append(one)
                taken.update(candidate.edits)
            break
    return chosen


def _clashes(edit: Edit, taken: set[Edit]) -> bool:
    return any(
        (edit != other and ((edit.start < other.end and other.start < edit.end) or edit.start == other.start))
        or (edit != other and (edit.start == other.end or edit.end == other.start))
        for other in taken
    )


def _try(
    text: str,
    chosen: list[Applied],
    before: Audit,
    name: str,
    settings: AuditSettings,
    read: Reader | None,
) -> tuple[str, Audit] | None:
    edits = tuple({edit for one in chosen for edit in one.fix.edits})
    try:
        result = apply_edits(text, edits)
        parse(result, name=name)
    except (ValueError, DockerfileError):
        return None
    if result == text:
        return None
    after = audit_text(result, name=name, settings=settings, read=read)
    counted = Counter(finding.rule for finding in before.findings)
    mended = {one.finding.rule for one in chosen}
    for rule, count in Counter(finding.rule for finding in after.findings).items():
        if count > counted[rule] or (rule in mended and count > counted[rule]):
            return None
    if len(after.findings) >= len(before.findings):
        return None
    return result, after
