"""What the Hub says when it is asked for a fresh address in mid-file: before the first, a middle and the last range.

The ranges before went well, then the signed address was spent, and now the Hub says later, refuses, or sends us
elsewhere. What the CDN does with a range stands in test_range_faults; the limits of waiting in test_hub_trouble.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import StillShut, TryAgain, TryLater
from qwen_daemon.shell.fetch import HttpOrigin, http_session
from qwen_daemon.shell.tokens import Token
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running
from tests.test_range_faults import CONFIG, TOKEN, WEIGHTS, fetch, origin_of, read_on, run

MIB = 1 << 20
NAME = "org/one"
SIZE = 300_000
CONTENT = random.Random(17).randbytes(SIZE)
RANGES = ((0, 100_000), (100_000, 200_000), (200_000, SIZE))
NOW_S = 1_400_000_000.0  # the server's clock, years behind ours


def repository() -> SimRepo:
    return SimRepo(id=NAME, files={WEIGHTS: CONTENT})


ENTRY = repository().entry(WEIGHTS)
FILE = WantedFile(path=WEIGHTS, size_bytes=SIZE, git_sha1=ENTRY.oid, sha256=ENTRY.sha256)
SHA = repository().sha
WANTED = (NAME, SHA, FILE)


@asynccontextmanager
async def at_range(number: int, *, spent: bool = True) -> AsyncIterator[tuple[SimHub, HttpOrigin, bytearray]]:
    """A Hub and its reader who has the ranges before this one; the address they came from is `spent`."""
    hub = SimHub(repository(), tokens=[TOKEN], wall=lambda: NOW_S)
    async with hub, origin_of(hub) as origin:
        came = bytearray()
        for start, end in RANGES[:number]:
            came += (await fetch(origin, start, end, of=WANTED))[0]
        if spent:
            hub.expire_urls()
        yield hub, origin, came
        assert came == CONTENT, "wrong bytes were given"
        assert hub.log.bytes_twice() == 0
        assert hub.log.leaks(TOKEN) == []


async def the_rest(origin: HttpOrigin, came: bytearray) -> list[str]:
    """All that has not come, range after range: the codes of what went wrong."""
    codes: list[str] = []
    for start, end in RANGES:
        if end > len(came):
            more, refused = await fetch(origin, max(start, len(came)), end, of=WANTED)
            came += more
            codes += refused
    return codes


WAITS: dict[str, tuple[kinds.Kind, kinds.Where, float]] = {
    "429 in seconds": (kinds.RetryAfter(seconds=1), "resolve", 1),
    "429 as a date": (kinds.RetryAfter(seconds=1, http_date=True), "resolve", 1),
    "429 with RateLimit": (kinds.RateLimited(reset_s=0), "resolve", 1),
    "503 in seconds": (kinds.RetryAfter(seconds=1, code=503), "resolve", 1),
    "503 as a date": (kinds.RetryAfter(seconds=1, http_date=True, code=503), "resolve", 1),
    "408 in seconds": (kinds.RetryAfter(seconds=1, code=408), "resolve", 1),
    "the CDN's 429 in seconds": (kinds.RetryAfter(seconds=1), "cdn", 1),
    "the CDN's 429 as a date": (kinds.RetryAfter(seconds=1, http_date=True), "cdn", 1),
    "the CDN's 503 in seconds": (kinds.RetryAfter(seconds=1, code=503), "cdn", 1),
    "the CDN's 503 as a date": (kinds.RetryAfter(seconds=1, http_date=True, code=503), "cdn", 1),
}


@pytest.mark.fault("H14", "H15", "H16", "H17", "H42")
def test_whoever_says_later_is_asked_later_at_whichever_range() -> None:
    """In seconds, as a date by the server's own clock, as an empty bucket: no request before, no byte twice."""

    async def one(wait: str, number: int) -> None:
        kind, on, after_s = WAITS[wait]
        async with at_range(number, spent=on == "resolve") as (hub, origin, came):
            hub.faults.add(Fault(kind, path=WEIGHTS, on=on, times=1))
            server = "cdn" if on == "cdn" else "hub"
            before = len(hub.log.requests(server=server))
            for expected in (TryLater, StillShut):
                with pytest.raises(expected) as told:
                    async with origin.read(*WANTED, *RANGES[number]):
                        pass
                assert told.value.code == "E_RATE_LIMITED" and 0 < told.value.after_s <= after_s, wait
            assert len(hub.log.requests(server=server)) == before + 1, "nobody was asked a second time"
            await asyncio.sleep(after_s)  # as the server said
            assert await the_rest(origin, came) == []
            refused, again = hub.log.requests(server=server)[before : before + 2]
            assert again.at_s - refused.at_s >= after_s, wait

    async def every() -> None:
        async with asyncio.TaskGroup() as group:
            for wait in WAITS:
                for number in range(len(RANGES)):
                    group.create_task(one(wait, number))

    run("uvloop", every())


