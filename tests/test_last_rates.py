"""The last rate: found out from the daemon's events, kept over restarts, told by a check as the time it would take."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.last_rates import BELIEVED_S, MODELS_MAX, LastRate, recall, remember
from qwen_api.status import Status, fold
from qwen_daemon.engine.speeds import FOUND_EVERY_S, Speeds
from tests import canary
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.simulated import SimClock, run_simulated
from tests.running import Running

M, PATH = "org--one", "model.safetensors"
GB = 1_000_000_000

# What is kept


def rate(rate_bps: int, at: str = "2026-11-23T14:00:00.000Z") -> LastRate:
    return LastRate(rate_bps=rate_bps, at=at)


def test_what_was_kept_is_told_again(tmp_path: Path) -> None:
    """The model's own first, else the newest of any; nothing before the first download."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    assert recall([mine, theirs], M) is None
    remember(mine, "org--two", rate(5, "2026-11-23T15:00:00.000Z"))
    remember(theirs, "org--two", rate(6, "2026-11-23T16:00:00.000Z"))
    assert recall([mine, theirs], M) == 6
    remember(mine, M, rate(7))
    assert recall([mine, theirs], M) == 7
    remember(theirs, M, rate(8, "2026-11-23T14:00:01.000Z"))
    assert recall([mine, theirs], M) == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "[]",
        "fast",
        "[" * 9999,
        '{"m": {"at": ""}}',
        '{"m": {"rate_bps": 0, "at": ""}}',
        '{"m": {"rate_bps": -5, "at": ""}}',
        '{"m": {"rate_bps": 99999999999999999999, "at": ""}}',
        '{"\\ud800": 1}',
    ],
)
def test_what_is_no_rate_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, a check goes on, and the next rate replaces it."""
    places.last_rates_file(tmp_path).write_text(text)
    assert recall([tmp_path], M) is None
    remember(tmp_path, M, rate(9))
    assert recall([tmp_path], M) == 9


def test_a_state_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A file stands where the folder would be."""
    (tmp_path / "state").write_text("")
    remember(tmp_path / "state", M, rate(5))
    assert recall([tmp_path / "state"], M) is None


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """Those that came last are kept."""
    for number in range(MODELS_MAX + 3):
        remember(tmp_path, f"m{number}", rate(number + 1, f"2026-11-23T14:{number // 60:02}:{number % 60:02}.000Z"))
    assert places.last_rates_file(tmp_path).read_bytes().count(b"rate_bps") == MODELS_MAX
    assert recall([tmp_path], "m0") == MODELS_MAX + 3


# How it is found out


