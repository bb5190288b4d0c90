"""The ways the simulated Hub can misbehave, and the book of rules that says when.

    hub.faults.add(Fault(Reset(), path="*.safetensors", at_byte=1_000_000, times=1))

Each request is matched against the rules in the order they were added; the first that fits is carried out, and no
other. Most kinds (hub_kinds) change the answer and nothing else (`distort`, pure);
the rest say how the body is delivered (`Delivery`), which hub_wire carries out.
"""

from __future__ import annotations

import gzip
import html
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from fnmatch import fnmatchcase
from typing import Literal, assert_never

from tests.fakes.hub_answers import expired
from tests.fakes.hub_kinds import (
    CaptivePortal,
    ChangedETag,
    ChunkedTruncated,
    CloseEarly,
    ContentLength,
    Corrupt,
    CursorLoop,
    Delivering,
    Drip,
    EntryVanished,
    ExpiredSignature,
    ForgeListing,
    Gzip,
    HeaderBomb,
    IgnoreRange,
    Kind,
    Multipart,
    NoContentLength,
    NoContentRange,
    OverLong,
    QueryLost,
    RangeNotSatisfiable,
    RateLimited,
    Redirect,
    RedirectLoop,
    Replacing,
    Reset,
    RetryAfter,
    SlowFirstByte,
    Stall,
    Status,
    Where,
    WrongContentRange,
    WrongTotal,
)
from tests.fakes.hub_log import WAIT_S, Signal
from tests.fakes.hub_messages import Answer, Body, Visit, text_body

_DOORS: Mapping[Where, frozenset[str]] = {
    "api": frozenset({"api"}),
    "resolve": frozenset({"resolve"}),
    "resolve-cache": frozenset({"resolve-cache"}),
    "cdn": frozenset({"cdn"}),
    "body": frozenset({"resolve-cache", "cdn"}),
    "hub": frozenset({"api", "resolve", "resolve-cache"}),
    "any": frozenset({"api", "resolve", "resolve-cache", "cdn"}),
}


