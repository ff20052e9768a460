"""Locks against this machine's package index, as pip is configured here; held against pip, uv and packaging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.pylock import Pylock
from packaging.tags import Tag

from tests.real.machines.index_front import IndexFront
from wain.digest import Digest
from wain.locking import LockRequest, fetch_selected, lock_for, make_lock, select_for
from wain.platforms import Platform, PythonVersion, Target
from wain.settings import IndexSettings, index_settings
from wain.store import Store
from wain.transport import Transport
from wain.uv_process import find_uv

pytestmark = [pytest.mark.real, pytest.mark.network]


def target(architecture: str = "amd64", python: str = "3.13.5") -> Target:
    version = PythonVersion.parse(python)
    return Target(
        platform=Platform("linux", architecture),
        python=version,
        abi=f"cp{version.major}{version.minor}",
        libc_version=(2, 36),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir(mode=0o700)
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def pips_choice(project: Path, requirements: str, one: Target) -> dict[str, str]:
    """The versions that pip itself would install, by its own configuration."""
    tags = {tag.platform for tag in one.tags() if tag.platform != "any"}
    platforms = [word for tag in sorted(tags) for word in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "--target", "none"]
    pip += ["--only-binary", ":all:", "--python-version", str(one.python), "--implementation", "cp"]
    report = subprocess.run(
        [*pip, *platforms, *requirements.split()],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_NO_CACHE_DIR": "1"},
    ).stdout
    found = json.loads(report)["install"]
    return {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in found}


def test_the_machines_index_gives_what_pip_takes_for_both_platforms(project: Path, store: Store) -> None:
    names = "numpy pandas scikit-learn flask"
    (project / "requirements.txt").write_text(names.replace(" ", "\n"))
    settings = index_settings(project)
    targets = (target(), target("arm64"))
    asked = LockRequest(project=project, targets=targets, settings=settings, store=store, transport=Transport())
    lock = lock_for(asked)
    for one in targets:
        chosen = select_for(lock, one, settings=settings, store=store)
        machine = one.platform.machine
        for item in chosen:
            assert item.kind == "wheel"
            assert item.file is not None
            assert item.file.filename.endswith(("-any.whl", f"{machine}.whl"))
        ours = {item.name: item.version for item in chosen}
        assert ours == pips_choice(project, names, one)


def test_find_links_of_the_machine_serve_torch(project: Path, store: Store) -> None:
    settings = index_settings(project)
    local = [path for link in settings.find_links for path in Path(link).glob("torch-*+cpu-cp311-*x86_64.whl")]
    if not local:
        pytest.skip("pip's find-links on this machine hold no wheel of torch for the CPU")
    version = local[0].name.split("-")[1].partition("+")[0]
    (project / "requirements.txt").write_text(f"torch=={version}\n")
    one = target(python="3.11.2")
    asked = LockRequest(project=project, targets=[one], settings=settings, store=store, transport=Transport())
    lock = lock_for(asked)
    torch = {item.name: item for item in select_for(lock, one, settings=settings, store=store)}["torch"]
    assert torch.version == f"{version}+cpu"
    assert torch.file is not None
    assert torch.file.path == str(local[0])
    assert torch.file.size_bytes == local[0].stat().st_size
    ((_, path, digest),) = fetch_selected([torch], store=store, transport=Transport(), settings=settings)
    assert Digest.of_file(path) == digest == torch.file.digest


@pytest.fixture
def front(index_front: IndexFront, monkeypatch: pytest.MonkeyPatch) -> IndexSettings:
    """Settings that ask the loopback front of the machine's index alone."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return IndexSettings(index_url=index_front.url)


PROJECT = """[project]
name = "demo"
version = "1"
requires-python = ">=3.11"
dependencies = ["flask", "colorama; sys_platform == 'win32'", "numpy<3"]
[project.optional-dependencies]
server = ["gunicorn"]
[dependency-groups]
dev = ["iniconfig"]
"""


def test_uv_and_packaging_read_what_wain_locks(
    project: Path, store: Store, front: IndexSettings, tmp_path: Path
) -> None:
    (project / "pyproject.toml").write_text(PROJECT)
    # uv installs for the version of the interpreter that it is given.
    one = target(python=".".join(map(str, sys.version_info[:3])))
    asked = LockRequest(
        project=project, targets=[one], extras=["server"], settings=front, store=store, transport=Transport()
    )
    lock = make_lock(asked)
    path = project / "pylock.toml"
    path.write_text(lock.to_toml(project))
    pylock = Pylock.from_dict(tomllib.loads(path.read_text()))
    ours = {item.name: item.version for item in lock.select(one)}
    theirs = {
        str(package.name): str(package.version)
        for package, _ in pylock.select(environment=one.markers(), tags=list[Tag](one.tags()))
    }
    assert theirs == ours
    assert "gunicorn" in ours
    uv = [find_uv(), "pip", "install", "--dry-run", "--target", str(tmp_path / "t"), "-r", str(path)]
    uv += ["--python", sys.executable, "--python-version", str(one.python), "--no-config"]
    uv += ["--python-platform", "x86_64-manylinux_2_36", "--cache-dir", str(tmp_path / "uv")]
    done = subprocess.run(
        uv,
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    installed = dict(line.removeprefix(" + ").split("==") for line in done.splitlines() if line.startswith(" + "))
    assert installed == ours


def test_a_lock_of_uv_gives_what_uv_itself_exports(
    project: Path, store: Store, front: IndexSettings, tmp_path: Path
) -> None:
    (project / "pyproject.toml").write_text(PROJECT)
    uv = [find_uv(), "--no-config", "--cache-dir", str(tmp_path / "uv"), "--no-python-downloads"]
    environ = {**os.environ, "UV_DEFAULT_INDEX": front.index_url or "", "UV_PYTHON": sys.executable}
    subprocess.run([*uv, "lock", "--quiet"], cwd=project, env=environ, check=True)
    for flags, extras, groups in (
        (["--no-dev"], [], []),
        (["--extra", "server", "--group", "dev"], ["server"], ["dev"]),
    ):
        exported = subprocess.run(
            [*uv, "export", "--quiet", "--frozen", "--format", "pylock.toml", "--no-emit-project", *flags],
            cwd=project,
            env=environ,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        pylock = Pylock.from_dict(tomllib.loads(exported))
        for one in (target(), target("arm64", "3.11.2")):
            asked = LockRequest(
                project=project,
                targets=[one],
                extras=extras,
                groups=groups,
                settings=front,
                store=store,
                transport=Transport(offline=True),
            )
            lock = lock_for(asked)
            assert lock.origin == "uv.lock"
            ours = {
                item.name: (item.version, item.file.filename if item.file else None)
                for item in lock.select(one, extras=extras, groups=groups)
            }
            theirs = {
                str(package.name): (str(package.version), getattr(file, "filename", None))
                for package, file in pylock.select(environment=one.markers(), tags=list[Tag](one.tags()))
            }
            assert ours == theirs
