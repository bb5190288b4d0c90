"""When a connection is given up although it still moves, and when another one pays. Pure; rates in bytes per second.

Shares and times are those that other downloaders settled on: a worker is cut below 0.3 of its siblings' mean after 5 s
(Surge, internal/strategy/concurrent/health.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

GRACE_S = 5.0  # a young connection is still speeding up
SLOW_SHARE = 0.3  # of the siblings' median
CRAWL_SHARE = 0.1  # so slow that it need not be watched for as long
CRAWL_GRACE_S = 2.0
SILENT_S = 5.0  # no byte for so long, while siblings move, is a rate of nothing
FAST_BPS = 150e6  # connections this fast are not what limits: more of them cost CPU and bring nothing
LIMITED_STREAM_BPS = 2_000_000
FIRST_BYTE_S = 0.65  # the Hub's CDN at the median, until measured
STEAL_GAIN_S = 1.0  # what a steal must save: cutting a request short wastes what is on its way


def is_slow(mine_bps: float, others_bps: Sequence[float], *, age_s: float, left_bytes: int) -> bool:
    """True if cutting this connection and fetching its rest over a fresh one should be quicker, by far."""
    typical_bps = median(others_bps) if others_bps else 0.0
    if typical_bps <= 0 or mine_bps >= SLOW_SHARE * typical_bps:
        return False
    if age_s < (GRACE_S if mine_bps >= CRAWL_SHARE * typical_bps else CRAWL_GRACE_S):
        return False
    return left_bytes / max(mine_bps, 1.0) > 2 * (FIRST_BYTE_S + left_bytes / typical_bps)


def steal_keeps(left_bytes: int, rate_bps: float, typical_bps: float, first_byte_s: float) -> int | None:
    """How much of a lease its own connection keeps, so that it and a fresh one of the typical rate end together.

    The slower it is the less: a crawling last connection loses nearly all it had left. None if little is saved.
    """
    rate_bps = max(rate_bps, 1.0)
    alone_s = left_bytes / rate_bps
    together_s = (first_byte_s + left_bytes / typical_bps) / (1 + rate_bps / typical_bps)
    return int(together_s * rate_bps) if alone_s - together_s >= STEAL_GAIN_S else None


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Which lease to steal from, and how much of what it has left it keeps."""

    number: int
    keep_bytes: int


def pick_victim(
    leases: Sequence[tuple[int, float | None]],
    others_bps: Sequence[float],
    remembered_bps: float,
    first_byte_s: float,
    *,
    at_least: int,
) -> Victim | None:
    """The one that would be done last, if stealing from it pays; None otherwise.

    `leases` are (bytes left, rate or None if it is too early to say); `others_bps` is what connections of other files
    give, `remembered_bps` what earlier ones gave. While nothing is known, half of what has `at_least` left is taken.
    """
    if not leases:
        return None
    known = [rate for _, rate in leases if rate] + [rate for rate in others_bps if rate]
    typical_bps = median(known) if known else remembered_bps
    if not typical_bps:
        number = max(range(len(leases)), key=lambda number: leases[number][0])
        left_bytes = leases[number][0]
        return Victim(number=number, keep_bytes=left_bytes // 2) if left_bytes >= at_least else None
    rates_bps = [typical_bps if rate is None else max(rate, 1.0) for _, rate in leases]
    number = max(range(len(leases)), key=lambda number: leases[number][0] / rates_bps[number])
    keep_bytes = steal_keeps(leases[number][0], rates_bps[number], typical_bps, first_byte_s)
    return None if keep_bytes is None else Victim(number=number, keep_bytes=keep_bytes)


def streams_under(rate_limit_bps: int | None) -> int:
    """How many connections are worth having under a speed limit: each reads ahead a little, whatever the limit."""
    return 1 << 30 if rate_limit_bps is None else max(1, rate_limit_bps // LIMITED_STREAM_BPS)


def pays_to_add(rates_bps: Sequence[float]) -> bool:
    """True unless the connections there are already so fast that something else is the limit."""
    return not rates_bps or sum(rates_bps) / len(rates_bps) < FAST_BPS