@dataclass(frozen=True)
class Fault:
    """A kind, and the requests it strikes.

    `path` and `repo` are globs; for API calls the path is what follows the repository's id (`tree/main`). `on` names
    the doors (see _DOORS), by default the kind's own; `body` means GETs only, unless `method` says otherwise; `edge` is
    the address of the one edge of the CDN that is meant. `times=None` is for ever. `min_offset` spares bodies that
    start earlier. The cut is `at_byte`, an offset in the file (only bodies that hold it match), or `after_bytes` of
    this body (only longer bodies match); for API answers both count from the start of the text.
    """

    kind: Kind
    path: str = field(default="*", kw_only=True)
    repo: str = field(default="*", kw_only=True)
    method: str | None = field(default=None, kw_only=True)
    on: Where | None = field(default=None, kw_only=True)
    edge: str | None = field(default=None, kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    at_byte: int | None = field(default=None, kw_only=True)
    after_bytes: int | None = field(default=None, kw_only=True)
    min_offset: int = field(default=0, kw_only=True)

    def strikes(self, visit: Visit) -> bool:
        """Whether this request is meant."""
        where = self.on or self.kind.where
        method = self.method or ("GET" if where == "body" else None)
        return (
            visit.door in _DOORS[where]
            and method in (None, visit.method)
            and fnmatchcase(visit.path, self.path)
            and fnmatchcase(visit.repo, self.repo)
            and self.edge in (None, visit.edge)
            and visit.start >= self.min_offset
            and self._holds_cut(visit)
        )

    def cut(self, body: Body) -> int | None:
        """The body offset before which the kind strikes; None when the fault names none."""
        if self.at_byte is not None:
            return self.at_byte
        return None if self.after_bytes is None else body.start + self.after_bytes

    def _holds_cut(self, visit: Visit) -> bool:
        if self.at_byte is not None:
            return visit.method == "GET" and visit.start <= self.at_byte < visit.end
        if self.after_bytes is not None:
            return visit.method == "GET" and self.after_bytes < max(1, visit.end - visit.start)
        return True


class Rule:
    """A fault at work: how often it struck, a way to wait for that, and to end it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.hits = 0
        self.struck = Signal()
        self.released = Signal()

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as it may."""
        return self.fault.times is not None and self.hits >= self.fault.times

    def release(self) -> None:
        """Let everything that a Stall or SlowFirstByte holds go on."""
        self.released.set()

    def wait_hit(self, timeout: float = WAIT_S) -> None:
        """Block this thread until it struck (a Stall: until the silence began)."""
        self.struck.wait(timeout)

    async def hit(self, timeout: float = WAIT_S) -> None:
        """Await its first strike (a Stall: the beginning of the silence)."""
        await self.struck.until(timeout)


class FaultBook:
    """The rules, in order. Safe to use from any thread while the Hub serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, fault: Fault) -> Rule:
        """Put a rule at the end of the book."""
        rule = Rule(fault)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Take a rule out and release what it holds."""
        with self._lock:
            self._rules = [kept for kept in self._rules if kept is not rule]
        rule.release()

    def clear(self) -> None:
        """Take all rules out and release what they hold."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release()

    def pick(self, visit: Visit) -> Rule | None:
        """The first rule that fits; its strike is counted."""
        with self._lock:
            for rule in self._rules:
                if not rule.spent and rule.fault.strikes(visit):
                    rule.hits += 1
                    break
            else:
                return None
        if not isinstance(rule.fault.kind, Stall | SlowFirstByte):
            rule.struck.set()
        return rule


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How an answer goes out when not simply as it is."""

    rule: Rule | None = None  # who to tell of a silence, and who ends it
    cut: int | None = None  # body offset of what follows; None: before the head
    then: Literal["reset", "close", "stall"] | None = None
    delay_s: float | None = None  # before the head
    bytes_per_s: float | None = None  # from the cut on
    xor: int = 0  # of the byte at the cut
    chunked: bool = False
    tail: bytes = b""  # after the body, outside its length
    close: bool = False  # the connection is not used again


PLAIN = Delivery()


def distort(rule: Rule, visit: Visit, answer: Answer) -> tuple[Answer, Delivery]:
    """The answer and its delivery as the rule wants them."""
    kind = rule.fault.kind
    match kind:
        case (
            Reset() | CloseEarly() | Stall() | SlowFirstByte() | Drip() | OverLong() | NoContentLength()
            | ChunkedTruncated() | Corrupt()
        ):  # fmt: skip
            return _deliver(rule, kind, answer)
        case IgnoreRange() | ChangedETag() | EntryVanished() | ForgeListing() | QueryLost():
            return answer, PLAIN  # these were obeyed when the answer was made
        case CursorLoop(fresh=fresh):
            cursor = f"page-{visit.number}" if fresh else "again"
            return answer.with_header("link", f'<{visit.url(cursor=cursor)}>; rel="next"'), PLAIN
        case HeaderBomb(count=count, line_bytes=line_bytes):
            bombs = tuple((f"x-bomb-{n}", "b" * line_bytes) for n in range(count))
            return replace(answer, headers=answer.headers + bombs), Delivery(close=True)
        case ContentLength(values=values):
            kept = answer.without("content-length").headers
            lines = tuple(("content-length", value) for value in values)
            return replace(answer, headers=kept + lines), Delivery(close=True)
        case WrongContentRange() | WrongTotal() | NoContentRange() | Multipart() | Gzip() | RangeNotSatisfiable():
            return _misrange(kind, visit, answer), PLAIN
        case _:
            return _replaced(kind, visit), PLAIN


def _replaced(kind: Replacing, visit: Visit) -> Answer:
    match kind:
        case Status(code=code, headers=headers, body=body):
            return Answer(status=code, headers=tuple(headers.items())).with_body(body)
        case RetryAfter(seconds=seconds, http_date=http_date, code=code):
            when = formatdate(visit.wall_s + seconds, usegmt=True) if http_date else str(seconds)
            return text_body(code, "Too Many Requests").with_header("retry-after", when)
        case RateLimited(reset_s=reset_s, code=code):
            return _rate_limited(visit, reset_s, code)
        case ExpiredSignature():
            return expired()
        case CaptivePortal():
            page = b"<!doctype html><html><title>Welcome</title><form>Please log in to use this network.</form></html>"
            return Answer(status=200, headers=(("content-type", "text/html"),)).with_body(page)
        case Redirect(to=to, code=code):
            return _redirect(code, to)
        case RedirectLoop(code=code):
            return _redirect(code, visit.target)
        case _:
            assert_never(kind)


def _rate_limited(visit: Visit, reset_s: int, code: int) -> Answer:
    bucket, quota = ("api", 500) if visit.door == "api" else ("resolvers", 3000)
    said = f"We had to rate limit you, you hit the quota of {quota} {bucket} requests per 5 minutes period."
    limited = text_body(code, said).with_header("ratelimit", f'"{bucket}";r=0;t={reset_s}')
    return limited.with_header("ratelimit-policy", f'"fixed window";"{bucket}";q={quota};w=300')


def _redirect(code: int, to: str) -> Answer:
    return text_body(code, f"Found. Redirecting to {html.escape(to)}").with_header("location", to)


def _misrange(
    kind: WrongContentRange | WrongTotal | NoContentRange | Multipart | Gzip | RangeNotSatisfiable,
    visit: Visit,
    answer: Answer,
) -> Answer:
    body, total = answer.body, visit.total
    match kind:
        case WrongContentRange(shift=shift):
            return answer.with_header("content-range", f"bytes {body.start + shift}-{body.end - 1 + shift}/{total}")
        case WrongTotal(total=other):
            return answer.with_header("content-range", f"bytes {body.start}-{body.end - 1}/{other}")
        case NoContentRange():
            return answer.without("content-range")
        case Multipart():
            return _multipart(answer, total)
        case Gzip():
            packed = gzip.compress(body.content.read(body.start, body.end), compresslevel=1, mtime=0)
            return answer.with_body(packed).with_header("content-encoding", "gzip")
        case RangeNotSatisfiable(total=other):
            size = total if other is None else other
            return text_body(416, "Range Not Satisfiable").with_header("content-range", f"bytes */{size}")
        case _:
            assert_never(kind)


def _multipart(answer: Answer, total: int) -> Answer:
    body = answer.body
    part = (
        b"--cut\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Range: bytes %d-%d/%d\r\n\r\n%b\r\n--cut--\r\n"
        % (body.start, body.end - 1, total, body.content.read(body.start, body.end))
    )
    whole = answer.without("content-range").with_body(part)
    return replace(whole, status=206).with_header("content-type", "multipart/byteranges; boundary=cut")


def _deliver(rule: Rule, kind: Delivering, answer: Answer) -> tuple[Answer, Delivery]:
    body = answer.body
    cut = rule.fault.cut(body)
    match kind:
        case Reset():
            return answer, Delivery(rule=rule, cut=cut, then="reset", close=True)
        case CloseEarly():
            return answer, Delivery(rule=rule, cut=cut, then="close", close=True)
        case Stall():
            return answer, Delivery(rule=rule, cut=cut, then="stall")
        case SlowFirstByte(delay_s=delay_s):
            return answer, Delivery(rule=rule, then=None if delay_s else "stall", delay_s=delay_s)
        case Drip(bytes_per_s=rate):
            return answer, Delivery(cut=body.start if cut is None else cut, bytes_per_s=rate)
        case Corrupt(xor=xor):
            return answer, Delivery(cut=body.start if cut is None else cut, xor=xor)
        case OverLong(extra=extra, declared=declared):
            length = body.end - body.start + (len(extra) if declared else 0)
            return answer.with_header("content-length", str(length)), Delivery(tail=extra, close=True)
        case NoContentLength():
            then: Literal["close"] | None = None if cut is None else "close"
            bare = answer.without("content-length").with_header("connection", "close")
            return bare, Delivery(cut=cut, then=then, close=True)
        case ChunkedTruncated():
            half = body.start + (body.end - body.start) // 2
            chunked = answer.without("content-length").with_header("transfer-encoding", "chunked")
            where = half if cut is None else cut
            return chunked, Delivery(rule=rule, cut=where, then="close", chunked=True, close=True)
        case _:
            assert_never(kind)
