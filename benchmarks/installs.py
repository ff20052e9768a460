"""How fast an installation into a fresh environment is: wain, pip and uv, in turns in one run.

    python -m benchmarks.installs [REQUIREMENT...]

An index on loopback serves the wheels, with the headers that let clients keep them, and all have their caches full.
None compiles. Medians of the rounds: by the clock, which other work on the machine disturbs, and processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one installation took."""

    seconds: float
    """By the clock."""
    processor_seconds: float
    """Of all processes together, user and system."""


def run(requirements: Sequence[str], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each round by the clock, by tool."""
    return {tool: [cost.seconds for cost in costs] for tool, costs in measure(requirements, rounds).items()}


def measure(requirements: Sequence[str], rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """The costs of each round, by tool."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = folder / "wheels"
        download = ["-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(wheels), *requirements]
        subprocess.run([sys.executable, *download], check=True, stderr=subprocess.DEVNULL)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "WAIN_"))}
        environ |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environ |= {tool: str(folder / tool.lower()) for tool in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "WAIN_CACHE_DIR")}
        venv = folder / "venv"
        python = str(venv / "bin" / "python")
        make_venv = [str(programs / "uv"), "venv", "-q", "--python", sys.executable, str(venv)]
        costs: dict[str, list[Cost]] = {}
        with serve_wheels(wheels) as url:
            source = ["--index-url", url]
            pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"]
            commands = {
                "wain": [str(programs / "wain"), "install", "-q", *source, "--venv", str(venv), *requirements],
                "pip": [*pip, *source, *requirements],
                "uv": [str(programs / "uv"), "pip", "install", "-q", "--python", python, *source, *requirements],
            }
            for number in range(rounds + 1):
                for tool, command in commands.items():
                    shutil.rmtree(venv, ignore_errors=True)
                    subprocess.run(make_venv, check=True, env=environ)
                    cost = _measured(command, environ)
                    if number:
                        costs.setdefault(tool, []).append(cost)
        return costs


def _measured(command: Sequence[str], environ: dict[str, str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
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
    costs = measure(args.requirements, args.rounds)
    clock = {tool: statistics.median(cost.seconds for cost in found) for tool, found in costs.items()}
    processor = {tool: statistics.median(cost.processor_seconds for cost in found) for tool, found in costs.items()}
    for tool in costs:
        print(
            f"{tool:5} {clock[tool]:6.2f} s, {clock[tool] / clock['wain']:5.2f} times wain's;"
            f" processors {processor[tool]:6.2f} s, {processor[tool] / processor['wain']:5.2f} times"
        )


if __name__ == "__main__":
    main()
