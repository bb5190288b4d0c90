"""Limits and priorities while the daemon runs: by command, by configuration, and which of the two holds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Client, DaemonRefused
from qwen_api.commands import AddModel, SetLimits
from qwen_api.status import LimitsStatus
from qwen_daemon.engine.controls import Controls, Limits
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running
from tests.test_api import curl, needs_curl

NOBODY = "http://127.0.0.1:9"  # the discard port: no Hub answers, so that models stay wanted and nothing moves
MODEL, KEY = "org/name", "org--name"
OTHER, OTHER_KEY = "org/other", "org--other"
NETWORK = "[network]\nrate_limit_bps = '5MB/s'\nmax_files = 3\nmax_connections = 5\n"


class FixedClock:
    """A clock that stands still: nothing here waits."""

    def monotonic_s(self) -> float:
        return 0.0


def controls_of(limits: Limits) -> tuple[Controls, list[e.Event], list[int]]:
    """Controls, what they publish, and what the connections' budget is told."""
    events, sizes = list[e.Event](), list[int]()

    def publish(event: e.Event) -> int:
        events.append(event)
        return len(events)

    return Controls(FixedClock(), publish, limits, sizes.append), events, sizes


def test_a_command_changes_what_it_names_and_is_told_once() -> None:
    """The budgets have their new sizes at once; the same command again says nothing."""
    controls, events, sizes = controls_of(Limits(max_files=8, max_connections=16))
    controls.set(SetLimits(rate_limit_bps=20_000_000))
    controls.set(SetLimits(max_files=2, max_connections=4))
    controls.set(SetLimits(max_files=2))
    assert events == [
        e.LimitsChanged(rate_limit_bps=20_000_000, max_files=8, max_connections=16),
        e.LimitsChanged(rate_limit_bps=20_000_000, max_files=2, max_connections=4),
    ]
    assert (controls.files.size, sizes[-1], controls.of("m").limiter.is_limited) == (2, 4, True)
    controls.set(SetLimits(rate_limit_bps=None))
    assert not controls.of("m").limiter.is_limited


def test_a_reloaded_configuration_changes_only_what_it_says_differently() -> None:
    """What was commanded stays, until the file says something new about it."""
    first = Limits(rate_limit_bps=1_000_000, max_files=8, max_connections=16)
    controls, events, _ = controls_of(first)
    controls.set(SetLimits(rate_limit_bps=2_000_000))
    controls.configure(first)
    assert controls.limits.rate_limit_bps == 2_000_000 and len(events) == 1
    controls.configure(Limits(rate_limit_bps=1_000_000, max_files=4, max_connections=16))
    assert controls.limits == Limits(rate_limit_bps=2_000_000, max_files=4, max_connections=16)
    controls.configure(Limits(max_files=4, max_connections=16))
    assert controls.limits == Limits(max_files=4, max_connections=16)


