"""Credentials for package indexes: from their URLs, netrc files and keyring."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from msgspec import field
from msgspec.structs import replace

from wain.records import Record
from wain.settings import IndexSettings
from wain.transport import Credentials, origin_of, redact_url, split_credentials

logger = logging.getLogger(__name__)

_KEYRING_SECONDS = 30
_SECRET_PARAMETER = re.compile(
    r"token|secret|passw|signature|credential|auth|api_?key|access_?key|^sig$|^key$", re.IGNORECASE
)


def strip_credentials(url: str) -> str:
    """The URL without user, password and fragment, and without query parameters whose names speak of secrets."""
    parts = urlsplit(url)
    query = "&".join(
        word for word in parts.query.split("&") if word and not _SECRET_PARAMETER.search(word.partition("=")[0])
    )
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="").geturl()


class IndexCredentials(Record, frozen=True, kw_only=True):
    """Who to be at which server. Nothing here shows a password in its representation."""

    unshown: ClassVar = ("known", "queries", "environ", "found")
    uncompared: ClassVar = ("found",)

    known: tuple[tuple[str, Credentials], ...]
    """URL without credentials -> credentials, as the settings have them."""
    queries: tuple[tuple[str, str], ...] = ()
    """URL as a lock has it -> the same with the query that a requirement gives."""
    provider: str = "auto"
    environ: Mapping[str, str] = field(default_factory=dict)
    found: dict[tuple[tuple[str, str, int], str | None], Credentials | None] = field(default_factory=dict)
    """What keyring had, so that it is asked once for a server."""

    @classmethod
    def of(
        cls,
        settings: IndexSettings,
        environ: Mapping[str, str] | None = None,
        *,
        more_urls: tuple[str, ...] = (),
    ) -> IndexCredentials:
        """Those that index URLs and find-links carry; netrc and keyring are asked when needed."""
        known = []
        urls = (*settings.index_urls, *settings.find_links, *more_urls)
        for url in urls:
            if url.startswith(("http:", "https:")):
                clean, credentials = split_credentials(url)
                if credentials is not None:
                    known.append((clean, credentials))
        return cls(
            known=tuple(known),
            provider=settings.keyring_provider,
            environ=dict(os.environ if environ is None else environ),
        )

    def with_urls(self, urls: tuple[str, ...]) -> IndexCredentials:
        """The same, with what further URLs carry (direct references in requirements)."""
        known = [split_credentials(url) for url in urls if url.startswith(("http:", "https:"))]
        found = tuple((clean, credentials) for clean, credentials in known if credentials is not None)
        queries = tuple(
            (stripped, clean) for clean, _ in known if (stripped := strip_credentials(clean)) != clean.partition("#")[0]
        )
        return replace(self, known=(*self.known, *found), queries=(*self.queries, *queries))

    def for_url(self, url: str) -> tuple[str, Credentials | None]:
        """The URL to ask without user and password, and those to use: its own, an index's of that server, netrc's.

        Of several for one server the one whose URL shares the longest path wins.
        """
        clean, own = split_credentials(url)
        clean = dict(self.queries).get(clean, clean).partition("#")[0]
        if own is not None and own.password:
            return clean, own
        same = [
            (_shared_path(clean, known), credentials)
            for known, credentials in self.known
            if origin_of(known) == origin_of(clean) and (own is None or own.username == credentials.username)
        ]
        if same:
            return clean, max(same, key=lambda item: item[0])[1]
        return clean, self._from_netrc(clean) or own

    def from_keyring(self, url: str, tried: Credentials | None) -> Credentials | None:
        """What keyring has for a server that refused; None where there is none or it was tried already."""
        if self.provider == "disabled":
            return None
        username = tried.username if tried is not None else None
        key = (origin_of(url), username)
        if key not in self.found:
            self.found[key] = self._ask_keyring(url, username)
        found = self.found[key]
        return found if found != tried else None

    def _ask_keyring(self, url: str, username: str | None) -> Credentials | None:
        host = urlsplit(url).netloc
        for service in (url, host):
            found: Credentials | None = None
            if self.provider in ("auto", "import"):
                found = _import_keyring(service, username)
            if found is None and self.provider in ("auto", "subprocess"):
                found = _run_keyring(service, username, self.environ)
            if found is not None:
                return found
        return None

    def _from_netrc(self, url: str) -> Credentials | None:
        host = urlsplit(url).hostname or ""
        chosen = self.environ.get("NETRC")
        home = Path(self.environ.get("HOME") or Path("~").expanduser())
        for path in [Path(chosen)] if chosen else [home / ".netrc", home / "_netrc"]:
            if not path.is_file():
                continue
            import netrc

            try:
                entry = netrc.netrc(str(path)).authenticators(host)
            except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it does not parse"
                logger.warning("%s is not used: %s", path, reason)
                continue
            if entry is not None:
                login, account, password = entry
                return Credentials(username=login or account or "", password=password or "")
        return None


def _shared_path(first: str, second: str) -> int:
    pairs = zip(urlsplit(first).path.split("/"), urlsplit(second).path.split("/"), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _import_keyring(service: str, username: str | None) -> Credentials | None:
    try:
        import keyring
    except ImportError:
        return None
    try:
        found = keyring.get_credential(service, username)
    except Exception as error:
        logger.warning("keyring failed: %s", type(error).__name__)
        return None
    if found is None or found.password is None:
        return None
    return Credentials(username=found.username or username or "", password=found.password)


def _run_keyring(service: str, username: str | None, environ: Mapping[str, str]) -> Credentials | None:
    import shutil
    import subprocess

    # Without a user name the program has nothing to look up.
    program = shutil.which("keyring", path=environ.get("PATH"))
    if program is None or not username:
        return None
    try:
        result = subprocess.run(
            [program, "get", service, username],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_KEYRING_SECONDS,
            env={**environ, "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        logger.warning("the keyring program gives no answer for %s", redact_url(service))
        return None
    password = result.stdout.decode("utf-8", "replace").strip("\r\n")
    if result.returncode != 0 or not password:
        return None
    return Credentials(username=username, password=password)
