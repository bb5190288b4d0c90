"""The kinds of misbehaviour the simulated Hub knows, one small struct each, closed by one union.

Each kind's `where` says which doors its rule stands at unless the Fault says otherwise: `api` (info, tree,
paths-info), `resolve` (the redirect), `resolve-cache` (bodies of git files), `cdn` (bodies of LFS files), `body` (both
of these), `hub` (all but the CDN), `any`. What a kind does is hub_faults' and hub_wire's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, TypeAlias

from tests.fakes.hub_repo import BytesContent, Content, Entry

Where: TypeAlias = Literal["api", "resolve", "resolve-cache", "cdn", "body", "hub", "any"]

# Kinds that replace the answer. Each `where` is what a Fault's `on` is when it does not say.


@dataclass(frozen=True, kw_only=True)
class Status:
    """Answer with any status, headers and body: refusals, proxies' error pages, hostile JSON."""

    where: ClassVar[Where] = "any"
    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class RetryAfter:
    """429 (or 503, 408) with Retry-After: in seconds, or as an HTTP-date so far ahead of the server's Date."""

    where: ClassVar[Where] = "any"
    seconds: int
    http_date: bool = False
    code: int = 429


@dataclass(frozen=True, kw_only=True)
class RateLimited:
    """The Hub's own 429: `ratelimit: "resolvers";r=0;t=55`, its policy, and no Retry-After."""

    where: ClassVar[Where] = "hub"
    reset_s: int = 55
    code: int = 429


@dataclass(frozen=True, kw_only=True)
class EntryVanished:
    """404 EntryNotFound for a file that the listing still names."""

    where: ClassVar[Where] = "resolve"


@dataclass(frozen=True, kw_only=True)
class ExpiredSignature:
    """The CDN's refusal of a signed URL, whatever the URL."""

    where: ClassVar[Where] = "cdn"


@dataclass(frozen=True, kw_only=True)
class CaptivePortal:
    """200 with a login page: what a hotel network says to everything."""

    where: ClassVar[Where] = "any"


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """A redirect to anywhere: another origin, another scheme, a private address."""

    where: ClassVar[Where] = "resolve"
    to: str
    code: int = 302


@dataclass(frozen=True, kw_only=True)
class RedirectLoop:
    """A redirect to the very URL that was asked for."""

    where: ClassVar[Where] = "resolve"
    code: int = 302


# Kinds that distort the answer to a ranged GET


@dataclass(frozen=True, kw_only=True)
class IgnoreRange:
    """200 and the whole file, as if no Range had been sent."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class WrongContentRange:
    """206 whose Content-Range starts `shift` bytes beside the bytes that follow."""

    where: ClassVar[Where] = "body"
    shift: int = 1


@dataclass(frozen=True, kw_only=True)
class WrongTotal:
    """206 whose Content-Range names another total size, or `*`."""

    where: ClassVar[Where] = "body"
    total: int | Literal["*"]


@dataclass(frozen=True, kw_only=True)
class NoContentRange:
    """206 without Content-Range."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class Multipart:
    """206 as multipart/byteranges, which a client that asked for one range need not understand."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class Gzip:
    """Content-Encoding: gzip, asked for or not; the offsets mean nothing then."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class RangeNotSatisfiable:
    """416 with `Content-Range: bytes */total` (the true size unless given)."""

    where: ClassVar[Where] = "body"
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class ChangedETag:
    """The object was replaced: another strong ETag, and If-Range with the old one gets 200. Perhaps other bytes."""

    where: ClassVar[Where] = "body"
    etag: str = "f" * 64
    content: Content | None = None


@dataclass(frozen=True, kw_only=True)
class ContentLength:
    """Content-Length lines as given: two that differ, a negative one, none at all."""

    where: ClassVar[Where] = "body"
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HeaderBomb:
    """`count` more header lines of `line_bytes` each."""

    where: ClassVar[Where] = "any"
    count: int = 1
    line_bytes: int = 70_000


