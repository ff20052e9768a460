"""What the cache promises of `wain build` and `wain install`: nothing twice, nothing wrong, nothing where it is off."""

from __future__ import annotations

import hashlib
import importlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.index_server import make_wheel
from tests.unit.wain_project import Wain, index, wain
from wain import locking, pipeline
from wain.image import check_image

__all__ = ["index", "wain"]

BACKEND = """
import base64, hashlib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    import backend_part
    info = "made-1.0.dist-info"
    files = {
        "made.py": "",
        info + "/METADATA": "Metadata-Version: 2.1\\nName: made\\nVersion: 1.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[info + "/RECORD"] = "".join(name + ",,\\n" for name in [*files, info + "/RECORD"])
    with zipfile.ZipFile(folder + "/made-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return "made-1.0-py3-none-any.whl"
"""


def sdist_of_made(backend: str = BACKEND) -> bytes:
    files = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: made\nVersion: 1.0\n",
        "pyproject.toml": (
            '[build-system]\nrequires = ["backend-part"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "made"\nversion = "1.0"\n'
        ),
        "backend.py": backend,
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"made-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def _wheel(wain: Wain) -> str:
    return "alpha"


def _with_sdist(wain: Wain) -> str:
    wain.index.put("made", "made-1.0.tar.gz", sdist_of_made())
    wain.index.add("backend-part", "1.0")
    return "made"


def _direct_url(wain: Wain) -> str:
    name = wain.index.add("direct", "1.0")
    return f"direct @ {wain.index.url}/files/direct/{name}"


def _found_link(wain: Wain) -> str:
    links = wain.folder / "links"
    links.mkdir()
    name, data = make_wheel("linked", "1.0", requires=["beta"])
    (links / name).write_bytes(data)
    return f"--find-links {links}\nlinked"


def _signed_url(wain: Wain) -> str:
    name = wain.index.add("signed", "1.0")
    wain.index.tokens[f"/files/signed/{name}"] = "token=first"
    return "signed"


@pytest.mark.parametrize("source", [_wheel, _with_sdist, _direct_url, _found_link, _signed_url])
@pytest.mark.parametrize("command", ["build", "install"])
def test_the_second_time_nothing_is_downloaded_or_built(
    wain: Wain, command: str, source: Callable[[Wain], str], caplog: pytest.LogCaptureFixture
) -> None:
    text = source(wain)
    requirements = wain.project / "requirements.txt"

    def run(place: str) -> str:
        requirements.write_text(text + "\n")
        if command == "build":
            shutil.rmtree(wain.folder / "out", ignore_errors=True)
            return wain.build("-v")
        target = wain.folder / place
        index_url = ("--index-url", wain.index.simple)
        return wain("install", "-v", *index_url, "--target", str(target), "-r", str(requirements))

    run("first")
    files = [path for path in wain.index.asked("/files/") if not path.endswith(".metadata")]
    assert files or source is _found_link
    assert ("it was built" in wain.err or "built" in wain.err) or source is not _with_sdist
    before = len(wain.index.requests)
    for path in wain.index.tokens:
        wain.index.tokens[path] = "token=second"
    run("second")
    assert wain.index.requests[before:] == []
    if command == "install":
        tree = {path.relative_to(wain.folder / "first") for path in (wain.folder / "first").rglob("*")}
        assert tree == {path.relative_to(wain.folder / "second") for path in (wain.folder / "second").rglob("*")}
        assert tree


def _signed_direct_url(wain: Wain) -> str:
    name = wain.index.add("direct", "1.0")
    path = f"/files/direct/{name}"
    token = wain.index.tokens.setdefault(path, "token=first")
    return f"direct @ {wain.index.url}{path}?{token}#sha256={wain.index.sha256(name)}"


