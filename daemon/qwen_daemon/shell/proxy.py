"""The proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY): which one, and how people know it."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


def proxy_for(url: str) -> str | None:
    """The proxy's address, passwords included, or None.

    Not aiohttp's trust_env: that would send the passwords of ~/.netrc along, whose `default` is meant for any host,
    also to a CDN whose signed addresses refuse a second authorization.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass_environment(parts.netloc):  # type: ignore[attr-defined] # typeshed leaves it out
        return None
    proxies = urllib.request.getproxies_environment()
    return proxies.get(parts.scheme) or proxies.get("all")


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
