from __future__ import annotations

import pytest

from wain.errors import UsageError
from wain.quantities import parse_age, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1.5GiB", 1_610_612_736),
        ("20g", 20_000_000_000),
        ("3k", 3000),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, what="--max-size") == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e9", "1 2", "five", "1XB", "9" * 50])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--max-size"):
        parse_size(text, what="--max-size")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30 * 86400), ("30d", 30 * 86400), ("12 hours", 43200), ("2w", 1209600), ("5m", 300)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text, what="--older-than") == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "soon", "1 d d"])
def test_no_ages(text: str) -> None:
    with pytest.raises(UsageError, match="--older-than"):
        parse_age(text, what="--older-than")
