"""Logins to registries, from docker's and podman's files and credential helpers.

Sources: docker's config.json (auths, credHelpers, credsStore) and its credential helper protocol;
containers-auth.json(5), containers-certs.d(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from wain.errors import ImageError
from wain.names import DEFAULT_REGISTRY
from wain.oci import Reader, load_json
from wain.records import Record
from wain.transport import Credentials

log = logging.getLogger(__name__)

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 60


class Login(Record, frozen=True, kw_only=True):
    """What a registry's token server or the registry itself is shown: a password or an identity token."""

    unshown: ClassVar = ("identity_token", "registry_token")

    credentials: Credentials | None = None
    identity_token: str | None = None
    """An OAuth 2 refresh token."""
    registry_token: str | None = None
    """A bearer token, used as it is."""


class HostCertificates(Struct, frozen=True, kw_only=True):
    """What stands for one registry in a certs.d folder."""

    ca_files: tuple[Path, ...] = ()
    client_cert: Path | None = None
    client_key: Path | None = None


def credential_files(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where logins may stand, the first that has one wins; they need not exist."""
    files = []
    if named := environment.get("REGISTRY_AUTH_FILE"):
        files.append(Path(named))
    docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    files.append(docker / "config.json")
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        files.append(Path(runtime) / "containers" / "auth.json")
    files.append(Path(f"/run/containers/{os.getuid()}/auth.json"))
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    files.append(config / "containers" / "auth.json")
    return tuple(dict.fromkeys(files))


class Keychain:
    """Finds the login for a repository; files are read once, helpers asked once for each registry.

    A file or helper that does not work is a warning and counts as having none.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._home = home or Path(os.path.expanduser("~"))  # noqa: PTH111  (never raises)
        self._files: list[tuple[Path, Mapping[str, Mapping[str, object]], Reader]] | None = None
        self._helped: dict[tuple[str, str], Login | None] = {}
        self._lock = threading.Lock()

    @classmethod
    def empty(cls) -> Keychain:
        """A keychain without any login."""
        chain = cls(environment={}, home=Path("/nonexistent"))
        chain._files = []
        return chain

    def find(self, registry: str, repository: str = "") -> Login | None:
        """The login for `registry/repository`: the entry with the longest matching path, else the registry's."""
        with self._lock:
            if self._files is None:
                self._files = [item for item in map(self._load, self._paths()) if item is not None]
            for path, auths, document in self._files:
                found = self._find_in(path, auths, document, registry, repository)
                if found is not None:
                    return found
        return None

    def _paths(self) -> tuple[Path, ...]:
        return credential_files(self._environment, self._home)

    def _load(self, path: Path) -> tuple[Path, Mapping[str, Mapping[str, object]], Reader] | None:
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.warning("logins in %s are not used: %s", path, error.strerror)
            return None
        try:
            document = Reader(load_json(data, "it"), "it")
            auths = {name: entry for name, entry in document.object("auths").items() if isinstance(entry, dict)}
            document.text_map("credHelpers")
            document.optional_text("credsStore")
        except ImageError as error:
            log.warning("logins in %s are not used: %s", path, error.message.split(":")[0])
            return None
        return path, auths, document

    def _find_in(
        self,
        path: Path,
        auths: Mapping[str, Mapping[str, object]],
        document: Reader,
        registry: str,
        repository: str,
    ) -> Login | None:
        helpers = document.text_map("credHelpers")
        by_host = {_host_of(name): name for name in helpers}
        if registry in helpers or registry in by_host:
            name = registry if registry in helpers else by_host[registry]
            found = self._ask(helpers[name], _server_of(registry))
            if found is not None:
                return found
        for key in _keys_for(registry, repository):
            for name, entry in auths.items():
                if _key_of(name) == key:
                    found = _entry_login(entry, path)
                    if found is not None:
                        return found
        store = document.optional_text("credsStore")
        return self._ask(store, _server_of(registry)) if store else None

    def _ask(self, helper: str, server: str) -> Login | None:
        key = (helper, server)
        if key not in self._helped:
            self._helped[key] = _run_helper(helper, server, self._environment)
        return self._helped[key]


def _server_of(registry: str) -> str:
    return DOCKER_HUB_KEY if registry == DEFAULT_REGISTRY else registry


def _host_of(key: str) -> str:
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in ("index.docker.io", "registry-1.docker.io") else host


def _key_of(key: str) -> str:
    """`host` or `host/namespace` of an entry's name; docker's legacy names end in /v1/ or /v2/."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    bare = bare.removesuffix("/v1").removesuffix("/v2")
    host, slash, rest = bare.partition("/")
    return _host_of(host) + slash + rest


def _keys_for(registry: str, repository: str) -> list[str]:
    parts = repository.split("/") if repository else []
    return ["/".join((registry, *parts[:count])) for count in range(len(parts), -1, -1)]


def _entry_login(entry: Mapping[str, object], path: Path) -> Login | None:
    def text(key: str) -> str:
        value = entry.get(key)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if auth := text("auth"):
        try:
            decoded = base64.b64decode(auth, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            log.warning("a login in %s is not base64 and is not used", path)
            return None
        username, _, password = decoded.partition(":")
    identity, token = text("identitytoken"), text("registrytoken")
    if not (username or identity or token):
        return None
    return Login(
        credentials=Credentials(username=username, password=password) if username and password else None,
        identity_token=identity or None,
        registry_token=token or None,
    )


def _run_helper(helper: str, server: str, environment: Mapping[str, str]) -> Login | None:
    import subprocess

    program = f"docker-credential-{helper}"
    if not _HELPER_NAME.fullmatch(helper):
        log.warning("%r is no name of a credential helper", helper[:80])
        return None
    try:
        # The server goes to the program's standard input and the secret comes by its output.
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            env=dict(environment),
            check=False,
        )
    except FileNotFoundError:
        log.warning("%s, which the login for %s is to come from, is not installed", program, server)
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s did not work: %s", program, type(error).__name__)
        return None
    if done.returncode != 0:
        if b"not found" not in done.stdout + done.stderr:
            log.warning("%s failed with exit code %d", program, done.returncode)
        return None
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("%s did not answer as a credential helper does", program)
        return None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        return None
    if username == "<token>":
        return Login(identity_token=secret)
    return Login(credentials=Credentials(username=username, password=secret))


def certificate_folders(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """The certs.d folders of docker and podman, the user's own first."""
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    return (
        config / "containers" / "certs.d",
        config / "docker" / "certs.d",
        home / ".docker" / "certs.d",
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    )


def host_certificates(
    registry: str, *, environment: Mapping[str, str] | None = None, home: Path | None = None
) -> HostCertificates:
    """The private authorities and the client certificate for a registry, of the first folder that names it."""
    values = os.environ if environment is None else environment
    own = home or Path(os.path.expanduser("~"))  # noqa: PTH111
    for folder in certificate_folders(values, own):
        place = folder / registry
        try:
            names = sorted(place.iterdir())
        except OSError:
            continue
        certs = [path for path in names if path.suffix == ".cert" and path.with_suffix(".key").is_file()]
        return HostCertificates(
            ca_files=tuple(path for path in names if path.suffix == ".crt"),
            client_cert=certs[0] if certs else None,
            client_key=certs[0].with_suffix(".key") if certs else None,
        )
    return HostCertificates()
