"""`with loaded(model) as pipeline`, and hearing of newer commits while a model is held."""

from __future__ import annotations

import asyncio
import os
import queue
from itertools import groupby
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.commands import LoaderReport
from qwen_loader import ModelUnavailable, ReadyModel, loaded, loaded_async, text_of
from qwen_loader.arrival import News, Ordered
from qwen_loader.presence import STILL, Presence
from qwen_loader.updates import Updates
from tests.fakes.daemon import FakeDaemon
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.small_model import COMMIT, REPO, SmallModel, folder_as_model
from tests.running import Running

PATIENCE_S = 60.0


def env_of(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}


@pytest.mark.loader
def test_a_pipeline_for_as_long_as_it_is_needed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for, loaded, shown to the daemon under its name, and gone at the end; every step can be printed."""
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")  # loading sets them; here they are taken back
    model = folder_as_model(tmp_path / "hub", tiny).write().write_ready(tmp_path / "run" / "qwen-daemon")
    lines: list[str] = []
    script = (*model.wanted_events(), *model.complete_events())
    with FakeDaemon(tmp_path / "run" / "qwen-daemon", *script, bookmark_s=0.2) as daemon:
        with loaded(
            REPO, device="cpu", name="api", env=env_of(tmp_path), on_event=lambda news: lines.append(text_of(news))
        ) as pipeline:
            assert type(pipeline).__name__ == "QwenImageEditPlusPipeline"
        reports = daemon.loader_reports()
        assert {command.subject for command in daemon.commands if command.verb == "loader"} == {"api"}
    assert [state for state, _ in groupby(report.state for report in reports)] == [
        "waiting",
        "loading",
        "ready",
        "gone",
    ]
    assert {report.pid for report in reports} == {os.getpid()}
    assert lines[0] == "placement: cpu, as asked"
    assert lines[-1].startswith("loading: ")


@pytest.mark.loader
def test_a_daemon_that_hears_only_the_last_report_knows_the_order(tiny: Path, tmp_path: Path) -> None:
    """One that was restarted is told no more than that; it fetches in the order of the components then, too."""
    runtime = tmp_path / "run" / "qwen-daemon"
    model = folder_as_model(tmp_path / "hub", tiny).write()
    ordered: list[Ordered] = []

    def hear(news: News) -> None:
        if isinstance(news, Ordered):
            ordered.append(news)
            model.write_ready(runtime)
            daemon.say(*model.complete_events())

    with FakeDaemon(runtime, *model.wanted_events(), bookmark_s=0.2) as daemon:
        with loaded(REPO, device="cpu", env=env_of(tmp_path), on_event=hear):
            pass
        reports = [report for report in daemon.loader_reports() if report.state in ("loading", "ready")]
    assert ordered and ordered[0].components
    assert {report.components for report in reports} == {ordered[0].components}


def test_a_model_that_will_not_come_is_told_where_people_look(tmp_path: Path) -> None:
    """The monitor keeps the reason; the program gets it as an exception."""
    model = SmallModel(tmp_path / "hub")
    gated = e.ModelStateChanged(model=model.ref.key, state="failed", code="E_GATED", detail="terms not accepted")
    with FakeDaemon(tmp_path / "run" / "qwen-daemon", *model.wanted_events(), gated, bookmark_s=0.2) as daemon:
        with pytest.raises(ModelUnavailable), loaded(REPO, env=env_of(tmp_path)):
            raise AssertionError("there is no pipeline")
        last = daemon.loader_reports()[-1]
    assert (last.state, last.detail) == ("failed", "E_GATED: terms not accepted")


def test_a_newer_commit_is_told_once_when_it_is_proven(tmp_path: Path) -> None:
    """Whoever holds the old one decides what to do; the one it holds is no news."""
    model = SmallModel(tmp_path / "hub").write().write_ready(tmp_path / "run" / "qwen-daemon")
    told: queue.SimpleQueue[ReadyModel] = queue.SimpleQueue()
    with (
        FakeDaemon(tmp_path / "run" / "qwen-daemon", *model.wanted_events(), bookmark_s=0.2) as daemon,
        Updates(model.ref, "0" * 40, told.put, env=env_of(tmp_path)),
        Updates(model.ref, COMMIT, told.put, env=env_of(tmp_path)),
    ):
        daemon.wait_for_readers(2)
        daemon.say(*model.complete_events())
        newer = told.get(timeout=PATIENCE_S)
        assert (newer.commit, newer.path, newer.source) == (COMMIT, str(model.folder), "daemon")
        daemon.say(*model.complete_events())
    assert told.empty()


def test_it_says_its_state_again_and_that_nothing_moves(tmp_path: Path) -> None:
    """A daemon that misses these heartbeats knows that the process hangs; one that gets them, that the load may."""
    with (
        FakeDaemon(tmp_path / "run" / "qwen-daemon", bookmark_s=0.2) as daemon,
        Presence("gpu0", "org--name", env=env_of(tmp_path), heartbeat_s=0.05, still_s=0.2) as presence,
    ):
        presence.say(LoaderReport(state="loading", component="vae", loaded_bytes=7))
        seen = 0
        while not (reports := daemon.loader_reports()) or reports[-1].detail != STILL:
            seen = len(daemon.wait_for_commands(seen + 1))
        assert len(reports) > 2
        assert {(r.state, r.component, r.loaded_bytes, r.heartbeat_s) for r in reports} == {("loading", "vae", 7, 0.05)}
        presence.say(LoaderReport(state="loading", component="vae", loaded_bytes=8))
        while daemon.loader_reports()[-1].loaded_bytes != 8:
            seen = len(daemon.wait_for_commands(seen + 1))
        assert daemon.loader_reports()[-1].detail == ""


@pytest.mark.loader
@pytest.mark.parametrize("form", ["sync", "async"])
def test_the_branch_moves_on_the_hub_and_who_holds_the_model_is_told(
    tiny: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real daemon fetches the newer commit; it is proven when the program hears of it, and the old one stays."""
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")  # loading sets them; here they are taken back
    files = {path.relative_to(tiny).as_posix(): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    repo = SimRepo(id="org/tiny", files=files)
    older = repo.sha
    told: queue.SimpleQueue[ReadyModel] = queue.SimpleQueue()
    with (
        ThreadedSimHub(SimHub(repo)) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=["org/tiny"]) as daemon,
    ):
        complete = daemon.wait_complete("org--tiny")
        assert complete.commit == older

        def move() -> ReadyModel:
            repo.commit_files({"README.md": b"# newer\n"})
            daemon.client.update("org--tiny")
            return told.get(timeout=PATIENCE_S)

        async def hold() -> ReadyModel:
            async with loaded_async("org/tiny", device="cpu", env=daemon.env, on_update=told.put):
                return await asyncio.to_thread(move)

        if form == "async":
            newer = asyncio.run(hold())
        else:
            with loaded("org/tiny", device="cpu", env=daemon.env, on_update=told.put):
                newer = move()
        assert (newer.commit, newer.source, newer.verified) == (repo.sha, "daemon", "sha256")
        assert (Path(newer.path) / "README.md").read_bytes() == b"# newer\n"
        assert (Path(complete.path) / "model_index.json").is_file()
    assert told.empty()
