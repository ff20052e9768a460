"""Projects of every make build twice, leave nothing in their folder, and start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.real.machines.bases import Base
from tests.real.machines.places import remove_tree
from tests.real.machines.processes import Finished, run
from tests.real.machines.runtime import unpack_image
from tests.real.machines.wain import Wain

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.xdist_group("projects")]


def write(folder: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "user.name=Carter", "-c", "user.email=carter@mill.example", "-c", "init.defaultBranch=main"]
    run(["git", *settings, "-c", "commit.gpgsign=false", "-C", folder, *words])


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every path below with its mode, time and bytes; of folders that of .git only what git itself may not touch."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = (path.stat().st_mode, 0, "")
        elif not name.startswith(".git/"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (path.stat().st_mode, path.stat().st_mtime_ns, digest)
    return found


Build = Callable[..., Finished]


@pytest.fixture
def build(wain: Wain, base_official: Base, tmp_path: Path) -> Build:
    """`build(project, watched)`: builds twice, checks that both are one and nothing is new; what the image prints."""

    def build_twice(project: Path, *, watched: Path | None = None) -> Finished:
        watched = watched or project
        before = state(watched)
        layout = tmp_path / f"layout-{len(list(tmp_path.iterdir()))}"
        options = ("--base", f"oci:{base_official.layout}:latest", "--output", f"oci:{layout}:1")
        digests = [wain("build", project, *options).stdout for _ in range(2)]
        assert digests[0] == digests[1]
        assert state(watched) == before
        bundle = unpack_image(layout, layout.with_name(f"{layout.name}-image"), tag="1")
        try:
            return bundle.run()
        finally:
            remove_tree(layout.with_name(f"{layout.name}-image"))

    return build_twice


SCM = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=77", "setuptools-scm>=8"]
build-backend = "setuptools.build_meta"

[project]
name = "mill"
dynamic = ["version"]
dependencies = ["six"]
scripts = { mill = "mill.main:main" }

[tool.setuptools_scm]
version_file = "src/mill/_version.py"
""",
    "src/mill/__init__.py": "",
    "src/mill/main.py": "import importlib.metadata\nimport six\ndef main():\n"
    "    from mill import _version\n"
    "    print(importlib.metadata.version('mill'), _version.version, six.PY3)\n",
    "src/mill/gone.py": "",
    ".gitignore": "src/mill/_version.py\n",
}


def test_setuptools_scm_takes_the_version_from_git_and_no_deleted_module_comes_back(
    build: Build, tmp_path: Path
) -> None:
    project = write(tmp_path / "mill", SCM)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "first")
    git(project, "tag", "v1.2.3")
    assert build(project).stdout == "1.2.3 1.2.3 True\n"
    write(
        project,
        {
            "src/mill/main.py": "def main():\n    try:\n        import mill.gone\n"
            "    except ImportError:\n        print('gone')\n"
        },
    )
    (project / "src/mill/gone.py").unlink()
    assert build(project).stdout == "gone\n"


HATCH = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "water-wheel"
dynamic = ["version"]
scripts = { other = "water_wheel:other", water-wheel = "water_wheel:main" }

[tool.hatch.version]
path = "water_wheel/__init__.py"
""",
    "water_wheel/__init__.py": "__version__ = '4.5'\n"
    "def main():\n    import importlib.metadata, pathlib\n"
    "    text = pathlib.Path(__file__).with_name('text.txt').read_text()\n"
    "    print(importlib.metadata.version('water-wheel'), text)\n"
    "def other():\n    print('other')\n",
    "water_wheel/text.txt": "turns",
    "tests/test_it.py": "",
}


def test_hatchling_and_the_script_of_the_project_s_name(build: Build, tmp_path: Path) -> None:
    assert build(write(tmp_path / "wheel", HATCH)).stdout == "4.5 turns\n"


def test_a_flat_folder_without_a_build_system(build: Build, tmp_path: Path) -> None:
    project = write(
        tmp_path / "flat",
        {
            "requirements.txt": "six\n",
            "main.py": "import six\nfrom grain import ground\nprint(ground(), open('data/corn.txt').read())\n",
            "grain/__init__.py": "def ground():\n    return 'ground'\n",
            "data/corn.txt": "corn",
            ".env": "PASSWORD=1\n",
            "__pycache__/main.cpython-313.pyc": "old",
        },
    )
    assert build(project).stdout == "ground corn\n"


POETRY = {
    "pyproject.toml": """\
