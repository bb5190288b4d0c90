"""Little memory, by the kernel's own limit: the page cache that a download fills counts, and is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running
from tests.syscalls import MIB, REPO, WEIGHTS

pytestmark = pytest.mark.system
KEY = "org--one"
LIMIT_BYTES = 160 * MIB
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: model_folder.safetensors("w", floats=128 * MIB),  # three times the limit
}
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def limited(name: str) -> Iterator[Path]:
    """A memory cgroup of its own, either version's, without swap to flee to."""
    is_v1 = (V1 / "memory.limit_in_bytes").exists()
    group = (V1 if is_v1 else V2) / name
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(LIMIT_BYTES))
        yield group
    finally:
        group.rmdir()


@pytest.mark.fault("D27")
def test_a_file_larger_than_the_memory_is_fetched(tmp_path: Path) -> None:
    """512 MiB over many connections with 160 MiB for everything: nobody is killed, and the bytes are right."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub, limited("qwen-daemon-test") as group:
        gate = hub.gate(WEIGHTS, MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            (group / "cgroup.procs").write_text(str(daemon.pid))
            gate.open()
            path = Path(daemon.wait_complete(KEY, timeout=100).path)  # pages come back as slowly as the disk is
            assert (path / WEIGHTS).read_bytes() == FILES[WEIGHTS]
            assert daemon.client.state().models[KEY].state == "complete"
