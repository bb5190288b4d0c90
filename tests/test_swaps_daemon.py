"""Ten thousand swaps of a folder for a link, by another process, while the real daemon downloads and verifies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from qwen_api import events as e
from qwen_api import places
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import WAIT_S, Running
from tests.test_swaps import everything, exchange

SWAPS, ROUNDS = 10_000, 3
REPO, KEY = "org/name", "org--name"
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    "model.safetensors": model_folder.safetensors("w"),
    **{f"deep/er/{number}.safetensors": model_folder.safetensors("w", seed=number) for number in range(40)},
}
SIM = SimRepo(id=REPO, files=FILES)
PLACES = ("snapshots", f"snapshots/{SIM.sha}", f"snapshots/{SIM.sha}/deep", "refs", "trees")
SPAWN = get_context("spawn")


def swap(victim: Path, outside: Path, over: Event, count: Any) -> None:
    """Until it is over; then the folder has its place again. What is moved aside or made anew meanwhile is let be."""
    spare, aside = outside.with_name("spare"), 0
    spare.symlink_to(outside)
    while not over.is_set():
        if not spare.is_symlink() and not victim.is_symlink():  # the link was moved aside
            aside += 1
            spare.rename(outside.with_name(f"aside-{aside}"))
            spare.symlink_to(outside)
        with suppress(FileNotFoundError):
            exchange(victim, spare)
            count.value += 1
    if victim.is_symlink():
        exchange(victim, spare)


@contextmanager
def swapping(victim: Path, outside: Path) -> Iterator[Any]:
    over, count = SPAWN.Event(), SPAWN.Value("L", 0)
    process = SPAWN.Process(target=swap, args=(victim, outside, over, count))
    process.start()
    try:
        yield count
    finally:
        over.set()
        process.join(WAIT_S)
        process.kill()
        process.join()
    assert process.exitcode == 0


@pytest.mark.fault("C11")
@pytest.mark.parametrize("place", PLACES)
def test_ten_thousand_swaps_lead_nothing_astray(tmp_path: Path, place: str) -> None:
    """Outside not even a time changes; when it is over the model is complete and right."""
    outside = tmp_path / "outside"
    with (
        ThreadedSimHub(SimHub(SIM)) as hub,
        Running(tmp_path / "daemon", endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        victim = places.repo_dir(daemon.cache, REPO) / place
        daemon.wait_for(victim.is_dir, f"{place} exists")
        shutil.copytree(victim, outside, symlinks=True)
        before = everything(outside)
        with swapping(victim, outside) as swaps:
            rounds = 0
            while rounds < ROUNDS or swaps.value < SWAPS:
                mark = daemon.mark
                daemon.client.verify(KEY)
                daemon.client.retry(KEY)
                daemon.wait_for(lambda mark=mark: daemon.mark > mark, "it goes on")
                rounds += 1
        assert everything(outside) == before
        asked = daemon.client.verify(KEY)
        daemon.client.retry(KEY)
        daemon.wait_for(lambda: [x for x in daemon.seen(e.ModelComplete) if x.seq > asked.seq], "it is complete")
        folder = places.snapshot_dir(daemon.cache, REPO, SIM.sha)
        assert {path: (folder / path).read_bytes() for path in FILES} == FILES
        assert everything(outside) == before
        assert "Traceback" not in daemon.stderr
