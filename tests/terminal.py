"""Real terminals for tests: a command on a pty, and one in tmux, whose screen is read as a person sees it."""

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
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import canary, watched

ENTER_SCREEN = b"\x1b[?1049h"  # xterm's alternate screen
LEAVE_SCREEN = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"
PATIENCE_S = 30.0  # only a test that fails waits this long


class Terminal:
    """A command on a pty; `output` is everything it has written."""

    def __init__(self, command: Sequence[str], *, size: tuple[int, int] = (80, 24), **env: str) -> None:
        self.output = b""
        self._seen = 0
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.modes_before = termios.tcgetattr(self._master)
        # With the pty as its controlling terminal, or Ctrl-C would be a byte like any other.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], env=environment(**env), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        watched.look(lambda: canary.refuse({"the terminal": self.output}))
        self.close()

    def close(self) -> None:
        """As a person closes the window, or a network the session."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

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


class Tmux:
    """A command in a tmux of its own, 80x24, whose window stays when it ends and then says with which code."""

    def __init__(self, folder: Path, command: Sequence[str], **env: str) -> None:
        self._folder = folder
        self._command = shlex.join(["env", "-i", *(f"{k}={v}" for k, v in environment(**env).items()), *command])

    def __enter__(self) -> Self:
        self._tmux("new-session", "-d", "-x", "80", "-y", "24", f"{self._command}; echo ended with $?; exec cat")
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

    def send_signal(self, number: signal.Signals) -> None:
        """To the command, which is the only child of the shell in the window."""
        shell = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(child), number)

    def modes(self) -> str:
        """Whether the alternate screen is on, the cursor shown, and a mouse listened to: `0 1 0` as a shell has it."""
        return self._tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}").strip()

    def tones(self) -> list[str]:
        """The lines on the screen with their SGR sequences, each line's own (tmux repeats none that still holds)."""
        held, lines = "", list[str]()
        for line in self._tmux("capture-pane", "-p", "-e").splitlines():
            lines.append(held + line)
            held = "".join(re.findall(r"\x1b\[[\d;]*m", lines[-1]))
            held = held[held.rindex("\x1b[0m") :] if "\x1b[0m" in held else held
        return lines

    def past(self) -> list[str]:
        """The lines on the screen and those that were scrolled off it."""
        return self._tmux("capture-pane", "-p", "-S", "-").splitlines()

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


def environment(**env: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME")}
    return {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **env}
