"""Findings as text, JSON, SARIF 2.1.0, GitHub annotations and an HTML page.

Source: OASIS SARIF 2.1.0; GitHub workflow commands.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

import wain
from wain.audit import Audit
from wain.findings import Finding, Severity
from wain.html_report import as_html
from wain.rules import BY_ID, RULES

FORMATS = ("text", "json", "sarif", "github", "html")
_CARET_WIDTH = 100
_log = logging.getLogger(__name__)
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ANNOTATIONS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_COLORS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "36"}


def write_report(audits: Sequence[Audit], *, form: str, stream: TextIO | None = None, color: bool = False) -> None:
    """Write audits to a stream (standard output) in one of FORMATS."""
    out = stream if stream is not None else sys.stdout
    out.write(render(audits, form=form, color=color))


def render(audits: Sequence[Audit], *, form: str, color: bool = False) -> str:
    """The report's text, with a newline at its end where it is not empty."""
    if form == "json":
        return json.dumps(as_json(audits), indent=2, ensure_ascii=True) + "\n"
    if form == "sarif":
        return json.dumps(as_sarif(audits), indent=2, ensure_ascii=True) + "\n"
    if form == "html":
        return as_html(audits)
    if form == "github":
        return "".join(_annotation(finding) for audit in audits for finding in audit.findings)
    return as_text(audits, color=color)


def as_text(audits: Sequence[Audit], *, color: bool = False) -> str:
    """Each finding with its line and a caret, what it costs and how it is mended, and a summary."""
    parts: list[str] = []
    for audit in audits:
        lines = audit.text.split("\n")
        parts.extend(_text(finding, lines, color) for finding in audit.findings)
        parts.extend(f"note: {note}\n" for note in audit.notes)
    parts.append(_summary_text(audits))
    return _printable("\n".join(parts))


