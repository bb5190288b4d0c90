"""A full verification: it proves every byte again, says how fast, and leaves a model complete that is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.seals import read_ready, take_seal
from qwen_daemon.shell.ledger import SqliteLedger
from tests import canary
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

MIB = 1 << 20
REPO, KEY = "org/model", "org--model"
BIG, WEIGHTS = os.urandom(40 * MIB), "transformer/model.safetensors"
FILES = {"config.json": b"{}", WEIGHTS: BIG, "vae/model.safetensors": os.urandom(3 * MIB), "empty.txt": b""}
SIZE_BYTES = sum(map(len, FILES.values()))


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def qwenctl(daemon: Running, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, asking this daemon."""
    command = [str(Path(sys.executable).parent / "qwenctl"), *words]
    return canary.run(command, env=daemon.env)


def rot(daemon: Running, blob: Path) -> None:
    """Other bytes behind a seal that holds, as a disk makes them: here it is the seal that is made to fit."""
    daemon.stop()
    with blob.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"rot")

    async def seal() -> None:
        ledger = SqliteLedger(daemon.state_dir)
        await ledger.open()
        await ledger.seal(REPO, blob.name, take_seal(blob))
        await ledger.close()

    asyncio.run(seal())
    daemon.start()


def test_a_complete_model_stays_complete_while_it_is_verified(hub: SimHub, tmp_path: Path) -> None:
    """No other state is told, the ready file stays, every file is hashed, and the end says how fast it was."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        ready = places.ready_file(daemon.state_dir, KEY)
        before, mark = ready.stat(), daemon.mark
        daemon.client.verify(KEY)
        daemon.wait_complete(KEY, after=mark)
        (verified,) = daemon.seen(e.ModelVerified, after=mark)
        assert (verified.files, verified.size_bytes, verified.damaged) == (len(FILES), SIZE_BYTES, 0)
        assert verified.duration_s > 0 and verified.rate_bps > 0
        assert daemon.seen(e.ModelStateChanged, after=mark) == []
        assert {event.path for event in daemon.seen(e.FileVerified, after=mark)} == set(FILES)
        assert (ready.stat().st_ino, ready.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert daemon.client.state().models[KEY].verifying is None


def test_a_wait_right_behind_the_command_is_for_the_new_verification(hub: SimHub, tmp_path: Path) -> None:
    """That it is asked for is told before the command is answered, so no reader sees the last verdict in its place."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        before, mark = daemon.client.state(), daemon.mark
        assert daemon.client.verify(KEY).seq > before.seq
        daemon.wait_complete(KEY, after=mark)

        since = str(daemon.client.state().seq)
        assert qwenctl(daemon, "verify", REPO).returncode == 0
        assert qwenctl(daemon, "wait", REPO, "--for", "verified").returncode == 0
        told = qwenctl(daemon, "events", "--since", since, "--types", "model.verified", "--no-follow", "--json").stdout
        assert "model.verified" in told


def test_it_says_how_far_it_is_beside_complete(hub: SimHub, tmp_path: Path) -> None:
    """Progress names files and bytes; meanwhile the model is complete and no file is said to be unverified."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        mark = daemon.mark
        daemon.client.verify(KEY)
        daemon.wait_complete(KEY, after=mark)
        told = daemon.seen(e.ModelVerifying, after=mark)
        assert told, "the first is told at once"
        assert {(event.files, event.size_bytes) for event in told} == {(len(FILES), SIZE_BYTES)}
        assert daemon.seen(e.FileProgress, after=mark) == []


def test_it_is_not_complete_from_the_first_damaged_file_on(hub: SimHub, tmp_path: Path) -> None:
    """And is again once the damaged span, and nothing else, was fetched."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        blob = (Path(daemon.wait_complete(KEY).path) / WEIGHTS).resolve()
        rot(daemon, blob)
        daemon.wait_complete(KEY)
        hub.log.clear()
        mark = daemon.mark
        daemon.client.verify(KEY)
        daemon.wait_complete(KEY, after=mark)
        (damaged,) = daemon.seen(e.FileCorrupt, after=mark)
        states = daemon.seen(e.ModelStateChanged, after=mark)
        (verified,) = daemon.seen(e.ModelVerified, after=mark)
        assert (damaged.path, damaged.where, verified.damaged) == (WEIGHTS, "disk", 1)
        assert [event.state for event in states] == ["checking", "downloading"]
        assert damaged.seq < states[0].seq < verified.seq
        assert blob.read_bytes() == BIG and 0 < hub.log.bytes_served() <= 16 * MIB
        ready = read_ready(places.ready_file(daemon.state_dir, KEY))
        assert ready is not None and ready.seals[WEIGHTS] == take_seal(blob)


def test_whoever_waits_for_it_is_told_what_it_came_to(hub: SimHub, tmp_path: Path) -> None:
    """`qwenctl verify --wait` ends with 0 and the numbers, for people and for scripts."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        said, told = qwenctl(daemon, "verify", REPO, "--wait"), qwenctl(daemon, "verify", REPO, "--wait", "--json")
        assert (said.returncode, told.returncode) == (0, 0), said.stderr + told.stderr
        assert f"{REPO} is complete: {len(FILES)} files hashed" in said.stdout and "0 damaged" in said.stdout
        answer = json.loads(told.stdout)
        assert (answer["complete"], answer["verified"]["size_bytes"]) == (True, SIZE_BYTES)


def test_a_check_without_a_daemon_says_how_fast_it_was(hub: SimHub, tmp_path: Path) -> None:
    """`qwenctl check --verify full`: files, bytes and rate; also in JSON."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        daemon.stop()
        said = qwenctl(daemon, "check", REPO, "--verify", "full")
        told = qwenctl(daemon, "check", REPO, "--verify", "full", "--json")
        assert (said.returncode, told.returncode) == (0, 0), said.stderr + told.stderr
        assert f"hashed {len(FILES)} files, 45.1 MB in " in said.stderr
        hashed = json.loads(told.stdout)["hashed"]
        assert (hashed["files"], hashed["size_bytes"]) == (len(FILES), SIZE_BYTES) and hashed["rate_bps"] > 0
