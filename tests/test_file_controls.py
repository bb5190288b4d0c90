"""Single files paused, resumed, tried now and put first, in a daemon at work on a simulated Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Client, DaemonRefused
from qwen_api.commands import AddModel, LoaderReport
from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running
from tests.test_api import curl, needs_curl
from tests.test_controls import NOBODY

MODEL, KEY = "org/name", "org--name"
MIB = 1 << 20
WEIGHTS = "model.safetensors"
LARGE = safetensors("w", floats=3 * MIB)  # 12 MiB
FILES = {
    **transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: LARGE,
    "one/w.dat": b"1" * (3 * MIB),
    "two/a.dat": b"a" * (2 * MIB),
    "two/b.dat": b"b" * (2 * MIB),
}
ONE_AT_A_TIME = "[network]\nmax_files = 1\n"
PAUSED = "E_FILES_PAUSED"


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=MODEL, files=FILES))) as hub:
        yield hub


def started(daemon: Running, after: int = 0) -> list[str]:
    """The large files, in the order in which they were begun."""
    return [event.path for event in daemon.seen(e.FileStarted, after=after) if len(FILES[event.path]) > MIB]


def test_a_paused_file_gives_its_slot_away_and_goes_on_where_it_was(hub: SimHub, tmp_path: Path) -> None:
    """Its connections end at once, what came is on record, the others go on; the model says why it is incomplete."""
    gate = hub.gate(WEIGHTS, 9 * MIB + 12345)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL], config=ONE_AT_A_TIME) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.received_bytes == gate.at_byte for p in daemon.seen(e.FileProgress)), "received")
        assert started(daemon)[-1] == WEIGHTS, "it has the one slot"
        taken = daemon.client.pause_files(KEY, [WEIGHTS])
        assert taken.files == (WEIGHTS,)
        assert daemon.wait_event(e.FilesPaused).paths == (WEIGHTS,)
        told = daemon.wait_state(KEY, "incomplete")
        assert (told.code, told.detail) == (PAUSED, "1 file paused by you")
        assert daemon.seen(e.FileFailed) == daemon.seen(e.FileRetry) == []
        file = daemon.model(KEY).files[WEIGHTS]
        assert (file.paused, file.state, file.done_bytes) == (True, "queued", gate.at_byte)
        assert all(f.is_verified for path, f in daemon.model(KEY).files.items() if path != WEIGHTS)
        hub.open_gates()
        mark = daemon.mark
        daemon.client.resume_files(KEY, ["*.safetensors"])
        daemon.wait_complete(KEY, after=mark)
        assert daemon.seen(e.FileResumed, after=mark)[-1].kept_bytes == gate.at_byte
        assert hub.log.bytes_twice(WEIGHTS) == 0 and hub.log.bytes_served(WEIGHTS) == len(LARGE)


def test_what_is_resumed_while_others_are_fetched_goes_on_in_the_same_round(hub: SimHub, tmp_path: Path) -> None:
    """It does not wait for their end; and pausing, resuming and pausing again in one breath ends paused."""
    hub.gate("two/b.dat", MIB)
    gate = hub.gate(WEIGHTS, 9 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        gate.wait_reached()
        for verb in ("pause", "resume", "pause"):
            getattr(daemon.client, f"{verb}_files")(KEY, [WEIGHTS])
        daemon.wait_for(lambda: len(daemon.seen(e.FilesPaused)) == 2, "the second pause")
        daemon.wait_for(lambda: daemon.model(KEY).files["one/w.dat"].is_verified, "the others go on")
        assert daemon.model(KEY).files[WEIGHTS].paused
        gate.open()
        daemon.client.resume_files(KEY, [WEIGHTS])
        daemon.wait_event(e.FileVerified, path=WEIGHTS)
        assert daemon.model(KEY).state == "downloading" and len(daemon.seen(e.ModelChecked)) == 1
        hub.open_gates()
        daemon.wait_complete(KEY)


def test_a_pause_ends_with_the_daemon_as_a_models_does(hub: SimHub, tmp_path: Path) -> None:
    """Nothing that a person forgot keeps a model incomplete for ever; until then it outlives rounds and retries."""
    gate = hub.gate(WEIGHTS, MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        gate.wait_reached()
        daemon.client.pause_files(KEY, ["*.safetensors", "two/"])
        assert daemon.wait_state(KEY, "incomplete").detail == "3 files paused by you"
        hub.open_gates()
        mark = daemon.mark
        daemon.client.retry(KEY)
        daemon.wait_state(KEY, "incomplete", after=mark)
        assert started(daemon, mark) == []
        assert daemon.stop() == 0
        daemon.start()
        daemon.wait_complete(KEY)


def test_pausing_a_file_that_is_here_changes_nothing_until_it_is_damaged(hub: SimHub, tmp_path: Path) -> None:
    """The model stays complete; what would have to be fetched is not."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        path = Path(daemon.wait_complete(KEY).path) / "one/w.dat"
        daemon.client.pause_files(KEY, ["one/*"])
        daemon.wait_event(e.FilesPaused)
        assert daemon.model(KEY).state == "complete"
        mark = daemon.mark
        path.resolve().unlink()
        assert daemon.wait_state(KEY, "incomplete", after=mark).code == PAUSED
        assert hub.log.bytes_twice() == 0
        daemon.client.resume_files(KEY, ["one/w.dat"])
        daemon.wait_complete(KEY, after=mark)


