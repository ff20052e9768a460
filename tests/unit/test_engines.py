from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.layer_maker import file, make_layer
from wain import archive
from wain.dockerbuild import EngineNeeded
from wain.engines import BuildEngine, EngineBuild, EngineFailed, find_engine, run_build
from wain.errors import EngineError
from wain.image import Image
from wain.names import ArchiveReference
from wain.oci import Config
from wain.platforms import Platform

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Puts a program of that name into a folder; it notes its arguments, and then does what `body` says."""

    def make(name: str, body: str, folder: str = "bin") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\n{{ for one in {name} "$@"; do printf "%s|" "$one"; done; echo; }} >>{tmp_path}/log\n{body}'
        )
        path.chmod(0o755)
        return path

    return make


def log_of(folder: Path) -> list[list[str]]:
    return [line.rstrip("|").split("|") for line in (folder / "log").read_text().splitlines()]


DOCKER = """\
case "$1 $2 $*" in
    "version "*Server*) echo 26.1.5 ;;
    "version "*) echo 26.1.5 ;;
    "buildx version"*) [ -z "$NO_BUILDX" ] && echo v0.13 ;;
    "buildx inspect"*) printf 'Name: x\\nDriver:        %s\\n' "${DRIVER:-docker}" ;;
    "image save"*) cp "$MADE" "${3#*=}" ;;
    "push "*) cp "$MADE" "${4#*:}" ;;
    *build*) [ -n "$FAIL" ] && { echo doing; echo "ERROR: no luck"; exit 3; }
        for one in "$@"; do case $one in
            --iidfile=*) echo sha256:id >"${one#*=}" ;;
            --output=*) cp "$MADE" "${one##*dest=}" ;;
        esac; done
        echo "args: $SECRET_VALUE" ;;
