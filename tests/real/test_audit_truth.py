"""What the audit says of caches is true: the samples are built with docker, and the layers are looked at.

Each sample is built on a base like the official image with one step more that lists the cache files in the result.
A finding's folder has to be there with files in it; a good sample, and one that was mended, has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.index_server import Index, serve_index
from tests.real.audit_bench import Bench
from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.unit.rules.samples import SAMPLES
from wain.audit import audit_text
from wain.fix import fix

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("audit-truth")]

_BASE = "python:3.13-slim"
_START = "python -c 'import six'"
_RULES = {"pip-cache", "cache-mount-target", "cache-removed-later", "cache-mount-unused", "pip-no-cache-value"}
# What the base has not, what needs a file of the context, and what refuses to be built.
_NOT_HERE = re.compile(
    r"sudo|conda|uv |uvx|poetry|pipenv|pipx|pdm|pixi|apt|apk|dnf|yum|npm|alpine|gosu|adduser|/opt/venv|\$V|\$\{V|\$\{?X"
    r"|COPY (pip|\.|req)|requirements|wheels|ONBUILD|never|=junk|FROM python:3.13 |FROM scratch|\$U|\bsu |& *\n"
    r"|git|torch|uwsgi|app|PIP_NO_INDEX|--cache-dir /x|SHELL|ENTRYPOINT|CMD|which|echo pip|<<EOF python|#!/usr|\[\"/bin"
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


@pytest.fixture(scope="module")
def bench(docker: Docker, base_official: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    docker.load_layout(base_official.layout, "wain-truth-base:latest")
    folder = tmp_path_factory.mktemp("truth")
    # pip keeps only what may be kept.
    with serve_index(Index(max_age_seconds=3600)) as index:
        index.add("six", "1.0", content=b"X = 1  # " + os.urandom(100_000).hex().encode())
        (folder / "Dockerfile").write_text(
            "FROM wain-truth-base:latest\n"
            # pip starts in half the time where the standard library is compiled.
            "RUN python3 -m compileall -q /usr/local/lib/python3.13 || true\n"
            f"ENV PIP_INDEX_URL={index.simple} PIP_TRUSTED_HOST=127.0.0.1 PIP_DISABLE_PIP_VERSION_CHECK=1\n"
        )
        docker.build(folder, _BASE)
        yield Bench(docker, folder)


@pytest.mark.parametrize("text", CHOSEN, ids=[text.strip().split("\n", 1)[-1][:70] for text in CHOSEN])
def test_what_the_audit_says_is_in_the_image(bench: Bench, text: str) -> None:
    findings = [finding for finding in audit_text(text).findings if finding.paths]
    hidden = {path for finding in findings if finding.rule == "cache-removed-later" for path in finding.paths}
    claimed = {path for finding in findings for path in finding.paths} - hidden
    files, starts = bench.look(text, start=_START)
    for folder in claimed:
        size = sum(size for path, size in files.items() if path.startswith(f"{folder}/"))
        assert size > max((finding.cost.reclaimable for finding in findings), default=0), (folder, files)
    if not claimed:
        assert not files
    if findings:
        mended = fix(text)
        if mended.after != text and not any(finding.paths for finding in mended.remaining.findings):
            files, still_starts = bench.look(mended.after, start=_START)
            assert not files
            assert still_starts == starts
