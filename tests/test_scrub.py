"""What nobody touched is read again now and then, because disks forget; the model stays complete meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.seals import take_seal
from qwen_daemon.core.plan import Found
from qwen_daemon.shell.ledger import SqliteLedger
from qwen_daemon.shell.scrub import NICEST, BackgroundReader
from qwen_daemon.shell.store import HubCache
from qwen_monitor.event_text import event_text
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
MIB = 1 << 20
BIG = model_folder.safetensors("w", floats=10 * MIB)  # 40 MiB: three spans
FILES = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: BIG}
OFTEN = "[disk]\nreserve_bytes = 0\n[check]\nscrub_interval_s = 0.2\n"


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def rot(ledger: Path, blob: Path) -> None:
    """Other bytes behind a seal that still holds, as a disk makes them: here it is the seal that is made to fit."""
    with blob.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"rot")

    async def seal() -> None:
        db = SqliteLedger(ledger)
        await db.open()
        await db.seal(REPO, blob.name, take_seal(blob))
        await db.close()

    asyncio.run(seal())


def test_everything_is_read_again_when_it_is_time(hub: SimHub, tmp_path: Path) -> None:
    """It says how much and how fast; nothing is fetched, and the model never stops being complete."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=OFTEN) as daemon:
        daemon.wait_complete(KEY)
        mark = daemon.mark
        scrubbed = daemon.wait_event(e.ModelScrubbed, model=KEY, files=len(FILES))
        assert (scrubbed.size_bytes, scrubbed.damaged) == (sum(map(len, FILES.values())), 0)
        assert scrubbed.duration_s > 0
        assert daemon.seen(e.ModelStateChanged, after=mark) == [] and hub.log.bytes_twice() == 0


@pytest.mark.fault("D28")
def test_rot_that_no_seal_shows_is_found_and_mended(hub: SimHub, tmp_path: Path) -> None:
    """Only the damaged span is fetched."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        blob = (Path(daemon.wait_complete(KEY).path) / WEIGHTS).resolve()
        daemon.stop()
        rot(daemon.state_dir, blob)
        hub.log.clear()
        daemon.start()
        daemon.wait_complete(KEY)
        assert hub.log.requests() == [], "nobody can know"
        daemon.stop()
        daemon.configure([REPO], OFTEN)
        daemon.start()
        daemon.wait_event(e.ModelScrubbed, damaged=1)
        daemon.wait_event(e.FileCorrupt, path=WEIGHTS)
        daemon.wait_for(lambda: len(daemon.seen(e.ModelComplete, model=KEY)) == 2, "complete again")
        assert blob.read_bytes() == BIG and 0 < hub.log.bytes_served() <= 16 * MIB


def test_it_is_told_in_one_line() -> None:
    """With the speed; damage is marked as bad news."""
    event = e.ModelScrubbed(model=KEY, files=35, size_bytes=57_000_000_000, duration_s=100.0)
    good, bad = event_text(event), event_text(msgspec.structs.replace(event, damaged=1))
    assert good is not None and bad is not None and (good.is_bad, bad.is_bad) == (False, True)
    assert "35 files" in good.detail and "57.0 GB" in good.detail and "570 MB/s" in good.detail.replace(".0", "")


async def test_it_reads_last_in_line_and_stops_when_told(tmp_path: Path) -> None:
    """Its thread is nice, the others are not; closing ends it."""
    files = {"w.safetensors": BIG}
    model_folder.write_cache(tmp_path, files)
    file = model_folder.listing(files).files[0]
    blob = places.repo_dir(tmp_path, model_folder.REPO) / "blobs" / file.etag
    reader, before = BackgroundReader(), os.getpriority(os.PRIO_PROCESS, 0)
    try:
        assert (
            await reader.at(HubCache(tmp_path).current).digest(
                model_folder.REPO, file, Found(linked=True, seal=take_seal(blob))
            )
            == file.etag
        )
        nice = {t.name: os.getpriority(os.PRIO_PROCESS, t.native_id or 0) for t in threading.enumerate()}
        assert [name for name, level in nice.items() if level == NICEST and before != NICEST] == ["scrub_0"]
        if shutil.which("ionice"):
            (thread,) = (t.native_id for t in threading.enumerate() if t.name == "scrub_0")
            assert subprocess.check_output(["ionice", "-p", str(thread)]) == b"idle\n"
    finally:
        reader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scrub")]
