"""The built-in base from the machine's own Debian mirror, unpacked by umoci and started by runc."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.debian import main_mirror
from tests.real.machines.places import cache_dir, require_tool
from tests.real.machines.processes import run
from tests.real.machines.runtime import Bundle, Unpack
from wain import layout
from wain.debian import BaseLock, base_image, debian_mirrors, resolve_base
from wain.debian_bytecode import can_run
from wain.debian_packages import version_key
from wain.errors import Offline
from wain.image import Image, check_image
from wain.names import LayoutReference
from wain.platforms import Platform
from wain.store import Store
from wain.transport import Transport

pytestmark = [pytest.mark.real, pytest.mark.network]

# The modules that the interpreter calls its own and that import; those left out speak or open a browser.
MODULES = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
good = []
for name in sorted(sys.stdlib_module_names):
    if name in ("antigravity", "this", "idlelib"):
        continue
    try:
        importlib.import_module(name)
        good.append(name)
    except ImportError:
        pass
sys.stdout.write(json.dumps(good))
"""

LOOK = """
import ctypes, ctypes.util, curses, glob, grp, json, locale, mimetypes, os, pwd, socket, ssl, sys, time, zoneinfo
curses.setupterm("xterm", 1)
sources = [p for p in glob.glob("/usr/lib/python3.*/**/*.py", recursive=True)
           if not os.path.islink(p) and not any(part in p for part in ("/test/", "/pydoc_data/", "/lib2to3/tests/"))]
compiled = [p for p in sources if os.path.exists(
    f"{os.path.dirname(p)}/__pycache__/{os.path.basename(p)[:-3]}.{sys.implementation.cache_tag}.pyc")]
print(json.dumps({
    "libraries": {name: ctypes.util.find_library(name) for name in ("c", "m", "ssl", "stdc++", "gomp", "z")},
    "loaded": bool(ctypes.CDLL(ctypes.util.find_library("stdc++"))),
    "certificates": len(ssl.create_default_context().get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")),
    "zones": len(zoneinfo.available_timezones()),
    "local": time.tzname[0],
    "locale": locale.setlocale(locale.LC_ALL, ""),
    "encoding": sys.getfilesystemencoding(),
    "mime": mimetypes.guess_type("a.webp")[0],
    "service": socket.getservbyname("https"),
    "users": [pwd.getpwuid(0).pw_name, pwd.getpwnam("nobody").pw_uid, grp.getgrgid(0).gr_name],
    "modes": [oct(os.stat(path).st_mode & 0o7777) for path in ("/tmp", "/root", "/var/tmp")],
    "shells": [p for p in ("sh", "bash", "dash", "perl", "apt", "dpkg", "ls") if os.path.exists("/usr/bin/" + p)],
    "cached": json.__cached__,
    "flags": list(open(json.__cached__, "rb").read(8)[4:]),
    "sources": len(sources),
    "compiled": len(compiled),
    "version": sys.version_info[:3],
}))
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Kept between runs, so that packages are fetched once."""
    main_mirror()
    with Store.open(cache_dir() / "debian-store", make_parent=True) as opened:
        yield opened


def lock_of(python: str, store: Store, *packages: str, platform: str = "linux/amd64") -> BaseLock:
    return resolve_base(
        python,
        platform=Platform.parse(platform),
        packages=packages,
        mirrors=debian_mirrors(),
        store=store,
        transport=Transport(),
    )


def image_of(lock: BaseLock, store: Store) -> Image:
    image = base_image(lock, store=store, transport=Transport(), mirrors=debian_mirrors())
    check_image(image)
    return image


def unpacked(image: Image, folder: Path, unpack: Unpack) -> Bundle:
    place = LayoutReference(path=folder / "layout", tag="latest")
    layout.write(image, place)
    return unpack(place.path, tag="latest")


@pytest.mark.parametrize(("python", "suite"), [("3.13", "trixie"), ("3.11", "bookworm")])
def test_it_does_what_debians_own_python_does(
    python: str, suite: str, store: Store, tmp_path: Path, unpack: Unpack, request: pytest.FixtureRequest
) -> None:
    reference: Base = request.getfixturevalue("base_debian" if suite == "trixie" else "base_debian_bookworm")
    image = image_of(lock_of(python, store, platform=f"linux/{Platform.host().architecture}"), store)
    bundle = unpacked(image, tmp_path, unpack)
    debians = unpack(reference.layout, tag="latest")

    mine = json.loads(bundle.run(["python3", "-c", MODULES]).stdout)
    theirs = json.loads(debians.run(["python3", "-c", MODULES]).stdout)
    # ensurepip is of python3-venv, which that base has beside python3.
    assert sorted(set(theirs) - set(mine) - {"ensurepip"}) == []

    found = json.loads(bundle.run(["python3", "-c", LOOK], env={"TERM": "xterm"}, user=(65534, 65534)).stdout)
    assert all(found["libraries"].values()), found["libraries"]
    assert found["loaded"]
    assert found["certificates"] > 100
    assert found["zone"] == "Europe/Berlin"
    assert found["zones"] > 400
    assert found["local"] == "UTC"
    assert (found["locale"], found["encoding"]) == ("C.UTF-8", "utf-8")
    assert (found["mime"], found["service"]) == ("image/webp", 443)
    assert found["users"] == ["root", 65534, "root"]
    assert found["modes"] == ["0o1777", "0o700", "0o1777"]
    assert found["shells"] == []
    assert found["flags"] == [1, 0, 0, 0], "unchecked hash"
    assert found["compiled"] == found["sources"] > 500
    assert ".".join(map(str, found["version"])) == str(lock_of(python, store).python_version)


