from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wain.errors import ProjectError, UsageError
from wain.pipconf import Setting, pip_configuration_files, read_pip_configuration
from wain.settings import index_settings, wain_settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def environ(home: Path, **values: str) -> dict[str, str]:
    """A user's environment whose shared folders are empty."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_DIRS": str(home / "xdg"),
        "VIRTUAL_ENV": str(home / "venv"),
        "PATH": os.defpath,
        **values,
    }


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def no_machine_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own /etc/pip.conf is no part of these tests."""
    import wain.pipconf

    real = wain.pipconf.pip_configuration_files
    monkeypatch.setattr(
        wain.pipconf,
        "pip_configuration_files",
        lambda values: [path for path in real(values) if path != Path("/etc/pip.conf")],
    )


def test_files_stand_in_pips_order(home: Path) -> None:
    own = write(home / "chosen.conf", "")
    files = pip_configuration_files(environ(home))
    assert files == [
        home / "xdg/pip/pip.conf",
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        home / "venv/pip.conf",
    ]
    chosen = pip_configuration_files(environ(home, PIP_CONFIG_FILE=str(own)))
    assert chosen[-1] == own
    assert home / ".config/pip/pip.conf" not in chosen
    assert pip_configuration_files(environ(home, PIP_CONFIG_FILE=os.devnull)) == []


def test_the_order_is_pips_own(home: Path) -> None:
    """pip itself, asked by its own command, tries the same files."""
    values = environ(home, PIP_DISABLE_PIP_VERSION_CHECK="1")
    del values["VIRTUAL_ENV"]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"], env=values, capture_output=True, text=True, check=True
    ).stdout
    pips = [line.split(", exists")[0].strip() for line in listed.splitlines() if ", exists:" in line]
    ours = [str(path) for path in pip_configuration_files(values)]
    assert sorted(pips) == sorted(ours)


def test_install_wins_over_global_and_variables_over_both(home: Path) -> None:
    write(home / "xdg/pip/pip.conf", "[install]\nindex-url = https://shared.example/simple\n")
    write(home / ".config/pip/pip.conf", "[global]\nindex-url = https://own.example/simple\ntimeout = 7\n")
    values = environ(home)
    pip = read_pip_configuration(values)
    found = pip.get("index-url")
    assert found is not None
    assert found.value == "https://shared.example/simple"
    assert found.origin.endswith("xdg/pip/pip.conf:2")
    settings = index_settings(None, environ=values)
    assert settings.timeout_seconds == 7
    assert settings.origins["timeout"].endswith(".config/pip/pip.conf:3")
    settings = index_settings(None, environ={**values, "PIP_INDEX_URL": "https://variable.example/simple"})
    assert settings.index_url == "https://variable.example/simple"
    assert settings.origins["index-url"] == "PIP_INDEX_URL"


def test_flags_win_over_all(home: Path) -> None:
    values = environ(home, PIP_INDEX_URL="https://a.example", WAIN_INDEX_URL="https://b.example")
    assert index_settings(None, environ=values).index_url == "https://b.example"
    flags = {"index-url": Setting(value="https://c.example", origin="--index-url")}
    settings = index_settings(None, environ=values, flags=flags)
    assert settings.index_url == "https://c.example"
    assert settings.origins["index-url"] == "--index-url"


def test_lists_booleans_and_numbers(home: Path) -> None:
    write(
        home / ".config/pip/pip.conf",
        "[global]\nextra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "find_links = /a /b\nno-index = off\npre = yes\nretries = 2\ntrusted-host = one.example\n"
        "only-binary = :all:,Foo\ncert = ~/ca.pem\n",
    )
    settings = index_settings(None, environ=environ(home, PIP_DEFAULT_TIMEOUT="180"))
    assert settings.extra_index_urls == ("https://one.example/simple", "https://two.example/simple")
    assert settings.find_links == ("/a", "/b")
    assert not settings.no_index
    assert settings.pre
    assert settings.retries == 2
    assert settings.trusted_hosts == ("one.example",)
    assert settings.timeout_seconds == 180
    assert settings.only_binary == (":all:", "Foo")
    assert settings.cert is not None
    assert settings.cert.is_absolute()


