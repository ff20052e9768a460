"""Container engines that build Dockerfiles: which of them is there and answers, and one build by it.

docker (through BuildKit), buildah and podman are run as processes. What an engine prints is passed on; what it makes
is read back as an archive.

Sources: the manuals of docker buildx build, docker image save, buildah-build, buildah-push and podman-build.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from msgspec import Struct, field

from wain import archive
from wain.errors import EngineError
from wain.image import Image, Index
from wain.names import ArchiveReference
from wain.records import Record

log = logging.getLogger(__name__)

NAMES = ("docker", "buildah", "podman")
_PROBE_SECONDS = 20
_END_SECONDS = 10
_TAIL_LINES = 400
# Variables that would change the engine's own program, were a build argument passed through them.
_OWN_VARIABLES = re.compile(r"PATH|HOME|USER|TMPDIR|LD_.*|DOCKER_.*|BUILD.*|CONTAINER.*|.*_(?:proxy|PROXY)|XDG_.*")


class BuildEngine(Struct, frozen=True, kw_only=True):
    """An engine that answers."""

    name: str
    """docker, buildah or podman."""
    program: Path
    version: str
    builder: str = ""
    """Of docker: its builder's driver (`docker`, `docker-container`, ...), or `client` where there is no buildx."""
    isolation: str = ""
    """Of buildah and podman: what the environment says of it."""

    def __str__(self) -> str:
        how = {"": "", "client": " (BuildKit)", "docker": " (BuildKit through buildx)"}.get(
            self.builder, f" (BuildKit in {self.builder})"
        )
        return f"{self.name} {self.version}{how}"

    @property
    def has_contexts(self) -> bool:
        """Whether it has named build contexts: BuildKit before 0.10 has none, nor docker's own client, and it mounts
        images alone."""
        return self.builder != "client" and (self.builder != "docker" or _numbers(self.version) >= (23,))

    @property
    def why_no_mounts(self) -> str:
        """Why files cannot be mounted into a RUN; empty where they can."""
        if self.name == "docker":
            return ""
        least = (1, 27) if self.name == "buildah" else (4, 2)
        if _numbers(self.version) < least:
            return f"{self.name} has named contexts from {least[0]}.{least[1]} on"
        if self.isolation == "chroot":
            return f"{self.name}'s chroot isolation hides what is mounted below /dev"
        return ""


class EngineBuild(Record, frozen=True, kw_only=True):
    """What is asked of an engine."""

    unshown: ClassVar = ("build_args",)

    dockerfile: Path
    ignore: Path | None
    """What is left out of the context; it stands beside the Dockerfile, under its name and `.dockerignore`."""
    context: Path
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named build contexts: a folder, or `docker-image://REFERENCE`."""
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    platform: str | None = None
    """Where it is not the engine's own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """As `--secret` takes them."""
    network: str | None = None
    insecure: bool = False
    more: tuple[str, ...] = ()
    """Further flags for the engine's build command."""


class EngineFailed(EngineError):
    """The engine's build ended with an error; `tail` is the end of what it printed."""

    def __init__(self, message: str, *, hint: str, tail: str) -> None:
        super().__init__(message, hint=hint)
        self.tail = tail


def find_engine(wanted: str = "auto", environ: Mapping[str, str] | None = None) -> BuildEngine:
    """The engine of that name, or with `auto` the first of docker, buildah and podman that is there and answers.

    :raises EngineError: when there is none; says of each what is wrong with it.
    """
    env = dict(os.environ if environ is None else environ)
    problems: list[str] = []
    for name in NAMES if wanted == "auto" else (wanted,):
        programs = list(_programs(name, env))
        if not programs:
            problems.append(f"{name} is not installed")
        for program in programs:
            found = _PROBES[name](program, env)
            if isinstance(found, BuildEngine):
                return found
            problems.append(f"{program}: {found}")
    raise EngineError(
        f"no container engine answers: {'; '.join(problems)}",
        hint="Install or start docker, buildah or podman, or choose one with --engine.",
    )


