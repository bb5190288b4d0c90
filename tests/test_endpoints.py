"""The Hub and mirrors beside it: one dies, lies, lacks files or dawdles, and another goes on at the same byte.

Real servers: Hub simulators, and `qwen-daemon mirror` in a process of its own. What the decisions are in detail stands
in test_endpoint_order.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_daemon.config import ConfiguredModel
from qwen_daemon.endpoint_keys import Named
from qwen_daemon.endpoints import token_of
from tests import canary
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

MIB = 1 << 20
REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
SMALL = model_folder.transformers_model("Qwen2ForCausalLM")
LARGE = model_folder.safetensors("w", floats=24 * MIB)  # 96 MiB: several connections
FILES = {**SMALL, WEIGHTS: model_folder.safetensors("w", floats=5 * MIB)}  # 20 MiB: one connection
QWENCTL = str(Path(sys.executable).with_name("qwenctl"))
MIRROR = "import sys; from qwen_daemon.mirror.command import main; sys.exit(main(sys.argv[1:]))"
HUB_TOKEN, LAN_TOKEN, OTHER_TOKEN = "hf_canaryHub00000000", "canary-lan", "canary-other"


@contextmanager
def hubs(count: int, files: dict[str, bytes] = FILES) -> Iterator[list[SimHub]]:
    """So many simulators with the same model."""
    simulators = [SimHub(SimRepo(id=REPO, files=files)) for _ in range(count)]
    threads = [ThreadedSimHub(simulator) for simulator in simulators]
    for thread in threads:
        thread.__enter__()
    try:
        yield simulators
    finally:
        for thread in threads:
            thread.__exit__(None, None, None)


@pytest.fixture
def lan_and_hub() -> Iterator[tuple[SimHub, SimHub]]:
    with hubs(2) as (lan, hub):
        yield lan, hub


def config(more: str = "", **mirrors: str) -> str:
    """Mirrors by name, and what else the file says."""
    lines = [f'{name} = "{url}"' for name, url in mirrors.items()]
    return "\n".join([more, "[mirrors]", *lines, "[disk]", "reserve_bytes = 0\n"])


def beside(tmp_path: Path, lan: SimHub, hub: SimHub, more: str = "", files: str = "") -> Running:
    """A daemon that asks `lan` before `hub`."""
    return Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=config(more, lan=lan.endpoint) + files)


def sources(daemon: Running, path: str = WEIGHTS) -> list[str]:
    return [event.endpoint for event in daemon.seen(e.FileSource, path=path)]


def is_right(complete: e.ModelComplete, files: dict[str, bytes] = FILES) -> bool:
    return all((Path(complete.path) / path).read_bytes() == content for path, content in files.items())


def test_a_mirror_is_asked_for_bytes_and_the_hub_for_what_they_should_be(
    lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path
) -> None:
    """Two lines of configuration: every byte from the mirror, sizes and hashes from the Hub."""
    lan, hub = lan_and_hub
    with beside(tmp_path, lan, hub) as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert hub.log.bytes_served() == 0 and lan.log.bytes_served() == sum(map(len, FILES.values()))
        assert lan.log.requests(path="tree/*") == [] and hub.log.requests(path="tree/*") != []
        assert sources(daemon) == ["lan"] and daemon.model(KEY).files[WEIGHTS].endpoint == "lan"
        assert {name: endpoint.state for name, endpoint in daemon.status.endpoints.items()} == {
            "lan": "ok",
            "hub": "ok",
        }


def test_one_endpoint_is_not_spoken_of(tmp_path: Path) -> None:
    """Nothing of this is seen by those who have no mirror."""
    with hubs(1) as (hub,), Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileSource) == [] and daemon.seen(e.EndpointChanged) == []


@pytest.mark.fault("H5", "H8", "H24", "H25")
@pytest.mark.parametrize(
    "breaks",
    [kinds.Reset(), kinds.CloseEarly(), kinds.Stall(), kinds.ChunkedTruncated()],
    ids=lambda kind: type(kind).__name__,
)
def test_the_other_goes_on_at_the_byte_where_one_broke_off(
    lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path, breaks: kinds.Kind
) -> None:
    """Within the same try: no retry, no byte twice over both servers together."""
    lan, hub = lan_and_hub
    at = 7 * MIB + 3
    lan.faults.add(Fault(breaks, path=WEIGHTS, at_byte=at))
    with beside(tmp_path, lan, hub, files="[network]\nread_timeout_s = 1\n") as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert daemon.seen(e.FileRetry) == []
        assert sources(daemon) == ["lan", "hub"]
        assert [served.start for served in hub.log.served(path=WEIGHTS, server="cdn")] == [at]
        assert lan.log.bytes_served(WEIGHTS) + hub.log.bytes_served(WEIGHTS) == len(FILES[WEIGHTS])
        told = daemon.seen(e.EndpointChanged, state="aside")[0]
        assert told.endpoint == "lan" and told.code in ("E_CUT_SHORT", "E_STALLED") and told.retry_at


@pytest.mark.fault("H24")
def test_a_mirror_that_is_killed_in_mid_file(tmp_path: Path) -> None:
    """A real one, over several connections, with SIGKILL: the Hub brings what is left, and nothing else."""
    with hubs(1, {**SMALL, WEIGHTS: LARGE}) as (hub,):
        with Running(tmp_path / "first", endpoint=hub.endpoint, models=[REPO]) as first:
            first.wait_complete(KEY)
        hub.log.clear()
        with a_mirror(first.cache, "--rate-limit", "40M") as (process, url):
            settings = config("", lan=url)
            with Running(tmp_path / "second", endpoint=hub.endpoint, models=[REPO], config=settings) as daemon:
                daemon.wait_for(partial(has_received, daemon, 8 * MIB), "progress from the mirror")
                assert sources(daemon) == ["lan"] and hub.log.bytes_served(WEIGHTS) == 0
                process.send_signal(signal.SIGKILL)
                assert is_right(daemon.wait_complete(KEY), {**SMALL, WEIGHTS: LARGE})
                assert daemon.seen(e.FileRetry) == []
                assert sources(daemon)[-1] == "hub" and hub.log.bytes_twice() == 0
                assert hub.log.bytes_served(WEIGHTS) < len(LARGE) - 8 * MIB
                verified = daemon.seen(e.FileVerified, path=WEIGHTS)[0]
                assert verified.received_bytes - len(LARGE) < MIB, "but for what was on its way when a lease was shared"


def has_received(daemon: Running, count: int) -> bool:
    return any(told.received_bytes >= count for told in daemon.seen(e.FileProgress, path=WEIGHTS))


@contextmanager
def a_mirror(cache: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`qwen-daemon mirror` of a cache: its process and its address."""
    command = [sys.executable, "-c", MIRROR, str(cache), "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


REFUSALS: dict[str, kinds.Kind] = {
    "absent": kinds.Status(code=404),
    "entry": kinds.EntryVanished(),
    "forbidden": kinds.Status(code=403),
    "unauthorised": kinds.Status(code=401),
    "down": kinds.Status(code=502),
    "busy": kinds.RetryAfter(seconds=3600),
    "other hash": kinds.Status(code=302, headers={"x-linked-etag": f'"{"0" * 64}"', "location": "/x"}),
    "other size": kinds.Status(code=302, headers={"x-linked-size": "1", "location": "/x"}),
    "portal": kinds.Status(code=200, headers={"content-type": "text/html"}, body=b"<html>log in"),
    "circle": kinds.RedirectLoop(),
}


@pytest.mark.fault("H38")
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_mirror_that_refuses_or_lies_is_no_failure_of_the_file(
    lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path, refusal: str
) -> None:
    """Whatever it answers, also what one endpoint alone would need a person for: the Hub brings the file at once."""
    lan, hub = lan_and_hub
    lan.faults.add(Fault(REFUSALS[refusal], on="resolve"))
    with beside(tmp_path, lan, hub) as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert daemon.seen(e.FileRetry) == [] and daemon.seen(e.FileFailed) == []
        assert sources(daemon) == ["hub"] and lan.log.bytes_served() == 0


def test_a_refusal_of_the_hub_is_none_while_a_mirror_has_the_file(
    lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path
) -> None:
    """The Hub's licence gate opens for nobody here, and it is asked first; the mirror lists and serves."""
    lan, hub = lan_and_hub
    hub.faults.add(Fault(kinds.Status(code=403, headers={"x-error-code": "GatedRepo"}), on="hub"))
    with beside(tmp_path, lan, hub, 'endpoints = ["hub", "lan"]') as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert hub.log.bytes_served() == 0 and sources(daemon) == ["lan"]


def test_what_nobody_may_read_is_told_with_everybodys_words(lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path) -> None:
    """Absent there, gated here: a person's turn, and the code is the one that a person can do something about."""
    lan, hub = lan_and_hub
    hub.faults.add(Fault(kinds.Status(code=403, headers={"x-error-code": "GatedRepo"}), on="resolve", path=WEIGHTS))
    lan.faults.add(Fault(kinds.EntryVanished(), path=WEIGHTS))
    with beside(tmp_path, lan, hub) as daemon:
        failed = daemon.wait_event(e.FileFailed)
        assert failed.code == "E_GATED" and "lan: " in failed.detail and "hub: " in failed.detail


@pytest.mark.fault("H38")
def test_bytes_with_the_wrong_hash_are_taken_from_elsewhere_next(
    lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path
) -> None:
    """Sizes and names were right, so the lie shows at the last byte: the next try asks the other endpoint first."""
    lan, hub = lan_and_hub
    lan.faults.add(Fault(kinds.Corrupt(), path=WEIGHTS))
    with beside(tmp_path, lan, hub) as daemon:
        assert daemon.wait_event(e.FileRetry).code == "E_CORRUPT"
        daemon.client.retry(KEY)
        assert is_right(daemon.wait_complete(KEY))
        assert sources(daemon) == ["lan", "hub"] and len(daemon.seen(e.FileRetry)) == 1
        assert daemon.seen(e.EndpointChanged, endpoint="lan", state="aside")[0].code == "E_CORRUPT"


@pytest.mark.fault("H24")
def test_a_dead_mirror_costs_one_refused_connection(tmp_path: Path) -> None:
    """It is set aside; the files that follow do not ask it, and it is told once."""
    with hubs(2) as (lan, hub):
        with ThreadedSimHub(SimHub()) as dead:
            gone = dead.endpoint
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO], config=config("", lan=gone))
        with daemon:
            assert is_right(daemon.wait_complete(KEY))
            (aside,) = daemon.seen(e.EndpointChanged, state="aside")
            assert (aside.endpoint, aside.code, aside.url) == ("lan", "E_NETWORK", gone)
            assert "endpoint.changed" in daemon.stderr and aside.retry_at > aside.ts
            told = canary.run([QWENCTL, "status"], env=daemon.env).stdout
            assert f"Endpoint lan  {gone}  set aside until " in told and "connection refused" in told
            assert f"Endpoint hub  {hub.endpoint}  ok" in told
        assert lan.log.requests() == []


