"""A disk that says "synced" and has kept nothing: each sync is answered for it with yes, then the power goes.

The ledger is on an honest disk and remembers all that the other one has lost, which is the worst that can be together.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from qwen_api import places
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.overseer import KILL, SKIP, Point, overseeing
from tests.syscalls import CHANGING, FILES, REPO, SIM, WEIGHTS, Job
from tests.system.test_power_cut import KINDS, Volume

pytestmark = pytest.mark.system
ETAG = SIM.entry(WEIGHTS).etag


@pytest.mark.fault("D3")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_killed", [False, True], ids=["when all was complete", "while it is published"])
def test_what_a_lying_disk_lost_is_found_and_fetched_again(tmp_path: Path, kind: str, is_killed: bool) -> None:
    """The ledger says that all is here, and nothing or half of it is: seen by sizes, times and hashes, and mended."""

    def lie(point: Point) -> int:
        if is_killed and point.call == "rename" and point.file.endswith(ETAG):
            return KILL
        return SKIP if point.call in ("fsync", "fdatasync") else 0

    volume = Volume(tmp_path, kind)
    try:
        with ThreadedSimHub(SimHub(SIM)) as hub:
            job = Job(tmp_path / "honest", hub)
            daemon = job.daemon
            daemon.env["HF_HOME"], daemon.cache = str(volume.path / "hf"), volume.path / "hf" / "hub"
            with overseeing(volume.path, CHANGING, lie) as (_, daemon.under):  # the cache; the state's disk is honest
                code = daemon.run("--config", str(daemon.config_file), "--once", REPO)
            daemon.under = []
            assert code == (-signal.SIGKILL if is_killed else 0), daemon.stderr
            volume.cut_power()
            volume.unmount()
            volume.mount()
            weights = places.snapshot_dir(daemon.cache, REPO, SIM.sha) / WEIGHTS
            assert not weights.exists() or weights.read_bytes() != FILES[WEIGHTS], "it has lost nothing"
            hub.log.clear()
            job.forget()
            job.finish()
    finally:
        volume.unmount()
