"""Native libraries that a wheel needs and the built-in base lacks: named, brought, and then found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import parity as parity_module
from tests.real.machines.index_front import IndexFront
from tests.real.machines.places import remove_tree
from tests.real.machines.runtime import unpack_image
from tests.real.machines.wain import Wain
from tests.real.parity import Parity

# The wheels of OpenCV are large: one worker fetches each once.
pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("opencv")]

PINNED = "opencv-python==4.12.0.88\nnumpy==2.2.6\n"
PACKAGES = ("libgl1", "libglib2.0-0t64")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "vision"
    folder.mkdir()
    (folder / "requirements.txt").write_text(PINNED)
    (folder / "app.py").write_text(
        "import cv2, numpy\nprint(cv2.cvtColor(numpy.zeros((4, 6, 3), numpy.uint8), cv2.COLOR_BGR2GRAY).shape)\n"
    )
    yield folder
    remove_tree(tmp_path / "image")


def test_what_opencv_lacks_is_named_with_its_package_and_with_packages_it_imports(
    wain: Wain, project: Path, tmp_path: Path
) -> None:
    lacking = wain("build", project, "--base", "debian:trixie", "--output", f"oci:{tmp_path / 'lacking'}:1")
    [line] = [line for line in lacking.stderr.splitlines() if "libGL.so.1" in line]
    assert line.startswith("warning: opencv-python needs ")
    assert all(f'"{package}"' in line for package in PACKAGES), line
    remove_tree(tmp_path / "lacking")
    listed = ", ".join(f'"{package}"' for package in PACKAGES)
    (project / "pyproject.toml").write_text(f'[tool.wain]\nbase = "debian:trixie"\npackages = [{listed}]\n')
    layout = tmp_path / "layout"
    whole = wain("build", project, "--output", f"oci:{layout}:1")
    assert "libGL" not in whole.stderr
    assert unpack_image(layout, tmp_path / "image", tag="1").run().stdout == "(4, 6)\n"


def test_two_distributions_with_the_same_paths_build_with_a_warning_and_as_with_pip(
    wain: Wain, index_front: IndexFront, tmp_path: Path
) -> None:
    pip, listed, allowed = parity_module.load()
    pair = [one for one in listed if one.batch == "opencv"]
    assert {one.name for one in pair} == {"opencv-python", "opencv-python-headless"}
    try:
        compared = Parity(tmp_path / "parity", front=index_front, wain=wain, pip=pip, allowed=allowed).compare(pair)
        assert not compared.differences, "\n".join(map(str, compared.differences[:20]))
        assert "is in opencv-python, opencv-python-headless; that of opencv-python is taken" in compared.wain_told
    finally:
        remove_tree(tmp_path / "parity")
