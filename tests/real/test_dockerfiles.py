"""Dockerfiles built by wain and by BuildKit: the same files and the same configuration.

`dockerfiles/` has one Dockerfile a case, all with the context that `make_context` makes. What is not compared:

1. times: of files, of the image and of its history, the day of a password in shadow; digests; the comments of history;
2. bytecode: `__pycache__`, which wain leaves out; where a case asks for it, its names, modes and owners below /app and
   /opt are compared, and not its bytes, which hold times;
3. what tells installers apart: RECORD, INSTALLER, REQUESTED, uv's own notes of a build, direct_url.json where it does
   not say that a project is editable, and the text of launchers behind their first line;
4. the caches of pip and uv, and uv's lock files in /tmp, which wain never leaves in an image;
5. how many layers a step has: wain gives large wheels layers of their own, and a step that changes nothing none.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.real.machines.index_front import IndexFront
from tests.real.machines.places import free_port
from tests.real.machines.registry import Registry
from tests.real.machines.runtime import fetch_page
from tests.real.machines.wain import Wain
from wain.uv_process import find_uv

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("docker")]

CASES = Path(__file__).parent / "dockerfiles"
_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class File:
    """One entry of an image as the comparison sees it."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: str
    """A link's target, or the SHA-256 of a file."""


Files = dict[str, File]


def make_context(folder: Path) -> Path:
    """The context of all cases, with modes, links and archives."""
    folder.mkdir()

    def put(name: str, text: str, mode: int = 0o644) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    put("app.py", "print('app')\n")
    put("requirements.txt", "click\nsix  # both are small\n")
    put("constraints.txt", "six<1.17\n")
    put("script.sh", "#!/bin/sh\n", 0o755)
    put("secret.pem", "secret\n", 0o600)
    put("with space.txt", "spaces\n")
    put("archive.txt", "no archive\n")
    put("notes.txu", "x\n")
    put("data/a.txt", "a\n")
    put("data/b.txt", "b\n", 0o640)
    put("data/.hidden", "h\n")
    put("data/sub/c.txt", "c\n")
    put("data/sub/keep.txt", "keep\n")
    put("other/a.txt", "another a\n")
    put("other/sub/d.txt", "d\n")
    put("shared/in.txt", "in\n", 0o664)
    (folder / "shared").chmod(0o2775)
    (folder / "other/sub").chmod(0o700)
    (folder / "links").mkdir()
    (folder / "links/to-file").symlink_to("../data/a.txt")
    (folder / "links/to-folder").symlink_to("../data/sub")
    (folder / "links/broken").symlink_to("nowhere")
    (folder / "links/out").symlink_to("../../../../etc/hostname")
    (folder / "dirlink").symlink_to("data")
    make_projects(put)
    inner = folder.parent / "archive"
    (inner / "in/deep").mkdir(parents=True)
    (inner / "in/deep/f.txt").write_text("f\n")
    (inner / "in/deep/f.txt").chmod(0o711)
    (inner / "in/l").symlink_to("deep/f.txt")

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid, info.mtime = 42, 43, 1_600_000_000
        return info

    for name, mode in (("archive.tar", "w"), ("archive.tar.gz", "w:gz"), ("archive.tar.xz", "w:xz")):
        with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(inner / "in", "in", filter=owned)
    shutil.rmtree(inner)
    return folder


_BUILD = '[build-system]\nrequires = ["{0}"]\nbuild-backend = "{1}"\n'
_HATCH = _BUILD.format("hatchling", "hatchling.build")


