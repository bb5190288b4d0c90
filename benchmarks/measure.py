"""One client process, measured: wall, CPU and memory of its tree and nothing else; killed in the middle if asked to.

CPU is what wait4 reports for the child and the children it waited for. ru_maxrss is not used: across fork and exec it
remembers the parent's size, which would make a small client as large as this harness. VmHWM belongs to the program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run took. `began_s` is the wall clock; `killed` says that it was ended on purpose or by its time limit."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    exit_code: int
    began_s: float
    killed: bool


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    limit_s: float,
    until: Callable[[], bool] = lambda: False,
) -> Usage:
    """Run it to its end, or SIGKILL it and its children when `until` is true or its time is up. Raises OSError."""
    began_s, start = time.time(), time.monotonic()
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    look = _Look(child.pid, start + limit_s, until)
    look.start()
    _, status, used = os.wait4(child.pid, 0)
    wall_s = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    look.end()
    return Usage(
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        rss_bytes=look.rss_bytes,
        exit_code=child.returncode,
        began_s=began_s,
        killed=look.killed,
    )


class _Look(threading.Thread):
    """Looks at the tree every LOOK_S: its memory, whether to kill it."""

    def __init__(self, pid: int, deadline_s: float, until: Callable[[], bool]) -> None:
        super().__init__(name="look")
        self._pid, self._deadline_s, self._until = pid, deadline_s, until
        self._ended = threading.Event()
        self.rss_bytes = 0
        self.killed = False

    def run(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.rss_bytes = max(self.rss_bytes, sum(map(_peak_bytes, _tree(self._pid))))
            if time.monotonic() > self._deadline_s or self._until():
                self.killed = True
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _peak_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
