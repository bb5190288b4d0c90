"""What looks for leaked secrets in every test finds them, wherever they are planted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_api import events as e
from tests import canary, watched
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running

REPO, KEY = "org/name", "org--name"
FILES = {**transformers_model("Qwen2ForCausalLM"), "model.safetensors": safetensors("w", floats=600_000)}
SAID = f"GET https://cdn/x?Signature={canary.SIGNATURE}0f"

LEAKS: dict[str, Callable[[Path], object]] = {
    "a log": lambda root: (root / "stderr").write_text(f"error: Bearer {canary.TOKEN}\n"),
    "a database": lambda root: (root / "deep.db-wal").write_bytes(b"\0\1" + canary.TOKEN.encode() + b"\0"),
    "a name": lambda root: (root / f"{canary.SIGNATURE}.json").touch(),
    "a link": lambda root: (root / "link").symlink_to(f"/nowhere/{canary.TOKEN}"),
    "an address": lambda root: (root / "state.json").write_text(SAID),
    "the token and more": lambda root: (root / "token").write_text(f"token = {canary.TOKEN}\n"),
    "the end of weights": lambda root: (root / "w").write_bytes(bytes(5 << 20) + canary.TOKEN.encode()),
}


@pytest.mark.fault("T2", "T3")
@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_canary_is_found(leak: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a file, its name, a link, a database's pages; the file that a token is kept in is none."""
    root = tmp_path_factory.mktemp("leak")  # not tmp_path, which is looked through after the test
    canary.plant({"HOME": str(root)})
    canary.refuse_in_files(root)
    LEAKS[leak](root)
    with pytest.raises(canary.Leaked):
        canary.refuse_in_files(root)


ENDS = "import sys; sys.{}.write('hf_' + sys.argv[1])"
WAITS = "echo up; read word"
BARE = canary.TOKEN.removeprefix("hf_")  # not itself a canary
PIPE, NOWHERE = subprocess.PIPE, subprocess.DEVNULL


def says(stream: str, **options: Any) -> None:
    subprocess.run([sys.executable, "-c", ENDS.format(stream), BARE], **options)


def read_by_hand(stream: str, size: int) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDS.format(stream), BARE], **{stream: PIPE}) as process:
        while getattr(process, stream).read(size):
            pass


def started(script: str, *words: str, **env: str) -> None:
    with subprocess.Popen([sys.executable, "-c", script, *words], stdin=PIPE, stdout=PIPE, env=env) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        process.stdin.close()


def grandchild(call: str) -> None:
    """One that puts what it knew (here: from its own source) where everybody sees it."""
    started(f"import subprocess, sys; token = 'hf_' + sys.argv[1]; subprocess.run({call})", BARE)


def gone(**where: Any) -> None:
    with tempfile.TemporaryDirectory(**where) as folder:
        Path(folder, "log").write_text(SAID)


def left() -> None:
    Path(tempfile.mkdtemp(), "log").write_text(SAID)


def unmounted() -> None:
    with tempfile.TemporaryDirectory() as folder:
        umount, volume = Path(folder, "umount"), Path(folder, "volume")
        umount.write_text("#!/bin/sh\nrm $1/log\n")
        umount.chmod(0o700)
        volume.mkdir()
        (volume / "log").write_text(SAID)
        subprocess.run([umount, volume], check=True)


PLACES: dict[str, Callable[[], object]] = {
    "what subprocess.run took": lambda: says("stdout", capture_output=True, check=True),
    "its errors, as text": lambda: says("stderr", capture_output=True, text=True),
    "output thrown away": lambda: says("stdout", stdout=NOWHERE),
    "errors thrown away": lambda: says("stderr", stderr=NOWHERE),
    "a pipe, in small pieces": lambda: read_by_hand("stdout", 3),
    "a pipe, at once": lambda: read_by_hand("stderr", -1),
    "an argument": lambda: subprocess.run(["true", canary.TOKEN]),
    "a grandchild's argument": lambda: grandchild(f"['sh', '-c', {WAITS!r}, 'sh', token]"),
    "a grandchild's environment": lambda: grandchild(f"['sh', '-c', {WAITS!r}], env={{'A': token}}"),
    "a folder of its own": gone,
    "a folder on another disk": lambda: gone(dir="/dev/shm"),
    "a folder that stays": left,
    "a volume that is unmounted": unmounted,
}


@pytest.mark.fault("T2", "T3")
@pytest.mark.parametrize("place", PLACES)
def test_a_test_that_looks_nowhere_is_caught(place: str) -> None:
    """Whatever a test starts and however it reads it, and the folders it makes itself: nobody has to think of it."""
    assert watched.found() == []
    PLACES[place]()
    assert any(secret in leak for leak in watched.found() for secret in canary.PLANTED)


@pytest.mark.fault("T2")
def test_what_a_user_puts_into_an_environment_is_no_leak_of_ours() -> None:
    """HF_TOKEN is a user's own word, to be handed down; a token that stands there only in a child is a leak."""
    run = f"subprocess.run(['sh', '-c', {WAITS!r}])"
    started(f"import subprocess; {run}", HF_TOKEN=canary.TOKEN, PATH=os.environ["PATH"])
    assert watched.found() == []


@pytest.mark.fault("T1", "T2", "T3")
def test_a_daemon_sends_the_canary_and_is_caught_if_it_leaves_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The token of the file reaches the Hub and not the CDN; a line of it behind the daemon's own fails the test."""
    root = tmp_path_factory.mktemp("daemon")
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        with Running(root, endpoint=hub.endpoint, models=[REPO]) as daemon:
            daemon.wait_complete(KEY)
        assert {request.header("authorization") for request in hub.log.requests(server="hub")} == {
            f"Bearer {canary.TOKEN}"
        }
        signed = hub.log.requests(server="cdn")
        assert signed and all(f"Signature={canary.SIGNATURE}" in request.target for request in signed)
        assert hub.log.leaks(canary.TOKEN) == []
    daemon.events.append(e.ConfigRejected(path="config.toml", detail=SAID))
    with pytest.raises(canary.Leaked, match="an event"):
        daemon.keeps_secrets()
    daemon.events.clear()
    daemon.keeps_secrets()
    with (root / "stderr").open("a") as stderr:
        stderr.write(SAID)
    with pytest.raises(canary.Leaked, match="stderr"):
        daemon.keeps_secrets()
