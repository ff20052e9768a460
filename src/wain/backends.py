"""PEP 517 build back ends, run in an environment that holds only what is declared.

Sources: PEP 517 and PEP 518; PyPA specifications, source distribution format; the reproducible builds project's
SOURCE_DATE_EPOCH specification.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from wain.errors import SdistError
from wain.oci import JSON
from wain.uv_process import redact_text, run_uv, uv_environment

logger = logging.getLogger(__name__)

EPOCH = "315532800"
"""SOURCE_DATE_EPOCH of every build: zip files know no earlier time."""

COMPILER_VARIABLES = (
    "CC",
    "CXX",
    "FC",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "FFLAGS",
    "LDFLAGS",
    "LIBS",
    "AR",
    "AS",
    "LD",
    "NM",
    "RANLIB",
    "STRIP",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "PKG_CONFIG",
    "PKG_CONFIG_PATH",
    "PKG_CONFIG_LIBDIR",
    "CMAKE_ARGS",
    "CMAKE_GENERATOR",
    "CMAKE_PREFIX_PATH",
    "RUSTFLAGS",
    "CARGO_BUILD_TARGET",
)
"""Passed to builds, and part of the key."""
PASSED_VARIABLES = (
    "PATH",
    "LD_LIBRARY_PATH",
    "JAVA_HOME",
    "CUDA_HOME",
    "PYENV_ROOT",
    "MAKEFLAGS",
    "CMAKE_BUILD_PARALLEL_LEVEL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""Passed to builds, and no part of the key: where tools are, and how the network is reached."""

_COMPILERS = tuple(
    prefix + name
    for prefix in ("", "x86_64-linux-gnu-", "aarch64-linux-gnu-")
    for name in ("cc", "c++", "gcc", "g++", "clang", "clang++", "gfortran")
)
_LAST_LINES = 25
_MAX_LOG_BYTES = 256 << 20
_MAX_PYPROJECT_BYTES = 16 << 20
_DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
_DEFAULT_BACKEND = "setuptools.build_meta:__legacy__"

_RUNNER = """
import importlib, json, os, sys
request_path, result_path = sys.argv[1:3]  # back ends change sys.argv
request = json.load(open(request_path, encoding="utf-8"))
sys.path[:0] = [os.path.abspath(path) for path in request["backend-path"]]
module, _, attribute = request["backend"].partition(":")
backend = importlib.import_module(module)
for name in filter(None, attribute.split(".")):
    backend = getattr(backend, name)
settings = request["config-settings"] or None
kind = request["kind"]
if request["hook"] == "requires":
    hook = getattr(backend, "get_requires_for_build_" + kind, None)
    result = list(hook(settings)) if hook else []
else:
    hook = getattr(backend, "build_" + kind, None)
    result = hook(request["folder"], settings) if hook else None
with open(result_path, "w", encoding="utf-8") as stream:
    json.dump(result, stream)
"""

# Header -> Debian package, for what sdists most often lack.
_HEADER_PACKAGES = {
    "Python.h": "python3-dev",
    "ffi.h": "libffi-dev",
    "openssl/ssl.h": "libssl-dev",
    "openssl/opensslv.h": "libssl-dev",
    "libpq-fe.h": "libpq-dev",
    "curl/curl.h": "libcurl4-openssl-dev",
    "libxml/xpath.h": "libxml2-dev",
    "libxml/xmlversion.h": "libxml2-dev",
    "libxslt/xslt.h": "libxslt1-dev",
    "mysql.h": "default-libmysqlclient-dev",
    "sql.h": "unixodbc-dev",
    "lber.h": "libldap-dev",
    "sasl/sasl.h": "libsasl2-dev",
    "zlib.h": "zlib1g-dev",
    "jpeglib.h": "libjpeg-dev",
    "snappy-c.h": "libsnappy-dev",
    "sndfile.h": "libsndfile1-dev",
    "portaudio.h": "portaudio19-dev",
    "krb5.h": "libkrb5-dev",
    "gssapi/gssapi.h": "libkrb5-dev",
    "yaml.h": "libyaml-dev",
    "usb.h": "libusb-dev",
    "bluetooth/bluetooth.h": "libbluetooth-dev",
    "hdf5.h": "libhdf5-dev",
    "gdal.h": "libgdal-dev",
    "git2.h": "libgit2-dev",
    "lzma.h": "liblzma-dev",
    "bzlib.h": "libbz2-dev",
    "sqlite3.h": "libsqlite3-dev",
    "cairo.h": "libcairo2-dev",
    "magic.h": "libmagic-dev",
}


