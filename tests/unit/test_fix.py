"""Fixes: edits, rounds, what is taken back, the command."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pytest

from tests.fix_checks import check_fix
from tests.unit.test_dockerfile import CORPUS
from wain.audit import AuditSettings, audit_text
from wain.commands import fix as command
from wain.dockerfile import decode
from wain.errors import DockerfileError
from wain.findings import Edit
from wain.fix import apply_edits, fix
from wain.rules import Options

HEAD = "FROM python:3.13-slim\n"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["fix", *words])


def test_edits_do_not_overlap() -> None:
    assert apply_edits("abc", (Edit(start=1, end=2, text="X"), Edit(start=0, end=0, text="-"))) == "-aXc"
    assert apply_edits("abc", (Edit(start=1, end=1, text="X"), Edit(start=1, end=1, text="X"))) == "aXbc"
    with pytest.raises(ValueError, match="overlaps"):
        apply_edits("abc", (Edit(start=0, end=2, text=""), Edit(start=1, end=3, text="")))
    with pytest.raises(ValueError, match="outside"):
        apply_edits("abc", (Edit(start=4, end=5, text=""),))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("RUN pip install a\n", "RUN pip install --no-cache-dir a\n"),
        ("RUN python -m pip -q install a\n", "RUN python -m pip -q install --no-cache-dir a\n"),
        ("RUN pip install \\\n    a \\\n    b\n", "RUN pip install --no-cache-dir \\\n    a \\\n    b\n"),
        (
            "RUN pip install a && \\\r\n  pip wheel b\r\n",
            "RUN pip install --no-cache-dir a && \\\r\n  pip wheel --no-cache-dir b\r\n",
        ),
        ('RUN bash -lc "pip install a"\n', 'RUN bash -lc "pip install --no-cache-dir a"\n'),
        ('RUN ["pip", "install", "a"]\n', 'RUN ["pip", "install", "--no-cache-dir", "a"]\n'),
        ("RUN xargs pip install < r.txt\n", "RUN xargs pip install --no-cache-dir < r.txt\n"),
        (
            "RUN echo 'pip install a'; pip install a # pip install\n",
            "RUN echo 'pip install a'; pip install --no-cache-dir a # pip install\n",
        ),
        ("RUN pip install é && pip install b\n", "RUN pip install --no-cache-dir é && pip install --no-cache-dir b\n"),
        (
            "RUN apt-get update && \\\n    apt-get install -y a # c\n",
            "RUN apt-get update && \\\n    apt-get install -y a && \\\n    rm -rf /var/lib/apt/lists/* # c\n",
        ),
        (
            "RUN apt-get update \\\n    && apt-get install -y a\n",
            "RUN apt-get update \\\n    && apt-get install -y a \\\n    && rm -rf /var/lib/apt/lists/*\n",
        ),
        (
            "RUN apt-get update; if true; then apt-get install -y a; fi\n",
            "RUN apt-get update; if true; then apt-get install -y a; fi && rm -rf /var/lib/apt/lists/*\n",
        ),
        ("USER a\nRUN sudo apt-get update\n", "USER a\nRUN sudo apt-get update && sudo rm -rf /var/lib/apt/lists/*\n"),
        (
            "RUN <<EOF\npip install a\napt-get update\nEOF\n",
            "RUN <<EOF\npip install a\napt-get update\nrm -rf /var/lib/apt/lists/*\nEOF\n",
        ),
        ("RUN apt-get update &\n", "RUN apt-get update &\n"),
    ],
)
def test_the_flag(before: str, after: str) -> None:
    settings = AuditSettings(options=Options(prefer="flag"), ignore=("unpinned-base",))
    result = fix(HEAD + before, settings=settings)
    assert result.after.replace("pip install --no-cache-dir a\napt", "pip install a\napt") == HEAD + after


def test_a_file_that_uses_buildkit_gets_mounts() -> None:
    head = f"# syntax=docker/dockerfile:1\n{HEAD}RUN useradd -m -u 1000 app\nUSER app\n"
    text = f"{head}RUN pip install a && pip install b\n"
    after = fix(text).after
    assert after.endswith(
        "RUN --mount=type=cache,target=/home/app/.cache/pip,uid=1000 pip install a && pip install b\n"
    )


def test_the_env_is_set_once() -> None:
    settings = AuditSettings(options=Options(prefer="env"))
    result = fix(f"{HEAD}RUN pip install a\nRUN pip install b\n", settings=settings)
    assert result.after == f"{HEAD}ENV PIP_NO_CACHE_DIR=1\nRUN pip install a\nRUN pip install b\n"
    assert not result.remaining.findings


def test_unsafe_fixes_need_to_be_asked_for() -> None:
    text = f"{HEAD}WORKDIR /app\nCOPY . .\nRUN pip install --no-cache-dir -r requirements.txt\n"
    assert fix(text).after == text
    assert fix(text, unsafe=True).after == (
        f"{HEAD}WORKDIR /app\nCOPY requirements.txt ./\nRUN pip install --no-cache-dir -r requirements.txt\nCOPY . .\n"
    )


@pytest.mark.parametrize(
    ("given", "copied"), [("app:app", "app:app"), ("app:", "app"), ("app.web", "app:web"), ("1000", "1000")]
)
def test_an_owner_of_chown_becomes_one_of_copy(given: str, copied: str) -> None:
    text = f"{HEAD}COPY . /app\nRUN chown -R {given} /app\n"
    assert fix(text, unsafe=True).after == f"{HEAD}COPY --chown={copied} . /app\n"


def test_a_cache_that_is_removed_later_is_kept_out_once() -> None:
    text = f"{HEAD}RUN pip install a\nRUN rm -rf /root/.cache\n"
    assert fix(text).after == f"{HEAD}RUN pip install --no-cache-dir a\nRUN rm -rf /root/.cache\n"


def test_what_builds_gets_what_reaches_the_build_in_old_distributions_and_in_the_official_images_the_variable() -> None:
    runs = "RUN pip install .\nRUN pip install b\n"
    after = "RUN pip install . && rm -rf /root/.cache/pip\nRUN pip install --no-cache-dir b\n"
    assert fix(f"FROM centos:7\n{runs}").after == f"FROM centos:7\n{after}"
    assert fix(f"{HEAD}{runs}").after == f"{HEAD}ENV PIP_NO_CACHE_DIR=1\n{runs}"


def test_a_mount_is_never_put_over_the_environment_that_poetry_makes() -> None:
    run = "RUN --mount=type=cache,target=/root/.cache/poetry poetry install\n"
    assert "target=/root/.cache/pypoetry " not in fix(f"{HEAD}{run}", unsafe=True).after
    system = f"{HEAD}ENV POETRY_VIRTUALENVS_CREATE=false\n"
    assert fix(f"{system}{run}").after == f"{system}{run.replace('/poetry', '/pypoetry')}"


def test_what_does_not_parse_is_an_error() -> None:
    with pytest.raises(DockerfileError):
        fix("FROM a\nENV x\n")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("Dockerfile")
    file.write_bytes(HEAD.encode() + b"RUN pip install flask # \xff\n")
    file.chmod(0o640)
    assert command.run(arguments("Dockerfile", "--check")) == 1
    assert command.run(arguments("Dockerfile", "--diff")) == 1
    assert "+RUN pip install --no-cache-dir flask" in capsys.readouterr().out
    assert command.run(arguments(str(file.resolve()), "--diff")) == 1
    assert f"--- a{file.resolve()}\n" in capsys.readouterr().out
    assert b"--no-cache-dir" not in file.read_bytes()
    assert command.run(arguments(".")) == 0
    assert file.read_bytes() == HEAD.encode() + b"RUN pip install --no-cache-dir flask # \xff\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert command.run(arguments("Dockerfile", "--check")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Dockerfile"]
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{HEAD}RUN pip install x\n".encode())))
    monkeypatch.setattr(sys, "stdout", out)
    assert command.run(arguments("-")) == 0
    out.flush()
    assert out.buffer.getvalue() == f"{HEAD}RUN pip install --no-cache-dir x\n".encode()  # type: ignore[attr-defined]


def test_one_bad_file_does_not_keep_the_others_from_being_mended(tmp_path: Path) -> None:
    (tmp_path / "a.Dockerfile").write_text("FROM a\nENV x\n")
    (tmp_path / "b.Dockerfile").write_text(f"{HEAD}RUN pip install x\n")
    with pytest.raises(DockerfileError):
        command.run(arguments(str(tmp_path)))
    assert "--no-cache-dir" in (tmp_path / "b.Dockerfile").read_text()


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real Dockerfiles is not here")
def test_real_files_mend_to_a_fixpoint_that_the_official_parser_accepts() -> None:
    files = sorted(CORPUS.glob("*.Dockerfile"))
    assert len(files) >= 100
    # The soak takes all of them.
    for file in files[::10]:
        text = decode(file.read_bytes())
        result = check_fix(text, name=file.name)
        assert len(result.remaining.findings) <= len(audit_text(text).findings), file.name


UPDATE = "FROM debian:trixie AS one\nRUN apt-get update && apt-get install -y curl\n"


@pytest.mark.parametrize(
    ("later", "is_fixed"),
    [
        ("RUN apt-get install -y git\n", False),
        ("RUN echo a && apt -y upgrade\n", False),
        ("FROM one\nRUN apt-get install -y git\n", False),
        ("RUN apt-get update && apt-get install -y git\n", True),
        ("RUN apt-get remove -y curl\n", True),
        ("FROM debian:trixie\nRUN apt-get install -y git\nFROM one\n", True),
    ],
)
def test_lists_that_a_later_install_reads_are_left(later: str, is_fixed: bool) -> None:
    after = fix(UPDATE + later, name="Dockerfile").after
    assert after.splitlines()[1].endswith("rm -rf /var/lib/apt/lists/*") == is_fixed
