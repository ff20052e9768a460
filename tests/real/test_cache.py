"""The cache as a user meets it: switched off, in folders that cannot be used, and without a home."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.index_server import Index, serve_index
from tests.real.machines.places import environment, require_tool
from tests.real.machines.processes import Finished, run
from tests.unit.layer_maker import make_layer
from tests.unit.test_bases import glibc, image_of, official
from tests.unit.test_cached_builds import sdist_of_made
from wain.layout import write as write_layout
from wain.names import LayoutReference
from wain.store import Store

pytestmark = pytest.mark.real

NOBODY = 65534
# Without a power of root but to read and to pass folders: the interpreter may lie in root's own home.
ORDINARY = (
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    *("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"),
)


class Place:
    """A project, its base and its index, and folders that anybody may write into."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self.project = folder / "thing"
        self.project.mkdir()
        (self.project / "app.py").write_text("")
        (self.project / "requirements.txt").write_text("alpha\n")
        write_layout(
            image_of(make_layer([*glibc(), *official()]), env=("PATH=/usr/local/bin", "PYTHON_VERSION=3.13.5")),
            LayoutReference(path=folder / "base", tag="1"),
        )
        for name in ("out", "temporary"):
            (folder / name).mkdir()
            (folder / name).chmod(0o1777)
        self.trees = folder / "trees"
        self.trees.mkdir()
        """Where homes and caches stand: what appears in here is what a test is about."""

    def wain(self, *words: str | Path, env: Mapping[str, str], before: tuple[str, ...] = ()) -> Finished:
        gone = ("WAIN_", "PIP_", "UV_", "XDG_")
        inherited = {name: "" for name in environment() if name.startswith(gone)}
        cleared = [word for name in inherited for word in ("-u", name)]
        settings = {"TMPDIR": str(self.folder / "temporary"), "PIP_CONFIG_FILE": os.devnull, **env}
        command = [
            *("env", *cleared, *(f"{name}={value}" for name, value in settings.items())),
            *before,
            *(sys.executable, "-B", "-m", "wain", *words),
        ]
        return run(command, cwd=self.folder)

    def build(self, *words: str | Path, env: Mapping[str, str], before: tuple[str, ...] = ()) -> Finished:
        options = ("--base", f"oci:{self.folder / 'base'}:1", "--index-url", self.index.simple)
        return self.wain(
            "build", self.project, *options, "-o", f"oci:{self.folder / 'out' / 'image'}:1", *words,
            env=env, before=before,
        )  # fmt: skip

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.trees)) for path in self.trees.rglob("*")}


@pytest.fixture
def place() -> Iterator[Place]:
    """Where any user may pass: pytest's own folders are for one."""
    with serve_index() as index, tempfile.TemporaryDirectory(prefix="wain-tests-") as name:
        index.add("alpha", "1.0")
        Path(name).chmod(0o755)
        yield Place(Path(name), index)


def _touched(log: Path, folder: Path) -> list[str]:
    """The calls that found something in a folder."""
    return [
        line for line in log.read_text(errors="replace").splitlines() if str(folder) in line and "= -1 E" not in line
    ]


