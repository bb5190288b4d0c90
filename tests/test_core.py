"""The daemon's decisions, apart from everything: spans, tries, the plan, and the pace."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core import backoff
from qwen_daemon.core.attempts import PROGRESS_BYTES, Again, Attempts, GiveUp, after_trouble
from qwen_daemon.core.digest import SpanDigester, new_hash, span_digest
from qwen_daemon.core.errors import (
    AskHuman,
    MakeRoom,
    ResolveAgain,
    StartOver,
    TryAgain,
    TryLater,
)
from qwen_daemon.core.order import SMALL_BYTES
from qwen_daemon.core.pace import STALL_NOTICE_S, WINDOW_S, Pace, eta_s
from qwen_daemon.core.plan import Found, make_plan
from qwen_daemon.core.spans import SPAN_BYTES, Span, keep_in_order, recorded_bytes
from tests.fakes.model_folder import COMMIT, REPO

SIZE = 1000
SHA = "a" * 64
DIGEST = b"d" * 16

spans_of_any_kind = st.lists(
    st.builds(Span, offset=st.integers(0, 1200), length=st.integers(-5, 300), digest=st.just(DIGEST)), max_size=12
)


# Spans


@given(spans_of_any_kind)
def test_spans_that_are_kept_lie_in_the_file_in_order_and_apart(spans: list[Span]) -> None:
    """Whatever a damaged ledger says, the walk gets spans inside the file that never overlap, from the given ones."""
    kept = keep_in_order(spans, SIZE)
    assert all(span in spans and 0 <= span.offset < span.end <= SIZE for span in kept)
    assert all(before.end <= after.offset for before, after in itertools.pairwise(kept))
    assert recorded_bytes(kept) <= SIZE
    assert keep_in_order(kept, SIZE) == kept


@given(st.lists(st.integers(1, 3 * SPAN_BYTES // 2), max_size=4), st.integers(0, 100))
def test_digests_of_a_stream_do_not_depend_on_how_it_came(lengths: list[int], offset: int) -> None:
    """Pieces of any lengths give spans of at most SPAN_BYTES that cover the stream without a gap."""
    digester = SpanDigester(offset)
    for length in lengths:
        digester.update(bytes(length))
    spans = digester.take()
    assert [span.length for span in spans[:-1]] == [SPAN_BYTES] * (len(spans) - 1)
    assert recorded_bytes(spans) == sum(lengths)
    assert all(span.digest == span_digest(bytes(span.length)) for span in spans)
    assert [span.offset for span in spans] == [offset + n * SPAN_BYTES for n in range(len(spans))]
    assert digester.take() == ()


def test_hashes_are_the_hubs() -> None:
    """sha256 for LFS files, git's blob id for the others; both of the empty file are the known ones."""
    lfs = WantedFile(path="w", size_bytes=0, git_sha1="0" * 40, sha256=SHA)
    assert new_hash(lfs).hexdigest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert new_hash(replace_file(lfs, sha256=None)).hexdigest() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def replace_file(file: WantedFile, *, sha256: str | None) -> WantedFile:
    return WantedFile(path=file.path, size_bytes=file.size_bytes, git_sha1=file.git_sha1, sha256=sha256)


# When to try again


@pytest.mark.fault("H18")
def test_a_file_gets_four_tries_with_growing_pauses() -> None:
    """2, 4 and 8 seconds and up to a tenth more; then it is given up without asking for a person."""
    attempts, delays = Attempts(), []
    while isinstance(decision := after_trouble(attempts, TryAgain("E_X", "why"), received_bytes=0, dice=0.5), Again):
        attempts = decision.attempts
        delays.append((decision.attempt, decision.delay_s))
    assert delays == [(2, 2.1), (3, 4.2), (4, 8.4)]
    assert decision == GiveUp(code="E_X", detail="why", needs_human=False)