esac
"""


@pytest.fixture
def found(tmp_path: Path, fake: Fake) -> Callable[..., BuildEngine]:
    def find(wanted: str = "auto", **environ: str) -> BuildEngine:
        return find_engine(wanted, {"PATH": f"{tmp_path}/bin:{tmp_path}/late", **environ})

    # Engines that the machine itself has are not asked.
    for name in ("docker", "buildah", "podman"):
        fake(name, "echo broken >&2; exit 1")
    return find


def test_auto_takes_the_first_that_answers(fake: Fake, found: Callable[..., BuildEngine]) -> None:
    fake("buildah", '[ "$1" = info ] || echo "buildah version 1.39.3 (image-spec 1.1.0)"')
    fake("podman", "echo podman version 5.4.2")
    engine = found()
    assert (engine.name, engine.version, str(engine)) == ("buildah", "1.39.3", "buildah 1.39.3")
    assert found("podman").version == "5.4.2"
    fake("docker", DOCKER)
    assert str(found()) == "docker 26.1.5 (BuildKit through buildx)"
    assert found(DRIVER="remote").builder == "remote"


def test_what_is_wrong_with_each_is_told(fake: Fake, found: Callable[..., BuildEngine]) -> None:
    fake("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(
        EngineError, match=r"bin/docker: Cannot connect to the Docker daemon; .*buildah: broken"
    ) as caught:
        found()
    assert "--engine" in caught.value.hint
    with pytest.raises(EngineError, match="no container engine answers: buildah is not installed") as caught:
        find_engine("buildah", {"PATH": "/nowhere"})
    assert caught.value.exit_code == EngineNeeded.exit_code == 21


def test_a_client_that_cannot_build_is_passed_over(fake: Fake, found: Callable[..., BuildEngine]) -> None:
    fake("docker", DOCKER.replace('[ -z "$NO_BUILDX" ] && echo v0.13', "exit 1"))
    with pytest.raises(EngineError, match="lacks the buildx component"):
        found("docker")
    old = DOCKER.replace("26.1.5", "20.10.24").replace('[ -z "$NO_BUILDX" ] && echo v0.13', "exit 1")
    fake("docker", old, folder="late")
    engine = found("docker")
    assert (engine.program.parent.name, engine.builder, engine.has_contexts) == ("late", "client", False)


@pytest.mark.parametrize(
    ("version", "builder", "has"),
    [("26.1.5+dfsg1", "docker", True), ("20.10.24", "docker", False), ("20.10.24", "docker-container", True)],
)
def test_old_daemons_mount_images_alone(version: str, builder: str, has: bool) -> None:
    engine = BuildEngine(name="docker", program=Path("docker"), version=version, builder=builder)
    assert engine.has_contexts == has


@pytest.fixture
def made(tmp_path: Path) -> Image:
    """The image that the fake engines make; its archive is in `made.tar`."""
    image = Image(config=Config(platform=Platform.host())).append(make_layer([file("x", b"x")]))
    archive.write(image, ArchiveReference(path=tmp_path / "made.tar"))
    return image


def build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, **more: str
) -> tuple[Image, list[str], list[list[str]]]:
    monkeypatch.setenv("MADE", str(tmp_path / "made.tar"))
    for key, value in more.items():
        monkeypatch.setenv(key, value)
    engine = BuildEngine(
        name=name, program=tmp_path / "bin" / name, version="26.1", builder=more.get("DRIVER", "docker")
    )
    folder = tmp_path / "work"
    folder.mkdir()
    wanted = EngineBuild(
        dockerfile=folder / "Dockerfile",
        ignore=folder / "Dockerfile.dockerignore",
        context=Path("ctx"),
        contexts={"wain-files": "/files"},
        build_args={"SECRET_VALUE": "hunter2", "HTTP_PROXY": "http://p"},
        target="last",
        platform="linux/arm64",
        labels={"a": "b"},
        secrets=("id=x,src=y",),
        network="host",
        insecure=True,
        more=("--pull",),
    )
    told: list[str] = []
    image = run_build(engine, wanted, folder, tell=told.append)
    assert isinstance(image, Image)
    return image, told, log_of(tmp_path)


_FLAGS = [
    "--build-arg=SECRET_VALUE",
    "--build-arg=HTTP_PROXY=http://p",
    "--build-context=wain-files=/files",
    "--label=a=b",
    "--secret=id=x,src=y",
    "--target=last",
    "--platform=linux/arm64",
    "--network=host",
    "--pull",
]


def test_docker_builds_into_its_daemon_and_saves(
    tmp_path: Path, fake: Fake, made: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("docker", DOCKER)
    image, told, log = build(tmp_path, monkeypatch, "docker")
    assert image.digest == made.digest
    assert told == ["args: hunter2"]
    first, save, remove = log
    assert first[1:5] == ["buildx", "build", "--progress=plain", f"--file={tmp_path}/work/Dockerfile"]
    assert first[5:-3] == _FLAGS
    assert (first[-3], first[-1]) == ("--load", "ctx")
    name = first[-2].removeprefix("--tag=")
    assert save[1:3] == ["image", "save"]
    assert save[-1] == name
    assert remove[1:] == ["image", "rm", name]


def test_a_builder_of_its_own_gives_the_image_itself(
    tmp_path: Path, fake: Fake, made: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("docker", DOCKER)
    image, _, log = build(tmp_path, monkeypatch, "docker", DRIVER="docker-container")
    assert image.digest == made.digest
    assert [line[-2] for line in log] == [f"--output=type=oci,dest={tmp_path}/work/image.tar"]


@pytest.mark.parametrize("name", ["buildah", "podman"])
def test_buildah_and_podman_push_into_an_archive(
    tmp_path: Path, fake: Fake, made: Image, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake(name, DOCKER)
    image, _, log = build(tmp_path, monkeypatch, name)
    assert image.digest == made.digest
    first, push = log
    assert first[1:4] == ["build", "--layers", "--format=docker"]
    assert first[6:-3] == _FLAGS
    assert first[-3:] == [f"--ignorefile={tmp_path}/work/Dockerfile.dockerignore", "--tls-verify=false", "ctx"]
    assert push[1:] == ["push", "--quiet", "sha256:id", f"docker-archive:{tmp_path}/work/image.tar"]


def test_a_failing_build_tells_what_was_printed(
    tmp_path: Path, fake: Fake, made: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("docker", DOCKER)
    with pytest.raises(EngineFailed, match=r"docker failed with exit code 3: ERROR: no luck") as caught:
        build(tmp_path, monkeypatch, "docker", FAIL="1")
    assert caught.value.tail == "doing\nERROR: no luck"
    assert caught.value.exit_code == 21


def test_an_interrupt_ends_the_engine_and_what_it_started(tmp_path: Path, fake: Fake) -> None:
    fake("docker", f"sleep 300 & echo $! >{tmp_path}/child; echo ready; wait")
    program = (
        "import sys; from pathlib import Path; from wain.engines import *\n"
        f"engine = BuildEngine(name='docker', program=Path('{tmp_path}/bin/docker'), version='1', builder='docker')\n"
        "wanted = EngineBuild(dockerfile=Path('D'), ignore=None, context=Path('.'))\n"
        f"run_build(engine, wanted, Path('{tmp_path}'), tell=lambda line: print(line, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    process.stdout.close()
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
