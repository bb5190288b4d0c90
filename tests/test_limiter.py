"""The speed limit, on a clock of its own: never too fast, never idle, first come first served, changed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_daemon.engine.limiter import BURST_S, TICK_S, Gate, Limiter, RateLimit
from tests.fakes.virtual_time import VirtualLoop, run_virtually

MIB = 1 << 20
counts = st.integers(1, 4 * MIB)
rates = st.integers(10_000, 100_000_000)


def clock() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@dataclass
class Meter:
    """What passed, and when."""

    passed: list[tuple[float, int]] = field(default_factory=list)

    async def stream(self, limiter: Limiter, chunks: Sequence[int], *, pause_s: float = 0.0) -> float:
        """Take chunk after chunk; the seconds waited in all."""
        waited_s = 0.0
        for count in chunks:
            waited_s += await limiter.take(count)
            self.passed.append((clock().time(), count))
            if pause_s:
                await asyncio.sleep(pause_s)
        return waited_s

    @property
    def total(self) -> int:
        return sum(count for _, count in self.passed)

    def excess(self, rate_bps: int) -> float:
        """The most bytes beyond the rate that passed in any window."""
        worst, left = 0.0, 0.0  # a bucket that leaks at the rate; its highest level is the worst window
        before_s = 0.0
        for at_s, count in self.passed:
            left = max(0.0, left - (at_s - before_s) * rate_bps) + count
            worst, before_s = max(worst, left), at_s
        return worst


@given(
    rate_bps=rates,
    streams=st.lists(st.tuples(st.lists(counts, min_size=1, max_size=15), st.floats(0.0, 2.0)), min_size=1, max_size=5),
)
def test_no_window_holds_more_than_the_rate_and_one_burst(
    rate_bps: int, streams: list[tuple[list[int], float]]
) -> None:
    """Over any window, whatever the streams do: the rate, and a quarter of a second's worth or the largest chunk."""

    async def scene() -> None:
        limiter, meter = Limiter(RateLimit(Gate(clock()), rate_bps)), Meter()
        await asyncio.gather(*(meter.stream(limiter, chunks, pause_s=pause_s) for chunks, pause_s in streams))
        assert meter.total == sum(sum(chunks) for chunks, _ in streams)
        largest = max(max(chunks) for chunks, _ in streams)
        rounding = 2 * len(meter.passed)
        assert meter.excess(rate_bps) <= max(rate_bps * BURST_S, largest) + rounding
        assert not limiter.waiting

    run_virtually(scene())


@given(rate_bps=rates, chunk=st.integers(1, MIB), streams=st.integers(1, 8))
def test_the_rate_is_used_up(rate_bps: int, chunk: int, streams: int) -> None:
    """Streams that never pause get the whole rate, each the same share."""

    async def scene() -> None:
        limiter = Limiter(RateLimit(Gate(clock()), rate_bps))
        meters = [Meter() for _ in range(streams)]
        rounds = 20
        await asyncio.gather(*(meter.stream(limiter, [chunk] * rounds) for meter in meters))
        total = streams * rounds * chunk
        assert clock().time() <= total / rate_bps + BURST_S + 2 * TICK_S
        ends = [meter.passed[-1][0] for meter in meters]
        if (
            chunk >= rate_bps * TICK_S
        ):  # else all who wait are served in one batch, and who comes first has what is left
            assert max(ends) - min(ends) <= streams * chunk / rate_bps + TICK_S

    run_virtually(scene())


@given(
    whole_bps=rates,
    models=st.lists(st.tuples(rates, st.lists(counts, min_size=1, max_size=10)), min_size=1, max_size=4),
)
def test_every_limit_on_the_way_is_kept(whole_bps: int, models: list[tuple[int, list[int]]]) -> None:
    """Two streams for each model: each model's limit and the daemon's hold at once."""

    async def scene() -> None:
        gate = Gate(clock())
        whole, everything, each = RateLimit(gate, whole_bps), Meter(), []
        works = []
        for own_bps, chunks in models:
            limiter, meter = Limiter(whole, RateLimit(gate, own_bps)), Meter()
            each.append((own_bps, max(chunks), meter))
            works += [_both(limiter, chunks, meter, everything) for _ in range(2)]
        await asyncio.gather(*works)
        for rate_bps, largest, meter in (*each, (whole_bps, max(max(c) for _, c in models), everything)):
            assert meter.excess(rate_bps) <= max(rate_bps * BURST_S, largest) + 2 * len(meter.passed)

    run_virtually(scene())


async def _both(limiter: Limiter, chunks: Sequence[int], mine: Meter, everybodys: Meter) -> None:
    for count in chunks:
        await limiter.take(count)
        for meter in (mine, everybodys):
            meter.passed.append((clock().time(), count))


