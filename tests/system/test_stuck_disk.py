"""A disk that hangs: fsfreeze lets every write wait, as a network file system or a dying disk would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qwen_api import events as e
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.oracle import check_running
from tests.running import Running
from tests.syscalls import FILES, MIB, REPO, SIM, WEIGHTS
from tests.system.test_power_cut import Volume
from tests.witness import Witness

pytestmark = pytest.mark.system
KEY = "org--one"


@pytest.mark.fault("D25")
def test_a_disk_that_hangs_is_told_and_waited_for(tmp_path: Path) -> None:
    """The daemon says which call has not come back, answers meanwhile, and goes on by itself once the disk does."""
    volume = Volume(tmp_path, "ext4")
    try:
        with ThreadedSimHub(SimHub(SIM)) as hub:
            gate = hub.gate(WEIGHTS, MIB)
            hub.throttle.bytes_per_s = MIB // 2  # so that there is something left to come afterwards
            env = {"HF_HOME": str(volume.path / "hf")}
            running = Running(tmp_path / "daemon", endpoint=hub.endpoint, models=[REPO], env=env)
            with running as daemon, Witness(daemon) as witness:
                gate.wait_reached()
                subprocess.run(["fsfreeze", "--freeze", volume.path], check=True)
                try:
                    gate.open()
                    stuck = daemon.wait_event(e.ModelStateChanged, state="downloading", code="E_DISK_STUCK")
                    assert any(path in stuck.detail for path in FILES) and "has not come back since" in stuck.detail
                    assert daemon.wait_event(e.FileStalled, path=WEIGHTS).next_at == "", "no connection is cut"
                    witness.sees("E_DISK_STUCK", "fix:")
                    model = daemon.client.state().models[KEY]
                    assert (model.state, model.code) == ("downloading", "E_DISK_STUCK")
                    mark = daemon.mark
                finally:
                    subprocess.run(["fsfreeze", "--unfreeze", volume.path], check=True)
                daemon.wait_event(e.ModelStateChanged, after=mark, state="downloading", code="")
                path = Path(daemon.wait_complete(KEY).path)
                check_running(daemon, KEY)
                assert all((path / name).read_bytes() == content for name, content in FILES.items())
                assert daemon.seen(e.FileFailed) == [] and "Traceback" not in daemon.stderr
    finally:
        volume.unmount()