class Story:
    """Speeds that hear events, and a clock that is told how long each step takes."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.status = Status()
        self.speeds = Speeds(clock, lambda: self.status)
        listed = (e.ListedFile(path=PATH, size_bytes=99 * GB, etag="e"),)
        self.hear(
            e.ModelAdded(model=M, repo="org/one", revision="main"),
            e.ModelResolved(model=M, commit="c", files=listed, size_bytes=99 * GB),
            e.ModelStateChanged(model=M, state="downloading"),
        )

    def hear(self, *events: e.Event) -> None:
        for event in events:
            self.status = fold(self.status, event)
            self.speeds.hear(event)

    async def comes(self, seconds: float, received_bytes: int) -> None:
        await asyncio.sleep(seconds)
        self.hear(e.FileProgress(model=M, path=PATH, done_bytes=0, size_bytes=99 * GB, received_bytes=received_bytes))

    def found(self) -> dict[str, int]:
        return {model: found.rate_bps for model, found in self.speeds.take().items()}


PLANNED = e.ModelPlanned(model=M, fetch_files=1, fetch_bytes=GB, kept_bytes=0, free_bytes=GB)
ENDS: dict[str, e.Event] = {
    "complete": e.ModelComplete(model=M, repo="org/one", commit="c", path="/p", files=1, size_bytes=GB),
    "paused": e.ModelStateChanged(model=M, state="paused"),
    "failed": e.ModelStateChanged(model=M, state="waiting", code="E_NETWORK"),
    "stopped": e.DaemonStopping(),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_download_that_ends_however_tells_its_average(end: str) -> None:
    """From the plan on: the hashing before it is no network's fault."""

    async def story(clock: SimClock) -> None:
        told = Story(clock)
        await asyncio.sleep(100)
        told.hear(PLANNED)
        await told.comes(4, 1 * GB)
        await told.comes(6, 5 * GB)
        assert told.found() == {}
        told.hear(ENDS[end])
        assert told.speeds.news.is_set()
        assert told.found() == {M: GB // 2}
        told.hear(ENDS[end])
        assert told.found() == {}

    run_simulated(story, 0)


def test_a_disk_that_hangs_for_a_while_ends_no_download() -> None:
    """The model is `downloading` before, meanwhile and after; what came is counted from the plan on."""

    async def story(clock: SimClock) -> None:
        told = Story(clock)
        told.hear(PLANNED)
        await told.comes(4, 1 * GB)
        told.hear(e.ModelStateChanged(model=M, state="downloading", code="E_DISK_STUCK"))
        told.hear(e.ModelStateChanged(model=M, state="downloading"))
        await told.comes(6, 5 * GB)
        told.hear(ENDS["complete"])
        assert told.found() == {M: GB // 2}

    run_simulated(story, 0)


def test_a_second_download_counts_its_own_bytes_and_a_short_one_none() -> None:
    """What came before its plan came at another speed."""

    async def story(clock: SimClock) -> None:
        told = Story(clock)
        told.hear(PLANNED)
        await told.comes(BELIEVED_S - 1, GB)
        told.hear(ENDS["failed"], e.ModelStateChanged(model=M, state="downloading"))
        assert told.found() == {}
        told.hear(PLANNED)
        await told.comes(10, 3 * GB)
        told.hear(ENDS["complete"])
        assert told.found() == {M: 2 * GB // 10}

    run_simulated(story, 0)


def test_a_long_download_is_found_out_on_the_way() -> None:
    """A power cut must not take an evening's knowledge; a model that is gone says nothing more."""

    async def story(clock: SimClock) -> None:
        told = Story(clock)
        verified = e.FileVerified(model=M, path=PATH, size_bytes=1, algorithm="sha256")
        told.hear(PLANNED)
        await told.comes(FOUND_EVERY_S / 2, GB)
        told.hear(verified)
        assert told.found() == {}
        await told.comes(FOUND_EVERY_S / 2, 6 * GB)
        told.hear(verified)
        assert told.found() == {M: 6 * GB // int(FOUND_EVERY_S)}
        told.hear(e.ModelRemoved(model=M), verified)
        assert told.found() == {}

    run_simulated(story, 0)


# The real commands


def test_a_check_names_the_time_after_a_daemons_download_and_its_restart(tmp_path: Path) -> None:
    """Also for a model that never came, without the daemon, and for a person with another state folder."""
    weights = model_folder.safetensors("w", floats=1_000_000)
    files = {**model_folder.transformers_model("Qwen2ForCausalLM"), PATH: weights}
    repos = [SimRepo(id="org/one", files=files), SimRepo(id="org/two", files=files | {"a.txt": b"a"})]
    limit = f"[network]\nrate_limit_bps = {len(weights) // 8}\n[disk]\nreserve_bytes = 0\n"
    with (
        ThreadedSimHub(SimHub(*repos)) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=["org/one"], config=limit) as daemon,
    ):

        def check(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
            command = [str(Path(sys.executable).parent / "qwenctl"), "check", "org/two", *words]
            return canary.run(command, env=daemon.env | env)

        assert "at the last seen" not in check().stdout
        daemon.wait_complete(M)
        daemon.stop()
        alone = check()
        daemon.start()
        other = {"XDG_STATE_HOME": str(tmp_path / "other"), "XDG_RUNTIME_DIR": str(tmp_path / "nowhere")}
        beside = check("--socket", str(daemon.control), **other)
        assert "at the last seen" not in check(**other).stdout
    for said in (alone, beside):
        assert said.returncode == 4, said.stderr
        assert "MB at most, 0:0" in said.stdout and "at the last seen" in said.stdout
