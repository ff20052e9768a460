"""Interpreters and build tools of this machine: what they are, by what they say of themselves."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from wain.digest import Digest
from wain.errors import PythonError
from wain.oci import JSON
from wain.platforms import Platform, PythonVersion, Target
from wain.store import Store, recipe_key

logger = logging.getLogger(__name__)

_PROBE = """
import json, os, platform, sys, sysconfig
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, ValueError, OSError):
    libc = ""
print(json.dumps({
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "soabi": sysconfig.get_config_var("SOABI") or "",
    "flags": getattr(sys, "abiflags", ""),
    "machine": platform.machine(),
    "system": sys.platform,
    "libc": libc,
}))
"""
_TOOLS = ("cc", "c++", "gfortran", "cmake", "ninja", "make", "pkg-config", "swig")
_RUST_TOOLS = ("rustc", "cargo")
_VARIABLES = {"cc": "CC", "c++": "CXX", "gfortran": "FC"}


class Interpreter(Struct, frozen=True, kw_only=True):
    """An interpreter of this machine."""

    path: str
    target: Target
    """What the wheels are for that a build on it makes."""
    soabi: str


def host_interpreter(minor: str, store: Store) -> Interpreter | None:
    """CPython of that minor version on this machine, None where there is none; none is downloaded.

    The running one comes first, then PATH in its order, then where version managers keep theirs.
    """
    for path in _candidates(minor):
        found = examine_interpreter(path, store)
        if found is not None and found.target.python.short == minor:
            return found
    return None


def find_interpreter(minor: str, store: Store) -> str | None:
    """The path of `host_interpreter`."""
    found = host_interpreter(minor, store)
    return found.path if found is not None else None


def _candidates(minor: str) -> Iterator[str]:
    name = f"python{minor}"
    if minor == f"{sys.version_info[0]}.{sys.version_info[1]}" and sys.executable:
        yield sys.executable
    folders = [folder for folder in map(Path, os.environ.get("PATH", "").split(os.pathsep)) if folder.is_absolute()]
    folders += [Path("/usr/local/bin"), Path("/usr/bin"), Path(f"/opt/python/cp{minor.replace('.', '')}/bin")]
    homes: list[Path] = []
    for folder in folders:
        if folder.name == "shims":
            # A version manager's shim runs only what is selected; what is installed stands beside the shims.
            homes += [folder.parent / "versions", folder.parent / "installs" / "python"]
        elif os.access(folder / name, os.X_OK):
            yield str(folder / name)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share") if "HOME" in os.environ else ""
    managed = os.environ.get("UV_PYTHON_INSTALL_DIR") or (f"{data}/uv/python" if data else "")
    if managed:
        homes.append(Path(managed))
    for home in dict.fromkeys(homes):
        with contextlib.suppress(OSError):
            for entry in sorted(home.iterdir(), key=lambda path: _numbers(path.name), reverse=True):
                if re.match(rf"(cpython-)?{re.escape(minor)}(\D|$)", entry.name):
                    yield str(entry / "bin" / name)
    for folder in folders:
        if folder.name != "shims" and os.access(folder / "python3", os.X_OK):
            yield str(folder / "python3")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]


def own_interpreter(store: Store) -> Interpreter:
    """The interpreter that runs wain.

    :raises PythonError: when it is none that wheels are made for.
    """
    found = examine_interpreter(sys.executable, store)
    if found is None:
        raise PythonError(
            f"{sys.executable} cannot build wheels for Linux images",
            hint="Run wain with CPython on Linux, or use distributions that have wheels.",
        )
    return found


def examine_interpreter(path: str, store: Store) -> Interpreter | None:
    """What an interpreter is; None where it is not CPython on Linux, or free-threaded. Remembered by its file."""
    import subprocess

    try:
        # A program says the same by whatever link it is called; a script, such as a version manager's, may not.
        with Path(path).open("rb") as stream:
            is_program = stream.read(4) == b"\x7fELF"
        name = "" if is_program else path
        key = recipe_key({"recipe": "interpreter/2", "file": _file_identity(path), "path": name})
    except OSError:
        return None
    said = store.memo("interpreter", key)
    if said is None:
        try:
            done = subprocess.run(
                [path, "-I", "-c", _PROBE], capture_output=True, timeout=60, check=True, env=_plain_environment()
            )
            said = json.loads(done.stdout)
        except (OSError, ValueError, RecursionError, subprocess.SubprocessError) as error:
            logger.debug("%s does not say what it is: %s", path, error)
            said = {}
        if not isinstance(said, dict):
            said = {}
        store.put_memo("interpreter", key, said)
    texts = {name: value for name, value in said.items() if isinstance(value, str)}
    if texts.get("implementation") != "cpython" or texts.get("system") != "linux" or texts.get("flags"):
        return None
    libc, _, libc_text = texts.get("libc", "").partition(" ")
    numbers = [int(part) for part in libc_text.split(".")[:2] if part.isdigit()]
    python = PythonVersion.parse(texts.get("version", ""))
    return Interpreter(
        path=path,
        target=Target(
            platform=Platform.parse(f"linux/{texts.get('machine', '')}"),
            python=python,
            abi=f"cp{python.major}{python.minor}",
            libc="glibc" if libc == "glibc" else "musl",
            libc_version=(numbers[0], numbers[1]) if len(numbers) == 2 else (1, 2),
        ),
        soabi=texts.get("soabi", ""),
    )


def tool_identities(environ: Mapping[str, str], store: Store, *, with_rust: bool) -> dict[str, str]:
    """The build tools that `environ` finds -> what each says of its version; the text of PATH plays no part.

    What CC, CXX and FC name takes the place of cc, c++ and gfortran.

    :param with_rust: whether Rust's tools play a part; which ones they are depends on HOME.
    """
    found: dict[str, str] = {}
    for tool in (*_TOOLS, *(_RUST_TOOLS if with_rust else ())):
        named = environ.get(_VARIABLES.get(tool, ""), "")
        words = shlex.split(named) if named else [tool]
        program = shutil.which(words[0], path=environ.get("PATH")) if words else None
        if program is not None:
            found[tool] = _version(program, environ, store)
    return found


def _version(program: str, environ: Mapping[str, str], store: Store) -> str:
    """A program's version in its own words; remembered by the file that it is."""
    import subprocess

    try:
        identity = _file_identity(program)
    except OSError:
        return "unreadable"
    key = recipe_key({"recipe": "tool/1", "file": identity})
    memo = store.memo("tool", key)
    if memo is not None and isinstance(text := memo.get("version"), str):
        return text
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**_plain_environment(), **{name: environ[name] for name in _TOOL_HOMES if name in environ}},
        )
    except (OSError, subprocess.SubprocessError):
        return "does not run"
    text = (done.stdout or done.stderr).decode("utf-8", "replace").strip().partition("\n")[0][:200]
    store.put_memo("tool", key, {"version": text})
    return text


