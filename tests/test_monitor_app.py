"""The Textual app, driven by keys, against a fake daemon on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from qwen_api import commands
from qwen_api import events as e
from qwen_api.client import Follower, find_socket
from qwen_api.status import Status
from qwen_monitor.display import UNICODE
from qwen_monitor.feed import Picture
from qwen_monitor.view import View
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon

pytest.importorskip("textual", reason="the monitor's screen is the extra [monitor]")

from textual import events  # behind the check above

from qwen_monitor.monitor import Monitor, Sheet

NOW = datetime(2026, 11, 23, 14, 25, 50, tzinfo=UTC)
PATIENCE_S = 20.0  # only a test that fails waits this long
NEVER_S = 3600.0  # the tests draw when they are ready, not by the clock


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path, *download.half_way()) as fake:
        yield fake


def make_app(daemon: FakeDaemon, *, read_only: bool = False) -> Monitor:
    find = partial(find_socket, {}, daemon.control)
    return Monitor(
        Follower(find), find, view=View(read_only=read_only), glyphs=UNICODE, refresh_s=NEVER_S, wall=lambda: NOW
    )


async def until(app: Monitor, condition: Callable[[Picture], bool]) -> None:
    """Wait until the feed knows it, then draw."""
    assert await asyncio.to_thread(app.feed.wait_for, condition, PATIENCE_S), app.feed.look()
    await settled(app)
    app.draw()


async def settled(app: Monitor) -> None:
    """Wait until Textual has laid out one row for each line of the terminal: it gathers resizes for a moment."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_laid_out(app):
            await asyncio.sleep(0)


def is_laid_out(app: Monitor) -> bool:
    sheet = app.query_one(Sheet)
    rows = [line.region for line in sheet.lines]
    width, height = app.size
    return sheet.size == app.size and [(r.y, r.width, r.height) for r in rows] == [(y, width, 1) for y in range(height)]


def is_live(picture: Picture) -> bool:
    return picture.link.is_live


def state_is(state: str) -> Callable[[Picture], bool]:
    return lambda picture: picture.status.models[download.MODEL].state == state


def drawn(app: Monitor) -> list[str]:
    """What the widgets themselves show, line by line."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


async def test_the_screen_shows_the_status_and_follows_events(daemon: FakeDaemon) -> None:
    """The snapshot is drawn, and what is said later changes the rows."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)):
        await until(app, is_live)
        shown = drawn(app)
        assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b" in shown[0]
        assert "3/8 files" in shown[1]
        daemon.say(*download.completed())
        await until(app, state_is("complete"))
        assert "COMPLETE" in drawn(app)[0]
        assert "100.0%" in drawn(app)[1]
        assert any(" complete " in row for row in drawn(app))
    app.feed.close()


async def test_only_rows_that_changed_are_updated(daemon: FakeDaemon) -> None:
    """A fact that stands in one row repaints that row alone; the same picture again repaints none."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)):
        await until(app, is_live)
        painted = app.repainted
        app.draw()
        assert app.repainted == painted
        daemon.say(e.DiskChanged(path="/srv/hf", state="ok", free_bytes=1), download.progress(7_000_000_000))
        await until(app, lambda p: p.status.models[download.MODEL].files[download.ACTIVE].done_bytes == 7_000_000_000)
        header, keys, painted = app.rows[0], app.rows[-1], app.repainted
        daemon.say(download.progress(8_000_000_000))
        await until(app, lambda p: p.status.models[download.MODEL].files[download.ACTIVE].done_bytes == 8_000_000_000)
        assert 1 <= app.repainted - painted <= 6  # bar, estimate, amounts, graph, component, file
        assert (app.rows[0], app.rows[-1]) == (header, keys)
    app.feed.close()


@pytest.mark.parametrize("size", [(60, 16), (120, 40), (20, 5), (200, 60)])
async def test_the_screen_fills_any_terminal_also_after_a_resize(daemon: FakeDaemon, size: tuple[int, int]) -> None:
    """Header on the first line and keys on the last, whatever the size was before."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.resize_terminal(*size)
        await pilot.pause()
        await settled(app)
        app.draw()
        shown = drawn(app)
        assert len(shown) == size[1]
        assert "live" in shown[0]
        assert "? Help" in shown[-1]
    app.feed.close()


