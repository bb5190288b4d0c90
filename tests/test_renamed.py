"""A wanted repository that is renamed on the Hub, before or during its download: nobody has to do anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.seals import read_ready
from tests import canary
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running

REPO, KEY, NAME, WEIGHTS = "org/old", "org--old", "other/new", "model.safetensors"
MIB = 1 << 20
FILES = {**transformers_model("Qwen2ForCausalLM"), WEIGHTS: safetensors("w", floats=2 * MIB)}


@pytest.mark.fault("H54", "T1")
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_renamed_repository_is_followed_and_told_once(tmp_path: Path, when: str) -> None:
    """With the token, on the same origin; the files, the state and the cache keep the name that was asked for."""
    repo = SimRepo(id=REPO, files=FILES, private=True)
    with ThreadedSimHub(SimHub(repo, tokens=[canary.TOKEN])) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        if when == "before":
            gate.open()
            hub.rename(REPO, NAME)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            if when == "during":
                gate.wait_reached()
                hub.rename(REPO, NAME)
                hub.expire_urls()
                daemon.kill()
                gate.open()
                daemon.start()
            path = Path(daemon.wait_complete(KEY).path)
            assert {name: (path / name).read_bytes() for name in FILES} == FILES
            assert path.is_relative_to(daemon.cache / "models--org--old")
            assert [(told.repo, told.name) for told in daemon.seen(e.HubRenamed)] == [(REPO, NAME)]
            assert f"name={NAME}" in daemon.stderr and set(daemon.status.models) == {KEY}
            ready = read_ready(places.ready_file(daemon.state_dir, KEY))
            assert ready is not None and ready.repo == REPO
            said = canary.run(["qwenctl", "events", "--since", "0", "--no-follow"], env=daemon.env)
            assert NAME in said.stdout, said
        asked = [request for request in hub.log.requests(server="hub") if request.repo == NAME]
        assert asked and all(request.had_authorization for request in asked)
        assert hub.log.leaks(canary.TOKEN) == []


@pytest.mark.fault("H54", "H32", "T1")
def test_a_rename_to_another_origin_is_refused(tmp_path: Path) -> None:
    """Nobody but the endpoint says what a model consists of: told with where it points, and nothing is asked there."""
    with ThreadedSimHub(SimHub(SimRepo(id=NAME, files=FILES))) as other:
        hub = SimHub(SimRepo(id=REPO, files=FILES))
        hub.rename(REPO, NAME)
        hub.moved_to = other.endpoint
        with ThreadedSimHub(hub), Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            told = daemon.wait_state(KEY, "failed")
            assert told.code == "E_REDIRECT" and other.endpoint in told.detail
        assert other.log.requests() == []