_TOOL_HOMES = ("CARGO_HOME", "RUSTUP_HOME", "LD_LIBRARY_PATH", "HOME")


def _plain_environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYENV_ROOT", "PYENV_VERSION")
    return {"LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in kept if name in os.environ}}


def _file_identity(path: str) -> list[JSON]:
    real = Path(path).resolve()
    found = real.stat()
    return [str(real), found.st_size, found.st_mtime_ns, found.st_ino]


def library_digest(soname: str, store: Store) -> tuple[str, Digest] | None:
    """Where this machine's loader finds a library, and the digest of its bytes; None where it does not."""
    path = _library_paths().get(soname)
    if path is None:
        return None
    try:
        key = recipe_key({"recipe": "library/1", "file": _file_identity(path)})
        memo = store.memo("library", key)
        if memo is not None and isinstance(text := memo.get("digest"), str):
            return path, Digest(text)
        digest = Digest.of_file(Path(path))
    except OSError:
        return None
    store.put_memo("library", key, {"digest": str(digest)})
    return path, digest


def _library_paths() -> dict[str, str]:
    """Soname -> path as ldconfig knows them, else as the usual folders have them."""
    import subprocess

    if not _LIBRARIES:
        ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
        if ldconfig is not None:
            try:
                done = subprocess.run([ldconfig, "-p"], capture_output=True, timeout=30, check=False)
                for line in done.stdout.decode("utf-8", "replace").splitlines():
                    name, arrow, path = line.strip().partition(" => ")
                    if arrow:
                        _LIBRARIES.setdefault(name.partition(" ")[0], path)
            except (OSError, subprocess.SubprocessError) as error:
                logger.debug("ldconfig does not answer: %s", error)
        for folder in ("/usr/local/lib", "/lib", "/usr/lib"):
            for found in sorted(Path(folder).glob("*.so*")):
                _LIBRARIES.setdefault(found.name, str(found))
    return _LIBRARIES


_LIBRARIES: dict[str, str] = {}
