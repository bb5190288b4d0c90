"""The monitor's pure half: texts, pace, keys and the screen at every size, with hostile names too."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.errors import ERRORS
from qwen_api.models import ModelRef
from qwen_api.status import DiskStatus, FileStatus, LoaderStatus, ModelStatus, Status, fold
from qwen_monitor import control_arguments
from qwen_monitor.display import (
    ASCII,
    UNICODE,
    bar,
    bytes_text,
    cell_width,
    choose_glyphs,
    duration_text,
    pair_text,
    percent_text,
    rate_text,
    safe,
    spark,
)
from qwen_monitor.event_text import EventText, event_text
from qwen_monitor.memory import Memory
from qwen_monitor.pace import Pace
from qwen_monitor.panes import loader_row
from qwen_monitor.rows import draw
from qwen_monitor.scene import Link, Scene, Size
from qwen_monitor.sentences import error_text, reason
from qwen_monitor.summary import farewell, model_line
from qwen_monitor.view import KEYS, Leave, Order, Say, View, files_shown, press
from tests.fakes import download

NOW = datetime(2026, 11, 23, 14, 25, 50, tzinfo=UTC)
SIZES = [Size(width=60, height=16), Size(width=80, height=24), Size(width=120, height=40)]
HOSTILE = "\x1b[2J\r\n\t\x9b31m\x7f\u202egnp.\u200b\u2028\u2066\ufeff\U000e0041é" + "\u0301" * 40 + "漢字" * 90


def status_of(*events: e.Event) -> Status:
    status = Status(version="1.2.3", pid=1, started_at="2026-11-23T14:00:00Z")
    for seq, event in enumerate(events, 1):
        status = fold(status, msgspec.structs.replace(event, seq=seq))
    return status


def texts(scene: Scene, size: Size = SIZES[1], glyphs=UNICODE) -> list[str]:
    return [row.text for row in draw(scene, size, NOW, glyphs)]


# Numbers and names


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (57_700_000_000, "57.7 GB"),
    ],
)
def test_sizes_are_decimal_and_never_round_to_a_thousand(count: int, text: str) -> None:
    """Sizes carry the units of the Hub's pages; 999,950 bytes are a megabyte, not 1000.0 kB."""
    assert bytes_text(count) == text


@given(st.integers(min_value=0, max_value=10**17))
def test_sizes_and_rates_have_a_bounded_width(count: int) -> None:
    """Up to 100 PB a size takes at most 8 cells and a rate at most 10."""
    assert len(bytes_text(count)) <= 8
    assert len(rate_text(count)) <= 10


def test_a_pair_names_its_unit_once() -> None:
    """Done and size stand in the unit of the size."""
    assert pair_text(30_100_000_000, 57_700_000_000) == "30.1/57.7 GB"
    assert pair_text(3, 485) == "3/485 B"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (5.9, "0:05"), (325, "5:25"), (3723, "1:02:03"), (400_000, "4d 15h"), (math.inf, "-"), (-3, "0:00")],
)
def test_durations(seconds: float, text: str) -> None:
    """Minutes, hours, days; what is not finite is a dash."""
    assert duration_text(seconds) == text


def test_only_the_whole_is_a_hundred_percent() -> None:
    """A file that lacks one byte is at 99.9 %."""
    assert percent_text(10**12 - 1, 10**12) == "99.9%"
    assert percent_text(10, 10) == "100.0%"
    assert percent_text(0, 0) == "100.0%"


@given(st.integers(-5, 10**13), st.integers(-5, 10**13), st.integers(-2, 200), st.sampled_from([UNICODE, ASCII]))
def test_a_bar_has_its_width_and_is_full_only_when_done(done: int, size: int, width: int, glyphs) -> None:
    """For any numbers the bar is exactly as wide as asked, and full only at the end."""
    drawn = bar(done, size, width, glyphs)
    assert len(drawn) == max(0, width)
    if width > 0:
        assert (drawn == glyphs.full * width) == (done >= size)


@given(st.lists(st.floats(-1, 1e12), max_size=50))
def test_a_spark_has_one_cell_for_each_value(values: list[float]) -> None:
    """Any rates, also none and negative ones, are drawn."""
    assert len(spark(values)) == len(values)


def is_harmless(text: str) -> bool:
    bad = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return all(unicodedata.category(c) not in bad for c in text)


