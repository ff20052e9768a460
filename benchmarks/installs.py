"""How fast an installation into a fresh environment is: wain, pip and uv, in turns in one run.

    python -m benchmarks.installs [REQUIREMENT...]

The wheels come from an index on loopback, with the headers that let clients keep them, and from a folder named by
`--find-links`. All have their caches full and none compiles. Medians of the rounds: by the clock, which other work on
the machine disturbs, and processor time; how many times as long as wain is the median of the ratios within a round.

Each installation has an environment of its own, and none is removed before the end: ext4 looks at each inode that was
freed in the last minutes before it gives out another where it has no journal, so that what follows a removal pays for
it. What one installation left to be written to the disk is written before the next begins.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REQUIREMENTS = ("pandas", "scikit-learn", "flask", "django", "sqlalchemy", "rich")
ROUNDS = 3
TOOLS = ("wain", "pip", "uv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one installation took."""

    seconds: float
    """By the clock."""
    processor_seconds: float
    """Of all processes together, user and system."""


def run(requirements: Sequence[str], rounds: int = ROUNDS) -> dict[str, dict[str, list[float]]]:
    """Seconds of each round by the clock, by where the wheels come from and by tool."""
    return {
        source: {tool: [cost.seconds for cost in costs] for tool, costs in tools.items()}
        for source, tools in measure(requirements, rounds).items()
    }


def measure(requirements: Sequence[str], rounds: int = ROUNDS) -> dict[str, dict[str, list[Cost]]]:
    """The costs of each round, by where the wheels come from and by tool."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = folder / "wheels"
        download = ["-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(wheels), *requirements]
        subprocess.run([sys.executable, *download], check=True, stderr=subprocess.DEVNULL)
        # Installers compile wain itself; here its first round does, unless a variable forbids it.
        others = ("PIP_", "UV_", "WAIN_", "PYTHONDONTWRITEBYTECODE")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        environ |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environ |= {tool: str(folder / tool.lower()) for tool in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "WAIN_CACHE_DIR")}
        costs: dict[str, dict[str, list[Cost]]] = {}
        with serve_wheels(wheels) as url:
            sources = {"index": ["--index-url", url], "find-links": ["--no-index", "--find-links", str(wheels)]}
            for number in range(rounds + 1):
                for source, options in sources.items():
                    for tool in TOOLS:
                        venv = folder / f"{tool}-{source}-{number}"
                        command = [*_command(tool, programs, venv), *options, *requirements]
                        make_venv = [str(programs / "uv"), "venv", "-q", "--python", sys.executable, str(venv)]
                        subprocess.run(make_venv, check=True, env=environ)
                        cost = _measured(command, environ)
                        if number:
                            costs.setdefault(source, {}).setdefault(tool, []).append(cost)
        return costs


def times(one: Sequence[float], other: Sequence[float]) -> float:
    """How many times as long the one took as the other, round by round; the median."""
    return statistics.median(left / right for left, right in zip(one, other, strict=True))


def _command(tool: str, programs: Path, venv: Path) -> list[str]:
    python = str(venv / "bin" / "python")
    return {
        "wain": [str(programs / "wain"), "install", "-q", "--venv", str(venv)],
        "pip": [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"],
        "uv": [str(programs / "uv"), "pip", "install", "-q", "--python", python],
    }[tool]


def _measured(command: Sequence[str], environ: dict[str, str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environ)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds=seconds, processor_seconds=processor_seconds)


@contextmanager
def serve_wheels(folder: Path) -> Iterator[str]:
    """The URL of an index with a folder's wheels, their metadata beside them, until the block ends.

    Pages may be kept for ten minutes and are known again by their tag, files may be kept forever.
    """
    answers: dict[str, tuple[bytes, str, str]] = {}
    pages: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.whl")):
        data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = archive.read(min(names, key=len))
        digest, core = hashlib.sha256(data).hexdigest(), hashlib.sha256(metadata).hexdigest()
        for name, body in ((path.name, data), (f"{path.name}.metadata", metadata)):
            answers[f"/files/{name}"] = (body, "application/octet-stream", "max-age=365000000, immutable, public")
        link = f'<a href="/files/{path.name}#sha256={digest}" data-core-metadata="sha256={core}">{path.name}</a>'
        pages.setdefault(path.name.partition("-")[0].lower().replace("_", "-").replace(".", "-"), []).append(link)
    for name, links in pages.items():
        page = "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"
        answers[f"/simple/{name}/"] = (page.encode(), "text/html", "max-age=600, public")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            body, kind, keep = answers.get(self.path, (b"", "text/plain", "no-store"))
            tag = f'"{hashlib.sha256(body[:4096]).hexdigest()}"'
            known = body and self.headers.get("If-None-Match") == tag
            self.send_response(304 if known else 200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", keep)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", "0" if known else str(len(body)))
            self.end_headers()
            if not known:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.installs")
    parser.add_argument("requirements", nargs="*", default=REQUIREMENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    for source, tools in measure(args.requirements, args.rounds).items():
        print(source)
        clock = {tool: [cost.seconds for cost in costs] for tool, costs in tools.items()}
        processor = {tool: [cost.processor_seconds for cost in costs] for tool, costs in tools.items()}
        for tool in tools:
            print(
                f"  {tool:5} {statistics.median(clock[tool]):6.2f} s,"
                f" {times(clock[tool], clock['wain']):5.2f} times wain's;"
                f" processors {statistics.median(processor[tool]):6.2f} s,"
                f" {times(processor[tool], processor['wain']):5.2f} times"
            )


if __name__ == "__main__":
    main()