def test_a_model_may_have_its_own_order_and_a_reload_changes_it(tmp_path: Path) -> None:
    """The mirror is left out for one model; SIGHUP with another file, and the next model comes from the new mirror."""
    files = {
        name: {**SMALL, WEIGHTS: model_folder.safetensors("w", floats=100, seed=seed)}
        for seed, name in enumerate(("org/one", "org/two", "org/three"))
    }
    repos = [SimRepo(id=name, files=content) for name, content in files.items()]
    first, hub, second = SimHub(*repos), SimHub(*repos), SimHub(*repos)
    with ThreadedSimHub(first), ThreadedSimHub(hub), ThreadedSimHub(second):
        wanted: list[str | AddModel] = ["org/one", ConfiguredModel(model="org/two", endpoints=("hub",))]
        with Running(tmp_path, endpoint=hub.endpoint, models=wanted, config=config("", lan=first.endpoint)) as daemon:
            daemon.wait_complete("org--one")
            daemon.wait_complete("org--two")
            assert {request.repo for request in first.log.requests()} == {"org/one"}
            assert hub.log.bytes_served(repo="org/one") == 0
            daemon.configure([*wanted, "org/three"], config("", lan=second.endpoint))
            daemon.signal(signal.SIGHUP)
            daemon.wait_complete("org--three")
            assert second.log.bytes_served(WEIGHTS, repo="org/three") == len(files["org/three"][WEIGHTS])
            assert first.log.requests(repo="org/three") == []
            mark = daemon.mark
            daemon.configure(["org/one"], config('endpoint = "http://127.0.0.1:1"'))
            daemon.wait_event(e.EndpointChanged, after=mark, endpoint="lan", state="gone")
            assert set(daemon.status.endpoints) == {"hub"}