def make_projects(put: Callable[[str, str], None]) -> None:
    """Projects of the usual back ends, one of them a workspace."""
    put(
        "project/pyproject.toml",
        '[project]\nname = "demo-app"\nversion = "0.1.0"\nrequires-python = ">=3.9"\ndependencies = ["click", "six"]\n'
        '[project.scripts]\ndemo = "demo:main"\n[project.optional-dependencies]\nfast = ["idna"]\n'
        '[dependency-groups]\ndev = ["iniconfig"]\nlint = ["packaging"]\n'
        + _HATCH
        + '[tool.hatch.build.targets.wheel]\npackages = ["src/demo"]\n',
    )
    put("project/src/demo/__init__.py", "def main():\n    print('demo')\n")
    put(
        "workspace/pyproject.toml",
        '[project]\nname = "whole"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["part", "six"]\n'
        '[tool.uv.sources]\npart = { workspace = true }\n[tool.uv.workspace]\nmembers = ["packages/*"]\n',
    )
    put(
        "workspace/packages/part/pyproject.toml",
        '[project]\nname = "part"\nversion = "2"\nrequires-python = ">=3.9"\ndependencies = ["idna"]\n' + _HATCH,
    )
    put("workspace/packages/part/part/__init__.py", "")
    put(
        "editable/src-layout/pyproject.toml",
        '[project]\nname = "src-layout"\nversion = "1.0"\ndependencies = ["six"]\n'
        '[project.scripts]\nlaid = "laid:main"\n' + _BUILD.format("setuptools", "setuptools.build_meta"),
    )
    put("editable/src-layout/src/laid/__init__.py", "def main():\n    pass\n")
    put(
        "editable/legacy/setup.py",
        'from setuptools import setup\n\nsetup(name="legacy", version="2.0", packages=["old"])\n',
    )
    put("editable/legacy/old/__init__.py", "x = 1\n")
    put(
        "editable/flat/pyproject.toml",
        '[project]\nname = "flat"\nversion = "0.3"\ndescription = "flat"\n'
        + _BUILD.format("flit_core", "flit_core.buildapi"),
    )
    put("editable/flat/flat/__init__.py", '"""flat"""\n')


def lock_projects(context: Path, index: str) -> None:
    """Gives the projects that have one their uv.lock, whose files are those of an index."""
    for name in ("project", "workspace"):
        command = [find_uv(), "lock", "--quiet", "--no-config", "--default-index", index]
        subprocess.run(command, cwd=context / name, check=True, timeout=120)


@pytest.fixture(scope="module")
def uv_image(docker: Docker, registry: Registry, tmp_path_factory: Any) -> str:
    """An image that holds uv's programs alone, as uv's own images have them."""
    folder = tmp_path_factory.mktemp("uv")
    for name in ("uv", "uvx"):
        shutil.copy2(Path(find_uv()).with_name(name), folder / name)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY uv uvx /\n")
    name = f"{registry.host}/bases/uv:1"
    docker.build(folder, name)
    docker.cli("push", "--quiet", name)
    return name


@contextlib.contextmanager
def serve_files(folder: Path) -> Iterator[str]:
    """The files of a folder over loopback HTTP; the address that they stand below."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Tells nobody."""


def read_layer(data: bytes, files: Files) -> None:
    """Lay a layer over what is there: whiteouts first, then its entries."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    members: list[tuple[str, tarfile.TarInfo, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isreg() else None
            members.append((os.path.normpath(info.name), info, stream.read() if stream else b""))
    for name, _, _ in members:
        folder, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            remove_below(files, folder)
        elif last.startswith(".wh."):
            gone = f"{folder}/{last[4:]}".lstrip("/")
            remove_below(files, gone)
            files.pop(gone, None)
    for name, info, content in members:
        if name.rpartition("/")[2].startswith(".wh.") or name == ".":
            continue
        if not info.isdir() and (before := files.get(name)) is not None and before.kind == "directory":
            remove_below(files, name)
        if info.islnk():
            files[name] = files[os.path.normpath(info.linkname)]
            continue
        if name in {"etc/shadow", "etc/shadow-"}:
            content = re.sub(rb"(?m)^([^:]+:!):\d+:", rb"\1:day:", content)
        kind = "directory" if info.isdir() else "link" if info.issym() else "file"
        text = info.linkname if info.issym() else hashlib.sha256(content).hexdigest() if info.isreg() else ""
        if kind == "file" and content.startswith(b"#!") and b"python" in content[:80] and b"sys.exit(" in content:
            text = "launcher " + content.partition(b"\n")[0].decode()
        if name.endswith(".dist-info/direct_url.json") and b'"editable":true' not in content.replace(b" ", b""):
            text = _PLAIN_URL
        files[name] = File(kind, 0o777 if info.issym() else info.mode, info.uid, info.gid, text)


def remove_below(files: Files, folder: str) -> None:
    for name in [name for name in files if name.startswith(f"{folder}/")]:
        del files[name]


_OTHER_INSTALLER = tuple(
    f".dist-info/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "uv_build.json", "uv_cache.json")
)
_PLAIN_URL = "of no editable project"


def is_cache(name: str, files: Files) -> bool:
    """Whether it is pip's or uv's cache, or a folder that was made for one."""
    if re.search(r"/\.cache/(pip|uv)(/|$)", name) or re.fullmatch(r"tmp/uv-[a-z0-9-]+\.lock", name):
        return True
    if not name.endswith("/.cache"):
        return False
    return all(is_cache(other, files) for other in files if other.startswith(f"{name}/"))


def normal(files: Files, *, bytecode: bool = False) -> Files:
    """Without what is listed at the top."""
    return {
        name: replace(entry, content="") if name.endswith(".pyc") else entry
        for name, entry in files.items()
        if ("__pycache__" not in name.split("/") or (bytecode and name.startswith(("app/", "opt/"))))
        and not name.endswith(_OTHER_INSTALLER)
        and entry.content != _PLAIN_URL
        and not is_cache(name, files)
    }


def normal_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config's members that are compared; a step's lines of history come out as one."""
    history: list[tuple[str, bool]] = []
    for line in config.get("history", []):
        text = line.get("created_by", "")
        if not history or history[-1][0] != text:
            history.append((text, True))
    return {
        "config": {name: value for name, value in config["config"].items() if value not in (None, [], {}, "")},
        "platform": [config["os"], config["architecture"]],
        "history": [text for text, _ in history],
    }


