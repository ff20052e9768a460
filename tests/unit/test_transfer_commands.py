"""`wain copy` and `wain inspect`, from the command line."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.layer_maker import directory, file, make_layer, symlink
from wain import archive, layout
from wain.commands.main import main
from wain.digest import Digest
from wain.image import Image, Index
from wain.layers import Layer
from wain.names import ArchiveReference, LayoutReference
from wain.oci import LAYER_TAR, LAYER_ZSTD, Config, Runtime
from wain.platforms import Platform
from wain.testing import Fault, LoopbackRegistry, random_image, random_index
from wain.transfer import read_image, write_image

SECRET = "h1dden-p4ssword"


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as server:
        yield server


def test_a_copy_goes_everywhere_and_keeps_its_digest(
    registry: LoopbackRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = random_image(1)
    archive.write(image, ArchiveReference(path=tmp_path / "a.tar"), names=("app:1",))
    steps = [
        (f"{tmp_path}/a.tar", f"oci:{tmp_path}/layout:1"),
        (f"oci:{tmp_path}/layout:1", registry.reference("team/app")),
        (registry.reference("team/app"), registry.reference("team/other", "2")),
        (registry.reference("team/other", "2"), f"archive:{tmp_path}/b.tar"),
    ]
    for source, destination in steps:
        assert main(["copy", source, destination]) == 0
        said = capsys.readouterr()
        assert said.out == f"{image.digest}\n"
    assert read_image(f"{tmp_path}/b.tar").digest == image.digest
    with tarfile.open(tmp_path / "b.tar") as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert entry["RepoTags"] == [registry.reference("team/other", "2")]


def test_an_index_is_copied_whole_or_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = random_index(2)
    write_image(index, f"oci:{tmp_path}/a:1")
    assert main(["copy", f"oci:{tmp_path}/a", f"oci:{tmp_path}/b:1"]) == 0
    assert main(["copy", "--platform", "linux/arm64", f"oci:{tmp_path}/a", f"oci:{tmp_path}/c:1"]) == 0
    assert capsys.readouterr().out.split() == [index.digest, index.images[1].digest]
    assert isinstance(read_image(f"oci:{tmp_path}/b"), Index)


def test_a_name_for_an_archive(tmp_path: Path) -> None:
    write_image(random_image(3), f"oci:{tmp_path}/a:1")
    assert main(["copy", "-q", f"oci:{tmp_path}/a", f"{tmp_path}/a.tar", "-t", "registry.example/app:7"]) == 0
    with tarfile.open(tmp_path / "a.tar") as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert entry["RepoTags"] == ["registry.example/app:7"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["copy", "UPPER", "oci:x"], 2, "lower case"),
        (["copy", "oci:none", "oci:x"], 18, "no OCI image layout"),
        (["inspect", "none.tar"], 18, "cannot be read"),
        (["inspect", "oci:none", "--platform", "a/b/c/d"], 2, "not a platform"),
        (["inspect", "oci:none", "--platform", "linux"], 2, "not a platform"),
    ],
)
def test_errors_have_their_codes(
    words: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) >= 2
    assert os.listdir(tmp_path) == []


def test_what_inspect_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = Runtime(user="65532", cmd=("python", "-m", "app"), exposed_ports=("8000/tcp",), env=("A=1",))
    image = random_image(4, layers=2, layer_bytes=100_000).with_runtime(runtime)
    write_image(image, f"oci:{tmp_path}/a:1")
    assert main(["inspect", f"oci:{tmp_path}/a:1"]) == 0
    text = capsys.readouterr().out
    for part in (
        image.digest,
        image.layers[0].digest.short,
        "random 4000",
        "python -m app",
        "65532",
        "8000/tcp",
        "2 layers",
    ):
        assert part in text
    assert main(["inspect", f"oci:{tmp_path}/a:1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (shown,) = found["images"]
    assert found["digest"] == shown["digest"] == image.digest
    assert [layer["compressed_bytes"] for layer in shown["layers"]] == [layer.size_bytes for layer in image.layers]
    assert [layer["unpacked_bytes"] for layer in shown["layers"]] == [100_000, 100_000]
    assert shown["unpacked_bytes"] == 200_000
    assert shown["config"]["env"] == ["A=1"]


def test_a_registrys_layers_are_not_fetched_unasked(
    registry: LoopbackRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(random_image(8), registry.reference("app"))
    registry.forget()
    assert main(["inspect", registry.reference("app")]) == 0
    assert "?" in capsys.readouterr().out
    assert len(registry.requests("GET", "/blobs/")) == 1
    assert main(["inspect", "--unpack", registry.reference("app")]) == 0
    assert "?" not in capsys.readouterr().out
    assert len(registry.requests("GET", "/blobs/")) == 1 + 1 + 3


def made_layer(data: bytes, diff: bytes, media_type: str, created_by: str = "x") -> Layer:
    return Layer(
        digest=Digest.of(data),
        diff_id=Digest.of(diff),
        size_bytes=len(data),
        source=lambda: io.BytesIO(data),
        media_type=media_type,
        created_by=created_by,
    )


def test_layers_of_every_compression_and_names_that_steer_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import zstandard

    stored = make_layer([file("a/b", b"0123456789" * 1000), directory("c"), symlink("d", "a")], compress=bytes)
    with stored.open() as stream:
        plain = stream.read()
    series = gzip.compress(plain[:5000]) + gzip.compress(plain[5000:])
    image = Image(config=Config(platform=Platform())).append(
        made_layer(plain, plain, LAYER_TAR, "RUN \x1b[2J\x07evil\nline"),
        made_layer(series, plain, "application/vnd.oci.image.layer.v1.tar+gzip", "y" * 300),
        made_layer(zstandard.compress(plain), plain, LAYER_ZSTD),
    )
    layout.write(image, LayoutReference(path=tmp_path / "a"))
    assert main(["inspect", f"oci:{tmp_path}/a"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "RUN [2J evil line" in text
    assert max(map(len, text.splitlines()[1:])) < 150
    assert main(["inspect", f"oci:{tmp_path}/a", "--format", "json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["images"]
    assert [layer["unpacked_bytes"] for layer in shown["layers"]] == [10_000] * 3


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b"x" * 1000, mtime=0)[:-9], b"\x1f\x8bjunk", b"no gzip at all", b""],
    ids=["cut", "junk", "other", "empty"],
)
def test_a_layer_that_is_no_gzip(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = made_layer(data, b"x" * 1000, "application/vnd.oci.image.layer.v1.tar+gzip")
    layout.write(Image(config=Config(platform=Platform())).append(layer), LayoutReference(path=tmp_path / "a"))
    code = main(["inspect", f"oci:{tmp_path}/a"])
    assert code == 18
    assert f"layer {layer.digest.short}" in capsys.readouterr().err
    assert main(["inspect", f"oci:{tmp_path}/a", "--no-unpack"]) == 0


def wain(*words: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "wain", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
    )


def test_an_interrupt_leaves_nothing_and_says_130(registry: LoopbackRegistry, tmp_path: Path) -> None:
    write_image(random_image(5, layers=2, layer_bytes=50_000), registry.reference("app"))
    registry.forget()
    registry.faults.append(
        Fault(when=lambda request: request.is_("GET", "/blobs/"), skip=1, times=None, stall_seconds=5)
    )
    (tmp_path / "out").mkdir()
    process = wain("copy", registry.reference("app"), f"archive:{tmp_path}/out/a.tar", home=tmp_path)
    deadline = time.monotonic() + 60
    while len(registry.requests("GET", "/blobs/")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert os.listdir(tmp_path / "out") == []


def test_an_interrupted_push_ends_soon_and_leaves_the_tag(registry: LoopbackRegistry, tmp_path: Path) -> None:
    write_image(random_image(6, layers=4), f"oci:{tmp_path}/a:1")
    registry.faults.append(Fault(when=lambda request: request.method == "PUT", times=None, stall_seconds=60))
    process = wain("copy", f"oci:{tmp_path}/a", registry.reference("app"), home=tmp_path)
    deadline = time.monotonic() + 60
    while not registry.requests("PUT") and time.monotonic() < deadline:
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 45
    assert registry.state("app", "1") is None


def test_the_password_is_in_no_log_error_argument_or_output(tmp_path: Path) -> None:
    pair = base64.b64encode(f"user:{SECRET}".encode()).decode()
    with LoopbackRegistry(auth="bearer", password=SECRET) as registry:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": pair}}}))
        write_image(random_image(7), f"oci:{tmp_path}/a:1")
        registry.faults.append(Fault(when=lambda request: request.method == "PUT", stall_seconds=0.5))
        process = wain(
            "copy",
            "-vv",
            f"oci:{tmp_path}/a",
            registry.reference("app"),
            home=tmp_path,
            DOCKER_CONFIG=str(tmp_path / "docker"),
        )
        seen = ""
        while process.poll() is None:
            with open(f"/proc/{process.pid}/cmdline", errors="replace") as file:
                seen += file.read()
            time.sleep(0.05)
        out, err = process.communicate()
        assert process.returncode == 0
        assert registry.state("app", "1") == random_image(7).digest
        copied = b"".join(data for _, data in registry.repository("app").manifests.values())
        copied += b"".join(registry.blobs.values())
        tokens = list(registry.tokens)
        (tmp_path / "docker" / "config.json").write_text(
            json.dumps({"auths": {registry.host: {"auth": base64.b64encode(f"user:x{SECRET}".encode()).decode()}}})
        )
        failed = wain(
            "copy",
            "-vv",
            f"oci:{tmp_path}/a",
            registry.reference("app", "2"),
            home=tmp_path,
            DOCKER_CONFIG=str(tmp_path / "docker"),
        )
        out2, err2 = failed.communicate()
        assert failed.returncode == 9
    everything = out + err + seen + out2 + err2 + copied.decode("latin-1")
    assert "wain" in seen
    for hidden in (SECRET, pair, *tokens):
        assert hidden not in everything