def test_another_hub_needs_a_restart_and_says_so(tmp_path: Path) -> None:
    """The address of the Hub's own endpoint stands in too many places; the rest of the file is taken all the same."""
    with hubs(2) as (hub, other):
        settings = config(f'endpoint = "{hub.endpoint}"')
        daemon = Running(tmp_path, endpoint="", models=[REPO], config=settings)
        with daemon:
            daemon.wait_complete(KEY)
            daemon.configure([REPO], config(f'endpoint = "{other.endpoint}"'))
            daemon.wait_event(e.ConfigReloaded)
            daemon.wait_for(lambda: "config.needs_restart" in daemon.stderr, "a warning")


@pytest.mark.fault("T1")
def test_a_token_goes_to_its_own_endpoint_only(tmp_path: Path) -> None:
    """Canaries: the Hub's token, one from a file, one from a variable, and a mirror that gets none; no CDN gets any.

    For listings as for bytes: the last one that is asked for each brings it, so that all others are asked before.
    """
    (tmp_path / "lan-token").write_text(f"{LAN_TOKEN}\n")
    with hubs(4) as (lan, other, plain, hub):
        for server in (lan, other, plain):
            server.faults.add(Fault(kinds.Status(code=502), on="cdn", path=WEIGHTS))
        for server in (hub, lan, other):
            server.faults.add(Fault(kinds.Status(code=502), on="api"))
        settings = f"""
            endpoints = ["lan", "other", "plain", "hub"]
            [mirrors]
            plain = "{plain.endpoint}"
            [mirrors.lan]
            url = "{lan.endpoint}"
            token_file = "{tmp_path}/lan-token"
            [mirrors.other]
            url = "{other.endpoint}"
            token_env = "OTHER_TOKEN"
            [disk]
            reserve_bytes = 0
        """
        env = {"HF_TOKEN": HUB_TOKEN, "OTHER_TOKEN": OTHER_TOKEN}
        with Running(tmp_path / "d", endpoint=hub.endpoint, models=[REPO], config=settings, env=env) as daemon:
            assert is_right(daemon.wait_complete(KEY))
        for server, token in ((lan, LAN_TOKEN), (other, OTHER_TOKEN), (plain, None), (hub, HUB_TOKEN)):
            asked = {request.path for request in server.log.requests(server="hub")}
            assert WEIGHTS in asked and "info/main" in asked, asked
            assert {request.header("authorization") for request in server.log.requests(server="hub")} == {
                f"Bearer {token}" if token else None
            }
            assert server.log.leaks(HUB_TOKEN, LAN_TOKEN, OTHER_TOKEN) == []
        assert not any(token in daemon.stderr for token in (HUB_TOKEN, LAN_TOKEN, OTHER_TOKEN))


