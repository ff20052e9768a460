from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.unit.small_wheel import small_wheel
from wain.commands.main import main
from wain.digest import Digest

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"lib/python{MINOR}/site-packages"


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels, the only source there is."""
    links = tmp_path / "links"
    links.mkdir()
    small_wheel(
        links,
        "app",
        {"app/__init__.py": "def run():\n    print('ran')\n"},
        requires=("lib>=1",),
        scripts={"app": "app:run"},
    )
    for version in ("1.0", "2.0"):
        small_wheel(links, "lib", {"lib.py": f"version = {version!r}\n"}, version=version)
    for name in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return links


def install(links: Path, *words: str, code: int = 0) -> None:
    assert main(["install", "--no-index", "--find-links", str(links), *words]) == code


def test_into_a_new_environment(links: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = tmp_path / "venv"
    install(links, "--venv", str(venv), "app")
    said = capsys.readouterr().err
    assert "+ app 1.0\n+ lib 2.0\n" in said
    done = subprocess.run([str(venv / "bin" / "app")], capture_output=True, text=True, check=True)
    assert done.stdout == "ran\n"
    install(links, "--venv", str(venv), "app")
    assert "all 2 distributions are there already" in capsys.readouterr().err
    install(links, "--venv", str(venv), "lib<2")
    assert "~ lib 2.0 -> 1.0" in capsys.readouterr().err
    assert (venv / SITE / "lib.py").read_text() == "version = '1.0'\n"
    assert (tmp_path / ".cache" / "wain" / "CACHEDIR.TAG").exists()


def test_into_a_folder_without_a_cache(links: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install(links, "--no-cache-dir", "--target", str(target), "app")
    assert (target / "app" / "__init__.py").exists()
    assert (target / "bin" / "app").exists()
    assert (target / "lib-2.0.dist-info" / "RECORD").exists()
    assert not (tmp_path / ".cache").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"links", "cwd", "target"}


@pytest.mark.parametrize("name", ["PIP_NO_CACHE_DIR", "WAIN_NO_CACHE_DIR"])
def test_pips_switches_count(links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    install(links, "--target", str(tmp_path / "target"), "lib")
    assert not (tmp_path / ".cache").exists()


def test_pips_folder_holds_wains(links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pips"))
    install(links, "--target", str(tmp_path / "target"), "lib")
    assert (tmp_path / "pips" / "wain" / "CACHEDIR.TAG").exists()


def test_a_requirements_file_and_a_lock(links: Path, tmp_path: Path) -> None:
    requirements = tmp_path / "cwd" / "requirements.txt"
    requirements.write_text(f"--find-links {links}\n--no-index\napp\nlib==1.0\n")
    assert main(["install", "-r", str(requirements), "--target", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "lib-1.0.dist-info").exists()
    lock = tmp_path / "cwd" / "pylock.toml"
    wheel = links / "lib-1.0-py3-none-any.whl"
    lock.write_text(
        'lock-version = "1.0"\ncreated-by = "test"\n[[packages]]\nname = "lib"\nversion = "1.0"\n'
        f'[[packages.wheels]]\nname = "{wheel.name}"\npath = "{wheel}"\n'
        f'hashes = {{ sha256 = "{Digest.of_file(wheel).hex}" }}\n'
    )
    assert main(["install", "-r", str(lock), "--target", str(tmp_path / "two"), "--offline"]) == 0
    assert (tmp_path / "two" / "lib-1.0.dist-info").exists()
    assert not (tmp_path / "two" / "app").exists()


def test_bytecode_when_it_is_asked_for(links: Path, tmp_path: Path) -> None:
    install(links, "--target", str(tmp_path / "without"), "lib")
    assert list((tmp_path / "without").rglob("*.pyc")) == []
    install(links, "--compile", "--target", str(tmp_path / "with"), "lib")
    assert len(list((tmp_path / "with").rglob("*.pyc"))) == 1


BACKEND = """
import base64, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "grown-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as archive:
        archive.writestr("grown.py", "x = 'built'\\n")
        archive.writestr("grown-1.0.dist-info/METADATA", "Metadata-Version: 2.2\\nName: grown\\nVersion: 1.0\\n")
        tags = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr("grown-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\n" + tags)
        archive.writestr("grown-1.0.dist-info/RECORD", "")
    return name
"""


def test_an_sdist_is_built_once(links: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: grown\nVersion: 1.0\n",
        "backend.py": BACKEND,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "grown"\nversion = "1.0"\n',
    }
    with tarfile.open(links / "grown-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"grown-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    install(links, "-v", "--target", str(tmp_path / "one"), "grown")
    assert "grown-1.0.tar.gz is built here: it was not built before" in capsys.readouterr().err
    install(links, "-v", "--target", str(tmp_path / "two"), "grown")
    assert "built before with the same" in capsys.readouterr().err
    assert (tmp_path / "two" / "grown.py").read_text() == "x = 'built'\n"
    assert main(["cache", "list", "--kind", "built-wheel"]) == 0
    assert "grown-1.0-py3-none-any.whl" in capsys.readouterr().out
    assert main(["cache", "list", "-v", "grown"]) == 0
    said = capsys.readouterr().out
    assert "interpreter: " in said
    assert "source: sha256:" in said


def test_usage_errors(links: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(links, "--target", str(tmp_path / "t"), code=2)
    assert "nothing to install was named" in capsys.readouterr().err
    assert main(["install", "lib"]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    install(links, "--venv", str(tmp_path / "full"), "lib", code=24)
    assert "is no virtual environment" in capsys.readouterr().err
    install(links, "--target", str(tmp_path / "t"), "nothing-like-this", code=5)
    assert not (tmp_path / "t").exists()


def test_a_managed_folder_is_refused(links: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    managed = tmp_path / "usr" / "lib" / "python3.11"
    managed.mkdir(parents=True)
    (managed / "EXTERNALLY-MANAGED").touch()
    install(links, "--target", str(managed / "site-packages"), "lib", code=24)
    assert "managed by another package manager" in capsys.readouterr().err
    assert not (managed / "site-packages").exists()
