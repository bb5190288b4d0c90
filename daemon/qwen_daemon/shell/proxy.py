"""The proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY): which one, and how people know it."""

from __future__ import annotations

import os
import urllib.request
from functools import lru_cache
from urllib.parse import urlsplit

_NAMES = [name for scheme in ("http", "https", "all", "no") for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper())]


def proxy_for(url: str) -> str | None:
    """The proxy's address, passwords included, or None.

    Not aiohttp's trust_env: that would send the passwords of ~/.netrc along, whose `default` is meant for any host,
    also to a CDN whose signed addresses refuse a second authorization.
    """
    parts, proxies = urlsplit(url), _proxies(tuple(map(os.environ.get, _NAMES)))
    # typeshed leaves the function out
    if not proxies or urllib.request.proxy_bypass_environment(parts.netloc, proxies):  # type: ignore[attr-defined]
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


@lru_cache(maxsize=8)  # it walks the whole environment, and is asked at every request
def _proxies(_said: tuple[str | None, ...]) -> dict[str, str]:
    return urllib.request.getproxies_environment()


def named(proxy: str) -> str:
    """Host and port of a proxy's address and nothing else of it: users and passwords stand there too."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"//{proxy}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "of the environment"
    return place(host, port)


def place(host: str, port: int | None) -> str:
    """`host:port`, for people."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host
