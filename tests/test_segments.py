"""The chooser of ranges: every byte exactly once, whatever order connections end, fail and take from each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwen_daemon.core.segments import LAST_WAITS, Lease, Ranges, Segments, holes_between, lease_bytes
from qwen_daemon.core.tuning import Tuning

UNIT = 4 * Tuning().align_bytes
SIZE = 23 * UNIT + 17
WINDOW = 9 * UNIT


class Streams(RuleBasedStateMachine):
    """Connections that come and go in any order; a set of byte marks is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = Segments([(0, SIZE)], Tuning().align_bytes)
        self.got = Ranges()
        self.given_bytes = 0
        self.hashed = 0

    @rule(units=st.integers(1, 8))
    def open(self, units: int) -> None:
        lease = self.segments.take(units * UNIT, WINDOW)
        if lease is not None:
            assert lease.start < lease.end <= SIZE

    @precondition(lambda self: self.segments.leases)
    @rule(which=st.integers(0, 50), count=st.integers(1, 3 * UNIT))
    def receive(self, which: int, count: int) -> None:
        lease = self.pick(which)
        start, wanted = lease.position, self.segments.took(lease, count)
        assert wanted <= count and lease.position <= lease.end
        self.segments.wrote(start, start + wanted)
        self.got.add(start, start + wanted)
        self.given_bytes += wanted
        if lease.left_bytes == 0:
            self.segments.give_back(lease)

    @precondition(lambda self: self.segments.leases)
    @rule(which=st.integers(0, 50))
    def fail(self, which: int) -> None:
        self.segments.give_back(self.pick(which))

    @precondition(lambda self: any(lease.left_bytes > 1 for lease in self.segments.leases))
    @rule(keep_bytes=st.integers(0, 9 * UNIT))
    def steal(self, keep_bytes: int) -> None:
        victim = max(self.segments.leases, key=lambda lease: lease.left_bytes)
        before = victim.left_bytes
        stolen = self.segments.steal(victim, keep_bytes)
        assert victim.left_bytes > 0 and stolen.left_bytes > 0
        assert victim.left_bytes + stolen.left_bytes == before and stolen.start == victim.end
        assert victim.left_bytes <= max(1, keep_bytes)

    @rule()
    def hash(self) -> None:
        end = self.segments.written_to(self.hashed)
        self.segments.hashed(end - self.hashed)
        self.hashed = end

    def pick(self, which: int) -> Lease:
        return self.segments.leases[which % len(self.segments.leases)]

    @invariant()
    def every_byte_once(self) -> None:
        assert self.given_bytes == self.got.count_bytes, "a byte was handed to two connections"
        assert self.segments.left_bytes + self.got.count_bytes == SIZE, "a byte was lost"
        stretches = sorted((lease.position, lease.end) for lease in self.segments.leases)
        assert all(a[1] <= b[0] for a, b in pairwise(stretches))

    @invariant()
    def bounded_ahead(self) -> None:
        ahead = self.got.count_bytes - self.hashed + sum(lease.left_bytes for lease in self.segments.leases)
        assert ahead <= WINDOW + 2 * 8 * UNIT, "the window did not bound what the hash has to catch up with"

    @invariant()
    def never_stuck(self) -> None:
        self_heals = self.segments.leases or self.segments.left_bytes == 0
        assert self_heals or self.segments.may_take(WINDOW) or self.segments.written_to(self.hashed) > self.hashed

    def teardown(self) -> None:
        """From any state, connections that work come to the end."""
        for _ in range(10_000):
            if self.segments.left_bytes == 0:
                break
            self.hash()
            self.open(8)
            self.receive(0, SIZE)
        assert self.segments.left_bytes == 0
        self.hash()
        assert self.hashed == SIZE
        self.every_byte_once()


