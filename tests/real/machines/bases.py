"""Base images of the two kinds that people have, made of Debian packages since none can be pulled here.

Debian's own Python (dist-packages, EXTERNALLY-MANAGED), and one like the official `python:X.Y-slim` images: CPython
built from source under /usr/local, with site-packages and the pip that ensurepip brings. Both are kept between runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.real.machines.debian import debian_architecture, make_root
from tests.real.machines.layouts import write_layout
from tests.real.machines.machine import start_machine
from tests.real.machines.places import kept, remove_tree, require_tool
from tests.real.machines.processes import run
from tests.real.machines.registry import Registry

_SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}

_DEBIAN_PYTHON = ("ca-certificates", "python3", "python3-pip", "python3-venv", "tzdata")

# What CPython's modules link with. The names differ by release because of the 64-bit time_t transition and OpenSSL.
_RUNTIME = (
    "ca-certificates", "libbz2-1.0", "liblzma5", "libncursesw6", "libsqlite3-0", "libuuid1", "netbase", "tzdata",
    "zlib1g",
)  # fmt: skip
_RUNTIME_OF = {
    "bullseye": ("libffi7", "libreadline8", "libssl1.1"),
    "bookworm": ("libffi8", "libreadline8", "libssl3"),
    "trixie": ("libffi8", "libreadline8t64", "libssl3t64"),
}
_BUILD = (
    "dpkg-dev", "gcc", "libbz2-dev", "libc6-dev", "libffi-dev", "liblzma-dev", "libncurses-dev", "libreadline-dev",
    "libsqlite3-dev", "libssl-dev", "make", "pkg-config", "tini", "uuid-dev", "xz-utils", "zlib1g-dev",
)  # fmt: skip

# As the official images are configured, without the profile-guided and link-time optimisation that take half an hour.
# The standard library's bytecode is not compiled, as it is not in theirs: `-x .` leaves every file out.
_COMPILE = r"""
set -eu
mkdir -p /build && cd /build
tar -xf /src/python*.orig.tar.xz --strip-components=1
options=
./configure --help | grep -q disable-test-modules && options=--disable-test-modules
./configure -q --prefix=/usr/local --enable-shared --enable-loadable-sqlite-extensions --with-ensurepip $options \
    CFLAGS="-O2 -fno-semantic-interposition" LDFLAGS="-Wl,--strip-all" >/dev/null
make -s -j"$(nproc)" >/dev/null
make -s install DESTDIR=/out COMPILEALL_OPTS="-q -x ." >/dev/null
cd /out/usr/local
for pair in pip3:pip pydoc3:pydoc python3:python python3-config:python-config idle3:idle; do
    [ ! -e "bin/${pair#*:}" ] && [ -e "bin/${pair%%:*}" ] && ln -s "${pair%%:*}" "bin/${pair#*:}"
done
find . -depth \( -type d \( -name test -o -name tests -o -name idle_test \) \
    -o -type f \( -name '*.pyc' -o -name 'libpython*.a' \) \) -exec rm -rf {} +
find . -depth -name __pycache__ -empty -delete
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base image in an OCI layout, under the tag `latest`. The layout is kept between runs: do not write to it."""

    kind: Literal["debian", "official"]
    suite: str
    python: str
    layout: Path
    digest: str

    @property
    def interpreter(self) -> str:
        """The interpreter's path in the image."""
        return "/usr/bin/python3" if self.kind == "debian" else "/usr/local/bin/python3"

    def push(self, registry: Registry, name: str) -> str:
        """Push it to `registry` as `name` (`repository:tag`); the whole reference."""
        reference = f"{registry.host}/{name}"
        command: list[str | Path] = [require_tool("skopeo"), "copy", "--quiet", "--insecure-policy"]
        command.append("--dest-tls-verify=false")
        if registry.username:
            command += ["--dest-creds", f"{registry.username}:{registry.password}"]
        run([*command, f"oci:{self.layout}:latest", f"docker://{reference}"], timeout_seconds=300)
        return reference


def debian_base(suite: str = "trixie") -> Base:
    """Debian's own python3 of that release, with pip (which refuses to install: EXTERNALLY-MANAGED)."""

    def make(folder: Path) -> None:
        with _scratch(folder) as scratch:
            root = scratch / "root"
            make_root(root, suite, _DEBIAN_PYTHON, variant="minbase")
            _pack(root, scratch / "debian.tar")
            version = run(["chroot", root, "python3", "-c", _SAY_VERSION]).stdout.strip()
            config = {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["python3"],
            }
            _finish(folder, [scratch / "debian.tar"], config, version)

    return _base("debian", suite, make, _DEBIAN_PYTHON)


