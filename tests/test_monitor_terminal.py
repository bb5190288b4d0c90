"""The real command `python -m qwen_monitor` on a real terminal (a pty), and with no terminal at all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api.events import DiskChanged, FileProgress, LoaderChanged
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon
from tests.terminal import ENTER_SCREEN, LEAVE_SCREEN, PATIENCE_S, SHOW_CURSOR, Terminal, Tmux, environment

pytest.importorskip("textual", reason="the monitor's screen is the extra [monitor]")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path, *download.half_way()) as fake:
        yield fake


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "qwen_monitor", *arguments]


def monitor(*arguments: str, size: tuple[int, int] = (80, 24), **env: str) -> Terminal:
    return Terminal(command(*arguments), size=size, **env)


def assert_restored(terminal: Terminal) -> None:
    output = terminal.output
    assert output.count(LEAVE_SCREEN) >= 1
    assert output.rindex(LEAVE_SCREEN) > output.rindex(ENTER_SCREEN)
    assert SHOW_CURSOR in output[output.rindex(ENTER_SCREEN) :]
    assert terminal.modes_now() == terminal.modes_before


def test_q_leaves_the_terminal_as_it_was_and_a_summary(daemon: FakeDaemon) -> None:
    """The screen is drawn, q ends with 0, modes and cursor are restored, three lines stay in the scrollback."""
    with monitor("--socket", str(daemon.control)) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.type(b"q")
        assert terminal.end() == 0
        assert_restored(terminal)
        left = terminal.output[terminal.output.rindex(LEAVE_SCREEN) :].decode()
    assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3%" in left
    assert "goes on without the monitor" in left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_restores_the_terminal(daemon: FakeDaemon, number: signal.Signals) -> None:
    """SIGTERM, SIGHUP and SIGINT end in order, with the exit code that shells expect."""
    with monitor("--socket", str(daemon.control)) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert_restored(terminal)


def test_a_signal_while_starting_restores_the_terminal(daemon: FakeDaemon) -> None:
    """Also right after the alternate screen was entered and before anything is drawn."""
    with monitor("--socket", str(daemon.control)) as terminal:
        terminal.read_until(ENTER_SCREEN)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert_restored(terminal)


def test_ctrl_c_quits(daemon: FakeDaemon) -> None:
    """The key that everybody tries first works."""
    with monitor("--socket", str(daemon.control), NO_COLOR="1") as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert_restored(terminal)


def test_an_event_repaints_its_rows_only(daemon: FakeDaemon) -> None:
    """The key line is not sent again, and with --ascii nothing but ASCII is sent at all."""
    with monitor("--socket", str(daemon.control), "--ascii") as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.read_until(b"Help")
        drawn = []
        for tenths in range(70, 80):  # the first picture may be drawn twice, as late as the machine likes
            daemon.say(download.progress(tenths * 100_000_000))
            terminal.read_until(f"{tenths / 10}/".encode())
            drawn.append(len(terminal.output))
        terminal.type(b"q")
        terminal.end()
        later = terminal.output[drawn[4] : drawn[-1]]
    assert b"7.9/" in later and b"Help" not in later
    assert terminal.output.isascii()


@pytest.mark.parametrize("env", [{"TERM": "linux"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_without_the_signs_gets_ascii(daemon: FakeDaemon, env: dict[str, str]) -> None:
    """The Linux console's font lacks them, and an encoding that is not UTF-8 has none."""
    with monitor("--socket", str(daemon.control), **env) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.read_until(b"Help")
        terminal.type(b"q")
        assert terminal.end() == 0
    assert terminal.output.isascii()


def test_no_color_is_obeyed(daemon: FakeDaemon) -> None:
    """NO_COLOR: bold and dim stay, colours do not; without it there are some."""
    coloured = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
    found = []
    for env in ({"NO_COLOR": "1"}, {}):
        with monitor("--socket", str(daemon.control), **env) as terminal:
            terminal.read_until(b"DOWNLOADING")
            terminal.read_until(b"Help")
            terminal.type(b"q")
            assert terminal.end() == 0
            found.append(bool(coloured.search(terminal.output)))
    assert found == [False, True]