@pytest.mark.fault("H54", "H32", "T1")
@pytest.mark.parametrize("number", range(len(RANGES)))
def test_a_rename_at_whichever_range_is_followed_with_the_token(number: int) -> None:
    """307 to another name on the Hub's own origin: no failed try, and the token is known there and nowhere else."""

    async def work() -> None:
        async with at_range(number) as (hub, origin, came):
            hub.rename(NAME, "other/new")
            assert await the_rest(origin, came) == []
            asked = hub.log.requests(repo="other/new", server="hub")
            assert len(asked) == 1 and asked[0].header("authorization") == f"Bearer {TOKEN}"

    run("uvloop", work())


@pytest.mark.fault("H32", "T1")
@pytest.mark.parametrize("number", range(len(RANGES)))
def test_another_origin_at_whichever_range_never_sees_the_token(number: int) -> None:
    """Another Hub with the very same file, which would take the token if it got one: followed, and told nothing."""

    async def work() -> None:
        async with at_range(number) as (hub, origin, came), SimHub(repository(), tokens=[TOKEN]) as other:
            elsewhere = f"{other.endpoint}/{NAME}/resolve/{SHA}/{WEIGHTS}"
            hub.faults.add(Fault(kinds.Redirect(to=elsewhere), path=WEIGHTS, times=1))
            assert await the_rest(origin, came) == []
            assert other.log.requests() and not any(request.had_authorization for request in other.log.requests())
            assert not any(TOKEN in str(request) for request in other.log.requests())

    run("uvloop", work())


@pytest.mark.fault("H33", "T1")
@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:8/x", "http://10.0.0.1/x", "http://169.254.169.254/x", "http://nas/x"]
)
def test_a_public_hub_sends_nobody_into_a_private_network_at_whichever_range(to: str) -> None:
    """Refused before anybody there is asked; the next answer is as good as ever, and the ranges before are kept."""

    async def work(number: int) -> None:
        asked: list[str] = []

        async def hub(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(request.split(" ")[1])
            start, _, last = request.lower().partition("range: bytes=")[2].partition("\r\n")[0].partition("-")
            if len(asked) == number + 1:
                answer = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
            else:
                body = CONTENT[int(start) : int(last) + 1]
                head = f"Content-Range: bytes {start}-{last}/{SIZE}\r\nContent-Length: {len(body)}\r\n\r\n"
                answer = b"HTTP/1.1 206 Partial Content\r\n" + head.encode() + body
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(hub, "127.0.0.1", 0) as proxy, http_session(CONFIG) as session:
            os.environ["ALL_PROXY"] = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"  # whatever the address
            origin = HttpOrigin(session, "http://hub.example", Token(lambda: TOKEN), on_throttled=lambda *_: None)
            came = bytearray()
            assert await the_rest(origin, came) == ["E_REDIRECT"] and came == CONTENT
        assert asked == [f"http://hub.example/{NAME}/resolve/{SHA}/{WEIGHTS}"] * 4

    for number in range(len(RANGES)):
        run("uvloop", work(number))


@pytest.mark.fault("H19", "H24")
@pytest.mark.parametrize("number", range(len(RANGES)))
def test_within_one_range_an_address_may_expire_twenty_times(number: int) -> None:
    """The connection is reset and its address spent, over and over: asked for anew at that byte, no byte twice."""
    start, end = RANGES[number]
    cuts = sorted(random.Random(number).sample(range(start + 1, end), 20))

    async def work() -> None:
        async with at_range(number) as (hub, origin, came):
            asked = len(hub.log.requests(server="hub"))
            for cut in cuts:
                hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, on="cdn", at_byte=cut, times=1))
            for cut in cuts:
                with pytest.raises(TryAgain, match="E_CUT_SHORT"):
                    await read_on(origin, 0, end, came, WANTED)
                assert len(came) == cut
                hub.expire_urls()
            await read_on(origin, 0, end, came, WANTED)
            assert len(hub.log.requests(server="hub")) == asked + 21
            assert await the_rest(origin, came) == []

    run("uvloop", work())


