"""How the rules about credentials tell one: by a variable's name, and by a URL's user part."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?|AUTH_?KEY|PAT)$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(
    r"[a-z][a-z0-9+.-]*://([^\s/@:\"'<>]+)(?::([^\s/@\"'<>]*))?@([A-Za-z0-9.-]+(?![A-Za-z0-9.-]|://)|\$\{?\w+\}?)"
)
_PLACEHOLDERS = frozenset(
    "changeme change-me change_me dummy example placeholder xxx todo none null false true test unset build notset "
    "replace-me password secret".split()
)
# What services give out for tokens, which stand where a user does; a login name is none.
_TOKEN = re.compile(r"\$.*|(gh[a-z]_|github_pat_|glpat-|npm_|pypi-).*|(?=.*\d)[A-Za-z0-9_-]{20,}")


def is_secret_name(name: str) -> bool:
    """Whether a variable's name says that it holds a credential."""
    return _NAME.search(name) is not None


def is_placeholder(text: str) -> bool:
    """Whether a value is plainly none: a placeholder, a path to the real one, or a variable."""
    lowered = text.lower().strip()
    return (
        lowered in _PLACEHOLDERS
        or lowered.startswith(("/run/secrets", "/var/run/secrets", "<", "your", "replace"))
        or set(lowered) <= {"x", "*", "."}
    )


def credentials(text: str) -> Iterator[tuple[str, str, str]]:
    """(user, password, host) of each URL that has a user part which may be a credential."""
    for match in _CREDENTIALS.finditer(text):
        user, password, host = match.group(1), match.group(2) or "", match.group(3)
        if not password and not _TOKEN.fullmatch(user):
            continue
        yield user, password, host
