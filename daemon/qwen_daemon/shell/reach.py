"""Asks an endpoint who we are: one small request that shows whether it is reached, how soon, and what it thinks of us.

For `qwen-daemon probe`. Files come through `fetch`; which endpoint this is, and what its answer means, is the caller's.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from qwen_daemon.shell.fetch import translate
from qwen_daemon.shell.proxy import named, proxy_for

WHO_AM_I = "/api/whoami-v2"  # the Hub answers 401 without a token; a mirror may have no such page
ANSWER_S = 15.0
ANSWER_BYTES_MAX = 256 << 10
NAME_LETTERS_MAX = 96


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """An answer, whatever it says. `clock_ahead_s`: our clock less the endpoint's; None if it names no time."""

    status: int
    latency_s: float  # from the request to the headers, with connecting
    clock_ahead_s: float | None
    is_page: bool  # a web page, or a way to one: not what an API says
    user: str


async def greet(session: aiohttp.ClientSession, endpoint: str, token: str | None) -> Greeting:
    """Ask once; the token goes nowhere else. Raises Trouble if no answer comes."""
    url = f"{endpoint}{WHO_AM_I}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with asyncio.timeout(ANSWER_S):
            begun_s = time.monotonic()
            async with session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=proxy_for(url)
            ) as answer:
                latency_s = time.monotonic() - begun_s
                body = await answer.content.read(ANSWER_BYTES_MAX)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise translate(error) from error
    kind = answer.headers.get("Content-Type", "")
    return Greeting(
        status=answer.status,
        latency_s=latency_s,
        clock_ahead_s=_clock_ahead_s(answer.headers.get("Date", "")),
        is_page=300 <= answer.status < 400 or (answer.status < 300 and "html" in kind.lower()),
        user=_user(body) if answer.status == 200 else "",
    )


def proxy_name(endpoint: str) -> str:
    """Host and port of the proxy that stands before this endpoint; "" if none does."""
    proxy = proxy_for(endpoint)
    return named(proxy) if proxy else ""


def _clock_ahead_s(date: str) -> float | None:
    try:
        theirs = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    return (datetime.now(UTC) - theirs).total_seconds()


def _user(body: bytes) -> str:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    name = said.get("name") if isinstance(said, dict) else None
    return name[:NAME_LETTERS_MAX] if isinstance(name, str) else ""
