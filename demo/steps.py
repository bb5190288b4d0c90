"""The steps of the demonstration: each does one thing and tells what was seen, or raises StepFailed."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from demo.stage import LOG_LINES_SHOWN, START_TIMEOUT_S, Stage, StepFailed
from qwen_api import events as e
from qwen_api.events import Event

LARGE_BYTES = 8_000_000  # a file large enough to be cut in its middle
FLIPPED_BYTES = 64
PROMPT = "make the sky green"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the daemon was killed."""

    path: str
    durable_bytes: int


def make_model(stage: Stage, repo: str) -> Path:
    """The small real pipeline, made once."""
    from demo import tiny_pipeline  # imports torch

    models = stage.var / "models"
    stage.say(f"a small real {repo} (118 MB, 35 files, random weights), made here: no Hub is needed")
    tiny_pipeline.build(models / repo, size="118mb")
    return models


def start_mirror(stage: Stage, models: Path, rate_limit: str) -> str:
    """Serve it in the Hub's own HTTP shape; returns the endpoint."""
    command = ("qwen-daemon", "mirror", str(models), "--listen", "127.0.0.1:0", "--rate-limit", rate_limit)
    mirror = stage.start(*command, log="mirror.log", pipe=True)
    assert mirror.stdout is not None
    endpoint = mirror.stdout.readline().decode().strip()
    if not endpoint.startswith("http://"):
        raise StepFailed("the mirror did not start")
    stage.say(f"a mirror serves it at {endpoint}, {rate_limit} bytes/s, so that there is a middle")
    return endpoint


def start_daemon(stage: Stage, model: str, *, endpoint: str | None) -> subprocess.Popen[bytes]:
    """The service, in the foreground of this demonstration."""
    env = {"QWEN_DAEMON_LOG": "plain"}
    config = stage.run / "config.toml"
    config.write_text(f'[[models]]\nmodel = "{model}"\n\n[disk]\nreserve_bytes = 100_000_000\n')
    if endpoint is not None:
        env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(stage.run / "hf"), "HF_TOKEN": ""}
        state = ("--state-dir", str(stage.run / "state"))
    else:
        state = ("--state-dir", str(stage.var / "state"))
    command = ("qwen-daemon", "--config", str(config), "--socket", str(stage.socket), *state)
    daemon = stage.start(*command, log="daemon.log", env=env)
    stage.watch(daemon, "daemon.log")
    stage.follow()
    stage.wait_for("the daemon answers", lambda event: _is_started(event, daemon.pid), silence_s=START_TIMEOUT_S)
    stage.say(f"the daemon runs (pid {daemon.pid}) and answers on its socket")
    return daemon


def start_monitor(stage: Stage) -> None:
    """The monitor's plain view, in this terminal."""
    stage.start("qwen-monitor", "--plain", log=None)


def start_loader(stage: Stage, model: str, *, is_tiny: bool) -> subprocess.Popen[bytes]:
    """The GPU process's start-up hook, waiting for complete from the beginning."""
    source, target = stage.run / "before.png", stage.run / "after.png"
    _draw(source)
    size = ("--size", "64", "--steps", "2") if is_tiny else ("--steps", "20")
    edit = ("--edit", str(source), "--prompt", PROMPT, "--output", str(target), *size)
    loader = stage.start("qwen-loader", model, *edit, "--timeout", "86400", log="loader.log", pipe=True)
    stage.say("the loader waits for `complete`; then it will load the pipeline and edit a picture")
    return loader


def kill_in_mid_file(stage: Stage, daemon: subprocess.Popen[bytes]) -> Cut:
    """SIGKILL while at least one large file has a durable partial span."""
    event = stage.wait_for("a durable part of a file", _is_durable_middle)
    assert isinstance(event, e.FileProgress)
    stage.end(daemon, signal.SIGKILL)
    stage.say(f"SIGKILL to the daemon: {event.path} had {event.durable_bytes} of {event.size_bytes} bytes durable")
    return Cut(path=event.path, durable_bytes=event.durable_bytes)


