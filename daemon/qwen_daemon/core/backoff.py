"""When to try again: the pauses between a file's tries, between rounds, and what a server's headers ask for.

As the original system did it, a file gets a try and three retries after 2, 4 and 8 seconds; dice and server clock are
arguments. Bytes that moved since the last try reset the count (a slow line must not fail a 10 GB file).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

RETRY_DELAYS_S = (2.0, 4.0, 8.0)
ATTEMPTS_MAX = 1 + len(RETRY_DELAYS_S)
JITTER_SHARE = 0.1  # so that eight files cut by one reset do not come back in one instant
WAIT_MAX_S = 3600.0  # no server may put a file to sleep for longer
ROUND_FIRST_S, ROUND_MAX_S = 30.0, 900.0
DISK_FIRST_S, DISK_EVEN = 10.0, 3  # a full disk is looked at so soon, and so often before the pauses grow

# `RateLimit: "resolvers";r=0;t=87` (draft-ietf-httpapi-ratelimit-headers; the Hub sends no Retry-After with it)
_RATE_LIMIT = re.compile(r'"(?P<bucket>[^"]{1,64})"\s*;\s*r=(?P<left>\d{1,9})\s*;\s*t=(?P<reset_s>\d{1,9})')


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """A bucket of requests: `left` of them until it is refilled in `reset_s` seconds."""

    bucket: str
    left: int
    reset_s: int


def retry_delay_s(failed_attempts: int, dice: float) -> float | None:
    """The pause before the next try after so many failed ones in a row; None when the tries are spent.

    `dice` is in [0, 1) and adds up to JITTER_SHARE.
    """
    if not 1 <= failed_attempts <= len(RETRY_DELAYS_S):
        return None
    return RETRY_DELAYS_S[failed_attempts - 1] * (1 + JITTER_SHARE * dice)


def round_delay_s(failed_rounds: int) -> float:
    """The pause before a model with failed files is looked at again: 30 s, doubling to 15 minutes."""
    return min(ROUND_MAX_S, ROUND_FIRST_S * 2.0 ** min(10, max(0, failed_rounds - 1)))


def disk_delay_s(refusals: int) -> float:
    """The pause after a disk has refused a write for the n-th time: 10 s three times, then doubling to 15 minutes.

    A full disk is known by its numbers at the next look, and costs no byte; one that claims to have room (a quota, a
    device smaller than it says) takes bytes in vain each time.
    """
    return min(ROUND_MAX_S, DISK_FIRST_S * 2.0 ** min(10, max(0, refusals - DISK_EVEN)))


def asked_wait_s(headers: Mapping[str, str], *, default_s: float) -> float:
    """How long a 429 or 503 asks to wait: Retry-After (seconds or date), else an empty RateLimit bucket's reset.

    `headers` have lower-case names. A date is measured against the server's own Date header, never the local clock.
    """
    if (after := headers.get("retry-after")) is not None:
        asked = _retry_after_s(after.strip(), headers.get("date"))
        if asked is not None:
            return min(WAIT_MAX_S, max(0.0, asked))
    limit = read_rate_limit(headers)
    if limit is not None and limit.left == 0:
        return min(WAIT_MAX_S, limit.reset_s + 1.0)
    return default_s


def read_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """The RateLimit header, if there is a readable one."""
    match = _RATE_LIMIT.search(headers.get("ratelimit", ""))
    if match is None:
        return None
    return RateLimit(bucket=match["bucket"], left=int(match["left"]), reset_s=int(match["reset_s"]))


def _retry_after_s(text: str, server_date: str | None) -> float | None:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    until, now = _date(text), _date(server_date or "")
    if until is None or now is None:
        return None
    return (until - now).total_seconds()


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
