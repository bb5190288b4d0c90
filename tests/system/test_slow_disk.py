"""A disk slower than the line: strace makes each write late, and the Hub sends as fast as it is read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running
from tests.syscalls import FILES, MIB, REPO, WEIGHTS

pytestmark = pytest.mark.system
KEY = "org--one"
LARGE = FILES | {WEIGHTS: model_folder.safetensors("w", floats=32 * MIB)}
LATE_MICROSECONDS = 3_000
GROWN_BYTES_MAX = 64 * MIB  # half of the file


def peak_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.fault("D26")
def test_a_disk_slower_than_the_line_costs_no_memory(tmp_path: Path) -> None:
    """Each write of 64 KiB waits for 3 ms: what has come waits in the sockets, and the bytes are right."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=LARGE))) as hub:
        gate = hub.gate(WEIGHTS, 8 * MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            (part,) = daemon.cache.rglob(".qwen-*.part")
            late = ["-P", part, "-e", "trace=pwrite64", "-e", f"inject=pwrite64:delay_enter={LATE_MICROSECONDS}"]
            command = ["strace", "-f", "-o", tmp_path / "trace", "-p", str(daemon.pid), *late]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
                try:
                    assert strace.stderr is not None and "attached" in strace.stderr.readline()
                    before_bytes = peak_bytes(daemon.pid)
                    gate.open()
                    path = Path(daemon.wait_complete(KEY).path)
                    grown_bytes = peak_bytes(daemon.pid) - before_bytes
                finally:
                    strace.terminate()
            assert (path / WEIGHTS).read_bytes() == LARGE[WEIGHTS]
            assert "(DELAYED)" in (tmp_path / "trace").read_text()
            assert grown_bytes <= GROWN_BYTES_MAX
