"""Amounts as people read them in STATUS lines and details: decimal units, as the Hub's own pages show them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size_text(count: int) -> str:
    """For example `20.1 GB`."""
    value, step = float(count), 0
    while value >= 999.95 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.0f} {_UNITS[step]}" if step == 0 else f"{value:.1f} {_UNITS[step]}"
