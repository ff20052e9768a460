"""`wain build` from a project to an image, on a made base and a made index: what it gives, asks for and tells."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.layer_maker import file, make_layer
from tests.unit.test_bases import glibc, image_of, official
from tests.unit.wain_project import Wain, index, wain
from wain.digest import Digest
from wain.errors import LockError, Offline, ProjectError, PythonError
from wain.image import Image, check_image
from wain.layout import write as write_layout
from wain.names import LayoutReference, parse_registry_reference
from wain.oci import load_json
from wain.registry import write as write_to_registry
from wain.testing import LoopbackRegistry

__all__ = ["index", "wain"]


def _files(image: Image, folder: Path) -> dict[str, tarfile.TarInfo]:
    """Every entry of every layer by other programs' means, each layer's diff ID checked with zcat and sha256sum."""
    found: dict[str, tarfile.TarInfo] = {}
    for number, layer in enumerate(image.layers):
        blob = folder / f"blob-{number}.gz"
        with layer.open() as source, blob.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        told = subprocess.run(f"zcat {blob} | sha256sum", shell=True, capture_output=True, text=True, check=True)
        assert layer.diff_id.hex == told.stdout.split()[0]
        with tarfile.open(blob) as archive:
            found |= {member.name: member for member in archive}
    return found


def test_an_image_of_a_project(wain: Wain, tmp_path: Path) -> None:
    digest = wain.build()
    image = wain.image()
    check_image(image)
    assert digest == image.digest
    files = _files(image, tmp_path)
    site = "opt/venv/lib/python3.13/site-packages"
    assert {f"{site}/alpha/__init__.py", f"{site}/beta/__init__.py", "app/app.py", "opt/venv/pyvenv.cfg"} <= set(files)
    assert files["opt/venv/bin/python"].linkname == "/usr/local/bin/python3.13"
    assert not [name for name in files if name.endswith(".pyc") or "__pycache__" in name or "REQUESTED" in name]
    home = files["home/nonroot"]
    assert (home.mode, home.uid, home.gid) == (0o770, 65532, 0)
    runtime = image.config.runtime
    assert runtime.entrypoint == ("python", "app.py")
    assert runtime.user == "65532:65532"
    assert runtime.working_dir == "/app"
    assert runtime.environment()["PATH"] == "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert image.config.created == "2023-11-14T22:13:20Z"
    history = [item.created_by for item in image.config.history if str(item.comment).startswith("wain")]
    assert "alpha 1.0, beta 1.5" in str(history[0])
    assert "alpha 1.0, beta 1.5" in wain.err


def test_the_same_again_is_the_same_without_a_request(wain: Wain) -> None:
    first = wain.build()
    asked = len(wain.index.requests)
    assert wain.build() == first
    assert len(wain.index.requests) == asked
    assert "cached" in wain.err


@pytest.mark.parametrize(
    "disturb",
    [
        lambda monkeypatch: monkeypatch.setenv("TZ", "Asia/Kathmandu"),
        lambda monkeypatch: monkeypatch.setenv("LC_ALL", "C"),
        lambda monkeypatch: os.umask(0o077),
        lambda monkeypatch: monkeypatch.setenv("SOURCE_DATE_EPOCH", "1"),
        lambda monkeypatch: monkeypatch.chdir("/"),
        lambda monkeypatch: monkeypatch.setenv("HOME", "/nonexistent"),
    ],
    ids=["zone", "locale", "umask", "time", "folder", "home"],
)
def test_what_does_not_matter_changes_no_dependency_layer(
    wain: Wain, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[pytest.MonkeyPatch], object]
) -> None:
    wain.build()
    before = [layer.digest for layer in wain.image().layers[:-1]]
    shutil.rmtree(wain.folder / "cache")
    mask = os.umask(0)
    os.umask(mask)
    try:
        disturb(monkeypatch)
        wain.build()
    finally:
        os.umask(mask)
    assert [layer.digest for layer in wain.image().layers[:-1]] == before


def test_a_bump_changes_one_dependency_layer(wain: Wain) -> None:
    wain.build()
    before = wain.image().layers
    wain.index.add("beta", "1.6", content=b"new = True\n")
    wain.build("--refresh")
    after = wain.image().layers
    assert len(after) == len(before)
    assert len({layer.digest for layer in after} - {layer.digest for layer in before}) == 1


def test_an_archive_that_is_as_it_was_is_left_alone(wain: Wain) -> None:
    target = wain.folder / "out.tar"
    first = wain.build("-o", str(target))
    state = target.stat()
    assert wain.build("-o", str(target)) == first
    assert target.stat().st_mtime_ns == state.st_mtime_ns
    target.write_bytes(b"broken")
    assert wain.build("-o", str(target)) == first
    assert target.stat().st_size == state.st_size


def test_bytecode_goes_in_layers_of_its_own(wain: Wain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minor = wain.runnable_base(monkeypatch)
    wain.index.add("beta", "1.6", content=b"value = 1\n")
    wain.build()
    plain = wain.image()
    wain.build("--compile")
    compiled = wain.image()
    assert len(compiled.layers) == len(plain.layers) + 1
    assert {layer.digest for layer in plain.layers} < {layer.digest for layer in compiled.layers}
    assert "PYTHONDONTWRITEBYTECODE" not in compiled.config.runtime.environment()
    files = _files(compiled, tmp_path)
    assert f"opt/venv/lib/python3.{minor}/site-packages/beta/__pycache__/__init__.cpython-3{minor}.pyc" in files
    first = compiled.digest
    shutil.rmtree(wain.folder / "cache")
    wain.build("--compile")
    assert wain.image().digest == first


def test_the_summary_says_what_bytecode_would_do(wain: Wain) -> None:
    wain.index.add("beta", "1.6", content=b"value = [1, 2, 3]\n" * 2000)
    (wain.project / "app.py").write_text("import beta\n")
    wain.build()
    assert "--compile would add" in wain.err
    assert "at each start" in wain.err


def test_metadata_file_and_dry_run(wain: Wain) -> None:
    document = wain.folder / "meta.json"
    assert wain.build("--dry-run", "--metadata-file", str(document)) == ""
    assert not document.exists()
    assert not (wain.folder / "out").exists()
    assert "alpha-1.0-py3-none-any.whl" in wain.err
    digest = wain.build("--metadata-file", str(document))
    told = load_json(document.read_bytes(), "metadata")
    assert told["digest"] == digest


def test_a_lock_makes_the_build_independent_of_the_index(wain: Wain) -> None:
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    locked = (wain.project / "pylock.toml").read_text()
    assert "alpha" in locked
    digest = wain.build("--locked")
    wain.index.add("beta", "1.6")
    wain.index.requests.clear()
    assert wain.build("--locked", "--refresh") == digest
    assert wain.index.requests == []
    (wain.project / "requirements.txt").write_text("alpha\ngamma\n")
    wain.build("--locked", code=3)
    assert "wain lock" in wain.err


@pytest.mark.parametrize(
    ("requirements", "words", "code", "told"),
    [
        ("gamma\n", (), 5, "gamma"),
        ("native\n", (), 6, "cp39-cp39-win_amd64"),
        ("alpha\n", ("--python", "3.13t"), 14, "free-threaded"),
        ("alpha\n", ("--python", "3.12"), 14, "3.12"),
        ("alpha\n", ("--platform", "linux/sparc9"), 18, "sparc9"),
        ("alpha\n", ("--platform", "a/b/c/d"), 2, "a/b/c/d"),
        ("alpha==1.0 --hash=sha256:" + "0" * 64 + "\n", (), 7, "alpha"),
        ("alpha\n", ("-o", "registry.example/Case"), 2, "lower case"),
        ("alpha\n", ("--base", "oci:nowhere"), 18, "nowhere"),
    ],
    ids=["unknown", "no-wheel", "threaded", "python", "other-platform", "platform", "hash", "destination", "base"],
)
def test_each_mistake_has_its_code_and_says_what_to_do(
    wain: Wain, requirements: str, words: tuple[str, ...], code: int, told: str
) -> None:
    wain.index.add("native", "1.0", tag="cp39-cp39-win_amd64")
    (wain.project / "requirements.txt").write_text(requirements)
    wain.build(*words, code=code)
    assert told in wain.err
    assert wain.err.rstrip().splitlines()[-1].startswith("  "), "a hint comes last"
    assert "Traceback" not in wain.err
    assert wain.out == ""


def test_a_truncated_download_is_an_error_and_leaves_nothing(wain: Wain) -> None:
    wain.build("--dry-run")
    wain.index.cut["alpha-1.0-py3-none-any.whl"] = [100] * 50
    wain.build("--retries", "0", code=8)
    assert "alpha-1.0-py3-none-any.whl" in wain.err
    assert not (wain.folder / "out").exists()


def test_bytes_that_are_not_those_promised_are_refused(wain: Wain) -> None:
    wain.build("--dry-run")
    name = "beta-1.5-py3-none-any.whl"
    wain.index.served[name] = wain.index.files["beta"][name][:-1] + b"x"
    wain.build(code=7)
    assert name in wain.err


def test_no_mirror_is_known(wain: Wain, monkeypatch: pytest.MonkeyPatch) -> None:
    from wain import debian, debian_archive

    find = debian.debian_mirrors
    monkeypatch.setattr(debian_archive, "debian_mirrors", lambda urls=(): find(urls, apt=wain.folder))
    wain("build", str(wain.project), "--base", "debian:trixie", "--index-url", wain.index.simple, code=16)
    assert "debian-mirrors" in wain.err


def _watch_command_lines(seen: set[bytes], stop: threading.Event) -> None:
    """Collects the command lines of all processes until it is told to stop."""
    while not stop.wait(0.002):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                seen.add(path.read_bytes())


def test_credentials_are_nowhere(wain: Wain, tmp_path: Path) -> None:
    """Neither in the image, the lock, the log at its most talkative, an error, nor in the store."""
    secret = "p4ss-w0rd-0f-index"
    wain.index.password = f"carter:{secret}"
    url = wain.index.with_password()
    seen: set[bytes] = set()
    stop = threading.Event()
    watcher = threading.Thread(target=_watch_command_lines, args=(seen, stop))
    watcher.start()
    try:
        wain.build("-vv", index_url=url)
    finally:
        stop.set()
        watcher.join()
    assert any(b"uv" in line for line in seen), "uv was seen at work"
    assert not [line for line in seen if secret.encode() in line]
    told = wain.out + wain.err
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", url, "-vv")
    told += wain.out + wain.err + (wain.project / "pylock.toml").read_text()
    (wain.project / "pylock.toml").unlink()
    (wain.project / "requirements.txt").write_text("gamma\n")
    wain.build("-vv", index_url=url, code=5)
    told += wain.out + wain.err
    assert secret not in told
    _files(wain.image(), tmp_path)
    for place in (tmp_path / "out", tmp_path / "cache"):
        for path in place.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
    for blob in tmp_path.glob("blob-*.gz"):
        plain = subprocess.run(["zcat", blob], capture_output=True, check=True).stdout
        assert secret.encode() not in plain


def test_an_interrupt_leaves_no_part_at_the_destination(wain: Wain, monkeypatch: pytest.MonkeyPatch) -> None:
    from wain import archive

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_add_blob", interrupted)
    folder = tmp = wain.folder / "fresh"
    folder.mkdir()
    wain.build("-o", str(tmp / "image.tar"), code=130)
    assert list(folder.iterdir()) == []


def test_a_musl_base_takes_pure_wheels_and_says_what_lacks(wain: Wain) -> None:
    from tests.unit.elf_maker import make_elf
    from tests.unit.layer_maker import symlink
    from tests.unit.test_bases import MUSL_LOADER, program

    wain.index.add("native", "1.0", tag="cp313-cp313-manylinux_2_17_x86_64")
    members = [
        file("lib/ld-musl-x86_64.so.1", make_elf(soname="libc.musl-x86_64.so.1", rodata=b"\x001.2.5\x00"), mode=0o755),
        program("usr/local/bin/python3.13", loader=MUSL_LOADER, version="3.13.5"),
        symlink("usr/local/bin/python3", "python3.13"),
        file("usr/local/lib/python3.13/os.py"),
        file("usr/local/lib/python3.13/site.py", b"site-packages"),
        file("usr/local/lib/python3.13/lib-dynload/_json.cpython-313-x86_64-linux-musl.so"),
    ]
    image = image_of(make_layer(members), env=("PATH=/usr/local/bin", "PYTHON_VERSION=3.13.5"))
    write_layout(image, LayoutReference(path=wain.base, tag="1"))
    wain.build()
    (wain.project / "requirements.txt").write_text("native\n")
    wain.build(code=6)
    assert "musl" in wain.err


def test_the_digest_alone_is_on_standard_output(wain: Wain) -> None:
    assert Digest(wain.build("-q"))
    assert wain.err == ""
    assert json.loads((wain.folder / "out/index.json").read_text())["manifests"]


def test_what_does_not_start_is_told_before_anything_is_asked_for(wain: Wain) -> None:
    (wain.project / "app.py").rename(wain.project / "tool.py")
    wain.build(code=ProjectError.exit_code)
    assert "nothing says how thing starts" in wain.err
    assert not wain.index.requests
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    assert wain.err.splitlines()[-1].startswith("2 packages are locked for one environment in ")


def test_a_lock_for_other_platforms_is_told_before_a_base_is_asked_for(wain: Wain) -> None:
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    wain.build("--locked", "--platform", "linux/s390x", code=LockError.exit_code)
    assert wain.err == (
        "wain: pylock.toml is for linux/amd64, not for linux/s390x\n"
        "  Lock for all of them: wain lock --platform linux/amd64,linux/s390x.\n"
    )


def test_how_to_run_it_names_the_ports_and_can_be_pasted(wain: Wain) -> None:
    (wain.project / "pyproject.toml").write_text('[tool.wain]\nports = [8000, "53/udp"]\n')
    wain.destination = f"archive:{wain.folder}/my image.tar"
    wain.build()
    assert wain.err.splitlines()[-1].endswith(
        f"docker load -i '{wain.folder}/my image.tar' && docker run --rm -p 8000:8000 -p 53:53/udp thing:latest"
    )


def test_a_destination_that_may_be_a_folder_or_an_image_is_asked_about(wain: Wain) -> None:
    wain.destination = "out"
    wain.build(code=2)
    assert "oci:out, archive:out.tar, daemon:out or docker.io/library/out" in wain.err


def test_push_takes_the_names_of_the_settings(wain: Wain) -> None:
    wain.destination = None
    wain.build("--push", code=2)
    with LoopbackRegistry() as registry:
        name = registry.reference("app")
        (wain.project / "pyproject.toml").write_text(f'[tool.wain]\ntags = ["{name}"]\n')
        wain.build("--push")
        assert registry.requests("PUT", "/manifests/")
    assert wain.err.splitlines()[-1] == f"pushed {name}"


def test_a_lock_is_made_anew_for_another_base(wain: Wain) -> None:
    (wain.project / "pyproject.toml").write_text('[tool.wain]\ndebian-mirrors = ["http://127.0.0.1:9/debian"]\n')
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    lock = wain.project / "pylock.toml"
    text = re.sub(r'\nbase = ".*"\n', "\n", lock.read_text())
    deb = f'name = "libc6", version = "2", sha256 = "{"0" * 64}", size = 1, filename = "c.deb", origin = "main"'
    base = f'suite = "bookworm"\npython = "3.11"\nplatform = "linux/amd64"\npackages = [{{ {deb} }}]\n'
    lock.write_text(f"{text}\n[[tool.wain.base]]\n{base}")
    wain("build", str(wain.project), "--base", "debian:trixie", code=PythonError.exit_code)
    assert "wain lock --base debian:trixie" in wain.err
    wain("lock", str(wain.project), "--base", "debian:trixie", "--offline", code=Offline.exit_code)
    assert "base debian:trixie, made of Debian packages: Python 3.13" in wain.err


def test_a_second_build_from_a_lock_parses_nothing(wain: Wain) -> None:
    """What the lock and its fit to the project come to is remembered, so that packaging is not even loaded."""
    base = f"oci:{wain.base}:1"
    wain("lock", str(wain.project), "--base", base, "--index-url", wain.index.simple)
    digest = wain.build()
    program = (
        "import sys; from wain.commands.main import main; code = main(sys.argv[1:]);"
        " print(sorted({'packaging', 'uv', 'tree_sitter'} & set(sys.modules))); sys.exit(code)"
    )
    words = ["build", wain.project, "--base", base, "-o", f"oci:{wain.folder / 'other'}:1"]
    found = subprocess.run(
        [sys.executable, "-c", program, *words, "--cache-dir", wain.folder / "cache", "-q"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.splitlines() == [digest, "[]"]


@pytest.mark.parametrize("text", ["alpha\ngamma\n", "-r more.txt\n", "  -r more.txt\n"])
def test_a_lock_is_looked_at_again_when_the_project_changed(wain: Wain, text: str) -> None:
    wain("lock", str(wain.project), "--base", f"oci:{wain.base}:1", "--index-url", wain.index.simple)
    wain.build()
    wain.build()
    (wain.project / "more.txt").write_text("alpha\n")
    (wain.project / "requirements.txt").write_text(text)
    if "gamma" not in text:
        wain.build()
        (wain.project / "more.txt").write_text("alpha\ngamma\n")
    wain.build(code=3)
    assert "gamma" in wain.err


def test_the_base_of_the_settings_is_the_locks(wain: Wain) -> None:
    """A tag that moved since the lock was made does not move the build, until the lock is made anew."""
    first, second = (image_of(make_layer([*glibc(), *official(), file("mark", mark)])) for mark in (b"1", b"2"))
    with LoopbackRegistry() as registry:
        name = registry.reference("base")
        write_to_registry(first, parse_registry_reference(name))
        (wain.project / "pyproject.toml").write_text(f'[tool.wain]\nbase = "{name}"\n')
        more = ("--index-url", wain.index.simple)
        wain("lock", str(wain.project), *more)
        write_to_registry(second, parse_registry_reference(name))
        out = ("-o", f"oci:{wain.folder / 'out'}:1")
        wain("build", str(wain.project), *out, *more)
        assert wain.image().layers[0].digest == first.layers[0].digest
        assert wain.image().config.runtime.labels["org.opencontainers.image.base.name"] == name
        wain("lock", str(wain.project), *more)
        wain("build", str(wain.project), *out, *more)
        assert wain.image().layers[0].digest == first.layers[0].digest, "as with packages: kept without --upgrade"
        wain("build", str(wain.project), *out, *more, "--base", f"{name}@{second.digest}")
        assert wain.image().layers[0].digest == second.layers[0].digest, "a digest that is written counts"
        wain("build", str(wain.project), *out, *more, "--locked", "--base", f"oci:{wain.base}:1", code=3)
        assert "for the base" in wain.err
        wain("lock", str(wain.project), *more, "--upgrade")
        wain("build", str(wain.project), *out, *more)
        assert wain.image().layers[0].digest == second.layers[0].digest


def test_a_metadata_file_without_a_folder_is_told_before_anything_is_made(wain: Wain) -> None:
    wain.build("--metadata-file", str(wain.folder / "no/file.json"), code=2)
    assert "there is no such folder" in wain.err
    assert not (wain.folder / "out").exists()
