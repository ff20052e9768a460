"""The examples' images, as other people's programs take, start and see them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import stat
import statistics
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.machines import places
from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.real.machines.machine import Machine
from tests.real.machines.processes import Finished, run
from tests.real.machines.registry import Registry
from tests.real.machines.runtime import Bundle, blob_path, fetch_page, select_manifest, unpack_archive, unpack_image
from tests.real.machines.trixie import Containerd, Podman
from tests.real.machines.wain import Wain

# One worker has them all, so that each image is built and each daemon started once.
pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("images")]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PAGES = {
    "hello": ("/", r"Hello from Python 3\.\d+\.\d+, straight from wheels\.\n"),
    "ml": (
        "/predict?sepal_length=5.1&sepal_width=3.5&petal_length=1.4&petal_width=0.2",
        r'\{"probability":0\.9\d+,"species":"setosa"\}\n',
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An example's image: the archive that `wain build` wrote, its name and its digest, and the same unpacked."""

    example: str
    archive: Path
    name: str
    digest: str
    layout: Path
    bundle: Bundle

    @property
    def manifest(self) -> dict[str, object]:
        descriptor = select_manifest(self.layout)
        found: dict[str, object] = json.loads(blob_path(self.layout, descriptor["digest"]).read_text())
        return found

    def check_page(self, port: int, **more: object) -> None:
        """The page that is served on `port` is the example's."""
        path, pattern = PAGES[self.example]
        status, body = fetch_page(port, path, timeout_seconds=60, **more)  # type: ignore[arg-type]
        assert status == 200
        assert re.fullmatch(pattern, body), body

    def python(self, code: str, **more: object) -> Finished:
        """Run that code with the image's Python, in a container of runc's."""
        return self.bundle.run(["python", "-c", code], **more)  # type: ignore[arg-type]


def build(wain: Wain, folder: Path, example: str, *options: str | Path) -> Built:
    name = f"registry.example/examples/{example}:1"
    archive = folder / f"{example}.tar"
    told = wain("build", EXAMPLES / example, "--tag", name, "--output", f"archive:{archive}", *options)
    bundle = unpack_image(archive, folder / example)
    return Built(
        example=example,
        archive=archive,
        name=name,
        digest=told.stdout.strip(),
        layout=unpack_archive(archive, folder / f"{example}-layout"),
        bundle=bundle,
    )


