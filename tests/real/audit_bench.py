"""Builds Dockerfiles with docker and looks what caches are in the result, and whether its program starts."""

from __future__ import annotations

import re
from pathlib import Path

from tests.real.machines.docker import Docker

_PLACES = ("*/.cache/*", "/c/*", "/cache/*", "/h/*", "*/_cacache/*", "/var/lib/apt/lists/*", "/var/cache/apt/*")
_FIND = " -o ".join(f"-path '{place}'" for place in _PLACES)


class Bench:
    """A docker daemon and a build context."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self.docker = docker
        self.folder = folder
        self.looks = 0

    def look(self, text: str, *, start: str) -> tuple[dict[str, int], bool]:
        """Cache files of the image by path with their bytes, and whether `start` succeeds in it, run by root."""
        # A step that was cached prints nothing: the last one is made new each time.
        self.looks += 1
        probe = (
            "USER 0\n"
            f"RUN find / -xdev -type f -size +0 \\( {_FIND} \\) -not -path '*/virtualenvs/*' "
            "-printf 'CACHED %s %p\\n'; "
            f"if {start}; then echo STARTS; fi; echo PROBED; : {self.looks}\n"
        )
        (self.folder / "Dockerfile").write_text(text + probe)
        told = self.docker.cli(
            "build", "--network=host", "--progress=plain", "--output=type=cacheonly", self.folder
        ).output
        assert re.search(r"^#\d+ [\d.]+ PROBED$", told, re.MULTILINE), told
        found = re.findall(r"^#\d+ [\d.]+ CACHED (\d+) (/.+)$", told, re.MULTILINE)
        files = {path: int(size) for size, path in found}
        return files, re.search(r"^#\d+ [\d.]+ STARTS$", told, re.MULTILINE) is not None

    def layer_bytes(self, text: str) -> list[int]:
        """The sizes of an image's layers as docker counts them, the newest first."""
        (self.folder / "Dockerfile").write_text(text)
        self.docker.build(self.folder, "wain-truth:layers")
        told = self.docker.cli("history", "--human=false", "--format={{.Size}}", "wain-truth:layers").stdout
        return [int(line) for line in told.split()]
