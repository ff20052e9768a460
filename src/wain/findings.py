"""What an audit says: findings with their place, cost and fixes, as plain data."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    """How much a finding matters; `rank` grows with it."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return ("info", "warning", "error").index(self.value)


class Location(Struct, frozen=True, kw_only=True):
    """Where: in a text file by line and column (from 1; the end is exclusive), or in an image by layer and path.

    `start` and `end` are offsets in the file's text.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    start: int = 0
    end: int = 0
    layer: str | None = None
    path: str | None = None


class Cost(Struct, frozen=True, kw_only=True):
    """Bytes that the finding costs: what they add up to by name, and what would be freed; 0 is "not known"."""

    apparent: int = 0
    reclaimable: int = 0


class Edit(Struct, frozen=True, kw_only=True, order=True):
    """Replace the text's `[start, end)`."""

    start: int
    end: int
    text: str


class Fix(Struct, frozen=True, kw_only=True):
    """Edits that mend a finding. A safe fix changes no behaviour but what the rule is about."""

    title: str
    edits: tuple[Edit, ...]
    is_safe: bool


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, where, what it costs and how it is mended.

    `paths` are the files or folders in the image that it is about; `estimate` says the cost in words where bytes are
    not known.
    """

    rule: str
    severity: Severity
    message: str
    location: Location
    instruction: str
    cost: Cost = Cost()
    estimate: str = ""
    paths: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()

    @property
    def sort_key(self) -> tuple[str, int, int, str]:
        """By file, place, then rule."""
        location = self.location
        return (location.file or location.layer or "", location.start, location.end, self.rule)
