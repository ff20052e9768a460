"""Audits as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

Everything that comes from a Dockerfile is text on the page, whatever it is: a policy in the page forbids the rest.
"""

from __future__ import annotations

import difflib
import html
import importlib.resources
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from wain.audit import Audit
from wain.findings import Finding, Fix, Severity
from wain.fix import apply_edits
from wain.rules import BY_ID, Rule

_SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.INFO)
_LINE_WIDTH = 160
_CONTEXT_LINES = 1


def as_html(audits: Sequence[Audit]) -> str:
    """A page with a summary over files and rules, each finding with its place and fix, and what the rules say."""
    findings = [finding for audit in audits for finding in audit.findings]
    parts = [_head(), _overview(audits, findings)]
    if findings:
        parts += [_rules_table(findings), _files_table(audits)]
    parts += [_file_section(number, audit) for number, audit in enumerate(audits) if _has_something(audit)]
    parts.append(_rules_section(findings))
    clean = [audit for audit in audits if not _has_something(audit)]
    if clean and findings:
        names = "".join(f"<li>{_text(audit.target)}</li>" for audit in clean)
        parts.append(
            f"<details><summary>{_count(len(clean), 'file')} without findings</summary><ul>{names}</ul></details>\n"
        )
    parts.append("</main></body></html>\n")
    return "".join(parts)


def _text(text: str) -> str:
    """Text of a file as HTML: markup is escaped, and what does not print is shown as what it is."""
    shown = "".join(
        char
        if char.isprintable()
        else "\ufffd"
        if 0xD800 <= ord(char) <= 0xDFFF
        else "    "
        if char == "\t"
        else f"\\x{ord(char):02x}"
        for char in text
    )
    return html.escape(shown, quote=True)


def _prose(text: str) -> str:
    """A rule's Markdown: code and emphasis."""
    escaped = _text(" ".join(text.split()))
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escaped)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 1_000_000 else f"{size_bytes:,} bytes"


def _has_something(audit: Audit) -> bool:
    return bool(audit.findings or audit.suppressed or audit.notes)


def _is_mended(finding: Finding) -> bool:
    return any(fix.is_safe for fix in finding.fixes)


def _badge(severity: Severity) -> str:
    return f'<span class="badge {severity.value}">{severity.value}</span>'


def _overview(audits: Sequence[Audit], findings: Sequence[Finding]) -> str:
    with_findings = sum(bool(audit.findings) for audit in audits)
    ignored = sum(len(audit.suppressed) for audit in audits)
    tiles = [
        (str(sum(one.severity is severity for one in findings)), f"{severity.value}s", severity.value)
        for severity in _SEVERITIES
    ]
    tiles.append((f"{with_findings:,} of {len(audits):,}", "files have findings", ""))
    tiles.append((f"{sum(map(_is_mended, findings)):,}", "are mended by <code>wain fix</code>", ""))
    known = sum(finding.cost.reclaimable for finding in findings)
    if known:
        tiles.append((f"{_size(known)}", "at least are freed, where sizes are known", ""))
    if ignored:
        tiles.append((f"{ignored:,}", "ignored by comments", ""))
    shown = "".join(f'<li class="{kind}"><b>{number}</b> {label}</li>' for number, label, kind in tiles)
    verdict = "" if findings else f"<p>No findings in {_count(len(audits), 'file')}.</p>"
    return f'<ul class="tiles">{shown}</ul>{verdict}\n'


def _rules_table(findings: Sequence[Finding]) -> str:
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    worst = {name: max((one.severity for one in found), key=lambda one: one.rank) for name, found in by_rule.items()}
    rows = []
    for name in sorted(by_rule, key=lambda one: (-worst[one].rank, -len(by_rule[one]), one)):
        found = by_rule[name]
        files = {finding.location.file for finding in found}
        rows.append(
            f"<tr><td class=short>{_badge(worst[name])}</td>"
            f'<td class=short><a href="#rule-{_text(name)}">{_text(name)}</a></td>'
            f"<td>{_prose(BY_ID[name].title) if name in BY_ID else ''}</td><td class=n>{len(found):,}</td>"
            f"<td class=n>{len(files):,}</td><td class=n>{sum(map(_is_mended, found)):,}</td>"
            f"<td>{_prose(BY_ID[name].cost) if name in BY_ID else ''}</td></tr>"
        )
    head = (
        "<th></th><th>Rule</th><th></th><th class=n>Findings</th><th class=n>Files</th><th class=n>wain fix</th>"
        "<th>What it costs</th>"
    )
    return f"<h2>By rule</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>\n"


def _files_table(audits: Sequence[Audit]) -> str:
    rows = []
    numbered = [(number, audit) for number, audit in enumerate(audits) if audit.findings]

    def gravest_first(entry: tuple[int, Audit]) -> tuple[int, ...]:
        return (*(-sum(one.severity is severity for one in entry[1].findings) for severity in _SEVERITIES), entry[0])

    for number, audit in sorted(numbered, key=gravest_first):
        counts = Counter(finding.severity for finding in audit.findings)
        cells = "".join(f"<td class=n>{counts[severity] or ''}</td>" for severity in _SEVERITIES)
        known = sum(finding.cost.reclaimable for finding in audit.findings)
        rows.append(
            f'<tr><td><a href="#file-{number}">{_text(audit.target)}</a></td>{cells}'
            f"<td class=n>{sum(map(_is_mended, audit.findings)) or ''}</td>"
            f"<td class=n>{f'at least {_size(known)}' if known else ''}</td></tr>"
        )
    heads = "".join(f"<th class=n>{severity.value}s</th>" for severity in _SEVERITIES)
    return (
        f"<h2>By file</h2><table><thead><tr><th>File</th>{heads}<th class=n>wain fix</th><th class=n>Frees</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>\n"
    )