class Images:
    """Reads images out of a registry's own files."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def read(self, name: str) -> tuple[Files, dict[str, Any]]:
        repository, _, tag = name.rpartition(":")
        answer = self.registry.get(f"/v2/{repository}/manifests/{tag}", headers={"Accept": _ACCEPT})
        assert answer.status == 200, answer
        manifest = json.loads(answer.body)
        files = self.files(tuple(layer["digest"] for layer in manifest["layers"]))
        config = manifest["config"]["digest"]
        document = json.loads(self.registry.blob_path(config).read_bytes())
        return normal(files, bytecode="bytecode" in repository), document

    @functools.cache  # noqa: B019 - a few tests long
    def files(self, digests: tuple[str, ...]) -> Files:
        if not digests:
            return {}
        files = dict(self.files(digests[:-1]))
        read_layer(self.registry.blob_path(digests[-1]).read_bytes(), files)
        return files


def differences(ours: tuple[Files, dict[str, Any]], theirs: tuple[Files, dict[str, Any]]) -> Iterator[str]:
    for name in sorted({*ours[0], *theirs[0]}):
        mine, other = ours[0].get(name), theirs[0].get(name)
        if mine != other:
            yield f"/{name}: {mine} and not {other}"
    mine_config, other_config = normal_config(ours[1]), normal_config(theirs[1])
    for key in mine_config:
        if mine_config[key] != other_config[key]:
            yield f"{key}: {mine_config[key]} and not {other_config[key]}"


def test_dockerfiles_come_out_as_buildkit_builds_them(
    python_base: str,
    uv_image: str,
    docker: Docker,
    registry: Registry,
    wain: Wain,
    index_front: IndexFront,
    tmp_path: Path,
) -> None:
    context = make_context(tmp_path / "context")
    lock_projects(context, index_front.url)
    files = tmp_path / "files"
    files.mkdir()
    names = sorted(path.name.removesuffix(".Dockerfile") for path in CASES.glob("*.Dockerfile"))
    chosen = os.environ.get("WAIN_DOCKERFILES", "").split()
    names = [name for name in names if not chosen or name in chosen]
    for path in CASES.iterdir():
        (files / path.name).write_bytes(path.read_bytes().replace(b"BASEIMAGE", python_base.encode()))

    given = ["--build-arg", f"BASE={python_base}", "--build-arg", f"UV={uv_image}"]
    given += ["--build-arg", "GIVEN=given", "--label", "from=flag"]
    images = Images(registry)
    progress = tmp_path / "progress"

    def one(name: str) -> list[str]:
        began = time.monotonic()
        lines = compared(name)
        seconds = f"{time.monotonic() - began:.1f} s"
        with progress.open("a") as log:
            log.write("".join(f"{name}: {seconds}: {line}\n" for line in lines or ["as it is with docker"]))
        return lines

    def compared(name: str) -> list[str]:
        file = files / f"{name}.Dockerfile"
        tag = f"{registry.host}/cases/{name}"
        docker.build(context, f"{tag}:docker", "-f", file, *given)
        docker.cli("push", "--quiet", f"{tag}:docker")
        done = wain(
            "build", "--engine", "none", "-f", file, *given, "-t", f"{tag}:wain", "--push", context, check=False
        )
        if done.code:
            return [f"wain: {done.stderr.strip()[-800:]}"]
        return list(differences(images.read(f"cases/{name}:wain"), images.read(f"cases/{name}:docker")))

    with serve_files(context) as address, ThreadPoolExecutor(2) as pool:
        given += ["--build-arg", f"FILES={address}"]
        found = dict(zip(names, pool.map(one, names), strict=True))
    bad = [f"{name}: {line}" for name, lines in found.items() for line in lines[:12]]
    assert not bad, "\n".join(bad)
    assert chosen or len(names) >= 60


EXAMPLE = """\
FROM python:3.13
WORKDIR /app
COPY requirements.txt .
# install dependencies without the cache
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""

