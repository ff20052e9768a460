"""The pre-commit hooks run in a scratch repository, with the real pre-commit from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.network]

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PRE_COMMIT_HOME": str(cwd.parent / "pre-commit-home"),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@mail.example",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@mail.example",
        # The checkout may belong to another user than the one who tests.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=540)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_hooks_run_in_a_scratch_repository(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    run(venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "pre-commit", cwd=tmp_path)
    # The hooks come from a repository: this checkout's files as they are now.
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
        run("cp", "-r", ROOT / name, hooks, cwd=tmp_path)
    run("git", "init", "-q", cwd=hooks)
    run("git", "add", "-A", cwd=hooks)
    run("git", "commit", "-q", "-m", "x", cwd=hooks)
    revision = run("git", "rev-parse", "HEAD", cwd=hooks).stdout.strip()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run("git", "init", "-q", cwd=scratch)
    (scratch / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {hooks}\n  rev: {revision}\n  hooks:\n  - id: wain-audit\n  - id: wain-fix\n"
    )
    (scratch / "Dockerfile").write_text("FROM python:3.13-slim\nRUN pip install flask\n")
    (scratch / "notes.txt").write_text("RUN pip install flask\n")
    run("git", "add", "-A", cwd=scratch)
    first = run(venv / "bin/pre-commit", "run", "--all-files", cwd=scratch, check=False)
    assert first.returncode != 0
    assert "Dockerfile:2:5: warning[pip-cache]" in first.stdout, first.stdout + first.stderr
    assert "notes.txt" not in first.stdout
    assert "--no-cache-dir" in (scratch / "Dockerfile").read_text()
    run("git", "add", "-A", cwd=scratch)
    assert run(venv / "bin/pre-commit", "run", "--all-files", cwd=scratch).returncode == 0
