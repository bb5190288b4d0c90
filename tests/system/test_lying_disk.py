"""A disk that says "synced" and has kept nothing: strace lets every sync succeed without doing it, then the power goes.

The ledger is on an honest disk and remembers all that the other one has lost, which is the worst that can be together.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api import places
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.syscalls import FILES, REPO, SIM, WEIGHTS, Job
from tests.system import traced
from tests.system.test_power_cut import Volume

pytestmark = pytest.mark.system

LIES = ("-e", "trace=fsync,fdatasync,rename", "-e", "inject=fsync,fdatasync:retval=0")
END = ("-e", "inject=rename:signal=SIGKILL:when=2")


def on_a_disk_of_its_own(job: Job, volume: Volume) -> Job:
    """Its cache only."""
    job.daemon.env["HF_HOME"], job.daemon.cache = str(volume.path / "hf"), volume.path / "hf" / "hub"
    return job


@pytest.mark.fault("D3")
@pytest.mark.parametrize(("kind", "end"), [("ext4", ()), ("xfs", END)], ids=["all complete", "while published"])
def test_what_a_lying_disk_lost_is_found_and_fetched_again(tmp_path: Path, kind: str, end: tuple[str, ...]) -> None:
    """The ledger says that all is here, and nothing or half of it is: seen by sizes, times and hashes, and mended."""
    volume = Volume(tmp_path, kind)
    try:
        with ThreadedSimHub(SimHub(SIM)) as hub:
            daemon = on_a_disk_of_its_own(Job(tmp_path / "honest", hub), volume).daemon
            assert (traced.run_once(daemon, REPO, *LIES, *end) == 0) == (not end), daemon.stderr
            volume.cut_power()
            volume.unmount()
            volume.mount()
            weights = places.snapshot_dir(daemon.cache, REPO, SIM.sha) / WEIGHTS
            assert not weights.exists() or weights.read_bytes() != FILES[WEIGHTS], "it has lost nothing"
            hub.log.clear()
            job = on_a_disk_of_its_own(Job(tmp_path / "honest", hub), volume)
            assert job.run() == 0, daemon.stderr
            assert hub.log.bytes_served(path=WEIGHTS) > 0
            job.check_done()
    finally:
        volume.unmount()
