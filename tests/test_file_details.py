"""What the daemon tells of one file on request, and that what it tells of all of them never runs backwards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.client import Client, DaemonRefused
from qwen_api.commands import FileDetails
from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running

MODEL, KEY = "org/name", "org--name"
MIB = 1 << 20
WEIGHTS = "model.safetensors"
LARGE = safetensors("w", floats=3 * MIB)  # 12 MiB
FILES = {**transformers_model("Qwen2ForCausalLM"), WEIGHTS: LARGE, "a folder/b#c.dat": b"b" * (2 * MIB)}
GATE_AT = 9 * MIB + 12345


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=MODEL, files=FILES))) as hub:
        yield hub


def details(daemon: Running, path: str = WEIGHTS) -> FileDetails:
    return daemon.client.file(KEY, path)


def test_a_file_under_way_says_where_its_bytes_are_and_come_from(hub: SimHub, tmp_path: Path) -> None:
    """What has come, what is on record, how far the hash is, which connections are open, and who really serves it."""
    gate = hub.gate(WEIGHTS, GATE_AT)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.durable_bytes == GATE_AT for p in daemon.seen(e.FileProgress)), "durable")
        daemon.wait_for(lambda: details(daemon).whereabouts.hashed_bytes >= 8 * MIB, "hashed")
        told = details(daemon)
        where = told.whereabouts
        assert (told.model, told.file.path, told.file.size_bytes) == (KEY, WEIGHTS, len(LARGE))
        assert where.present == ((0, GATE_AT),)
        assert (where.durable_bytes, where.has_ranges) == (GATE_AT, True)
        assert GATE_AT >= where.hashed_bytes >= 8 * MIB
        assert (where.endpoint, where.host) == (hub.endpoint, hub.cdn_endpoint.removeprefix("http://"))
        assert all(each.start <= each.position < each.end for each in where.connections)
        assert GATE_AT in [each.position for each in where.connections]
        assert Client(daemon.control.with_name("events.sock")).file(KEY, WEIGHTS).model == KEY, "it is a question"
        hub.open_gates()
        daemon.wait_complete(KEY)


def test_a_file_that_rests_says_what_is_on_record(hub: SimHub, tmp_path: Path) -> None:
    """Paused in its middle it has no connection, and everything that came."""
    gate = hub.gate(WEIGHTS, GATE_AT)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.received_bytes == GATE_AT for p in daemon.seen(e.FileProgress)), "received")
        daemon.client.pause_files(KEY, [WEIGHTS])
        daemon.wait_state(KEY, "incomplete")
        where = details(daemon).whereabouts
        assert (where.present, where.durable_bytes, where.connections) == (((0, GATE_AT),), GATE_AT, ())
        assert details(daemon, "a folder/b#c.dat").file.is_verified


def test_what_is_not_wanted_is_refused_with_the_path_of_that_name(hub: SimHub, tmp_path: Path) -> None:
    """404; but for a typo nobody compares thousands of paths on the question of a stranger, however long it is."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        daemon.wait_complete(KEY)
        fixes = []
        for word in ("b#c.dat", "modle.safetensors", "x" * 4000):
            with pytest.raises(DaemonRefused) as refused:
                details(daemon, word)
            assert refused.value.problem.code == "E_UNKNOWN_FILE"
            fixes.append(refused.value.problem.fix)
        assert fixes[0] == "did you mean: a folder/b#c.dat"
        assert not any("did you mean" in fix for fix in fixes[1:])


def test_no_count_runs_backwards_over_retries_and_pauses(hub: SimHub, tmp_path: Path) -> None:
    """On disk and from the network: a try that ends, its successor that reads again, and the next round."""
    hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, at_byte=3 * MIB + 7, times=1))
    gate = hub.gate(WEIGHTS, GATE_AT)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.durable_bytes == GATE_AT for p in daemon.seen(e.FileProgress)), "durable")
        daemon.client.pause(KEY)
        daemon.wait_state(KEY, "paused")
        hub.open_gates()
        daemon.client.resume(KEY)
        daemon.wait_complete(KEY)
        starts = [told.offset_bytes for told in daemon.seen(e.FileStarted, path=WEIGHTS)]
        assert starts[0] == 0 and starts[-1] == GATE_AT
        progress = daemon.seen(e.FileProgress, path=WEIGHTS)
        for counts in ([told.done_bytes for told in progress], [told.received_bytes for told in progress]):
            assert [pair for pair in pairwise(counts) if pair[0] > pair[1]] == []
        assert progress[-1].received_bytes == hub.log.bytes_served(WEIGHTS) == len(LARGE)
