"""How fast bytes came the last time, kept for the next question: a check tells with it how long a download would take.

One number in the user's state folder, written when a download that ran long enough to be believed has ended. Nothing
depends on it: what cannot be read or written is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from qwen_api import places

BELIEVED_S = 5.0  # a shorter download says more about its first answer than about the line
_DIGITS_MAX = 15  # a petabyte a second: whatever else stands there is not ours


def remember(env: Mapping[str, str], rate_bps: float) -> None:
    """Keep the rate of a download that has ended, in bytes per second. Raises nothing."""
    place = _place(env)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f"{place.name}.new")
        beside.write_text(f"{int(rate_bps)}\n")
        beside.replace(place)


def recall(env: Mapping[str, str]) -> int | None:
    """Bytes per second; None if no download was seen yet. Raises nothing."""
    try:
        text = _place(env).read_text()[: _DIGITS_MAX + 1].strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None


def _place(env: Mapping[str, str]) -> Path:
    return places.state_dir(env) / "last-rate"
