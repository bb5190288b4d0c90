"""The details of one file, the order of files, and what is kept apart: network, disk, hash."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.commands import Connection, Whereabouts
from qwen_api.language import LANGUAGES, speak
from qwen_api.status import PastTrouble, Status
from qwen_monitor.details import segment_map
from qwen_monitor.display import ASCII, UNICODE, chart
from qwen_monitor.event_text import EventText
from qwen_monitor.scene import Scene, Size
from qwen_monitor.view import Order, Priority, Say, View, files_shown, press
from tests.fakes import download
from tests.test_rows import HOSTILE, SIZES, assert_fits, event_log, status_of, texts

PATH = download.ACTIVE
OPEN = View(file=PATH, details=True)
AT = "2026-11-23T14:25:40.000Z"


def details(*events: e.Event, whereabouts: Whereabouts | None = None, path: str = PATH) -> str:
    """The page of a file after these events."""
    view = msgspec.structs.replace(OPEN, file=path)
    scene = Scene(status=status_of(*download.half_way(), *events), view=view, whereabouts=whereabouts)
    return "\n".join(texts(scene, Size(width=100, height=40)))


def retry(code: str = "E_CUT_SHORT", **changes: object) -> e.FileRetry:
    event = e.FileRetry(
        model=download.MODEL, path=PATH, attempt=2, attempts_max=4, retry_at=download.RETRY_AT, code=code, ts=AT
    )
    return msgspec.structs.replace(event, **changes)


def stalled() -> e.FileStalled:
    return e.FileStalled(
        model=download.MODEL, path=PATH, idle_s=10, next_at=download.RETRY_AT, last_byte_at="2026-11-23T14:25:20.000Z"
    )


# The page


def test_a_file_that_waits_says_why_and_when_it_is_tried_again() -> None:
    """The last error with its cause and the way out, and the countdown to the next try."""
    page = details(retry(detail="reset by peer"))
    assert "the next try begins in 0:07, at 14:25:57" in page
    assert "try 2 of 4 in a row without progress" in page
    assert "14:25:40 E_CUT_SHORT: " in page and "reset by peer" in page and "fix: " in page


def test_the_last_error_stays_while_the_next_try_is_under_way() -> None:
    """Who looks a second too late still learns what went wrong."""
    started = e.FileStarted(model=download.MODEL, path=PATH, attempt=2, size_bytes=download.SIZES[PATH])
    page = details(retry(), started)
    assert "downloading" in page and "14:25:40 E_CUT_SHORT: " in page
    assert "the next try" not in page


def test_a_stalled_file_says_for_how_long_and_what_happens_when() -> None:
    """In its details, and below its row in the list."""
    assert "no byte for 0:30, the connection is cut in 0:07" in details(stalled())
    listed = texts(Scene(status=status_of(*download.half_way(), stalled())))
    assert "     no byte for 0:30, the connection is cut in 0:07" in listed


def test_a_daemon_that_began_anew_is_told_beside_the_files_own_events() -> None:
    """Its tries are counted from the first again; what happened to other files stands elsewhere."""
    began = EventText(word="daemon", subject="", detail="restarted, was away 0:12", ts=AT, is_bad=True)
    log = (*event_log(*download.half_way()), began)
    page = texts(Scene(status=status_of(*download.half_way()), view=OPEN, events=log), SIZES[1])
    assert any("restarted, was away 0:12" in row for row in page)
    assert not any("verified" in row and "tokenizer" in row for row in page)


def test_a_failed_file_says_who_acts_next() -> None:
    """The daemon, when the others are done or at the time that it told; or a person."""
    failed = e.FileFailed(model=download.MODEL, path=PATH, code="E_NETWORK", ts=AT)
    assert "tried again when the other files are done (r: now)" in details(failed)
    waiting = e.ModelStateChanged(model=download.MODEL, state="waiting", retry_at=download.RETRY_AT)
    assert "the daemon tries again in 0:07" in details(failed, waiting)
    gated = msgspec.structs.replace(failed, code="E_GATED", needs_human=True)
    assert "a person must act" in details(gated)


def test_where_the_bytes_come_from_and_are() -> None:
    """The endpoint and who really serves it, each connection with its stretch, the hash's way through the file."""
    size = download.SIZES[PATH]
    seen = Whereabouts(
        etag="0" * 64,
        endpoint="https://huggingface.co",
        host="cas-bridge.xethub.hf.co",
        hashed_bytes=size // 4,
        present=((0, size // 2),),
        connections=tuple(Connection(start=0, end=size, position=size // 2 + n, rate_bps=5_000_000) for n in range(6)),
    )
    page = details(whereabouts=seen)
    assert "https://huggingface.co (cas-bridge.xethub.hf.co)" in page and "HTTP, 6 connections" in page
    assert "hashed 2.5 GB" in page
    assert "5.0 GB .. 10.0 GB" in page and "5.0 MB/s" in page and "and 2 more" in page
    whole = msgspec.structs.replace(seen, has_ranges=False, connections=())
    assert "the server gives no ranges" in details(whereabouts=whole)


def test_a_verified_file_and_one_that_waits_have_details_too() -> None:
    """Nothing is asked for that is not known: an older daemon's answer is none."""
    page = details(path=download.VERIFIED[0])
    assert "its hash is the Hub's" in page and "not known yet" in page
    limits = e.LimitsChanged(max_files=8, max_connections=16)
    assert "waits for its turn; 8 at once" in details(limits, path="text_encoder/model-00001-of-00002.safetensors")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.width}x{s.height}")
def test_details_fit_any_terminal_whatever_the_names(size: Size, glyphs, language: str) -> None:
    """Escapes for what is dangerous, in both languages, at each size."""
    if not glyphs.is_ascii:
        speak(language)
    seen = Whereabouts(etag="x", endpoint=HOSTILE, host=HOSTILE, connections=(Connection(start=0, end=9, position=5),))
    events = (*download.half_way(), retry(code=HOSTILE, detail=HOSTILE))
    scene = Scene(status=status_of(*events), view=OPEN, whereabouts=seen, events=event_log(*events))
    assert_fits(scene, size, glyphs)


# The map


STRETCHES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted).map(tuple), max_size=5)


@given(st.integers(0, 1000), STRETCHES, st.integers(-1, 80), st.sampled_from([UNICODE, ASCII]))
def test_a_map_has_one_sign_for_each_cell(size: int, stretches, cells: int, glyphs) -> None:
    """For any stretches, also those that reach behind the end."""
    coming = [Connection(start=start, end=end, position=start) for start, end in stretches]
    assert len(segment_map(size, [], coming, cells, glyphs)) == max(0, cells)
    assert segment_map(size, [(0, size)], coming, cells, glyphs) == glyphs.full * cells


def test_a_map_tells_here_from_partly_coming_and_missing() -> None:
    """From the first byte to the last."""
    drawn = segment_map(60, [(0, 20), (25, 30)], [Connection(start=30, end=50, position=32)], 6, UNICODE)
    assert drawn == "██▓▒▒░"


@given(st.lists(st.floats(-1, 1e12), max_size=40), st.integers(1, 6))
def test_a_chart_has_its_height_and_no_gap_below_its_line(values: list[float], height: int) -> None:
    """Each column is full below where it ends."""
    lines = chart(values, height, UNICODE)
    assert [len(line) for line in lines] == [len(values)] * height
    for column in zip(*lines, strict=True):
        levels = [UNICODE.spark.index(sign) for sign in column]
        assert levels == sorted(levels) and sum(0 < level < 8 for level in levels) <= 1


# Keys


def test_files_are_sorted_as_asked() -> None:
    """s goes round: troubles first, by name, by size, by rate; the heading says which."""
    status = status_of(*download.half_way())
    view, orders = View(all_files=True), list[list[str]]()
    for _ in range(4):
        orders.append([file.path for file in files_shown(status, view)])
        view, _none = press(view, "s", "s", status)
    assert view == View(all_files=True)
    sizes = [download.SIZES[path] for path in orders[2]]
    assert (orders[0][0], orders[1], sizes) == (download.RETRYING, sorted(orders[1]), sorted(sizes, reverse=True))
    assert orders[3][0] == PATH
    by_size = View(all_files=True, sort="size")
    assert any(row.startswith(" FILE by size") for row in texts(Scene(status=status, view=by_size)))


def test_enter_opens_and_closes_the_details_of_the_chosen_file_or_the_first() -> None:
    """Arrows go on to the next file; what is verified meanwhile stays open; with nothing to choose it is said."""
    status = status_of(*download.half_way())
    view, _ = press(View(), "enter", "\r", status)
    assert (view.file, view.details) == (download.RETRYING, True)
    view, _ = press(view, "down", "", status)
    assert (view.file, view.details) == (PATH, True)
    done = status_of(*download.half_way(), download.verified(PATH))
    assert PATH in "\n".join(texts(Scene(status=done, view=view)))
    assert press(view, "enter", "\r", status)[0].details is False
    assert isinstance(press(View(), "enter", "\r", Status())[1], Say)


def test_a_file_of_a_paused_model_waits_for_a_person() -> None:
    """Not for its turn, which does not come."""
    paused = e.ModelStateChanged(model=download.MODEL, state="paused")
    status = status_of(*download.half_way(), paused)
    view = View(model=download.MODEL, file=PATH, details=True)
    assert "the model is paused; p lets it go on" in "\n".join(texts(Scene(status=status, view=view)))


def test_a_model_is_removed_after_a_yes() -> None:
    """x asks; read-only it tells the command."""
    status = status_of(*download.half_way())
    asked, nothing = press(View(), "x", "x", status)
    assert (asked.removing, nothing) == (download.MODEL, None)
    assert press(asked, "y", "y", status) == (View(), Order(verb="remove", model=download.MODEL))
    assert press(asked, "n", "n", status) == (View(), None)
    assert press(asked, "д", "д", status) == press(asked, "y", "y", status), "a Russian keyboard says it, too"
    assert press(View(read_only=True), "x", "x", status)[1] == Say(
        text=f"read-only; elsewhere: qwenctl rm {download.REPO}"
    )


def test_without_a_chosen_file_the_model_gets_the_priority() -> None:
    """One step for each key; with a file chosen it is the file's."""
    status = status_of(*download.half_way(), e.ModelLimitsChanged(model=download.MODEL, priority=3))
    assert press(View(), "greater_than_sign", ">", status)[1] == Priority(model=download.MODEL, priority=4)
    assert press(View(read_only=True), "less_than_sign", "<", status)[1] == Say(
        text=f"read-only; elsewhere: qwenctl prio {download.REPO} 2"
    )


# What is kept apart


def test_a_rate_limit_has_a_row_of_its_own() -> None:
    """Waiting for the Hub's permission is no fault of the line, and ends at a known time."""
    throttled = e.HubThrottled(origin="https://huggingface.co:443", retry_at=download.RETRY_AT)
    rows = texts(Scene(status=status_of(*download.half_way(), throttled)), SIZES[0])
    assert " ↻ rate limit: the Hub asks to wait, 0:07 left" in rows


def test_disk_hash_and_network_are_told_apart() -> None:
    """What is being hashed is on the disk all the while, and nothing of it came over the network."""
    hashing = e.FileProgress(
        model=download.MODEL, path=PATH, done_bytes=10**9, size_bytes=9_970_000_000, verifying=True
    )
    file = status_of(*download.half_way(), hashing).models[download.MODEL].files[PATH]
    assert (file.state, file.done_bytes, file.hashed_bytes) == ("verifying", 6_120_000_000, 10**9)
    assert file.received_bytes == 6_120_000_000
    rows = texts(Scene(status=status_of(*download.half_way())))
    assert any("on disk 6.1 GB  verified 5.1 MB  free 412.0 GB  from the network 6.1 GB" in row for row in rows)


def test_what_went_wrong_is_kept_until_something_else_does() -> None:
    """Over the next try, the next check, and the end."""
    started = e.FileStarted(model=download.MODEL, path=PATH, attempt=2, size_bytes=1, offset_bytes=10**9)
    checked = e.ModelChecked(
        model=download.MODEL, commit="c", reason="timer", files=(e.CheckedFile(path=PATH, finding="short"),)
    )
    for events in ([retry(), started], [retry(), checked], [retry(), download.verified(PATH)]):
        file = status_of(*download.half_way(), *events).models[download.MODEL].files[PATH]
        assert file.last_trouble == PastTrouble(code="E_CUT_SHORT", at=AT)
        assert (file.code, file.retry_at) == ("", "")
    assert status_of(*download.half_way(), retry(), started).models[download.MODEL].files[PATH].done_bytes == 10**9
