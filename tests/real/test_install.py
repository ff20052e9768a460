"""`wain install` beside real pip: the same files in the same places, with the same bytes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.small_wheel import small_wheel
from wain.commands.main import main

pytestmark = pytest.mark.real

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OWN = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Files that say who installed, and so differ."""


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    links = tmp_path / "links"
    links.mkdir()
    small_wheel(
        links,
        "Mixed_Case",
        {
            "mixed_case/__init__.py": "def main():\n    print('mixed')\n",
            "mixed_case/deep/data.bin": os.urandom(200_000),
            "mixed_case/empty.txt": "",
            "Mixed_Case-1.0.data/scripts/plain.sh": "#!/bin/sh\necho plain\n",
            "Mixed_Case-1.0.data/scripts/script.py": "#!python\nprint('script')\n",
            "Mixed_Case-1.0.data/data/share/mixed/info.txt": "info\n",
            "Mixed_Case-1.0.data/headers/mixed.h": "int x;\n",
            "Mixed_Case-1.0.data/purelib/pure.py": "x = 1\n",
            "Mixed_Case-1.0.data/platlib/plat.py": "x = 2\n",
        },
        scripts={"mixed": "mixed_case:main"},
        requires=("ns-one", "ns-two"),
    )
    small_wheel(links, "ns_one", {"ns/one.py": "x = 1\n", "ns_one.pth": "import sys\n"}, purelib=False)
    small_wheel(links, "ns_two", {"ns/two.py": "x = 2\n", "ns/data with space, and comma.txt": "x\n"})
    for name in [name for name in os.environ if name.startswith(("PIP_", "WAIN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return links


def pip(links: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pip", *words[:2], "install", "--no-compile", "--no-index", "-q"]
    subprocess.run([*command, "--find-links", str(links), *words[2:]], check=True, timeout=120)


def wain(links: Path, *words: str) -> None:
    assert main(["install", "--no-index", "--find-links", str(links), *words]) == 0


def tree(root: Path) -> dict[str, tuple[bytes, bool]]:
    """Path -> bytes and whether it is executable, of all but launchers' texts and who installed."""
    found = {}
    for path in sorted(root.rglob("*")):
        relative = str(path.relative_to(root))
        if path.is_file() and not path.is_symlink() and path.name not in OWN and "__pycache__" not in relative:
            launcher = path.parent.name == "bin" and path.name in ("mixed", "script.py")
            data = b"" if launcher else path.read_bytes()
            # pip leaves scripts of a wheel's .data folder as the archive has them, in some versions unusable.
            found[relative] = (data, path.parent.name == "bin" or os.access(path, os.X_OK))
    return found


def records(root: Path) -> dict[str, set[tuple[str, str, str]]]:
    found = {}
    for path in root.rglob("RECORD"):
        with path.open(newline="") as stream:
            rows = {(row[0], row[1], row[2]) for row in csv.reader(stream)}
        found[path.parent.name] = {row for row in rows if not row[0].endswith(OWN) and "bin/" not in row[0]}
    return found


def test_an_environment_is_as_pip_makes_it(links: Path, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip(links, "--python", str(theirs / "bin" / "python"), "Mixed_Case")
    wain(links, "--venv", str(ours), "mixed-case")
    inside = [f"lib/python{MINOR}/site-packages", "bin", "share", "include"]
    for name in inside:
        left, right = tree(theirs / name), tree(ours / name)
        if name == "bin":  # scripts for activation name the folder
            left, right = ({key: one[key] for key in one if "ctivate" not in key} for one in (left, right))
        assert left == right, name
    assert records(theirs) == records(ours)
    for program, said in (("mixed", "mixed\n"), ("script.py", "script\n"), ("plain.sh", "plain\n")):
        done = subprocess.run([str(ours / "bin" / program)], capture_output=True, text=True, check=True)
        assert done.stdout == said
    listed = [sys.executable, "-m", "pip", "--python", str(ours / "bin" / "python"), "list", "--format", "freeze"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    assert done.stdout.lower().replace("_", "-").split() == ["mixed-case==1.0", "ns-one==1.0", "ns-two==1.0"]


def test_pip_takes_over_where_wain_installed(links: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    wain(links, "--venv", str(venv), "mixed-case")
    small_wheel(links, "ns_two", {"ns/two.py": "x = 3\n"}, version="2.0")
    python = str(venv / "bin" / "python")
    pip(links, "--python", python, "--upgrade", "ns-two")
    site = venv / "lib" / f"python{MINOR}" / "site-packages"
    assert (site / "ns" / "two.py").read_text() == "x = 3\n"
    assert not (site / "ns" / "data with space, and comma.txt").exists()
    remove = [sys.executable, "-m", "pip", "--python", python, "uninstall", "-q", "-y"]
    subprocess.run([*remove, "mixed-case", "ns-one", "ns-two"], check=True)
    assert tree(site) == {}
    assert not (venv / "share" / "mixed").exists()
    assert not (venv / "bin" / "mixed").exists()


def test_wain_takes_over_where_pip_installed(links: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip(links, "--python", str(venv / "bin" / "python"), "mixed-case")
    small_wheel(links, "Mixed_Case", {"mixed_case/__init__.py": "x = 2\n"}, version="2.0")
    wain(links, "--venv", str(venv), "mixed-case>=2")
    site = venv / "lib" / f"python{MINOR}" / "site-packages"
    assert {path for path in tree(site) if "info" not in path} == {
        "mixed_case/__init__.py",
        "ns/one.py",
        "ns/two.py",
        "ns/data with space, and comma.txt",
        "ns_one.pth",
    }
    assert not (venv / "bin" / "mixed").exists()
    assert not (venv / "share" / "mixed" / "info.txt").exists()


def test_a_folder_is_as_pip_makes_it(links: Path, tmp_path: Path) -> None:
    pip(links, "--disable-pip-version-check", "--no-input", "--target", str(tmp_path / "theirs"), "mixed-case")
    wain(links, "--target", str(tmp_path / "ours"), "mixed-case")
    theirs, ours = tree(tmp_path / "theirs"), tree(tmp_path / "ours")
    # Where headers go depends on whether pip itself runs in a virtual environment.
    headers = [{path for path in one if path.endswith("mixed.h")} for one in (theirs, ours)]
    assert [len(found) for found in headers] == [1, 1]
    assert {path: theirs[path] for path in theirs.keys() - headers[0]} == {
        path: ours[path] for path in ours.keys() - headers[1]
    }
