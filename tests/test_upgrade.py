"""What an older, a newer or another program left: migrated or set aside and told, and never misread."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.commands import WIRE_HEADER
from qwen_api.seals import read_ready
from qwen_daemon.shell.ledger import FILE_NAME
from qwen_daemon.shell.ledger_file import FORMAT
from qwen_monitor import exits
from tests import canary
from tests.fakes.daemon import FakeDaemon
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Exited, Running

REPO, KEY = "org/name", "org--name"
FILES = {**transformers_model("Qwen2ForCausalLM"), "model.safetensors": safetensors("w", floats=600_000)}


def sql(*statements: str, fresh: bool = False) -> Callable[[Path], None]:
    """What another program does to the ledger's file."""

    def work(path: Path) -> None:
        if fresh:
            path.unlink()
        db = sqlite3.connect(path)
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.close()

    return work


LEDGERS: dict[str, tuple[Callable[[Path], None], bool]] = {  # what is done, and whether it is set aside
    "of an older format": (sql(f"PRAGMA user_version = {FORMAT - 1}"), True),
    "of a newer format": (sql(f"PRAGMA user_version = {FORMAT + 1}"), True),
    "with a column more": (sql("ALTER TABLE seals ADD COLUMN trust"), True),
    "half made": (sql("DROP TABLE spans"), True),
    "of another program": (sql("CREATE TABLE notes (text)", fresh=True), True),
    "of another program with a version": (
        sql("CREATE TABLE notes (text)", f"PRAGMA user_version = {FORMAT}", fresh=True),
        True,
    ),
    "empty": (lambda path: path.write_bytes(b"") and None, False),
    "of a newer program that adds a table": (sql("CREATE TABLE plans (key)"), False),
}


@pytest.mark.fault("D7", "K7")
@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_ledger_of_another_format_is_set_aside_and_costs_no_byte(tmp_path: Path, ledger: str) -> None:
    """It is kept as .bad as it was, the files are hashed again, and what the Hub has is not fetched again."""
    spoil, is_aside = LEDGERS[ledger]
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        daemon.wait_complete(KEY)
        assert daemon.stop() == 0
        path = daemon.state_dir / FILE_NAME
        spoil(path)
        spoilt = path.read_bytes()
        hub.log.clear()
        daemon.start()
        daemon.wait_complete(KEY)
        bad = path.with_name(f"{FILE_NAME}.bad")
        assert bad.exists() is is_aside and (not is_aside or bad.read_bytes() == spoilt)
        assert ("ledger" in daemon.stderr and "set_aside" in daemon.stderr) is is_aside
        assert hub.log.requests(server="cdn") == []


def state_files(daemon: Running) -> list[Path]:
    """What stands beside the ledger and is read at a start."""
    kept = daemon.cache / "models--org--name"
    return [places.ready_file(daemon.state_dir, KEY), *kept.glob("trees/*.json"), kept / "refs" / "main"]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "another shape": lambda _: json.dumps({"version": 9, "files": "none"}).encode(),
    "no text": lambda content: b"\xff\x00" + content,
}


@pytest.mark.fault("K7")
@pytest.mark.parametrize("how", SPOILT)
def test_state_files_of_another_shape_are_made_anew(tmp_path: Path, how: str) -> None:
    """A ready file, a listing, a ref: what cannot be read is no word, and the right ones stand there again."""
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        daemon.wait_complete(KEY)
        assert daemon.stop() == 0
        right = {path: path.read_bytes() for path in state_files(daemon)}
        for path, content in right.items():
            path.write_bytes(SPOILT[how](content))
        assert read_ready(places.ready_file(daemon.state_dir, KEY)) is None
        hub.log.clear()
        daemon.start()
        daemon.wait_complete(KEY)
        assert {path: path.read_bytes() for path in right} == right
        assert hub.log.requests(server="cdn") == []


@pytest.mark.fault("X8")
def test_a_configuration_of_a_newer_program_is_refused_with_its_key_and_a_way_out(tmp_path: Path) -> None:
    """At the start with 78; while it runs the one before stays in force."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
        good = daemon.config_file.read_text()
        daemon.config_file.write_text(f"[quantum]\nlevel = 9\n{good}")
        with pytest.raises(Exited) as refused:
            daemon.start()
        said = str(refused.value)
        assert refused.value.code == 78 and "unknown field `quantum`" in said and "update qwen-daemon" in said
        assert str(daemon.config_file) in said
        daemon.config_file.write_text(good)
        with daemon:
            daemon.wait_complete(KEY)
            daemon.config_file.write_text(f"[quantum]\nlevel = 9\n{good}")
            assert "`quantum`" in daemon.wait_event(e.ConfigRejected).detail
            assert daemon.client.state().models[KEY].state == "complete"


COMMANDS = (
    "qwenctl ls",
    "qwenctl pause org/name",
    "qwenctl wait org/name",
    "qwenctl events --no-follow",
    "qwenctl download org/name",
    "qwen-monitor --once",
    "qwen-monitor --plain --no-wait",
    "qwen-monitor --json --no-wait",
    "qwen-loader org/name --timeout 0 -- true",
)


@pytest.mark.fault("S8")
@pytest.mark.parametrize(("wire", "way_out"), [(e.WIRE_VERSION + 1, "update"), (e.WIRE_VERSION - 1, "restart")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_daemon_of_another_protocol_is_named_and_not_misread(
    tmp_path: Path, command: str, wire: int, way_out: str
) -> None:
    """What, why and a way out at once, from whatever speaks with it."""
    added = e.ModelAdded(model=KEY, repo=REPO, revision="main")
    with FakeDaemon(tmp_path / "run" / places.APP, added, wire=wire):
        env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "QWEN_LANG": "en"}
        name, *words = command.split()
        done = canary.run([Path(sys.executable).parent / name, *words], env=env, cwd=tmp_path)
        said = done.stderr
        assert done.returncode == exits.DAEMON_DOWN, said
        assert f"version {wire}" in said and way_out in said and "E_PROTOCOL" in said, said
        assert done.stdout == "" or "E_PROTOCOL" in done.stdout


@pytest.mark.fault("S8")
def test_one_that_says_so_only_in_its_stream_is_named_too(tmp_path: Path) -> None:
    """The first line of the stream has the version; the rest is not read."""
    with FakeDaemon(tmp_path / "run" / places.APP, wire=e.WIRE_VERSION + 1, tells_wire=False):
        env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "QWEN_LANG": "en"}
        command = [Path(sys.executable).parent / "qwenctl", "events", "--no-follow", "--json"]
        done = canary.run(command, env=env, cwd=tmp_path)
        assert done.returncode == exits.DAEMON_DOWN and "E_PROTOCOL" in done.stderr + done.stdout
        assert "hello" not in done.stdout and "snapshot" not in done.stdout


@pytest.mark.fault("S8")
def test_the_daemon_says_its_version_with_every_answer(tmp_path: Path) -> None:
    """With streams and refusals too."""
    with ThreadedSimHub(SimHub()) as hub, Running(tmp_path, endpoint=hub.endpoint) as daemon:
        for asked in ("GET /v1/state", "GET /v1/events?follow=0", "GET /v1/nothing", "POST /v1/models/x/pause"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(daemon.control))
                client.sendall(f"{asked} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
                head = b"".join(iter(lambda client=client: client.recv(1 << 16), b"")).partition(b"\r\n\r\n")[0]
            assert f"{WIRE_HEADER}: {e.WIRE_VERSION}".encode() in head, asked
