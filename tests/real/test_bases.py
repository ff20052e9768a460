"""Base facts of Debian releases against what the releases' own programs say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.places import require_tool
from tests.real.machines.processes import run
from tests.real.machines.runtime import Unpack
from wain import layout
from wain.bases import BaseFacts, read_base_facts
from wain.elf import parse_elf
from wain.image import Image
from wain.names import LayoutReference
from wain.rootfs import Rootfs

pytestmark = pytest.mark.real

_SAYS = """
import json, os, site, sys, sysconfig
scheme = sysconfig.get_preferred_scheme("prefix")
print(json.dumps({
    "version": sys.version.split()[0],
    "soabi": sysconfig.get_config_var("SOABI"),
    "libc": os.confstr("CS_GNU_LIBC_VERSION"),
    "prefix": sys.prefix,
    "executable": os.path.realpath(sys.executable),
    "purelib": sysconfig.get_path("purelib", scheme),
    "platlib": sysconfig.get_path("platlib", scheme),
    "scripts": sysconfig.get_path("scripts", scheme),
    "managed": os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")),
    "sites": site.getsitepackages(),
}))
"""


FIXTURES = ("base_debian", "base_debian_bookworm", "base_official")


def read_layout(base: Base) -> Image:
    image = layout.read(LayoutReference(path=base.layout, tag="latest"))
    assert isinstance(image, Image)
    return image


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_bases_python_is_what_it_says_of_itself(fixture: str, request: pytest.FixtureRequest, unpack: Unpack) -> None:
    base: Base = request.getfixturevalue(fixture)
    root = unpack(base.layout, tag="latest").rootfs
    facts = read_base_facts(read_layout(base))
    said = json.loads(run(["chroot", root, facts.command, "-c", _SAYS]).stdout)
    assert facts.command == base.interpreter
    assert str(facts.python) == said["version"] == base.python
    assert said["soabi"].startswith(f"cpython-{facts.abi.removeprefix('cp')}-")
    assert said["libc"] == f"{facts.libc} {facts.libc_version[0]}.{facts.libc_version[1]}"
    assert (facts.prefix, facts.interpreter) == (said["prefix"], said["executable"])
    assert (f"/{facts.pip.purelib}", f"/{facts.pip.platlib}") == (said["purelib"], said["platlib"])
    assert f"/{facts.pip.scripts}" == said["scripts"]
    assert facts.externally_managed == said["managed"]
    assert (facts.os_id, facts.os_version) == ("debian", {"bookworm": "12", "trixie": "13"}[base.suite])
    assert "pip" in {item.name for item in facts.distributions}
    assert {f"/{item.location}" for item in facts.distributions} <= set(said["sites"])
    assert facts.passwd == (root / "etc/passwd").read_text()
    assert facts.group == (root / "etc/group").read_text()
    label = facts.to_label()
    assert label is not None
    assert len(label) < 8 << 10
    assert BaseFacts.from_label(label) == facts
    check_folders(facts, root)
    check_libraries(facts, root)


def check_folders(facts: BaseFacts, root: Path) -> None:
    links = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink()]
    folders = (f"/{name}" for name in links)
    program = 'for n in "$@"; do [ -d "$n" ] && echo "$n $(readlink -f "$n")"; done; true'
    said = run(["chroot", root, "sh", "-c", program, "sh", *folders]).stdout.splitlines()
    assert {f"/{name} /{target}" for name, target in facts.links.items()} == set(said)
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            found = path.stat()
            assert facts.directory(name) == (found.st_mode & 0o7777, found.st_uid, found.st_gid), name


def check_libraries(facts: BaseFacts, root: Path) -> None:
    """All that ldconfig finds, and nothing else but what has no soname of its own there."""
    said = run(["chroot", root, "/sbin/ldconfig", "-p"]).stdout
    listed = {line.split()[0] for line in said.splitlines()[1:] if "=>" in line}
    assert listed
    assert listed <= facts.libraries.keys()
    for soname, library in facts.libraries.items():
        assert (root / library.directory / soname).exists(), soname


def test_the_view_of_an_image_has_the_files_that_umoci_unpacks(base_official: Base, unpack: Unpack) -> None:
    root = unpack(base_official.layout, tag="latest").rootfs
    rootfs = Rootfs.of(read_layout(base_official).layers)
    kinds = {"file": Path.is_file, "directory": Path.is_dir, "symlink": Path.is_symlink}
    seen = set()
    for path, node in rootfs.walk():
        seen.add(path)
        where = root / path
        found = where.lstat()
        assert (node.mode, node.uid, node.gid) == (found.st_mode & 0o7777, found.st_uid, found.st_gid), path
        if node.kind in kinds:
            assert kinds[node.kind](where), path
        if node.kind == "file":
            assert node.size_bytes == found.st_size, path
        elif node.kind == "symlink":
            assert node.target == str(where.readlink()), path
    assert seen == {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_readelf_agrees_on_every_library() -> None:
    require_tool("readelf")
    libraries = sorted(path for path in Path("/usr/lib").glob("*-linux-gnu/lib*.so.*") if not path.is_symlink())[:60]
    assert libraries
    for path in libraries:
        elf = parse_elf(path.read_bytes())
        assert elf is not None
        said = subprocess.run(["readelf", "-dVW", path], check=True, capture_output=True, text=True).stdout
        needed = [line.rpartition("[")[2].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
        assert list(elf.needed) == needed, path
        files = [line.split("File: ")[1].split()[0] for line in said.splitlines() if " File: " in line]
        assert set(elf.requires) == set(files), path