TestStreams = Streams.TestCase


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12), st.integers(0, 60))
def test_ranges_are_sets_of_bytes(pairs: list[tuple[int, int]], position: int) -> None:
    """Against a plain set: what is in, how much, how far without a gap."""
    ranges, model = Ranges(pairs), {byte for start, end in pairs for byte in range(start, end)}
    assert ranges.count_bytes == len(model) and ranges.first == min(model, default=None)
    run = position
    while run in model:
        run += 1
    assert ranges.end_of_run(position) == run


@given(st.sets(st.integers(0, 30)), st.integers(1, 31))
def test_holes_are_what_the_spans_leave(marks: set[int], size: int) -> None:
    """Spans and holes together are the file, without overlap."""
    spans = [(mark, mark + 1) for mark in sorted(marks) if mark < size]
    holes = holes_between(spans, size)
    covered = [byte for start, end in [*spans, *holes] for byte in range(start, end)]
    assert sorted(covered) == list(range(size))


WAITS_S = st.sampled_from((0.001, 0.02, 0.65, 3.0))


@given(st.integers(1, 1 << 40), st.integers(1, 64), st.integers(26, 33), WAITS_S)
def test_leases_are_even_and_as_few_as_may_be(left_bytes: int, streams: int, window: int, first_byte_s: float) -> None:
    """Within their bounds; no round of equal leases is begun that a little more in each would have spared."""
    least, most = 8 * UNIT, 64 * UNIT
    tuning = Tuning(lease_min_bytes=least, lease_max_bytes=most, lease_near_bytes=2 * UNIT, window_bytes=1 << window)
    lease = lease_bytes(left_bytes, left_bytes, streams, first_byte_s, tuning)
    assert 2 * UNIT <= lease <= most
    is_last = left_bytes <= LAST_WAITS * tuning.hash_bps * first_byte_s
    round_bytes = min(1 << window, 1 << window if is_last else left_bytes // 2)
    cap = max(least, min(most, round_bytes // streams))
    assert -(-left_bytes // (streams * max(lease, least))) <= -(-left_bytes // (streams * cap))


@given(st.integers(1, 1 << 33), st.integers(0, 1 << 33), st.integers(1, 64), WAITS_S)
def test_no_short_rest_is_left_for_one_connection_alone(
    free_bytes: int, leased_bytes: int, streams: int, first_byte_s: float
) -> None:
    """Leases of this size use up what is free, the last one as long as the others; or they are as long as may be."""
    tuning = Tuning()
    left_bytes = free_bytes + leased_bytes
    lease = lease_bytes(left_bytes, free_bytes, streams, first_byte_s, tuning)
    is_last = left_bytes <= LAST_WAITS * tuning.hash_bps * first_byte_s
    if is_last and tuning.lease_min_bytes < lease < tuning.lease_max_bytes:
        leases = -(-free_bytes // lease)
        assert free_bytes - (leases - 1) * lease > lease - leases * tuning.align_bytes


def test_the_last_round_is_not_a_short_one() -> None:
    """5 GB over 16 connections: two rounds of 150 MiB instead of one of 256 MiB and one of 42 MiB."""
    assert lease_bytes(5 * 10**9, 5 * 10**9, 16, 0.65, Tuning()) == 150 << 20


def test_near_servers_are_asked_for_less_and_less() -> None:
    """Where a first byte takes no time, what is left to hash after the last byte shrinks to the shortest leases."""
    tuning, left_bytes, leases = Tuning(), 2 << 30, []
    while left_bytes > 0:
        leases.append(lease_bytes(left_bytes, left_bytes, 16, 0.002, tuning))
        left_bytes -= 16 * leases[-1]
    assert leases == [64 << 20, 32 << 20, 16 << 20, 16 << 20]


def test_what_the_hash_gets_done_in_a_wait_is_worth_no_other_wait() -> None:
    """The Hub's CDN, a 2 GiB file: one round over sixteen connections, as the hash of half takes as long as a wait."""
    assert lease_bytes(2 << 30, 2 << 30, 16, 0.65, Tuning()) == 128 << 20