@pytest.mark.fault("H18", "H37")
@given(st.integers(PROGRESS_BYTES, 1 << 40), st.integers(0, 9), st.floats(0, 0.999))
def test_progress_resets_the_count_unless_what_came_was_wrong(received: int, failed: int, dice: float) -> None:
    """A slow line never fails a file; a Hub whose bytes are wrong does, however many it sends."""
    start = Attempts(failed=failed)
    moved = after_trouble(start, TryAgain("E_X"), received_bytes=received, dice=dice)
    assert isinstance(moved, Again) and moved.attempt == 2 and moved.attempts == Attempts(failed=1)
    wrong = after_trouble(start, StartOver("E_CORRUPT"), received_bytes=received, dice=dice)
    assert isinstance(wrong, GiveUp) is (failed >= 3)


@pytest.mark.fault("H19")
def test_spent_addresses_do_not_spin() -> None:
    """A CDN that refuses every fresh address is asked with pauses, and in the end not at all."""
    attempts, delays = Attempts(), []
    while isinstance(decision := after_trouble(attempts, ResolveAgain("E_URL"), received_bytes=0, dice=0), Again):
        attempts = decision.attempts
        delays.append(decision.delay_s)
        assert len(delays) < 50
    assert min(delays) >= 1 and decision.code == "E_URL"


@pytest.mark.fault("H14")
@given(st.floats(0, 7200), st.integers(0, 9), st.floats(0, 0.999))
def test_the_servers_word_costs_no_try_and_is_never_undercut(after_s: float, failed: int, dice: float) -> None:
    """The pause is at least what was asked and at least a second; the count stays."""
    start = Attempts(failed=failed)
    decision = after_trouble(start, TryLater("E_L", after_s=after_s), received_bytes=0, dice=dice)
    assert isinstance(decision, Again) and decision.attempts == start and decision.delay_s >= max(1, after_s)


@pytest.mark.fault("H20", "H21")
def test_people_and_disks_are_not_retried() -> None:
    """AskHuman ends a file at once; a full disk is the whole job's."""
    decision = after_trouble(Attempts(), AskHuman("E_GATED", "x"), received_bytes=1 << 30, dice=0)
    assert decision == GiveUp(code="E_GATED", detail="x", needs_human=True)
    with pytest.raises(MakeRoom):
        after_trouble(Attempts(), MakeRoom("E_DISK_FULL"), received_bytes=0, dice=0)


def test_rounds_come_after_30_seconds_doubling_to_15_minutes() -> None:
    """The pause between rounds."""
    assert [backoff.round_delay_s(n) for n in range(1, 8)] == [30, 60, 120, 240, 480, 900, 900]
    assert backoff.round_delay_s(10**9) == 900
    assert [backoff.disk_delay_s(n) for n in range(7)] == [10, 10, 10, 10, 20, 40, 80]
    assert backoff.disk_delay_s(10**9) == 900


@pytest.mark.fault("H14", "H15", "H16", "H42")
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "-3"}, 5),
        ({"retry-after": "٣"}, 5),
        ({"retry-after": "1e3"}, 5),
        ({"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT", "date": "Mon, 23 Nov 2026 08:00:00 GMT"}, 30),
        ({"retry-after": "Mon, 23 Nov 2026 07:00:00 GMT", "date": "Mon, 23 Nov 2026 08:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT"}, 5),  # without the server's clock a date says nothing
        ({"retry-after": "soon", "ratelimit": '"api";r=0;t=55'}, 56),
        ({"ratelimit": '"api";r=0;t=55'}, 56),
        ({"ratelimit": '"resolvers";r=12;t=55'}, 5),
        ({"ratelimit": "nonsense"}, 5),
        ({}, 5),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], wait_s: float) -> None:
    """Retry-After first, by the server's own clock; then an empty bucket; at most an hour."""
    assert backoff.asked_wait_s(headers, default_s=5) == wait_s


@pytest.mark.fault("H14", "H15")
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_header_breaks_the_wait(after: str, date: str, limit: str) -> None:
    """Any text gives a number between nothing and an hour."""
    assert 0 <= backoff.asked_wait_s({"retry-after": after, "date": date, "ratelimit": limit}, default_s=5) <= 3600