def _file_section(number: int, audit: Audit) -> str:
    lines = audit.text.split("\n")
    found = "".join(_finding(finding, audit, lines) for finding in audit.findings)
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in audit.notes)
    ignored = "".join(
        f"<li>line {one.finding.location.line}: <code>{_text(one.finding.rule)}</code>"
        f"{f' — {_text(one.reason)}' if one.reason else ''}</li>"
        for one in audit.suppressed
    )
    silent = (
        f"<details><summary>{len(audit.suppressed)} ignored</summary><ul>{ignored}</ul></details>" if ignored else ""
    )
    return f'<section><h2 id="file-{number}">{_text(audit.target)}</h2>{found}{silent}{notes}</section>\n'


def _finding(finding: Finding, audit: Audit, lines: Sequence[str]) -> str:
    costs = finding.estimate or (_size(finding.cost.reclaimable) if finding.cost.reclaimable else "")
    details = [("Costs", _text(costs))] if costs else []
    if finding.fixes:
        best = finding.fixes[0]
        kind = "Fix" if best.is_safe else "Fix with --unsafe"
        details.append((kind, _text(best.title) + _diff(audit.text, best)))
    elif finding.rule in BY_ID:
        details.append(("Mend", _prose(BY_ID[finding.rule].mend)))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in details)
    return (
        f"<article><h3>{_badge(finding.severity)} {_text(finding.message)} "
        f'<a class=rule href="#rule-{_text(finding.rule)}">{_text(finding.rule)}</a></h3>'
        f"{_source(finding, lines)}<dl>{listed}</dl></article>\n"
    )


def _source(finding: Finding, lines: Sequence[str]) -> str:
    """The lines of a finding, its place marked, with one line around."""
    location = finding.location
    first = location.line or 1
    last = min(max(location.end_line or first, first), first + 11)
    shown = []
    for number in range(max(1, first - _CONTEXT_LINES), min(len(lines), last + _CONTEXT_LINES) + 1):
        line = lines[number - 1].rstrip("\r")
        start = (location.column or 1) - 1 if number == first else len(line) - len(line.lstrip())
        end = (location.end_column or len(line) + 1) - 1 if number == location.end_line else len(line)
        if not first <= number <= last:
            start = end = 0
        shown.append(f"<span class=no>{number}</span>{_marked(line, start, end)}\n")
    return f"<pre>{''.join(shown)}</pre>"


def _marked(line: str, start: int, end: int) -> str:
    cut = max(0, min(start - 40, len(line) - _LINE_WIDTH)) if len(line) > _LINE_WIDTH else 0
    stop = cut + _LINE_WIDTH
    start, end = min(max(start, cut), stop), min(max(end, cut), stop)
    before, inside, after = line[cut:start], line[start:end], line[end:stop]
    mark = f"<mark>{_text(inside)}</mark>" if inside else ""
    return f"{'…' if cut else ''}{_text(before)}{mark}{_text(after)}{'…' if len(line) > stop else ''}"


def _diff(text: str, fix: Fix) -> str:
    """The lines that a fix changes, before and after."""
    try:
        after = apply_edits(text, fix.edits)
    except ValueError:
        return ""
    return f"<pre class=diff>{''.join(_changed_lines(text, after))}</pre>"


def _changed_lines(before: str, after: str) -> Iterator[str]:
    rows: Iterable[str] = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    for row in list(rows)[2:]:
        if row[:1] in {"+", "-"}:
            kind = "ins" if row[0] == "+" else "del"
            cut = row if len(row) <= _LINE_WIDTH else f"{row[:_LINE_WIDTH]}…"
            yield f"<{kind}>{_text(cut.rstrip(chr(13)))}</{kind}>\n"


def _rules_section(findings: Sequence[Finding]) -> str:
    names = sorted({finding.rule for finding in findings} & set(BY_ID))
    shown = "".join(_rule(BY_ID[name]) for name in names)
    return f"<h2>What the rules say</h2>{shown}\n" if shown else ""


def _rule(rule: Rule) -> str:
    return (
        f'<article id="rule-{rule.id}"><h3>{_badge(rule.severity)} <code>{rule.id}</code> {_prose(rule.title)}</h3><dl>'
        f"<dt>Costs</dt><dd>{_prose(rule.cost)}</dd><dt>Why</dt><dd>{_prose(rule.why)}</dd>"
        f"<dt>Mend</dt><dd>{_prose(rule.mend)}</dd>"
        f"<dt>Silence</dt><dd><code># wain: ignore={rule.id} the reason</code>, on the line above the instruction</dd>"
        "</dl></article>\n"
    )


def _head() -> str:
    style = (importlib.resources.files("wain") / "html_report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>wain audit</title>\n'
        f"<style>\n{style}</style></head><body><main><h1>wain audit</h1>\n"
    )