@pytest.mark.parametrize("source", [_wheel, _with_sdist, _direct_url, _found_link, _signed_url, _signed_direct_url])
@pytest.mark.parametrize("command", ["build", "install"])
def test_what_is_resolved_anew_is_not_downloaded_again(
    wain: Wain, command: str, source: Callable[[Wain], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is asked again, as after ten minutes; under whatever address, a file that is there is not fetched."""
    monkeypatch.setattr(locking, "REMEMBERED_SECONDS", 0)
    wain.index.files_never_change = True

    def run(place: str) -> None:
        text = source(wain) if place == "first" or source is _signed_direct_url else texts[0]
        texts.append(text)
        (wain.project / "requirements.txt").write_text(text + "\n")
        if command == "build":
            wain.build("-v")
        else:
            where = ("--target", str(wain.folder / place), "-r", str(wain.project / "requirements.txt"))
            wain("install", "-v", "--index-url", wain.index.simple, *where)

    texts: list[str] = []
    run("first")
    before = len(wain.index.requests)
    for path in wain.index.tokens:
        wain.index.tokens[path] = "token=second"
    run("second")
    # The resolver may look at a wheel's metadata again, by range.
    fetched = [path for method, path, wanted in wain.index.requests[before:] if method == "GET" and not wanted]
    assert [path for path in fetched if "/files/" in path and not path.endswith(".metadata")] == []
    assert "is built here" not in wain.err


def test_what_is_declared_for_a_build_reaches_it_and_is_told_apart(wain: Wain) -> None:
    told = '"made.py": repr((config_settings, __import__("os").environ.get("COLOUR"))),'
    wain.index.put("made", "made-1.0.tar.gz", sdist_of_made(BACKEND.replace('"made.py": "",', told)))
    wain.index.add("backend-part", "1.0")

    def made(place: str, *words: str) -> str:
        target = wain.folder / place
        wain("install", "-v", "--index-url", wain.index.simple, "--target", str(target), *words, "made")
        return (target / "made.py").read_text()

    assert made("plain") == "(None, None)"
    declared = ("-C", "made:size=2", "--build-env", "COLOUR=red", "--build-env", "other:COLOUR=blue")
    assert made("declared", *declared) == "({'size': '2'}, 'red')"
    assert "is built here: config-settings was not there" in wain.err
    assert made("declared again", *declared) == "({'size': '2'}, 'red')"
    assert made("plain again") == "(None, None)"
    assert "is built here" not in wain.err
    (wain.project / "requirements.txt").write_text("made\n")
    pyproject = "[tool.wain.config-settings.made]\nsize = '2'\n[tool.wain.build-env.made]\nCOLOUR = 'green'\n"
    (wain.project / "pyproject.toml").write_text(pyproject)
    for is_built in (True, False):
        wain.build("-v", "--build-env", "made:COLOUR=red")
        assert ("is built here" in wain.err) == is_built
    wain.build("-v")
    assert "is built here: environment COLOUR was sha256:" in wain.err
    wain("install", "--target", str(wain.folder / "none"), "--build-env", "SECRET", "made", code=2)
    assert "--build-env 'SECRET' sets nothing" in wain.err


def _blobs(wain: Wain) -> dict[str, Path]:
    """The cache's blobs by their digests."""
    return {
        path.name: path
        for path in (wain.folder / "cache").rglob("*")
        if path.is_file() and len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    }


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(data)


def _archive_layers(path: Path) -> None:
    """Every blob of an archive has the bytes of its name."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and "/sha256/" in member.name]
        assert members
        for member in members:
            stream = archive.extractfile(member)
            assert stream is not None
            assert hashlib.sha256(stream.read()).hexdigest() == member.name.rpartition("/")[2]


def test_flipped_bits_in_every_blob_are_mended(wain: Wain) -> None:
    first = wain.build("-o", str(wain.folder / "one.tar"))
    bytes_before = (wain.folder / "one.tar").read_bytes()
    blobs = _blobs(wain)
    assert len(blobs) >= 3
    for path in blobs.values():
        _flip(path)
    assert wain.build("-o", str(wain.folder / "two.tar")) == first
    assert (wain.folder / "two.tar").read_bytes() == bytes_before
    _archive_layers(wain.folder / "two.tar")
    assert wain.err.count("once more") == 2  # the layer, then the wheels that it is made from


def test_a_flipped_bit_in_a_wheel_is_mended(wain: Wain) -> None:
    first = wain.build("-o", str(wain.folder / "one.tar"))
    wheels = {wain.index.sha256(name) for files in wain.index.files.values() for name in files}
    for name, path in _blobs(wain).items():
        # Layers are made anew, from wheels that are damaged.
        if name in wheels:
            _flip(path)
        else:
            path.unlink()
    assert wain.build("-o", str(wain.folder / "two.tar")) == first
    assert (wain.folder / "two.tar").read_bytes() == (wain.folder / "one.tar").read_bytes()


def test_an_installation_mends_a_flipped_wheel(wain: Wain) -> None:
    def install(place: str) -> Path:
        wain("install", "--index-url", wain.index.simple, "--target", str(wain.folder / place), "alpha")
        return wain.folder / place

    first = install("first")
    for path in _blobs(wain).values():
        _flip(path)
    second = install("second")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_cache_that_is_deleted_during_a_build(wain: Wain, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = wain.build("-o", str(wain.folder / "one.tar"))
    shutil.rmtree(wain.folder / "cache")
    made = importlib.import_module("wain.build").build
    calls = []

    def deleting(*args: object, **options: object) -> object:
        found = made(*args, **options)
        calls.append(1)
        if len(calls) == 1:
            shutil.rmtree(wain.folder / "cache")
        return found

    monkeypatch.setattr(pipeline, "build", deleting)
    assert wain.build("-o", str(wain.folder / "two.tar")) == expected
    assert (wain.folder / "two.tar").read_bytes() == (wain.folder / "one.tar").read_bytes()
    check_image(wain.image())
    assert calls == [1, 1]
    assert wain.err.count("once more") == 1


def test_what_is_wrong_at_its_source_is_not_tried_again(wain: Wain) -> None:
    [name] = wain.index.files["beta"]
    wain.index.served[name] = make_wheel("beta", "1.5", content=b"other")[1]
    wain.build(code=7)
    assert "once more" not in wain.err