def _printable(text: str) -> str:
    """Control characters of a hostile file never reach the terminal; bytes that are no UTF-8 become U+FFFD."""
    return "".join(
        char
        if char in "\n\t\x1b" or char.isprintable()
        else ("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else f"\\x{ord(char):02x}")
        for char in text
    )


def _text(finding: Finding, lines: list[str], color: bool) -> str:
    location = finding.location
    severity = finding.severity.value
    if color:
        severity = f"\x1b[1;{_COLORS[finding.severity]}m{severity}\x1b[0m"
    line_number = location.line or 1
    where = f"{location.file or location.layer or ''}:{line_number}:{location.column or 1}"
    out = [f"{_plain(where)}: {severity}[{finding.rule}] {_plain(finding.message)}"]
    if 0 < line_number <= len(lines):
        line = _plain(lines[line_number - 1].rstrip("\r").replace("\t", " "))
        number = str(line_number)
        start = (location.column or 1) - 1
        end = (location.end_column or start + 2) - 1 if location.end_line == line_number else len(line)
        if len(line) > _CARET_WIDTH + 40 and start > 40:
            cut = start - 20
            line, start, end = "..." + line[cut:], start - cut + 3, end - cut + 3
        line = line[: _CARET_WIDTH + 40]
        width = max(1, min(end, len(line)) - start)
        pad = " " * len(number)
        out += [f"  {pad} |", f"  {number} | {line}", f"  {pad} | {' ' * start}{'^' * width}"]
    if finding.estimate:
        out.append(f"    costs: {finding.estimate}")
    elif finding.cost.reclaimable or finding.cost.apparent:
        out.append(f"    costs: {finding.cost.reclaimable or finding.cost.apparent:,} bytes")
    if finding.fixes:
        best = finding.fixes[0]
        out.append(f"    fix ({'safe' if best.is_safe else 'unsafe'}): {_plain(best.title)}")
    elif finding.rule in BY_ID:
        out.append(f"    mend: {BY_ID[finding.rule].mend}")
    return "\n".join(out) + "\n"


def _plain(text: str) -> str:
    return text.replace("\x1b", "\\x1b").replace("\n", " ")


def _summary_text(audits: Sequence[Audit]) -> str:
    findings = [finding for audit in audits for finding in audit.findings]
    suppressed = sum(len(audit.suppressed) for audit in audits)
    files = f"{len(audits)} file{'' if len(audits) == 1 else 's'}"
    silent = f", {suppressed} ignored" if suppressed else ""
    if not findings:
        return f"no findings in {files}{silent}\n"
    counts = [
        f"{count} {name.value}{'s' if count != 1 and name is not Severity.INFO else ''}"
        for name in (Severity.ERROR, Severity.WARNING, Severity.INFO)
        if (count := sum(finding.severity is name for finding in findings))
    ]
    safe = sum(any(fix.is_safe for fix in finding.fixes) for finding in findings)
    fixable = f"; `wain fix` mends {safe}" if safe else ""
    what = f"{len(findings)} finding{'' if len(findings) == 1 else 's'} ({', '.join(counts)})"
    total = f"{what} in {files}{silent}{fixable}\n"
    if len(audits) == 1:
        return total
    rows = [
        f"  {sum(one.severity is Severity.ERROR for one in audit.findings):>4} "
        f"{sum(one.severity is Severity.WARNING for one in audit.findings):>8} "
        f"{sum(one.severity is Severity.INFO for one in audit.findings):>5}  {_plain(audit.target)}"
        for audit in audits
        if audit.findings
    ]
    return "\n".join(["  errs warnings infos", *rows, total])


def _fix_word(finding: Finding) -> str | None:
    if not finding.fixes:
        return None
    return "safe" if any(fix.is_safe for fix in finding.fixes) else "unsafe"


def _summary(audits: Sequence[Audit]) -> dict[str, int]:
    findings = [finding for audit in audits for finding in audit.findings]
    return {
        "targets": len(audits),
        "findings": len(findings),
        "errors": sum(one.severity is Severity.ERROR for one in findings),
        "warnings": sum(one.severity is Severity.WARNING for one in findings),
        "infos": sum(one.severity is Severity.INFO for one in findings),
        "ignored": sum(len(audit.suppressed) for audit in audits),
        "fixable": sum(_fix_word(one) == "safe" for one in findings),
    }


def as_json(audits: Sequence[Audit]) -> dict[str, object]:
    """One target: `target`, `findings` and `summary`; several: `targets` with such entries, and `summary`."""
    entries: list[dict[str, object]] = [
        {
            "target": audit.target,
            "findings": [_finding_json(finding) for finding in audit.findings],
            "ignored": [{**_finding_json(one.finding), "reason": one.reason} for one in audit.suppressed],
            "notes": list(audit.notes),
            "summary": _summary([audit]),
        }
        for audit in audits
    ]
    if len(entries) == 1:
        return entries[0]
    return {"targets": entries, "summary": _summary(audits)}


def _finding_json(finding: Finding) -> dict[str, object]:
    location = finding.location
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "file": location.file,
        "line": location.line,
        "column": location.column,
        "end_line": location.end_line,
        "end_column": location.end_column,
        "layer": location.layer,
        "path": location.path,
        "paths": list(finding.paths),
        "instruction": finding.instruction,
        "bytes": {"apparent": finding.cost.apparent, "reclaimable": finding.cost.reclaimable},
        "estimate": finding.estimate or None,
        "message": finding.message,
        "fix": _fix_word(finding),
        "fix_title": finding.fixes[0].title if finding.fixes else None,
    }


def as_sarif(audits: Sequence[Audit]) -> dict[str, object]:
    """One SARIF run over all targets; columns count code points; ignored findings are suppressed results."""
    index = {rule.id: position for position, rule in enumerate(RULES)}
    results: list[dict[str, object]] = []
    for audit in audits:
        results.extend(_result(finding, audit, index) for finding in audit.findings)
        for one in audit.suppressed:
            result = _result(one.finding, audit, index)
            result["suppressions"] = [{"kind": "inSource", "justification": one.reason}]
            results.append(result)
    _fingerprint(results, audits)
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "wain",
                        "semanticVersion": getattr(wain, "__version__", "0.0.0"),
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.title},
                                "fullDescription": {"text": rule.why},
                                "help": {"text": f"{rule.cost}\n\n{rule.mend}"},
                                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
                            }
                            for rule in RULES
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": _within_limit(results),
            }
        ],
    }