def see_resume(stage: Stage, cut: Cut) -> None:
    """The restarted daemon goes on at the recorded byte."""
    event = stage.wait_for(f"{cut.path} resumed", lambda event: _is_resumed(event, cut.path))
    assert isinstance(event, e.FileResumed)
    if event.kept_bytes < cut.durable_bytes:
        raise StepFailed(f"{cut.path} resumed at {event.kept_bytes}, but {cut.durable_bytes} bytes were durable")
    stage.say(f"restarted: {cut.path} resumes at byte {event.kept_bytes}")


def flip_bytes(stage: Stage) -> None:
    """Damage a finished shard behind the daemon's back."""
    event = stage.wait_for("a finished shard", lambda event: _is_finished_shard(event))
    assert isinstance(event, e.FileVerified)
    (blob,) = (stage.run / "hf" / "hub").glob(f"models--*/snapshots/*/{event.path}")
    at = event.size_bytes // 2
    with blob.open("r+b") as shard:
        shard.seek(at)
        good = shard.read(FLIPPED_BYTES)
        shard.seek(at)
        shard.write(bytes(byte ^ 0xFF for byte in good))
    stage.say(f"flipped {FLIPPED_BYTES} bytes at {at} of the finished {event.path}")


def see_complete(stage: Stage, *, repaired: bool) -> None:
    """The model is complete; if it was damaged, the damage was found and repaired first."""
    if repaired:
        found = stage.wait_for("the damage is found", lambda event: isinstance(event, e.FileCorrupt))
        assert isinstance(found, e.FileCorrupt)
        stage.say(f"found: {found.path} no longer has the Hub's hash")
        stage.wait_for("it is repaired", lambda ev: isinstance(ev, e.FileVerified) and ev.path == found.path)
        stage.say(f"repaired: {found.path} has the Hub's hash again")
    done = stage.wait_for("complete", lambda event: isinstance(event, e.ModelComplete))
    assert isinstance(done, e.ModelComplete)
    stage.say(f"complete: {done.files} files, {done.size_bytes} bytes, every hash is the Hub's: {done.path}")


def tell_bytes(stage: Stage, endpoint: str, why: str) -> None:
    """What the mirror itself counted."""
    with urllib.request.urlopen(f"{endpoint}/-/mirror/stats", timeout=10) as answer:
        stats = json.load(answer)
    stage.say(f"the mirror sent {stats['bytes_sent']} bytes in all, {stats['bytes_sent_twice']} of them twice ({why})")


def see_picture(stage: Stage, loader: subprocess.Popen[bytes]) -> Path:
    """The loader has loaded the pipeline and edited the picture."""
    out, _ = loader.communicate()
    for line in out.decode(errors="replace").splitlines():
        stage.say(f"loader: {line}")
    picture = stage.run / "after.png"
    if loader.returncode != 0 or not picture.exists():
        tail = (stage.logs / "loader.log").read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        raise StepFailed(f"the loader ended with {loader.returncode}:\n  " + "\n  ".join(tail))
    return picture


def _draw(path: Path) -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (256, 256), (110, 160, 230))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 170, 256, 256), fill=(70, 140, 70))
    draw.ellipse((170, 30, 220, 80), fill=(250, 220, 90))
    draw.polygon([(60, 170), (110, 90), (160, 170)], fill=(150, 80, 60))
    picture.save(path)


def _is_started(event: Event, pid: int) -> bool:
    return isinstance(event, e.DaemonStarted) and event.pid == pid


def _is_durable_middle(event: Event) -> bool:
    return (
        isinstance(event, e.FileProgress)
        and event.size_bytes >= LARGE_BYTES
        and 0 < event.durable_bytes < event.done_bytes < event.size_bytes
    )


def _is_resumed(event: Event, path: str) -> bool:
    return isinstance(event, e.FileResumed) and event.path == path


def _is_finished_shard(event: Event) -> bool:
    return isinstance(event, e.FileVerified) and event.size_bytes >= LARGE_BYTES and event.path.endswith(".safetensors")