async def test_keys_command_the_daemon(daemon: FakeDaemon) -> None:
    """p pauses, p again resumes, r retries, v verifies; each says what became of it."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("p")
        await until(app, state_is("paused"))
        assert "PAUSED" in drawn(app)[0]
        assert "p Resume" in drawn(app)[-1]
        await told(app, "pause: accepted")
        await pilot.press("p")
        await until(app, state_is("downloading"))
        await told(app, "resume: accepted")
        await pilot.press("v")
        await told(app, "verify: accepted")
        assert [c.verb for c in daemon.wait_for_commands(3)] == ["pause", "resume", "verify"]
    app.feed.close()


async def test_keys_command_single_files_and_the_speed(daemon: FakeDaemon) -> None:
    """Down chooses, space pauses and resumes, > puts first, - limits everything; the screen shows each."""
    app = make_app(daemon)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("space")
        assert any("choose a file first" in row for row in drawn(app))
        await pilot.press("down", "down")
        assert any(row.startswith("›▶ transformer/") for row in drawn(app))
        assert "Spc File" in drawn(app)[-1]
        await pilot.press("space")
        await told(app, "pause: accepted")
        await until(app, file_is_paused(True))
        assert any(row.startswith("›‖ transformer/") and row.endswith("paused") for row in drawn(app))
        await pilot.press("space")
        await told(app, "resume: accepted")
        await until(app, file_is_paused(False))
        await pilot.press("greater_than_sign")
        await told(app, "prio: accepted")
        await pilot.press("minus")
        await told(app, "limit: at most 500.0 MB/s")
        said = [(c.verb, c.subject) for c in daemon.wait_for_commands(4)]
        assert said == [(f"{verb} files", download.MODEL) for verb in ("pause", "resume", "priority")] + [
            ("limits", "")
        ]
    app.feed.close()


def file_is_paused(paused: bool) -> Callable[[Picture], bool]:
    return lambda picture: picture.status.models[download.MODEL].files[download.ACTIVE].paused is paused


async def told(app: Monitor, message: str) -> None:
    assert await asyncio.to_thread(app.wait_for_message, message, PATIENCE_S), drawn(app)
    app.draw()
    assert any(message in row for row in drawn(app))


async def test_enter_shows_the_details_of_a_file(daemon: FakeDaemon) -> None:
    """What the status tells at once, and where the bytes are as soon as the daemon has said so; Esc goes back."""
    daemon.whereabouts[download.ACTIVE] = commands.Whereabouts(
        etag="0" * 64,
        endpoint="https://huggingface.co",
        host="cdn.example",
        hashed_bytes=5_000_000_000,
        present=((0, 6_120_000_000),),
        connections=(commands.Connection(start=0, end=9_970_000_000, position=6_120_000_000, rate_bps=84_900_000),),
    )
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("down", "down", "enter")
        assert download.ACTIVE in drawn(app)[5]
        assert any("this is try 1" in row for row in drawn(app))
        assert await asyncio.to_thread(app.lens.wait_for, lambda seen: seen is not None, PATIENCE_S)
        app.draw()
        assert any("https://huggingface.co (cdn.example)" in row for row in drawn(app))
        assert any("HTTP, 1 connection" in row for row in drawn(app))
        assert any("hashed 5.0 GB" in row for row in drawn(app))
        assert any(row.lstrip().startswith("segments") and "█▒" in row for row in drawn(app))
        await pilot.press("up")
        assert download.RETRYING in drawn(app)[5]
        assert any("the next try begins in 0:07, at 14:25:57" in row for row in drawn(app))
        await pilot.press("escape")
        assert any("FILE" in row for row in drawn(app))
    app.close()


async def test_removing_asks_and_only_y_removes(daemon: FakeDaemon) -> None:
    """Any other key is a no."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("x")
        assert "remove Qwen/Qwen-Image-Edit-2511 (its files stay)? [y/N]" in drawn(app)[-1]
        await pilot.press("enter")
        assert "Quit" in drawn(app)[-1] and daemon.commands == []
        await pilot.press("x", "y")
        await until(app, lambda picture: not picture.status.models)
        assert [(c.verb, c.subject) for c in daemon.wait_for_commands(1)] == [("remove", download.MODEL)]
        assert any("no model is wanted" in row for row in drawn(app))
    app.close()


async def test_a_refusal_is_shown_with_its_code_and_way_out(daemon: FakeDaemon) -> None:
    """The daemon's no is an answer for the person, not a crash."""
    daemon.refuse_next("E_READ_ONLY", "you may not command", status=403, fix="join qwen-admin")
    app = make_app(daemon)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("r")
        await told(app, "refused: you may not command [E_READ_ONLY]; join qwen-admin")
    app.feed.close()


async def test_read_only_keys_say_the_command_instead(daemon: FakeDaemon) -> None:
    """--read-only sends nothing."""
    app = make_app(daemon, read_only=True)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("p")
        assert any("read-only; elsewhere: qwenctl pause Qwen/Qwen-Image-Edit-2511" in row for row in drawn(app))
        assert daemon.commands == []
    app.feed.close()


@pytest.mark.fault("X1")
async def test_a_filter_narrows_the_files_and_hostile_markup_is_text(daemon: FakeDaemon) -> None:
    """Typed letters, `q` too, go into the filter; brackets are no markup."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("slash", "v", "a", "e")
        assert any("FILE [vae]" in row for row in drawn(app))
        assert "/ vae_" in drawn(app)[-1]
        await pilot.press("enter")
        files = [row for row in drawn(app) if ".safetensors" in row and ("B" in row and "%" in row)]
        assert len(files) == 1
        await pilot.press("escape", "slash", "[", "r", "e", "d", "]", "q")
        assert any("FILE [[red]q]" in row for row in drawn(app))
        assert app.is_running
    app.feed.close()


async def test_help_names_the_commands_and_any_key_goes_back(daemon: FakeDaemon) -> None:
    """? shows qwenctl's words for each key."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press("?")
        assert any("qwenctl retry MODEL" in row for row in drawn(app))
        await pilot.press("x")
        assert "DOWNLOADING" in drawn(app)[0]
    app.feed.close()


