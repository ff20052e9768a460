"""Wheels whose native libraries the built-in base lacks: told before anybody runs the image, and mended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.real.machines.processes import Finished
from tests.real.machines.runtime import Unpack
from tests.real.machines.wain import Wain

pytestmark = [pytest.mark.real, pytest.mark.network]

_SETTINGS = """
[tool.wain]
base = "debian:trixie"
entrypoint = ["python", "app.py"]
packages = [{packages}]
"""


def build(wain: Wain, folder: Path, requirement: str, packages: list[str]) -> Finished:
    quoted = ", ".join(f'"{name}"' for name in packages)
    (folder / "pyproject.toml").write_text(_SETTINGS.format(packages=quoted))
    (folder / "requirements.txt").write_text(f"{requirement}\n")
    return wain("build", folder, "-o", f"archive:{folder.parent}/image.tar", cwd=folder)


@pytest.mark.parametrize(
    ("requirement", "module", "library", "package"),
    [("opencv-python", "cv2", "libGL.so.1", "libgl1"), ("pyodbc", "pyodbc", "libodbc.so.2", "libodbc2")],
)
def test_a_missing_library_is_named_and_its_package_mends_it(
    requirement: str, module: str, library: str, package: str, wain: Wain, unpack: Unpack, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "app.py").write_text(f"import {module}\nprint({module}.__name__, 'is there')\n")
    told = build(wain, folder, requirement, []).stderr
    line = next(line for line in told.splitlines() if f"{requirement} needs" in line)
    assert library in line
    found = re.search(r"packages = \[(.*?)\]", line)
    assert found is not None
    packages = re.findall(r'"([^"]+)"', found[1])
    assert package in packages
    # What the loader complains of is among what was said.
    failed = unpack(tmp_path / "image.tar").run(check=False)
    assert failed.code != 0
    complained = re.search(r"(lib\S+): cannot open shared object file", failed.output)
    assert complained is not None
    assert complained[1] in line
    # It says so when nothing is built anew, too.
    assert line in build(wain, folder, requirement, []).stderr
    (tmp_path / "image.tar").unlink()
    assert f"{requirement} needs" not in build(wain, folder, requirement, packages).stderr
    assert f"{module} is there" in unpack(tmp_path / "image.tar").run().stdout