def test_four_files_at_once_cost_few_bytes_on_the_line(daemon: FakeDaemon) -> None:
    """At 120x40 a picture of new numbers takes at most 3500 bytes: 7 kB/s at the two pictures a second over SSH."""
    paths = [path for path in download.SIZES if path not in download.VERIFIED][:4]
    rounds = 10
    with monitor("--socket", str(daemon.control), size=(120, 40)) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.read_until(b"Help")
        for number in range(rounds + 1):
            if number == 1:
                drawn = len(terminal.output)
            daemon.say(*[arriving(path, number) for path in paths], marker(number))
            terminal.read_until(b"pid %d" % (70_000 + number))
        terminal.type(b"q")
        terminal.end()
        later = terminal.output[drawn : terminal.output.rindex(LEAVE_SCREEN)]
    assert len(later) <= 3500 * rounds


@pytest.mark.parametrize(("env", "refresh_s"), [({"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}, 1.0), ({}, 0.5)])
def test_it_draws_twice_a_second_and_once_over_ssh(daemon: FakeDaemon, env: dict[str, str], refresh_s: float) -> None:
    """Each answer to news takes a picture of its own, so the pictures take their time; sshd sets SSH_CONNECTION."""
    pictures = 6
    with monitor("--socket", str(daemon.control), **env) as terminal:
        terminal.read_until(b"Help")
        for number in range(pictures):
            if number == 1:
                begun_s = time.monotonic()
            daemon.say(marker(number))
            terminal.read_until(b"pid %d" % (70_000 + number))
        assert time.monotonic() - begun_s >= (pictures - 2) * refresh_s  # the first may have been late
        terminal.type(b"q")
        assert terminal.end() == 0


def arriving(path: str, number: int) -> FileProgress:
    done_bytes = 1_000_000 + number * 37_000_000 % download.SIZES[path]
    return FileProgress(
        model=download.MODEL,
        path=path,
        done_bytes=done_bytes,
        size_bytes=download.SIZES[path],
        received_bytes=done_bytes,
        rate_bps=20_000_000 + number * 100_000,
    )


def marker(number: int) -> LoaderChanged:
    """The row at the bottom shows that everything above it is drawn."""
    return LoaderChanged(name="image-api", state="waiting", model=download.MODEL, pid=70_000 + number)


def test_the_screen_is_right_in_tmux_at_any_size_and_leaves_its_summary(daemon: FakeDaemon, tmp_path: Path) -> None:
    """A real terminal, resized while the monitor runs; afterwards the shell's screen is back, with three lines more."""
    with Tmux(tmp_path, command("--socket", str(daemon.control))) as tmux:
        for width, height in ((80, 24), (120, 40), (60, 16), (80, 24)):
            tmux.resize(width, height)
            shown = tmux.wait_for(lambda rows, most=height: is_whole(rows, most))
            assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0" in shown[0] and "3/8 files" in shown[1]
        tmux.press("Down", "Enter")
        tmux.wait_for(lambda rows: any("last error" in row for row in rows))
        tmux.press("Escape", "q")
        left = tmux.wait_for(lambda rows: any("goes on without the monitor" in row for row in rows))
        assert any("Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3%" in row for row in left)
        assert not any("Quit" in row for row in left)


@pytest.mark.parametrize("end", ["q", "C-c", signal.SIGTERM, signal.SIGHUP], ids=str)
def test_three_lines_stay_in_the_scrollback_however_it_ends(
    daemon: FakeDaemon, tmp_path: Path, end: str | signal.Signals
) -> None:
    """The shell's screen comes back with cursor and without mouse, and what was watched is told below the command."""
    codes = {"q": 0, "C-c": 130}
    with Tmux(tmp_path, command("--socket", str(daemon.control), "--mouse")) as tmux:
        tmux.wait_for(lambda rows: is_whole(rows, 24))
        assert tmux.modes() == "1 0 1"
        if isinstance(end, signal.Signals):
            tmux.send_signal(end)
            code = 128 + end
        else:
            tmux.press(end)
            code = codes[end]
        left = tmux.wait_for(lambda rows: any(f"ended with {code}" in row for row in rows))
        assert tmux.modes() == "0 1 0"
        text = "".join(left)
        assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3%" in text
        assert "not verified yet: " in text
        assert "goes on without the monitor" in text
        assert "Traceback" not in text


def test_a_daemon_that_is_down_leaves_its_last_picture_dimmed(daemon: FakeDaemon, tmp_path: Path) -> None:
    """On a real terminal: the rows are there in SGR dim, the header tells the age and the next try; then it is back."""
    with Tmux(tmp_path, command("--socket", str(daemon.control))) as tmux:
        tmux.wait_for(lambda rows: is_whole(rows, 24))
        assert DIM not in tmux.tones()[1]
        daemon.stop()
        lost = tmux.wait_for(lambda rows: "disconnected 0:01" in rows[0])
        assert "next try in 0:0" in lost[0] and "Qwen/Qwen-Image-Edit-2511@6f3ccc0b" in lost[0]
        assert "3/8 files" in lost[1]
        tones = tmux.tones()
        assert DIM not in tones[0]
        assert [row for row in tones[1:] if SGR.sub("", row).strip() and DIM not in row] == []
        daemon.start(epoch="epoch-2")
        back = tmux.wait_for(lambda rows: any("daemon restarted at " in row for row in rows))
        assert "● live" in back[0]
        assert DIM not in tmux.tones()[1]


DIM, SGR = "\x1b[2m", re.compile(r"\x1b\[[\d;]*m")


def is_whole(rows: list[str], height: int) -> bool:
    """Header on the first line, keys on the last."""
    return len(rows) == height and "DOWNLOADING" in rows[0] and "? Help" in rows[-1]


def test_a_dumb_terminal_gets_plain_lines(daemon: FakeDaemon) -> None:
    """TERM=dumb cannot draw, so lines come, and Ctrl-C ends them with a last summary."""
    with monitor("--socket", str(daemon.control), TERM="dumb") as terminal:
        terminal.read_until(b" summary ")
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert ENTER_SCREEN not in terminal.output


@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_a_second_ctrl_c_prints_no_traceback(daemon: FakeDaemon, form: str) -> None:
    """People press it twice, or keep it pressed; the first one counts."""
    with monitor("--socket", str(daemon.control), form) as terminal:
        terminal.read_until(b"summary" if form == "--plain" else b'"live"')
        terminal.type(b"\x03\x03\x03")
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert b"Traceback" not in terminal.output


def test_a_second_ctrl_c_leaves_the_screens_last_words_whole(daemon: FakeDaemon) -> None:
    """Also while the terminal is being restored."""
    with monitor("--socket", str(daemon.control)) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.type(b"\x03\x03")
        for _ in range(20):
            terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert_restored(terminal)
    assert b"Traceback" not in terminal.output
    assert b"goes on without the monitor" in terminal.output


def lines_from(daemon: FakeDaemon, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("--socket", str(daemon.control), *arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_pipe_gets_plain_lines_and_sigterm_a_last_summary(daemon: FakeDaemon) -> None:
    """No terminal, no escapes; the exit code is 143 and the last line says where things stand."""
    process = lines_from(daemon)
    assert process.stdout is not None
    assert b" summary   Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading" in process.stdout.readline()
    daemon.say(*download.completed())
    while b" complete " not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert b"complete 100.0% 30.1/30.1 GB, 8/8 files verified" in rest.splitlines()[-1]
    assert errors == b""
    assert b"\x1b" not in rest


def test_a_pipe_is_told_of_a_failed_loader_and_of_a_daemon_that_went_and_came_back(daemon: FakeDaemon) -> None:
    """Nobody looks at a log while it is written: what happened meanwhile must stand in it, in order."""
    process = lines_from(daemon, "qwen-image-edit")
    assert process.stdout is not None
    assert b" summary " in process.stdout.readline()
    failed = LoaderChanged(name="gpu0", state="failed", model=download.MODEL, detail="E_NO_GPU: no CUDA device")
    daemon.say(failed)
    assert b" gpu0: has failed: E_NO_GPU: no CUDA device" in process.stdout.readline()
    daemon.stop()
    assert b" daemon    waiting for the daemon ... (" in process.stdout.readline()
    daemon.start(epoch="epoch-2")
    assert b" daemon    restarted, was away 0:" in process.stdout.readline()
    assert b" summary " in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_a_reader_that_leaves_ends_the_monitor_quietly(daemon: FakeDaemon, form: str) -> None:
    """`qwen-monitor | head -1` prints no traceback."""
    process = lines_from(daemon, form)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None:
        assert time.monotonic() < deadline
        daemon.say(disk_changed())
    assert process.returncode == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def disk_changed() -> DiskChanged:
    return DiskChanged(path="/srv/hf", state="ok", free_bytes=1)