@pytest.mark.fault("X1")
def test_what_could_move_the_cursor_or_reorder_text_is_shown_as_an_escape() -> None:
    """C0, C1, DEL, separators, direction and zero-width characters become visible."""
    assert safe("a\x1b[2J\x9b\x7f\u2028\u202e\u200b\U000e0041") == (
        "a\\x1b[2J\\x9b\\x7f\\u2028\\u202e\\u200b\\U000e0041"
    )
    assert safe("Ж漢é") == "Ж漢é"
    assert safe("Ж", glyphs=ASCII) == "\\u0416"


@given(st.text(max_size=60), st.integers(0, 40), st.sampled_from([UNICODE, ASCII]))
def test_a_safe_name_is_harmless_and_fits(text: str, width: int, glyphs) -> None:
    """For any text and width: no control character, not wider than asked, and safe again as it is."""
    shown = safe(text, width, glyphs)
    assert is_harmless(shown)
    assert cell_width(shown) <= width
    assert safe(shown, width, glyphs) == shown
    assert shown.isascii() or glyphs is UNICODE


def test_a_long_path_keeps_its_folder_and_its_end() -> None:
    """The part number at the end of a shard's name is what tells it from the others."""
    path = "transformer/diffusion_pytorch_model-00003-of-00005.safetensors"
    assert safe(path, 40) == "transformer/…-00003-of-00005.safetensors"


def test_glyphs_are_ascii_where_the_signs_cannot_be_drawn() -> None:
    """Asked for, not UTF-8, no encoding known, or the Linux console."""
    assert choose_glyphs({}, "utf-8") is UNICODE
    assert choose_glyphs({}, "UTF-8", True) is ASCII
    assert choose_glyphs({}, "iso-8859-1") is ASCII
    assert choose_glyphs({}, None) is ASCII
    assert choose_glyphs({"TERM": "linux"}, "utf-8") is ASCII


# Pace


def paced(*samples: tuple[float, int]) -> Pace:
    pace = Pace()
    for now_s, count in samples:
        pace = pace.fed(now_s, count)
    return pace


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    """An old burst does not count; a stop brings the rate to zero and the estimate to infinity."""
    steady = paced(*[(float(s), s * 1000) for s in range(60)])
    assert steady.rate_bps() == 1000
    assert steady.eta_s(5000) == 5
    stopped = paced((0, 0), (1, 10**9), *[(float(s), 10**9) for s in range(2, 20)])
    assert stopped.rate_bps() == 0
    assert stopped.eta_s(1) == math.inf
    assert stopped.eta_s(0) == 0


def test_bytes_of_a_time_without_samples_are_no_leap_in_the_graph() -> None:
    """A daemon that was away for a while comes back with what it fetched before anybody saw it."""
    seen = [(float(s), s * 1000) for s in range(10)]
    graph = paced(*seen, (20.0, 20_000)).history(20)
    assert max(graph) == pytest.approx(1000)
    assert sum(graph) == pytest.approx(20_000)


def test_a_count_that_falls_starts_the_pace_anew() -> None:
    """A restarted daemon counts from zero; its rate is not negative."""
    assert paced((0, 10**9), (1, 0), (2, 500)).rate_bps() == 500


@given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 10**13)), max_size=40), st.integers(0, 80))
def test_any_samples_give_a_pace(samples: list[tuple[float, int]], buckets: int) -> None:
    """Clocks that stand still or go back do no harm."""
    pace = paced(*samples)
    assert pace.rate_bps() >= 0
    assert pace.average_bps() >= 0
    assert pace.eta_s(1) >= 0
    assert len(pace.history(buckets)) in (0, buckets)


# Keys


def test_keys_give_actions() -> None:
    """p pauses what runs and resumes what is paused; q and Ctrl-C leave with their codes."""
    running = status_of(*download.half_way())
    paused = status_of(*download.half_way(), e.ModelStateChanged(model=download.MODEL, state="paused"))
    assert press(View(), "q", "q", running)[1] == Leave(code=0)
    assert press(View(typing=True), "ctrl+c", "\x03", running)[1] == Leave(code=130)
    assert press(View(), "p", "p", running)[1] == Order(verb="pause", model=download.MODEL)
    assert press(View(), "p", "p", paused)[1] == Order(verb="resume", model=download.MODEL)
    assert press(View(), "r", "r", running)[1] == Order(verb="retry", model=download.MODEL)
    assert press(View(), "v", "v", running)[1] == Order(verb="verify", model=download.MODEL)
    assert isinstance(press(View(), "v", "v", Status())[1], Say)


