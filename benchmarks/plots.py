"""Bar charts as SVG, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABEL, _BAR, _GAP, _HEAD = 860, 300, 16, 5, 34
_OURS, _OTHERS, _SPREAD = "#2f6f4f", "#9aa5b1", "#3b4350"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: the median, with a thin line from the least to the most."""

    label: str
    median: float
    least: float
    most: float
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Bars that are compared with each other, on a scale of their own."""

    title: str
    bars: Sequence[Bar]


def chart(title: str, groups: Sequence[Group], unit: str) -> str:
    """An SVG document. Each group's longest bar fills the width."""
    height = _HEAD + sum(_HEAD + len(group.bars) * (_BAR + _GAP) for group in groups) + 10
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    parts = [
        opening,
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="22" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    top = _HEAD
    for group in groups:
        parts.append(f'<text x="10" y="{top + 22}" font-size="13" font-weight="bold">{escape(group.title)}</text>')
        top += _HEAD
        most = max((bar.most for bar in group.bars), default=0) or 1.0
        scale = (_WIDTH - _LABEL - 90) / most
        for bar in group.bars:
            middle = top + _BAR / 2
            width = bar.median * scale
            colour = _OURS if bar.is_ours else _OTHERS
            parts.append(
                f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
                f'<rect x="{_LABEL}" y="{top}" width="{max(width, 1):.1f}" height="{_BAR}" fill="{colour}"/>'
            )
            if bar.most > bar.least:
                left, right = _LABEL + bar.least * scale, _LABEL + bar.most * scale
                parts.append(
                    f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" '
                    f'stroke="{_SPREAD}" stroke-width="1.5"/>'
                )
            at = _LABEL + max(width, bar.most * scale) + 6
            parts.append(f'<text x="{at:.1f}" y="{middle + 4:.1f}">{_number(bar.median)} {escape(unit)}</text>')
            top += _BAR + _GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
