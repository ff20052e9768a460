"""What a base's files say of its Python, its C library and its folders.

Sources: PEP 405 (virtual environments), PEP 668 (externally managed environments), Python's getpath and
sysconfig schemes and Debian's and Fedora's changes to them, ld.so(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.errors import BaseError, PythonError
from wain.platforms import Platform, PythonVersion
from wain.rootfs import Node, Rootfs

if TYPE_CHECKING:
    from wain.elf import ElfFile

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What runtimes set where a config has no PATH."""

_PYTHON_NAME = re.compile(r"(?:python|pypy)(?:3(?:\.\d{1,2})?)?(?:[td]{0,2})")
_STDLIB_NAME = re.compile(r"python3\.(\d{1,2})(t?)")
_DYNLOAD_NAME = re.compile(r".+\.cpython-3(\d{1,2})([a-z]*)-[\w.-]+\.so")
_SYSCONFIG_NAME = re.compile(r"_sysconfigdata_([a-z]*)_[\w.-]+\.py")
_LIBPYTHON_NAME = re.compile(r"libpython3\.\d{1,2}[a-z]*\.so(\.\d+)*")
_LIBC_NAME = re.compile(r"libc\.so\.6|libc-2\.\d+\.so|ld-musl-[\w-]+\.so\.1|libc\.musl-[\w-]+\.so\.1")
_DIST_INFO = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*?)-([^-]+)\.(?:dist-info|egg-info)")
_GLIBC_VERSION = re.compile(rb"GNU C Library[^\n\0]{0,120}? version (\d+)\.(\d+)")
_MUSL_VERSION = re.compile(rb"\x00(1)\.(\d{1,2})\.\d{1,3}[\w.+-]{0,40}\x00")
_KEPT_FILES = frozenset(("etc/passwd", "etc/group", "etc/os-release", "usr/lib/os-release", "etc/ld.so.conf"))
_MAX_TEXT_BYTES = 1 << 20
_MAX_BINARY_BYTES = 64 << 20


class InstalledDistribution(Struct, frozen=True, kw_only=True):
    """A distribution that the base has in a place where its Python looks."""

    name: str
    """As its metadata folder spells it."""
    version: str
    location: str
    """The site folder, relative to the root."""


class SharedLibrary(Struct, frozen=True, kw_only=True):
    """A library where the dynamic loader looks without being told."""

    directory: str
    """Relative to the root, links resolved."""
    provides: tuple[str, ...] = ()
    """Symbol versions."""


class PipPaths(Struct, frozen=True, kw_only=True):
    """Where pip in the base would put what it installs, relative to the root, links resolved."""

    purelib: str
    platlib: str
    scripts: str
    headers: str
    """Folder of headers; pip adds the distribution's name."""
    data: str


class FoundPython(Struct, frozen=True, kw_only=True):
    """The interpreter that was found; paths relative to the root, links resolved, but where told."""

    command: str
    """Absolute, as PATH has it."""
    interpreter: str
    node: Node
    elf: ElfFile
    minor: int
    base_prefix: str
    stdlib: str
    dynload: str
    venv: str | None
    includes_system: bool = True

    @property
    def prefix(self) -> str:
        return self.base_prefix if self.venv is None else self.venv


def is_kept(path: str, size_bytes: int) -> bool:
    directory, _, name = path.rpartition("/")
    if path in _KEPT_FILES:
        return size_bytes <= _MAX_TEXT_BYTES
    if name.endswith((".cfg", ".conf", ".py", ".h")):
        return size_bytes <= _MAX_TEXT_BYTES and (
            name == "pyvenv.cfg"
            or (name == "patchlevel.h" and "/include/python3." in path)
            or (name == "site.py" and _STDLIB_NAME.fullmatch(directory.rpartition("/")[2]) is not None)
            or (name == "sysconfig.py" and _STDLIB_NAME.fullmatch(directory.rpartition("/")[2]) is not None)
            or path.endswith("/sysconfig/__init__.py")
            or path.startswith("etc/ld.so.conf.d/")
        )
    if size_bytes > _MAX_BINARY_BYTES:
        return False
    return (
        _PYTHON_NAME.fullmatch(name) is not None
        or _LIBPYTHON_NAME.fullmatch(name) is not None
        or _LIBC_NAME.fullmatch(name) is not None
    )


