"""How people write a speed: one grammar for the configuration and every command. Pure."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from qwen_api.language import _

RATE_BPS_MIN = 10_000  # below, a chunk of 64 KiB waits so long (6.5 s) that servers give the connection up
RATE_BPS_MAX = 1_000_000_000_000  # faster than any line: a typing error
Rate = Annotated[int, msgspec.Meta(ge=RATE_BPS_MIN, le=RATE_BPS_MAX)]

OFF = "off"  # how people write "no limit"

_RATE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([kmgt])(i)?)?b?(?:/s)?", re.ASCII | re.IGNORECASE)
_BITS = re.compile(r"(?i:bits?\b|bps$)|[MGT]i?b", re.ASCII)  # Mb is megabit, mb is what people type for MB
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class BadRate(ValueError):
    """The text is no speed; the message says why and what is accepted."""


def parse_rate_bps(text: str) -> int:
    """Bytes per second in `20MB/s`, `500k`, `1.5MiB`. Raises BadRate, with a sentence for people.

    As on the Hub's pages k, M and G are decimal; Ki, Mi and Gi are binary.
    """
    if _BITS.search(text):
        raise BadRate(_("{text!r} may mean bits; a speed is given in bytes per second, such as 20MB/s", text=text))
    found = _RATE.fullmatch(text.strip())
    if not found:
        raise BadRate(_("{text!r} is not a speed such as 20MB/s, 500k or 1.5MiB/s", text=text))
    power = _POWERS[(found[2] or "").lower()]
    rate_bps = round(float(found[1]) * float(1024 if found[3] else 1000) ** power)
    if not RATE_BPS_MIN <= rate_bps <= RATE_BPS_MAX:
        raise BadRate(_("{text!r} is not between {low} kB/s and 1 TB/s", text=text, low=RATE_BPS_MIN // 1000))
    return rate_bps


def parse_limit_bps(text: str) -> int | None:
    """As parse_rate_bps; `off` is no limit (None)."""
    try:
        return None if text.strip().lower() == OFF else parse_rate_bps(text)
    except BadRate as error:
        raise BadRate(_("{why}; no limit is: {off}", why=error, off=OFF)) from error
