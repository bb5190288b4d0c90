"""What an HTTP answer to a request for bytes means: take the body, follow it elsewhere, or which trouble it is.

Pure: the fetch module passes status and headers. The answers described in comments are recorded ones of the real Hub
and its CDN; header names are lower-case here. A body is taken only when it is provably the bytes that were asked for:
right start, right total size, no multipart, a content coding only around the whole file (RFC 9110 sections 8.4, 14 and
15.3.7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from qwen_daemon.core.backoff import asked_wait_s
from qwen_daemon.core.errors import AskHuman, ResolveAgain, Trouble, TryAgain, TryLater

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_BUSY_WAIT_S = 10.0  # for a 429 or 503 that names no time

# X-Error-Code values of the Hub, and what they are called here.
_HUB_ERRORS = {
    "GatedRepo": "E_GATED",
    "RepoNotFound": "E_NOT_FOUND",
    "RevisionNotFound": "E_REVISION_NOT_FOUND",
    "EntryNotFound": "E_FILE_NOT_FOUND",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Bytes `start` to `end` (behind the last) of a file of `size_bytes` whose hash is `etag`."""

    start: int
    end: int
    size_bytes: int
    etag: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and headers (lower-case names). `from_hub`: the answer came from the configured endpoint's origin."""

    status: int
    headers: Mapping[str, str]
    from_hub: bool


@dataclass(frozen=True, kw_only=True)
class TakeBody:
    """The body is the file's bytes from `skip` bytes before the asked start on; read `skip + length` and stop.

    `gzipped`: so it is once unpacked; some mirrors compress small JSON in spite of `Accept-Encoding: identity`.
    """

    skip: int
    length: int
    gzipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Go to `location` (possibly relative), keeping the same range."""

    location: str


Verdict = TakeBody | Follow | Trouble


def judge(asked: Asked, answer: Answer) -> Verdict:
    """Decide. A Trouble is returned, not raised: the caller raises it."""
    if answer.status in (301, 302, 303, 307, 308):
        return _judge_redirect(asked, answer)
    if answer.status in (200, 206):
        return _why_not_ours(asked, answer) or _judge_body(asked, answer)
    return judge_refusal(answer)


def judge_refusal(answer: Answer) -> Trouble:
    """Which trouble a status of 400 or more is."""
    status, headers = answer.status, answer.headers
    said = _clean(headers.get("x-error-message", "")) or f"HTTP {status}"
    if status == 429 or (status in (408, 503) and "retry-after" in headers):
        return TryLater("E_RATE_LIMITED", said, after_s=asked_wait_s(headers, default_s=_BUSY_WAIT_S))
    if not answer.from_hub:
        return _judge_cdn(status, said)
    code = _HUB_ERRORS.get(headers.get("x-error-code", ""))
    if code is not None:
        return AskHuman(code, said)
    if "access to this resource is disabled" in said.lower():
        return AskHuman("E_DISABLED", said)
    if status == 401:
        # The Hub hides what a stranger may not see behind the same 401; only a bad token is named as such
        # (huggingface_hub, utils/_http.py, decides likewise, but for https addresses only).
        if "invalid credentials" in said.lower():
            return AskHuman("E_AUTH", said)
        return AskHuman("E_NOT_FOUND", "no such repository, or it is private and the token may not see it")
    if status == 403:
        return AskHuman("E_FORBIDDEN", said)
    if status in (404, 410, 451):
        return AskHuman("E_NOT_FOUND", said)
    return TryAgain("E_HTTP", said)


def _judge_cdn(status: int, said: str) -> Trouble:
    # A signed address lives about an hour; an edge now and then refuses a good one ("invalid range", "invalid key").
    if status in (400, 401, 403, 404, 410):
        return ResolveAgain("E_URL_EXPIRED", said)
    return TryAgain("E_HTTP", said)


def _judge_redirect(asked: Asked, answer: Answer) -> Verdict:
    location = answer.headers.get("location", "")
    if not location or _CONTROL.search(location):
        return TryAgain("E_REDIRECT", f"HTTP {answer.status} without a usable Location")
    # Proxies unescape paths; what may not stand in an address is escaped again, everything else is left as it came.
    return _why_not_ours(asked, answer) or Follow(location=quote(location, safe=_ASCII, errors="surrogateescape"))


def _why_not_ours(asked: Asked, answer: Answer) -> Trouble | None:
    """The Hub repeats the file's hash and size in X-Linked-* (LFS files); another one means another content."""
    headers = answer.headers
    if not answer.from_hub:
        return None
    etag, size = headers.get("x-linked-etag"), headers.get("x-linked-size")
    if etag is not None and _strip_etag(etag) != asked.etag:
        return TryAgain("E_CONTENT_CHANGED", "the Hub names another hash for this file than its listing")
    if size is not None and size != str(asked.size_bytes):
        return TryAgain("E_CONTENT_CHANGED", "the Hub names another size for this file than its listing")
    commit = headers.get("x-repo-commit")
    if commit is not None and commit != asked.commit:
        return TryAgain("E_CONTENT_CHANGED", "the Hub answered for another commit")
    return None


def _judge_body(asked: Asked, answer: Answer) -> Verdict:
    headers = answer.headers
    coding = headers.get("content-encoding", "identity").lower()
    gzipped = coding in ("gzip", "x-gzip")
    if coding not in ("identity", "") and not (gzipped and answer.status == 200):
        return TryAgain("E_ENCODED", "the server compressed a range, which destroys its offsets")
    content_type = headers.get("content-type", "").lower()
    if content_type.startswith("multipart/"):
        return TryAgain("E_BAD_RANGE", "the server answered with multipart ranges")
    if answer.status == 200:
        return _judge_whole(asked, headers, content_type, gzipped=gzipped)
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        return TryAgain("E_BAD_RANGE", "206 without a readable Content-Range")
    first, last, total = int(match[1]), int(match[2]), match[3]
    if total not in ("*", str(asked.size_bytes)):  # "*": the server does not know (RFC 9110 section 14.4)
        return TryAgain("E_CONTENT_CHANGED", f"the server says {total} bytes, the listing {asked.size_bytes}")
    if first != asked.start or not first <= last < asked.end:
        return TryAgain("E_BAD_RANGE", f"asked for {asked.start}-{asked.end - 1}, got {first}-{last}")
    return TakeBody(skip=0, length=last + 1 - first)


def _judge_whole(asked: Asked, headers: Mapping[str, str], content_type: str, *, gzipped: bool) -> Verdict:
    """200 for a range: some servers do not know ranges; the bytes before the asked ones are read and dropped."""
    length = None if gzipped else headers.get("content-length")
    if length is not None and length != str(asked.size_bytes):
        captive = "text/html" in content_type
        code = "E_CAPTIVE_PORTAL" if captive else "E_CONTENT_CHANGED"
        return TryAgain(code, f"the server sent {_clean(length)} bytes, the listing says {asked.size_bytes}")
    if length is None and "text/html" in content_type:
        return TryAgain("E_CAPTIVE_PORTAL", "a web page came instead of the file")
    return TakeBody(skip=asked.start, length=asked.end - asked.start, gzipped=gzipped)


def _strip_etag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _clean(text: str) -> str:
    """A header's text as it may stand in a log line."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])
