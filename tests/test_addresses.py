"""One question for all connections of a file, one answer for all of them; and what a server shows about ranges."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import StillShut, TryAgain, TryLater
from qwen_daemon.shell.addresses import KEPT_MAX, Addresses
from qwen_daemon.shell.fetch import FetchConfig, HttpOrigin, http_session
from qwen_daemon.shell.tokens import Token
from tests.fakes import hub_kinds as kinds
from tests.fakes.bodies import read_out
from tests.fakes.hub import Fault, SimHub, SimRepo

MIB = 1 << 20
WEIGHTS = "model.safetensors"
CONTENT = bytes(range(256)) * (8 * MIB // 256)
REPO = SimRepo(id="org/one", files={WEIGHTS: CONTENT})
FILE = WantedFile(
    path=WEIGHTS,
    size_bytes=len(CONTENT),
    git_sha1=REPO.entry(WEIGHTS).oid,
    sha256=REPO.entry(WEIGHTS).sha256,
)
CONFIG = FetchConfig(user_agent="test", connect_timeout_s=5, read_timeout_s=1, connections_max=64)


@asynccontextmanager
async def origin_of(hub: SimHub) -> AsyncIterator[HttpOrigin]:
    async with http_session(CONFIG) as session:
        yield HttpOrigin(session, hub.endpoint, Token(lambda: None), on_throttled=lambda _origin, _after_s: None)


async def read(origin: HttpOrigin, start: int, end: int) -> bytes:
    content = bytearray()
    async with origin.read(REPO.id, REPO.sha, FILE, start, end) as body:
        await read_out(body, content)
    return bytes(content)


async def eight(origin: HttpOrigin) -> list[bytes | BaseException]:
    """Eight reads of different parts that begin in one moment."""
    reads = (read(origin, part * MIB, (part + 1) * MIB) for part in range(8))
    return await asyncio.gather(*reads, return_exceptions=True)


def are_right(parts: list[bytes | BaseException]) -> bool:
    return parts == [CONTENT[part * MIB : (part + 1) * MIB] for part in range(8)]


def resolves(hub: SimHub) -> int:
    return len(hub.log.requests(server="hub", path=WEIGHTS))


@pytest.mark.fault("H19")
async def test_eight_connections_ask_once_also_when_the_address_expires() -> None:
    """One request to the Hub for eight to the CDN; after the expiry eight are refused, and one asks for all again."""
    async with SimHub(REPO) as hub, origin_of(hub) as origin:
        assert are_right(await eight(origin))
        assert (resolves(hub), len(hub.log.requests(server="cdn"))) == (1, 8)
        hub.expire_urls()
        assert are_right(await eight(origin))
        assert resolves(hub) == 2
        assert hub.log.leaks() == []


@pytest.mark.fault("H18")
async def test_a_question_that_failed_is_asked_by_the_next() -> None:
    """A refusal meets one connection, the seven others have their bytes."""
    async with SimHub(REPO) as hub, origin_of(hub) as origin:
        hub.faults.add(Fault(kinds.Status(code=502), on="resolve", times=1))
        parts = await eight(origin)
        assert [type(part) for part in parts].count(TryAgain) == 1 and resolves(hub) == 2
        assert sum(isinstance(part, bytes) for part in parts) == 7


async def test_a_question_that_is_cancelled_is_asked_by_the_next() -> None:
    """The connection that asked was cut; the one that waited for its answer goes on by itself."""
    async with SimHub(REPO) as hub, origin_of(hub) as origin:
        silent = hub.faults.add(Fault(kinds.SlowFirstByte(), on="resolve", times=1))
        first = asyncio.create_task(read(origin, 0, MIB))
        await silent.hit()
        second = asyncio.create_task(read(origin, MIB, 2 * MIB))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == CONTENT[MIB : 2 * MIB] and resolves(hub) == 2


@pytest.mark.fault("H14", "H25")
@pytest.mark.parametrize(
    ("fault", "told"), [(kinds.SlowFirstByte(), "E_STALLED"), (kinds.RetryAfter(seconds=99), "E_RATE_LIMITED")]
)
async def test_what_took_its_time_or_says_when_is_the_answer_for_all(fault: kinds.Kind, told: str) -> None:
    """Eight in a row would wait eight times as long; and whoever was told "later" asks nothing before."""
    async with SimHub(REPO) as hub, origin_of(hub) as origin:
        hub.faults.add(Fault(fault, on="resolve", times=1))
        parts = await eight(origin)
        assert {part.code for part in parts if isinstance(part, TryAgain | TryLater)} == {told}
        assert resolves(hub) == 1
        if told == "E_RATE_LIMITED":
            with pytest.raises(StillShut):
                await read(origin, 0, MIB)
            assert resolves(hub) == 1


@pytest.mark.fault("H33", "T1")
@pytest.mark.parametrize("to", ["http://127.0.0.1:8/x", "http://10.0.0.1/x", "http://[::1]/x", "http://nas/x"])
@pytest.mark.parametrize(("endpoint", "is_followed"), [("http://hub.example", False), ("http://10.9.9.9:8090", True)])
async def test_only_an_endpoint_in_a_private_network_sends_us_into_one(
    endpoint: str, to: str, is_followed: bool
) -> None:
    """A public Hub must not make us knock on the neighbours' doors; a mirror next door may have its files next door."""
    asked: list[tuple[str, bool]] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append((head.split(" ")[1], "authorization" in head.lower()))
        status = "302 Found" if len(asked) == 1 else "503 No"
        writer.write(f"HTTP/1.1 {status}\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as proxy, http_session(CONFIG) as session:
        os.environ["ALL_PROXY"] = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"  # whatever the address
        origin = HttpOrigin(session, endpoint, Token(lambda: "token"), on_throttled=lambda _origin, _after_s: None)
        with pytest.raises(TryAgain) as refused:
            await read(origin, 0, MIB)
    file = f"{endpoint}/{REPO.id}/resolve/{REPO.sha}/{WEIGHTS}"
    assert asked == [(file, True), (to, False)][: 1 + is_followed]
    assert refused.value.code == ("E_HTTP" if is_followed else "E_REDIRECT")


class Names(AbstractResolver):
    """Addresses by name."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses = {f"{name}.example": behind for name, behind in addresses.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses[host]
        ]

    async def close(self) -> None:
        pass


@pytest.mark.fault("H33", "T1")
@pytest.mark.parametrize(
    ("hub", "is_followed"), [(["127.0.0.1"], True), (["127.0.0.1", "8.8.8.8"], False), ([], False)]
)
async def test_a_name_leads_into_a_private_network_only_for_a_hub_that_is_in_one(
    hub: list[str], is_followed: bool
) -> None:
    """In it with all its addresses (as also behind a resolver that gives private ones to all names), not with a lure.

    Without an address the Hub is behind a proxy, and the other name, of NO_PROXY, is not.
    """
    asked: list[str] = []
    ended = asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower().partition("host: ")[2].split(":")[0])
            to = f"http://cdn.example:{port}/x"
            status = "302 Found" if len(asked) == 1 else "503 No"
            writer.write(f"HTTP/1.1 {status}\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.release()

    names = Names(hub=hub, cdn=["127.0.0.1"])
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, http_session(CONFIG, names) as session:
        port = server.sockets[0].getsockname()[1]
        if not hub:
            os.environ |= {"ALL_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": "cdn.example"}
        endpoint = f"http://hub.example:{port}"
        origin = HttpOrigin(session, endpoint, Token(lambda: "token"), on_throttled=lambda _origin, _after_s: None)
        with pytest.raises(TryAgain) as refused:
            await read(origin, 0, MIB)
        for _ in ("hub", "cdn"):
            await ended.acquire()
    assert asked == ["hub.example", "cdn.example"][: 1 + is_followed]
    assert refused.value.code == ("E_HTTP" if is_followed else "E_REDIRECT")


@pytest.mark.fault("H1")
async def test_a_server_without_ranges_is_remembered_until_it_has_them() -> None:
    """All of the file for a part of it: one connection from now on; until an answer shows otherwise."""
    async with SimHub(REPO) as hub, origin_of(hub) as origin:
        hub.faults.add(Fault(kinds.IgnoreRange(), times=1))
        assert origin.splits(REPO.id, FILE)
        assert await read(origin, MIB, 2 * MIB) == CONTENT[MIB : 2 * MIB]
        assert not origin.splits(REPO.id, FILE)
        assert await read(origin, 2 * MIB, len(CONTENT)) == CONTENT[2 * MIB :]
        assert origin.splits(REPO.id, FILE)


async def test_what_is_learnt_again_costs_no_other_its_place() -> None:
    """However often one file's address changes; a new file takes the place of the one that was learnt longest ago."""
    addresses = Addresses()
    for number in range(KEPT_MAX):
        addresses.keep(f"file {number}", "first")
    addresses.keep("file 1", "second")
    assert [await addresses.find(f"file {number}") for number in range(KEPT_MAX)] == [
        "second" if number == 1 else "first" for number in range(KEPT_MAX)
    ]
    addresses.keep("new", "first")
    assert await addresses.find("file 0") is None
    assert (await addresses.find("file 1"), await addresses.find("new")) == ("second", "first")
