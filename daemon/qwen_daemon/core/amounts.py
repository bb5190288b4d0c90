"""Amounts, and as people read them in STATUS lines and details: decimal units, as the Hub's own pages show them."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True)
class Free:
    """What a file system still has for this user; `names` (inodes) is None where they are not counted."""

    size_bytes: int
    names: int | None = None


def size_text(count: int) -> str:
    """For example `20.1 GB`."""
    value, step = float(count), 0
    while value >= 999.95 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.0f} {_UNITS[step]}" if step == 0 else f"{value:.1f} {_UNITS[step]}"