# What only a person can mend, with the real daemon: how the Hub says it, and what it is called.
REFUSALS: dict[str, tuple[kinds.Kind, str]] = {
    "revoked": (
        kinds.Status(code=401, headers={"x-error-message": "Invalid credentials in Authorization header"}),
        "E_AUTH",
    ),
    "gated": (kinds.Status(code=401, headers={"x-error-code": "GatedRepo"}), "E_GATED"),
    "not on the list": (kinds.Status(code=403, headers={"x-error-code": "GatedRepo"}), "E_GATED"),
    "hidden": (kinds.Status(code=401), "E_NOT_FOUND"),
    "gone": (kinds.Status(code=404, headers={"x-error-code": "RepoNotFound"}), "E_NOT_FOUND"),
    "no revision": (kinds.Status(code=404, headers={"x-error-code": "RevisionNotFound"}), "E_REVISION_NOT_FOUND"),
    "no file": (kinds.EntryVanished(), "E_FILE_NOT_FOUND"),
    "disabled": (
        kinds.Status(code=403, headers={"x-error-message": "Access to this resource is disabled."}),
        "E_DISABLED",
    ),
    "taken down": (kinds.Status(code=451), "E_NOT_FOUND"),
}
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}


def shut(hub: SimHub, name: str, kind: kinds.Kind, at_byte: int) -> None:
    """From this byte on nothing comes, and the Hub says so when it is asked for an address the second time."""
    of_weights = {"repo": name, "path": WEIGHTS}
    hub.faults.add(Fault(kinds.SlowFirstByte(delay_s=0.001), on="resolve", times=1, **of_weights))
    hub.faults.add(Fault(kinds.Reset(), at_byte=at_byte, times=1, **of_weights))
    hub.faults.add(Fault(kinds.ExpiredSignature(), min_offset=at_byte, **of_weights))
    hub.faults.add(Fault(kind, on="resolve", **of_weights))


@pytest.mark.fault("H19", "H20", "H21", "H22", "H23", "H44")
def test_a_repository_that_is_shut_at_whichever_byte_keeps_what_came(tmp_path: Path) -> None:
    """Before the first byte, in the middle, before the last: failed with its code after one question, nothing is lost.

    And once somebody has mended it and says retry, not one byte comes twice.
    """
    config = model_folder.transformers_model("Qwen2ForCausalLM")
    cases = {f"org/{refusal}-{where}".replace(" ", "-"): (refusal, where) for refusal in REFUSALS for where in PLACES}
    weights = {name: model_folder.safetensors("w", floats=MIB // 2, seed=n) for n, name in enumerate(cases)}
    repos = [SimRepo(id=name, files={**config, WEIGHTS: weights[name]}) for name in cases]
    expected = {name: REFUSALS[refusal][1] for name, (refusal, _) in cases.items()}
    broken_at = {name: int(PLACES[where] * (len(weights[name]) - 1)) for name, (_, where) in cases.items()}
    keys = {name: name.replace("/", "--") for name in cases}
    with ThreadedSimHub(SimHub(*repos)) as hub:
        for name, (refusal, _) in cases.items():
            shut(hub, name, REFUSALS[refusal][0], broken_at[name])
        with Running(tmp_path, endpoint=hub.endpoint, models=cases) as daemon:
            for name, key in keys.items():
                failed = daemon.wait_event(e.FileFailed, model=key, path=WEIGHTS)
                assert (failed.code, failed.needs_human) == (expected[name], True), name
                daemon.wait_state(key, "failed")
                assert len(hub.log.requests(server="hub", repo=name, path=WEIGHTS)) == 2, name
                hub.log.settle()
                assert hub.log.bytes_served(WEIGHTS, repo=name) == broken_at[name]
            assert daemon.seen(e.ModelComplete) == []
            hub.faults.clear()
            for key in keys.values():
                daemon.client.retry(key)
            for name, key in keys.items():
                complete = daemon.wait_complete(key)
                assert (Path(complete.path) / WEIGHTS).read_bytes() == weights[name]
            hub.log.settle()
            assert hub.log.bytes_twice() == 0 and hub.log.leaks() == []
