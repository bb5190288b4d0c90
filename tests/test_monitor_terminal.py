"""The real command `python -m qwen_monitor` on a real terminal (a pty), and with no terminal at all."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import selectors
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from qwen_api.events import DiskChanged, FileProgress, LoaderChanged
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon

pytest.importorskip("textual", reason="the monitor's screen is the extra [monitor]")

ENTER_SCREEN = b"\x1b[?1049h"  # xterm's alternate screen
LEAVE_SCREEN = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"
PATIENCE_S = 30.0  # only a test that fails waits this long


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path, *download.half_way()) as fake:
        yield fake


class Terminal:
    """A process on a pty; `output` is everything it has written."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (80, 24), **env: str) -> None:
        self.output = b""
        self._seen = 0
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.modes_before = termios.tcgetattr(self._master)
        self.process = subprocess.Popen(
            command(*arguments), env=environment(**env), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._master)

    def read_until(self, text: bytes) -> None:
        """Read until `text` has come after what was last waited for."""
        while (found := self.output.find(text, self._seen)) < 0:
            assert self._read_some(), f"{text!r} did not come: {self.output[-2000:]!r}"
        self._seen = found + len(text)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read_some():
            pass
        return self.process.wait(PATIENCE_S)

    def modes_now(self) -> list[object]:
        return termios.tcgetattr(self._master)

    def _read_some(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._master, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), f"silent: {self.output[-2000:]!r}"
        try:
            part = os.read(self._master, 65536)
        except OSError:  # EIO: the last process has closed its side
            return False
        self.output += part
        return bool(part)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "qwen_monitor", *arguments]


def environment(**env: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME")}
    return {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **env}


def assert_restored(terminal: Terminal) -> None:
    output = terminal.output
    assert output.count(LEAVE_SCREEN) >= 1
    assert output.rindex(LEAVE_SCREEN) > output.rindex(ENTER_SCREEN)
    assert SHOW_CURSOR in output[output.rindex(ENTER_SCREEN) :]
    assert terminal.modes_now() == terminal.modes_before


def test_q_leaves_the_terminal_as_it_was_and_a_summary(daemon: FakeDaemon) -> None:
    """The screen is drawn, q ends with 0, modes and cursor are restored, three lines stay in the scrollback."""
    with Terminal("--socket", str(daemon.control)) as terminal:
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
    with Terminal("--socket", str(daemon.control)) as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert_restored(terminal)


def test_a_signal_while_starting_restores_the_terminal(daemon: FakeDaemon) -> None:
    """Also right after the alternate screen was entered and before anything is drawn."""
    with Terminal("--socket", str(daemon.control)) as terminal:
        terminal.read_until(ENTER_SCREEN)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert_restored(terminal)


def test_ctrl_c_quits(daemon: FakeDaemon) -> None:
    """The key that everybody tries first works."""
    with Terminal("--socket", str(daemon.control), NO_COLOR="1") as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert_restored(terminal)


def test_an_event_repaints_its_rows_only(daemon: FakeDaemon) -> None:
    """The key line is not sent again, and with --ascii nothing but ASCII is sent at all."""
    with Terminal("--socket", str(daemon.control), "--ascii") as terminal:
        terminal.read_until(b"DOWNLOADING")
        terminal.read_until(b"Help")
        daemon.say(download.progress(7_000_000_000))
        terminal.read_until(b"7.0/")
        drawn = len(terminal.output)
        daemon.say(download.progress(8_000_000_000))
        terminal.read_until(b"8.0/")
        terminal.type(b"q")
        terminal.end()
        later = terminal.output[drawn : terminal.output.rindex(LEAVE_SCREEN)]
    assert b"Help" not in later
    assert terminal.output.isascii()


@pytest.mark.parametrize("env", [{"TERM": "linux"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_without_the_signs_gets_ascii(daemon: FakeDaemon, env: dict[str, str]) -> None:
    """The Linux console's font lacks them, and an encoding that is not UTF-8 has none."""
    with Terminal("--socket", str(daemon.control), **env) as terminal:
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
        with Terminal("--socket", str(daemon.control), **env) as terminal:
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
    with Terminal("--socket", str(daemon.control), size=(120, 40)) as terminal:
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


def is_whole(rows: list[str], height: int) -> bool:
    """Header on the first line, keys on the last."""
    return len(rows) == height and "DOWNLOADING" in rows[0] and "? Help" in rows[-1]


class Tmux:
    """A command in a tmux of its own, whose window stays when it ends."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._folder = folder
        self._command = shlex.join(["env", "-i", *(f"{k}={v}" for k, v in environment().items()), *command])

    def __enter__(self) -> Self:
        self._tmux("new-session", "-d", "-x", "80", "-y", "24", f"{self._command}; exec cat")
        self._tmux("set-option", "status", "off")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """The lines on the screen, once they are as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(rows := self._tmux("capture-pane", "-p").splitlines()):
            assert time.monotonic() < deadline, rows
        return rows

    def _tmux(self, *words: str) -> str:
        # Its TERM inside is screen's; the server must not read a configuration nor meet another server.
        call = ["tmux", "-f", "/dev/null", "-S", str(self._folder / "tmux.sock"), *words]
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        return subprocess.run(call, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout


def test_a_dumb_terminal_gets_plain_lines(daemon: FakeDaemon) -> None:
    """TERM=dumb cannot draw, so lines come, and Ctrl-C ends them with a last summary."""
    with Terminal("--socket", str(daemon.control), TERM="dumb") as terminal:
        terminal.read_until(b" summary ")
        terminal.type(b"\x03")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert ENTER_SCREEN not in terminal.output


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