def small_text(rootfs: Rootfs, path: str) -> str:
    """A small file's text, empty where there is none or a hostile one."""
    found = rootfs.find(path)
    if found is None or found[1].data is None:
        return ""
    return found[1].data[:_MAX_TEXT_BYTES].decode("utf-8", "replace")


def _search_path(environment: Mapping[str, str]) -> list[str]:
    return [part for part in environment.get("PATH", DEFAULT_PATH).split(":") if part.startswith("/")]


def find_python(rootfs: Rootfs, environment: Mapping[str, str], platform: Platform) -> FoundPython:
    passed_over: list[str] = []
    directories = _search_path(environment)
    for name in ("python3", "python"):
        for directory in directories:
            command = f"{directory.rstrip('/')}/{name}"
            found = rootfs.find(command)
            if found is None or not found[1].is_executable:
                continue
            path, node = found
            if node.elf is None or not node.elf.interpreter:
                passed_over.append(f"{command} is no dynamically linked program")
                continue
            if node.elf.architecture not in (None, platform.architecture):
                raise BaseError(
                    f"{command} in the base is for {node.elf.architecture}, the base says {platform}",
                    hint="The base image is mislabelled; use another one.",
                )
            python = _examine(rootfs, command, path, node, node.elf)
            if python is not None:
                return python
            passed_over.append(f"{command} has no standard library")
    detail = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise BaseError(
        f"the base has no Python on its PATH{detail}",
        hint="Use a base with CPython, such as python:3.13-slim, or leave the base out to get the built-in one.",
    )


def _examine(rootfs: Rootfs, command: str, path: str, node: Node, elf: ElfFile) -> FoundPython | None:
    """The installation around an interpreter, `None` where it has no standard library."""
    file_name = path.rpartition("/")[2]
    if not re.fullmatch(r"python(3(\.\d{1,2})?)?[a-z]*", file_name):
        raise PythonError(
            f"{command} in the base is {file_name}, not CPython",
            hint="Use a base with CPython, such as python:3.13-slim.",
        )
    own_minor = re.match(r"python3\.(\d{1,2})", file_name)
    candidates = []
    for above in PurePosixPath("/" + path).parent.parents:
        prefix = str(above).strip("/")
        for lib in ("lib", "lib64"):
            folder = rootfs.find(f"{prefix}/{lib}")
            if folder is None:
                continue
            for entry in sorted(folder[1].children):
                match = _STDLIB_NAME.fullmatch(entry)
                if match is None or (own_minor and match[1] != own_minor[1]):
                    continue
                stdlib = rootfs.find(f"{folder[0]}/{entry}")
                if stdlib and any(landmark in stdlib[1].children for landmark in ("os.py", "os.pyc")):
                    candidates.append((prefix, stdlib[0], int(match[1]), match[2]))
        if candidates:
            break
    if not candidates:
        return None
    if len({candidate[2:] for candidate in candidates}) > 1 and own_minor is None:
        # A plain `python3` beside several standard libraries says its version itself.
        said = {int(match[1]) for match in re.finditer(rb"\x00python3\.(\d{1,2})\x00", node.data or b"")}
        candidates = [candidate for candidate in candidates if candidate[2] in said] or candidates
    is_named_threadless = file_name.endswith("t")
    candidates.sort(key=lambda candidate: ((candidate[3] == "t") != is_named_threadless, -candidate[2]))
    prefix, stdlib_path, minor, suffix = candidates[0]
    dynload = next(
        (
            found[0]
            for lib in (stdlib_path, stdlib_path.replace("lib/python", "lib64/python"))
            if (found := rootfs.find(f"{lib}/lib-dynload")) is not None
        ),
        f"{stdlib_path}/lib-dynload",
    )
    flags = _abi_flags(rootfs, stdlib_path, dynload, minor, suffix)
    if "t" in flags:
        raise PythonError(
            f"the base's Python is the free-threaded build 3.{minor}t",
            hint=f"Use a base with the ordinary build, such as python:3.{minor}-slim.",
        )
    if "d" in flags:
        raise PythonError(
            f"the base's Python 3.{minor} is a debug build, which wheels are not made for",
            hint=f"Use a base with the ordinary build, such as python:3.{minor}-slim.",
        )
    venv, includes_system = _virtual_environment(rootfs, command)
    return FoundPython(
        command=command,
        interpreter=path,
        node=node,
        elf=elf,
        minor=minor,
        base_prefix=prefix,
        stdlib=stdlib_path,
        dynload=dynload,
        venv=venv,
        includes_system=includes_system,
    )