async def test_tab_shows_the_next_model_and_a_all_files(daemon: FakeDaemon) -> None:
    """Several models share one screen, one at a time; verified files show on demand."""
    daemon.say(download.added("org--other", "org/other"))
    app = make_app(daemon)
    async with app.run_test(size=(80, 30)) as pilot:
        await until(app, is_live)
        assert "[1/2]" in drawn(app)[0]
        assert any("3 files verified (a: all)" in row for row in drawn(app))
        await pilot.press("a")
        assert any("tokenizer/tokenizer.json" in row and "100.0%" in row for row in drawn(app))
        await pilot.press("tab")
        assert "org/other@main [2/2]" in drawn(app)[0]
    app.feed.close()


async def test_a_daemon_that_goes_and_comes_back_is_told(daemon: FakeDaemon) -> None:
    """While it is away the last picture stays; its new epoch shows as a restart, its new state at once."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        daemon.stop()
        await until(app, lambda picture: not picture.link.is_live)
        assert "disconnected" in drawn(app)[0]
        assert "3/8 files" in drawn(app)[1]
        daemon.start(epoch="epoch-2")
        daemon.say(e.ModelStateChanged(model=download.MODEL, state="checking"))
        await until(app, lambda p: is_live(p) and state_is("checking")(p))
        assert "CHECKING" in drawn(app)[0]
        assert any("daemon    restarted, was away 0:" in row for row in drawn(app))
        assert not any("--:--:--" in row for row in drawn(app))
        assert any("daemon restarted at " in row and "; seen again at " in row for row in drawn(app))
        await pilot.press("?")
        assert any("daemon restarted at " in row for row in drawn(app))
    app.feed.close()


async def test_a_daemon_that_comes_back_and_looks_again_does_not_take_bytes_off_the_screen(daemon: FakeDaemon) -> None:
    """While it knows neither list nor disk, what was seen stays, under a header that says it is being checked."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)):
        await until(app, is_live)
        before = drawn(app)[1]
        daemon.stop()
        await until(app, lambda picture: not picture.link.is_live)
        daemon.start(epoch="epoch-2", models=False)
        daemon.say(download.added(), e.ModelStateChanged(model=download.MODEL, state="checking"), download.resolved())
        await until(app, lambda p: is_live(p) and bool(p.status.models) and state_is("checking")(p) and has_files(p))
        assert drawn(app)[1] == before
        assert "CHECKING" in drawn(app)[0]
        whole = (e.CheckedFile(path=download.VERIFIED[0], finding="present", done_bytes=512),)
        daemon.say(
            e.ModelChecked(model=download.MODEL, commit=download.COMMIT, reason="start", files=whole),
            e.ModelStateChanged(model=download.MODEL, state="downloading"),
        )
        await until(app, state_is("downloading"))
        assert "0.0%" in drawn(app)[1]
        assert "dropped 6.1 GB" in drawn(app)[3]
    app.feed.close()


def has_files(picture: Picture) -> bool:
    return bool(picture.status.models[download.MODEL].files)


async def test_a_mouse_chooses_files_and_opens_their_details(daemon: FakeDaemon) -> None:
    """Where it was asked for: a click chooses, another one looks closer, the wheel moves on."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        at = next(number for number, row in enumerate(app.rows) if row.file == download.ACTIVE)
        await pilot.click(offset=(5, at))
        assert app.view.file == download.ACTIVE and not app.view.details
        await pilot._post_mouse_events([events.MouseScrollUp], None, (5, at))
        assert app.view.file == download.RETRYING
        await pilot.click(offset=(5, at))
        await pilot.click(offset=(5, at))
        assert app.view.details and download.ACTIVE in drawn(app)[5]
        await pilot.click(offset=(5, 0))  # no file stands there
        assert app.view.details
    app.close()


async def test_without_a_daemon_the_screen_waits_and_says_the_way_out(tmp_path: Path) -> None:
    """Started before the daemon, the monitor shows how to start it."""
    find = partial(find_socket, {}, tmp_path / "control.sock")
    app = Monitor(Follower(find), find, view=View(), glyphs=UNICODE, refresh_s=NEVER_S)
    async with app.run_test(size=(120, 24)):
        await until(app, lambda picture: bool(picture.link.why))
        assert "waiting for the daemon" in drawn(app)[0]
        assert any("systemctl start qwen-daemon" in row for row in drawn(app))
        assert app.feed.look().status == Status()
    app.feed.close()


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+q", 0), ("ctrl+c", 130)])
async def test_leaving_has_an_exit_code_and_three_lines(daemon: FakeDaemon, key: str, code: int) -> None:
    """q is a good end, Ctrl-C the code that shells know; both leave a summary."""
    app = make_app(daemon)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(app, is_live)
        await pilot.press(key)
    assert app.return_code == code
    lines = app.farewell()
    assert len(lines) == 3
    assert "3/8 files verified" in lines[1]
    app.feed.close()