def test_read_only_orders_nothing_and_says_the_command() -> None:
    """With --read-only a key tells which command would do it."""
    _, action = press(View(read_only=True), "p", "p", status_of(*download.half_way()))
    assert action == Say(text=f"read-only; elsewhere: qwenctl pause {download.REPO}")


def test_a_filter_is_typed_kept_and_cleared() -> None:
    """While typing, letters are text and not commands."""
    status = status_of(*download.half_way())
    view = View()
    for key, character in (("slash", "/"), ("v", "v"), ("a", "a"), ("q", "q"), ("backspace", "\x7f"), ("enter", "\r")):
        view, action = press(view, key, character, status)
        assert action is None
    assert (view.filter, view.typing) == ("va", False)
    shown = texts(Scene(status=status, view=view))
    assert any("vae/" in row for row in shown)
    assert not any("▶ transformer/" in row for row in shown)
    assert press(view, "escape", "\x1b", status)[0].filter == ""
    others = [file.path for file in files_shown(status, View(filter="!Transformer"))]
    assert download.RETRYING in others and download.ACTIVE not in others
    assert files_shown(status, View(filter="!")) == files_shown(status, View())  # nothing is typed behind it yet


def test_tab_goes_round_the_models_and_arrows_choose_a_file() -> None:
    """The first key chooses the first file, or the last; choosing stops at both ends; another model has none chosen."""
    other = download.added("org--other", "org/other")
    status = status_of(*download.half_way(), other)
    listed = [file.path for file in files_shown(status, View())]
    assert listed[:2] == [download.RETRYING, download.ACTIVE]
    view, _ = press(View(), "down", "", status)
    assert view.file == listed[0]
    assert press(view, "down", "", status)[0].file == listed[1]
    assert press(view, "end", "", status)[0].file == press(View(), "end", "", status)[0].file == listed[-1]
    assert press(view, "up", "", status)[0].file == press(View(), "up", "", status)[0].file == listed[0]
    assert press(view, "escape", "\x1b", status)[0].file == ""
    view, _ = press(view, "tab", "\t", status)
    assert (view.model, view.file) == ("org--other", "")
    assert press(view, "down", "", status)[0].file == ""  # its files are not known
    assert press(view, "tab", "\t", status)[0].model == download.MODEL
    assert press(View(wanted=ModelRef(repo="org/other")), "tab", "", status)[0].model == "org--other"


_ANY_KEY = st.sampled_from(
    ["q", "p", "s", "x", "y", "slash", "a", "escape", "tab", "enter", "backspace", "up", "end", "?", "ctrl+c"]
)


@given(st.lists(st.tuples(_ANY_KEY, st.characters()), max_size=30))
def test_any_keys_in_any_order_leave_a_screen_that_fits(keys: list[tuple[str, str]]) -> None:
    """Whatever is typed, also into the filter, stays harmless."""
    status, view = status_of(*download.half_way()), View()
    for key, character in keys:
        view, _ = press(view, key, character, status)
    assert_fits(Scene(status=status, view=view), SIZES[1], UNICODE)


# The screen


def assert_fits(scene: Scene, size: Size, glyphs) -> None:
    rows = draw(scene, size, NOW, glyphs)
    assert len(rows) <= size.height
    for row in rows:
        assert cell_width(row.text) <= size.width, row.text
        assert is_harmless(row.text), ascii(row.text)
        assert row.text.isascii() or not glyphs.is_ascii, row.text


def event_log(*events: e.Event) -> tuple[EventText, ...]:
    return tuple(t for x in events if (t := event_text(x)))


