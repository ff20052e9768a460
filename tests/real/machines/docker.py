"""Docker, with daemons that tests start by hand: the classic store and containerd's.

Nothing here uses a bridge. Containers and builds get the host's network (`--network host`), or none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.machine import Machine
from tests.real.machines.places import remove_tree
from tests.real.machines.processes import Finished, Running


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container that runs in the background, in the host's network."""

    docker: Docker
    name: str

    def logs(self) -> str:
        return self.docker.cli("logs", self.name, check=False).output


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """A docker daemon that runs now, and the client of its own version."""

    machine: Machine
    folder: Path
    containerd_store: bool
    daemon: Running

    @property
    def host(self) -> str:
        """What DOCKER_HOST is to be, for a client outside the machine too."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def env(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.folder / "client"), "DOCKER_BUILDKIT": "1"}

    def cli(
        self,
        *words: str | os.PathLike[str],
        timeout_seconds: float = 300,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Path | str | None = None,
        check: bool = True,
    ) -> Finished:
        """Run Debian's `docker` client with those words, against this daemon."""
        return self.machine.run(
            ["/usr/bin/docker", *words],
            timeout_seconds=timeout_seconds,
            env={**self.env, **(env or {})},
            cwd=cwd,
            stdin=stdin,
            check=check,
        )

    def version(self) -> str:
        return self.cli("version", "--format", "{{.Server.Version}}").stdout.strip()

    def load(self, archive: Path) -> list[str]:
        """Load an archive; what docker says the images in it are called (a name or an ID each)."""
        told = self.cli("load", "--input", archive).stdout
        return re.findall(r"^Loaded image(?: ID)?: (\S+)", told, re.MULTILINE)

    def load_layout(self, layout: Path, name: str, *, tag: str = "latest") -> str:
        """Load an image from an OCI layout under that name, by way of skopeo; the name."""
        archive = self.folder / f"{uuid.uuid4().hex}.tar"
        self.machine.run(
            [
                "skopeo",
                "copy",
                "--quiet",
                "--insecure-policy",
                f"oci:{layout}:{tag}",
                f"docker-archive:{archive}:{name}",
            ]
        )
        try:
            self.load(archive)
        finally:
            archive.unlink()
        return name

    def images(self) -> set[str]:
        """The `NAME:TAG` of every image that has one."""
        told = self.cli("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        return {name for name in told if "<none>" not in name}

    def inspect(self, image: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.cli("image", "inspect", image).stdout)[0]
        return found

    def run(
        self,
        image: str,
        *arguments: str,
        options: Sequence[str] = (),
        timeout_seconds: float = 120,
        check: bool = True,
    ) -> Finished:
        """`docker run --network host` to its end; `options` are more of docker's flags.

        The container is gone afterwards, also where it took longer than `timeout_seconds`.
        """
        name = f"wain-tests-{uuid.uuid4().hex[:12]}"
        try:
            return self.cli(
                "run", "--network=host", "--name", name, *options, image, *arguments,
                timeout_seconds=timeout_seconds, check=check,
            )  # fmt: skip
        finally:
            self.cli("rm", "--force", name, check=False)

    @contextlib.contextmanager
    def serve(self, image: str, *arguments: str, options: Sequence[str] = ()) -> Iterator[Container]:
        """`docker run --detach --network host` until the block ends; `runtime.fetch_page` asks it."""
        name = f"wain-tests-{uuid.uuid4().hex[:12]}"
        self.cli("run", "--detach", "--network=host", "--name", name, *options, image, *arguments)
        try:
            yield Container(docker=self, name=name)
        finally:
            self.cli("rm", "--force", name, check=False)

    def build(
        self,
        context: Path,
        tag: str,
        *options: str | os.PathLike[str],
        timeout_seconds: float = 600,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Finished:
        """`docker build --network host` with BuildKit, tagged `tag`; its progress is in `output`."""
        return self.cli(
            "build", "--network=host", "--progress=plain", "--tag", tag, *options, context,
            timeout_seconds=timeout_seconds, env=env, check=check,
        )  # fmt: skip

    def prune(self) -> None:
        """Remove the build cache and every image, as a machine that never built anything."""
        self.cli("builder", "prune", "--all", "--force", check=False)
        self.cli("system", "prune", "--all", "--force", "--volumes")


@contextlib.contextmanager
def serve_docker(
    machine: Machine, folder: Path, *, containerd_store: bool = False, on_disk: bool = False
) -> Iterator[Docker]:
    """Run dockerd in `machine` with all its files in `folder` (made if missing), until the block ends.

    The images are gone afterwards. Containers' root is overlay2 (classic) or overlayfs (containerd store). Its data is
    kept in memory where there is plenty, at most a quarter of it, unless `on_disk`: for images of gigabytes, and for
    measurements.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not on_disk:
        machine.keep_in_memory(folder / "data")
    (folder / "client").mkdir(exist_ok=True)
    config = folder / "daemon.json"
    config.write_text(json.dumps({"features": {"containerd-snapshotter": True}} if containerd_store else {}))
    group = f"/wain-tests-{uuid.uuid4().hex[:8]}"
    # A dockerd without a bridge removes docker0 where it finds one. One that is there belongs to the host's own
    # docker: it is named, and so left as it is.
    bridge = "docker0" if Path("/sys/class/net/docker0").exists() else "none"
    command = [
        "dockerd", "--config-file", str(config), "--host", f"unix://{folder}/docker.sock",
        "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid"),
        f"--bridge={bridge}", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
        "--cgroup-parent", group, "--shutdown-timeout", "3",
    ]  # fmt: skip
    if not containerd_store:
        command.append("--storage-driver=overlay2")
    try:
        # Nothing of it is kept, so it need not tidy up for long: its containerd dies with it.
        with machine.running(command, log=folder / "dockerd.log", stop_seconds=0.3) as daemon:
            docker = Docker(machine=machine, folder=folder, containerd_store=containerd_store, daemon=daemon)
            daemon.wait_until(lambda: (folder / "docker.sock").exists(), timeout_seconds=60)
            daemon.wait_until(lambda: docker.cli("version", check=False).code == 0, timeout_seconds=60)
            yield docker
    finally:
        machine.unmount_below(folder)
        remove_cgroup(group)
        remove_tree(folder)


def remove_cgroup(group: str) -> None:
    """Remove the empty control groups below `group` (as `/name`) in every hierarchy."""
    for hierarchy in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")]:
        top = hierarchy / group.lstrip("/")
        if top.is_dir():
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
