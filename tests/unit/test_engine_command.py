"""`wain build -f` where a step has to be run: who takes the file, and what is told where nobody does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.layer_maker import file, make_layer
from wain import archive, layout
from wain.commands.main import main
from wain.digest import Digest
from wain.image import Image
from wain.names import ArchiveReference, LayoutReference
from wain.oci import Config, History
from wain.platforms import Platform

Run = Callable[..., int]

FILE = "FROM scratch\nCOPY app.py /\nRUN make all && pip install $X\n"
DOCKER = """\
#!/bin/sh
case "$1 $2" in
    "version "*) echo 26.1.5 ;;
    "buildx version") echo v0.13 ;;
    "buildx inspect") echo Driver: docker ;;
    "buildx build") for one in "$@"; do case $one in
            --file=*) /bin/cp "${one#*=}" "${one#*=}.dockerignore" HERE/ ;;
        esac; done
        echo "#1 building"; exit CODE ;;
    "image save") /bin/cp HERE/made.tar "${3#*=}" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Dockerfile").write_text(FILE)
    (folder / "app.py").write_text("")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Run:
    def build(*words: str) -> int:
        return main(["build", "-f", "Dockerfile", "--cache-dir", str(tmp_path / "store"), *words, "."])

    return build


def docker(tmp_path: Path, *, code: int = 0) -> None:
    """A docker that says it built, and saves `made.tar`."""
    path = tmp_path / "bin/docker"
    path.write_text(DOCKER.replace("HERE", str(tmp_path)).replace("CODE", str(code)))
    path.chmod(0o755)


def test_without_an_engine_file_line_command_and_ways_out_are_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 21
    told = capsys.readouterr().err
    assert "Dockerfile:3: make has to be run (RUN make all && pip install $X)" in told
    assert "docker is not installed; buildah is not installed; podman is not installed" in told
    for way in ("--engine", "`packages`", "wain fix"):
        assert way in told


@pytest.mark.parametrize("how", ["flag", "setting"])
def test_no_engine_is_asked_where_none_is_wanted(
    run: Run, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    docker(tmp_path)
    if how == "setting":
        (project / "pyproject.toml").write_text('[tool.wain]\nengine = "none"\n')
    assert run(*(["--engine", "none"] if how == "flag" else [])) == 21
    told = capsys.readouterr().err
    assert "Dockerfile:3: make has to be run" in told
    assert "building" not in told


def test_engines_that_are_not_known_are_refused(run: Run, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text('[tool.wain]\nengine = "kaniko"\n')
    assert run() != 0
    assert "engine must be one of auto, docker, buildah, podman, none" in capsys.readouterr().err


def test_what_the_engine_makes_is_the_build_s_image(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker(tmp_path)
    layer = make_layer([file("x", b"x")])
    prefix = "env PIP_NO_CACHE_DIR=off "
    history = (History(created_by=f"RUN /bin/sh -c make all && {prefix}pip install $X # buildkit"),)
    config = Config(platform=Platform.host(), diff_ids=(layer.diff_id,), history=history)
    archive.write(Image(config=config, layers=(layer,)), ArchiveReference(path=tmp_path / "made.tar"))
    assert run("-o", f"oci:{tmp_path}/out", "-o", "dist/x.tar") == 0
    out, err = capsys.readouterr()
    assert "the file goes to docker 26.1.5 (BuildKit through buildx), the first that answers" in err
    assert "Dockerfile:3: pip install … asks the index itself: a word of it is known to its shell only" in err
    assert "#1 building" in err
    assert (tmp_path / "Dockerfile").read_text() == FILE.replace("pip", f"{prefix}pip")
    assert (tmp_path / "Dockerfile.dockerignore").read_text() == "/dist/x.tar\n"
    image = layout.read(LayoutReference(path=tmp_path / "out"))
    assert isinstance(image, Image)
    assert image.config.history[0].created_by == "RUN /bin/sh -c make all && pip install $X # buildkit"
    assert image.digest == Digest(out.strip())


@pytest.mark.parametrize("quiet", [False, True])
def test_an_engine_s_failure_is_passed_on(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    docker(tmp_path, code=9)
    assert run(*(["-q"] if quiet else [])) == 21
    told = capsys.readouterr().err
    assert told.count("#1 building") == 1
    assert "wain: docker failed with exit code 9" in told


def test_a_dry_run_asks_no_engine_and_tells_the_shares(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker(tmp_path, code=9)
    assert run("--dry-run") == 0
    told = capsys.readouterr().err
    assert "2 native, 1 engine, 0 refused, 0 unused" in told
    assert "line 3 has to be run, so the whole file goes to docker, buildah or podman" in told
    assert "pip install … asks the index itself" in told
    assert "building" not in told
