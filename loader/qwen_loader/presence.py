"""Tells the daemon how a loader fares, so that the monitor can show it; never stops or delays a load.

Reports go out in a thread of their own: every state in its order, of each state the newest report, and one that cannot
be delivered is forgotten. A daemon that was restarted meanwhile is told again. What the states mean is in
qwen_api.events.LoaderState.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.commands import LoaderReport
from qwen_api.events import LoaderState

GOODBYE_S = 2.0  # how long an ending loader waits for its last report: a daemon answers in milliseconds or not at all
REPEAT_S = 10.0  # how often an unchanged state is offered to a daemon that may be a new one


class Presence:
    """This loader under its `name`. Use as a context manager: leaving it reports `gone`."""

    def __init__(
        self, name: str, model: str, *, socket: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._model = model
        self._socket = socket
        self._env = os.environ if env is None else env
        self._changed = threading.Condition()
        self._unsent: list[LoaderReport] = []
        self._sent: LoaderReport | None = None
        self._epoch = ""
        self._ending = False
        self._thread = threading.Thread(target=self._send_all, name="presence", daemon=True)
        self._thread.start()

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def say(self, report: LoaderReport) -> None:
        """Report this state, soon; model and pid are filled in. Returns at once."""
        complete = msgspec.structs.replace(report, model=self._model, pid=os.getpid(), detail=report.detail[:2000])
        with self._changed:
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
                self._changed.wait_for(lambda: self._ending or self._unsent, REPEAT_S)
                reports, self._unsent, ending = self._unsent, [], self._ending
            if reports:
                for report in reports:
                    self._send(report)
            elif self._sent is not None and not ending:
                self._send(self._sent)
            if ending:
                return

    def _send(self, report: LoaderReport) -> None:
        unchanged, self._sent = report is self._sent, report
        try:
            client = Client(find_socket(self._env, self._socket))
            epoch = client.version().epoch
            if not unchanged or epoch != self._epoch:
                client.report_loader(self.name, report)
            self._epoch = epoch
        except (DaemonUnreachable, DaemonRefused, msgspec.DecodeError):
            self._epoch = ""  # whoever answers next has not heard it
