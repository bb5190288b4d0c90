"""The nouns of the simulated Hub's HTTP: a request as rules see it, an answer as it will be sent, a byte range.

Pure and small; what answers say is hub_answers' business, how they are sent hub_wire's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from urllib.parse import quote

from tests.fakes.hub_repo import BytesContent, Content

Door: TypeAlias = Literal["api", "resolve", "resolve-cache", "cdn"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

UNKNOWN_BYTES = 1 << 62  # the length of an answer that is not made yet


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request as the fault rules see it. [start, end) are the file bytes it asks for, clipped to the file."""

    number: int
    door: Door
    method: str
    endpoint: str
    target: str
    repo: str
    path: str
    wall_s: float  # the server's clock, for dates
    edge: str = ""  # of the CDN: the address that was asked
    start: int = 0
    end: int = UNKNOWN_BYTES
    total: int = 0

    def url(self, *, cursor: str) -> str:
        """This URL with another cursor."""
        kept = [pair for pair in self.target.partition("?")[2].split("&") if pair and not pair.startswith("cursor=")]
        query = "&".join([*kept, f"cursor={quote(cursor, safe='')}"])
        return f"{self.endpoint}{self.target.partition('?')[0]}?{query}"


@dataclass(frozen=True, kw_only=True)
class Body:
    """Bytes [start, end) of a content; `of_file` when they are a repository file's own and belong in the byte log."""

    content: Content
    start: int
    end: int
    of_file: bool = False


NOTHING = Body(content=BytesContent(b""), start=0, end=0)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole HTTP answer; what `headers` say is sent and nothing else."""

    status: int
    headers: Headers
    body: Body = NOTHING

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return dict(reversed(self.headers)).get(name)

    def without(self, name: str) -> Answer:
        """The same, lacking that header."""
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0] != name))

    def with_header(self, name: str, value: str) -> Answer:
        """The same with that header set: in its place if it was there, else last."""
        if self.header(name) is None:
            return replace(self, headers=(*self.headers, (name, value)))
        return replace(self, headers=tuple((key, value if key == name else old) for key, old in self.headers))

    def with_body(self, data: bytes) -> Answer:
        """The same with these bytes as its body and an honest Content-Length."""
        body = Body(content=BytesContent(data), start=0, end=len(data))
        return replace(self.with_header("content-length", str(len(data))), body=body)


def text_body(status: int, text: str) -> Answer:
    """A plain-text answer as the Hub's web framework makes it."""
    data = text.encode()
    headers = (("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(data))))
    body = Body(content=BytesContent(data), start=0, end=len(data))
    return Answer(status=status, headers=headers, body=body)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The bytes a request asks for: all of them, [start, end), or none that exist."""

    start: int
    end: int
    ranged: bool = False
    satisfiable: bool = True


def asked_bytes(header: str | None, size: int, *, if_range: str | None = None, etag: str | None = None) -> Asked:
    """Read one byte range; several ranges, nonsense and a changed If-Range mean the whole file."""
    whole = Asked(start=0, end=size)
    if header is None or not header.startswith("bytes=") or (if_range is not None and if_range != etag):
        return whole
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    if not dash or not (first + last).isdecimal():
        return whole
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:
        return whole
    if start >= size:
        return Asked(start=size, end=size, ranged=True, satisfiable=False)
    return Asked(start=start, end=end, ranged=True)
