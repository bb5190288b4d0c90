"""A large file over several connections: each breaks, dawdles, dies or lies at its own place, and no byte is wrong.

How leases are cut stands in test_segments, one try with all its orders in test_download; here the whole daemon fetches
from the Hub simulator.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_daemon.core import slowness
from qwen_daemon.core.growth import Growth, eager_streams
from qwen_daemon.core.order import Place
from qwen_daemon.engine.budget import Rank
from qwen_daemon.engine.connections import Connections
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY, WEIGHTS = "org/large", "org--large", "model.safetensors"
MIB = 1 << 20
LARGE = model_folder.safetensors("w", floats=24 * MIB)  # 96 MiB
FILES = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: LARGE}


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def is_right(complete: e.ModelComplete) -> bool:
    return (Path(complete.path) / WEIGHTS).read_bytes() == LARGE


def starts(hub: SimHub) -> set[int]:
    """Where requests for the large file began."""
    return {served.start for served in hub.log.served(path=WEIGHTS, server="cdn")}


def durable_bytes(daemon: Running) -> int:
    return max((told.durable_bytes for told in daemon.seen(e.FileProgress) if told.path == WEIGHTS), default=0)


def has_news(daemon: Running, failed: int) -> bool:
    return len(daemon.seen(e.FileRetry)) > failed or bool(daemon.seen(e.ModelComplete))


def test_a_large_file_comes_over_several_connections(hub: SimHub, tmp_path: Path) -> None:
    """At once, from different places, every byte once; the address is asked for once for all of them."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        assert is_right(daemon.wait_complete(KEY))
    assert len(starts(hub)) > 1
    assert hub.log.bytes_served(WEIGHTS) == len(LARGE) and hub.log.bytes_twice() == 0


@pytest.mark.fault("H24")
def test_one_connection_that_breaks_does_not_disturb_the_others(hub: SimHub, tmp_path: Path) -> None:
    """Its rest is fetched by another at once: no retry is counted, no byte that came is asked for again."""
    gate = hub.gate(WEIGHTS, 90 * MIB)
    hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, at_byte=9 * MIB + 5, times=1))
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        hub.log.wait(lambda _: 9 * MIB + 5 in starts(hub))
        gate.open()
        assert is_right(daemon.wait_complete(KEY))
        assert daemon.seen(e.FileRetry) == []
    assert hub.log.bytes_twice() == 0


@pytest.mark.fault("H24")
def test_many_resets_anywhere(hub: SimHub, tmp_path: Path) -> None:
    """Forty connections reset at random bytes: complete, without a byte twice."""
    dice = random.Random(11)
    for _ in range(40):
        hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, at_byte=dice.randrange(len(LARGE)), times=1))
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        for failed in range(41):
            daemon.wait_for(partial(has_news, daemon, failed), "the end, or another failed try")
            if daemon.seen(e.ModelComplete):
                break
            daemon.client.retry(KEY)
        assert is_right(daemon.seen(e.ModelComplete)[0])
    assert hub.log.bytes_twice() == 0


