"""A session with one registry: its scheme, its challenges and the tokens that answer them.

Sources: OCI distribution specification 1.1; the distribution project's token authentication and OAuth 2
documents; RFC 9110, "WWW-Authenticate".
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from wain.credentials import Keychain, Login, host_certificates
from wain.errors import AuthError, HashMismatch, StoreError, TransferError
from wain.names import DEFAULT_REGISTRY
from wain.records import Record
from wain.transport import (
    SUCCESS,
    Body,
    HttpSettings,
    Response,
    Transport,
    is_loopback,
    origin_of,
    redact_url,
    resolve_url,
)

if TYPE_CHECKING:
    from wain.digest import Digest
    from wain.store import Store

log = logging.getLogger(__name__)

DOCKER_HUB_HOST = "registry-1.docker.io"
_MAX_TOKEN_BYTES = 1 << 20
_LONGEST_SECONDS = 86_400
_EARLY_SECONDS = 10
_ROUNDS = 4
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", re.IGNORECASE)


class Challenge(Struct, frozen=True, kw_only=True):
    """What a WWW-Authenticate header asks for."""

    scheme: str
    """`basic` or `bearer`."""
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, header: str) -> tuple[Challenge, ...]:
        """The challenges that are understood, in the header's order.

        >>> Challenge.parse('Bearer realm="https://auth.example/t",scope="repository:a:pull"')[0].scopes
        ('repository:a:pull',)
        """
        header = header[:8192]
        marks = list(_SCHEME.finditer(header))
        found = []
        for number, mark in enumerate(marks):
            end = marks[number + 1].start() if number + 1 < len(marks) else len(header)
            values = {
                name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
                for name, quoted, bare in _PARAMETER.findall(header[mark.end() : end])
            }
            found.append(
                cls(
                    scheme=mark[1].lower(),
                    realm=values.get("realm", ""),
                    service=values.get("service", ""),
                    scopes=tuple(values.get("scope", "").split()),
                )
            )
        return tuple(found)


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


class _Token(Record, frozen=True):
    unshown: ClassVar = ("value",)

    value: str
    good_until: float


class Session:
    """Requests to one registry, with whatever login its challenges ask for; threads may share it.

    Plain HTTP is spoken to loopback, and elsewhere only where `insecure` allows it.
    """

    def __init__(self, registry: str, *, transport: Transport, keychain: Keychain, insecure: bool = False) -> None:
        self.registry = registry
        self._host = DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry
        self._keychain = keychain
        self._insecure = insecure
        self._transport = transport.with_settings(_settings_for(registry, transport.settings, insecure))
        self._lock = threading.RLock()
        self._base: str | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[frozenset[str], _Token] = {}

    @property
    def settings(self) -> HttpSettings:
        return self._transport.settings

    def url(self, repository: str, kind: str, name: str = "") -> str:
        """`https://host/v2/REPOSITORY/KIND/NAME`."""
        return f"{self.base}/v2/{quote(repository)}/{kind}/{quote(name, safe=':/')}"

    @property
    def base(self) -> str:
        """`https://host`, or http where that is allowed and spoken; asked for once."""
        with self._lock:
            if self._base is None:
                self._base = self._find_base()
            return self._base

    def _find_base(self) -> str:
        host = urlsplit(f"//{self._host}").hostname or ""
        loopback = is_loopback(host)
        if not loopback and not self._insecure:
            return f"https://{self._host}"
        schemes = ("http", "https") if loopback else ("https", "http")
        probe = self._transport.with_settings(
            replace(self.settings, retries=0, timeout_seconds=min(self.settings.timeout_seconds, 10))
        )
        likely = schemes[0]
        for scheme in schemes:
            try:
                with probe.request("GET", f"{scheme}://{self._host}/v2/", ok=range(100, 600)) as response:
                    # 400 is what servers answer to plain HTTP on a port for TLS.
                    if scheme == "http" and response.status == 400:
                        likely = "https"
                        continue
                    if response.status == 401:
                        self._remember(response)
                    return f"{scheme}://{self._host}"
            except TransferError as error:
                log.debug("%s does not answer over %s: %s", self._host, scheme, error.message)
        return f"{likely}://{self._host}"

    def request(
        self,
        method: str,
        url: str,
        *,
        scopes: Iterable[str],
        repository: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        ok: Container[int] = SUCCESS,
        redirects: bool = True,
        retry: bool | None = None,
        patience_seconds: float | None = None,
    ) -> Response:
        """As `Transport.request`, with the login that the registry asks for, renewed when it has run out.

        A URL on another host (an upload's Location) gets no login.

        :param scopes: what the token is to allow.
        :raises AuthError: when no login is known or the one that is known does not do.
        """
        wanted = frozenset(scopes)
        own = origin_of(url) == origin_of(self.base)
        stale: str | None = None
        for number in range(_ROUNDS):
            # Other threads may use up a token that is good for few requests: the last tries have their own.
            own_token = number >= _ROUNDS - 2
            authorization = self._authorization(wanted, repository, stale=stale, shared=not own_token) if own else None
            sent = dict(headers or {})
            if authorization:
                sent["authorization"] = authorization
            response = self._transport.request(
                method,
                url,
                headers=sent,
                body=body,
                ok=_With401(ok),
                redirects=redirects,
                retry=retry,
                patience_seconds=patience_seconds,
            )
            if response.status != 401 or 401 in ok:
                return response
            response.close()
            if not own or origin_of(response.url) != origin_of(url) or not self._remember(response):
                break
            if self._challenge is not None and self._challenge.scheme == "basic" and authorization:
                break
            with self._lock:
                # Registries that check another scope than was asked for say so in the challenge.
                asked = self._challenge.scopes if self._challenge is not None else ()
                wanted = _merge(wanted, asked)
            stale = authorization
        raise self._refused(repository, method, url)

    def _refused(self, repository: str, method: str, url: str) -> AuthError:
        login = self._keychain.find(self.registry, repository)
        if login is None:
            return AuthError(
                f"{self.registry} wants a login for {repository} ({method} {redact_url(url)})",
                hint=f"Run docker login {self.registry} or podman login {self.registry}, and try again.",
                status=401,
            )
        return AuthError(
            f"{self.registry} refuses the login for {repository} ({method} {redact_url(url)})",
            hint=f"Log in to {self.registry} again, as a user that may do this.",
            status=401,
        )

    def _remember(self, response: Response) -> bool:
        found = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        bearer = [item for item in found if item.scheme == "bearer" and item.realm]
        basic = [item for item in found if item.scheme == "basic"]
        chosen = next(iter((*bearer, *basic)), None)
        with self._lock:
            if chosen is not None:
                self._challenge = chosen
        return chosen is not None

    def _authorization(self, scopes: frozenset[str], repository: str, *, stale: str | None, shared: bool) -> str | None:
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return None
            login = self._keychain.find(self.registry, repository)
            if login is not None and login.registry_token:
                return f"Bearer {login.registry_token}"
            if challenge.scheme == "basic":
                return login.credentials.authorization if login and login.credentials else None
            if not shared:
                return f"Bearer {self._fetch_token(challenge, scopes, login).value}"
            token = self._tokens.get(scopes)
            used_up = token is not None and f"Bearer {token.value}" == stale
            if token is None or used_up or token.good_until <= time.monotonic():
                token = self._tokens[scopes] = self._fetch_token(challenge, scopes, login)
            return f"Bearer {token.value}"

    def _fetch_token(self, challenge: Challenge, scopes: frozenset[str], login: Login | None) -> _Token:
        realm = resolve_url(self.base, challenge.realm)
        parts = urlsplit(realm)
        encrypted = parts.scheme == "https" or is_loopback(parts.hostname or "") or self._insecure
        if login is not None and not encrypted:
            raise AuthError(
                f"{self.registry} wants its login sent to {redact_url(realm)}, which is not encrypted",
                hint="Name the registry as insecure if that is meant.",
            )
        fields = [("service", challenge.service)] if challenge.service else []
        # realm's own scheme and port may differ from the registry's; the login was given for this registry.
        if login is not None and login.identity_token:
            form = [
                *fields,
                ("grant_type", "refresh_token"),
                ("client_id", "wain"),
                ("scope", " ".join(sorted(scopes))),
                ("refresh_token", login.identity_token),
            ]
            response = self._transport.request(
                "POST",
                realm,
                body=urlencode(form).encode(),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                redirects=False,
                retry=True,
            )
            with response:
                data = response.content(_MAX_TOKEN_BYTES)
        else:
            query = urlencode([*fields, *(("scope", scope) for scope in sorted(scopes))])
            joined = realm + ("&" if parts.query else "?") + query if query else realm
            try:
                _, data = self._transport.get(
                    joined,
                    max_bytes=_MAX_TOKEN_BYTES,
                    credentials=login.credentials if login is not None else None,
                )
            except AuthError as error:
                error.hint = f"Log in to {self.registry} again, as a user that may do this."
                raise
        return _parse_token(data, realm)


class _With401:
    """The statuses of a container, and 401."""

    def __init__(self, statuses: Container[int]) -> None:
        self._statuses = statuses

    def __contains__(self, status: object) -> bool:
        return status == 401 or status in self._statuses


def _merge(wanted: frozenset[str], asked: Iterable[str]) -> frozenset[str]:
    """Both sets' scopes; the actions on one repository joined."""
    actions: dict[str, list[str]] = {}
    for scope in (*sorted(wanted), *list(asked)[:16]):
        name, colon, verbs = scope.rpartition(":")
        if colon:
            actions.setdefault(name, []).extend(verb for verb in verbs.split(",") if verb)
    return frozenset(f"{name}:{','.join(dict.fromkeys(verbs))}" for name, verbs in actions.items())


def _parse_token(data: bytes, realm: str) -> _Token:
    try:
        answer = json.loads(data)
        value = answer.get("token") or answer.get("access_token")
        seconds = answer.get("expires_in", 60)
    except (ValueError, AttributeError, RecursionError) as error:
        value, seconds = None, 0
        del error
    if not isinstance(value, str) or not value or not value.isprintable():
        raise AuthError(
            f"{redact_url(realm)} gave no token", hint="The registry's token server does not work; try later."
        )
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        seconds = 60
    return _Token(value, time.monotonic() + max(float(min(seconds, _LONGEST_SECONDS)) - _EARLY_SECONDS, 1.0))


def _settings_for(registry: str, settings: HttpSettings, insecure: bool) -> HttpSettings:
    own = host_certificates(registry)
    host = urlsplit(f"//{registry}").hostname or registry
    return replace(
        settings,
        extra_ca_files=(*settings.extra_ca_files, *own.ca_files),
        client_cert=own.client_cert or settings.client_cert,
        client_key=own.client_key if own.client_cert else settings.client_key,
        trusted_hosts=(*settings.trusted_hosts, host) if insecure else settings.trusted_hosts,
    )


class Access:
    """How registries are reached: one `Session` a registry, made when it is first needed.

    :param insecure: plain HTTP and unknown certificates are allowed beyond loopback.
    :param mirrors: registry, or registry and the first part of a repository -> what is asked before it.
    :param jobs: blobs transferred at a time.
    :param store: keeps manifests and configs, which are asked for again by digest: a registry need not be.
    """

    def __init__(
        self,
        *,
        transport: Transport | None = None,
        keychain: Keychain | None = None,
        insecure: bool = False,
        mirrors: Mapping[str, str] | None = None,
        jobs: int = 4,
        store: Store | None = None,
    ) -> None:
        self.transport = transport or Transport()
        self.keychain = keychain or Keychain()
        self.insecure = insecure
        self.mirrors = dict(mirrors or {})
        self.jobs = jobs
        self._store = store
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def session(self, registry: str) -> Session:
        with self._lock:
            if registry not in self._sessions:
                self._sessions[registry] = Session(
                    registry, transport=self.transport, keychain=self.keychain, insecure=self.insecure
                )
            return self._sessions[registry]

    def kept(self, digest: Digest) -> bytes | None:
        """A manifest's or config's bytes, where they are kept and sound."""
        if self._store is None or not self._store.has(digest):
            return None
        try:
            with self._store.reader(digest) as stream:
                return stream.read()
        except (StoreError, HashMismatch):
            return None

    def keep(self, data: bytes, digest: Digest, note: str) -> None:
        """Keeps a manifest or config, if it is what its digest says."""
        if self._store is not None:
            with contextlib.suppress(HashMismatch, StoreError):
                self._store.put(data, kind="document", expected=digest, note=note)

    def places(self, registry: str, repository: str) -> list[tuple[str, str]]:
        """Registries and repositories to read from, the mirrors first, the repository itself last."""
        found = []
        for name, mirror in sorted(self.mirrors.items(), key=lambda item: -len(item[0])):
            whole = f"{registry}/{repository}"
            if whole == name or whole.startswith(f"{name}/"):
                host, _, prefix = mirror.removeprefix("https://").removeprefix("http://").partition("/")
                rest = whole.removeprefix(name).strip("/")
                found.append((host, "/".join(part for part in (prefix.strip("/"), rest) if part)))
        return [*found, (registry, repository)]
