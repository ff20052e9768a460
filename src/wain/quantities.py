"""Sizes and ages as people write them: `500MB`, `1.5 GiB`, `30d`.

Source: IEC 80000-13 for the binary prefixes; k, M, G and T are powers of ten.
"""

from __future__ import annotations

import re

from wain.errors import UsageError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdwy]?)[a-z]*\s*", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400, "": 86400}


def parse_size(text: str, *, what: str) -> int:
    """Bytes.

    >>> parse_size("1.5 GB", what="--max-size")
    1500000000
    >>> parse_size("64KiB", what="--max-size")
    65536

    :param what: names the flag or setting in the error.
    :raises UsageError: when it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > 40:
        raise UsageError(f"{what}: {text[:40]!r} is no size", hint="Write a number and a unit, as in 500MB or 20GiB.")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def parse_age(text: str, *, what: str) -> float:
    """Seconds; a number alone means days, `m` minutes.

    >>> parse_age("2w", what="--older-than")
    1209600.0

    :param what: names the flag or setting in the error.
    :raises UsageError: when it is no age.
    """
    match = _AGE.fullmatch(text)
    if match is None or len(text) > 40:
        raise UsageError(f"{what}: {text[:40]!r} is no age", hint="Write a number and a unit, as in 30d, 12h or 2w.")
    return float(match[1]) * _SECONDS[match[2].lower()]