@pytest.mark.parametrize("python", ["3.13", "3.11"])
def test_the_loaders_cache_is_as_ldconfig_makes_it(python: str, store: Store, tmp_path: Path, unpack: Unpack) -> None:
    bundle = unpacked(image_of(lock_of(python, store), store), tmp_path, unpack)
    mine = bundle.run(["/sbin/ldconfig", "-p"]).stdout
    bundle.run(["/sbin/ldconfig", "-C", "/tmp/cache"])
    theirs = bundle.run(["/sbin/ldconfig", "-C", "/tmp/cache", "-p"]).stdout
    assert mine.splitlines()[1:] == [line for line in theirs.splitlines()[1:] if "generated by" not in line]


@pytest.mark.parametrize("python", ["3.13", "3.11"])
def test_it_is_small(python: str, store: Store) -> None:
    image = image_of(lock_of(python, store), store)
    assert sum(layer.size_bytes for layer in image.layers) < 22_000_000


def test_a_fresh_store_gives_the_same_layers(store: Store, tmp_path: Path) -> None:
    lock = lock_of("3.13", store, "libpq5")
    first = image_of(lock, store)
    with Store.open(tmp_path / "store", make_parent=True) as fresh:
        again = image_of(lock, fresh)
        assert again.digest == first.digest
        offline = base_image(lock, store=fresh, transport=Transport(offline=True), mirrors=None)
        assert offline.digest == first.digest
        with pytest.raises(Offline):
            resolve_base(
                "3.13",
                platform=lock.platform,
                mirrors=debian_mirrors(),
                store=fresh,
                transport=Transport(offline=True),
            )


def test_each_diff_id_is_that_of_other_programs(store: Store, tmp_path: Path) -> None:
    for number, layer in enumerate(image_of(lock_of("3.13", store, "libpq5"), store).layers):
        path = tmp_path / f"{number}.gz"
        with layer.open() as blob, path.open("wb") as file:
            while chunk := blob.read(1 << 20):
                file.write(chunk)
        with subprocess.Popen(["zcat", str(path)], stdout=subprocess.PIPE) as zcat:
            told = subprocess.run(["sha256sum"], stdin=zcat.stdout, capture_output=True, check=True, text=True)
        assert "sha256:" + told.stdout.split()[0] == layer.diff_id
        assert zcat.returncode == 0


def test_added_packages_with_a_shell(store: Store, tmp_path: Path, unpack: Unpack) -> None:
    image = image_of(lock_of("3.13", store, "bash", "coreutils", "libpq5", "libgl1", "libglib2.0-0"), store)
    bundle = unpacked(image, tmp_path, unpack)
    script = (
        'set -e; ls / >/dev/null; python3 -c \'import ctypes.util as u; print(*map(u.find_library, ["pq", "GL"]))\''
    )
    assert bundle.run(["/bin/sh", "-c", script]).stdout.split() == ["libpq.so.5", "libGL.so.1"]
    needed = bundle.run(
        ["python3", "-c", "import ctypes\nfor n in ('libpq.so.5', 'libGL.so.1', 'libglib-2.0.so.0'): ctypes.CDLL(n)"]
    )
    assert needed.stdout == ""
    status = (bundle.rootfs / "var/lib/dpkg/status.d/libpq5").read_text()
    assert re.search(r"^Status: install ok installed$", status, re.MULTILINE)


def test_for_a_foreign_architecture(store: Store, tmp_path: Path) -> None:
    foreign = next(name for name in ("arm64", "amd64") if not can_run(name))
    image = image_of(lock_of("3.13", store, platform=f"linux/{foreign}"), store)
    assert image.platform.architecture == foreign
    native = image_of(lock_of("3.13", store, platform=f"linux/{Platform.host().architecture}"), store)
    roots = []
    for one in (image, native):
        root = tmp_path / one.platform.architecture
        root.mkdir()
        for number, layer in enumerate(one.layers):
            path = root.with_suffix(f".{number}.gz")
            with layer.open() as blob, path.open("wb") as file:
                file.write(blob.read())
            run(["tar", "-xzf", path, "-C", root, "--exclude=dev", "--no-same-owner"])
        roots.append(root)
    compiled = [path.relative_to(roots[0]) for path in roots[0].rglob("*.pyc")]
    assert len(compiled) > 500
    same = [path for path in compiled if (roots[1] / path).is_file()]
    assert len(same) > 500
    assert [path for path in same if (roots[0] / path).read_bytes() != (roots[1] / path).read_bytes()] == []
    if foreign == "arm64":
        emulator = require_tool("qemu-aarch64-static")
        command = [
            emulator,
            "-L",
            roots[0],
            roots[0] / "usr/bin/python3.13",
            "-c",
            "import platform; print(platform.machine())",
        ]
        told = run(command, env={"PYTHONHOME": str(roots[0] / "usr")}, timeout_seconds=120)
        assert told.stdout.strip() == "aarch64"


def test_versions_sort_as_dpkg_sorts_them() -> None:
    dpkg = require_tool("dpkg")
    random = Random(13)  # the same pairs each time
    for _ in range(150):
        one, other = ("".join(random.choice("01290aAz~+.-") for _ in range(random.randint(0, 6))) for _ in range(2))
        one, other = f"1{one}", f"1{other}"
        if one.endswith("-") or other.endswith("-"):
            continue
        older = run([dpkg, "--compare-versions", one, "lt", other], check=False).code == 0
        assert (version_key(one) < version_key(other)) is older, (one, other)