class BuildSystem(Struct, frozen=True, kw_only=True):
    """`[build-system]` of a project, or what stands for it where there is none."""

    requires: tuple[str, ...]
    backend: str
    backend_path: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        return {"requires": [*self.requires], "backend": self.backend, "backend-path": [*self.backend_path]}


def read_build_system(project: Path, *, what: str) -> BuildSystem:
    """A project folder's build system.

    :raises SdistError: when pyproject.toml is malformed, or there is nothing to build.
    """
    path = project / "pyproject.toml"
    if path.is_symlink() or not path.is_file():
        if not (project / "setup.py").is_file():
            raise SdistError(
                f"{what} has neither pyproject.toml nor setup.py",
                hint="It is no Python project; name another version, or the folder in which the project is.",
            )
        return BuildSystem(requires=_DEFAULT_REQUIRES, backend=_DEFAULT_BACKEND)
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_PYPROJECT_BYTES).decode()
        table = tomllib.loads(text).get("build-system", {})
        requires = table.get("requires", list(_DEFAULT_REQUIRES))
        backend = table.get("build-backend", _DEFAULT_BACKEND)
        backend_path = table.get("backend-path", [])
        if not isinstance(backend, str) or not all(
            isinstance(items, list) and all(isinstance(item, str) for item in items)
            for items in (requires, backend_path)
        ):
            raise TypeError("[build-system] has values of wrong types")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise SdistError(f"{what} has a malformed pyproject.toml: {error}", hint="Name another version.") from error
    if any(part.startswith("/") or ".." in part.split("/") for part in backend_path):
        raise SdistError(f"{what} has a backend-path outside of it", hint="Name another version.")
    return BuildSystem(requires=tuple(requires), backend=backend, backend_path=tuple(backend_path))


def keyed_environment(environ: Mapping[str, str], build_env: Mapping[str, str]) -> dict[str, str]:
    """What of a build's environment is part of its key: the compiler's variables and what was declared."""
    kept = {name: environ[name] for name in COMPILER_VARIABLES if environ.get(name)}
    return {
        **kept,
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": EPOCH,
        **build_env,
    }


def passed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of a build's environment is no part of its key: tool folders, proxies, certificates."""
    passed = {name: environ[name] for name in PASSED_VARIABLES if environ.get(name)}
    home = environ.get("HOME")
    # These tools look for themselves below HOME, which the build has a fresh one of.
    for name, folder in (("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")):
        if environ.get(name):
            passed[name] = environ[name]
        elif home and (Path(home) / folder).is_dir():
            passed[name] = str(Path(home) / folder)
    return passed