def _programs(name: str, env: Mapping[str, str]) -> Iterator[Path]:
    """Each program of that name on PATH: the first may be a client that cannot build."""
    seen: set[Path] = set()
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder or ".", name)
        with contextlib.suppress(OSError):
            if path.is_file() and os.access(path, os.X_OK) and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _ask(words: Sequence[str | Path], env: Mapping[str, str]) -> tuple[str, str]:
    """A short command's output, and the last line of its complaint where it fails."""
    try:
        done = subprocess.run(
            [os.fspath(word) for word in words],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"does not answer in {_PROBE_SECONDS} s"
    except OSError as error:
        return "", f"cannot be run: {error.strerror}"
    told = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        complaint = (done.stderr.decode("utf-8", "replace").strip() or told).splitlines()
        return "", (complaint[-1][:200] if complaint else f"ended with {done.returncode}")
    return told, ""


def _probe_docker(program: Path, env: Mapping[str, str]) -> BuildEngine | str:
    told, _ = _ask([program, "--version"], env)
    if "podman" in told:
        return "it is podman under another name"
    version, problem = _ask([program, "version", "--format", "{{.Server.Version}}"], env)
    if problem:
        return problem
    _, problem = _ask([program, "buildx", "version"], env)
    if not problem:
        told, _ = _ask([program, "buildx", "inspect"], env)
        driver = re.search(r"(?m)^Driver:\s*(\S+)", told)
        return BuildEngine(name="docker", program=program, version=version, builder=driver[1] if driver else "docker")
    client, _ = _ask([program, "version", "--format", "{{.Client.Version}}"], env)
    if _numbers(client) >= (23,):
        return "it lacks the buildx component, without which it has no BuildKit"
    if _numbers(version) < (18, 9):
        return f"its daemon {version} has no BuildKit"
    return BuildEngine(name="docker", program=program, version=version, builder="client")


def _probe_buildah(program: Path, env: Mapping[str, str]) -> BuildEngine | str:
    told, problem = _ask([program, "--version"], env)
    if not problem:
        _, problem = _ask([program, "info"], env)
    if problem:
        return problem
    number = re.search(r"\d+(?:\.\d+)+", told)
    return BuildEngine(
        name=program.name,
        program=program,
        version=number[0] if number else "0",
        isolation=env.get("BUILDAH_ISOLATION", ""),
    )


_PROBES: Mapping[str, Callable[[Path, Mapping[str, str]], BuildEngine | str]] = {
    "docker": _probe_docker,
    "buildah": _probe_buildah,
    "podman": _probe_buildah,
}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("-")[0])[:3])


def run_build(engine: BuildEngine, wanted: EngineBuild, folder: Path, *, tell: Callable[[str], None]) -> Image | Index:
    """The image that the engine makes. Its layers are read from a file in `folder` as long as they are in use.

    :param tell: takes each line that the engine prints.
    :raises EngineFailed: when it fails.
    """
    if engine.name == "docker":
        made = _docker_build(engine, wanted, folder, tell)
    else:
        made = _buildah_build(engine, wanted, folder, tell)
    return archive.read(ArchiveReference(path=made))


@contextlib.contextmanager
def loaded(engine: BuildEngine, image: Image, name: str, folder: Path) -> Iterator[None]:
    """Has an image in docker's own store until the block ends."""
    path = folder / "files.tar"
    archive.write(image, ArchiveReference(path=path), names=(name,))
    _run(engine, [engine.program, "image", "load", "--quiet", f"--input={path}"], {}, log.debug)
    try:
        yield
    finally:
        _ask([engine.program, "image", "rm", name], os.environ)


