"""A project, a made base and a made index, and the command that builds from them in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_server import Index, serve_index
from tests.unit.layer_maker import make_layer
from tests.unit.test_bases import glibc, image_of, official
from wain.commands.main import main
from wain.image import Image
from wain.layout import write as write_layout
from wain.names import LayoutReference
from wain.transfer import read_image

APP = "print('hello')\n"


@pytest.fixture
def index() -> Iterator[Index]:
    with serve_index() as served:
        served.add("alpha", "1.0", requires=["beta>=1"])
        served.add("beta", "1.5")
        yield served


class Wain:
    """Runs the command in this process, in a folder of its own, with nothing of the machine's settings."""

    def __init__(self, folder: Path, index: Index, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.index = index
        self.capsys = capsys
        self.project = folder / "thing"
        self.project.mkdir()
        (self.project / "app.py").write_text(APP)
        (self.project / "requirements.txt").write_text("alpha\n")
        self.out = self.err = ""
        self.destination: str | None = f"oci:{folder / 'out'}:1"
        self.base = folder / "base"
        image = image_of(
            make_layer([*glibc(), *official()]), env=("PATH=/usr/local/bin:/usr/bin:/bin", "PYTHON_VERSION=3.13.5")
        )
        write_layout(image, LayoutReference(path=self.base, tag="1"))

    def __call__(self, *words: str, code: int = 0) -> str:
        """What is printed on standard output; fails where the exit code is another."""
        self.capsys.readouterr()
        found = main([*words, "--cache-dir", str(self.folder / "cache")])
        logging.getLogger("wain").handlers = []
        self.out, self.err = self.capsys.readouterr()
        assert found == code, self.err
        return self.out.strip()

    def build(self, *words: str, code: int = 0, index_url: str | None = None) -> str:
        """Builds the project into the layout `out`, unless the words say otherwise."""
        return self(
            "build",
            str(self.project),
            "--base",
            f"oci:{self.base}:1",
            *(("-o", self.destination) if self.destination else ()),
            "--index-url",
            index_url or self.index.simple,
            *words,
            code=code,
        )

    def runnable_base(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Makes the base one with the minor version of the Python that runs this, so that bytecode can be made here.

        :returns: that minor version.
        """
        minor = sys.version_info.minor
        version = f"3.{minor}.1"
        image = image_of(
            make_layer([*glibc(), *official(minor, version=version)]),
            env=("PATH=/usr/local/bin:/usr/bin:/bin", f"PYTHON_VERSION={version}"),
        )
        write_layout(image, LayoutReference(path=self.base, tag="1"))
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        return minor

    def image(self) -> Image:
        found = read_image(f"oci:{self.folder / 'out'}:1")
        assert isinstance(found, Image)
        return found


@pytest.fixture
def wain(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wain]:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "WAIN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    yield Wain(tmp_path, index, capsys)
    logging.getLogger("wain").propagate = True
    logging.getLogger("wain").setLevel(logging.NOTSET)