# What GitHub takes of one run; more is refused as a whole.
_SARIF_RESULTS = 25_000
_LEVEL_ORDER = ("error", "warning", "note")


def _within_limit(results: list[dict[str, object]]) -> list[dict[str, object]]:
    if len(results) <= _SARIF_RESULTS:
        return results
    _log.warning("%d findings, of which SARIF readers take %d: the gravest are kept", len(results), _SARIF_RESULTS)
    return sorted(results, key=lambda one: _LEVEL_ORDER.index(str(one["level"])))[:_SARIF_RESULTS]


def _fingerprint(results: list[dict[str, object]], audits: Sequence[Audit]) -> None:
    """Name each result by its rule, file and line's text, so that it stays the same one where lines move."""
    seen: Counter[str] = Counter()
    findings = [
        (audit, finding)
        for audit in audits
        for finding in (*audit.findings, *(one.finding for one in audit.suppressed))
    ]
    for result, (audit, finding) in zip(results, findings, strict=True):
        location = finding.location
        start, end = location.start, location.end
        line_start = audit.text.rfind("\n", 0, start) + 1
        line_end = audit.text.find("\n", end)
        line = " ".join(audit.text[line_start : line_end if line_end >= 0 else len(audit.text)].split())
        text = "\0".join((finding.rule, _uri(location.file or audit.target), line))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        seen[digest] += 1
        result["partialFingerprints"] = {"primaryLocationLineHash": f"{digest}:{seen[digest]}"}


def _uri(name: str) -> str:
    from urllib.parse import quote

    return quote(name.replace("\\", "/"), safe="/", errors="replace").removeprefix("./") or "Dockerfile"


def _result(finding: Finding, audit: Audit, index: dict[str, int]) -> dict[str, object]:
    location = finding.location
    artifact = {"uri": _uri(location.file or audit.target)}
    result: dict[str, object] = {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": _printable(finding.message)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": artifact,
                    "region": {
                        "startLine": location.line or 1,
                        "startColumn": location.column or 1,
                        "endLine": location.end_line or location.line or 1,
                        "endColumn": max(location.end_column or 1, 1),
                    },
                }
            }
        ],
    }
    if finding.rule in index:
        result["ruleIndex"] = index[finding.rule]
    if finding.fixes and location.file is not None:
        result["fixes"] = [
            {
                "description": {"text": fix.title},
                "artifactChanges": [
                    {
                        "artifactLocation": artifact,
                        "replacements": [
                            {
                                "deletedRegion": _region(audit.text, edit.start, edit.end),
                                "insertedContent": {"text": edit.text},
                            }
                            for edit in fix.edits
                        ],
                    }
                ],
            }
            for fix in finding.fixes
        ]
    return result


def _region(text: str, start: int, end: int) -> dict[str, int]:
    first = text.count("\n", 0, start) + 1
    last = text.count("\n", 0, end) + 1
    return {
        "startLine": first,
        "startColumn": start - (text.rfind("\n", 0, start) + 1) + 1,
        "endLine": last,
        "endColumn": end - (text.rfind("\n", 0, end) + 1) + 1,
    }


def _annotation(finding: Finding) -> str:
    location = finding.location
    properties = {
        "file": location.file or "",
        "line": str(location.line or 1),
        "col": str(location.column or 1),
        "endLine": str(location.end_line or location.line or 1),
        "title": f"wain {finding.rule}",
    }
    if location.end_line == location.line and location.end_column:
        properties["endColumn"] = str(location.end_column)
    joined = ",".join(f"{key}={_escape_property(value)}" for key, value in properties.items())
    return _printable(f"::{_ANNOTATIONS[finding.severity]} {joined}::{_escape(finding.message)}\n")


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")