def _abi_flags(rootfs: Rootfs, stdlib: str, dynload: str, minor: int, suffix: str) -> str:
    folder = rootfs.get(dynload)
    for name in sorted(folder.children if folder else ()):
        match = _DYNLOAD_NAME.fullmatch(name)
        if match and int(match[1]) == minor:
            return match[2]
    folder = rootfs.get(stdlib)
    for name in sorted(folder.children if folder else ()):
        if match := _SYSCONFIG_NAME.fullmatch(name):
            return match[1]
    return suffix


def _virtual_environment(rootfs: Rootfs, command: str) -> tuple[str | None, bool]:
    """The environment that a command is in, and whether it sees the base's distributions."""
    folder = rootfs.resolve(command.rpartition("/")[0])
    for place in (folder, folder.rpartition("/")[0]):
        text = small_text(rootfs, f"{place}/pyvenv.cfg")
        if text:
            includes = re.search(r"(?mi)^\s*include-system-site-packages\s*=\s*true\s*$", text)
            return place, includes is not None
    return None, True


def find_pip_paths(rootfs: Rootfs, python: FoundPython) -> tuple[PipPaths, list[str]]:
    """Where pip would install, and the folders in which Python looks for distributions, first ones first."""
    version = f"python3.{python.minor}"
    prefix = python.base_prefix
    sysconfig = small_text(rootfs, f"{python.stdlib}/sysconfig/__init__.py") or small_text(
        rootfs, f"{python.stdlib}/sysconfig.py"
    )
    in_dist_packages = "dist-packages" in small_text(rootfs, f"{python.stdlib}/site.py") or (
        rootfs.find("usr/lib/python3/dist-packages") is not None and prefix == "usr"
    )
    lib64 = "lib64" if f"/lib64/{version}" in f"/{python.dynload}" else "lib"
    system: list[str]
    if prefix == "usr" and in_dist_packages:
        # Debian's interpreter: pip writes below /usr/local, dpkg below /usr.
        local, site = "usr/local", "dist-packages"
        system = [
            f"usr/local/lib/{version}/dist-packages",
            "usr/lib/python3/dist-packages",
            f"usr/lib/{version}/dist-packages",
        ]
        paths = (local, f"{local}/lib/{version}/{site}", f"{local}/lib/{version}/{site}")
    elif prefix == "usr" and "RPM_BUILD_ROOT" in sysconfig:
        # Fedora's and its children's interpreter does alike.
        local = "usr/local"
        paths = (
            local,
            f"{local}/lib/{version}/site-packages",
            f"{local}/{lib64}/{version}/site-packages",
        )
        system = [paths[2], paths[1], f"usr/{lib64}/{version}/site-packages", f"usr/lib/{version}/site-packages"]
    else:
        top = f"{prefix}/" if prefix else ""
        paths = (prefix, f"{top}lib/{version}/site-packages", f"{top}{lib64}/{version}/site-packages")
        system = [paths[1], paths[2]]
    if python.venv is not None:
        top = f"{python.venv}/" if python.venv else ""
        site = f"{top}lib/{version}/site-packages"
        system = [site, *(system if python.includes_system else ())]
        paths = (python.venv, site, site)
    root, purelib, platlib = paths
    top = f"{root}/" if root else ""
    pip = PipPaths(
        purelib=rootfs.resolve(purelib),
        platlib=rootfs.resolve(platlib),
        scripts=rootfs.resolve(f"{top}bin"),
        headers=rootfs.resolve(
            f"{top}include/site/{version}" if python.venv is not None else f"{top}include/{version}"
        ),
        data=rootfs.resolve(root),
    )
    return pip, list(dict.fromkeys(rootfs.resolve(folder) for folder in system))


