"""What the audit says of caches is true: the samples are built with docker, and the layers are looked at.

Each sample is built on a base like the official image with one step more that lists the cache files in the result.
A finding's folder has to be there with files in it; a good sample, and one that was mended, has none.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.unit.rules.samples import SAMPLES
from wain.audit import audit_text
from wain.fix import fix

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("audit-truth")]

_BASE = "python:3.13-slim"
_RULES = {"pip-cache", "cache-mount-target", "cache-removed-later", "cache-mount-unused", "pip-no-cache-value"}
# What the base has not, what needs a file of the context, and what refuses to be built.
_NOT_HERE = re.compile(
    r"sudo|conda|uv |uvx|poetry|pipenv|pipx|pdm|pixi|apt|apk|dnf|yum|npm|alpine|gosu|adduser|/opt/venv|\$V|\$\{V|\$\{?X"
    r"|COPY (pip|\.|req)|requirements|wheels|ONBUILD|never|=junk|FROM python:3.13 |FROM scratch|\$U|\bsu |& *\n"
    r"|git|torch|uwsgi|app|PIP_NO_INDEX|--cache-dir /x|SHELL|ENTRYPOINT|CMD|which|echo pip|<<EOF python|#!/usr|\[\"/bin"
)
_PROBE = (
    (
        "USER 0\n"
        "RUN find / -xdev -type f ( -path '*/.cache/*' -o -path '/c/*' -o -path '/cache/*' -o -path '/h/*' ) "
        "-printf 'CACHED %s %p\\n'; python -c 'import six' 2>/dev/null && echo STARTS; echo PROBED\n"
    )
    .replace("( ", "\\( ")
    .replace(" )", " \\)")
)


def _chosen() -> list[str]:
    texts = []
    for sample in SAMPLES:
        text = sample.text
        if not sample.rules <= _RULES or "pip" not in text or "FROM python:3.13-slim\n" not in text:
            continue
        if "install flask" not in text and "download flask" not in text:
            continue
        if _NOT_HERE.search(text.removeprefix(f"FROM {_BASE}\n")):
            continue
        if any(mark in text for mark in ("cd /x", "time pip", "true ||")):
            continue
        texts.append(text.replace("flask==3.0", "six").replace("flask django", "six").replace("flask", "six"))
    # Builds take seconds each: of both kinds the first, in the table's order.
    bad = [text for text in texts if audit_text(text).findings]
    good = [text for text in texts if not audit_text(text).findings]
    return bad[:23] + good[:19]


CHOSEN = _chosen()


def test_there_are_enough_experiments() -> None:
    assert len(CHOSEN) >= 40


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name, data, digest = _WHEEL
        if self.path.endswith(name):
            body, kind = data, "application/octet-stream"
        else:
            body = f'<a href="/files/{name}#sha256={digest}">{name}</a>'.encode()
            kind = "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # pip keeps only what may be kept.
        self.send_header("Cache-Control", "max-age=3600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _make_wheel() -> tuple[str, bytes, str]:
    """A wheel of 100 KB that nothing compresses."""
    buffer = io.BytesIO()
    files = {
        "six.py": b"X = 1\n",
        "six_data.bin": os.urandom(100_000),
        "six-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: six\nVersion: 1.0\n",
        "six-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        names = [*files, "six-1.0.dist-info/RECORD"]
        archive.writestr("six-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in names))
    data = buffer.getvalue()
    return "six-1.0-py3-none-any.whl", data, hashlib.sha256(data).hexdigest()


_WHEEL = _make_wheel()


@pytest.fixture(scope="module")
def bench(docker: Docker, base_official: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    docker.load_layout(base_official.layout, "wain-truth-base:latest")
    folder = tmp_path_factory.mktemp("truth")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    (folder / "Dockerfile").write_text(
        "FROM wain-truth-base:latest\n"
        # pip starts in half the time where the standard library is compiled.
        "RUN python3 -m compileall -q /usr/local/lib/python3.13 || true\n"
        f"ENV PIP_INDEX_URL={url}/simple/ PIP_TRUSTED_HOST=127.0.0.1 PIP_DISABLE_PIP_VERSION_CHECK=1\n"
    )
    docker.build(folder, _BASE)
    try:
        yield Bench(docker, folder)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Bench:
    """Builds a Dockerfile's text and tells what caches are in the result, and whether six can be imported."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self.docker = docker
        self.folder = folder
        self.looks = 0

    def look(self, text: str) -> tuple[dict[str, int], bool]:
        """Cache files by path with their bytes, and whether the program starts."""
        # A step that was cached prints nothing: the last one is made new each time.
        self.looks += 1
        probe = _PROBE.replace("echo PROBED", f"echo PROBED; : {self.looks}")
        (self.folder / "Dockerfile").write_text(text + probe)
        told = self.docker.cli(
            "build", "--network=host", "--progress=plain", "--output=type=cacheonly", self.folder
        ).output
        assert re.search(r"^#\d+ [\d.]+ PROBED$", told, re.MULTILINE), told
        files = {path: int(size) for size, path in re.findall(r"^#\d+ [\d.]+ CACHED (\d+) (/\S+)$", told, re.MULTILINE)}
        return files, re.search(r"^#\d+ [\d.]+ STARTS$", told, re.MULTILINE) is not None


@pytest.mark.parametrize("text", CHOSEN, ids=[text.strip().split("\n", 1)[-1][:70] for text in CHOSEN])
def test_what_the_audit_says_is_in_the_image(bench: Bench, text: str) -> None:
    findings = [finding for finding in audit_text(text).findings if finding.paths]
    hidden = {path for finding in findings if finding.rule == "cache-removed-later" for path in finding.paths}
    claimed = {path for finding in findings for path in finding.paths} - hidden
    files, starts = bench.look(text)
    for folder in claimed:
        size = sum(size for path, size in files.items() if path.startswith(f"{folder}/"))
        assert size > max((finding.cost.reclaimable for finding in findings), default=0), (folder, files)
    if not claimed:
        assert not files
    if findings:
        mended = fix(text)
        if mended.after != text and not any(finding.paths for finding in mended.remaining.findings):
            files, still_starts = bench.look(mended.after)
            assert not files
            assert still_starts == starts