@given(st.data())
def test_whatever_is_changed_and_cancelled_nothing_is_lost_or_let_through_too_fast(data: st.DataObject) -> None:
    """Limits change and go, streams are cancelled: the rest pass, by the fastest limit and one burst for a change."""
    steps = data.draw(
        st.lists(
            st.tuples(st.floats(0.0, 3.0), st.integers(0, 5), st.one_of(st.none(), rates), st.booleans()), max_size=12
        )
    )
    first_bps = data.draw(rates)

    async def scene() -> None:
        limit = RateLimit(Gate(clock()), first_bps)
        limiter = Limiter(limit)
        meters = [Meter() for _ in range(6)]
        tasks = [asyncio.create_task(meter.stream(limiter, [MIB // 2] * 8)) for meter in meters]
        for pause_s, index, rate_bps, cancels in steps:
            await asyncio.sleep(pause_s)
            if cancels:
                tasks[index].cancel()
            else:
                limit.set(rate_bps)
        await asyncio.wait(tasks)
        assert not limiter.waiting
        assert all(task.cancelled() or meter.total == 4 * MIB for task, meter in zip(tasks, meters, strict=True))
        fastest = [first_bps, *(rate_bps for *_, rate_bps, cancels in steps if not cancels)]
        known = [rate_bps for rate_bps in fastest if rate_bps is not None]
        if len(known) == len(fastest):
            joined = Meter(sorted(passed for meter in meters for passed in meter.passed))
            assert joined.excess(max(known)) <= MIB // 2 + max(known) * BURST_S + 100
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run_virtually(scene())


def test_without_a_limit_nothing_waits_or_suspends() -> None:
    """The coroutine ends at its first step."""

    async def scene() -> None:
        gate = Gate(clock())
        limiter = Limiter(RateLimit(gate), RateLimit(gate))
        assert not limiter.is_limited
        with pytest.raises(StopIteration) as ended:
            limiter.take(MIB).send(None)
        assert ended.value.value == 0.0

    run_virtually(scene())


def test_a_new_limit_holds_at_once_for_those_who_wait() -> None:
    """A wait of minutes ends when the limit is lifted, and is shortened when it is raised."""

    async def scene() -> None:
        limit = RateLimit(Gate(clock()), 10_000)
        limiter, meter = Limiter(limit), Meter()
        await meter.stream(limiter, [10_000_000])  # the rest of 1000 s are debt now
        waiting = asyncio.create_task(limiter.take(1000))
        await asyncio.sleep(1.0)
        assert limiter.waiting and limiter.is_limited and limiter.rate_bps == 10_000
        limit.set(1_000_000)
        await asyncio.sleep(5.0)
        assert limiter.waiting
        await asyncio.sleep(5.0)
        assert waiting.done() and 10.0 < waiting.result() < 11.0
        limit.set(10_000)
        await meter.stream(limiter, [10_000_000])
        lifted = asyncio.create_task(limiter.take(1000))
        await asyncio.sleep(1.0)
        limit.set(None)
        assert await lifted == pytest.approx(1.0)
        assert not limiter.is_limited and await limiter.take(1 << 40) == 0.0

    run_virtually(scene())


def test_a_slow_models_limit_holds_nobody_else() -> None:
    """Others pass one that waits for its own model's limit only; nobody passes one that waits for the daemon's."""

    async def scene() -> None:
        gate = Gate(clock())
        whole, slow, free = RateLimit(gate, 1_000_000), RateLimit(gate, 10_000), RateLimit(gate)
        one, other, meter = Limiter(whole, slow), Limiter(whole, free), Meter()
        first = asyncio.create_task(meter.stream(one, [100_000] * 3))
        second = asyncio.create_task(meter.stream(other, [100_000] * 50))
        await second
        assert clock().time() <= 5.5 and not first.done()
        await first
        assert clock().time() == pytest.approx(20.25, abs=0.5)

    run_virtually(scene())


def test_a_cancelled_waiter_has_taken_nothing() -> None:
    """Also one that was let through in the turn of the loop in which it is cancelled."""

    async def scene() -> None:
        limit = RateLimit(Gate(clock()), 1_000_000)
        limiter = Limiter(limit)
        await limiter.take(250_000)
        given_up = asyncio.create_task(limiter.take(250_000))
        behind = asyncio.create_task(limiter.take(250_000))
        await asyncio.sleep(0)
        limit.set(None)  # lets both through
        limit.set(1_000_000)
        given_up.cancel()
        assert await behind == 0.0
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await limiter.take(250_000)
        assert clock().time() == pytest.approx(0.25, abs=0.01)
        third, fourth = (asyncio.create_task(limiter.take(250_000)) for _ in range(2))
        await asyncio.sleep(0.1)
        third.cancel()
        await fourth
        assert clock().time() == pytest.approx(0.5, abs=0.01)

    run_virtually(scene())


def test_limits_that_make_no_sense_are_refused() -> None:
    """A limit of nothing, and limits of different gates."""

    async def scene() -> None:
        limit = RateLimit(Gate(clock()))
        with pytest.raises(ValueError, match="never"):
            limit.set(0)
        with pytest.raises(ValueError, match="one gate"):
            Limiter(limit, RateLimit(Gate(clock())))

    run_virtually(scene())
