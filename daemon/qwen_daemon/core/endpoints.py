"""Which endpoint (the Hub, a mirror of it) is asked next, and what a failure says of the one that failed.

Pure. Several endpoints serve the same commit, so any of them may bring any byte; the hash decides in the end. An
endpoint that fails is set aside for a growing time and then tried by one request before the others follow; what is
about one content only (it is not there, it may not be read, another hash is named) sets only that content aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain, TryLater

ASIDE_FIRST_S, ASIDE_MAX_S = 5.0, 900.0
ABSENT_FIRST_S = 60.0  # a content that an endpoint lacks does not come by itself
LIAR_S = 300.0  # an endpoint whose bytes had the wrong hash serves other files no better
PROBE_S = 30.0  # how long the others wait for the one request that finds out whether an endpoint is back
CRAWL_BPS, CRAWL_S = 4096, 30.0  # a connection that gives less for so long is as good as silent

# Codes that are about the content that was asked for, not about the endpoint.
_OF_CONTENT = frozenset(
    {
        "E_NOT_FOUND",
        "E_FILE_NOT_FOUND",
        "E_REVISION_NOT_FOUND",
        "E_GATED",
        "E_FORBIDDEN",
        "E_DISABLED",
        "E_CONTENT_CHANGED",
        "E_BAD_RANGE",
        "E_ENCODED",
        "E_LISTING",
        "E_URL_EXPIRED",
    }
)
_ABSENT = frozenset({"E_NOT_FOUND", "E_FILE_NOT_FOUND", "E_REVISION_NOT_FOUND", "E_LISTING"})


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of an endpoint, or of one content at it: failures in a row, lies ever, and until when it rests."""

    failed: int = 0
    lied: int = 0
    aside_until_s: float = 0.0
    is_probed: bool = False  # one request is finding out whether it is back


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An endpoint as one request sees it: the latest of its rests, and whether it can begin in mid-file."""

    name: str
    lied: int = 0
    aside_until_s: float = 0.0
    has_ranges: bool = True


def is_of_content(trouble: Trouble) -> bool:
    """True if another content may well come from the same endpoint."""
    return trouble.code in _OF_CONTENT


def after_failure(standing: Standing, trouble: Trouble, now_s: float) -> Standing:
    """It failed. While it rests nothing is counted: many connections feel one and the same failure."""
    if isinstance(trouble, TryLater):
        return replace(standing, aside_until_s=max(standing.aside_until_s, now_s + trouble.after_s))
    if standing.aside_until_s > now_s and not standing.is_probed:
        return standing
    first_s = ABSENT_FIRST_S if is_of_content(trouble) else ASIDE_FIRST_S
    failed = standing.failed + 1
    rest_s = min(ASIDE_MAX_S, first_s * 2.0 ** min(10, failed - 1))
    return replace(standing, failed=failed, aside_until_s=now_s + rest_s, is_probed=False)


def after_lie(standing: Standing, now_s: float) -> Standing:
    """What it brought does not have the hash."""
    return replace(standing, lied=standing.lied + 1, aside_until_s=max(standing.aside_until_s, now_s + LIAR_S))


def after_choice(standing: Standing, now_s: float) -> Standing:
    """A request goes to it; if it has failed before, the others wait for how that ends."""
    if not standing.failed or standing.aside_until_s > now_s:
        return standing
    return replace(standing, aside_until_s=now_s + PROBE_S, is_probed=True)


def after_first_bytes(standing: Standing) -> Standing:
    """It answers: the others may follow. Failures are forgotten only once it has brought something."""
    return replace(standing, aside_until_s=0.0, is_probed=False) if standing.failed else standing


def after_success(standing: Standing) -> Standing:
    """It works. Lies are never forgotten, nor is their rest cut short by more bytes that nobody has judged."""
    return replace(Standing(lied=standing.lied), aside_until_s=standing.aside_until_s if standing.lied else 0.0)


def in_order(candidates: Sequence[Candidate], now_s: float) -> list[str]:
    """The names in the order in which to ask; `candidates` come as people prefer them.

    Whoever lied about this content comes after those who did not, whoever rests after those who work, and among these
    a server without ranges last (it would send what is here again). None is left out: it may be the only one.
    """

    def badness(candidate: Candidate) -> tuple[int, bool, bool]:
        return candidate.lied, candidate.aside_until_s > now_s, not candidate.has_ranges

    return [candidate.name for candidate in sorted(candidates, key=badness)]


def is_crawling(received_bytes: int, waited_s: float) -> bool:
    """Too slow to wait for while another endpoint is there."""
    return waited_s >= CRAWL_S and received_bytes < CRAWL_BPS * waited_s


def conclude(refusals: Sequence[tuple[str, Trouble]]) -> Trouble:
    """What it means together that each of these endpoints (at least one) failed so.

    Only if no endpoint can be hoped for it is a person's turn. The code is the one that people can do most about: an
    access that was refused, else what may pass, else that it is not there.
    """
    if len(refusals) == 1:
        return refusals[0][1]
    troubles = [trouble for _, trouble in refusals]
    code = min(troubles, key=_rank).code
    detail = "; ".join(f"{name}: {trouble.detail or trouble.code}" for name, trouble in refusals)
    hopeful = [trouble for trouble in troubles if not isinstance(trouble, AskHuman)]
    if not hopeful:
        return AskHuman(code, detail)
    waits_s = [trouble.after_s for trouble in hopeful if isinstance(trouble, TryLater)]
    if len(waits_s) == len(hopeful):
        return TryLater(code, detail, after_s=min(waits_s))
    return TryAgain(code, detail)


def _rank(trouble: Trouble) -> int:
    if not isinstance(trouble, AskHuman):
        return 1
    return 2 if trouble.code in _ABSENT else 0
