"""What the daemon costs the machine beside its work: memory that does not grow with the job, and no processor at rest.

The real installed command is measured by what the kernel counts for it. Memory is bounded by construction: each of the
connections holds a batch or two, each file's hash one piece that it reads back, small files wait for their batch in a
fixed number, and what runs ahead of the hash is on the disk. None of these knows how large the job is, so a few hundred
megabytes show what sixty gigabytes take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hub import SimHub, SimRepo, SparseContent, ThreadedSimHub
from tests.running import Running

MIB = 1 << 20
REPO, KEY = "org/large", "org--large"
RSS_BYTES_MAX = 150_000_000
IDLE_S, IDLE_SHARE_MAX = 5.0, 0.005
FILES = {f"data-{number}.dat": SparseContent(size=160 * MIB, seed=number) for number in range(2)} | {
    f"small/{number}.json": SparseContent(size=MIB, seed=100 + number) for number in range(48)
}


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def peak_bytes(pid: int) -> int:
    """The most memory the process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def cpu_s(pid: int) -> float:
    """Processor time of all its threads, as the scheduler counts it: in nanoseconds, not in ticks."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def test_a_download_by_sixteen_connections_fits_into_150_mb_and_rest_costs_nothing(hub: SimHub, tmp_path: Path) -> None:
    """With large files and many small ones at once, as fast as it goes; then complete, with nobody asking."""
    limits = "[disk]\nreserve_bytes = 0\n[network]\nmax_connections = 16\n"
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=limits) as daemon:
        daemon.wait_complete(KEY, timeout=60)
        hub.log.settle()
        more_bytes = hub.log.bytes_served() - sum(content.size for content in FILES.values())
        assert 0 <= more_bytes < 4 * MIB, "but for what was on its way when a lease was shared: a socket's buffers"
        assert peak_bytes(daemon.pid) <= RSS_BYTES_MAX
        before_s = cpu_s(daemon.pid)
        time.sleep(IDLE_S)  # the time over which its share is counted: nothing is awaited
        assert cpu_s(daemon.pid) - before_s <= IDLE_SHARE_MAX * IDLE_S
