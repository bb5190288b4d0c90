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
from qwen_api.events import Event

BIN = Path(sys.executable).parent
STEP_TIMEOUT_S = 180.0


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

    def end(self, child: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
        """Signal a child and wait for its end."""
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

    def wait_for(self, what: str, wanted: Callable[[Event], bool]) -> Event:
        """The next event that is wanted. Raises StepFailed when a minute-scale limit passes or a child is lost."""
        for line in self._lines(what):
            if not isinstance(line, Disconnected) and hasattr(line, "ts") and wanted(line):  # type: ignore[arg-type]
                return line  # type: ignore[return-value]
        raise StepFailed(what)

    def _lines(self, what: str) -> Iterator[Line | Disconnected]:
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                yield self._events.get(timeout=min(left_s, 1.0))
            except queue.Empty:
                continue
        raise StepFailed(f"{what}: nothing of the kind in {STEP_TIMEOUT_S:.0f} s")

    def _collect(self) -> None:
        assert self._follower is not None
        for line in self._follower:
            self._events.put(line)
