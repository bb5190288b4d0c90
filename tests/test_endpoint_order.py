"""Which endpoint is asked next: the decisions alone, and how several readers live by them, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.endpoints import Candidate, Standing, after_choice, after_failure, conclude, in_order
from qwen_daemon.core.errors import AskHuman, ResolveAgain, StillShut, Trouble, TryAgain, TryLater
from qwen_daemon.engine.endpoints import Endpoint, Endpoints, Order
from qwen_daemon.engine.supply import Supply
from qwen_daemon.ports import Body, Reading
from tests.fakes.bodies import Pieces, read_out
from tests.fakes.virtual_time import run_virtually

MIB = 1 << 20
FILE = WantedFile(path="w", size_bytes=64 * MIB, git_sha1="0" * 40, sha256="1" * 64)
CUT = TryAgain("E_CUT_SHORT", "cut")
ABSENT = AskHuman("E_NOT_FOUND", "not here")
GATED = AskHuman("E_GATED", "ask first")

troubles = st.sampled_from(
    [
        CUT,
        ABSENT,
        GATED,
        AskHuman("E_AUTH", "bad token"),
        TryAgain("E_CONTENT_CHANGED"),
        TryLater("E_RATE_LIMITED", after_s=20),
        StillShut("E_RATE_LIMITED", after_s=30),
        ResolveAgain("E_URL_EXPIRED"),
    ]
)
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from("abcdef"),
        lied=st.integers(0, 3),
        aside_until_s=st.floats(0, 100),
        has_ranges=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.name,
)


# The decisions


@given(candidates, st.floats(0, 100))
def test_an_order_leaves_nobody_out_and_prefers_as_people_do(found: list[Candidate], now_s: float) -> None:
    """Everybody is in it once; of two that are equally good the preferred one comes first."""
    order = in_order(found, now_s)
    assert sorted(order) == sorted(candidate.name for candidate in found)
    clean = [c.name for c in found if not c.lied and c.aside_until_s <= now_s and c.has_ranges]
    assert order[: len(clean)] == clean


def test_who_comes_last() -> None:
    """Without ranges before at rest before a liar: the last may still be the only one there is."""
    fine, whole = Candidate(name="fine"), Candidate(name="whole", has_ranges=False)
    rests, lied = Candidate(name="rests", aside_until_s=9), Candidate(name="lied", lied=1)
    assert in_order([lied, rests, whole, fine], 5) == ["fine", "whole", "rests", "lied"]
    assert in_order([rests, whole], 10) == ["rests", "whole"]


@given(st.lists(st.tuples(troubles, st.floats(0, 1000)), max_size=30))
def test_a_rest_grows_and_is_bounded(felt: list[tuple[Trouble, float]]) -> None:
    """Whatever happens and when: never longer than a server asked for, or a quarter of an hour."""
    standing, now_s = Standing(), 0.0
    for trouble, pause_s in felt:
        now_s += pause_s
        standing = after_failure(standing, trouble, now_s)
        assert now_s <= standing.aside_until_s <= now_s + decide.ASIDE_MAX_S
    assert after_failure(Standing(failed=3), CUT, 0).aside_until_s == decide.ASIDE_FIRST_S * 8


def test_many_connections_feel_one_failure_once() -> None:
    """Eight streams are cut by one dying server: that is one failure, not eight in a row."""
    standing = after_failure(Standing(), CUT, 100)
    assert after_failure(standing, CUT, 100.5) == standing
    assert after_failure(standing, CUT, 106).failed == 2


def test_after_a_rest_one_asks_and_the_others_wait() -> None:
    """Who is chosen goes; for the next reader it rests a little longer, until that one has bytes."""
    tired = after_failure(Standing(), CUT, 100)
    probed = after_choice(tired, 106)
    assert tired.aside_until_s <= 106 < probed.aside_until_s == 106 + decide.PROBE_S
    assert after_failure(probed, CUT, 107).failed == 2, "the probe's failure counts"
    assert decide.after_first_bytes(probed).aside_until_s == 0
    assert decide.after_success(probed) == Standing()


@given(st.lists(st.tuples(st.sampled_from(["lan", "hub", "far"]), troubles), min_size=1, unique_by=lambda r: r[0]))
def test_a_person_is_asked_only_if_nobody_can_be_hoped_for(refusals: list[tuple[str, Trouble]]) -> None:
    """And the one who reads it is told what each said."""
    whole = conclude(refusals)
    assert isinstance(whole, AskHuman) == all(isinstance(trouble, AskHuman) for _, trouble in refusals)
    assert whole.code in {trouble.code for _, trouble in refusals}
    if len(refusals) > 1:
        assert all(name in whole.detail for name, _ in refusals)
    if isinstance(whole, TryLater):
        assert whole.after_s == min(t.after_s for _, t in refusals if isinstance(t, TryLater))


@pytest.mark.parametrize(
    ("refusals", "code", "kind"),
    [
        ([ABSENT, GATED], "E_GATED", AskHuman),
        ([CUT, GATED], "E_GATED", TryAgain),
        ([ABSENT, CUT], "E_CUT_SHORT", TryAgain),
        ([ABSENT, ABSENT], "E_NOT_FOUND", AskHuman),
        ([ABSENT, TryLater("E_RATE_LIMITED", after_s=7)], "E_RATE_LIMITED", TryLater),
        ([CUT, TryLater("E_RATE_LIMITED", after_s=7)], "E_CUT_SHORT", TryAgain),
    ],
)
def test_the_code_is_the_one_that_helps_most(refusals: list[Trouble], code: str, kind: type[Trouble]) -> None:
    """What a person can mend, else what passes, else that it is not there."""
    whole = conclude(list(zip("ab", refusals, strict=True)))
    assert (whole.code, type(whole)) == (code, kind)


# Several readers


class LoopClock:
    """ports.Clock on the running loop."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def utc(self, in_s: float = 0.0) -> str:
        return f"{self.monotonic_s() + in_s:.0f}"

    def dice(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


Answer = Callable[[int, int], AsyncIterator[bytes]]


@dataclass
class Server:
    """A Hub and an Origin: `answer(start, end)` gives the bytes; `asked` is when and where from it was read."""

    answer: Answer
    has_ranges: bool = True
    commit: str | Trouble = "c" * 40
    asked: list[tuple[float, int]] = field(default_factory=list)

    async def resolve(self, ref: ModelRef) -> str:
        if isinstance(self.commit, Trouble):
            raise self.commit
        return self.commit

    async def list_files(self, repo: str, commit: str) -> Manifest:
        return Manifest(repo=repo, commit=await self.resolve(ModelRef(repo=repo)), files=(FILE,))

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        self.asked.append((asyncio.get_running_loop().time(), start))
        return self._read(start, end)

    @asynccontextmanager
    async def _read(self, start: int, end: int) -> AsyncIterator[Body]:
        yield Pieces(self.answer(start, end))

    def splits(self, repo: str, file: WantedFile) -> bool:
        return self.has_ranges

    def distrust(self, repo: str, file: WantedFile) -> None:
        pass

    def host(self, repo: str, file: WantedFile) -> str:
        return ""


async def good(start: int, end: int) -> AsyncIterator[bytes]:
    for at in range(start, end, MIB):
        await asyncio.sleep(0.01)
        yield bytes(min(MIB, end - at))


def fails(trouble: Trouble, after_bytes: int = 0) -> Answer:
    async def answer(start: int, end: int) -> AsyncIterator[bytes]:
        if after_bytes:
            yield bytes(min(after_bytes, end - start))
        await asyncio.sleep(0)
        raise trouble

    return answer


async def trickle(start: int, end: int) -> AsyncIterator[bytes]:
    for _ in range(start, end, 1000):
        await asyncio.sleep(1)
        yield bytes(1000)


def endpoints(said: list[e.Event], **servers: Server) -> Endpoints:
    def publish(event: e.Event) -> int:
        said.append(event)
        return 0

    made = Endpoints(LoopClock(), publish)
    opened = [
        Endpoint(name=name, url=f"http://{name}", is_mirror=name != "hub", hub=server, origin=server)
        for name, server in servers.items()
    ]
    made.configure(opened, Order(names=tuple(servers)))
    return made


async def take(supply: Supply, start: int = 0, end: int = 4 * MIB) -> int:
    """How many bytes came."""
    async with supply.read("org/one", "c" * 40, FILE, start, end) as body:
        return await read_out(body)


def said_of(said: Sequence[e.Event], kind: type[e.Event], **facts: object) -> list[e.Event]:
    return [
        event for event in said if isinstance(event, kind) and all(getattr(event, k) == v for k, v in facts.items())
    ]


def test_one_reader_probes_a_tired_endpoint_and_the_others_stay_away() -> None:
    """Dead for a minute under eight readers: one request after each rest, and bytes all the while."""

    async def live() -> None:
        said: list[e.Event] = []
        lan, hub = Server(fails(CUT)), Server(good)
        made = endpoints(said, lan=lan, hub=hub)
        for _ in range(60):
            assert await asyncio.gather(*(take(Supply(made, "m")) for _ in range(8))) == [4 * MIB] * 8
            await asyncio.sleep(1)
        tries_at_s = [round(at_s) for at_s, _ in lan.asked]
        assert tries_at_s[:8] == [0] * 8, "nobody knew"
        assert len(tries_at_s[8:]) == 3 and len(set(tries_at_s[8:])) == 3, "after 5, 10 and 20 s of rest"
        assert len(said_of(said, e.EndpointChanged, state="aside")) == 4
        lan.answer = good
        await asyncio.sleep(50)
        await take(Supply(made, "m"))
        assert said[-1] == e.EndpointChanged(endpoint="lan", url="http://lan", state="ok")

    run_virtually(live())


def test_whoever_said_later_is_told_as_back_when_it_is() -> None:
    """Not before its time, although it answers other questions meanwhile."""

    async def live() -> None:
        said: list[e.Event] = []
        lan, hub = Server(fails(TryLater("E_RATE_LIMITED", after_s=100))), Server(good)
        supply = Supply(endpoints(said, lan=lan, hub=hub), "m")
        assert await take(supply) == 4 * MIB
        lan.answer, hub.commit = good, ABSENT
        await supply.resolve(ModelRef(repo="org/one"))
        await take(supply)
        assert len(lan.asked) == 1 and len(said_of(said, e.EndpointChanged, endpoint="lan", state="ok")) == 1
        await asyncio.sleep(100)
        await take(supply)
        assert len(said_of(said, e.EndpointChanged, endpoint="lan", state="ok")) == 2

    run_virtually(live())


def test_a_reader_goes_on_where_the_last_one_stopped() -> None:
    """Each endpoint gives one MiB and breaks: they take turns to the end, and no byte is asked for twice."""

    async def live() -> None:
        lan, hub = Server(fails(CUT, MIB)), Server(fails(CUT, MIB))
        assert await take(Supply(endpoints([], lan=lan, hub=hub), "m"), 0, 6 * MIB) == 6 * MIB
        assert sorted(start for _, start in lan.asked + hub.asked) == [part * MIB for part in range(6)]

    run_virtually(live())


def test_everybody_failed() -> None:
    """Then it is the caller's turn, with everybody's reasons; and nobody is asked twice."""

    async def live() -> None:
        lan, hub = Server(fails(ABSENT)), Server(fails(CUT))
        with pytest.raises(TryAgain) as refused:
            await take(Supply(endpoints([], lan=lan, hub=hub), "m"))
        assert refused.value.detail == "lan: not here; hub: cut"
        assert len(lan.asked) == len(hub.asked) == 1

    run_virtually(live())


def test_when_all_said_later_the_first_that_opens_is_asked() -> None:
    """Nobody was asked, so no try is spent: the reader waits the shorter of the two times."""

    async def live() -> None:
        began_s = asyncio.get_running_loop().time()
        lan = Server(fails(StillShut("E_RATE_LIMITED", after_s=100)))
        hub = Server(fails(StillShut("E_RATE_LIMITED", after_s=7)))
        reading = asyncio.create_task(take(Supply(endpoints([], lan=lan, hub=hub), "m")))
        await asyncio.sleep(1)
        hub.answer = good
        assert await reading == 4 * MIB
        assert 7 <= asyncio.get_running_loop().time() - began_s < 8

    run_virtually(live())


@pytest.mark.fault("H26")
def test_a_trickle_is_given_up_only_for_a_better_one() -> None:
    """A thousand bytes a second: the other endpoint goes on behind them; alone, they are taken as they come."""

    async def live() -> None:
        lan, hub = Server(trickle), Server(good)
        made = endpoints([], lan=lan, hub=hub)
        assert await take(Supply(made, "m"), 0, MIB) == MIB
        assert [start for _, start in hub.asked] == [30_000]
        began_s = asyncio.get_running_loop().time()
        assert await take(Supply(endpoints([], lan=Server(trickle)), "m"), 0, 100_000) == 100_000
        assert asyncio.get_running_loop().time() - began_s > 99

    run_virtually(live())


@pytest.mark.fault("H1")
def test_a_server_without_ranges_does_not_take_over_in_the_middle() -> None:
    """It would send all that is here once more: the third is asked before it, though people prefer it."""

    async def live() -> None:
        lan, whole, hub = Server(fails(CUT, MIB)), Server(good, has_ranges=False), Server(good)
        made = endpoints([], lan=lan, whole=whole, hub=hub)
        assert await take(Supply(made, "m")) == 4 * MIB
        assert whole.asked == [] and [start for _, start in hub.asked] == [MIB]

    run_virtually(live())


@pytest.mark.fault("H38")
def test_a_liar_is_asked_last_about_this_file_and_rests_for_others() -> None:
    """Who brought all of the wrong content; if two brought it, nobody knows which, and both are doubted."""

    async def live() -> None:
        lan, hub = Server(good), Server(good)
        made = endpoints([], lan=lan, hub=hub)
        supply = Supply(made, "m")
        await take(supply)
        supply.distrust("org/one", FILE)
        await take(supply)
        assert (len(lan.asked), len(hub.asked)) == (1, 1)
        supply.distrust("org/one", FILE)
        await take(supply)
        assert (len(lan.asked), len(hub.asked)) == (2, 1), "both lied once: as people prefer"

    run_virtually(live())


@pytest.mark.fault("H38")
def test_the_hubs_word_about_commits_and_hashes_goes_first() -> None:
    """A mirror that is behind must not move a model back; it answers when the Hub does not."""

    async def live() -> None:
        lan, hub = Server(good, commit="a" * 40), Server(good, commit="b" * 40)
        supply = Supply(endpoints([], lan=lan, hub=hub), "m")
        assert await supply.resolve(ModelRef(repo="org/one")) == "b" * 40
        hub.commit = GATED
        assert (await supply.list_files("org/one", "c" * 40)).commit == "a" * 40
        lan.commit = AskHuman("E_LISTING", "no sizes")
        with pytest.raises(AskHuman) as refused:
            await supply.resolve(ModelRef(repo="org/one"))
        assert refused.value.code == "E_GATED"

    run_virtually(live())


def test_a_reader_that_ends_early_closes_the_connection() -> None:
    """A cut stream leaves nothing behind: the body's own clean-up has run when the context is left."""

    async def live() -> None:
        closed: list[int] = []

        class Watched(Server):
            @asynccontextmanager
            async def _read(self, start: int, end: int) -> AsyncIterator[Body]:
                try:
                    yield Pieces(good(start, end))
                finally:
                    closed.append(start)

        supply = Supply(endpoints([], lan=Watched(good)), "m")
        async with supply.read("org/one", "c" * 40, FILE, 0, 4 * MIB) as body:
            assert await body.read_into(memoryview(bytearray(10))) == 10
        assert closed == [0]
        task = asyncio.create_task(take(supply, MIB))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        assert closed == [0, MIB]

    run_virtually(live())