def test_a_loader_shows_how_much_of_a_component_has_come_and_why_it_may_hang() -> None:
    """Bytes to the device, of the component; what it says of itself is there in every state."""
    facts = {"name": "gpu0", "component": "transformer", "component_bytes": 3_100_000_000, "loaded_bytes": 9}
    loader = LoaderStatus(state="loading", component_size_bytes=9_900_000_000, detail="nothing moves", **facts)
    text = loader_row(loader, 100, ASCII).text
    assert "LOADER gpu0 is loading transformer 3.1 GB / 9.9 GB: nothing moves" in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_loader_that_failed_says_so_before_why(width: int) -> None:
    """Pid and device go first, then the middle of the reason: state and code are always there."""
    why = "E_NO_VRAM: CUDA out of memory: tried to allocate 2.00 GiB while 23.10 GiB of 23.99 GiB are in use"
    loader = LoaderStatus(name="image-api", state="failed", pid=4121, device="cuda:0", detail=why)
    assert loader_row(loader, width, UNICODE).text.startswith(" LOADER image-api has failed: E_NO_VRAM")
    loading = LoaderStatus(
        name="image-api",
        state="loading",
        pid=4121,
        device="cuda:0",
        component="transformer",
        component_bytes=3_100_000_000,
        component_size_bytes=40_900_000_000,
        vram_bytes=17_000_000_000,
    )
    assert "is loading transformer 3.1 GB / 40.9 GB" in loader_row(loading, width, UNICODE).text


def test_a_stalled_file_is_no_retrying_one_in_its_component_either() -> None:
    """And once the model is paused nothing stands still or is retried any more, however little of it had come."""
    stalled = e.FileStalled(model=download.MODEL, path=download.ACTIVE, idle_s=10, next_at=download.RETRY_AT)
    status = status_of(*download.half_way(), stalled)
    row = next(row for row in texts(Scene(status=status)) if row.startswith(" ↻ transformer"))
    assert row.endswith("1 stalled")

    path = "text_encoder/model-00001-of-00002.safetensors"
    begun = e.FileStarted(model=download.MODEL, path=path, attempt=1, size_bytes=download.SIZES[path])
    events = [*download.half_way(), begun]
    memory = Memory().fed(status_of(*events), 0.0, is_live=True)
    paused = status_of(*events, e.ModelStateChanged(model=download.MODEL, state="paused"))
    shown = memory.fed(paused, 1.0, is_live=True).shown(paused).models[download.MODEL]
    assert {file.state for file in shown.files.values()} == {"verified", "queued"}
    assert shown.done_bytes == status.models[download.MODEL].done_bytes


def test_with_several_models_the_way_to_the_next_one_is_shown() -> None:
    """Whatever else the bottom line has no room for."""
    two = status_of(*download.half_way(), download.added("org--two", "org/two"))
    for size in SIZES:
        assert "Tab Model" in texts(Scene(status=two), size)[-1]
        assert "Tab" not in texts(Scene(status=status_of(*download.half_way())), size)[-1]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.width}x{s.height}")
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_a_download_half_way_fills_the_screen(size: Size, glyphs) -> None:
    """Header, bar, trouble, loader and keys are there at each of the three sizes, and the height is used exactly."""
    scene = Scene(status=status_of(*download.half_way()), events=event_log(*download.half_way()))
    assert_fits(scene, size, glyphs)
    rows = texts(scene, size, glyphs)
    assert len(rows) == size.height
    assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0" in rows[0]
    assert "DOWNLOADING" in rows[0]
    assert "3/8 files" in rows[1]
    assert "1 retrying" in rows[2]
    assert any("retry 0:07" in row for row in rows)
    assert any("connection reset by peer" in row for row in rows)
    assert any("LOADER image-api" in row for row in rows)
    assert "q Quit" in rows[-1]
    assert "? Help" in rows[-1]


@pytest.mark.fault("X1")
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.width}x{s.height}")
def test_hostile_names_are_drawn_as_escapes(size: Size) -> None:
    """A path, a reason, a loader and an event with every kind of dangerous character fit and are harmless."""
    path = f"{HOSTILE}/x"
    resolved = e.ModelResolved(
        model="m", commit="c" * 40, files=(e.ListedFile(path=path, size_bytes=5, etag=""),), size_bytes=5
    )
    failed = e.FileFailed(model="m", path=path, code=HOSTILE, detail=HOSTILE)
    loader = e.LoaderChanged(name=HOSTILE, state="failed", device=HOSTILE, detail=HOSTILE)
    waiting = e.ModelStateChanged(model="m", state="failed", code=HOSTILE, detail=HOSTILE)
    events = [download.added("m", HOSTILE), resolved, failed, loader, waiting]
    scene = Scene(
        status=status_of(*events),
        events=event_log(*events),
        message=HOSTILE,
        link=Link(is_live=False, why=HOSTILE, fix=HOSTILE),
    )
    assert_fits(scene, size, UNICODE)
    assert_fits(scene, size, ASCII)
    assert any("\\x1b[2J" in row for row in texts(scene, size))


