"""Programs called docker, buildah and podman that run those of a machine, for a `wain` outside of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.docker import Docker
from tests.real.machines.machine import Machine
from tests.real.machines.places import require_tool

# Here neither runtime may raise a limit, as they do unless told.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """A folder for PATH with the three programs; buildah and podman share a storage of their own."""

    machine: Machine
    folder: Path

    @property
    def storage(self) -> list[str]:
        return ["--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]


def engine_programs(machine: Machine, docker: Docker, folder: Path) -> Engines:
    """The programs in `folder` (made if missing); they see the same files as their caller."""
    engines = Engines(machine=machine, folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    machine.keep_in_memory(folder / "storage")
    _program(machine, folder / "docker", ["/usr/bin/docker"], docker.env)
    quiet = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    _program(machine, folder / "buildah", ["/usr/bin/buildah", *engines.storage], quiet)
    podman = ["/usr/bin/podman", *engines.storage, "--tmpdir", f"{folder}/tmp", "--cgroup-manager=cgroupfs"]
    _program(machine, folder / "podman", [*podman, "--events-backend=file"], quiet)
    return engines


def _program(machine: Machine, path: Path, words: Sequence[str], env: Mapping[str, str]) -> None:
    enter = [str(require_tool("nsenter")), f"--target={machine.pid}", "--mount", "--pid", "env"]
    given = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", *(f"{name}={value}" for name, value in env.items())]
    # The caller's folder exists inside too, where it is shared.
    path.write_text(f'#!/bin/sh\nexec {shlex.join(enter)} --chdir="$PWD" {shlex.join([*given, *words])} "$@"\n')
    path.chmod(0o755)
