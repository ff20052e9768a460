"""The standard library's byte code, made by the interpreter of the packages themselves.

The interpreter runs on this machine as an ordinary process, through its own loader and libraries, from a temporary
folder: no root, no chroot, nothing of the machine's own Python. Byte code does not depend on the architecture, so for
a foreign one the same version of the machine's own architecture makes it.

Source: PEP 552 (unchecked hash-based pycs).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wain.layers import Entry
from wain.platforms import Platform

log = logging.getLogger(__name__)

_LOADERS = {"amd64": "usr/lib64/ld-linux-x86-64.so.2", "arm64": "usr/lib/ld-linux-aarch64.so.1"}
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_TIMEOUT_SECONDS = 300
# Fixed, whatever the machine has: interned strings of files compiled before show in the bytes of those after.
_PARTS = 4
_MAX_SOURCE_BYTES = 256 << 20

INTERPRETER_PACKAGES = ("libc6", "libexpat1", "zlib1g")
"""What the interpreter needs of others' to compile, besides its own packages."""

_COMPILE = """
import py_compile, sys, warnings
warnings.simplefilter("ignore")
root = sys.argv[1]
for line in sys.stdin.read().splitlines():
    source, _, target = line.partition("\\t")
    try:
        py_compile.compile(
            root + "/" + source, cfile=root + "/" + target, dfile="/" + source, doraise=True, optimize=0,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except py_compile.PyCompileError:
        pass
"""


def interpreter_packages(python_minor: str) -> tuple[str, ...]:
    """The packages that `compile_library` needs an interpreter of."""
    return (*INTERPRETER_PACKAGES, f"libpython{python_minor}-minimal", f"python{python_minor}-minimal")


def can_run(architecture: str) -> bool:
    """Whether this machine runs programs of that architecture (Debian's name) without emulation."""
    return sys.platform == "linux" and Platform.host().debian_architecture == architecture


def compile_library(
    library: Mapping[str, Entry],
    interpreter: Mapping[str, Entry],
    *,
    architecture: str,
    python_minor: str,
    folder: Path,
) -> dict[str, Path] | None:
    """Byte code of the modules below usr/lib/pythonX.Y, as path in the image -> file; None where it cannot be made.

    Left out are the test suite's and the texts of pydoc, which programs do not import.

    :param library: the files whose modules are compiled.
    :param interpreter: the files of packages that `interpreter_packages` names, for this machine.
    :param architecture: the interpreter's, Debian's name of it.
    :param folder: an empty one, for everything that is written.
    """
    home = f"usr/lib/python{python_minor}"
    tag = f"cpython-{python_minor.replace('.', '')}"
    sources = [
        path
        for path, entry in sorted(library.items())
        if path.startswith(home + "/")
        and path.endswith(".py")
        and entry.kind == "file"
        and not path.startswith((f"{home}/test/", f"{home}/pydoc_data/", f"{home}/lib2to3/tests/"))
    ]
    if not sources or sum(library[path].size_bytes for path in sources) > _MAX_SOURCE_BYTES:
        return None
    triplet = _TRIPLETS[architecture]
    wanted = re.compile(
        rf"usr/bin/python{re.escape(python_minor)}|usr/lib/{triplet}/[^/]+\.so[^/]*"
        rf"|{re.escape(_LOADERS[architecture])}|{re.escape(home)}/.*\.py"
    )
    machine, target = folder / "interpreter", folder / "library"
    try:
        for path, entry in interpreter.items():
            if wanted.fullmatch(path):
                _write(machine, path, entry, interpreter)
        for path in sources:
            _write(target, path, library[path], library)
        jobs = [(path, _pyc_path(path, tag)) for path in sources]
        for _, compiled in jobs:
            (target / compiled).parent.mkdir(parents=True, exist_ok=True)
        _run(machine, target, jobs, architecture=architecture, python_minor=python_minor)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("the standard library's byte code was not made: %s", error)
        return None
    made = {compiled: target / compiled for _, compiled in jobs if (target / compiled).is_file()}
    if len(made) < len(jobs) * 9 // 10:
        log.info("only %d of %d modules of the standard library were compiled", len(made), len(jobs))
        return None
    return made


def _pyc_path(path: str, tag: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


def _write(root: Path, path: str, entry: Entry, entries: Mapping[str, Entry]) -> None:
    for _ in range(8):
        if entry.kind == "file" or entry.kind == "directory":
            break
        base = "" if entry.kind == "hardlink" or entry.target.startswith("/") else path.rpartition("/")[0]
        name = os.path.normpath(f"{base}/{entry.target}").strip("/")
        first = name.partition("/")[0]
        name = f"usr/{name}" if first in ("lib", "lib64") else name
        if name not in entries:
            return
        entry = entries[name]
    if entry.kind != "file" or entry.open_data is None:
        return
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with entry.open_data() as stream, target.open("xb") as file:
        while chunk := stream.read(1 << 18):
            file.write(chunk)
    target.chmod(0o700)


def _run(machine: Path, target: Path, jobs: Sequence[tuple[str, str]], *, architecture: str, python_minor: str) -> None:
    """:raises subprocess.SubprocessError: when the interpreter does not run or fails."""
    command = [
        str(machine / _LOADERS[architecture]),
        "--library-path",
        str(machine / "usr/lib" / _TRIPLETS[architecture]),
        str(machine / f"usr/bin/python{python_minor}"),
        "-S",
        "-s",
        "-B",
        "-c",
        _COMPILE,
        str(target),
    ]
    environment = {
        "PYTHONHOME": str(machine / "usr"),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "LC_ALL": "C",
        "PATH": "/nonexistent",
    }
    size = -(-len(jobs) // _PARTS)
    waiting = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environment,
                    cwd=target,
                )
                running.append(process)
                assert process.stdin is not None
                process.stdin.write("".join(f"{source}\t{made}\n" for source, made in waiting.pop(0)).encode())
                process.stdin.close()
                process.stdin = None
            process = running[0]
            _, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
            running.pop(0)
            if process.returncode:
                log.info("%s", errors[-2000:].decode("utf-8", "replace"))
                raise subprocess.CalledProcessError(process.returncode, "python" + python_minor)
    finally:
        for process in running:
            process.kill()
            process.communicate()
