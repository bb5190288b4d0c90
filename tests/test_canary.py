"""What looks for leaked secrets in every test finds them, wherever they are planted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_api import events as e
from tests import canary
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


@pytest.mark.fault("T2")
def test_what_a_command_says_and_is_started_with_is_looked_at(tmp_path: Path) -> None:
    """Its two streams, its arguments, its environment."""
    for place in ("stdout", "stderr"):
        says = f"import sys; sys.{place}.write('hf_' + sys.argv[1])"
        with pytest.raises(canary.Leaked, match="standard"):
            canary.run([sys.executable, "-c", says, canary.TOKEN.removeprefix("hf_")], env={"HOME": str(tmp_path)})
    waits = ["sh", "-c", "echo up; read word", "sh"]
    pipe = subprocess.PIPE
    for words, env in (([canary.TOKEN], {}), ([], {"ADDRESS": SAID})):
        with subprocess.Popen([*waits, *words], env=os.environ | env, stdin=pipe, stdout=pipe) as process:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            with pytest.raises(canary.Leaked, match="/proc"):
                canary.refuse_in_process(process.pid)


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
