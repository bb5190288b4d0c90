"""The whole engine in a simulated world, seed after seed: whatever goes wrong, the end is right, and nothing twice.

A failure names its seed. To see it again:

    python -m tests.test_simulation 4711
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import msgspec
import pytest

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_daemon.core.backoff import round_delay_s
from qwen_daemon.core.errors import MakeRoom
from qwen_daemon.core.tuning import Tuning
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.controls import Controls, Limits
from qwen_daemon.engine.disk import Budget, Contents, Disk
from qwen_daemon.engine.endpoints import Endpoint, Endpoints, Order
from qwen_daemon.engine.room import Room
from qwen_daemon.engine.round import Round
from qwen_daemon.engine.world import Place, World
from qwen_daemon.ports import Structure
from tests import long_run
from tests.fakes.simulated import (
    Alone,
    Chaos,
    Platter,
    Process,
    SimClock,
    SimLedger,
    SimSource,
    SimStore,
    manifest_of,
    run_simulated,
)

KIB, MIB = 1 << 10, 1 << 20
ROUNDS_MAX = 100
REF = ModelRef(repo="org/one")
COMMIT = "c" * 40
FILES: Mapping[str, bytes] = {
    "config.json": b"{}",
    "empty.txt": b"",
    "again/model.safetensors": random.Random(1).randbytes(MIB + 70 * KIB + 1),
    "model.safetensors": random.Random(1).randbytes(MIB + 70 * KIB + 1),
    "other.safetensors": random.Random(2).randbytes(MIB + 300 * KIB),
}
ALL = manifest_of(FILES, REF.repo, COMMIT)
CONTENTS = {file.etag: FILES[file.path] for file in ALL.files}
TUNING = Tuning(  # the same decisions as for files of gigabytes
    align_bytes=64 * KIB,
    batch_bytes=64 * KIB,
    window_bytes=800 * KIB,
    hash_bps=256 * KIB,
    lease_min_bytes=128 * KIB,
    lease_near_bytes=64 * KIB,
    lease_max_bytes=256 * KIB,
    eager_bytes=256 * KIB,
    proven_bytes=64 * KIB,
    step_bytes=128 * KIB,
    checkpoint_bytes=256 * KIB,
)
EVENTS = ("refuse", "later", "spent", "stall", "cut", "short", "lie", "write", "feed", "sync", "ledger", "lock")
SEEDS, SEEDS_LONG = 1000, 100_000


@dataclass
class Life:
    """One process, from its start to its end by itself or by force."""

    world: World
    process: Process

    async def run(self) -> None:
        """Rounds until the model is complete, as engine.keeper has them."""
        last: Manifest | None = None
        for failed in range(1, ROUNDS_MAX):
            go = Round(
                world=self.world,
                ref=REF,
                wanted=AddModel(model=REF.repo),
                reason="start",
                distrust=False,
                hurry=asyncio.Event(),
                quiet=False,
            )
            try:
                outcome = await go.run(last)
            except MakeRoom:
                self.process.platter.room_bytes += MIB  # somebody makes room
            else:
                if outcome.complete:
                    return
                assert not outcome.needs_human, outcome
            last = go.manifest
            await asyncio.sleep(round_delay_s(failed))
        raise AssertionError("it does not end")


def begin(
    platter: Platter, chaos: Chaos, clock: SimClock, told: list[e.Event], *, liar: bool, mirror: bool, ranges: bool
) -> Life:
    process = Process(platter, chaos)
    store, ledger = SimStore(process), SimLedger(process)

    def publish(event: e.Event) -> int:
        told.append(event)
        return len(told)

    async def structure(_ref: ModelRef, _manifest: Manifest) -> Structure:
        return Structure(problem="", has_code=False, has_pickle=False)

    hub = SimSource(process, is_liar=False, has_ranges=True)
    lan = SimSource(process, is_liar=liar, has_ranges=ranges)
    all_endpoints = [Endpoint(name="hub", url="https://hub", is_mirror=False, hub=hub, origin=hub)]
    if mirror:
        all_endpoints.insert(0, Endpoint(name="lan", url="http://lan", is_mirror=True, hub=lan, origin=lan))
    endpoints = Endpoints(clock, publish)
    endpoints.configure(all_endpoints, Order(names=tuple(endpoint.name for endpoint in all_endpoints)))
    connections = Connections(5)
    controls = Controls(clock, publish, Limits(max_files=2, max_connections=5), connections.resize)
    budget = Budget(
        files=controls.files,
        connections=connections,
        hashes=asyncio.Semaphore(2),
        contents=Contents(controls.files.reorder),
    )
    disk = Disk(
        store=store,
        batches=store,
        blobs=store,
        ledger=ledger,
        seals=ledger,
        locks=store,
        twins=Alone(),
        reader=Alone(),
        where=lambda manifest, _file: manifest.repo,
    )
    place = Place(
        disk=disk,
        listings=store,
        room=Room(store, "/", 0, publish),
        structure=structure,
        watched=lambda _manifest: (),
    )
    world = World(
        endpoints=endpoints,
        place=place,
        place_of=lambda _key: place,
        desires=ledger,
        clock=clock,
        budget=budget,
        controls=controls,
        publish=publish,
        select=lambda manifest, _include, _exclude: manifest,
        offline=False,
        tuning=TUNING,
    )
    return Life(world=world, process=process)


async def story(clock: SimClock) -> list[e.Event]:
    """Some lives that end by force, and a last one that may end by itself: all that they told."""
    told: list[e.Event] = []
    dice = clock.random
    many = dice.choice((0.0, 0.01, 0.05, 0.3))
    rates = {event: many * dice.random() for event in EVENTS}
    chaos = Chaos(clock, rates, left=dice.choice((5, 30, 200)))
    manifest = ALL.keep(dice.choice((["other.safetensors"], ["config.json", "other.safetensors"], FILES)))
    size_bytes = manifest.size_bytes
    platter = Platter(manifest, CONTENTS, room_bytes=dice.choice((size_bytes, 4 * size_bytes, MIB)))
    mirror, liar, ranges = dice.random() < 0.5, dice.random() < 0.3, dice.random() < 0.7
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        life = begin(platter, chaos, clock, told, liar=liar, mirror=mirror, ranges=ranges)
        task = asyncio.create_task(life.run())
        await asyncio.wait([task], timeout=dice.choice((0.5, 3, 30)) * dice.random())
        how = dice.choice(("stop", "kill", "kill", "power"))
        life.process.is_alive = how == "stop"
        is_cut_short = task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(ended, Exception) and life.process.is_alive:
            raise ended
        assert not is_cut_short or isinstance(ended, asyncio.CancelledError) or how != "stop", "it goes on all the same"
        life.process.is_alive = False
        if how == "power":
            platter.cut_power(dice)
        platter.rot(dice)
    last = begin(platter, chaos, clock, told, liar=liar, mirror=mirror, ranges=ranges)
    await last.run()
    assert {path: platter.blobs[etag] for path, etag in platter.links.items()} == {
        file.path: FILES[file.path] for file in manifest.files
    }
    assert (platter.ref, platter.parts) == (COMMIT, {}) and platter.ready is not None
    assert asyncio.all_tasks() == {asyncio.current_task()}, "something is left running"
    return told


def check(seed: int) -> int:
    """One world."""
    try:
        run_simulated(story, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}; to see it again: python -m tests.test_simulation {seed}")
        raise
    return 1


@pytest.mark.fault("K11", "K1", "D10", "D11", "D15", "D20", "H24", "H25", "H36", "H38")
def test_whatever_goes_wrong_the_end_is_right() -> None:
    """A thousand worlds, on every processor."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        assert sum(pool.map(check, range(SEEDS), chunksize=25)) == SEEDS


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("K11")
def test_whatever_goes_wrong_in_a_hundred_thousand_worlds() -> None:
    """The same, for an hour, on every processor."""
    long_run.run("worlds", "simulated worlds", check, range(SEEDS_LONG), at_once=50)


def replay(seed: int) -> str:
    """One world in a line: two lines are the same if all was the same that was told in it, and when."""

    async def once(clock: SimClock) -> str:
        told = await story(clock)
        digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
        return f"{len(told)} events {digest}, {clock.monotonic_s()} s, next dice {clock.dice()}"

    return f"seed {seed}: {run_simulated(once, seed)}"


def test_the_same_seed_is_the_same_world() -> None:
    """In another process with other hashes of strings too: else no failure could be seen again."""
    seeds = [str(seed) for seed in range(12)]
    seen = [
        subprocess.run(
            [sys.executable, "-m", "tests.test_simulation", *seeds],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert seen[0] == seen[1] and seen[0].splitlines() == [replay(int(seed)) for seed in seeds]


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        print(replay(int(asked)))