@pytest.fixture(scope="module")
def hello(wain: Wain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("hello")
    yield build(wain, folder, "hello")
    places.remove_tree(folder)


@pytest.fixture(scope="module")
def ml(wain: Wain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("ml")
    yield build(wain, folder, "ml")
    places.remove_tree(folder)


@pytest.fixture(scope="module", params=["hello", "ml"])
def image(request: pytest.FixtureRequest) -> Built:
    """Each example on the base that wain chooses itself, the built-in one."""
    found: Built = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def on_trixie(wain: Wain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("trixie-hello")
    yield build(wain, folder, "hello", "--base", "debian:trixie")
    places.remove_tree(folder)


@pytest.fixture(scope="module")
def on_debian(
    wain: Wain, base_debian: Base, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("debian-hello")
    yield build(wain, folder, "hello", "--base", base_debian.push(registry, "bases/debian:trixie"))
    places.remove_tree(folder)


@pytest.fixture(scope="module")
def on_official(
    wain: Wain, base_official: Base, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("official-hello")
    yield build(wain, folder, "hello", "--base", base_official.push(registry, "bases/python:3.13-slim"))
    places.remove_tree(folder)


@pytest.fixture(params=["hello", "on_trixie", "on_debian", "on_official"])
def on_each_base(request: pytest.FixtureRequest) -> Built:
    """The hello example on the built-in bases and on both kinds of foreign ones."""
    found: Built = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["hello", "on_trixie"])
def on_built_in(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


# Other people's programs take it.


@pytest.mark.parametrize("which", ["old_docker", "docker", "docker_containerd"])
def test_docker_loads_it_by_name_and_serves_its_page(which: str, image: Built, request: pytest.FixtureRequest) -> None:
    docker: Docker = request.getfixturevalue(which)
    assert docker.load(image.archive) == [image.name]
    assert image.name in docker.images()
    port = places.free_port()
    with docker.serve(image.name, options=["--env", f"PORT={port}"]) as container:
        image.check_page(port)
        assert "Traceback" not in container.logs()
    ask = "import os; print(os.getuid(), os.getgid(), os.getcwd())"
    as_whom = docker.run(image.name, "-c", ask, options=["--entrypoint=python"])
    assert as_whom.stdout == "65532 65532 /app\n"


def test_podman_loads_it_by_name_and_serves_its_page(podman: Podman, image: Built) -> None:
    assert podman.load(image.archive) == [image.name]
    port = places.free_port()
    with podman.serve(image.name, options=["--env", f"PORT={port}"]):
        image.check_page(port)


def test_containerd_imports_it_by_name_and_runs_it(containerd: Containerd, image: Built) -> None:
    assert containerd.load(image.archive) == [image.name]
    assert containerd.run(image.name, "python", "-c", "import flask, os; print(os.getuid())").stdout == "65532\n"


def test_skopeo_copies_and_inspects_it(trixie: Machine, image: Built, tmp_path: Path) -> None:
    for runner in (run, trixie.run):
        for kind in ("docker-archive", "oci-archive"):
            told = json.loads(runner(["skopeo", "inspect", f"{kind}:{image.archive}"]).stdout)
            assert told["Os"] == "linux" and len(told["Layers"]) == len(image.manifest["layers"])  # type: ignore[arg-type]
            assert "PATH=" in "\n".join(told["Env"])
        copied = tmp_path / ("host" if runner is run else "trixie")
        runner(
            ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci-archive:{image.archive}", f"oci:{copied}:copy"],
        )
        assert select_manifest(copied, tag="copy")["digest"] == image.digest


def test_runc_serves_the_page_from_a_read_only_root(image: Built) -> None:
    port = places.free_port()
    with image.bundle.serve(env={"PORT": str(port)}, read_only=True) as server:
        image.check_page(port, server=server)


START = (
    "import resource\n"
    "import app\n"
    "assert app.app.test_client().get({path!r}).status_code == 200\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(used.ru_utime + used.ru_stime)\n"
)


def test_bytecode_halves_the_time_to_the_first_answer(
    wain: Wain, image: Built, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By processor time, which other work on the machine changes least; the summary foretold it within 30 %.

    What it foretells is remembered: that is forgotten between the rounds, for the machine's speed changes.
    """
    folder = tmp_path_factory.mktemp("compiled")
    compiled = build(wain, folder, image.example, "--compile")
    start = START.format(path=PAGES[image.example][0])
    seconds: dict[str, list[float]] = {"foretold": [], "with": [], "without": []}
    try:
        for _ in range(3):
            places.remove_tree(wain.store / "memos-v1" / "start-estimate")
            told = wain("build", EXAMPLES / image.example, "--output", f"archive:{folder / 'again.tar'}").stderr
            found = re.search(r"save about (\d+(?:\.\d+)?) s at each start", told)
            assert found, told
            seconds["foretold"].append(float(found[1]))
            for which, one in (("with", compiled), ("without", image)):
                seconds[which].append(float(one.python(start, env={"PYTHONDONTWRITEBYTECODE": "1"}).stdout))
    finally:
        places.remove_tree(folder)
    foretold, fast, slow = (statistics.median(seconds[name]) for name in ("foretold", "with", "without"))
    assert fast <= slow / 2, seconds
    assert foretold == pytest.approx(slow - fast, rel=0.3), seconds


def test_one_build_for_two_platforms_runs_on_both(wain: Wain, tmp_path: Path) -> None:
    """amd64 as it is, arm64 in an emulator; each finds its own compiled extension."""
    layout = tmp_path / "layout"
    platforms = "linux/amd64,linux/arm64"
    wain("build", EXAMPLES / "hello", "--output", f"oci:{layout}:both", "--platform", platforms)
    ask = (
        "import platform, markupsafe._speedups\n"
        "from app import app\n"
        "print(platform.machine(), app.test_client().get('/').text, end='')"
    )
    own = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    for architecture, machine in {"amd64": "x86_64", "arm64": "aarch64"}.items():
        emulator = None if architecture == own else places.require_tool(f"qemu-{machine}-static")
        bundle = unpack_image(layout, tmp_path / architecture, tag="both", architecture=architecture)
        assert bundle.image_config["architecture"] == architecture
        told = bundle.run(["/opt/venv/bin/python", "-c", ask], emulator=emulator).stdout
        assert re.fullmatch(rf"{machine} {PAGES['hello'][1]}", told), told


def test_a_registry_takes_it_and_docker_pulls_it(
    wain: Wain, registry: Registry, old_docker: Docker, image: Built, tmp_path: Path
) -> None:
    reference = f"{registry.host}/pushed/{image.example}:1"
    told = wain("build", EXAMPLES / image.example, "--tag", reference, "--push")
    assert told.stdout.strip() == image.digest
    answer = registry.get(f"/v2/pushed/{image.example}/manifests/1", headers={
        "Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    })  # fmt: skip
    assert answer.headers["docker-content-digest"] == image.digest
    mark = registry.mark()
    wain("build", EXAMPLES / image.example, "--tag", reference, "--push")
    assert not [one for one in registry.requests(mark) if one.method == "PATCH"], "a blob was uploaded again"
    old_docker.cli("pull", reference)
    port = places.free_port()
    with old_docker.serve(reference, options=["--env", f"PORT={port}"]):
        image.check_page(port)
    pulled = tmp_path / "pulled.tar"
    assert wain("copy", reference, f"archive:{pulled}").stdout.strip() == image.digest
    for digest in _blobs(image.layout):
        assert digest in registry.blobs()


def test_every_diff_id_is_that_of_the_unpacked_blob(image: Built) -> None:
    manifest = image.manifest
    config = image.bundle.image_config
    layers = manifest["layers"]
    assert isinstance(layers, list) and len(layers) == len(config["rootfs"]["diff_ids"])
    for layer, diff_id in zip(layers, config["rootfs"]["diff_ids"], strict=True):
        blob = blob_path(image.layout, layer["digest"])
        assert blob.stat().st_size == layer["size"]
        assert run(["sha256sum", blob]).stdout.split()[0] == layer["digest"].removeprefix("sha256:")
        told = run(["sh", "-c", 'zcat < "$1" | sha256sum', "sh", blob]).stdout.split()[0]
        assert f"sha256:{told}" == diff_id
        names = run(["tar", "-tzf", blob]).stdout.splitlines()
        assert len(names) == len(set(names))
    assert len([one for one in config["history"] if not one.get("empty_layer")]) == len(layers)


# What is in it, and what is not.


def test_it_runs_as_a_user_with_a_name_and_a_home(on_each_base: Built) -> None:
    told = on_each_base.python(
        "import getpass, grp, json, os, pathlib, pwd, tempfile\n"
        "home = pathlib.Path.home()\n"
        "(home / 'written').write_text('yes')\n"
        "tempfile.NamedTemporaryFile().close()\n"
        "me = pwd.getpwuid(os.getuid())\n"
        "print(json.dumps([os.getuid(), os.getgid(), getpass.getuser(), str(home), me.pw_dir, os.environ['HOME'],"
        " home.stat().st_uid, grp.getgrgid(os.getgid()).gr_name, me.pw_name]))"
    )
    uid, gid, user, home, pw_dir, env_home, owner, group, name = json.loads(told.stdout)
    assert (uid, gid, owner) == (65532, 65532, 65532)
    assert user == name and group
    assert home == pw_dir == env_home and home not in {"/", "/root"}
    # A platform may give it another uid, in group 0.
    other = on_each_base.python(
        f"import pathlib; pathlib.Path({home!r}, 'other').write_text('yes'); print('written')", user=(1234567, 0)
    )
    assert other.stdout == "written\n"


def test_the_folders_that_it_shares_with_its_base_are_as_the_base_had_them(on_each_base: Built) -> None:
    root = on_each_base.bundle.rootfs
    for path, mode in {"tmp": 0o1777, "root": 0o700, "etc": 0o755, "usr": 0o755}.items():
        there = (root / path).stat()
        assert (oct(stat.S_IMODE(there.st_mode)), there.st_uid) == (oct(mode), 0), path
    assert (root / "bin").is_symlink() and (root / "lib").is_symlink()


def test_the_page_answers_on_every_base(on_each_base: Built) -> None:
    port = places.free_port()
    with on_each_base.bundle.serve(env={"PORT": str(port)}) as server:
        on_each_base.check_page(port, server=server)


def test_no_pip_no_cache_and_no_bytecode_of_dependencies(image: Built) -> None:
    """Bytecode is the standard library's alone here: none of the examples' wheels ships any."""
    found = {"pip": [], "cache": [], "bytecode": []}  # type: dict[str, list[str]]
    for name in _names(image.layout, image.manifest):
        path = Path("/", name)
        if re.search(r"/(pip|ensurepip|setuptools|wheel)(/|-[\d.]+\.(dist|egg)-info/|$)|/bin/(pip|easy_install)", name):
            found["pip"].append(name)
        if re.search(r"(^|/)\.cache/|^var/cache/(apt|debconf)/.|^var/lib/apt/lists/.|^tmp/.", name):
            found["cache"].append(name)
        if path.suffix == ".pyc" and not re.match(r"usr/lib/python3(\.\d+)?/", name):
            found["bytecode"].append(name)
    assert found == {"pip": [], "cache": [], "bytecode": []}
    shells = image.bundle.run(["sh", "-c", "true"], check=False)
    assert shells.code != 0, "there is a shell that nobody asked for"


def test_a_foreign_base_gets_nothing_but_venv_project_and_user(on_official: Built, base_official: Base) -> None:
    base = json.loads(blob_path(base_official.layout, base_official.digest).read_text())
    added = on_official.manifest["layers"][len(base["layers"]) :]  # type: ignore[index]
    names = set(_names(on_official.layout, {"layers": added}))
    allowed = re.compile(r"(opt(/venv(/.*)?)?|app(/.*)?|home(/.*)?|etc(/(passwd|group|shadow|gshadow))?|var(/.*)?)/?")
    assert [name for name in sorted(names) if name and not allowed.fullmatch(name)] == []
    assert not [name for name in names if name.endswith(".pyc")]
    for mine, theirs in zip(on_official.manifest["layers"], base["layers"], strict=False):  # type: ignore[call-overload]
        assert mine["digest"] == theirs["digest"]


_IMPORTS = r"""
import importlib, json, os, pkgutil, sys, warnings
warnings.simplefilter("ignore")
skip = {"antigravity", "this", "idlelib", "turtledemo", "test", "tkinter", "turtle", "ensurepip", "venv"}
names = sorted(name for name in sys.stdlib_module_names if name not in skip)
for name in list(names):
    try:
        module = importlib.import_module(name)
    except BaseException:
        continue
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        if not found.name.endswith("__main__") and ".test" not in found.name and ".idle_test" not in found.name:
            names.append(found.name)
works = []
for name in names:
    try:
        importlib.import_module(name)
        works.append(name)
    except BaseException:
        pass
sys.stdout.write("\n" + json.dumps(works) + "\n")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(("built", "debian"), [("hello", "base_debian_bookworm"), ("on_trixie", "base_debian")])
def test_every_standard_module_that_debian_has_works(
    built: str, debian: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ours: Built = request.getfixturevalue(built)
    theirs: Base = request.getfixturevalue(debian)
    if not ours.python("import platform; print(platform.python_version())").stdout.startswith(
        theirs.python.rpartition(".")[0]
    ):
        pytest.fail(f"{built} has another Python than {debian}")
    bundle = unpack_image(theirs.layout, tmp_path / "debian", tag="latest")
    try:
        # The setuptools that pip depends on there would put its own distutils in the place of the standard one.
        told = bundle.run(["python3", "-c", _IMPORTS], env={"SETUPTOOLS_USE_DISTUTILS": "stdlib"})
        expected = json.loads(told.stdout.splitlines()[-1])
    finally:
        places.remove_tree(tmp_path / "debian")
    works = json.loads(ours.python(_IMPORTS).stdout.splitlines()[-1])
    assert len(expected) > 400
    assert sorted(set(expected) - set(works)) == []


def test_tls_works_with_the_authorities_that_came_along(on_built_in: Built, registry_with_tls: Registry) -> None:
    told = on_built_in.python("import ssl; print(len(ssl.create_default_context().get_ca_certs()))")
    assert int(told.stdout) > 100
    assert registry_with_tls.ca_file is not None
    ask = f"import urllib.request as r; print(r.urlopen('{registry_with_tls.url}/v2/', timeout=10).status)"
    refused = on_built_in.python(ask, host_network=True, check=False)
    assert refused.code != 0 and "CERTIFICATE_VERIFY_FAILED" in refused.output
    trusted = on_built_in.python(
        ask, host_network=True, binds={registry_with_tls.ca_file: "/own.crt"}, env={"SSL_CERT_FILE": "/own.crt"}
    )
    assert trusted.stdout == "200\n"


def test_time_zones_and_shared_libraries_are_found(on_built_in: Built) -> None:
    told = on_built_in.python(
        "import datetime, time, zoneinfo\n"
        "noon = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))\n"
        "print(noon.utcoffset(), time.tzname, len(zoneinfo.available_timezones()) > 400)",
        env={"TZ": "America/New_York"},
    )
    assert told.stdout == "2:00:00 ('EST', 'EDT') True\n"
    told = on_built_in.python(
        "import ctypes, ctypes.util\n"
        "for name in ('c', 'm', 'ssl', 'crypto', 'z', 'ffi', 'sqlite3', 'stdc++', 'gomp'):\n"
        "    found = ctypes.util.find_library(name)\n"
        "    assert found, name\n"
        "    ctypes.CDLL(found)\n"
        "print('all')"
    )
    assert told.stdout == "all\n"


def test_scanners_see_its_debian_packages(on_built_in: Built) -> None:
    folder = on_built_in.bundle.rootfs / "var/lib/dpkg/status.d"
    packages = {
        found[1] for path in folder.iterdir() if (found := re.search(r"(?m)^Package: (\S+)$", path.read_text()))
    }
    assert {"libc6", "ca-certificates", "tzdata", "libexpat1"} <= packages
    release = (on_built_in.bundle.rootfs / "etc/os-release").read_text()
    assert "ID=debian" in release


def _blobs(layout: Path) -> list[str]:
    """The digests of the one image in a layout: manifest, config and layers."""
    descriptor = select_manifest(layout)
    manifest = json.loads(blob_path(layout, descriptor["digest"]).read_text())
    return [descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def _names(layout: Path, manifest: dict[str, object]) -> Iterator[str]:
    """The path of every entry of every layer, as `usr/bin/env`."""
    layers = manifest["layers"]
    assert isinstance(layers, list)
    for layer in layers:
        with gzip.open(blob_path(layout, layer["digest"])) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                yield os.path.normpath(member.name).removeprefix("./").rstrip("/")


def test_names_of_layers_are_read_as_tar_reads_them(hello: Built) -> None:
    """The reader that the tests above stand on agrees with GNU tar, on a layer with many gzip members."""
    layer = max(hello.manifest["layers"], key=lambda one: one["size"])  # type: ignore[call-overload]
    told = run(["tar", "-tzf", blob_path(hello.layout, layer["digest"])]).stdout.splitlines()
    assert sorted(_names(hello.layout, {"layers": [layer]})) == sorted(name.rstrip("/") for name in told)
    assert hashlib.sha256(blob_path(hello.layout, layer["digest"]).read_bytes()).hexdigest() in layer["digest"]
