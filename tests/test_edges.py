"""A CDN of several machines, one of which sends wrong bytes: the file comes from another, whichever byte is wrong.

The machines have hosts of their own, or one name with several addresses as the real ones have; then connections are
spread over them, and a large file always meets the bad one.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.manifest import WantedFile
from qwen_daemon.shell.edges import is_private, trusted
from qwen_daemon.shell.fetch import HttpOrigin, http_session
from qwen_daemon.shell.tokens import Token
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running
from tests.test_range_faults import CONFIG, LOOPS, MIB, TOKEN, WEIGHTS, fetch, run

NAME, KEY, CDN = "org/one", "org--one", "cdn.example"
TRIES_MAX = 4  # as core.backoff has it for a file
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])


@given(st.frozensets(ADDRESSES, min_size=1), st.dictionaries(ADDRESSES, st.integers(1, 5)))
def test_somebody_is_always_asked_and_never_a_liar_beside_an_honest_one(
    addresses: frozenset[str], lies: Mapping[str, int]
) -> None:
    """All that never lied; where all have, one: who did least."""
    asked = trusted(addresses, lies)
    honest = addresses - lies.keys()
    assert asked == honest if honest else len(asked) == 1
    assert asked <= addresses and max(lies.get(a, 0) for a in asked) == min(lies.get(a, 0) for a in addresses)


@pytest.mark.fault("H33", "T1")
@pytest.mark.parametrize(
    "host",
    [
        *("nas", "localhost", "localhost.", "nas.local."),
        *("10.0.0.1", "10.0.0.1.", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0.0.0.0"),
        *("169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1"),
        *("::", "::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "::127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::1"),
    ],
)
def test_one_s_own_network_in_every_spelling(host: str) -> None:
    """As resolvers read names and numbers, and as IPv6 wraps IPv4 (mapped, NAT64, 6to4)."""
    assert is_private(host)


@pytest.mark.parametrize(
    "host",
    [
        *("huggingface.co", "huggingface.co.", "1.example", "8.8.8.8", "2600:9000::1", "::ffff:8.8.8.8"),
        *("64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_what_is_no_one_s_own_network(host: str) -> None:
    """Also the IPv4 machines that a host with IPv6 alone reaches through a NAT64 of its network."""
    assert not is_private(host)


@pytest.mark.fault("H36", "H38")
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_lying_edge_of_its_own_name_is_left_at_the_next_try(tmp_path: Path, place: float) -> None:
    """The first, a middle or the last byte: the Hub is asked anew where the file lies, and names another edge."""
    weights = model_folder.safetensors("w", floats=MIB // 2)
    repo = SimRepo(id=NAME, files={**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: weights})
    with ThreadedSimHub(SimHub(repo, edges=2)) as hub:
        bad, good = hub.edges
        hub.faults.add(Fault(kinds.Corrupt(), edge=bad, path=WEIGHTS, at_byte=int(place * (len(weights) - 1))))
        with Running(tmp_path, endpoint=hub.endpoint, models=[NAME]) as daemon:
            assert daemon.wait_event(e.FileRetry).code == "E_CORRUPT"
            daemon.client.retry(KEY)
            assert (Path(daemon.wait_complete(KEY).path) / WEIGHTS).read_bytes() == weights
            assert [request.edge for request in hub.log.requests(server="cdn")] == [bad, good]
            hub.log.settle()
            assert hub.log.bytes_served(WEIGHTS) == 2 * len(weights)


class Behind(AbstractResolver):
    """One name and its addresses; `failures` look-ups from now fail."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.failures = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert host == CDN
        if self.failures:
            self.failures -= 1
            raise OSError(None, "Temporary failure in name resolution")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


