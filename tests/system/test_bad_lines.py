"""Lines as they are outside: packets lost, a connection gone silent, a cable out, names that nobody knows for a while.

The kernel does it: nftables drops, tbf slows, `ip link` pulls the plug, in a network of the test's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api import events as e
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running
from tests.syscalls import FILES, MIB, REPO, SIM, WEIGHTS, Job
from tests.system import network

pytestmark = pytest.mark.system
KEY = "org--one"
CONFIG = "[disk]\nreserve_bytes = 0\n[network]\nread_timeout_s = 2\nconnect_timeout_s = 2\n"
LITTLE = FILES | {WEIGHTS: model_folder.safetensors("w", floats=MIB // 4)}
QUESTIONS = 4  # of one look-up: both families, with and without the machine's own domain
SLOW = ("tbf", "rate", "1600kbit", "burst", "32kb", "latency", "400ms")  # 200 kB/s


def is_right(complete: e.ModelComplete) -> bool:
    return all((Path(complete.path) / path).read_bytes() == content for path, content in FILES.items())


def is_calm(daemon: Running) -> bool:
    """Nothing was given up, and nothing was a surprise."""
    states = {event.state for event in daemon.seen(e.ModelStateChanged)}
    return not daemon.seen(e.FileFailed) and "failed" not in states and "Traceback" not in daemon.stderr


@pytest.mark.fault("N1", "K1")
def test_a_poor_line_costs_time_only(tmp_path: Path) -> None:
    """200 kB/s and every twentieth packet lost, either way; killed half-way: no byte on record comes again."""
    with network.own_network(), ThreadedSimHub(SimHub(SimRepo(id=REPO, files=LITTLE))) as hub:
        network.run("tc", "qdisc", "add", "dev", "lo", "root", *SLOW)
        with network.rule("meta l4proto tcp numgen random mod 100 < 5 drop"):
            job = Job(tmp_path, hub, LITTLE)
            with job.start() as process:
                hub.wait_reached(WEIGHTS, len(LITTLE[WEIGHTS]) // 2)
                process.kill()
            job.look()
            assert job.run() == 0, job.daemon.stderr
            job.check_done()


@pytest.mark.fault("H25")
def test_what_came_before_the_line_went_silent_is_kept(tmp_path: Path) -> None:
    """The kernel lets one MiB more through and then nothing, without a word; the next try asks for the rest only."""
    with network.own_network(), ThreadedSimHub(SimHub(SIM)) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=CONFIG) as daemon:
            gate.wait_reached()
            with network.rule(f"tcp sport {network.port(hub.cdn_endpoint)} quota over {MIB} bytes drop"):
                gate.open()
                daemon.wait_event(e.FileRetry, path=WEIGHTS, code="E_STALLED")
                before = len(hub.log.served(path=WEIGHTS))
            assert is_right(daemon.wait_complete(KEY))
            asked_again = sum(served.end - served.start for served in hub.log.served(path=WEIGHTS)[before:])
            kept_bytes = daemon.seen(e.FileResumed, path=WEIGHTS)[0].kept_bytes
            assert MIB <= kept_bytes <= len(FILES[WEIGHTS]) - asked_again and is_calm(daemon)


@pytest.mark.fault("N2")
def test_a_cable_that_was_out_is_no_failure_and_brings_no_burst(tmp_path: Path) -> None:
    """Out until two tries have failed, then in: it goes on by itself, and asks no more than it would have anyway."""
    with network.own_network(), ThreadedSimHub(SimHub(SIM)) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=CONFIG) as daemon:
            gate.wait_reached()
            asked = len(hub.log.requests())
            network.run("ip", "link", "set", "lo", "down")
            gate.open()
            daemon.wait_for(lambda: len(daemon.seen(e.FileRetry, path=WEIGHTS)) == 2, "two failed tries")
            assert len(hub.log.requests()) == asked, "nothing passes"
            assert daemon.client.state().models[KEY].state == "downloading"
            network.run("ip", "link", "set", "lo", "up")
            assert is_right(daemon.wait_complete(KEY)) and is_calm(daemon)
            assert len(hub.log.requests()) - asked <= asked


@pytest.mark.fault("H29")
def test_names_that_nobody_knows_for_a_while_stop_nobody(tmp_path: Path) -> None:
    """A name server that is silent, then refuses: said in words, asked a few times with growing pauses; whoever asks
    the daemon is answered while it waits; known again, it goes on by itself.
    """
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    with network.own_network(resolv_conf), network.NameServer() as names, ThreadedSimHub(SimHub(SIM)) as hub:
        endpoint = f"http://hub.lan:{network.port(hub.endpoint)}"
        names.say(None)
        with Running(tmp_path / "daemon", endpoint=endpoint, models=[REPO]) as daemon:
            names.next_question.wait()
            assert daemon.client.state().models[KEY].code == "", "answered before the question is"
            mark = 0
            for code in (network.REFUSED, network.FINE):
                said = daemon.wait_event(e.ModelStateChanged, model=KEY, code="E_NETWORK", after=mark)
                assert "its name could not be looked up" in said.detail and said.retry_at
                mark = daemon.mark
                names.say(code)
            assert names.asked <= 2 * QUESTIONS
            assert is_right(daemon.wait_complete(KEY)) and is_calm(daemon)