# The plan

SEAL = Seal(inode=1, size_bytes=10, mtime_ns=2, ctime_ns=3)


def a_file(path: str, size_bytes: int = 10, sha256: str = SHA) -> WantedFile:
    return WantedFile(path=path, size_bytes=size_bytes, git_sha1="0" * 40, sha256=sha256)


def a_manifest(*files: WantedFile) -> Manifest:
    return Manifest(repo=REPO, commit=COMMIT, files=files)


@pytest.mark.parametrize(
    ("found", "sealed", "kept", "expected"),
    [
        (Found(linked=True, seal=SEAL), True, 0, ("keep", "present", 0)),
        (Found(linked=False, seal=SEAL), True, 0, ("link", "missing", 0)),
        (Found(linked=True, seal=SEAL), False, 0, ("hash", "unverified", 0)),
        (Found(linked=False, seal=SEAL), False, 0, ("hash", "unverified", 0)),
        (Found(), True, 0, ("fetch", "missing", 10)),
        (Found(), False, 4, ("fetch", "short", 6)),
        (Found(linked=True, seal=Seal(inode=1, size_bytes=9, mtime_ns=2, ctime_ns=3)), True, 0, ("fetch", "short", 10)),
        (Found(linked=True, seal=Seal(inode=1, size_bytes=0, mtime_ns=2, ctime_ns=3)), True, 0, ("fetch", "empty", 10)),
        (Found(linked=True, seal=Seal(inode=1, size_bytes=11, mtime_ns=2, ctime_ns=3)), True, 0, ("fetch", "long", 10)),
    ],
)
def test_what_is_done_with_one_file(found: Found, sealed: bool, kept: int, expected: tuple[str, str, int]) -> None:
    """A size alone proves nothing; a seal does, and only it saves the hash."""
    seals = {"w": SEAL} if sealed else {}
    (step,) = make_plan(a_manifest(a_file("w")), {"w": found}, seals, {"w": kept}).steps
    assert (step.action, step.finding, step.fetch_bytes) == expected
    (distrusted,) = make_plan(a_manifest(a_file("w")), {"w": found}, seals, {"w": kept}, distrust=True).steps
    assert distrusted.action not in ("keep", "link")


def test_small_files_come_first_then_the_components_in_order() -> None:
    """So that a broken repository shows in seconds, and a loader gets its components in its order."""
    large = SMALL_BYTES + 1
    files = [a_file("vae/w", large), a_file("text/w", large), a_file("text/config", 9), a_file("index", 1)]
    plan = make_plan(a_manifest(*files), {}, {}, {}, components=["text", "vae"])
    assert [step.file.path for step in plan.steps] == ["text/config", "index", "text/w", "vae/w"]
    assert plan.fetch_bytes == 2 * large + 10 and not plan.is_done
    assert [checked.finding for checked in plan.checked_files()] == ["missing"] * 4


# The pace


def test_the_rate_is_of_the_last_seconds() -> None:
    """Old readings leave the window; silence is counted from the last byte."""
    pace = Pace(started_s=100)
    for second in range(1, 31):
        pace.took(100 + second, 1000 if second <= 10 else 50)
        rate = pace.rate_bps(100 + second)
    assert rate == 50
    assert pace.idle_s(130 + STALL_NOTICE_S) == STALL_NOTICE_S
    assert pace.rate_bps(131 + 3 * WINDOW_S) < 50
    assert (eta_s(100, 50), eta_s(100, 0), eta_s(0, 0)) == (2.0, None, 0.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1 << 30)), max_size=40))
def test_rates_are_never_negative(steps: list[tuple[float, int]]) -> None:
    """Whatever the clock and the network do."""
    pace, now_s = Pace(started_s=0), 0.0
    for elapsed_s, count in steps:
        now_s += elapsed_s
        pace.took(now_s, count)
        assert pace.rate_bps(now_s) >= 0 and pace.idle_s(now_s) >= 0
