"""One range of a large file, from a server that misbehaves: every kind, at the first, a middle and the last range.

Nothing but the asked bytes is ever given, what was given before the trouble is good, and asking for the rest ends it.
The ranges are long enough for the body that shell.body receives itself, on both event loops there are.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import uvloop

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import Trouble
from qwen_daemon.shell.body import DIRECT_BYTES
from qwen_daemon.shell.fetch import FetchConfig, HttpOrigin, http_session
from qwen_daemon.shell.tokens import Token
from tests import canary
from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import BytesContent, Fault, SimHub, SimRepo

MIB = 1 << 20
WEIGHTS = "model.safetensors"
TOKEN = "hf_" + "t" * 34
CONTENT = random.Random(7).randbytes(15 * MIB)
OTHER = random.Random(8).randbytes(15 * MIB)
REPO = SimRepo(id="org/one", files={WEIGHTS: CONTENT})
ENTRY = REPO.entry(WEIGHTS)
FILE = WantedFile(path=WEIGHTS, size_bytes=len(CONTENT), git_sha1=ENTRY.oid, sha256=ENTRY.sha256)
CONFIG = FetchConfig(user_agent="test", connect_timeout_s=5, read_timeout_s=1, connections_max=64)

RANGES = ((0, 5 * MIB), (5 * MIB, 10 * MIB), (10 * MIB, 15 * MIB))
assert DIRECT_BYTES < 5 * MIB
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
T = TypeVar("T")
Wanted = tuple[str, str, WantedFile]  # repository, commit, file


def run(loop: str, work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work)


@asynccontextmanager
async def origin_of(hub: SimHub) -> AsyncIterator[HttpOrigin]:
    async with http_session(CONFIG) as session:
        yield HttpOrigin(session, hub.endpoint, Token(lambda: TOKEN), on_throttled=lambda _origin, _after_s: None)


async def fetch(
    origin: HttpOrigin, start: int, end: int, tries: int = 8, of: Wanted = (REPO.id, REPO.sha, FILE)
) -> tuple[bytearray, list[str]]:
    """The range, asked for again from where it broke off; and the codes of what went wrong. Every byte is checked."""
    came, codes = bytearray(), []
    while len(came) < end - start:
        assert len(codes) < tries, codes
        try:
            await read_on(origin, start, end, came, of)
        except Trouble as trouble:
            codes.append(trouble.code)
            said = {"the trouble": str(trouble), "its traceback": "".join(traceback.format_exception(trouble))}
            canary.refuse(said, (TOKEN, canary.SIGNATURE))
    return came, codes


async def read_on(origin: HttpOrigin, start: int, end: int, came: bytearray, of: Wanted) -> None:
    """One try: what comes is put behind what came. Raises Troubles."""
    room = memoryview(bytearray(MIB))
    async with origin.read(*of, start + len(came), end) as body:
        try:
            while count := await body.read_into(room):
                came += room[:count]
        finally:
            came += room[: body.reclaim()]


def cut(kind: kinds.Kind) -> list[Callable[[int, int], Fault]]:
    """At the first byte, one behind it, in the middle, and before the last."""
    return [
        lambda start, _end: Fault(kind, path=WEIGHTS, at_byte=start, times=1),
        lambda start, _end: Fault(kind, path=WEIGHTS, at_byte=start + 1, times=1),
        lambda start, end: Fault(kind, path=WEIGHTS, at_byte=(start + end) // 2 + 7, times=1),
        lambda _start, end: Fault(kind, path=WEIGHTS, at_byte=end - 1, times=1),
    ]


def once(kind: kinds.Kind, times: int = 1, on: kinds.Where | None = None) -> list[Callable[[int, int], Fault]]:
    return [lambda _start, _end: Fault(kind, path=WEIGHTS, on=on, times=times)]


# What the server does, and what is said of it; nothing, where the bytes come without a word.
TROUBLES: dict[str, tuple[list[Callable[[int, int], Fault]], str | None]] = {
    "200 for a range": (once(kinds.IgnoreRange()), None),
    "Content-Range one ahead": (once(kinds.WrongContentRange(shift=1)), "E_BAD_RANGE"),
    "Content-Range one behind": (once(kinds.WrongContentRange(shift=-1)), "E_BAD_RANGE"),
    "Content-Range far off": (once(kinds.WrongContentRange(shift=1 << 62)), "E_BAD_RANGE"),
    "no Content-Range": (once(kinds.NoContentRange()), "E_BAD_RANGE"),
    "another total": (once(kinds.WrongTotal(total=len(CONTENT) + 1)), "E_CONTENT_CHANGED"),
    "total unknown": (once(kinds.WrongTotal(total="*")), None),
    "multipart": (once(kinds.Multipart()), "E_BAD_RANGE"),
    "gzip": (once(kinds.Gzip()), "E_ENCODED"),
    "416": (once(kinds.RangeNotSatisfiable()), "E_HTTP"),
    "416 and a smaller file": (once(kinds.RangeNotSatisfiable(total=3)), "E_HTTP"),
    "another ETag": (once(kinds.ChangedETag()), None),
    "replaced by a shorter file": (once(kinds.ChangedETag(content=BytesContent(OTHER[:-1]))), "E_CONTENT_CHANGED"),
    "closed early": (cut(kinds.CloseEarly()), "E_CUT_SHORT"),
    "reset": (cut(kinds.Reset()), "E_CUT_SHORT"),
    "silence": (cut(kinds.Stall()), "E_STALLED"),
    "chunked, cut": (cut(kinds.ChunkedTruncated()), "E_CUT_SHORT"),
    "no length, cut": (cut(kinds.NoContentLength())[1:], "E_CUT_SHORT"),
    "no length": (once(kinds.NoContentLength()), None),
    "longer than said": (once(kinds.OverLong(extra=b"x" * MIB)), None),
    "longer than asked": (once(kinds.OverLong(extra=b"x" * MIB, declared=True)), None),
    "two lengths": (once(kinds.ContentLength(values=("7", "8"))), "E_NETWORK"),
    "a negative length": (once(kinds.ContentLength(values=("-5",))), "E_NETWORK"),
    "a length that is too long": (once(kinds.ContentLength(values=(str(6 * MIB),))), None),
    "a header of 70 kB": (once(kinds.HeaderBomb()), "E_NETWORK"),
    "50,000 headers": (once(kinds.HeaderBomb(count=50_000, line_bytes=1)), "E_NETWORK"),
    "headers that do not come": (once(kinds.SlowFirstByte()), "E_STALLED"),
    "500": (once(kinds.Status(code=500)), "E_HTTP"),
    "502": (once(kinds.Status(code=502), on="cdn"), "E_HTTP"),
    "504": (once(kinds.Status(code=504), on="resolve"), "E_HTTP"),
    "429": (once(kinds.RetryAfter(seconds=0)), "E_RATE_LIMITED"),
    "503 and a date": (once(kinds.RetryAfter(seconds=0, http_date=True, code=503)), "E_RATE_LIMITED"),
    "login page": (once(kinds.CaptivePortal(), on="cdn"), "E_CAPTIVE_PORTAL"),
    "login page at the Hub": (once(kinds.CaptivePortal(), on="resolve"), "E_CAPTIVE_PORTAL"),
    "a fresh address spent": (once(kinds.ExpiredSignature()), "E_URL_EXPIRED"),
    "circle": (once(kinds.RedirectLoop(), times=5), "E_REDIRECT"),
    "Location nowhere": (once(kinds.Redirect(to="")), "E_REDIRECT"),
    "Location with a password": (once(kinds.Redirect(to="http://user:secret@127.0.0.1:1/x")), "E_REDIRECT"),
    "Location with a port that is none": (once(kinds.Redirect(to="http://127.0.0.1:99999/x")), "E_REDIRECT"),
    "Location with half an address": (once(kinds.Redirect(to="http://[::1/x")), "E_REDIRECT"),
    "Location with a host in code": (once(kinds.Redirect(to="http://%31%32%37.0.0.1/x")), "E_REDIRECT"),
    "Location in a file": (once(kinds.Redirect(to="file:///etc/passwd")), "E_REDIRECT"),
    "Location is a login page": (once(kinds.Redirect(to="/login")), "E_NOT_FOUND"),
    "Location is a dead port": (once(kinds.Redirect(to="http://127.0.0.1:1/x")), "E_NETWORK"),
    "a page of a proxy": (once(kinds.Status(code=407, body=b"<html>"), on="cdn"), "E_HTTP"),
    "not HTTP at all": (once(kinds.Status(code=999)), "E_HTTP"),
}


@pytest.mark.fault("H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "H10", "H11", "H12", "H14", "H17", "H18")
@pytest.mark.fault("H19", "H24", "H25", "H27", "H30", "H32", "H33", "H34", "H35", "H39", "T1", "T3")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_the_server_does_at_whichever_range_the_right_bytes_come(trouble: str, loop: str) -> None:
    """Each is named as what it is, nothing wrong is given, no byte that came is asked for again, no token leaves."""
    expected = TROUBLES[trouble][1]

    async def one(fault: Fault, start: int, end: int) -> None:
        async with SimHub(REPO, tokens=[TOKEN]) as hub, origin_of(hub) as origin:
            hub.faults.add(fault)
            came, codes = await fetch(origin, start, end)
            assert came == CONTENT[start:end], "wrong bytes were given"
            assert codes == ([] if expected is None else [expected]), (start, fault)
            assert hub.log.leaks(TOKEN) == []
            if isinstance(fault.kind, kinds.Reset | kinds.CloseEarly | kinds.Stall):
                assert hub.log.bytes_twice() == 0

    async def every() -> None:
        async with asyncio.TaskGroup() as group:
            for start, end in RANGES:
                for make in TROUBLES[trouble][0]:
                    group.create_task(one(make(start, end), start, end))

    run(loop, every())


@pytest.mark.fault("H24")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_resets_cost_no_byte(loop: str) -> None:
    """One pass over the file in 1,001 pieces: reset at random bytes of the first, the middle and the last range."""
    dice = random.Random(9)
    cuts = sorted([0, 1, len(CONTENT) - 1, *dice.sample(range(2, len(CONTENT) - 1), 997)])

    async def work() -> None:
        async with SimHub(REPO, tokens=[TOKEN]) as hub, origin_of(hub) as origin:
            for cut_at in cuts:
                hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, on="cdn", at_byte=cut_at, times=1))
            came, codes = await fetch(origin, 0, len(CONTENT), tries=1001)
            assert came == CONTENT and codes == ["E_CUT_SHORT"] * 1000
            assert hub.log.bytes_twice() == 0

    run(loop, work())


@pytest.mark.fault("H5", "H6", "H8")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", [kinds.CloseEarly(), kinds.NoContentLength(), kinds.ChunkedTruncated()], ids=type)
@pytest.mark.parametrize(("size", "step"), [(100, 1), (len(CONTENT), 121_001)])
def test_an_answer_may_end_at_every_kth_byte(size: int, step: int, kind: kinds.Kind, loop: str) -> None:
    """With an honest length, with none, inside a chunk: what came is kept, however little, the rest is asked for."""
    cuts = range(step, size, step)

    async def work() -> None:
        async with SimHub(REPO, tokens=[TOKEN]) as hub, origin_of(hub) as origin:
            for cut_at in cuts:
                hub.faults.add(Fault(kind, path=WEIGHTS, on="cdn", at_byte=cut_at, times=1))
            came, codes = await fetch(origin, 0, size, tries=len(cuts) + 1)
            assert came == CONTENT[:size] and codes == ["E_CUT_SHORT"] * len(cuts)
            assert hub.log.bytes_twice() == 0

    run(loop, work())


@pytest.mark.fault("H19")
def test_an_address_may_expire_twenty_times_in_one_file() -> None:
    """Each time it is asked for anew at the byte where it was refused: no failed try, no byte twice, 21 questions."""

    async def work() -> None:
        async with SimHub(REPO) as hub, origin_of(hub) as origin:
            came = bytearray()
            for part in range(21):
                piece, codes = await fetch(origin, len(came), (part + 1) * len(CONTENT) // 21)
                came += piece
                assert codes == []
                hub.expire_urls()
            assert came == CONTENT and hub.log.bytes_twice() == 0
            assert len(hub.log.requests(server="hub", path=WEIGHTS)) == 21

    run("asyncio", work())


@pytest.mark.fault("H38", "H36")
def test_wrong_bytes_lead_to_another_address() -> None:
    """The endpoint is asked anew where the file lies once its bytes were wrong: another edge may have right ones."""

    async def work() -> None:
        async with SimHub(REPO) as hub, origin_of(hub) as origin:
            for asked in (1, 2):
                await fetch(origin, 0, MIB)
                await fetch(origin, MIB, 2 * MIB)
                assert len(hub.log.requests(server="hub", path=WEIGHTS)) == asked
                origin.distrust(REPO.id, FILE)

    run("asyncio", work())