@pytest.mark.fault("K1")
def test_a_kill_costs_what_was_not_recorded(hub: SimHub, tmp_path: Path) -> None:
    """SIGKILL with several connections open: what the ledger has is not fetched again, wherever in the file it lies."""
    hub.gate(WEIGHTS, 80 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_for(lambda: durable_bytes(daemon) >= 30 * MIB, "a third is durable")
        daemon.kill()
        durable = durable_bytes(daemon)
        hub.open_gates()
        daemon.start()
        assert is_right(daemon.wait_complete(KEY))
    assert hub.log.bytes_twice(WEIGHTS) <= len(LARGE) - durable


@pytest.mark.fault("H1")
def test_a_server_without_ranges_is_read_from_the_front(hub: SimHub, tmp_path: Path) -> None:
    """It sends the whole file each time, so it is asked as seldom as can be."""
    hub.faults.add(Fault(kinds.IgnoreRange(), path=WEIGHTS))
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        assert is_right(daemon.wait_complete(KEY))
    assert len(hub.log.requests(path=WEIGHTS, server="cdn")) <= 4


@pytest.mark.fault("H26")
@pytest.mark.parametrize("at_byte", [0, 48 * MIB, 90 * MIB])
def test_a_connection_that_dawdles_is_cut(hub: SimHub, tmp_path: Path, at_byte: int) -> None:
    """Twenty kilobytes a second beside others that are a thousand times faster: a fresh connection takes its rest.

    In the first, a middle or the last range; that one would need five minutes for what is left.
    """
    slow = hub.faults.add(Fault(kinds.Drip(bytes_per_s=20_000), path=WEIGHTS, at_byte=at_byte, times=1))
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert slow.hits == 1 and daemon.seen(e.FileRetry) == []


class One:
    """A file in flight that takes what it is given."""

    def __init__(self, left: int, most: int) -> None:
        self.left, self.most, self.streams = left, most, 0

    def wants_stream(self) -> bool:
        return self.streams < self.most

    def left_bytes(self) -> int:
        return self.left

    def open_stream(self) -> None:
        self.streams += 1

    def rates_bps(self) -> list[float]:
        return []


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 20)), min_size=1, max_size=8), st.integers(1, 32))
def test_the_budget_is_kept_and_nobody_starves(files: list[tuple[int, int]], budget: int) -> None:
    """Every file gets one first; then as many as are wanted, the longest first, never more than the budget."""
    connections, fetching = Connections(budget), [One(left, most) for left, most in files]
    for one in fetching:
        one.most = 0  # until all are there
        connections.join(one)
    for one, (_, most) in zip(fetching, files, strict=True):
        one.most = most
    connections.fill()
    used = sum(one.streams for one in fetching)
    assert used == min(budget, sum(one.most for one in fetching))
    assert sum(one.streams > 0 for one in fetching) == min(budget, len(fetching))
    hungry = [one for one in fetching if one.streams < one.most]
    for one in hungry:
        fed = [other for other in fetching if other.streams > 1]
        assert all(one.left / (one.streams + 1) <= other.left / other.streams for other in fed)


def test_an_earlier_component_has_connections_before_a_later_one() -> None:
    """After each file has one; those of one component share as they need, and what an earlier one leaves is used."""
    connections, components = Connections(8), [2, 1, 1]
    files = [One(left, 0) for left in (900, 100, 400)]
    for one, component in zip(files, components, strict=True):
        connections.join(one, Rank(partial(Place, component=component, number=one.left)))
    for one in files:
        one.most = 3
    connections.fill()
    assert [one.streams for one in files] == [2, 3, 3]
    few = Connections(5)
    late, early = One(900, 0), One(100, 0)
    few.join(late, Rank(partial(Place, component=2)))
    few.join(early, Rank(partial(Place, component=1)))
    late.most = early.most = 9
    few.fill()
    assert (late.streams, early.streams) == (1, 4)


@pytest.mark.fault("H26")
def test_what_is_slow() -> None:
    """Far below the siblings, for long enough, with enough left that a fresh connection is sooner done."""
    assert slowness.is_slow(1e6, [28e6] * 7, age_s=6, left_bytes=100 * MIB)
    assert slowness.is_slow(0, [28e6], age_s=6, left_bytes=MIB)
    assert not slowness.is_slow(6e6, [28e6] * 7, age_s=4, left_bytes=100 * MIB), "it may still speed up"
    assert not slowness.is_slow(1e6, [28e6] * 7, age_s=1, left_bytes=100 * MIB), "even if it crawls"
    assert slowness.is_slow(1e6, [28e6] * 7, age_s=2.5, left_bytes=100 * MIB)
    assert not slowness.is_slow(10e6, [28e6] * 7, age_s=60, left_bytes=100 * MIB), "a third is not far below"
    assert not slowness.is_slow(1e6, [28e6] * 7, age_s=60, left_bytes=MIB), "it will be done before another begins"
    assert not slowness.is_slow(1e6, [], age_s=60, left_bytes=100 * MIB), "nobody to compare with"