def test_relative_places_start_where_they_are_meant(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    project = tmp_path / "project"
    write(project / "pyproject.toml", '[tool.wain]\nfind-links = ["wheels", "https://links.example/page"]\n')
    values = environ(home, PIP_CONSTRAINT="limits.txt")
    settings = index_settings(project, environ=values)
    assert settings.find_links == (str(project / "wheels"), "https://links.example/page")
    assert settings.constraints == (str(home / "limits.txt"),)
    assert index_settings(None, environ={**values, "PIP_FIND_LINKS": "w"}).find_links == (str(home / "w"),)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PIP_NO_INDEX", "maybe", "neither true nor false"),
        ("PIP_TIMEOUT", "soon", "no number"),
        ("PIP_RETRIES", "-1", "no number"),
        ("PIP_KEYRING_PROVIDER", "vault", "no keyring provider"),
    ],
)
def test_malformed_values_name_their_origin(home: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        index_settings(None, environ=environ(home, **{name: value}))
    assert name in caught.value.message


def test_a_file_that_does_not_parse_is_named_without_its_secrets(home: Path) -> None:
    path = write(home / ".config/pip/pip.conf", "https://me:s3cr3t@index.example\n")
    with pytest.raises(UsageError) as caught:
        index_settings(None, environ=environ(home))
    assert str(path) in caught.value.message
    assert "s3cr3t" not in caught.value.message


def test_no_binary_and_only_binary_are_read_in_order() -> None:
    flags = {"only-binary": Setting(value=":all:", origin="-"), "no-binary": Setting(value="a :none: b", origin="-")}
    settings = index_settings(None, environ={"HOME": "/nonexistent"}, flags=flags)
    assert not settings.allows_sdist("x")
    assert settings.wants_sdist("b")
    assert not settings.wants_sdist("a")


def test_uvs_configuration_counts_where_the_project_has_it(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    write(
        project / "pyproject.toml",
        '[[tool.uv.index]]\nname = "corp"\nurl = "https://corp.example/simple"\n'
        '[[tool.uv.index]]\nurl = "https://main.example/simple"\ndefault = true\n',
    )
    values = environ(
        home,
        PIP_INDEX_URL="https://pip.example/simple",
        UV_INDEX_CORP_USERNAME="me",
        UV_INDEX_CORP_PASSWORD="p/w",
    )
    settings = index_settings(project, environ=values)
    assert settings.uv_configuration
    assert settings.index_url == "https://main.example/simple"
    assert settings.extra_index_urls == ("https://me:p%2Fw@corp.example/simple",)
    assert "p%2Fw" not in repr(settings)
    flags = {"index-url": Setting(value="https://c.example", origin="--index-url")}
    assert index_settings(project, environ=values, flags=flags).index_url == "https://c.example"
    assert not index_settings(project, environ=values, flags=flags).uv_configuration


def test_uvs_variables_count(home: Path) -> None:
    values = environ(
        home, UV_DEFAULT_INDEX="https://main.example/simple", UV_INDEX="a=https://a.example https://b.example"
    )
    settings = index_settings(None, environ=values)
    assert settings.uv_configuration
    assert settings.index_url == "https://main.example/simple"
    assert settings.extra_index_urls == ("https://a.example", "https://b.example")


def test_tool_wain(tmp_path: Path) -> None:
    write(
        tmp_path / "pyproject.toml",
        """[tool.wain]
base = "debian:trixie"
platforms = ["linux/amd64"]
extras = ["My_Extra"]
entrypoint = "gunicorn app:app"
env = { LOG_LEVEL = "info", N = 3 }
ports = [8000, "53/udp"]
user = 65532
compile = false
layers = 40
max-size = "500MB"
build-env = { Py_Curl = { LIB = "openssl" } }
extra-index-url = ["https://a.example/simple", "https://b.example/simple"]
no-index = false
""",
    )
    settings = wain_settings(tmp_path)
    assert settings.base == "debian:trixie"
    assert settings.extras == ("my-extra",)
    assert settings.entrypoint == ("gunicorn", "app:app")
    assert settings.env == {"LOG_LEVEL": "info", "N": "3"}
    assert settings.ports == ("8000/tcp", "53/udp")
    assert settings.user == "65532"
    assert settings.compile is False
    assert settings.layers == 40
    assert settings.build_env == {"py-curl": {"LIB": "openssl"}}
    found = index_settings(tmp_path, environ={"HOME": "/nonexistent", "XDG_CONFIG_DIRS": "/nonexistent"})
    assert found.extra_index_urls == ("https://a.example/simple", "https://b.example/simple")


def test_every_problem_of_tool_wain_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[tool.wain]\nplatfroms = ["x"]\nports = [99999]\nlayers = "many"\n')
    with pytest.raises(ProjectError) as caught:
        wain_settings(tmp_path)
    message = caught.value.message
    assert "platfroms is not known (did you mean platforms?)" in message
    assert "ports has 99999" in message
    assert "layers must be a whole number" in message


def test_pyproject_that_does_not_parse(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.wain\n")
    with pytest.raises(ProjectError, match="no valid TOML"):
        wain_settings(tmp_path)
    assert wain_settings(tmp_path / "none") == wain_settings(tmp_path / "nowhere")