@pytest.mark.fault("T1", "H32")
def test_a_redirect_between_endpoints_carries_no_token(lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path) -> None:
    """A mirror that sends us to the Hub is a stranger there: whoever redirects must not spend another's token."""
    lan, hub = lan_and_hub
    there = f"{hub.endpoint}/{REPO}/resolve/{SimRepo(id=REPO, files=FILES).sha}/{WEIGHTS}"
    lan.faults.add(Fault(kinds.Redirect(to=there), on="resolve", path=WEIGHTS))
    with Running(
        tmp_path, endpoint=hub.endpoint, models=[REPO], config=config("", lan=lan.endpoint), env={"HF_TOKEN": HUB_TOKEN}
    ) as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert sources(daemon) == ["lan"]
        assert {request.had_authorization for request in hub.log.requests(server="hub", path=WEIGHTS)} == {False}
        assert {request.had_authorization for request in hub.log.requests(path="tree/*")} == {True}


def test_a_token_file_that_vanished_stops_only_its_endpoint(lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path) -> None:
    """Read when it is needed: gone after the start, the mirror is set aside with the reason."""
    lan, hub = lan_and_hub
    token = tmp_path / "token"
    token.write_text(LAN_TOKEN)
    settings = f'[mirrors.lan]\nurl = "{lan.endpoint}"\ntoken_file = "{token}"\n[disk]\nreserve_bytes = 0\n'
    with Running(tmp_path / "d", endpoint=hub.endpoint, config=settings) as daemon:
        token.unlink()
        daemon.client.add(AddModel(model=REPO))
        assert is_right(daemon.wait_complete(KEY))
        aside = daemon.seen(e.EndpointChanged, endpoint="lan", state="aside")[0]
        assert aside.code == "E_AUTH" and str(token) in aside.detail and lan.log.requests() == []


