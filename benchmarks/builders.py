"""The builders that are compared: each makes an image of the same folder from the same index and base."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from tests.real.machines.bases import Base, official_like_base
from tests.real.machines.docker import Docker, serve_docker
from tests.real.machines.index_front import IndexFront, serve_index_front
from tests.real.machines.machine import Machine, start_machine
from tests.real.machines.places import remove_tree
from tests.real.machines.processes import Finished, run
from tests.real.machines.registry import Registry, serve_registry
from tests.real.machines.trixie import trixie_root

BUILD_SECONDS = 2 * 3600
PUSH_SECONDS = 3600
"""More than the largest scenario takes on a slow machine; what takes longer hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all builders work with: the same front of the index, the same bases, one registry."""

    folder: Path
    front: IndexFront
    registry: Registry
    machine: Machine
    docker: Docker
    uv_program: Path
    uv_reference: str
    """An image that holds that program alone, as uv's guide has one to copy from."""
    bases: dict[str, str] = field(default_factory=dict)
    """Python's minor version -> the reference of the base in the registry."""

    def base(self, python: str) -> str:
        """The reference of the base with that Python; it is made and pushed when it is first asked for."""
        if python not in self.bases:
            made: Base = official_like_base(python)
            self.bases[python] = made.push(self.registry, f"bench/base:{python}")
        return self.bases[python]

    def clear_registry(self) -> None:
        """Remove every image but the bases and uv from the registry's storage."""
        root = self.registry.storage / "docker/registry/v2"
        for repository in (root / "repositories/bench").iterdir():
            if repository.name not in ("base", "uv"):
                remove_tree(repository)
        used = {link.read_text().strip().rpartition(":")[2] for link in (root / "repositories").rglob("link")}
        for data in root.glob("blobs/*/*/*"):
            if data.name not in used:
                remove_tree(data)


@contextmanager
def open_place(folder: Path | None = None) -> Iterator[Place]:
    """Start registry, index front and Docker; all end with the block, and nothing of them stays."""
    folder = folder or Path(tempfile.mkdtemp(prefix="wain-bench-"))
    with ExitStack() as stack:
        stack.callback(remove_tree, folder)
        front = stack.enter_context(serve_index_front(folder / "front"))
        registry = stack.enter_context(serve_registry(folder / "registry"))
        machine = stack.enter_context(start_machine(folder / "trixie", debian_root=trixie_root()))
        docker = stack.enter_context(serve_docker(machine, folder / "docker", on_disk=True))
        # Docker's machine may not have the folder that it is installed in.
        program = folder / "uv/uv"
        program.parent.mkdir()
        shutil.copy2(find_uv_bin(), program)
        yield Place(
            folder=folder,
            front=front,
            registry=registry,
            machine=machine,
            docker=docker,
            uv_program=program,
            uv_reference=_push_uv(program, registry, docker),
        )


def _push_uv(program: Path, registry: Registry, docker: Docker) -> str:
    (program.parent / "Dockerfile").write_text("FROM scratch\nCOPY uv /uv\n")
    name = f"{registry.host}/bench/uv:1"
    docker.build(program.parent, name)
    docker.cli("push", "--quiet", name)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image to make: of which folder, on which base, and its name in the registry."""

    place: Place
    project: Path
    base: str
    tag: str

    def named(self, tag: str) -> Job:
        return Job(place=self.place, project=self.project, base=self.base, tag=tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A way to make the image of a project's folder and to put it into the registry."""

    name: str
    has_bytecode: bool
    publish: Callable[[Job], None]
    """Builds and pushes."""
    forget: Callable[[Job], None]
    """Back to a machine that has nothing."""
    ready: Callable[[Job], None] = lambda job: None
    """Puts the base at hand, which `forget` has taken away."""
    lock: str = ""
    """The lock that it reads; where there is none, it reads requirements.txt, where all is pinned."""

    @property
    def locks_layers(self) -> bool:
        """Whether its lock may name layers, and what must be known of the base."""
        return self.lock == "pylock.toml"


