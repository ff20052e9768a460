"""References as docker's clients read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wain.errors import UsageError
from wain.names import (
    ArchiveReference,
    DaemonReference,
    LayoutReference,
    RegistryReference,
    parse_reference,
    parse_registry_reference,
)

HEX = "0" * 64


@pytest.mark.parametrize(
    ("text", "whole", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3.13-slim", "docker.io/library/python:3.13-slim", "python:3.13-slim"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/library/python:3", "docker.io/library/python:3", "python:3"),
        ("registry.example/app:1", "registry.example/app:1", "registry.example/app:1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b/c:x_Y.z-1", "localhost:5000/a/b/c:x_Y.z-1", "localhost:5000/a/b/c:x_Y.z-1"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
        ("127.0.0.1:5000/a__b/c-d/e---f/g.h", "127.0.0.1:5000/a__b/c-d/e---f/g.h:latest", None),
        (f"registry.example/app@sha256:{HEX}", f"registry.example/app@sha256:{HEX}", None),
        (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}", f"app:1@sha256:{HEX}"),
    ],
)
def test_registry_references(text: str, whole: str, familiar: str | None) -> None:
    found = parse_registry_reference(text)
    assert str(found) == whole
    assert found.familiar == (familiar or whole)
    assert parse_registry_reference(str(found)) == found
    assert found.selector == (found.digest or found.tag)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no repository"),
        ("App", "lower case"),
        ("registry.example/App", "lower case"),
        ("app:", "no tag"),
        ("app:-x", "no tag"),
        ("app:" + "x" * 129, "no tag"),
        ("a//b", "no repository"),
        ("/app", "no repository"),
        ("app@sha256:00", "not a digest"),
        ("registry.example:port/app", "no host name"),
        ("a" * 256, "no repository"),
        ("registry.example/", "no repository"),
        ("app:1:2", "no tag"),
        ("http://registry.example/app", ""),
        ("registry.example/../app", "no repository"),
        ("app name", "no repository"),
        ("a.example\n/b", ""),
        ("app:1\n", "tag"),
    ],
)
def test_what_is_no_reference(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_registry_reference(text)
    assert reason in caught.value.message
    assert caught.value.hint


def test_where_references_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "oci-layout").write_text("{}")
    (tmp_path / "folder").mkdir()
    assert parse_reference("oci:dir") == LayoutReference(path=Path("dir"))
    assert parse_reference("oci:dir:1.0") == LayoutReference(path=Path("dir"), tag="1.0")
    assert parse_reference("oci:/a:b/c") == LayoutReference(path=Path("/a:b/c"))
    assert parse_reference("oci:/a/b:tag") == LayoutReference(path=Path("/a/b"), tag="tag")
    assert parse_reference("archive:x.tar") == ArchiveReference(path=Path("x.tar"))
    assert parse_reference("x.tar") == ArchiveReference(path=Path("x.tar"))
    assert parse_reference("daemon:app:1") == DaemonReference(name="app:1")
    assert parse_reference("layout") == LayoutReference(path=Path("layout"))
    assert isinstance(parse_reference("folder"), RegistryReference)
    assert str(parse_reference("oci:dir:1.0")) == "oci:dir:1.0"
    assert str(parse_reference("daemon:app:1")) == "daemon:app:1"
    assert str(parse_reference("archive:x.tar")) == "archive:x.tar"
    assert parse_reference("docker-archive:x.tar") == ArchiveReference(path=Path("x.tar"))
    assert parse_reference("docker-daemon:app:1") == DaemonReference(name="app:1")
    assert parse_reference("docker://host:1/app:2") == parse_registry_reference("host:1/app:2")
    for text in ("oci:", "archive:", "daemon:", "oci-archive:x.tar", "docker-archive:x.tar:app:1"):
        with pytest.raises(UsageError, match=r"nothing follows|is not known|given with -t"):
            parse_reference(text)
