"""Namespaces that daemons run in, so that all they start and mount is gone when the test is.

A machine has mount and process namespaces of its own, and the host's network: what listens on 127.0.0.1 of the host
(a registry, the package index's front) is there for its daemons and for containers with `--network host`, and what a
container with host networking serves is there for the test. Daemons in it make no bridge and touch no firewall rule.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.machines.places import cache_dir, remove_tree, require_root, require_tool
from tests.real.machines.processes import Finished, Running, run, running

# Arguments: root (or empty), scratch folder, then the folders that are shared.
_ENTER = r"""
set -eu
root=$1 scratch=$2
shift 2
if [ -z "$root" ]; then
    # Sockets and mounts of the daemons here must not meet those of daemons that the host itself runs.
    for folder in /run/containerd /run/docker /run/crun /run/runc /run/libpod; do
        mkdir -p "$folder"
        mount -t tmpfs tmpfs "$folder"
    done
    exec tini -s -- sleep infinity
fi
mkdir -p "$scratch/upper" "$scratch/work" "$scratch/root"
new="$scratch/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" "$new"
mount -t proc proc "$new/proc"
mount --rbind /sys "$new/sys"
mount --rbind /dev "$new/dev"
# crun wants version 1 of control groups or version 2, and refuses what has both.
if [ -d "$new/sys/fs/cgroup/unified" ]; then umount -l "$new/sys/fs/cgroup/unified" || true; fi
mount -t tmpfs -o mode=755 tmpfs "$new/run"
for folder in "$@"; do
    mkdir -p "$new$folder"
    mount --bind "$folder" "$new$folder"
done
cat /etc/resolv.conf >"$new/etc/resolv.conf" || true
cat /etc/hosts >"$new/etc/hosts" || true
mkdir -p "$new/.old"
cd "$new"
pivot_root . .old
umount -l /.old
rmdir /.old
exec tini -s -- sleep infinity
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Namespaces that exist now. Shared folders have the same path inside and outside."""

    pid: int
    scratch: Path
    debian_root: Path | None

    def command(self, words: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None) -> list[str]:
        """The command that runs `words` in here."""
        inner = [os.fspath(word) for word in words]
        folder = [f"--chdir={cwd or '/'}"]
        return [str(require_tool("nsenter")), f"--target={self.pid}", "--mount", "--pid", "env", *folder, *inner]

    def run(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        timeout_seconds: float = 120,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Path | str | None = None,
        check: bool = True,
    ) -> Finished:
        """Run a program in here to its end, as `processes.run` does."""
        return run(self.command(words, cwd=cwd), timeout_seconds=timeout_seconds, env=env, stdin=stdin, check=check)

    def keep_in_memory(self, folder: Path) -> None:
        """Keep what is written in `folder` (made if missing) in memory where there is plenty, for this machine alone.

        Loading and removing the tens of thousands of files of an image costs seconds on a disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        told = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if told and int(told[1]) > 8 << 20:
            self.run(["mount", "-t", "tmpfs", "-o", "size=25%,mode=711", "tmpfs", folder])

    def unmount_below(self, folder: Path) -> None:
        """Let go of everything mounted below `folder`, so that it can be removed."""
        mounts = self.run(["cat", "/proc/self/mounts"], check=False).stdout.splitlines()
        points = [line.split()[1] for line in mounts]
        for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
            self.run(["umount", "--lazy", point], check=False)

    @contextlib.contextmanager
    def running(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        stop_seconds: float = 10,
    ) -> Iterator[Running]:
        """Run a program in here until the block ends, as `processes.running` does."""
        with running(self.command(words), log=log, env=env, stop_seconds=1) as started:
            try:
                yield started
            finally:
                # nsenter does not pass signals on, so the program itself is told.
                children = _children(started.process.pid)
                _signal(children, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.process.wait(stop_seconds)
                if started.process.poll() is None:
                    _signal(children, signal.SIGKILL)


@contextlib.contextmanager
def start_machine(folder: Path, *, debian_root: Path | None = None, share: Sequence[Path] = ()) -> Iterator[Machine]:
    """A machine on the host's own files, or on a Debian root that is never written to.

    `folder` (made if missing) takes what is written outside the shared folders: the temporary folder, the tests'
    cache, the checkout and `share`. When the block ends every process in the machine is killed and nothing is mounted
    any more. Needs root.
    """
    require_root()
    folder.mkdir(parents=True, exist_ok=True)
    require_tool("tini")
    checkout = Path(__file__).resolve().parents[3]
    shared: list[Path] = []
    for path in (Path(tempfile.gettempdir()), cache_dir(), checkout, folder, *share):
        path = path.resolve()
        if not any(path.is_relative_to(other) for other in shared):
            shared.append(path)
    command: list[str | Path] = [
        require_tool("unshare"), "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc",
        "--kill-child=SIGKILL", "sh", "-c", _ENTER, "enter", str(debian_root or ""), str(folder / "machine"),
        *map(str, shared),
    ]  # fmt: skip
    with running(command, log=folder / "machine.log", stop_seconds=0.05) as holder:

        def entered() -> bool:
            return any(_name(child) == "tini" for child in _children(holder.process.pid))

        holder.wait_until(entered)
        yield Machine(pid=_children(holder.process.pid)[0], scratch=folder / "machine", debian_root=debian_root)
    remove_tree(folder / "machine")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
