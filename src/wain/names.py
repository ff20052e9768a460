"""Image references: where an image is read from or goes to.

Source: the distribution project's reference grammar, as docker's clients normalise it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from wain.digest import Digest
from wain.errors import ImageError, UsageError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")

_OTHERS_SCHEMES = {"docker-archive": "archive", "docker-daemon": "daemon"}

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
SUITES: Mapping[str, str] = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
"""Of the built-in bases: Python minor version -> the suite in `debian:SUITE` whose python3 it is."""


class RegistryReference(Struct, frozen=True, kw_only=True):
    """An image in a registry: `registry/repository[:tag][@digest]`; with neither, the tag is `latest`."""

    registry: str
    """Host and optional port; `docker.io` where none was written."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}"
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text

    @property
    def familiar(self) -> str:
        """The name as docker's clients print it, without the default registry and its `library/`."""
        text = str(self)
        if self.registry == DEFAULT_REGISTRY:
            text = text.removeprefix(f"{DEFAULT_REGISTRY}/").removeprefix("library/")
        return text

    @property
    def selector(self) -> str:
        """What a manifest is asked for by: the digest where there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> RegistryReference:
        return replace(self, digest=digest)


class LayoutReference(Struct, frozen=True, kw_only=True):
    """An OCI image layout folder: `oci:DIR[:TAG]`."""

    path: Path
    tag: str | None = None

    def __str__(self) -> str:
        return f"oci:{self.path}" + (f":{self.tag}" if self.tag else "")


class ArchiveReference(Struct, frozen=True, kw_only=True):
    """One tar file with the image: `archive:FILE.tar`."""

    path: Path

    def __str__(self) -> str:
        return f"archive:{self.path}"


class DaemonReference(Struct, frozen=True, kw_only=True):
    """An image that a Docker daemon has: `daemon:NAME`."""

    name: str

    def __str__(self) -> str:
        return f"daemon:{self.name}"


Reference = RegistryReference | LayoutReference | ArchiveReference | DaemonReference


def parse_registry_reference(text: str) -> RegistryReference:
    """`[HOST[:PORT]/]NAME[:TAG][@DIGEST]` as docker reads it.

    >>> str(parse_registry_reference("python:3.13-slim"))
    'docker.io/library/python:3.13-slim'

    :raises UsageError: when the text is no reference; the message says which part is wrong.
    """
    rest, at, digest_text = text.partition("@")
    try:
        digest = Digest(digest_text) if at else None
    except ImageError as error:
        raise _malformed(text, error.message) from error
    first, slash, remainder = rest.partition("/")
    if slash and (("." in first) or (":" in first) or first == "localhost" or first.lower() != first):
        registry, path = first, remainder
    else:
        registry, path = DEFAULT_REGISTRY, rest
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DEFAULT_REGISTRY
    if not _HOST.fullmatch(registry):
        raise _malformed(text, f"{registry!r} is no host name")
    name, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _malformed(text, f"{tag!r} is no tag")
    if not _REPOSITORY.fullmatch(name) or len(name) > 255:
        reason = "a repository's name is in lower case" if name.lower() != name else f"{name!r} is no repository"
        raise _malformed(text, reason)
    if registry == DEFAULT_REGISTRY and "/" not in name:
        name = f"library/{name}"
    if not colon and digest is None:
        tag = DEFAULT_TAG
    return RegistryReference(registry=registry, repository=name, tag=tag or None, digest=digest)


def parse_reference(text: str) -> Reference:
    """An image named as on the command line: `oci:`, `archive:`, `daemon:`, or a registry's.

    A bare `*.tar` and a folder with an `oci-layout` file are recognised, and what skopeo and podman call them.

    :raises UsageError: when the text is none of them.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "docker" and rest.startswith("//"):
        return parse_registry_reference(rest.removeprefix("//"))
    scheme = _OTHERS_SCHEMES.get(scheme, scheme)
    if colon and scheme in ("oci", "archive", "daemon"):
        if not rest:
            raise _malformed(text, "nothing follows the colon")
        if scheme == "archive":
            if ".tar:" in rest:
                raise _malformed(text, "the name that an archive's image has is given with -t")
            return ArchiveReference(path=Path(rest))
        if scheme == "daemon":
            return DaemonReference(name=rest)
        path, tag_colon, tag = rest.rpartition(":")
        if tag_colon and _TAG.fullmatch(tag) and "/" not in tag:
            return LayoutReference(path=Path(path), tag=tag)
        return LayoutReference(path=Path(rest))
    if text.endswith((".tar", ".tar.gz", ".tgz")):
        if re.fullmatch("[a-z]+-[a-z]+", scheme) and colon:
            raise _malformed(text, f"{scheme}: is not known")
        return ArchiveReference(path=Path(text))
    if text and (Path(text) / "oci-layout").is_file():
        return LayoutReference(path=Path(text))
    return parse_registry_reference(text)


def _malformed(text: str, reason: str) -> UsageError:
    return UsageError(
        f"{text!r} does not name an image: {reason}",
        hint="Write registry.example/app:1, oci:DIR[:TAG], archive:FILE.tar or daemon:NAME.",
    )
