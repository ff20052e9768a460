"""How fast an installation into a fresh environment is: wain, pip and uv, in turns in one run.

    python -m benchmarks.installs [REQUIREMENT...]

All have their caches full, none compiles, and none asks an index: the wheels lie in a folder. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = ("pandas", "scikit-learn", "flask", "django", "sqlalchemy", "rich")
ROUNDS = 3


def run(requirements: Sequence[str], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each round, by tool."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = folder / "wheels"
        download = ["-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(wheels), *requirements]
        subprocess.run([sys.executable, *download], check=True, stderr=subprocess.DEVNULL)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "WAIN_"))}
        environ |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environ |= {tool: str(folder / tool.lower()) for tool in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "WAIN_CACHE_DIR")}
        source = ["--no-index", "--find-links", str(wheels)]
        venv = folder / "venv"
        python = str(venv / "bin" / "python")
        pip = [sys.executable, "-m", "pip"]
        commands = {
            "wain": [str(programs / "wain"), "install", "-q", *source, "--venv", str(venv), *requirements],
            "pip": [*pip, "--python", python, "install", "-q", "--no-compile", *source, *requirements],
            "uv": [str(programs / "uv"), "pip", "install", "-q", "--python", python, *source, *requirements],
        }
        seconds: dict[str, list[float]] = {tool: [] for tool in commands}
        for number in range(rounds + 1):
            for tool, command in commands.items():
                shutil.rmtree(venv, ignore_errors=True)
                subprocess.run(
                    [str(programs / "uv"), "venv", "-q", "--python", sys.executable, str(venv)], check=True, env=environ
                )
                began = time.perf_counter()
                subprocess.run(command, check=True, env=environ)
                if number:
                    seconds[tool].append(time.perf_counter() - began)
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.installs")
    parser.add_argument("requirements", nargs="*", default=REQUIREMENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    seconds = {tool: statistics.median(found) for tool, found in run(args.requirements, args.rounds).items()}
    for tool, found in seconds.items():
        print(f"{tool:5} {found:6.2f} s   {found / seconds['wain']:5.2f} times wain's")


if __name__ == "__main__":
    main()