def test_a_models_controls_are_its_own_until_it_is_forgotten() -> None:
    """The same objects for whoever asks, so that a download under way feels a change; another model is not limited."""
    controls, events, _ = controls_of(Limits(max_files=8, max_connections=16))
    mine = controls.of("m")
    controls.limit("m", 500_000)
    controls.prioritise("m", 7)
    assert (mine.limit.rate_bps, mine.files.priority, mine.limiter.is_limited) == (500_000, 7, True)
    assert not controls.of("other").limiter.is_limited
    assert events == [
        e.ModelLimitsChanged(model="m", rate_limit_bps=500_000),
        e.ModelLimitsChanged(model="m", rate_limit_bps=500_000, priority=7),
    ]
    controls.forget("m")
    assert controls.of("m").limit.rate_bps is None


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with limits in its configuration and two models that no Hub gives it; tests leave it as it was."""
    models = [AddModel(model=MODEL, rate_limit_bps=1_000_000, priority=3), OTHER]
    with Running(tmp_path_factory.mktemp("controls"), endpoint=NOBODY, models=models, config=NETWORK) as daemon:
        yield daemon


def test_what_the_configuration_says_holds_from_the_start(daemon: Running) -> None:
    """And is in the state of whoever asks."""
    state = daemon.client.state()
    assert state.limits == LimitsStatus(rate_limit_bps=5_000_000, max_files=3, max_connections=5)
    assert (state.models[KEY].rate_limit_bps, state.models[KEY].priority) == (1_000_000, 3)
    assert (state.models[OTHER_KEY].rate_limit_bps, state.models[OTHER_KEY].priority) == (0, 0)


def test_commands_change_the_limits_of_the_running_daemon(daemon: Running) -> None:
    """Each shows in the stream and in the state; null is no limit; what is left out stays."""
    client, mark = daemon.client, daemon.mark
    client.set_limits(SetLimits(rate_limit_bps=None, max_connections=9))
    daemon.wait_event(e.LimitsChanged, after=mark, rate_limit_bps=0, max_files=3, max_connections=9)
    assert client.state().limits == LimitsStatus(max_files=3, max_connections=9)
    client.set_limits(SetLimits(rate_limit_bps=5_000_000, max_connections=5))
    client.limit(OTHER_KEY, 300_000)
    client.prioritise(OTHER_KEY, -2)
    daemon.wait_event(e.ModelLimitsChanged, after=mark, model=OTHER_KEY, rate_limit_bps=300_000, priority=-2)
    assert client.state().models[OTHER_KEY].rate_limit_bps == 300_000
    client.limit(OTHER_KEY, None)
    client.prioritise(OTHER_KEY, 0)
    last = daemon.wait_event(e.ModelLimitsChanged, after=mark, model=OTHER_KEY, rate_limit_bps=0, priority=0)
    assert last.seq <= client.state().seq


@needs_curl
@pytest.mark.parametrize(
    ("url", "body", "status", "code"),
    [
        ("/v1/limits", '{"rate_limit_bps": 5, "max_files": 3}', 400, "E_USAGE"),
        ("/v1/limits", '{"rate_limit_bps": "20MB/s"}', 400, "E_USAGE"),
        ("/v1/limits", '{"max_files": 0}', 400, "E_USAGE"),
        ("/v1/limits", '{"max_files": null}', 400, "E_USAGE"),
        ("/v1/limits", '{"max_connections": 65}', 400, "E_USAGE"),
        ("/v1/limits", '{"proxy": "http://x"}', 400, "E_USAGE"),
        (f"/v1/models/{KEY}/limits", "{}", 400, "E_USAGE"),
        (f"/v1/models/{KEY}/limits", '{"rate_limit_bps": 1e99}', 400, "E_USAGE"),
        (f"/v1/models/{KEY}/priority", '{"priority": 101}', 400, "E_USAGE"),
        (f"/v1/models/{KEY}/priority", '{"priority": "high"}', 400, "E_USAGE"),
        ("/v1/models/x--y/limits", '{"rate_limit_bps": null}', 404, "E_UNKNOWN_MODEL"),
        ("/v1/models/x--y/priority", '{"priority": 1}', 404, "E_UNKNOWN_MODEL"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    daemon: Running, url: str, body: str, status: int, code: str
) -> None:
    """With a problem; nobody may command on the socket for questions."""
    before = daemon.client.state()
    answered, kind, problem = curl(daemon, url, "-X", "PUT", "-d", body)
    assert (answered, kind.partition(";")[0], code in problem.decode()) == (status, "application/problem+json", True)
    assert curl(daemon, url, "-X", "PUT", "-d", body, control=False)[0] == 403
    assert daemon.client.state().limits == before.limits
    with pytest.raises(DaemonRefused):
        Client(places.events_socket(daemon.control)).set_limits(SetLimits(max_files=1))


def test_a_changed_configuration_is_taken_at_once_and_leaves_what_was_commanded(tmp_path: Path) -> None:
    """By watching the file, and on SIGHUP; a restart knows the configuration only."""
    with Running(tmp_path, endpoint=NOBODY, models=[MODEL], config=NETWORK) as daemon:
        client = daemon.client
        client.set_limits(SetLimits(rate_limit_bps=1_000_000))
        client.prioritise(KEY, 4)
        mark = daemon.mark
        daemon.configure([AddModel(model=MODEL, rate_limit_bps=700_000, priority=4)], NETWORK.replace("5\n", "7\n"))
        daemon.wait_event(e.LimitsChanged, after=mark, rate_limit_bps=1_000_000, max_files=3, max_connections=7)
        daemon.wait_event(e.ModelLimitsChanged, after=mark, model=KEY, rate_limit_bps=700_000, priority=4)
        mark = daemon.mark
        daemon.configure([AddModel(model=MODEL, rate_limit_bps=700_000, priority=4)], "")
        daemon.signal(signal.SIGHUP)
        daemon.wait_event(e.LimitsChanged, after=mark, rate_limit_bps=0, max_files=8, max_connections=16)
        daemon.wait_event(e.ConfigReloaded, after=mark)
        mark = daemon.mark
        daemon.configure([MODEL], "[network]\nrate_limit_bps = '20Mbit/s'\n")
        assert "bits" in daemon.wait_event(e.ConfigRejected, after=mark).detail
        assert client.state().models[KEY].rate_limit_bps == 700_000
        daemon.configure([MODEL], NETWORK)
        daemon.wait_event(e.LimitsChanged, after=mark, rate_limit_bps=5_000_000)
        client.set_limits(SetLimits(rate_limit_bps=None))
        client.limit(KEY, 100_000)
        assert daemon.stop() == 0
        daemon.start()
        state = client.state()
        assert (state.limits.rate_limit_bps, state.models[KEY].rate_limit_bps) == (5_000_000, 0)


def test_a_limit_holds_a_download_and_lifting_it_lets_it_go_at_once(tmp_path: Path) -> None:
    """At 10 kB/s nothing comes but what each connection reads before it asks; nothing is stalled or retried."""
    weights = safetensors("w", floats=4_000_000)
    files = {**transformers_model("Qwen2ForCausalLM"), "model.safetensors": weights}
    with (
        ThreadedSimHub(SimHub(SimRepo(id=MODEL, files=files))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[AddModel(model=MODEL, rate_limit_bps=10_000)]) as daemon,
    ):
        told = daemon.wait_event(e.FileProgress, path="model.safetensors")
        assert told.received_bytes < len(weights) // 2
        daemon.client.limit(KEY, None)
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileRetry) == daemon.seen(e.FileStalled) == []
    assert daemon.run("--once", MODEL, "--limit-rate", "fast") == 2


def test_a_model_may_be_wanted_with_its_limit_and_keeps_it(tmp_path: Path) -> None:
    """Also after a restart; wanting it again without one leaves it, and its removal ends it."""
    with Running(tmp_path, endpoint=NOBODY) as daemon:
        client = daemon.client
        client.add(AddModel(model=MODEL, rate_limit_bps=400_000, priority=2))
        client.add(AddModel(model=MODEL, include=("*.json",)))
        daemon.wait_event(e.ModelLimitsChanged, model=KEY)
        assert daemon.stop() == 0
        daemon.start()
        daemon.wait_event(e.ModelLimitsChanged, model=KEY, rate_limit_bps=400_000, priority=2)
        model = daemon.client.state().models[KEY]
        assert (model.rate_limit_bps, model.priority, model.include) == (400_000, 2, ("*.json",))
        client.remove(KEY)
        client.add(AddModel(model=MODEL))
        assert client.state().models[KEY].rate_limit_bps == 0