def test_a_new_token_is_taken_without_a_restart(tmp_path: Path) -> None:
    """From its file, as it is now for whoever asks seldom or was refused with the old one."""
    file = tmp_path / "token"
    file.write_text("first")
    token = token_of(Named(name="lan", url="http://lan", token_file=str(file)), {})
    assert token() == "first" and not token.renewed("first")
    file.write_text("second")
    assert token.renewed("first") and token() == "second" and not token.renewed("second")
    file.write_text("third")
    assert token.fresh() == "third" and token() == "third"
    file.unlink()
    assert not token.renewed("third"), "no other one to ask with"


def test_many_connections_ask_once_where_a_file_is(tmp_path: Path) -> None:
    """All of them opened in one moment, and again when the signed address has expired."""
    with hubs(1, {**SMALL, WEIGHTS: LARGE}) as (hub,):
        held = hub.faults.add(Fault(kinds.SlowFirstByte(), on="resolve", path=WEIGHTS, times=1))
        gate = hub.gate(WEIGHTS, 90 * MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            held.wait_hit()
            held.release()
            hub.wait_reached(WEIGHTS, 90 * MIB)
            assert len(hub.log.requests(server="hub", path=WEIGHTS)) == 1
            assert len(hub.log.requests(server="cdn", path=WEIGHTS)) > 1
            gate.open()
            assert is_right(daemon.wait_complete(KEY), {**SMALL, WEIGHTS: LARGE})
        assert len(hub.log.requests(server="hub", path=WEIGHTS)) == 1


@pytest.mark.fault("H26")
def test_a_slow_mirror_is_given_up_for_one_that_is_not(lan_and_hub: tuple[SimHub, SimHub], tmp_path: Path) -> None:
    """Silence before the first byte counts as silence in the middle: after read_timeout_s the other is asked."""
    lan, hub = lan_and_hub
    lan.faults.add(Fault(kinds.SlowFirstByte(), on="cdn", path=WEIGHTS))
    with beside(tmp_path, lan, hub, files="[network]\nread_timeout_s = 1\n") as daemon:
        assert is_right(daemon.wait_complete(KEY))
        assert sources(daemon) == ["hub"] and daemon.seen(e.FileRetry) == []
        assert daemon.seen(e.EndpointChanged, state="aside")[0].code == "E_STALLED"