@pytest.mark.parametrize("command", ["build", "install"])
def test_without_a_cache_no_file_of_any_cache_is_touched(place: Place, command: str) -> None:
    """Neither wain's, pip's nor uv's, with an sdist and what its build requires."""
    place.index.put("made", "made-1.0.tar.gz", sdist_of_made())
    place.index.add("backend-part", "1.0")
    (place.project / "requirements.txt").write_text("made\nalpha\n")
    home = place.trees / "home"
    caches = home / ".cache"
    for name in ("wain", "pip/http-v2", "uv"):
        (caches / name).mkdir(parents=True)
        (caches / name / "file").write_text("kept")
    before = place.tree()
    log = place.folder / "calls"
    tracer = (str(require_tool("strace")), "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(log))
    if command == "build":
        place.build("--no-cache-dir", env={"HOME": str(home)}, before=tracer)
    else:
        source = ("--index-url", place.index.simple)
        target = place.folder / "out" / "target"
        words = ("install", "--no-cache-dir", *source, "--target", target, "made", "alpha")
        place.wain(*words, env={"HOME": str(home)}, before=tracer)
        assert (target / "made.py").exists()
    assert place.index.asked("backend_part-1.0") or place.index.asked("backend-part")
    assert place.tree() == before
    # The log is whole: it has the calls of the build back end's process too.
    assert "made-1.0" in log.read_text(errors="replace")
    assert _touched(log, caches) == []


def _missing(trees: Path) -> dict[str, str]:
    return {"WAIN_CACHE_DIR": str(trees / "no" / "such" / "cache")}


def _not_ours(trees: Path) -> dict[str, str]:
    (trees / "cache").mkdir(mode=0o755)
    return {"WAIN_CACHE_DIR": str(trees / "cache")}


def _not_writable(trees: Path) -> dict[str, str]:
    (trees / "cache").mkdir()
    os.chown(trees / "cache", NOBODY, NOBODY)
    (trees / "cache").chmod(0o500)
    return {"WAIN_CACHE_DIR": str(trees / "cache")}


def _read_only_disk(trees: Path) -> dict[str, str]:
    (trees / "disk").mkdir()
    return {"WAIN_CACHE_DIR": str(trees / "disk" / "cache")}


def _wrong_owner_inside(trees: Path) -> dict[str, str]:
    folder = trees / "cache"
    with Store.open(folder) as store:
        store.put(b"one", kind="wheel")
    os.chown(folder, NOBODY, NOBODY)
    assert [path for path in folder.iterdir() if path.is_dir()]
    return {"WAIN_CACHE_DIR": str(folder)}


def _writable_by_others(trees: Path) -> dict[str, str]:
    (trees / "cache").mkdir()
    (trees / "cache" / "file").write_text("")
    os.chown(trees / "cache", NOBODY, NOBODY)
    (trees / "cache").chmod(0o777)
    return {"WAIN_CACHE_DIR": str(trees / "cache")}


def _a_file(trees: Path) -> dict[str, str]:
    (trees / "cache").write_text("")
    return {"WAIN_CACHE_DIR": str(trees / "cache")}


def _home_that_is_not_there(trees: Path) -> dict[str, str]:
    return {"HOME": str(trees / "nobody")}


def _home_of_root(trees: Path) -> dict[str, str]:
    (trees / "home").mkdir(mode=0o755)
    return {"HOME": str(trees / "home")}


BAD = [
    *(_missing, _not_ours, _not_writable, _read_only_disk, _wrong_owner_inside, _writable_by_others, _a_file),
    *(_home_that_is_not_there, _home_of_root),
]


@pytest.mark.parametrize("bad", BAD)
def test_an_ordinary_user_builds_beside_a_bad_cache_folder(place: Place, bad: object) -> None:
    if os.geteuid():
        pytest.fail("only root can become another user: run these tests as root")
    assert callable(bad)
    variables = {"HOME": str(place.folder / "temporary"), **bad(place.trees)}
    before = place.tree()
    become: tuple[str, ...] = ORDINARY
    if bad is _read_only_disk:
        mount = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
        become = ("unshare", "--mount", "sh", "-c", mount, str(place.trees / "disk"), *ORDINARY)
    done = place.build(env=variables, before=become)
    assert done.stdout.startswith("sha256:")
    assert (place.folder / "out" / "image" / "index.json").stat().st_uid == NOBODY
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1, done.stderr
    assert "the cache is not used" in warnings[0]
    assert f"{place.trees}/" in warnings[0]
    assert place.tree() == before
    assert [path.name for path in (place.folder / "temporary").iterdir()] == []


@pytest.mark.parametrize("sudo", [False, True])
def test_root_makes_no_home(place: Place, sudo: bool) -> None:
    home = place.trees / "home"
    if sudo:
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
    before = place.tree()
    as_sudo = {"SUDO_UID": str(NOBODY), "SUDO_USER": "nobody"} if sudo else {}
    done = place.build(env={"HOME": str(home), **as_sudo})
    assert done.stderr.count("warning") == 1, done.stderr
    assert str(home) in done.stderr
    assert place.tree() == before
