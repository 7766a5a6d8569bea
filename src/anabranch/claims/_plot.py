"""Drawing evidence: a row per rule with the seeds, their interval and the bound that was fixed beforehand."""

import math
from html import escape

from anabranch.claims._evidence import Evidence, RuleResult

COLOURS = {"holds": "#1a7f5a", "unsure": "#b7791f", "fails": "#b42318"}
_WIDTH, _ROW, _LEFT, _RIGHT = 760, 64, 24, 24


def svg(evidence: Evidence) -> str:
    """The evidence as a self-contained SVG picture."""
    height = 44 + _ROW * len(evidence.rules) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(evidence.paper)}: {evidence.verdict}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="15" font-weight="600">'
        f"{escape(evidence.paper)}: {evidence.verdict}</text>",
    ]
    for index, rule in enumerate(evidence.rules):
        lines += _row(rule, 44 + _ROW * index)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _row(rule: RuleResult, top: int) -> list[str]:
    low, high = extent(rule)

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    colour, axis = COLOURS[rule.outcome], top + 42
    label = f"{rule}  (mean {rule.mean:.4g}, 95 % interval {rule.interval[0]:.4g} to {rule.interval[1]:.4g})"
    dots = [
        f'<circle cx="{x(value)}" cy="{axis}" r="4" fill="{colour}" fill-opacity="0.55"/>'
        for value in rule.values
        if math.isfinite(value)
    ]
    return [
        f'<text x="{_LEFT}" y="{top + 16}">{escape(label)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{top + 16}" text-anchor="end" fill="{colour}" font-weight="600">'
        f"{rule.outcome}</text>",
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{axis}" y2="{axis}" stroke="#ddd"/>',
        f'<line x1="{x(rule.bound)}" x2="{x(rule.bound)}" y1="{axis - 14}" y2="{axis + 12}" stroke="#222" '
        'stroke-dasharray="3 2"/>',
        f'<line x1="{x(rule.interval[0])}" x2="{x(rule.interval[1])}" y1="{axis}" y2="{axis}" stroke="{colour}" '
        'stroke-width="3"/>',
        *dots,
    ]


def extent(rule: RuleResult) -> tuple[float, float]:
    """A range of values that shows the bound and every seed, with some air."""
    shown = [value for value in [rule.bound, *rule.interval, *rule.values] if math.isfinite(value)]
    low, high = min(shown), max(shown)
    air = 0.08 * (high - low) or 0.1 * (abs(high) or 1.0)
    return low - air, high + air


def strip(rule: RuleResult, width: int = 34) -> str:
    """One line of text: the seeds as dots, the interval as a bar, the bound as a line."""
    low, high = extent(rule)

    def column(value: float) -> int:
        return round((min(max(value, low), high) - low) / (high - low) * (width - 1)) if math.isfinite(value) else 0

    cells = ["·"] * width
    for i in range(column(rule.interval[0]), column(rule.interval[1]) + 1):
        cells[i] = "━"
    for value in rule.values:
        if math.isfinite(value):
            cells[column(value)] = "●"
    cells[column(rule.bound)] = "┃"
    return "".join(cells)