class Reader:
    """One file over eight connections at once, hashed at the end, and again if that is wrong: as the engine does it."""

    def __init__(self, hub: SimHub, origin: HttpOrigin, repo: SimRepo) -> None:
        self.hub, self.origin, self.repo = hub, origin, repo
        entry = repo.entry(WEIGHTS)
        self.file = WantedFile(path=WEIGHTS, size_bytes=entry.size, git_sha1=entry.oid, sha256=entry.sha256)

    async def tries(self) -> list[set[str]]:
        """Of each try, the edges that were asked; the last one's bytes were right."""
        asked: list[set[str]] = []
        while len(asked) < TRIES_MAX:
            before = len(self.hub.log.requests(server="cdn"))
            content = await self.once()
            asked.append({request.edge for request in self.hub.log.requests(server="cdn")[before:]})
            if sha256(content).hexdigest() == self.file.sha256:
                return asked
            self.origin.distrust(NAME, self.file)
        raise AssertionError(f"never right: {asked}")

    async def once(self) -> bytes:
        size = self.file.size_bytes
        cuts = [part * size // 8 for part in range(9)]
        of = (NAME, self.repo.sha, self.file)
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(fetch(self.origin, *cuts[n : n + 2], of=of)) for n in range(8)]
        return b"".join(bytes(part.result()[0]) for part in parts)


@asynccontextmanager
async def behind_one_name(size_bytes: int) -> AsyncIterator[tuple[Reader, Behind]]:
    """A Hub whose CDN has three edges behind one name."""
    repo = SimRepo(id=NAME, files={WEIGHTS: random.Random(size_bytes).randbytes(size_bytes)})
    hub = SimHub(repo, edges=3, cdn_name=CDN)
    names = Behind(*hub.edges)
    async with hub, http_session(CONFIG, names) as session:
        origin = HttpOrigin(session, hub.endpoint, Token(lambda: TOKEN), on_throttled=lambda *_: None)
        yield Reader(hub, origin, repo), names
        assert hub.log.leaks(TOKEN) == []


@pytest.mark.fault("H36", "H38")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size_bytes", [MIB, 33 * MIB], ids=["kept connections", "connections of their own"])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_lying_edge_behind_a_name_of_many_is_got_away_from(bad: int, size_bytes: int, loop: str) -> None:
    """Every connection to it brings a wrong byte, and each try meets it: until one address alone is asked."""

    async def work() -> None:
        async with behind_one_name(size_bytes) as (reader, _):
            liar = reader.hub.edges[bad]
            reader.hub.faults.add(Fault(kinds.Corrupt(), edge=liar))
            asked = await reader.tries()
            assert asked[0] == set(reader.hub.edges), "at first all of them are asked"
            assert all(len(edges) == 1 for edges in asked[1:]) and liar not in asked[-1]
            assert len(asked) == (3 if bad == 0 else 2), "one after the other, the first of them first"
            assert liar not in (await reader.tries())[0], "and it is remembered"

    run(loop, work())


@pytest.mark.fault("H36", "H38")
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_whichever_byte_an_edge_has_wrong_another_has_it_right(place: float) -> None:
    """The first, a middle or the last byte of the file, on two of three machines behind one name."""

    async def work() -> None:
        async with behind_one_name(8 * MIB) as (reader, _):
            for liar in reader.hub.edges[:2]:
                at_byte = int(place * (8 * MIB - 1))
                reader.hub.faults.add(Fault(kinds.Corrupt(), edge=liar, at_byte=at_byte))
            await reader.tries()

    run("uvloop", work())


@pytest.mark.fault("H38", "H29")
def test_a_name_that_is_not_found_for_a_while_forgives_nobody() -> None:
    """The line was away, and the machine that lied is the same one when it is back."""

    async def work() -> None:
        async with behind_one_name(33 * MIB) as (reader, names):
            reader.hub.faults.add(Fault(kinds.Corrupt(), edge=reader.hub.edges[0]))
            await reader.once()
            reader.origin.distrust(NAME, reader.file)
            names.failures = 1
            assert all(len(edges) == 1 for edges in await reader.tries()) and not names.failures

    run("uvloop", work())


@pytest.mark.fault("H38", "H24")
def test_a_liar_is_better_than_nobody() -> None:
    """Once, that is: the one who never lied is dead, so both are asked again, and the wrong byte was the only one."""

    async def work() -> None:
        async with behind_one_name(MIB) as (reader, names):
            names.addresses = (reader.hub.edges[0], "127.0.0.9")  # nobody listens there
            reader.hub.faults.add(Fault(kinds.Corrupt(), times=1))
            assert await reader.tries() == [{reader.hub.edges[0]}] * 2

    run("uvloop", work())
