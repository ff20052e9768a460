"""The machines that the other real tests stand on work, shown with images that owe nothing to wain."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import urllib.request
from pathlib import Path

import pytest

from tests.index_server import make_wheel
from tests.real.machines import places
from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.real.machines.index_front import IndexFront, serve_index_front
from tests.real.machines.layouts import write_layout
from tests.real.machines.processes import run, running
from tests.real.machines.registry import Registry
from tests.real.machines.runtime import Unpack, fetch_page
from tests.real.machines.trixie import Containerd, Podman

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("machines")]


def tiny_layout(folder: Path) -> Path:
    """An image with one file, made without a base: enough for programs that only copy."""
    root = folder / "root"
    root.mkdir(parents=True)
    (root / "hello.txt").write_text("hello\n")
    run(["tar", "-cf", folder / "layer.tar", "--owner=0", "--group=0", "-C", root, "hello.txt"])
    layout = folder / "layout"
    write_layout(layout, [folder / "layer.tar"], {"Cmd": ["/hello"]})
    return layout


def test_a_missing_tool_skips_and_with_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program"):
        places.require_tool("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs no-such-program"):
        places.require_tool("no-such-program")


def test_a_group_stays_together(request: pytest.FixtureRequest) -> None:
    """The suffix is what pytest-xdist keeps the tests of a group on one worker by."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not a worker of --dist loadgroup")
    assert request.node.nodeid.endswith("@machines")


def test_what_is_kept_is_made_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIN_TESTS_CACHE", str(tmp_path))

    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        places.kept("thing", fails)
    assert not list(tmp_path.glob("*thing*"))
    made = places.kept("thing", lambda folder: (folder / "whole").touch())
    assert places.kept("thing", fails) == made
    assert (made / "whole").exists()


def test_a_running_program_ends_with_its_block(tmp_path: Path) -> None:
    with running(["sleep", "100"], log=tmp_path / "log") as sleeper:
        pid = sleeper.process.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(AssertionError, match=r"took over 0\.2 s"):
        run(["sleep", "100"], timeout_seconds=0.2)


def test_skopeo_pushes_to_the_registry_and_its_log_tells(registry: Registry, tmp_path: Path) -> None:
    skopeo = places.require_tool("skopeo")
    layout = tiny_layout(tmp_path)
    mark = registry.mark()
    run([skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:latest",
         f"docker://{registry.host}/machines/tiny:1"])  # fmt: skip
    sent = registry.requests(mark)
    assert sent[-1].method == "PUT" and sent[-1].path.endswith("/manifests/1") and sent[-1].status == 201
    for digest in (path.name for path in (layout / "blobs/sha256").iterdir()):
        assert registry.blob_path(f"sha256:{digest}").exists()
        assert f"sha256:{digest}" in registry.blobs()


