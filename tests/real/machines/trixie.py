"""A Debian trixie beside the host, with newer docker (and buildx), containerd, podman and skopeo."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.debian import make_root
from tests.real.machines.machine import Machine
from tests.real.machines.places import kept, remove_tree
from tests.real.machines.processes import Finished, Running

_PACKAGES = (
    "buildah", "ca-certificates", "containerd", "crun", "docker-buildx", "docker-cli", "docker.io", "git", "podman",
    "skopeo", "tini",
)  # fmt: skip


def trixie_root() -> Path:
    """The root's folder, made by whoever comes first and kept between runs."""
    key = hashlib.sha256(repr(_PACKAGES).encode()).hexdigest()[:12]
    return kept(f"trixie-{key}", lambda folder: make_root(folder, "trixie", _PACKAGES, variant="minbase"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """A containerd that runs now, spoken to with `ctr`."""

    machine: Machine
    folder: Path
    daemon: Running

    def ctr(self, *words: str, timeout_seconds: float = 300, check: bool = True) -> Finished:
        """Run `ctr` with those words, against this daemon."""
        return self.machine.run(
            ["ctr", "--address", str(self.folder / "containerd.sock"), *words],
            timeout_seconds=timeout_seconds,
            check=check,
        )

    def load(self, archive: Path) -> list[str]:
        """Import an archive and unpack it; the names of the images that are new."""
        before = self.images()
        self.ctr("images", "import", str(archive))
        return sorted(self.images() - before)

    def images(self) -> set[str]:
        return set(self.ctr("images", "list", "--quiet").stdout.split())

    def run(self, image: str, *arguments: str, timeout_seconds: float = 120, check: bool = True) -> Finished:
        """Run a container in the host's network to its end."""
        name = f"wain-tests-{uuid.uuid4().hex[:12]}"
        return self.ctr(
            "run", "--rm", "--net-host", "--cgroup", f"/{name}", image, name, *arguments,
            timeout_seconds=timeout_seconds, check=check,
        )  # fmt: skip


@contextlib.contextmanager
def serve_containerd(machine: Machine, folder: Path) -> Iterator[Containerd]:
    """Run containerd in `machine` with all its files in `folder` (made if missing), until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    machine.keep_in_memory(folder / "root")
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\naddress = "{folder}/containerd.sock"\n'
    )
    try:
        with machine.running(
            ["containerd", "--config", config], log=folder / "containerd.log", stop_seconds=0.3
        ) as daemon:
            containerd = Containerd(machine=machine, folder=folder, daemon=daemon)
            daemon.wait_until(lambda: (folder / "containerd.sock").exists(), timeout_seconds=60)
            daemon.wait_until(lambda: containerd.ctr("version", check=False).code == 0, timeout_seconds=60)
            yield containerd
    finally:
        machine.unmount_below(folder)
        remove_tree(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Podman:
    """podman of a machine, with storage of its own."""

    machine: Machine
    folder: Path

    def cli(
        self,
        *words: str,
        timeout_seconds: float = 300,
        env: dict[str, str] | None = None,
        check: bool = True,
    ) -> Finished:
        """Run podman with those words."""
        return self.machine.run(
            [
                "podman", "--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"),
                "--tmpdir", str(self.folder / "tmp"), "--cgroup-manager=cgroupfs", "--events-backend=file", *words,
            ],
            timeout_seconds=timeout_seconds,
            env={"PODMAN_IGNORE_CGROUPSV1_WARNING": "1", **(env or {})},
            check=check,
        )  # fmt: skip

    def load(self, archive: Path) -> list[str]:
        """Load an archive; what podman says the images in it are called."""
        told = self.cli("load", "--quiet", "--input", str(archive)).output
        return re.findall(r"^Loaded image: (\S+)", told, re.MULTILINE)

    def images(self) -> set[str]:
        told = self.cli("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        return {name for name in told if "<none>" not in name}

    def run(
        self,
        image: str,
        *arguments: str,
        options: Sequence[str] = (),
        timeout_seconds: float = 120,
        check: bool = True,
    ) -> Finished:
        """`podman run --rm` in the host's network, to its end."""
        return self.cli(
            "run", "--rm", "--network=host", "--cgroups=disabled", *options, image, *arguments,
            timeout_seconds=timeout_seconds, check=check,
        )  # fmt: skip

    @contextlib.contextmanager
    def serve(self, image: str, *arguments: str, options: Sequence[str] = ()) -> Iterator[str]:
        """Run it in the background, in the host's network, until the block ends; gives its name."""
        name = f"wain-tests-{uuid.uuid4().hex[:12]}"
        self.cli("run", "--detach", "--network=host", "--cgroups=disabled", "--name", name, *options, image, *arguments)
        try:
            yield name
        finally:
            self.cli("rm", "--force", "--time=0", name, check=False)


@contextlib.contextmanager
def podman_storage(machine: Machine, folder: Path) -> Iterator[Podman]:
    """podman in `machine` with all its files in `folder` (made if missing), removed when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    machine.keep_in_memory(folder / "root")
    podman = Podman(machine=machine, folder=folder)
    try:
        yield podman
    finally:
        podman.cli("rm", "--all", "--force", "--time=0", check=False)
        machine.unmount_below(folder)
        remove_tree(folder)