@pytest.mark.parametrize("named", [MODEL, f"{MODEL}@main", f"{MODEL}@{'c' * 40}"])
def test_files_are_begun_by_priority_then_in_the_loaders_order(hub: SimHub, tmp_path: Path, named: str) -> None:
    """From the next free slot on; without a word the largest component goes first."""
    gate = hub.gate(WEIGHTS, MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL], config=ONE_AT_A_TIME) as daemon:
        gate.wait_reached()
        daemon.client.prioritise_files(KEY, ["two/b.dat"], 5)
        told = daemon.wait_event(e.FilesPrioritised)
        assert (told.paths, told.priority) == (("two/b.dat",), 5)
        loaders = Client(places.events_socket(daemon.control))
        loaders.report_loader("app", LoaderReport(state="waiting", model=named, components=("one", "two")))
        assert daemon.wait_event(e.LoaderChanged).components == ("one", "two")
        hub.open_gates()
        daemon.wait_complete(KEY)
        assert started(daemon) == [WEIGHTS, "two/b.dat", "one/w.dat", "two/a.dat"]
        assert daemon.model(KEY).files["two/b.dat"].priority == 5


def test_by_itself_the_largest_component_goes_first(hub: SimHub, tmp_path: Path) -> None:
    """And its files by name."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL], config=ONE_AT_A_TIME) as daemon:
        daemon.wait_complete(KEY)
        assert started(daemon) == [WEIGHTS, "two/a.dat", "two/b.dat", "one/w.dat"]


def test_what_an_important_model_waits_for_is_fetched_as_its_own(tmp_path: Path) -> None:
    """A model of low priority holds a content that one of high priority wants too: those between do not go first."""
    config, shared = transformers_model("Qwen2ForCausalLM"), b"s" * (2 * MIB)
    repos = {
        "org/low": {"a.dat": b"a" * (2 * MIB), "shared.dat": shared},
        "org/middle": {"m.dat": b"m" * (2 * MIB)},
        "org/high": {"shared.dat": shared},
    }
    weights = safetensors("w")
    sim = SimHub(*(SimRepo(id=id, files={**config, WEIGHTS: weights, **files}) for id, files in repos.items()))
    with ThreadedSimHub(sim) as hub:
        gate = hub.gate("a.dat", MIB)
        with Running(tmp_path, endpoint=hub.endpoint, config=ONE_AT_A_TIME) as daemon:
            for priority, model in ((-1, "org/low"), (0, "org/middle"), (5, "org/high")):
                daemon.client.add(AddModel(model=model, priority=priority))
                daemon.wait_event(e.ModelPlanned, model=model.replace("/", "--"))
                gate.wait_reached()
            mark = daemon.mark
            gate.open()
            for model in ("low", "middle", "high"):
                daemon.wait_complete(f"org--{model}")
            begun = [(event.model, event.path) for event in daemon.seen(e.FileStarted, after=mark)]
            between = [index for index, (model, _) in enumerate(begun) if model == "org--middle"]
            assert begun.index(("org--low", "shared.dat")) < min(between)
            assert daemon.seen(e.FileAdopted, model="org--high", path="shared.dat")


def test_a_failed_file_is_tried_again_while_others_are_fetched(hub: SimHub, tmp_path: Path) -> None:
    """Now does not mean after hours of other files: a file and the model can both be told to."""
    hub.gate(WEIGHTS, MIB)
    hub.faults.add(Fault(kinds.Status(code=403), path="*.dat", times=3))
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        daemon.wait_for(lambda: len(daemon.seen(e.FileFailed)) == 3, "three failures")
        daemon.client.retry_files(KEY, ["one/w.dat"])
        daemon.wait_event(e.FileVerified, path="one/w.dat")
        daemon.client.retry(KEY)
        daemon.wait_event(e.FileVerified, path="two/a.dat")
        daemon.wait_event(e.FileVerified, path="two/b.dat")
        assert daemon.model(KEY).state == "downloading"
        hub.open_gates()
        daemon.wait_complete(KEY)


def test_a_failed_file_that_is_paused_is_no_failure(hub: SimHub, tmp_path: Path) -> None:
    """Once it is paused the model needs no person any more: it says what is paused."""
    hub.faults.add(Fault(kinds.Status(code=403), path="one/*", times=None))
    with Running(tmp_path, endpoint=hub.endpoint, models=[MODEL]) as daemon:
        daemon.wait_state(KEY, "failed")
        daemon.client.pause_files(KEY, ["one/w.dat"])
        assert daemon.wait_state(KEY, "incomplete").code == PAUSED
        file = daemon.model(KEY).files["one/w.dat"]
        assert (file.state, file.code, file.paused) == ("missing", "", True)


@needs_curl
@pytest.mark.parametrize(
    ("method", "verb", "body", "status", "told"),
    [
        ("POST", "pause", '{"paths": ["one/v.dat"]}', 404, "did you mean: one/w.dat"),
        ("POST", "pause", '{"paths": ["*.json", "none/*"]}', 404, "none/*"),
        ("POST", "resume", '{"paths": []}', 400, "E_USAGE"),
        ("POST", "resume", "{}", 400, "E_USAGE"),
        ("POST", "retry", '{"paths": [""]}', 400, "E_USAGE"),
        ("POST", "retry", '{"paths": "one/w.dat"}', 400, "E_USAGE"),
        ("POST", "pause", '{"paths": ["*"], "url": "http://x"}', 400, "url"),
        ("PUT", "priority", '{"paths": ["*"]}', 400, "priority"),
        ("PUT", "priority", '{"paths": ["*"], "priority": 101}', 400, "E_USAGE"),
        ("POST", "remove", '{"paths": ["*"]}', 405, "E_HTTP"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    complete: Running, method: str, verb: str, body: str, status: int, told: str
) -> None:
    """With a problem that says what is wrong; nobody may command on the socket for questions."""
    url = f"/v1/models/{KEY}/files/{verb}"
    before = complete.client.state()
    answered, kind, problem = curl(complete, url, "-X", method, "-d", body)
    assert (answered, kind.partition(";")[0]) == (status, "application/problem+json")
    assert told in problem.decode()
    assert curl(complete, url, "-X", method, "-d", body, control=False)[0] == 403
    assert complete.client.state().models == before.models


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with a complete model; tests leave it as it was."""
    with (
        ThreadedSimHub(SimHub(SimRepo(id=MODEL, files=FILES))) as hub,
        Running(tmp_path_factory.mktemp("complete"), endpoint=hub.endpoint, models=[MODEL]) as daemon,
    ):
        daemon.wait_complete(KEY)
        yield daemon