def test_the_smallest_screens_keep_header_and_keys() -> None:
    """Two lines are the header and the keys; one is the header; none is nothing."""
    scene = Scene(status=status_of(*download.half_way()))
    two = texts(scene, Size(width=40, height=2))
    assert "DOWNLOADING" in two[0]
    assert "Quit" in two[1]
    assert len(texts(scene, Size(width=40, height=1))) == 1
    assert texts(scene, Size(width=0, height=0)) == []


def test_a_lost_daemon_leaves_the_last_picture_dimmed() -> None:
    """The header says since when, when the next try is, and of which model this is; the rest stays, dim."""
    link = Link(is_live=False, lost_s=14, retry_in_s=4, why="no daemon answers", fix="start it")
    rows = draw(Scene(status=status_of(*download.half_way()), link=link), SIZES[1], NOW, UNICODE)
    assert "○ disconnected 0:14, next try in 0:04" in rows[0].text
    assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b" in rows[0].text
    wide = draw(Scene(status=status_of(*download.half_way()), link=link), SIZES[2], NOW, UNICODE)[0].text
    assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b  last data 14:25:36" in wide
    assert {row.tone for row in rows[1:]} == {"dim"}
    assert [row.text for row in rows[-3:-1]] == [" no daemon answers", " fix: start it"]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.width}x{s.height}")
def test_a_way_out_is_never_cut(size: Size) -> None:
    """The command that gives access to the socket stands there whole, on as many rows as it takes."""
    fix = "join its group: sudo usermod -aG qwen-admin $USER (or qwen, only to watch), then log in again"
    link = Link(is_live=False, was_live=False, why="you may not open /run/qwen-daemon/control.sock", fix=fix)
    rows = texts(Scene(status=Status(), link=link), size)
    assert f"fix: {fix}" in " ".join(row.strip() for row in rows)


def test_without_a_model_the_screen_says_how_to_ask_for_one() -> None:
    """An idle daemon is not an empty screen."""
    assert any("qwenctl add qwen-image-edit" in row for row in texts(Scene(status=Status())))
    wanted = View(wanted=ModelRef(repo="org/x"))
    assert any("qwenctl add org/x" in row for row in texts(Scene(status=Status(), view=wanted)))


def test_a_refusal_of_the_hub_is_drawn_with_its_way_out() -> None:
    """A gated model says why and what to do."""
    failed = e.ModelStateChanged(model=download.MODEL, state="failed", code="E_GATED")
    rows = texts(Scene(status=status_of(download.added(), failed)))
    assert any("E_GATED" in row and "gated" in row for row in rows)
    assert any("fix: open its page" in row for row in rows)


def test_help_shows_the_command_behind_each_key() -> None:
    """Everything a key does, qwenctl does."""
    rows = texts(Scene(status=Status(), view=View(help=1)))
    for _, _, _, command in KEYS:
        assert any(command in row for row in rows)


def test_every_command_of_the_help_is_one() -> None:
    """As it stands there, with a model, a file and a number in the place of the capitals."""
    for *_rest, command in KEYS:
        words = command.replace("[", "").replace("]", "").replace("pause | resume", "pause").split()[1:]
        if words and words != ["--help"]:
            control_arguments.parse([{"MODEL": "qwen-image-edit", "N": "1"}.get(word, word) for word in words])


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s.width}x{s.height}")
def test_help_that_does_not_fit_has_pages(size: Size) -> None:
    """Turned with ?, and every command stands on one of them; any other key goes back."""
    view, pages = press(View(), "question_mark", "?", Status())[0], list[str]()
    for _ in range(4):
        pages += texts(Scene(status=Status(), view=view), size)
        view, _none = press(view, "question_mark", "?", Status())
    assert [command for *_, command in KEYS if not any(command in row for row in pages)] == []
    assert press(view, "x", "x", Status()) == (View(), None)


