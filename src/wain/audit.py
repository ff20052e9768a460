"""Audit: run the rules over a subject, and say what is suppressed and why.

`audit(subject)` takes any subject that rules know; `audit_text` parses first, and a file that does not parse is a
finding of its own, so that one bad file among many hides none.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from wain.dockerfile import Dockerfile, parse
from wain.errors import DockerfileError, UsageError
from wain.findings import Finding, Location, Severity
from wain.rules import BY_ID, RULES
from wain.rules.rule import DockerfileSubject, Options, Reader, Rule

_log = logging.getLogger(__name__)
_PRAGMA = re.compile(r"wain:\s*ignore=([A-Za-z0-9_,-]+)\s*(.*)", re.DOTALL)
_HADOLINT = re.compile(r"hadolint\s+(global\s+)?ignore=([A-Za-z0-9_, -]+)")
_NAMES = (
    "Dockerfile",
    "Containerfile",
    "Dockerfile.*",
    "Containerfile.*",
    "*.Dockerfile",
    "*.dockerfile",
    "*.Containerfile",
)
_SKIPPED_FOLDERS = frozenset({".git", ".hg", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".mypy_cache"})
_CONTEXT_FILE_LIMIT = 64 * 1024


class Suppressed(Struct, frozen=True, kw_only=True):
    """A finding that a comment in the file silences, with the reason that the comment gives."""

    finding: Finding
    reason: str


class Audit(Struct, frozen=True, kw_only=True):
    """What was found in one target, in the order of the file. `text` is the audited text, for showing lines.

    `notes` are remarks about the audit itself, such as a comment that names no rule.
    """

    target: str
    findings: tuple[Finding, ...]
    suppressed: tuple[Suppressed, ...] = ()
    notes: tuple[str, ...] = ()
    text: str = ""

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        return max((finding.severity for finding in self.findings), key=lambda one: one.rank, default=None)


class AuditSettings(Struct, frozen=True, kw_only=True):
    """`[tool.wain.audit]`: which rules run, how severe they are, and what fails."""

    ignore: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    fail_on: str = "warning"
    exclude: tuple[str, ...] = ()
    severity: tuple[tuple[str, Severity], ...] = ()
    options: Options = field(default_factory=Options)

    def rules(self) -> tuple[Rule, ...]:
        """The rules that run.

        :raises UsageError: where a name is no rule's.
        """
        for name in (*self.ignore, *self.select, *(name for name, _ in self.severity)):
            if name not in BY_ID:
                raise UsageError(f"there is no rule {name!r}", hint=_closest(name))
        return tuple(
            rule for rule in RULES if rule.id not in self.ignore and (not self.select or rule.id in self.select)
        )


def _closest(name: str) -> str:
    import difflib

    found = difflib.get_close_matches(name, BY_ID, n=1)
    return f"Did you mean {found[0]}?" if found else "`wain audit --list-rules` prints all of them."


def read_settings(folder: Path) -> AuditSettings:
    """`[tool.wain.audit]` of the nearest pyproject.toml at or above a folder; the defaults where there is none.

    :raises UsageError: where the table has an unknown key or a value of the wrong type.
    """
    for one in (folder.resolve(), *folder.resolve().parents):
        path = one / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise UsageError(f"{path}: {error}", hint="Mend the file, or audit from another folder.") from error
        table = document.get("tool", {})
        for key in ("wain", "audit"):
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and table:
            return _settings(table, path)
        return AuditSettings()
    return AuditSettings()


def _settings(table: dict[str, object], path: Path) -> AuditSettings:
    def fail(key: str, wanted: str) -> UsageError:
        return UsageError(f"{path}: [tool.wain.audit] {key} must be {wanted}", hint="See docs/audit.md for the keys.")

    def names(key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise fail(key, "a list of strings")
        return tuple(str(one) for one in value)

    known = {"ignore", "select", "fail-on", "exclude", "severity", "prefer", "max-layers"}
    for key in table:
        if key not in known:
            raise UsageError(
                f"{path}: [tool.wain.audit] has no key {key!r}", hint=f"The keys are {', '.join(sorted(known))}."
            )
    fail_on = table.get("fail-on", "warning")
    if fail_on not in {"error", "warning", "info", "never"}:
        raise fail("fail-on", "error, warning, info or never")
    prefer = table.get("prefer", "auto")
    if prefer not in {"auto", "mount", "flag", "env"}:
        raise fail("prefer", "auto, mount, flag or env")
    layers = table.get("max-layers", 100)
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise fail("max-layers", "a positive integer")
    severities = table.get("severity", {})
    if not isinstance(severities, dict) or not all(
        value in {"info", "warning", "error"} for value in severities.values()
    ):
        raise fail("severity", "a table of rule = info, warning or error")
    return AuditSettings(
        ignore=names("ignore"),
        select=names("select"),
        fail_on=str(fail_on),
        exclude=names("exclude"),
        severity=tuple((str(key), Severity(str(value))) for key, value in severities.items()),
        options=Options(prefer=str(prefer), max_layers=layers),
    )


def audit(subject: DockerfileSubject, *, settings: AuditSettings | None = None) -> Audit:
    """Run the rules over a subject.

    :raises UsageError: where the settings name a rule that there is not.
    """
    settings = settings or AuditSettings()
    severities = dict(settings.severity)
    silenced = _Pragmas(subject.dockerfile)
    findings: list[Finding] = []
    suppressed: list[Suppressed] = []
    for rule in settings.rules():
        for finding in rule.check(subject):
            if rule.id in severities:
                finding = replace(finding, severity=severities[rule.id])
            reason = silenced.reason(finding, rule)
            if reason is None:
                findings.append(finding)
            else:
                suppressed.append(Suppressed(finding=finding, reason=reason))
    return Audit(
        target=subject.name,
        findings=tuple(sorted(findings, key=lambda one: one.sort_key)),
        suppressed=tuple(sorted(suppressed, key=lambda one: one.finding.sort_key)),
        notes=tuple(silenced.notes),
        text=subject.dockerfile.text,
    )


def audit_text(
    text: str, *, name: str = "Dockerfile", settings: AuditSettings | None = None, read: Reader | None = None
) -> Audit:
    """Parse and audit; text that does not parse is one finding of the rule dockerfile-syntax.

    :raises UsageError: where the settings name a rule that there is not.
    """
    settings = settings or AuditSettings()
    try:
        dockerfile = parse(text, name=name)
    except DockerfileError as error:
        settings.rules()
        return Audit(target=name, findings=(_unparsed(error, name, text),), text=text)
    subject = DockerfileSubject.of(dockerfile, options=settings.options, read=read)
    try:
        return audit(subject, settings=settings)
    finally:
        subject.trace.release()


def _unparsed(error: DockerfileError, name: str, text: str) -> Finding:
    number, colon, message = error.message.removeprefix(f"{name}:").partition(": ")
    line = int(number) if colon and number.isdecimal() else 1
    lines = text.split("\n")
    width = len(lines[line - 1].rstrip("\r")) if line <= len(lines) else 0
    start = sum(len(one) + 1 for one in lines[: line - 1])
    return Finding(
        rule="dockerfile-syntax",
        severity=Severity.ERROR,
        message=message if colon else error.message,
        location=Location(
            file=name,
            line=line,
            column=1,
            end_line=line,
            end_column=width + 1,
            start=start,
            end=start + width,
        ),
        instruction="",
    )


class _Pragmas:
    """The comments of a file that silence rules.

    `# wain: ignore=RULE[,RULE] reason` stands above an instruction or between its lines and holds for it;
    `# hadolint ignore=DL3042` stands on the line above, `# hadolint global ignore=DL3042` anywhere.
    """

    def __init__(self, dockerfile: Dockerfile) -> None:
        self.notes: list[str] = []
        self.by_lines: list[tuple[int, int, dict[str, str]]] = []
        self.everywhere: dict[str, str] = {}
        if not any("ignore=" in comment.text for comment in dockerfile.comments):
            return
        for instruction in dockerfile.instructions:
            names: dict[str, str] = {}
            for comment in instruction.comments:
                match = _PRAGMA.match(comment.text)
                if match:
                    for name in match.group(1).split(","):
                        if name and name not in BY_ID:
                            self.notes.append(f"{dockerfile.name}:{comment.line}: there is no rule {name!r} to ignore")
                        names[name] = match.group(2).strip()
                hadolint = _HADOLINT.match(comment.text)
                if hadolint and not hadolint.group(1):
                    for code in hadolint.group(2).replace(" ", "").split(","):
                        names[code] = f"hadolint ignore={code}"
            if names:
                self.by_lines.append((instruction.line, instruction.end_line, names))
        for comment in dockerfile.comments:
            hadolint = _HADOLINT.match(comment.text)
            if hadolint and hadolint.group(1):
                for code in hadolint.group(2).replace(" ", "").split(","):
                    self.everywhere[code] = f"hadolint global ignore={code}"

    def reason(self, finding: Finding, rule: Rule) -> str | None:
        """Why a finding is silent; None where it is not."""
        codes = (rule.id, *rule.hadolint)
        for code in rule.hadolint:
            if code in self.everywhere:
                return self.everywhere[code]
        line = finding.location.line or 0
        for first, last, names in self.by_lines:
            if first <= line <= last:
                for code in codes:
                    if code in names:
                        return names[code]
        return None


def context_reader(folder: Path) -> Reader:
    """A reader for small text files of a build context; what leads out of the folder is not read."""
    root = folder.resolve()

    def read(relative: str) -> str | None:
        try:
            path = (root / relative).resolve()
            if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _CONTEXT_FILE_LIMIT:
                return None
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    return read


def is_dockerfile_name(name: str) -> bool:
    """Whether a file's name is one that Dockerfiles have."""
    return not name.endswith((".dockerignore", ".md", ".txt", ".j2", ".tmpl", ".orig", ".swp")) and any(
        fnmatch.fnmatchcase(name, pattern) for pattern in _NAMES
    )


def find_dockerfiles(targets: Iterable[Path], *, exclude: tuple[str, ...] = ()) -> Iterator[Path]:
    """The Dockerfiles that targets name: files as they are, folders searched by name, in sorted order.

    :raises UsageError: where a target is not there.
    """
    for target in targets:
        if target.is_dir():
            yield from _search(target, target, exclude)
        elif target.exists():
            yield target
        else:
            raise UsageError(f"{target} is not there", hint="Name a Dockerfile, a folder, or - for standard input.")


def _search(root: Path, folder: Path, exclude: tuple[str, ...]) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        _log.warning("%s cannot be read: %s", folder, error)
        return
    for entry in entries:
        relative = entry.relative_to(root).as_posix()
        if any(fnmatch.fnmatch(relative, pattern) for pattern in exclude):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _search(root, entry, exclude)
        elif entry.is_file() and is_dockerfile_name(entry.name):
            yield entry
