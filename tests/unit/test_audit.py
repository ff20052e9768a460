"""Audits: settings, suppression, files that do not parse, the command."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wain.audit import AuditSettings, audit_text, context_reader, find_dockerfiles, read_settings
from wain.commands import audit as command
from wain.errors import UsageError
from wain.findings import Severity

BAD = "FROM python:3.13-slim\nRUN pip install flask\n"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["audit", *words])


def test_a_file_that_does_not_parse_is_a_finding() -> None:
    report = audit_text("FROM a\nRUN x <<E\n", name="D")
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.location.line) == ("dockerfile-syntax", Severity.ERROR, 2)
    assert finding.message == "the here-document 'E' does not end"


def test_where_a_finding_points() -> None:
    text = "FROM python:3.13-slim\nRUN apt-get -y install x && \\\n    pip install \\\n      flask\n"
    (finding,) = audit_text(text).findings
    assert (finding.location.line, finding.location.column) == (3, 5)
    assert text[finding.location.start : finding.location.end] == "pip install \\\n      flask"
    assert finding.paths == ("/root/.cache/pip",)


def test_ignored_findings_keep_their_reason() -> None:
    report = audit_text("FROM python:3.13-slim\n# wain: ignore=pip-cache,nope the reason\nRUN pip install flask\n")
    assert not report.findings
    assert [(one.finding.rule, one.reason) for one in report.suppressed] == [("pip-cache", "the reason")]
    assert report.notes == ("Dockerfile:2: there is no rule 'nope' to ignore",)


def test_settings_of_pyproject(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.wain.audit]\nignore = ["uv-cache"]\nfail-on = "error"\nprefer = "env"\nmax-layers = 5\n'
        'exclude = ["old/*"]\n[tool.wain.audit.severity]\npip-cache = "info"\n'
    )
    settings = read_settings(tmp_path / "sub")
    assert (settings.ignore, settings.fail_on, settings.exclude) == (("uv-cache",), "error", ("old/*",))
    assert (settings.options.prefer, settings.options.max_layers) == ("env", 5)
    (finding,) = audit_text(BAD, settings=settings).findings
    assert finding.severity is Severity.INFO
    assert finding.fixes[0].title == "set PIP_NO_CACHE_DIR=1 for the stage"


@pytest.mark.parametrize(
    "table",
    ['ignore = "x"', "fail-on = 1", 'prefer = "x"', "max-layers = 0", "nope = 1", 'severity = {a = "x"}', "x = ["],
)
def test_settings_that_make_no_sense(tmp_path: Path, table: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.wain.audit]\n{table}\n")
    with pytest.raises(UsageError) as raised:
        read_settings(tmp_path)
    assert raised.value.hint


def test_an_unknown_rule_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as raised:
        audit_text(BAD, settings=AuditSettings(ignore=("pip-cash",)))
    assert raised.value.hint == "Did you mean pip-cache?"


def test_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("Dockerfile", "a/Containerfile", "a/web.Dockerfile", "b/Dockerfile.prod", ".git/Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(BAD)
    for name in ("Dockerfile.dockerignore", "docker.txt", "b/Dockerfile.md"):
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_dockerfiles([tmp_path], exclude=("b/*",))]
    assert found == ["Dockerfile", "a/Containerfile", "a/web.Dockerfile"]
    with pytest.raises(UsageError):
        list(find_dockerfiles([tmp_path / "none"]))


def test_a_copied_pip_conf_is_read_from_the_context(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\ntimeout = 5\n")
    (tmp_path / "link.conf").symlink_to("/etc/passwd")
    text = "FROM python:3.13-slim\nCOPY pip.conf /etc/pip.conf\nRUN pip install flask\n"
    read = context_reader(tmp_path)
    assert [one.rule for one in audit_text(text, read=read).findings] == ["pip-cache"]
    (tmp_path / "pip.conf").write_text("[global]\nno-cache-dir = 1\n")
    assert not audit_text(text, read=read).findings
    assert read("link.conf") is None
    assert read("../x") is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Dockerfile").write_text(BAD)
    Path("good.Dockerfile").write_text("FROM python:3.13-slim\n")
    assert command.run(arguments("Dockerfile")) == 1
    out = capsys.readouterr().out
    assert "Dockerfile:2:5: warning[pip-cache] pip install leaves its cache in /root/.cache/pip" in out
    assert "  2 | RUN pip install flask\n    |     ^^^^^^^^^^^^^^^^^\n" in out
    assert "fix (safe): add --no-cache-dir" in out
    assert command.run(arguments("Dockerfile", "--fail-on", "error")) == 0
    assert command.run(arguments("Dockerfile", "--ignore", "pip-cache")) == 0
    assert command.run(arguments("good.Dockerfile")) == 0
    capsys.readouterr()
    assert command.run(arguments(".", "--format", "json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert [entry["target"] for entry in document["targets"]] == ["Dockerfile", "good.Dockerfile"]
    assert document["summary"]["warnings"] == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert command.run(arguments("-")) == 1
    assert "-:2:5: warning[pip-cache]" in capsys.readouterr().out
    with pytest.raises(UsageError):
        command.run(arguments("nothing"))
    with pytest.raises(UsageError):
        command.run(arguments())
    assert command.run(arguments("--list-rules")) == 0
    assert "pip-cache" in capsys.readouterr().out


def test_each_target_has_the_settings_of_its_own_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, settings in (
        ("lenient", 'fail-on = "never"'),
        ("strict", 'fail-on = "info"\nexclude = ["old/*"]\n[tool.wain.audit.severity]\npip-cache = "info"'),
        ("silent", 'ignore = ["pip-cache"]\nfail-on = "info"'),
    ):
        Path(name, "old").mkdir(parents=True)
        Path(name, "pyproject.toml").write_text(f"[tool.wain.audit]\n{settings}\n")
        Path(name, "Dockerfile").write_text(BAD)
        Path(name, "old/Dockerfile").write_text(BAD)
    assert command.run(arguments("lenient")) == 0
    assert command.run(arguments("strict")) == 1
    assert command.run(arguments("strict", "--fail-on", "warning")) == 0
    assert command.run(arguments("lenient", "--fail-on", "warning")) == 1
    assert command.run(arguments("silent")) == 0
    assert command.run(arguments("strict", "lenient")) == 1
    capsys.readouterr()
    assert command.run(arguments("lenient", "silent", "strict/Dockerfile", "--fail-on=never")) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "\n  errs warnings infos\n"
        "     0        1     0  lenient/Dockerfile\n"
        "     0        1     0  lenient/old/Dockerfile\n"
        "     0        0     1  strict/Dockerfile\n"
        "3 findings (2 warnings, 1 info) in 5 files; `wain fix` mends 3\n"
    )


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github", "html"])
def test_every_format_goes_to_standard_output(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert command.run(arguments("-", "--format", form)) == 1
    captured = capsys.readouterr()
    assert "pip-cache" in captured.out
    assert not captured.err


def test_parse_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_bytes(b"FROM a\r\nRUN \xff\r\n")
    assert command.run(arguments("--parse-only", str(tmp_path))) == 0
    (tmp_path / "b").write_text("FROM a\nENV x\n")
    assert command.run(arguments("--parse-only", str(tmp_path))) == 1
    captured = capsys.readouterr()
    assert "b:2: ENV needs a name and a value" in captured.out
    assert "1 of 2 files parse" in captured.err


def test_a_thousand_files_take_five_seconds() -> None:
    """In a process of its own, where nothing else fills the collector's generations; twice the budget, for slow CI."""
    code = (
        "import time\n"
        "from wain.audit import audit_text\n"
        "text = 'FROM python:3.13-slim AS base\\nWORKDIR /app\\nENV A=1\\n' + ''.join(\n"
        "    f'COPY a{n} /b{n}\\nRUN apt-get update && apt-get install -y a{n} && \\\\\\n    pip install p{n} && '\n"
        "    'rm -rf /var/lib/apt/lists/*\\n' for n in range(8))\n"
        "audit_text(text)\n"
        "started = time.process_time()\n"
        "for _ in range(200):\n"
        "    audit_text(text)\n"
        "print((time.process_time() - started) * 5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10
