"""A wall clock that jumps in mid-job, by libfaketime: no time limit, no pause and no order depends on it.

The monotonic clock stays what it is, as on a machine whose clock somebody sets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api import events as e
from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import Fault, SimHub, ThreadedSimHub
from tests.running import Running
from tests.syscalls import FILES, MIB, REPO, SIM, WEIGHTS

pytestmark = pytest.mark.system
KEY = "org--one"
LIBRARIES = "*/faketime/libfaketimeMT.so.1"
CONFIG = "[disk]\nreserve_bytes = 0\n[network]\nread_timeout_s = 2\n"
ASKED_WAIT_S = 2


class Clock:
    """The wall clock of a daemon; `set` is noticed within a second."""

    def __init__(self, root: Path) -> None:
        library = next(Path("/usr/lib").glob(LIBRARIES), None)
        assert library, "apt-get install --no-install-recommends faketime"
        self._file = root / "clock"
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set("+0")

    def set(self, text: str) -> None:
        """An offset such as `-1d`, or a date."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{text}\n")
        beside.replace(self._file)


@pytest.mark.fault("H42")
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """A day back while the server asked to wait, 400 days on while a body is silent, to 1970 while bytes come: waits
    are as long as they were, no byte on record comes twice, events keep the order of their numbers; and a start in
    another year finds all complete as it was.
    """
    clock = Clock(tmp_path)
    with ThreadedSimHub(SimHub(SIM)) as hub:
        hub.faults.add(Fault(kinds.RetryAfter(seconds=ASKED_WAIT_S, http_date=True), path=WEIGHTS, times=1))
        gate = hub.gate(WEIGHTS, 2 * MIB)
        with Running(tmp_path / "d", endpoint=hub.endpoint, models=[REPO], config=CONFIG, env=clock.env) as daemon:
            daemon.wait_event(e.HubThrottled)
            clock.set("-1d")
            gate.wait_reached()
            first, second, *_ = hub.log.requests(server="hub", path=WEIGHTS)
            assert second.at_s - first.at_s >= ASKED_WAIT_S
            clock.set("+400d")
            daemon.wait_event(e.FileRetry, path=WEIGHTS, code="E_STALLED")
            before = len(hub.log.served(path=WEIGHTS))
            clock.set("1970-01-02 00:00:00")
            gate.open()
            path = Path(daemon.wait_complete(KEY).path)
            assert all((path / name).read_bytes() == content for name, content in FILES.items())
            kept_bytes = daemon.seen(e.FileResumed, path=WEIGHTS)[0].kept_bytes
            asked_again = sum(served.end - served.start for served in hub.log.served(path=WEIGHTS)[before:])
            assert 0 < kept_bytes <= len(FILES[WEIGHTS]) - asked_again
            assert not daemon.seen(e.FileFailed) and "Traceback" not in daemon.stderr
            years = [event.ts[:4] for event in daemon.events]
            seqs = [event.seq for event in daemon.events]
            assert seqs == sorted(set(seqs)) and years != sorted(years) and "1970" in years, "the clock did jump"
            daemon.kill()
            clock.set("+400d")
            hub.log.clear()
            daemon.start()
            daemon.wait_complete(KEY)
            assert hub.log.bytes_served(path="*") == 0 and not daemon.seen(e.ModelVerifying)
