"""How people write a duration: one grammar for every command's --timeout. Pure."""

from __future__ import annotations

import re

from qwen_api.language import _

DURATION_MAX_S = 30 * 86_400.0  # threading's own limit is far above; a longer wait is a typing error

_DURATION = re.compile(r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?", re.ASCII)
_UNIT_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration_s(text: str) -> float:
    """Seconds in `90`, `45s`, `30m`, `2h`, `1h30m`, `1d`. Raises ValueError, with a sentence for people."""
    found = _DURATION.fullmatch(text.strip())
    seconds = sum(float(n) * _UNIT_S[unit] for unit, n in found.groupdict().items() if n) if found else 0.0
    if not found or not text.strip() or seconds > DURATION_MAX_S:
        raise ValueError(_("{text!r} is not a duration up to 30 days such as 90, 45s, 30m or 1h30m", text=text))
    return seconds