# Kinds of delivery. With neither at_byte nor after_bytes they strike before the first byte of the answer.


@dataclass(frozen=True, kw_only=True)
class Reset:
    """RST; every byte before the cut has reached the client's kernel."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class CloseEarly:
    """FIN although Content-Length promised more."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class Stall:
    """Silence with the connection open, until the rule is released or the client goes away."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class SlowFirstByte:
    """No answer for `delay_s`; None is a Stall before the first byte."""

    where: ClassVar[Where] = "body"
    delay_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Drip:
    """From the cut on (the body's start unless given), so many bytes a second."""

    where: ClassVar[Where] = "body"
    bytes_per_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OverLong:
    """More bytes after the body; `declared` says whether Content-Length counts them."""

    where: ClassVar[Where] = "body"
    extra: bytes = b"x" * 1000
    declared: bool = False


@dataclass(frozen=True, kw_only=True)
class NoContentLength:
    """No Content-Length: the body ends where the connection does, at the cut if one is given."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class ChunkedTruncated:
    """Transfer-Encoding: chunked, and FIN inside a chunk: at the cut, or half-way."""

    where: ClassVar[Where] = "body"


@dataclass(frozen=True, kw_only=True)
class Corrupt:
    """The byte at the cut (the first unless given) is xor-ed; `times=1` is once, `times=None` always."""

    where: ClassVar[Where] = "body"
    xor: int = 0x01


# Kinds that forge the listing (info, tree and paths-info alike)


@dataclass(frozen=True, kw_only=True)
class ForgeListing:
    """The listing after `edit`; `listing_adds`, `listing_sizes` and `listing_hides` make common ones."""

    where: ClassVar[Where] = "api"
    edit: Callable[[Sequence[Entry]], Sequence[Entry]]


@dataclass(frozen=True, kw_only=True)
class CursorLoop:
    """Every page of the tree has a next one: the same again, or (`fresh`) a cursor never seen before."""

    where: ClassVar[Where] = "api"
    fresh: bool = False


@dataclass(frozen=True, kw_only=True)
class QueryLost:
    """The API answers as if its address had no query: a caching proxy dropped `?recursive=true`, `?blobs=true`."""

    where: ClassVar[Where] = "api"


Replacing: TypeAlias = (
    Status | RetryAfter | RateLimited | ExpiredSignature | CaptivePortal | Redirect | RedirectLoop
)  # fmt: skip
Distorting: TypeAlias = (
    IgnoreRange | WrongContentRange | WrongTotal | NoContentRange | Multipart | Gzip | RangeNotSatisfiable
    | ChangedETag | ContentLength | HeaderBomb
)  # fmt: skip
Delivering: TypeAlias = (
    Reset | CloseEarly | Stall | SlowFirstByte | Drip | OverLong | NoContentLength | ChunkedTruncated | Corrupt
)  # fmt: skip
Listing: TypeAlias = ForgeListing | CursorLoop | QueryLost | EntryVanished
Kind: TypeAlias = Replacing | Distorting | Delivering | Listing


# Forged listings, ready made


def listing_adds(*paths: str, size: int = 3) -> ForgeListing:
    """A listing that also names `paths`, whatever they look like; nothing is served under them."""
    forged = tuple(Entry(path=path, size=size, oid="0" * 40, content=BytesContent(b"x" * size)) for path in paths)
    return ForgeListing(edit=lambda entries: (*entries, *forged))


def listing_sizes(sizes: Mapping[str, int]) -> ForgeListing:
    """A listing that lies about these files' sizes."""
    return ForgeListing(edit=lambda entries: [replace(e, size=sizes.get(e.path, e.size)) for e in entries])


def listing_hides(*globs: str) -> ForgeListing:
    """A listing that leaves out the files that match."""
    return ForgeListing(
        edit=lambda entries: [e for e in entries if not any(fnmatchcase(e.path, glob) for glob in globs)]
    )