def official_like_base(python: str = "3.13") -> Base:
    """CPython of that minor version (3.9, 3.11 or 3.13) under /usr/local, on the Debian release that has its source.

    Takes minutes the first time. Two layers, Debian and Python; no compiler, as in the slim images.
    """
    suite = _SUITES[python]
    runtime = (*_RUNTIME, *_RUNTIME_OF[suite])

    def make(folder: Path) -> None:
        with _scratch(folder) as scratch:
            root = scratch / "root"
            make_root(root, suite, runtime, variant="minbase")
            _pack(root, scratch / "debian.tar")
            built = _compile_cpython(scratch, suite, python)
            overlay = scratch / "overlay"
            # The dynamic linker's cache has to know libpython, which is in /usr/local/lib.
            shutil.copytree(built, root, symlinks=True, dirs_exist_ok=True)
            run(["chroot", root, "ldconfig"])
            version = run(["chroot", root, "python3", "-c", _SAY_VERSION]).stdout.strip()
            shutil.move(built, overlay)
            (overlay / "etc").mkdir()
            shutil.copy2(root / "etc/ld.so.cache", overlay / "etc/ld.so.cache")
            _pack(overlay, scratch / "python.tar")
            config = {
                "Env": [
                    "PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "LANG=C.UTF-8",
                    f"PYTHON_VERSION={version}",
                ],
                "Cmd": ["python3"],
            }
            _finish(folder, [scratch / "debian.tar", scratch / "python.tar"], config, version)

    return _base("official", suite, make, (python, runtime, _BUILD, _COMPILE))


_SAY_VERSION = "import platform; print(platform.python_version())"


def _base(kind: Literal["debian", "official"], suite: str, make: Callable[[Path], None], inputs: object) -> Base:
    architecture = debian_architecture()
    key = hashlib.sha256(repr((kind, suite, architecture, inputs, 1)).encode()).hexdigest()[:12]
    folder = kept(f"base-{kind}-{suite}-{key}", make)
    facts = json.loads((folder / "facts.json").read_text())
    return Base(kind=kind, suite=suite, python=facts["python"], layout=folder / "layout", digest=facts["digest"])


def _finish(folder: Path, layers: list[Path], config: Mapping[str, object], version: str) -> None:
    assert re.fullmatch(r"3\.\d+\.\d+\S*", version), version
    digest = write_layout(
        folder / "layout",
        layers,
        dict(config),
        architecture=debian_architecture(),
        history=[f"{layer.stem} layer" for layer in layers],
    )
    (folder / "facts.json").write_text(json.dumps({"python": version, "digest": digest}))


def _compile_cpython(scratch: Path, suite: str, python: str) -> Path:
    """A folder with the `usr/local` of CPython, built in a root of that release, so that its libc fits."""
    root = scratch / "build-root"
    # bookworm's tarball is .tar.gz; tar looks at the content, so the name by which `_COMPILE` asks for it will do.
    fetch = f"mkdir /src && cd /src && apt-get -qq source --download-only python{python}"
    rename = f"if [ -e *.orig.tar.gz ]; then mv *.orig.tar.gz python{python}.orig.tar.xz; fi"
    source = f'chroot "$1" sh -c "{fetch} && {rename}"'
    make_root(
        root,
        suite,
        _BUILD,
        variant="minbase",
        extra=[f"--customize-hook={source}", "--skip=cleanup/apt"],
        source_packages=True,
    )
    with start_machine(scratch / "machine", debian_root=root) as machine:
        machine.run(["sh", "-c", _COMPILE], timeout_seconds=1500)
        out = scratch / "machine/machine/upper/out"
        shutil.move(out, scratch / "built")
    return scratch / "built"


@contextlib.contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A folder on the cache's file system that is removed, with what root made in it, when the block ends."""
    path = beside.with_name(f"{beside.name}.making")
    remove_tree(path)
    path.mkdir()
    try:
        yield path
    finally:
        remove_tree(path)


def _pack(root: Path, tar: Path) -> None:
    """Write `root` as a layer's tar: sorted, numeric owners, no device nodes, no contents of /proc, /sys and /run."""
    run(
        [
            "tar", "--create", "--file", tar, "--sort=name", "--numeric-owner", "--mtime=@1735689600", "--clamp-mtime",
            "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./run/*",
            "--exclude=./var/cache/apt/*.bin", "--exclude=./var/lib/apt/lists/*",
            "-C", root, ".",
        ],
        timeout_seconds=300,
    )  # fmt: skip
