"""Bytes from the Hub and its CDN: the only module that makes requests with aiohttp.

Each read is one bounded Range request. Redirects are followed by hand: the token goes to the configured endpoint's
origin and nowhere else, a signed CDN address is kept per file until the CDN refuses it, and https never becomes http.
Which answer is acceptable is core.verdict's decision.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from yarl import URL

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import AskHuman, ResolveAgain, Trouble, TryAgain, TryLater
from qwen_daemon.core.verdict import Answer, Asked, Follow, TakeBody, judge
from qwen_daemon.ports import Body, Reading
from qwen_daemon.shell.body import body_of

HOPS_MAX = 5  # the Hub uses one or two
HEADERS_TIMEOUT_S = 60.0  # the CDN's slowest first byte seen is under ten
SIGNED_MAX = 1000  # addresses kept; more files than this are never in flight
SHORT_BODY_BYTES = 16 << 10  # a redirect's or a refusal's few words
SHORT_BODY_S = 1.0
READ_BUFFER_BYTES = 512 << 10  # aiohttp keeps up to twice as much; its 64 KiB cost a wake-up per packet


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """What the configuration decides about requests. `token` reads the current token at each request."""

    endpoint: str
    token: Callable[[], str | None]
    user_agent: str
    connect_timeout_s: float
    read_timeout_s: float
    connections_max: int


class HttpOrigin:
    """ports.Origin over aiohttp. Use as an async context manager; it owns the connection pool."""

    def __init__(self, config: FetchConfig, *, on_throttled: Callable[[str, float], None]) -> None:
        self._config = config
        self._on_throttled = on_throttled
        self._hub = _origin(config.endpoint)
        self._signed: dict[str, str] = {}
        self._gates_open_at_s: dict[tuple[str, str, int], float] = {}
        self._unranged: set[tuple[str, str]] = set()  # contents of which a server sent all when asked for a range
        self._session: aiohttp.ClientSession | None = None
        self._proxies = urllib.request.getproxies_environment()  # once: it reads the whole environment

    async def __aenter__(self) -> HttpOrigin:
        config = self._config
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.connections_max, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
            ),
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": config.user_agent},
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    def splits(self, repo: str, file: WantedFile) -> bool:
        """See ports.Origin."""
        return (repo, file.etag) not in self._unranged

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        """See ports.Origin."""
        asked = Asked(start=start, end=end, size_bytes=file.size_bytes, etag=file.etag, commit=commit)
        url = f"{self._config.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        return self._read(url, asked, (repo, file.etag))

    @asynccontextmanager
    async def _read(self, resolve_url: str, asked: Asked, content: tuple[str, str]) -> AsyncIterator[Body]:
        response: aiohttp.ClientResponse | None = None
        try:
            response, take = await self._open(resolve_url, asked)
            if response.status == 200 and asked.end - asked.start < asked.size_bytes:
                self._unranged.add(content)
            yield body_of(response, take, silence_s=self._config.read_timeout_s)
        except ResolveAgain:
            self._signed.pop(resolve_url, None)
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise translate(error) from error
        finally:
            if response is not None:
                _hang_up(response)

    async def _open(self, resolve_url: str, asked: Asked) -> tuple[aiohttp.ClientResponse, TakeBody]:
        url = self._signed.get(resolve_url, resolve_url)
        for _ in range(HOPS_MAX):
            await self._wait_for_gate(_origin(url))
            response = await self._get(url, asked)
            verdict = judge(asked, self._answer(url, response))
            if isinstance(verdict, TakeBody):
                return response, verdict
            await _dismiss(response)
            if isinstance(verdict, TryLater):
                self._shut_gate(url, verdict.after_s)
            if isinstance(verdict, Trouble):
                raise verdict
            url = self._follow(url, verdict)
            if _origin(url) != self._hub:
                self._remember(resolve_url, url)
        raise TryAgain("E_REDIRECT", f"more than {HOPS_MAX} redirects")

    def _remember(self, resolve_url: str, signed: str) -> None:
        if len(self._signed) >= SIGNED_MAX:
            self._signed.pop(next(iter(self._signed)))
        self._signed[resolve_url] = signed

    async def _get(self, url: str, asked: Asked) -> aiohttp.ClientResponse:
        assert self._session is not None, "used outside its context"
        headers = {"Range": f"bytes={asked.start}-{asked.end - 1}"}
        token = self._config.token() if _origin(url) == self._hub else None
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with asyncio.timeout(HEADERS_TIMEOUT_S):
            # encoded=True: a signed address must reach the server byte for byte.
            return await self._session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=_proxy_for(url, self._proxies)
            )

    def _answer(self, url: str, response: aiohttp.ClientResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status, headers=headers, from_hub=_origin(url) == self._hub)

    def _follow(self, url: str, verdict: Follow) -> str:
        target = urljoin(url, verdict.location)
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise TryAgain("E_REDIRECT", "redirected to an address that is not plain http(s)")
        if urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise TryAgain("E_REDIRECT", "redirected from https to http")
        if _is_private(parts.hostname) and not _is_private(urlsplit(self._config.endpoint).hostname or ""):
            raise TryAgain("E_REDIRECT", "redirected into a private network")
        return target

    async def _wait_for_gate(self, origin: tuple[str, str, int]) -> None:
        """Nobody asks an origin that said "later" before that time, whichever file it said it about."""
        loop = asyncio.get_running_loop()
        # In a loop: another answer may move the gate while this one sleeps.
        while (wait_s := self._gates_open_at_s.get(origin, 0.0) - loop.time()) > 0:  # noqa: ASYNC110 - a deadline
            await asyncio.sleep(wait_s)

    def _shut_gate(self, url: str, after_s: float) -> None:
        origin = _origin(url)
        opens_at_s = asyncio.get_running_loop().time() + after_s
        if opens_at_s > self._gates_open_at_s.get(origin, 0.0):
            self._gates_open_at_s[origin] = opens_at_s
            self._on_throttled(f"{origin[0]}://{origin[1]}:{origin[2]}", after_s)


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Be done with an answer, at once if its body was not read to the end (else aiohttp keeps the connection)."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()  # close() would read on over TLS until the server has said goodbye
    response.close()


async def _dismiss(response: aiohttp.ClientResponse) -> None:
    """Be done with an answer whose body says nothing: a short one is read, so that its connection can be used again."""
    if 0 <= (response.content_length if response.content_length is not None else -1) <= SHORT_BODY_BYTES:
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(SHORT_BODY_S):
                await response.content.read()
    response.close()


def translate(error: BaseException) -> Trouble:
    """Which trouble a failed request is. The foreign message is not repeated: it may hold a signed address."""
    kind = type(error).__name__
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return AskHuman("E_TLS", f"the server's certificate is not trusted ({kind})")
    if isinstance(error, (aiohttp.SocketTimeoutError, TimeoutError)):
        return TryAgain("E_STALLED", "no byte came in time")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TryAgain("E_DNS", "the host's name could not be looked up")
    if isinstance(error, aiohttp.ClientPayloadError):
        return TryAgain("E_CUT_SHORT", "the connection ended in the middle of the file")
    if isinstance(error, OSError) and error.strerror:
        return TryAgain("E_NETWORK", f"{error.strerror} ({kind})")
    return TryAgain("E_NETWORK", kind)


def _proxy_for(url: str, proxies: dict[str, str]) -> str | None:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say.

    Not aiohttp's trust_env: that would send the passwords of ~/.netrc along, whose `default` is meant for any host,
    also to a CDN whose signed addresses refuse a second authorization.
    """
    parts = urlsplit(url)
    # typeshed leaves the function out
    if not proxies or urllib.request.proxy_bypass_environment(parts.netloc, proxies):  # type: ignore[attr-defined]
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


@lru_cache(maxsize=256)  # of each address it is asked several times
def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
