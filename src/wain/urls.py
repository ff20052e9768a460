"""Addresses on the web: what may be shown of them, where they lead, and whose a login is.

Sources: RFC 3986; RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import ipaddress
from typing import ClassVar
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from wain.errors import TransferError, UsageError
from wain.records import Record


class Credentials(Record, frozen=True, kw_only=True):
    """A user's name and password for one server; the password is in no representation."""

    unshown: ClassVar = ("password",)

    username: str
    password: str

    @property
    def authorization(self) -> str:
        """The value of the Authorization header, by the Basic scheme."""
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return f"Basic {token}"


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment: fit for logs and errors.

    >>> redact_url("https://user:secret@index.example/simple/?token=1")
    'https://index.example/simple/?...'
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "<malformed URL>"
    return (
        urlunsplit((parts.scheme, host, parts.path, "...", ""))
        if parts.query
        else urlunsplit((parts.scheme, host, parts.path, "", ""))
    )


def split_credentials(url: str) -> tuple[str, Credentials | None]:
    """The URL without its user and password, and these.

    :raises UsageError: when the text is no URL of http or https.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises for a port that is no number)
    except ValueError as error:
        raise UsageError(f"{redact_url(url)!r} is not a URL", hint="Write https://host/path.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{redact_url(url)!r} is not a URL of http or https", hint="Write https://host/path.")
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    username, _, password = userinfo.partition(":")
    clean = urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
    return clean, Credentials(username=unquote(username), password=unquote(password))


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host in lower case and port: credentials are for one such triple."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def resolve_url(base: str, location: str) -> str:
    """A Location header or the like made absolute, without user and password.

    :raises TransferError: when it is no address of http or https.
    """
    try:
        # Servers send bytes beyond ASCII raw; they come as Latin-1.
        raw = location.encode("latin-1", "replace")
        target = urljoin(base, quote(raw, safe="%/:=&?~#+!$,;'@()*[]"))
        return split_credentials(target)[0]
    except (ValueError, UsageError):
        raise TransferError(
            f"{redact_url(base)} leads to what is no web address",
            hint="The server is misconfigured; use another address.",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own; no name is looked up."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