def test_when_another_connection_pays() -> None:
    """Not beside very fast ones, few under a speed limit."""
    assert slowness.pays_to_add([28e6, 28e6]) and not slowness.pays_to_add([400e6])
    assert slowness.streams_under(None) > 1000 and slowness.streams_under(5_000_000) == 2
    assert slowness.streams_under(10_000) == 1


@given(st.integers(1, 1 << 34), st.floats(0, 1e9), st.floats(1e3, 1e9), st.floats(0, 10))
def test_a_steal_pays_and_both_end_together(left: int, rate: float, typical: float, first_byte_s: float) -> None:
    """The victim and the fresh connection are done at the same time, a second before the victim alone would be."""
    keep = slowness.steal_keeps(left, rate, typical, first_byte_s)
    alone_s = left / max(rate, 1.0)
    if keep is None:
        assert alone_s - (first_byte_s + left / typical) < slowness.STEAL_GAIN_S
        return
    assert 0 <= keep < left
    victim_s, thief_s = keep / max(rate, 1.0), first_byte_s + (left - keep) / typical
    assert abs(victim_s - thief_s) <= 1.1 + 0.01 * thief_s and victim_s <= alone_s - slowness.STEAL_GAIN_S


def test_a_crawling_last_connection_keeps_next_to_nothing() -> None:
    """20 MB left at 1 MB/s beside an idle connection of 30 MB/s: it keeps what it brings in a second and a third."""
    assert slowness.steal_keeps(20_000_000, 1e6, 30e6, 0.65) == pytest.approx(1_270_000, rel=0.01)
    assert slowness.steal_keeps(20_000_000, 30e6, 30e6, 0.65) is None, "it is done before another has begun"


def test_more_connections_follow_those_that_bring_something() -> None:
    """Two, sixteen, all; back to what was before if the last ones brought nothing; one for a small file."""
    growth = Growth(eager=2)
    assert growth.allowed == 2
    assert growth.all_proven(56e6, 40, now_s=1.0) and growth.allowed == 16
    assert growth.all_proven(224e6, 40, now_s=2.0) and growth.allowed == 40
    assert not growth.all_proven(300e6, 40, now_s=3.0) and growth.allowed == 40, "the budget is used up"
    assert not growth.all_proven(30e6, 40, now_s=9.0) and growth.allowed == 40, "a line that gets slower says nothing"
    full = Growth(eager=2)
    assert full.all_proven(56e6, 16, now_s=1.0)
    assert not full.all_proven(60e6, 16, now_s=2.0) and full.allowed == 2
    assert not full.all_proven(300e6, 16, now_s=30.0), "not before a minute has passed"
    assert full.all_proven(300e6, 16, now_s=70.0)
    assert not Growth(eager=1).all_proven(1e9, 16, now_s=9.0) and Growth(eager=1).allowed == 1


def test_a_huge_file_begins_with_more() -> None:
    """One below 64 MiB, two from there, eight from a gigabyte on."""
    sizes_mib = (63, 64, 256, 512, 1024, 100_000)
    assert [eager_streams(mib * MIB, 64 * MIB) for mib in sizes_mib] == [1, 2, 2, 4, 8, 8]


def test_a_refusal_makes_humble_for_a_while() -> None:
    """No more than those that go on; longer each time one is refused before its first byte."""
    growth = Growth(eager=2)
    growth.all_proven(56e6, 16, now_s=1.0)
    growth.refused(3, 10.0, brought_something=False)
    assert growth.allowed == 3
    assert not growth.all_proven(90e6, 16, now_s=14.0) and growth.all_proven(90e6, 16, now_s=15.0)
    growth.refused(3, 20.0, brought_something=False)
    assert not growth.all_proven(90e6, 16, now_s=29.0) and growth.all_proven(90e6, 16, now_s=30.0)
    growth.refused(0, 40.0, brought_something=True)
    assert growth.allowed == 1