def find_distributions(rootfs: Rootfs, folders: Sequence[str]) -> Iterator[InstalledDistribution]:
    for folder in folders:
        node = rootfs.get(folder)
        for name in sorted(node.children if node else ()):
            if match := _DIST_INFO.fullmatch(name):
                version = re.sub(r"-py3(\.\d+)?$", "", match[2])
                yield InstalledDistribution(name=match[1], version=version, location=folder)


def full_version(
    rootfs: Rootfs,
    python: FoundPython,
    environment: Mapping[str, str],
    libraries: Mapping[str, SharedLibrary],
) -> PythonVersion:
    """From the interpreter's own bytes, else its header, its Debian package, or the image's environment."""
    pattern = re.compile(rb"(?<![\d.])(3\.%d\.\d{1,3})(?:(?:a|b|rc)\d{1,3})?\+?\x00" % python.minor)
    blobs = [python.node.data]
    for library in python.elf.needed:
        if _LIBPYTHON_NAME.fullmatch(library):
            places = [f"{python.base_prefix}/lib/{library}", f"{python.base_prefix}/lib64/{library}"]
            if library in libraries:
                places.append(f"{libraries[library].directory}/{library}")
            found = next(filter(None, map(rootfs.find, places)), None)
            blobs.append(found[1].data if found else None)
    for blob in blobs:
        versions = set(pattern.findall(blob or b""))
        if len(versions) == 1:
            return PythonVersion.parse(versions.pop().decode())
    version = f"python3.{python.minor}"
    header = small_text(rootfs, f"{python.base_prefix}/include/{version}/patchlevel.h")
    if match := re.search(r'(?m)^#define\s+PY_VERSION\s+"(3\.\d+\.\d+)', header):
        return PythonVersion.parse(match[1])
    status = _dpkg_status(rootfs, f"{version}-minimal") or _dpkg_status(rootfs, version)
    said = environment.get("PYTHON_VERSION", "")
    for text in (status, said):
        if re.match(rf"3\.{python.minor}\.\d", text):
            return PythonVersion.parse(text)
    raise BaseError(
        f"the full version of {python.command} in the base cannot be found",
        hint=f"Use another base, such as python:3.{python.minor}-slim.",
    )


def _dpkg_status(rootfs: Rootfs, package: str) -> str:
    """A Debian package's version as dpkg's database or a distroless image's has it."""
    for path in (f"var/lib/dpkg/status.d/{package}", "var/lib/dpkg/status"):
        data = rootfs.read(path, max_bytes=_MAX_BINARY_BYTES) or b""
        pattern = rb"(?ms)^Package: %s\n(?:\S[^\n]*\n|[ \t][^\n]*\n)*?Version: ([^\n]+)" % re.escape(package.encode())
        if match := re.search(pattern, data):
            return match[1].decode("ascii", "replace")
    return ""