def test_a_command_says_which_files_it_was_about(complete: Running) -> None:
    """All that were meant, also those of which it was true already; what changed is told in one event."""
    mark = complete.mark
    complete.client.pause_files(KEY, ["two/*"])
    taken = complete.client.pause_files(KEY, ["two/*", "one/w.dat"])
    assert taken.files == ("one/w.dat", "two/a.dat", "two/b.dat")
    complete.wait_event(e.FilesPaused, after=mark, paths=("one/w.dat",))
    assert complete.client.resume_files(KEY, ["*"]).seq == complete.client.state().seq
    assert not any(file.paused for file in complete.client.state().models[KEY].files.values())


def test_files_that_are_not_known_yet_cannot_be_meant(tmp_path: Path) -> None:
    """No Hub has answered: the refusal says so, and that of an unknown model is as ever."""
    with Running(tmp_path, endpoint=NOBODY, models=[MODEL]) as daemon:
        with pytest.raises(DaemonRefused) as refused:
            daemon.client.pause_files(KEY, ["*"])
        assert (refused.value.problem.status, refused.value.problem.code) == (409, "E_FILES_UNKNOWN")
        with pytest.raises(DaemonRefused) as refused:
            daemon.client.retry_files("x--y", ["*"])
        assert refused.value.problem.code == "E_UNKNOWN_MODEL"
