"""Tells the daemon how a loader fares, so that the monitor can show it; never stops or delays a load.

Reports go out in a thread of their own: every state in its order, of each state the newest report, and one that cannot
be delivered is forgotten. What was said last is said again every few seconds: a daemon that was restarted learns it,
and one that hears nothing more knows that this process has failed. What the states mean is in
qwen_api.events.LoaderState.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.commands import LoaderReport
from qwen_api.events import LoaderState
from qwen_api.undecodable import UNDECODABLE

GOODBYE_S = 2.0  # how long an ending loader waits for its last report: a daemon answers in milliseconds or not at all
HEARTBEAT_S = 10.0
STILL_S = 60.0  # a load that nothing is heard of for so long is told as one that may hang
STILL = f"nothing has moved for more than {STILL_S:.0f} s"


class Presence:
    """This loader under its `name`. Use as a context manager: leaving it reports `gone`."""

    def __init__(
        self,
        name: str,
        model: str,
        *,
        socket: Path | None = None,
        env: Mapping[str, str] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        still_s: float = STILL_S,
    ) -> None:
        self.name = name
        self._model = model
        self._socket = socket
        self._env = os.environ if env is None else env
        self._changed = threading.Condition()
        self._unsent: list[LoaderReport] = []
        self._sent: LoaderReport | None = None
        self._heartbeat_s = heartbeat_s
        self._still_s = still_s
        self._said_at_s = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._send_all, name="presence", daemon=True)
        self._thread.start()

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def say(self, report: LoaderReport) -> None:
        """Report this state, soon; model and pid are filled in. Returns at once."""
        complete = msgspec.structs.replace(
            report,
            model=self._model,
            pid=os.getpid(),
            detail=report.detail[:2000],
            heartbeat_s=self._heartbeat_s,
        )
        with self._changed:
            self._said_at_s = time.monotonic()
            if not self._ending:
                if self._unsent and self._unsent[-1].state == complete.state:
                    self._unsent.pop()
                self._unsent.append(complete)
                self._changed.notify()

    def leave(self, state: LoaderState = "gone", detail: str = "") -> None:
        """Report the last word and stop; waits at most GOODBYE_S for its delivery. Only the first call says anything.

        `failed` instead of `gone` leaves the reason where the monitor shows it.
        """
        self.say(LoaderReport(state=state, detail=detail))
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(GOODBYE_S)

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._unsent, self._heartbeat_s)
                reports, self._unsent, ending = self._unsent, [], self._ending
                still = time.monotonic() - self._said_at_s > self._still_s
            if not reports and self._sent is not None and not ending:
                reports = [self._again(self._sent, still)]
            for report in reports:
                self._send(report)
            if ending:
                return

    def _again(self, report: LoaderReport, still: bool) -> LoaderReport:
        return msgspec.structs.replace(report, detail=STILL) if still and report.state == "loading" else report

    def _send(self, report: LoaderReport) -> None:
        self._sent = report
        with suppress(DaemonUnreachable, DaemonRefused, *UNDECODABLE):
            Client(find_socket(self._env, self._socket)).report_loader(self.name, report)