[build-system]
requires = ["poetry-core>=1.0"]
build-backend = "poetry.core.masonry.api"

[tool.poetry]
name = "water-mill"
version = "1.5"
description = ""
authors = []
packages = [{ include = "mill" }]

[tool.poetry.dependencies]
python = ">=3.9"
six = "*"

[tool.poetry.scripts]
grind = "mill:main"
""",
    "mill/__init__.py": "import importlib.metadata, six\ndef main():\n"
    "    print(importlib.metadata.version('water-mill'), six.PY3)\n",
}
SETUP_PY = {
    "setup.py": "from setuptools import setup\n"
    "setup(name='mill', version='0.9', py_modules=['mill'], install_requires=['six'],\n"
    "      entry_points={'console_scripts': ['mill = mill:main']})\n",
    "mill.py": "import six\ndef main():\n    print('old', six.PY3)\n",
}


@pytest.mark.parametrize(
    ("texts", "told"), [(POETRY, "1.5 True\n"), (SETUP_PY, "old True\n")], ids=["poetry", "setup.py"]
)
def test_what_a_project_is_that_only_its_back_end_knows(
    build: Build, tmp_path: Path, texts: Mapping[str, str], told: str
) -> None:
    assert build(write(tmp_path / "project", texts)).stdout == told


WORKSPACE = {
    "all/pyproject.toml": """\
[project]
name = "farm"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["barn", "field"]
scripts = { farm = "farm:main" }

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.uv.sources]
barn = { workspace = true }
field = { path = "../field" }

[tool.uv.workspace]
members = ["packages/*"]
""",
    "all/src/farm/__init__.py": "import barn, field\ndef main():\n    print('farm', barn.hold(), field.NAME)\n",
    "all/packages/barn/pyproject.toml": """\
[project]
name = "barn"
version = "2.0"
requires-python = ">=3.11"
dependencies = ["six"]

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
""",
    "all/packages/barn/src/barn/__init__.py": "import six\ndef hold():\n    return f'barn {six.PY3}'\n",
    "field/pyproject.toml": """\
[project]
name = "field"
version = "3.0"
description = "A field"

[build-system]
requires = ["flit_core>=3.2"]
build-backend = "flit_core.buildapi"
""",
    "field/field.py": '"""A field."""\n__version__ = "3.0"\nNAME = "field"\n',
}


@pytest.mark.parametrize("locked", [True, False])
def test_a_uv_workspace_with_path_dependencies(build: Build, wain: Wain, tmp_path: Path, locked: bool) -> None:
    root = write(tmp_path / "workspace", WORKSPACE)
    if locked:
        from uv import find_uv_bin

        environment = {"UV_INDEX_URL": wain.env["PIP_INDEX_URL"], "UV_CACHE_DIR": str(tmp_path / "uv")}
        run([find_uv_bin(), "lock", "--quiet", "--no-config"], cwd=root / "all", env=environment)
    assert build(root / "all", watched=root).stdout == "farm barn True field\n"


def test_a_member_of_a_uv_workspace(build: Build, wain: Wain, tmp_path: Path) -> None:
    from uv import find_uv_bin

    root = write(tmp_path / "workspace", WORKSPACE)
    write(root / "all/packages/barn", {"src/barn/__main__.py": "import barn\nprint('member', barn.hold())\n"})
    environment = {"UV_INDEX_URL": wain.env["PIP_INDEX_URL"], "UV_CACHE_DIR": str(tmp_path / "uv")}
    run([find_uv_bin(), "lock", "--quiet", "--no-config"], cwd=root / "all", env=environment)
    assert build(root / "all/packages/barn", watched=root).stdout == "member barn True\n"