def wain_builder(
    *words: str, name: str = "wain", has_bytecode: bool = False, uses_lock: bool = True, own_base: bool = False
) -> Builder:
    """wain with a store of its own, straight to the registry.

    :param own_base: on the base that it makes of Debian packages.
    """

    def call(job: Job, *rest: str | Path) -> None:
        base = own_base_name(job) if own_base else job.base
        store = store_folder(job.place, name)
        program = Path(sys.executable).parent / "wain"
        env = {**job.place.front.pip_env, "PYTHONDONTWRITEBYTECODE": ""}
        flags = ["-q", "--base", base, "--cache-dir", str(store)]
        run([program, "build", *flags, *words, *rest], env=env, timeout_seconds=BUILD_SECONDS)

    def publish(job: Job) -> None:
        call(job, *publishing(job))

    def forget(job: Job) -> None:
        remove_tree(store_folder(job.place, name))

    def ready(job: Job) -> None:
        with tempfile.TemporaryDirectory(dir=job.place.folder) as folder:
            (Path(folder) / "app.py").write_text("")
            (Path(folder) / "requirements.txt").write_text("")
            call(job, folder, "-o", f"oci:{folder}/layout")

    lock = "pylock.toml" if uses_lock else ""
    return Builder(name=name, has_bytecode=has_bytecode, publish=publish, forget=forget, ready=ready, lock=lock)


def publishing(job: Job) -> list[str | Path]:
    """What a command line of wain says of the project, and of where its image goes."""
    return [job.project, "-t", job.tag, "--push"]


def store_folder(place: Place, name: str) -> Path:
    """The store of one of wain's builders."""
    return place.folder / f"store-{''.join(char if char.isalnum() else '-' for char in name)}"


def own_base_name(job: Job) -> str:
    """wain's own base with the Python of a job's base."""
    from wain.names import SUITES

    return f"debian:{SUITES[next(minor for minor, base in job.place.bases.items() if base == job.base)]}"


_PIP = """\
FROM {base}
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements.txt .
RUN {mount}pip install {flags}-r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""

_UV_PIP = """\
FROM {base}
COPY --from={uv} /uv /bin/uv
ARG UV_DEFAULT_INDEX
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --system -r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""

# The form of uv's guide for projects: what they need in a layer of its own, from the lock alone, then the project.
_UV_SYNC = """\
FROM {base}
COPY --from={uv} /uv /bin/uv
ARG UV_DEFAULT_INDEX
ENV UV_LINK_MODE=copy{env}
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/uv \\
    --mount=type=bind,source=uv.lock,target=uv.lock \\
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \\
    uv sync --locked --no-install-project
COPY . /app
RUN --mount=type=cache,target=/root/.cache/uv \\
    uv sync --locked
ENV PATH="/app/.venv/bin:$PATH"
CMD ["python", "app.py"]
"""


def docker_pip(name: str, *, flags: str = "", mount: bool = False, has_bytecode: bool = True) -> Builder:
    """`docker build` with pip, as a Dockerfile of that kind is written."""
    mounted = "--mount=type=cache,target=/root/.cache/pip " if mount else ""
    return _docker(name, lambda job: _pip_file(job, mounted, flags), has_bytecode=has_bytecode)


def _pip_file(job: Job, mount: str, flags: str) -> str:
    return docker_file_of_pip(job.base, mount=mount, flags=flags)


def docker_file_of_pip(base: str, *, mount: str = "", flags: str = "") -> str:
    """The Dockerfile of a project with requirements.txt and app.py, installed by pip."""
    return _PIP.format(base=base, mount=mount, flags=f"{flags} " if flags else "")


def docker_uv_sync(name: str, *, has_bytecode: bool = False, inline_cache: bool = False) -> Builder:
    """`docker build` with uv's lock and a cache mount, as uv's guide advises.

    :param inline_cache: whether the image in the registry is written and read as BuildKit's cache.
    """
    env = " UV_COMPILE_BYTECODE=1" if has_bytecode else ""

    def text(job: Job) -> str:
        return _UV_SYNC.format(base=job.base, uv=job.place.uv_reference, env=env)

    return _docker(name, text, has_bytecode=has_bytecode, inline_cache=inline_cache, lock="uv.lock")


def docker_uv_pip(name: str) -> Builder:
    """`docker build` with uv in the place of pip, and a cache mount."""
    return _docker(name, lambda job: _UV_PIP.format(base=job.base, uv=job.place.uv_reference), has_bytecode=False)


def _write_dockerfile(job: Job, text: str) -> Path:
    path = job.place.folder / "Dockerfile"
    path.write_text(text)
    return path


def _arguments(job: Job) -> list[str]:
    values = {
        "PIP_INDEX_URL": job.place.front.url,
        "PIP_TRUSTED_HOST": "127.0.0.1",
        "UV_DEFAULT_INDEX": job.place.front.url,
    }
    return [word for key, value in values.items() for word in ("--build-arg", f"{key}={value}")]


