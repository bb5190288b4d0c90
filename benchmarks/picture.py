"""The plots, as SVG written by hand: wall time of every comparison, and the growth series. No library needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.results import Group, Run, groups

WIDTH, NAME_WIDTH, BAR_WIDTH, ROW, GAP = 860, 210, 470, 20, 34
OURS_COLOUR, VERIFYING_COLOUR, OTHER_COLOUR = "#1f77b4", "#7a9e7e", "#b8b8b8"
TEXT = 'font-family="sans-serif" font-size="12"'


def draw(runs: Sequence[Run]) -> str:
    """One panel per comparison: bars of median wall time with the spread as a line, ours in blue."""
    found = [group for group in groups(runs) if group.median("wall_s") is not None]
    panels: list[str] = []
    top = 30
    for variant in dict.fromkeys(group.variant for group in found if group.runs[0].case != "10"):
        some = [group for group in found if group.variant == variant]
        panels += _panel(f"{some[0].runs[0].case}: {variant}", some, "wall_s", " s", top)
        top += GAP + ROW * len(some)
    for field, unit, title in (("cpu_s_per_gb", " CPU s/GB", "CPU per GB"), ("rss_bytes", " MB", "peak RSS")):
        some = [group for group in found if group.runs[0].case == "10"]
        if some:
            panels += _panel(f"10: growth, {title}", some, field, unit, top, by_variant=True)
            top += GAP + ROW * len(some)
    legend = (
        f'<text x="10" y="16" {TEXT}>wall seconds, median and spread; '
        "blue: ours, green: verifies too, grey: does not verify</text>"
    )
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    background = f'<rect width="{WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', background, legend, *panels, "</svg>", ""])


def _panel(
    title: str, found: Sequence[Group], field: str, unit: str, top: int, *, by_variant: bool = False
) -> Iterator[str]:
    scale = 1e6 if field == "rss_bytes" else 1.0
    most = max(max(group.values(field)) for group in found) or 1.0
    yield f'<text x="10" y="{top + 12}" {TEXT} font-weight="bold">{escape(title)}</text>'
    for index, group in enumerate(found):
        y = top + 18 + ROW * index
        values = sorted(group.values(field))
        median = group.median(field) or 0.0
        length, low, high = (BAR_WIDTH * value / most for value in (median, values[0], values[-1]))
        name = group.variant if by_variant else group.client
        yield f'<text x="{NAME_WIDTH - 6}" y="{y + 12}" {TEXT} text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{NAME_WIDTH}" y="{y}" width="{length:.1f}" height="{ROW - 5}" fill="{_colour(group)}"/>'
        middle = y + (ROW - 5) / 2
        ends = f'x1="{NAME_WIDTH + low:.1f}" x2="{NAME_WIDTH + high:.1f}"'
        yield f'<line {ends} y1="{middle}" y2="{middle}" stroke="black"/>'
        after = NAME_WIDTH + max(length, high) + 6
        yield f'<text x="{after:.1f}" y="{y + 12}" {TEXT}>{median / scale:.2f}{unit}</text>'


def _colour(group: Group) -> str:
    if group.client == "ours":
        return OURS_COLOUR
    return VERIFYING_COLOUR if group.runs[0].verifies else OTHER_COLOUR