def test_the_guarded_registries_want_what_they_should(
    registry_with_password: Registry, registry_with_tls: Registry, tmp_path: Path
) -> None:
    skopeo = places.require_tool("skopeo")
    layout = tiny_layout(tmp_path)
    target = f"docker://{registry_with_password.host}/machines/tiny:1"
    copy = [skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:latest", target]
    refused = run([*copy, "--dest-no-creds"], check=False)
    assert refused.code != 0 and "authentication required" in refused.output
    run([*copy, "--dest-authfile", registry_with_password.docker_config(tmp_path / "docker")])

    certificates = tmp_path / "certs"
    certificates.mkdir()
    assert registry_with_tls.ca_file is not None
    (certificates / "ca.crt").write_bytes(registry_with_tls.ca_file.read_bytes())
    target = f"docker://{registry_with_tls.host}/machines/tiny:1"
    refused = run([skopeo, "copy", "--insecure-policy", f"oci:{layout}:latest", target], check=False)
    assert refused.code != 0 and "certificate" in refused.output
    run([skopeo, "copy", "--insecure-policy", "--dest-cert-dir", certificates, f"oci:{layout}:latest", target])


def write_page(folder: Path, port: int) -> Path:
    """An app.py that answers `GET /` on that port with the name and version of its Python."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(
        "import http.server, platform\n"
        "class Page(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = ('python ' + platform.python_version()).encode()\n"
        "        self.send_response(200)\n"
        "        self.send_header('Content-Length', str(len(body)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(body)\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), Page).serve_forever()\n"
    )
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, base_official: Base) -> Path:
    """A docker archive of the official-like base, named machines/base:1."""
    path = tmp_path_factory.mktemp("archive") / "base.tar"
    run([places.require_tool("skopeo"), "copy", "-q", "--insecure-policy", f"oci:{base_official.layout}:latest",
         f"docker-archive:{path}:docker.io/machines/base:1"])  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["base_debian", "base_debian_bookworm", "base_official"])
def test_the_bases_are_what_they_stand_for(kind: str, request: pytest.FixtureRequest, unpack: Unpack) -> None:
    base: Base = request.getfixturevalue(kind)
    bundle = unpack(base.layout, tag="latest")
    assert not list((bundle.rootfs / "usr/local").rglob("*.pyc"))
    said = bundle.run(
        ["python3", "-c", ("import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, zlib\n"
         "import pip, platform, sys, sysconfig\n"
         "print(sys.executable, platform.python_version(), sysconfig.get_path('purelib'), pip.__file__)")]
    )  # fmt: skip
    executable, version, purelib, pip = said.stdout.split()
    assert (executable, version) == (base.interpreter, base.python)
    marker = bundle.run(
        ["python3", "-m", "pip", "install", "--no-index", "--find-links=/", "nothing-here"], check=False
    )
    if base.kind == "official":
        assert purelib == f"/usr/local/lib/python{version.rpartition('.')[0]}/site-packages"
        assert pip.startswith(purelib) and "externally-managed" not in marker.output
        assert f"PYTHON_VERSION={version}" in bundle.image_config["config"]["Env"]
    else:
        assert "externally-managed-environment" in marker.output
        assert pip.startswith("/usr/lib/python3/dist-packages/")


def test_runc_serves_a_page(base_debian: Base, unpack: Unpack, tmp_path: Path) -> None:
    bundle = unpack(base_debian.layout, tag="latest")
    port = places.free_port()
    write_page(bundle.rootfs / "app", port)
    with bundle.serve(["python3", "/app/app.py"], user=(65532, 65532)) as server:
        assert fetch_page(port, server=server) == (200, f"python {base_debian.python}")
    with pytest.raises(AssertionError, match="took over 1 s"):
        bundle.run(["sleep", "60"], timeout_seconds=1)
    assert bundle.run(["sh", "-c", "exit 7"], check=False).code == 7


@pytest.mark.parametrize("which", ["old_docker", "docker", "docker_containerd"])
def test_docker_loads_builds_runs_and_pulls(
    which: str,
    request: pytest.FixtureRequest,
    archive: Path,
    base_official: Base,
    registry: Registry,
    index_front: IndexFront,
    tmp_path: Path,
) -> None:
    docker: Docker = request.getfixturevalue(which)
    assert docker.load(archive) == ["machines/base:1"]
    assert docker.run("machines/base:1", "python3", "-c", "print(1 + 1)").stdout == "2\n"

    port = places.free_port()
    context = write_page(tmp_path / "context", port)
    (context / "Dockerfile").write_text(
        f"FROM {base_official.push(registry, f'machines/{which}:1')}\n"
        "ARG PIP_INDEX_URL\nRUN pip install --no-cache-dir --root-user-action=ignore six\n"
        'COPY app.py /\nCMD ["python3", "/app.py"]\n'
    )
    mark = index_front.mark()
    docker.build(context, f"{registry.host}/machines/{which}-app:1", "--build-arg", f"PIP_INDEX_URL={index_front.url}")
    assert [request.is_file for request in index_front.requests(mark)].count(True) == 1
    docker.cli("push", f"{registry.host}/machines/{which}-app:1")
    docker.cli("image", "rm", "--force", f"{registry.host}/machines/{which}-app:1")
    with docker.serve(f"{registry.host}/machines/{which}-app:1"):
        assert fetch_page(port) == (200, f"python {base_official.python}")


def test_podman_loads_and_runs(podman: Podman, archive: Path) -> None:
    assert podman.load(archive) == ["docker.io/machines/base:1"]
    assert podman.run("machines/base:1", "python3", "-c", "print(1 + 1)").stdout == "2\n"


def test_ctr_imports_and_runs(containerd: Containerd, archive: Path) -> None:
    assert containerd.load(archive) == ["docker.io/machines/base:1"]
    assert containerd.run("docker.io/machines/base:1", "python3", "-c", "print(1 + 1)").stdout == "2\n"


def test_the_front_answers_ranges_and_heads(index_front: IndexFront) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", index_front.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/simple/Six/")
        page = connection.getresponse().read().decode()
        path = re.findall(r'href="(/files/[^"#]+\.whl)#sha256=', page)[-1]
        connection.request("HEAD", path)
        answer = connection.getresponse()
        size = int(answer.headers["Content-Length"])
        assert answer.read() == b"" and answer.headers["Accept-Ranges"] == "bytes"
        connection.request("GET", path, headers={"Range": "bytes=-22"})
        answer = connection.getresponse()
        assert answer.status == 206 and answer.headers["Content-Range"] == f"bytes {size - 22}-{size - 1}/{size}"
        assert answer.read().startswith(b"PK\x05\x06")
        connection.request("GET", "/simple/no-such-project-of-wains-tests/")
        assert connection.getresponse().status == 404


def test_the_front_tells_the_hashes_of_a_folders_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "links"
    links.mkdir()
    name, data = make_wheel("alpha", "1.0")
    (links / name).write_bytes(data)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with serve_index_front(tmp_path / "front") as front, urllib.request.urlopen(f"{front.url}alpha/") as page:
        assert f"{name}#sha256={hashlib.sha256(data).hexdigest()}" in page.read().decode()