def _docker(
    name: str, dockerfile: Callable[[Job], str], *, has_bytecode: bool, inline_cache: bool = False, lock: str = ""
) -> Builder:
    def publish(job: Job) -> None:
        options = _arguments(job)
        if inline_cache:
            options += ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]
            options += ["--cache-from", f"{job.tag.rpartition(':')[0]}:latest"]
        path = _write_dockerfile(job, dockerfile(job))
        docker = job.place.docker
        docker.build(job.project, job.tag, "--file", str(path), *options, timeout_seconds=BUILD_SECONDS)
        docker.cli("push", "--quiet", job.tag, timeout_seconds=PUSH_SECONDS)
        if inline_cache:
            latest = f"{job.tag.rpartition(':')[0]}:latest"
            docker.cli("tag", job.tag, latest)
            docker.cli("push", "--quiet", latest, timeout_seconds=PUSH_SECONDS)

    def forget(job: Job) -> None:
        # What was pulled stays, which to pull again before each measurement would cost seconds.
        docker = job.place.docker
        docker.cli("builder", "prune", "--all", "--force", timeout_seconds=PUSH_SECONDS)
        if built := docker.images() - at_hand(job):
            docker.cli("rmi", "--force", *sorted(built), timeout_seconds=PUSH_SECONDS)
        docker.cli("system", "prune", "--force", "--volumes")

    def ready(job: Job) -> None:
        for reference in at_hand(job) - job.place.docker.images():
            job.place.docker.cli("pull", "--quiet", reference)

    def at_hand(job: Job) -> set[str]:
        return {job.base, job.place.uv_reference}

    return Builder(name=name, has_bytecode=has_bytecode, publish=publish, forget=forget, ready=ready, lock=lock)


def buildah_pip(name: str, *, flags: str) -> Builder:
    """`buildah build --layers` with pip, without a daemon."""

    def call(job: Job, *words: str | Path, timeout_seconds: float = 600) -> Finished:
        folder = job.place.folder / "buildah"
        folder.mkdir(exist_ok=True)
        return job.place.machine.run(
            ["buildah", "--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "overlay", *words],
            env={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(job.place.folder)},
            timeout_seconds=timeout_seconds,
        )

    def publish(job: Job) -> None:
        path = _write_dockerfile(job, _pip_file(job, "", flags))
        # What it asks for by default may be more than a machine allows.
        limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        hard = {name: resource.getrlimit(number)[1] for name, number in limits.items()}
        call(
            job, "build", "--layers", "--network=host", "--tls-verify=false", "--quiet", "--tag", job.tag,
            *(f"--ulimit={name}={most}:{most}" for name, most in hard.items()),
            *_arguments(job), "--file", path, job.project, timeout_seconds=BUILD_SECONDS,
        )  # fmt: skip
        call(job, "push", "--quiet", "--tls-verify=false", job.tag, f"docker://{job.tag}", timeout_seconds=PUSH_SECONDS)

    def forget(job: Job) -> None:
        call(job, "rmi", "--all", "--force")

    def ready(job: Job) -> None:
        call(job, "pull", "--quiet", "--tls-verify=false", job.base)

    return Builder(name=name, has_bytecode=True, publish=publish, forget=forget, ready=ready)


WAIN = wain_builder()
WAIN_BUILT_IN = wain_builder(name="wain, no lock, own base", uses_lock=False, own_base=True)
WAIN_COMPILE = wain_builder("--compile", name="wain --compile", has_bytecode=True)
WAIN_UNLOCKED = wain_builder(name="wain, no lock", uses_lock=False)
PIP_NO_CACHE = docker_pip("docker + pip --no-cache-dir", flags="--no-cache-dir")
PIP_NO_COMPILE = docker_pip(
    "docker + pip --no-cache-dir --no-compile", flags="--no-cache-dir --no-compile", has_bytecode=False
)
PIP_PLAIN = docker_pip("docker + pip")
PIP_MOUNT = docker_pip("docker + pip, cache mount", mount=True)
UV_SYNC = docker_uv_sync("docker + uv sync, cache mount")
UV_COMPILE = docker_uv_sync("docker + uv sync, cache mount, bytecode", has_bytecode=True)
UV_INLINE = docker_uv_sync("docker + uv sync, cache mount, inline cache", inline_cache=True)
UV_PIP = docker_uv_pip("docker + uv pip, cache mount")
BUILDAH = buildah_pip("buildah + pip --no-cache-dir", flags="--no-cache-dir")

ALL = (
    WAIN, WAIN_COMPILE, WAIN_UNLOCKED, WAIN_BUILT_IN, PIP_PLAIN, PIP_NO_CACHE, PIP_NO_COMPILE, PIP_MOUNT, UV_SYNC,
    UV_COMPILE, UV_INLINE, UV_PIP, BUILDAH,
)  # fmt: skip
