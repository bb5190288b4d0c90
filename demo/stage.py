"""The demonstration's stage: its folders, its child processes, and the daemon's events as they come.

Every process is a command a user could type. Leaving the stage ends them all, in reverse order.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen_api.client import Disconnected, Follower, Line, find_socket
from qwen_api.events import Event, ModelStateChanged

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0
SILENCE_MAX_S = 300.0  # without any event at all; a wait itself may take hours: 57.7 GB on a slow line
LOG_LINES_SHOWN = 8


class StepFailed(RuntimeError):
    """A step did not happen."""


class Stage:
    """Use as a context manager. `wait_for` is the one way to wait: for an event, never for a time."""

    def __init__(self, var: Path) -> None:
        self.var = var.absolute()
        self.run = self.var / "run"
        self.logs = self.run / "logs"
        self._started_s = time.monotonic()
        self._children: list[subprocess.Popen[bytes]] = []
        self._daemon: tuple[subprocess.Popen[bytes], str] | None = None
        self._events: queue.Queue[Line | Disconnected] = queue.Queue()
        self._follower: Follower | None = None
        self._thread: threading.Thread | None = None
        self._sockets = Path(tempfile.mkdtemp(prefix="qwen-"))  # short: a socket's path has at most 107 bytes

    def __enter__(self) -> Stage:
        shutil.rmtree(self.run, ignore_errors=True)
        self.logs.mkdir(parents=True)
        return self

    def __exit__(self, *exc: object) -> None:
        for child in reversed(self._children):
            self.end(child)
        if self._follower is not None and self._thread is not None:
            self._follower.close()
            self._thread.join()
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """The daemon's control socket."""
        return self._sockets / "control.sock"

    def say(self, text: str) -> None:
        """One line of the story."""
        print(f"[{time.monotonic() - self._started_s:6.1f} s] {text}", flush=True)

    def start(
        self, *command: str, log: str | None, env: dict[str, str] | None = None, pipe: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start one of the installed commands; its output goes to a log, or (None) is seen as it comes."""
        out = (self.logs / log).open("ab") if log else None
        try:
            child = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env={**os.environ, "QWEN_DAEMON_SOCKET": str(self.socket), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else out,
                stderr=out,
            )
        finally:
            if out is not None:
                out.close()
        self._children.append(child)
        return child

    def watch(self, daemon: subprocess.Popen[bytes], log: str) -> None:
        """From now on every wait ends when this child does, and tells the last lines of its log."""
        self._daemon = (daemon, log)

    def end(self, child: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
        """Signal a child and wait for its end."""
        if self._daemon is not None and self._daemon[0] is child:
            self._daemon = None
        if child.poll() is None:
            child.send_signal(number)
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()

    def follow(self) -> None:
        """Follow the daemon's events from now on, across restarts."""
        if self._follower is not None:
            return
        self._follower = Follower(lambda: find_socket(os.environ, self.socket), since=0)
        self._thread = threading.Thread(target=self._collect, name="events", daemon=True)
        self._thread.start()

    def wait_for(self, what: str, wanted: Callable[[Event], bool], *, silence_s: float = SILENCE_MAX_S) -> Event:
        """The next event that is wanted. Raises StepFailed if the daemon ends, gives the model up, or falls silent."""
        for line in self._lines(what, silence_s):
            if isinstance(line, Disconnected) or not hasattr(line, "ts"):
                continue
            if wanted(line):  # type: ignore[arg-type]
                return line  # type: ignore[return-value]
            if isinstance(line, ModelStateChanged) and line.state == "failed":
                raise StepFailed(f"{what}: {line.code}: {line.detail}")
        raise StepFailed(what)

    def _lines(self, what: str, silence_s: float) -> Iterator[Line | Disconnected]:
        heard_s = time.monotonic()
        while (silent_s := time.monotonic() - heard_s) < silence_s:
            try:
                line = self._events.get(timeout=min(silence_s - silent_s, 1.0))
            except queue.Empty:
                self._see_daemon(what)
                continue
            if not isinstance(line, Disconnected):
                heard_s = time.monotonic()
            yield line
        raise StepFailed(f"{what}: not a word of the daemon in {silence_s:.0f} s")

    def _see_daemon(self, what: str) -> None:
        if self._daemon is None or self._daemon[0].poll() is None:
            return
        child, log = self._daemon
        tail = (self.logs / log).read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        raise StepFailed("\n  ".join([f"{what}: the daemon ended with {child.returncode}:", *tail]))

    def _collect(self) -> None:
        assert self._follower is not None
        for line in self._follower:
            self._events.put(line)
