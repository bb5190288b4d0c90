"""Bytes from one endpoint (the Hub, a mirror of it) and its CDN: the only module that makes requests with aiohttp.

Each read is one bounded Range request. Redirects are followed by hand: the token goes to this endpoint's own origin and
nowhere else, a signed CDN address is kept per file until it fails, and https never becomes http.
Which answer is acceptable is core.verdict's decision; which endpoint is asked, engine.endpoints'.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from qwen_api.manifest import WantedFile
from qwen_api.models import is_repo
from qwen_daemon.core.errors import AskHuman, ResolveAgain, StillShut, Trouble, TryAgain, TryLater
from qwen_daemon.core.verdict import Answer, Asked, Follow, TakeBody, Verdict, judge
from qwen_daemon.ports import Body, Reading
from qwen_daemon.shell import durable
from qwen_daemon.shell.addresses import Addresses
from qwen_daemon.shell.body import body_of
from qwen_daemon.shell.edges import Edges, PrivateAddress, is_private, only_public
from qwen_daemon.shell.newest import Newest
from qwen_daemon.shell.proxy import place, proxy_for
from qwen_daemon.shell.tokens import Token

HOPS_MAX = 5  # the Hub uses one or two
HEADERS_TIMEOUT_S = 60.0  # the CDN's slowest first byte seen is under ten
CONTENTS_MAX = 1000  # contents remembered; more files than this are never in flight
SHORT_BODY_BYTES = 16 << 10  # a redirect's or a refusal's few words
SHORT_BODY_S = 1.0
INTO_PRIVATE = "redirected into a private network"
NOT_PLAIN = "redirected to an address that is not plain http(s)"
_HOST = re.compile(r"[a-z0-9._:-]+")  # nothing that a proxy might read as another one
READ_BUFFER_BYTES = 512 << 10  # aiohttp keeps up to twice as much; its 64 KiB cost a wake-up per packet


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """What the configuration decides about requests, the same for all endpoints."""

    user_agent: str
    connect_timeout_s: float
    read_timeout_s: float
    connections_max: int


def http_session(config: FetchConfig, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """The connections that all endpoints share; an async context manager. It carries no token and keeps no cookie.

    Names are looked up by `resolver`, or as the system does it.
    """
    return aiohttp.ClientSession(
        connector=Edges(limit=config.connections_max, resolver=resolver),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
        ),
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": config.user_agent},
    )


class HttpOrigin:
    """ports.Origin over aiohttp, for one endpoint and its token."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        token: Token,
        *,
        on_throttled: Callable[[str, float], None],
        on_renamed: Callable[[str, str], None] = lambda _repo, _name: None,
    ) -> None:
        assert isinstance(session.connector, Edges), "a session of http_session()"
        self._session = session
        self._edges = session.connector
        self._endpoint = endpoint
        self._token = token
        self._on_throttled = on_throttled
        self._on_renamed = on_renamed
        self._hub = _origin(endpoint)
        self._addresses = Addresses()
        self._gates_open_at_s: dict[tuple[str, str, int], float] = {}
        self._unranged = Newest[tuple[str, str], None](CONTENTS_MAX)  # whose last answer was all for a range
        self._hosts = Newest[tuple[str, str], str](CONTENTS_MAX)  # who gave the last answer about a content

    def splits(self, repo: str, file: WantedFile) -> bool:
        """See ports.Origin."""
        return (repo, file.etag) not in self._unranged

    def distrust(self, repo: str, file: WantedFile) -> None:
        """See ports.Origin. Elsewhere is where the endpoint sends us next; and a stale answer was no word on ranges."""
        self._unranged.pop((repo, file.etag), None)
        self._addresses.forget_all()
        self._edges.lied(urlsplit(f"//{self.host(repo, file)}").hostname or "")

    def host(self, repo: str, file: WantedFile) -> str:
        """See ports.Origin. Behind redirects, and without the address, which may be signed."""
        return self._hosts.get((repo, file.etag), "")

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        """See ports.Origin. Raises StillShut while the server's word to wait holds."""
        asked = Asked(start=start, end=end, size_bytes=file.size_bytes, etag=file.etag, commit=commit)
        url = f"{self._endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        return self._read(url, asked, (repo, file.etag))

    @asynccontextmanager
    async def _read(self, file_url: str, asked: Asked, content: tuple[str, str]) -> AsyncIterator[Body]:
        response: aiohttp.ClientResponse | None = None
        try:
            response, take = await self._open(file_url, asked)
            self._learn_ranges(content, response.status, asked)
            self._learn_host(content, response.url)
            yield body_of(response, take, silence_s=self._session.timeout.sock_read or HEADERS_TIMEOUT_S)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise translate(error) from None  # its message may hold the signed address, and a traceback shows it
        finally:
            if response is not None:
                _hang_up(response)

    def _learn_ranges(self, content: tuple[str, str], status: int, asked: Asked) -> None:
        """Each answer tells anew, so that a server that was mended (or replaced) gets several connections again."""
        if status == 206:
            self._unranged.pop(content, None)
        elif asked.end - asked.start < asked.size_bytes:
            self._unranged[content] = None

    def _learn_name(self, asked_url: str, url: str) -> None:
        """The same file under another repository of this endpoint: that is how the Hub tells of a new name."""
        name, asked = _repo_in(url), _repo_in(asked_url)
        if name and asked and name != asked and is_repo(name):
            self._on_renamed(asked, name)

    def _learn_host(self, content: tuple[str, str], url: URL) -> None:
        self._hosts[content] = url.authority.rpartition("@")[2]

    async def _open(self, file_url: str, asked: Asked) -> tuple[aiohttp.ClientResponse, TakeBody]:
        """An answer with a body. A signed address that is spent is asked for anew, once, at the same byte."""
        address = await self._addresses.find(file_url)
        if address is not None:
            with suppress(ResolveAgain), self._addresses.using(file_url, address):
                return await self._walk(address, asked)
            address = await self._addresses.find(file_url)  # somebody else may have asked by now
            if address is not None:
                with self._addresses.using(file_url, address):
                    return await self._walk(address, asked)
        with self._addresses.asking(file_url) as learnt:
            try:
                return await self._walk(file_url, asked, learnt)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise translate(error) from None  # as above

    async def _walk(
        self, url: str, asked: Asked, learnt: Callable[[str], None] = lambda _address: None
    ) -> tuple[aiohttp.ClientResponse, TakeBody]:
        """From this address to a body. `learnt` is told where the endpoint sends us, or that it serves the file."""
        begin = url
        for _ in range(HOPS_MAX):
            self._check_gate(_origin(url))
            response, verdict = await self._ask(url, asked)
            if isinstance(verdict, TakeBody):
                if _origin(url) == self._hub:
                    learnt(begin)
                return response, verdict
            await _dismiss(response)
            if isinstance(verdict, TryLater):
                self._shut_gate(url, verdict.after_s)
            if isinstance(verdict, Trouble):
                raise verdict
            url = self._follow(url, verdict)
            if _origin(url) != self._hub:
                learnt(url)
            else:
                self._learn_name(begin, url)
        raise TryAgain("E_REDIRECT", f"more than {HOPS_MAX} redirects")

    async def _ask(self, url: str, asked: Asked) -> tuple[aiohttp.ClientResponse, Verdict]:
        """An answer and what it means; if a token was refused that is another one by now, the answer to that one."""
        if _origin(url) != self._hub:
            return await self._get(url, asked, None)
        token = self._token()
        response, verdict = await self._get(url, asked, token)
        if isinstance(verdict, AskHuman) and self._token.renewed(token):
            await _dismiss(response)
            response, verdict = await self._get(url, asked, self._token())
        return response, verdict

    async def _get(self, url: str, asked: Asked, token: str | None) -> tuple[aiohttp.ClientResponse, Verdict]:
        headers = {"Range": f"bytes={asked.start}-{asked.end - 1}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with only_public(_origin(url) != self._hub and not self._edges.is_private(self._hub[1])):
            async with asyncio.timeout(HEADERS_TIMEOUT_S):
                # encoded=True: a signed address must reach the server byte for byte.
                response = await self._session.get(
                    URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=proxy_for(url)
                )
        return response, judge(asked, self._answer(url, response))

    def _answer(self, url: str, response: aiohttp.ClientResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status, headers=headers, from_hub=_origin(url) == self._hub)

    def _follow(self, url: str, verdict: Follow) -> str:
        try:
            target = urljoin(url, verdict.location)
            parts = urlsplit(target)
            host, _port = parts.hostname or "", parts.port
        except ValueError:  # brackets or a port that are none
            raise TryAgain("E_REDIRECT", NOT_PLAIN) from None
        if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or parts.username or parts.password:
            raise TryAgain("E_REDIRECT", NOT_PLAIN)
        if urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise TryAgain("E_REDIRECT", "redirected from https to http")
        if is_private(host) and not self._edges.is_private(self._hub[1]):
            raise TryAgain("E_REDIRECT", INTO_PRIVATE)
        return target

    def _check_gate(self, origin: tuple[str, str, int]) -> None:
        """Nobody asks an origin that said "later" before that time, whichever file it said it about."""
        wait_s = self._gates_open_at_s.get(origin, 0.0) - asyncio.get_running_loop().time()
        if wait_s > 0:
            raise StillShut("E_RATE_LIMITED", "the server asked to wait", after_s=wait_s)

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
    if isinstance(error, PrivateAddress):
        return TryAgain("E_REDIRECT", INTO_PRIVATE)
    if isinstance(error, OSError) and error.errno in durable.OUT_OF_DESCRIPTORS:
        return durable.translate(error)
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return AskHuman("E_TLS", f"the server's certificate is not trusted ({kind})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return TryAgain("E_PROXY", f"the proxy refused to connect us (HTTP {error.status})")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return TryAgain("E_PROXY", f"cannot connect to the proxy {_where_and_why(error)}")
    if isinstance(error, (aiohttp.SocketTimeoutError, TimeoutError)):
        return TryAgain("E_STALLED", "no byte came in time")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TryAgain("E_DNS", "the host's name could not be looked up")
    if isinstance(error, aiohttp.ClientConnectorError):
        return TryAgain("E_NETWORK", f"cannot connect to {_where_and_why(error)}")
    if isinstance(error, (aiohttp.ClientPayloadError, ConnectionResetError)):
        return TryAgain("E_CUT_SHORT", "the connection ended in the middle of the file")
    if isinstance(error, OSError) and error.strerror:
        return TryAgain("E_NETWORK", f"{error.strerror} ({kind})")
    return TryAgain("E_NETWORK", kind)


def _where_and_why(error: aiohttp.ClientConnectorError) -> str:
    why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else type(error).__name__
    return f"{place(error.host, error.port)}: {why}"


@lru_cache(maxsize=256)  # of each address it is asked several times
def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _repo_in(url: str) -> str:
    """`org/name` of the address of a file; "" for any other."""
    before, resolve, _ = urlsplit(url).path.partition("/resolve/")
    return "/".join(before.split("/")[-2:]) if resolve else ""