def find_libc(rootfs: Rootfs, python: FoundPython) -> tuple[str, tuple[int, int]]:
    loader = python.elf.interpreter
    found = rootfs.find(loader)
    name = loader.rpartition("/")[2]
    if name.startswith("ld-musl-"):
        version = _MUSL_VERSION.search(found[1].data or b"") if found else None
        if version:
            return "musl", (int(version[1]), int(version[2]))
        raise BaseError(f"the version of musl ({loader}) in the base cannot be found", hint="Use another base image.")
    folders = [found[0].rpartition("/")[0]] if found else []
    folders += _library_folders(rootfs, {}, "glibc")
    for folder in folders:
        library = rootfs.find(f"{folder}/libc.so.6")
        if library is None or library[1].kind != "file":
            continue
        if said := _GLIBC_VERSION.search(library[1].data or b""):
            return "glibc", (int(said[1]), int(said[2]))
        if library[1].elf is not None:
            minors = [
                int(match[1])
                for text in library[1].elf.provides
                if (match := re.fullmatch(r"GLIBC_2\.(\d{1,3})(\.\d+)?", text))
            ]
            if minors:
                return "glibc", (2, max(minors))
    raise BaseError(
        f"the base's Python wants the loader {loader}, and no C library of a known kind goes with it",
        hint="Use a base with glibc or musl, such as python:3.13-slim.",
    )


def _library_folders(rootfs: Rootfs, environment: Mapping[str, str], libc: str) -> list[str]:
    """Where the dynamic loader looks, first places first, links resolved."""
    folders = [part for part in environment.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/")]
    if libc == "musl":
        folders += ["/lib", "/usr/local/lib", "/usr/lib"]
    else:
        folders += _configured_folders(rootfs)
        triplets = sorted(
            name for name in (_children(rootfs, "usr/lib") | _children(rootfs, "lib")) if "-linux-gnu" in name
        )
        folders += [f"{top}/{name}" for name in triplets for top in ("/lib", "/usr/lib")]
        folders += ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    return list(dict.fromkeys(rootfs.resolve(folder) for folder in folders))


def _children(rootfs: Rootfs, path: str) -> set[str]:
    found = rootfs.find(path)
    return set(found[1].children) if found else set()


def _configured_folders(rootfs: Rootfs) -> list[str]:
    folders = []
    texts = [small_text(rootfs, "etc/ld.so.conf")]
    if "ld.so.conf.d" in texts[0]:
        texts += [
            small_text(rootfs, f"etc/ld.so.conf.d/{name}")
            for name in sorted(_children(rootfs, "etc/ld.so.conf.d"))
            if name.endswith(".conf")
        ]
    for text in texts:
        for line in text.splitlines():
            folder = line.partition("#")[0].strip()
            if folder.startswith("/"):
                folders.append(folder)
    return folders


def find_libraries(rootfs: Rootfs, environment: Mapping[str, str], libc: str) -> dict[str, SharedLibrary]:
    libraries: dict[str, SharedLibrary] = {}
    for folder in _library_folders(rootfs, environment, libc):
        node = rootfs.get(folder)
        if node is None:
            continue
        for name in sorted(node.children):
            if ".so" not in name or name in libraries:
                continue
            found = rootfs.find(f"{folder}/{name}")
            if found is None or found[1].elf is None:
                continue
            elf = found[1].elf
            # The loader takes any name; nothing asks for a full version's (libz.so.1.2.13) beside its soname.
            if elf.soname in (name, "") or node.children[name].kind == "symlink":
                libraries[name] = SharedLibrary(directory=folder, provides=elf.provides)
    return dict(sorted(libraries.items()))


def os_release(rootfs: Rootfs) -> dict[str, str]:
    text = small_text(rootfs, "etc/os-release") or small_text(rootfs, "usr/lib/os-release")
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals:
            values[name] = value.strip("\"'")
    return values


def find_folders(rootfs: Rootfs) -> tuple[dict[str, str], dict[str, tuple[int, int, int]]]:
    links: dict[str, str] = {}
    directories: dict[str, tuple[int, int, int]] = {}
    plain = (0o755, 0, 0)
    if (root := (rootfs.root.mode, rootfs.root.uid, rootfs.root.gid)) != plain:
        directories[""] = root
    for path, node in rootfs.walk():
        if node.kind == "symlink":
            found = rootfs.find(path)
            if found is not None and found[1].kind == "directory":
                links[path] = found[0]
        elif node.kind == "directory" and (node.mode, node.uid, node.gid) != plain:
            directories[path] = (node.mode, node.uid, node.gid)
    return links, directories
