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

pytestmark = pytest.mark.system
KEY = "org--one"


@pytest.mark.fault("D25")
def test_a_disk_that_hangs_is_told_and_waited_for(tmp_path: Path) -> None:
    """The daemon says that nothing moves, answers meanwhile, and goes on by itself once the disk does."""
    volume = Volume(tmp_path, "ext4")
    try:
        with ThreadedSimHub(SimHub(SIM)) as hub:
            gate = hub.gate(WEIGHTS, MIB)
            env = {"HF_HOME": str(volume.path / "hf")}
            with Running(tmp_path / "daemon", endpoint=hub.endpoint, models=[REPO], env=env) as daemon:
                gate.wait_reached()
                subprocess.run(["fsfreeze", "--freeze", volume.path], check=True)
                try:
                    gate.open()
                    daemon.wait_event(e.FileStalled, path=WEIGHTS)
                    assert daemon.client.state().models[KEY].state == "downloading"
                finally:
                    subprocess.run(["fsfreeze", "--unfreeze", volume.path], check=True)
                path = Path(daemon.wait_complete(KEY).path)
                check_running(daemon, KEY)
                assert all((path / name).read_bytes() == content for name, content in FILES.items())
                assert daemon.seen(e.FileFailed) == [] and "Traceback" not in daemon.stderr
    finally:
        volume.unmount()