_TEXT = st.text(max_size=40)
_BYTES = st.integers(-1, 10**15)
_FILE = st.builds(
    FileStatus,
    path=_TEXT,
    size_bytes=_BYTES,
    state=st.sampled_from(e.FileState.__args__),
    done_bytes=_BYTES,
    rate_bps=_BYTES,
    attempt=st.integers(0, 99),
    attempts_max=st.integers(0, 99),
    retry_at=st.sampled_from(["", "nonsense", "2026-11-23T14:26:00Z", "9999-12-31T23:59:59Z"]),
    code=_TEXT,
    detail=_TEXT,
)
_MODEL = st.builds(
    ModelStatus,
    model=_TEXT,
    repo=_TEXT,
    revision=_TEXT,
    state=st.sampled_from(e.ModelState.__args__),
    commit=_TEXT,
    code=st.sampled_from(["", "E_GATED", "E_\x1b"]),
    detail=_TEXT,
    newer_commit=_TEXT,
    files=st.dictionaries(st.text(max_size=5), _FILE, max_size=12),
)
_STATUS = st.builds(
    Status,
    version=_TEXT,
    started_at=_TEXT,
    throttled_until=st.sampled_from(["", "2026-11-23T14:30:00Z"]),
    models=st.dictionaries(_TEXT, _MODEL, max_size=3),
    loaders=st.dictionaries(
        _TEXT,
        st.builds(LoaderStatus, name=_TEXT, state=st.sampled_from(e.LoaderState.__args__), detail=_TEXT, device=_TEXT),
        max_size=2,
    ),
    disks=st.dictionaries(
        _TEXT,
        st.builds(DiskStatus, path=_TEXT, state=st.sampled_from(e.DiskState.__args__), free_bytes=_BYTES),
        max_size=2,
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    _STATUS,
    st.builds(Size, width=st.integers(0, 200), height=st.integers(0, 60)),
    st.sampled_from([UNICODE, ASCII]),
    st.booleans(),
    st.booleans(),
)
def test_any_status_fits_any_terminal(status: Status, size: Size, glyphs, is_live: bool, all_files: bool) -> None:
    """No status whatever breaks the screen: rows fit and hold no control character."""
    scene = Scene(
        status=status,
        view=View(all_files=all_files),
        link=Link(is_live=is_live),
        events=event_log(*download.half_way()),
        pace=paced((0, 0), (1, 10**8), (2, 3 * 10**8)),
    )
    assert_fits(scene, size, glyphs)


# Sentences


def test_every_event_but_progress_has_a_line() -> None:
    """Each durable event of the wire is told in a word and a harmless detail."""
    told = [event_text(x) for x in [*download.half_way(), *download.completed()]]
    assert sum(t is None for t in told) == 1
    assert all(t is None or is_harmless(t.detail) for t in told)


def test_an_error_is_told_in_three_lines() -> None:
    """What, why and fix; the table speaks where the caller has nothing better."""
    assert error_text("E_DAEMON_DOWN", "cannot reach it", "nobody listens") == (
        "error[E_DAEMON_DOWN]: cannot reach it\n  why: nobody listens\n  fix: " + ERRORS["E_DAEMON_DOWN"][1]
    )


def test_an_unknown_code_has_a_general_sentence() -> None:
    """A newer daemon's code is named and made harmless."""
    why, fix = reason("E_NEW\x1b")
    assert "E_NEW\\x1b" in why
    assert fix


def test_one_line_tells_a_model() -> None:
    """The line of plain mode and --once holds name, state, share, files, rate, estimate and troubles."""
    model = status_of(*download.half_way()).models[download.MODEL]
    assert model_line(model, Pace()) == (
        "Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3% 6.1/30.1 GB, 3/8 files verified, "
        "84.9 MB/s, ETA 4:42, 1 retrying"
    )


def test_leaving_leaves_three_lines() -> None:
    """What was drawn is gone with the alternate screen; three lines stay, whatever was known."""
    status = status_of(*download.half_way())
    lines = farewell(list(status.models.values()), status, {}, NOW)
    assert len(lines) == 3
    assert "goes on without the monitor" in lines[2]
    assert len(farewell([], Status(version="1"), {}, NOW)) == 3
    gone = farewell(list(status.models.values()), status, {}, NOW, lost_s=72)
    assert gone[2] == "qwen-daemon has not answered for 1:12; look closer: qwenctl doctor"
    assert farewell([], Status(), {}, NOW)[0] == "qwen-daemon was not reached"  # nobody knows whether a model is wanted