def _docker_build(engine: BuildEngine, wanted: EngineBuild, folder: Path, tell: Callable[[str], None]) -> Path:
    env = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "DOCKER_BUILDKIT": "1"}
    verb = ["build"] if engine.builder == "client" else ["buildx", "build"]
    flags, given = _flags(wanted)
    made = folder / "image.tar"
    command: list[str | Path] = [engine.program, *verb, "--progress=plain", f"--file={wanted.dockerfile}", *flags]
    if engine.builder not in ("client", "docker"):
        # A builder of its own gives the image itself; it need not pass through a daemon.
        _run(engine, [*command, f"--output=type=oci,dest={made}", wanted.context], {**env, **given}, tell)
        return made
    name = f"wain-build:{uuid.uuid4().hex}"
    load = ["--load"] if engine.builder == "docker" else []
    _run(engine, [*command, *load, f"--tag={name}", wanted.context], {**env, **given}, tell)
    try:
        _run(engine, [engine.program, "image", "save", f"--output={made}", name], {}, tell)
    finally:
        _ask([engine.program, "image", "rm", name], os.environ)
    return made


def _buildah_build(engine: BuildEngine, wanted: EngineBuild, folder: Path, tell: Callable[[str], None]) -> Path:
    flags, given = _flags(wanted)
    if wanted.ignore is not None:
        flags.append(f"--ignorefile={wanted.ignore}")
    if wanted.insecure:
        flags.append("--tls-verify=false")
    name, made = folder / "image-id", folder / "image.tar"
    # Docker's format keeps what OCI's has no field for: HEALTHCHECK, SHELL, ONBUILD.
    command: list[str | Path] = [engine.program, "build", "--layers", "--format=docker", f"--iidfile={name}"]
    _run(engine, [*command, f"--file={wanted.dockerfile}", *flags, wanted.context], given, tell)
    identity = name.read_text().strip()
    _run(engine, [engine.program, "push", "--quiet", identity, f"docker-archive:{made}"], {}, tell)
    return made


def _flags(wanted: EngineBuild) -> tuple[list[str], dict[str, str]]:
    """The flags that all engines have in common, and variables that hold the values of build arguments."""
    flags: list[str] = []
    given: dict[str, str] = {}
    for name, value in wanted.build_args.items():
        # A value in the environment is seen by fewer than one among a process's arguments.
        if name in os.environ or _OWN_VARIABLES.fullmatch(name):
            flags.append(f"--build-arg={name}={value}")
        else:
            flags.append(f"--build-arg={name}")
            given[name] = value
    flags += [f"--build-context={name}={place}" for name, place in wanted.contexts.items()]
    flags += [f"--label={name}={value}" for name, value in wanted.labels.items()]
    flags += [f"--secret={text}" for text in wanted.secrets]
    if wanted.target:
        flags.append(f"--target={wanted.target}")
    if wanted.platform:
        flags.append(f"--platform={wanted.platform}")
    if wanted.network:
        flags.append(f"--network={wanted.network}")
    return [*flags, *wanted.more], given


def _run(engine: BuildEngine, words: Sequence[str | Path], env: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """One command of the engine to its end. It ends with this process, however that is interrupted.

    :raises EngineFailed: when it fails.
    """
    command = [os.fspath(word) for word in words]
    log.debug("%s", " ".join(command))
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    except OSError as error:
        raise EngineError(
            f"{engine.program} cannot be run: {error.strerror}", hint="Choose another one with --engine."
        ) from error
    assert process.stdout is not None
    try:
        for line in process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            tail.append(text)
            tell(text)
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        process.stdout.close()
    if code:
        last = next((line for line in reversed(tail) if re.match(r"\s*error", line, re.IGNORECASE)), "")
        raise EngineFailed(
            f"{engine.name} failed with exit code {code}{': ' + last.strip()[:300] if last else ''}",
            hint="What it printed is above; the line numbers are those of your Dockerfile.",
            tail="\n".join(tail),
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and all that it started: as a terminal would, then politely, then by force."""
    for number, seconds in ((signal.SIGINT, _END_SECONDS), (signal.SIGTERM, 1), (signal.SIGKILL, 1)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
