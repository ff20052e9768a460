"""Logins and certificates where docker and podman keep them."""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path

import pytest

from wain.credentials import Keychain, Login, credential_files, host_certificates
from wain.transport import Credentials

SECRET = "s3cret"


def auth(username: str = "user", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def login(username: str = "user", password: str = SECRET) -> Login:
    return Login(credentials=Credentials(username=username, password=password))


def keychain(home: Path, **environment: str) -> Keychain:
    return Keychain(environment={"PATH": os.environ["PATH"], **environment}, home=home)


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_dockers_file(tmp_path: Path) -> None:
    write(
        tmp_path / ".docker" / "config.json",
        {
            "auths": {
                "registry.example": auth(),
                "https://index.docker.io/v1/": auth("hub"),
                "https://legacy.example/v2/": auth("legacy"),
                "plain.example": {"username": "p", "password": "q:r"},
                "identity.example": {"auth": auth("x", "y")["auth"], "identitytoken": SECRET},
                "bearer.example": {"registrytoken": SECRET},
                "empty.example": {},
            }
        },
    )
    chain = keychain(tmp_path)
    assert chain.find("registry.example", "a/b") == login()
    assert chain.find("docker.io", "library/python") == login("hub")
    assert chain.find("legacy.example") == login("legacy")
    assert chain.find("plain.example") == login("p", "q:r")
    identity = chain.find("identity.example")
    assert identity is not None
    assert identity.identity_token == SECRET
    bearer = chain.find("bearer.example")
    assert bearer is not None
    assert bearer.registry_token == SECRET
    assert chain.find("empty.example") is None
    assert chain.find("registry.example:5000") is None
    assert SECRET not in repr(identity) + repr(bearer) + repr(login())


def test_podmans_file_has_logins_for_parts_of_a_registry(tmp_path: Path) -> None:
    write(
        tmp_path / "auth.json",
        {
            "auths": {
                "registry.example": auth("all"),
                "registry.example/team": auth("team"),
                "registry.example/team/app": auth("app"),
            }
        },
    )
    chain = keychain(tmp_path, REGISTRY_AUTH_FILE=str(tmp_path / "auth.json"))
    assert chain.find("registry.example", "other/app") == login("all")
    assert chain.find("registry.example", "team/other") == login("team")
    assert chain.find("registry.example", "team/app") == login("app")
    assert chain.find("registry.example", "teams/app") == login("all")


def test_the_first_file_that_has_a_login_wins(tmp_path: Path) -> None:
    run, config = tmp_path / "run", tmp_path / "xdg"
    environment = {"XDG_RUNTIME_DIR": str(run), "XDG_CONFIG_HOME": str(config), "DOCKER_CONFIG": str(tmp_path / "d")}
    files = credential_files(environment, tmp_path)
    assert files[:2] == (tmp_path / "d" / "config.json", run / "containers" / "auth.json")
    assert files[-1] == config / "containers" / "auth.json"
    write(files[-1], {"auths": {"a.example": auth("last"), "b.example": auth("last")}})
    write(files[1], {"auths": {"a.example": auth("second")}})
    chain = keychain(tmp_path, **environment)
    assert chain.find("a.example") == login("second")
    assert chain.find("b.example") == login("last")


def test_files_that_do_not_work_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for text in ("{", "[]", '{"auths": []}', '{"auths": {"a.example": {"auth": "%%%"}}}', '{"credsStore": 5}'):
        path = tmp_path / ".docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        caplog.clear()
        assert keychain(tmp_path).find("a.example") is None
        assert str(path) in caplog.text


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    """A folder with credential helpers; each notes its arguments and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "good": 'read server; echo "$@ $server" >> "$NOTES"; echo \'{"Username":"user","Secret":"s3cret"}\'',
        "token": 'cat > /dev/null; echo \'{"Username":"<token>","Secret":"s3cret"}\'',
        "none": 'echo "credentials not found in native keychain"; exit 1',
        "broken": "echo s3cret; exit 3",
        "junk": "echo s3cret",
    }
    for name, body in scripts.items():
        path = folder / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return folder


def test_helpers(tmp_path: Path, helpers: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write(
        tmp_path / ".docker" / "config.json",
        {
            "auths": {"fallback.example": auth("file")},
            "credHelpers": {
                "token.example": "token",
                "none.example": "none",
                "broken.example": "broken",
                "junk.example": "junk",
                "gone.example": "gone",
                "evil.example": "../../bin/sh",
                "fallback.example": "none",
            },
            "credsStore": "good",
        },
    )
    path = f"{helpers}:{os.environ['PATH']}"
    chain = Keychain(environment={"PATH": path, "NOTES": str(tmp_path / "notes")}, home=tmp_path)
    assert chain.find("any.example") == login()
    assert chain.find("any.example") == login()
    assert chain.find("docker.io", "library/x") == login()
    token = chain.find("token.example")
    assert token is not None
    assert token.identity_token == SECRET
    assert chain.find("fallback.example") == login("file")
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes == ["get any.example", "get https://index.docker.io/v1/"]
    assert SECRET not in caplog.text
    without_store = tmp_path / ".docker" / "config.json"
    document = json.loads(without_store.read_text())
    del document["credsStore"]
    write(without_store, document)
    chain = Keychain(environment={"PATH": path}, home=tmp_path)
    for name in ("none", "broken", "junk", "gone", "evil"):
        assert chain.find(f"{name}.example") is None
    for name in ("broken", "junk", "gone"):
        assert f"docker-credential-{name}" in caplog.text
    assert "no name of a credential helper" in caplog.text
    assert SECRET not in caplog.text


def test_an_empty_keychain() -> None:
    assert Keychain.empty().find("docker.io") is None


def test_private_certificates(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "containers" / "certs.d" / "registry.example:5000"
    folder.mkdir(parents=True)
    for name in ("ca.crt", "other.crt", "client.cert", "client.key", "lonely.cert", "README"):
        (folder / name).write_text("")
    found = host_certificates("registry.example:5000", environment={}, home=tmp_path)
    assert [path.name for path in found.ca_files] == ["ca.crt", "other.crt"]
    assert found.client_cert == folder / "client.cert"
    assert found.client_key == folder / "client.key"
    assert host_certificates("registry.example", environment={}, home=tmp_path).ca_files == ()
