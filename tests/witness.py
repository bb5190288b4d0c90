"""What is told about a daemon in trouble, where people look: the line of systemctl, the monitor's screen; and its cost.

with Witness(daemon) as witness:        # begun before the trouble is
    ...
    witness.sees("E_DISK_FULL")
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.service_manager import ServiceManager
from tests.running import Running
from tests.terminal import Tmux

IDLE_S = 4.0  # of wall time: long enough that a loop without pauses would take most of a processor's
IDLE_SHARE_MAX = 0.05


class Witness:
    """Of a daemon that runs."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        notify = self._daemon.root / "notify"
        notify.unlink(missing_ok=True)  # the one that READY=1 came to
        self._manager = self._stack.enter_context(ServiceManager(str(notify)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def sees(self, code: str, *words: str) -> None:
        """STATUS= and the screen both say the code, the screen also these words; and the daemon does not spin."""
        self._manager.wait_for(lambda message: code in message.get("STATUS", ""))
        screen = self._screen(code, *words)
        share = cpu_share(self._daemon.pid)
        assert share < IDLE_SHARE_MAX, f"{share:.0%} of a processor with {screen}"

    def _screen(self, *words: str) -> list[str]:
        command = [sys.executable, "-m", "qwen_monitor", "--socket", str(self._daemon.control)]
        with Tmux(self._daemon.root, command) as terminal:
            return terminal.wait_for(lambda rows: all(any(word in row for row in rows) for word in words))


def cpu_share(pid: int) -> float:
    """Processor seconds per second that the process takes while nobody wants anything of it."""
    before_s, began_s = _cpu_s(pid), time.monotonic()
    time.sleep(IDLE_S)
    return (_cpu_s(pid) - before_s) / (time.monotonic() - began_s)


def _cpu_s(pid: int) -> float:
    """proc_pid_stat(5): utime and stime, counted from behind the name, which may hold anything."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