APP = """\
import http.server, json, os
import flask, numpy, pandas, sklearn.linear_model

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        line = numpy.arange(6)
        model = sklearn.linear_model.LinearRegression().fit(line.reshape(-1, 1), line * 2)
        found = round(float(model.predict([[6]])[0]))
        frame = pandas.DataFrame({"a": [1, 2, 3]})
        body = json.dumps({"sum": int(frame.a.sum()), "flask": flask.__name__, "next": found})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"""


def test_the_usual_dockerfile_builds_unchanged_and_answers(
    python_base: str, docker: Docker, registry: Registry, wain: Wain, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "requirements.txt").write_text("flask\nnumpy\npandas\nscikit-learn\n")
    (context / "app.py").write_text(APP)
    (context / "Dockerfile").write_text(EXAMPLE)
    # A mirror stands in for docker.io: the file is built as it is.
    mirror = f"{registry.host}/mirrored"
    docker.cli("tag", python_base, f"{mirror}/python:3.13")
    docker.cli("push", "--quiet", f"{mirror}/python:3.13")
    docker.cli("tag", python_base, "python:3.13")
    ours, theirs = (f"{registry.host}/examples/app:{name}" for name in ("wain", "docker"))
    begun = time.monotonic()
    mirrored = ("--base-mirror", f"docker.io/library={mirror}")
    wain("build", "-f", "Dockerfile", *mirrored, "-t", ours, "--push", ".", cwd=context)
    own_seconds = time.monotonic() - begun
    begun = time.monotonic()
    docker.build(context, theirs)
    docker.cli("push", "--quiet", theirs)
    their_seconds = time.monotonic() - begun
    print(f"wain {own_seconds:.1f} s, docker {their_seconds:.1f} s")
    images = Images(registry)
    assert not list(differences(images.read("examples/app:wain"), images.read("examples/app:docker")))
    docker.cli("pull", "--quiet", ours)
    answers = []
    for name in (ours, theirs):
        port = free_port()
        with docker.serve(name, options=["--env", f"PORT={port}"]):
            answers.append(fetch_page(port, timeout_seconds=90))
    assert answers[0] == answers[1]
    assert "flask" in str(answers[0])


def test_debian_s_own_python_takes_what_pip_takes_there(
    base_debian: Base, docker: Docker, registry: Registry, wain: Wain, index_front: IndexFront, tmp_path: Path
) -> None:
    base = base_debian.push(registry, "bases/debian:1")
    context = make_context(tmp_path / "context")
    head = f"FROM {base}\nENV PIP_INDEX_URL={index_front.url} PIP_NO_CACHE_DIR=1\nCOPY requirements.txt /r/\n"
    file = context / "Dockerfile"
    file.write_text(head + "RUN pip install -r /r/requirements.txt\n")
    ours, theirs = (f"{registry.host}/debian/app:{name}" for name in ("wain", "docker"))
    refused = wain("build", "-f", "Dockerfile", "-t", ours, "--push", ".", cwd=context, check=False)
    assert refused.code != 0
    assert "Dockerfile:4" in refused.stderr
    assert "externally managed" in refused.stderr
    assert "externally-managed" in docker.build(context, theirs, check=False).output
    file.write_text(
        head + "RUN pip install --break-system-packages -r /r/requirements.txt && pip3 --version\n"
        "RUN pip install --break-system-packages --prefix=/opt/p six\n"
    )
    wain("build", "-f", "Dockerfile", "-t", ours, "--push", ".", cwd=context)
    docker.build(context, theirs)
    docker.cli("push", "--quiet", theirs)
    images = Images(registry)
    assert not list(differences(images.read("debian/app:wain"), images.read("debian/app:docker")))