class BuildEnvironment:
    """A virtual environment with a back end's requirements, a fresh HOME and a temporary folder.

    :param folder: an empty folder of its own, which everything stands below.
    """

    def __init__(self, folder: Path, *, interpreter: str, environ: Mapping[str, str], what: str) -> None:
        self._folder = folder
        self._what = what
        self._venv = folder / "venv"
        for name in ("home", "tmp", "wheels"):
            (folder / name).mkdir()
        self._interpreter = interpreter
        self._environ = {
            **environ,
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PATH": f"{self._venv / 'bin'}:{environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(self._venv),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self._calls = 0

    @property
    def wheels(self) -> Path:
        """Where wheels are built to."""
        return self._folder / "wheels"

    def install(self, wheels: Sequence[Path]) -> None:
        """Make the environment anew with these wheels, named as wheels are, and nothing else.

        :raises SdistError: when one of them cannot be installed.
        """
        environ = uv_environment({"PATH": self._environ["PATH"]}, own_configuration=False)
        environ |= {name: self._environ[name] for name in ("HOME", "TMPDIR")}
        # Its own cache, gone with the folder: hard links into a shared one would let builds change each other.
        environ |= {"UV_CACHE_DIR": str(self._folder / "uv"), "UV_OFFLINE": "1"}
        made = run_uv(
            ["venv", "--quiet", "--no-project", "--clear", "--python", self._interpreter, str(self._venv)],
            environ=environ,
            folder=self._folder,
        )
        if made.exit_code != 0:
            raise SdistError(
                f"no environment to build {self._what} in can be made: {last_lines(made.errors, 5)}",
                hint="Look whether the interpreter works and the temporary folder has space.",
            )
        if not wheels:
            return
        python = str(self._venv / "bin" / "python")
        done = run_uv(
            ["pip", "install", "--quiet", "--no-deps", "--no-index", "--python", python, *map(str, wheels)],
            environ=environ,
            folder=self._folder,
        )
        if done.exit_code != 0:
            raise SdistError(
                f"the build requirements of {self._what} cannot be installed: {last_lines(done.errors, 8)}",
                hint="Hold the requirement back with a build constraint.",
            )

    def requires(
        self, system: BuildSystem, source: Path, settings: Mapping[str, JSON], *, kind: str = "wheel"
    ) -> tuple[str, ...]:
        """What the back end asks for beyond `[build-system] requires`.

        :param kind: `wheel` or `editable`.
        :raises SdistError: when it fails.
        """
        result = self._call("requires", system, source, settings, kind)
        if not isinstance(result, list) or not all(isinstance(item, str) for item in result):
            raise SdistError(f"the back end of {self._what} asks for {result!r}", hint="Name another version.")
        return tuple(str(item) for item in result)

    def build(
        self, system: BuildSystem, source: Path, settings: Mapping[str, JSON], *, kind: str = "wheel"
    ) -> Path | None:
        """The wheel that the back end builds; None where it has no hook for that kind.

        :param kind: `wheel` or `editable`.
        :raises SdistError: when it fails.
        """
        name = self._call("build", system, source, settings, kind)
        if name is None:
            return None
        path = self.wheels / name if isinstance(name, str) and "/" not in name and name.endswith(".whl") else None
        if path is None or path.is_symlink() or not path.is_file():
            raise SdistError(f"the back end of {self._what} built no wheel", hint="Name another version.")
        return path

    def _call(self, hook: str, system: BuildSystem, source: Path, settings: Mapping[str, JSON], kind: str) -> JSON:
        self._calls += 1
        request, result = (self._folder / f"{name}-{self._calls}.json" for name in ("request", "result"))
        runner = self._folder / "_wain_runner.py"
        runner.write_text(_RUNNER, "utf-8")
        request.write_text(
            json.dumps(
                {
                    "hook": hook,
                    "kind": kind,
                    "backend": system.backend,
                    "backend-path": [*system.backend_path],
                    "config-settings": dict(settings),
                    "folder": str(self.wheels),
                }
            ),
            "utf-8",
        )
        log_path = self._folder / f"log-{self._calls}.txt"
        command = [str(self._venv / "bin" / "python"), str(runner), str(request), str(result)]
        exit_code = _run(command, folder=source, environ=self._environ, log_path=log_path)
        if exit_code == 0:
            try:
                value: JSON = json.loads(result.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                raise SdistError(
                    f"the back end of {self._what} gave no answer", hint="Name another version."
                ) from error
            return value
        output = _tail(log_path)
        raise SdistError(
            f"{self._what} did not build ({system.backend}, exit {exit_code}):\n{last_lines(output, _LAST_LINES)}",
            hint=explain_failure(output),
        )


def _run(command: Sequence[str], *, folder: Path, environ: Mapping[str, str], log_path: Path) -> int:
    """Run a program to its end with all that it starts; its output goes to a file."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
        )
        try:
            while True:
                try:
                    return process.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    if log_path.stat().st_size > _MAX_LOG_BYTES:
                        raise SdistError(
                            "a build back end wrote more than 256 MiB of output", hint="Name another version."
                        ) from None
        finally:
            # What the back end left running goes with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - (1 << 18)))
        return redact_text(stream.read().decode("utf-8", "replace"))


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """An empty folder at that path, or another where it cannot be had; removed in the end."""
    held = _hold(path)
    if held is None:
        other = Path(tempfile.mkdtemp(prefix="wain-"))
        logger.debug("%s is another user's, %s is used", path, other)
        try:
            yield other
        finally:
            remove_tree(other)
        return
    try:
        for entry in path.iterdir():  # left by a build that was killed
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            else:
                entry.unlink()
        yield path
    finally:
        remove_tree(path)
        os.close(held)


def _hold(path: Path) -> int | None:
    """The lock of a folder of our own, made if it is not there; None where it cannot be ours."""
    while True:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                os.close(descriptor)
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(descriptor)
                    return None
                logger.info("another process builds the same; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), found):
                    return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it while we waited


def wrap_compilers(folder: Path, shown: Path, search_path: str) -> Path:
    """A folder of compilers that write `shown` into what they compile, in place of `folder`.

    A variable would not do: setuptools drops its own flags where CFLAGS is set.
    """
    compilers = folder / "compilers"
    compilers.mkdir()
    for name in _COMPILERS:
        program = shutil.which(name, path=search_path)
        if program is not None:
            option = shlex.quote(f"-ffile-prefix-map={folder}={shown}")
            (compilers / name).write_text(f'#!/bin/sh\nexec {shlex.quote(program)} {option} "$@"\n', "utf-8")
            (compilers / name).chmod(0o755)
    return compilers


def last_lines(text: str, count: int) -> str:
    """The last lines of an output that are not empty."""
    lines = [line.rstrip()[:500] for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def explain_failure(output: str) -> str:
    """What to do about a failed build, from what the back end and the compiler said."""
    if match := re.search(r"fatal error: ([\w./+-]+\.h(?:pp)?): No such file", output):
        package = _HEADER_PACKAGES.get(match[1])
        what = f"on Debian it is in the package {package}" if package else "it is in a development package"
        return f"The header {match[1]} is missing on this machine: {what}. Install it and run the build again."
    if re.search(r"(gcc|cc|clang)['\"]? failed: No such file|No such file or directory: '(\w*-)*(gcc|cc)'", output):
        return "There is no C compiler on this machine: install one (build-essential on Debian)."
    if re.search(r"(?i)can't find rust compiler|cargo[^\n]*not (found|installed)|rustc[^\n]*not found", output):
        return "It is written in Rust, whose compiler is not on this machine: install rustc and cargo."
    if match := re.search(r"cannot find -l([\w+.-]+)", output):
        return f"The library lib{match[1]} is missing on this machine: install its development package."
    if match := re.search(r"(?:ModuleNotFoundError|ImportError): No module named '?([\w.]+)", output):
        return (
            f"Its build needs the module {match[1]}, which it does not declare, or which newer build tools no longer"
            " have: hold them back with a build constraint (setuptools<81, say), or name a version with wheels."
        )
    if match := re.search(
        r"Could not find ([\w./+-]+)|Package '?([\w.+-]+)'?, required by|([\w.-]+): command not found", output
    ):
        name = next(filter(None, match.groups()))
        return f"{name} is missing on this machine: install it and run the build again."
    return "Name a version that has wheels, or install what its build asks for; --only-binary :all: forbids builds."


def remove_tree(path: Path) -> None:
    """Remove a folder with whatever a build made of it, links not followed."""

    def make_writable(function: object, name: str, error: object) -> None:
        with contextlib.suppress(OSError):
            Path(name).parent.chmod(0o700)
            if not Path(name).is_symlink():
                Path(name).chmod(0o700)
            if Path(name).is_dir() and not Path(name).is_symlink():
                shutil.rmtree(name, ignore_errors=True)
            else:
                Path(name).unlink()

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=make_writable)
    else:
        shutil.rmtree(path, onerror=make_writable)
