"""Who is refused a command and who reads events stands in the log: the kernel's word, of whichever user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import places
from qwen_daemon.shell.visitors import TOLD_MAX, WHILE_S, Visitors
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.running import WAIT_S, Running

NOBODY = 65534
# Goes where the sockets are, becomes somebody else, says each of the lines as a request, and tells who it was.
ASKS = """
import os, socket, sys
os.chdir(sys.argv[1])
if int(sys.argv[3]) != os.getuid():
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
for word in sys.argv[4:]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[2])
        client.sendall(f"{word} HTTP/1.1\\r\\nHost: d\\r\\nConnection: close\\r\\n\\r\\n".encode())
        print(client.recv(65536).split(b" ", 2)[1].decode(), flush=True)
print(os.getpid())
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    with (
        ThreadedSimHub(SimHub()) as hub,
        Running(tmp_path, endpoint=hub.endpoint, env={"QWEN_DAEMON_LOG": "json"}) as daemon,
    ):
        yield daemon


def ask(path: Path, uid: int, *words: str) -> tuple[list[int], int]:
    """What each request is answered, and the pid of who asked."""
    command = [sys.executable, "-c", ASKS, path.parent, path.name, str(uid), *words]
    *statuses, pid = map(int, subprocess.check_output(command, timeout=WAIT_S).split())
    return statuses, pid


def told(daemon: Running, event: str, uid: int) -> list[dict[str, object]]:
    records = [json.loads(line) for line in daemon.stderr.splitlines()]
    return [record for record in records if record["event"] == event and record["uid"] == uid]


@pytest.mark.fault("S4")
@pytest.mark.parametrize("uid", [os.getuid(), NOBODY])
def test_who_is_refused_a_command_and_who_reads_is_told(daemon: Running, uid: int) -> None:
    """On the socket for all a command of any kind, on the other one that is wrong; each with uid and pid."""
    if uid != os.getuid() and os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    events = places.events_socket(daemon.control)
    daemon.control.chmod(0o666)  # as if it were let in: the permissions of the sockets are another test's
    events.chmod(0o666)
    statuses, pid = ask(events, uid, "POST /v1/models", "DELETE /v1/models/org--name", "GET /v1/events?follow=0")
    assert statuses == [403, 403, 200]
    refused = told(daemon, "command.refused", uid)
    assert [(x["pid"], x["command"], x["code"]) for x in refused] == [
        (pid, "POST /v1/models", "E_READ_ONLY_SOCKET"),
        (pid, "DELETE /v1/models/org--name", "E_READ_ONLY_SOCKET"),
    ]
    assert pid in [x["pid"] for x in told(daemon, "reader.came", uid)]
    statuses, pid = ask(daemon.control, uid, "POST /v1/models/org--none/pause", "PUT /v1/nothing", "GET /v1/nothing")
    assert statuses == [404, 404, 404]
    after = told(daemon, "command.refused", uid)[len(refused) :]
    assert [(x["pid"], x["code"]) for x in after] == [(pid, "E_UNKNOWN_MODEL"), (pid, "E_HTTP")]


@pytest.mark.fault("S4", "S6")
def test_a_flood_of_refusals_does_not_fill_the_log(daemon: Running) -> None:
    """Some are told, then no more for a while; a path is cut."""
    ask(daemon.control, os.getuid(), *[f"PUT /v1/{'x' * 4000}"] * (3 * TOLD_MAX))
    lines = told(daemon, "command.refused", os.getuid())
    assert len(lines) == TOLD_MAX and max(len(str(line["command"])) for line in lines) <= 200


def test_what_was_not_told_is_counted_with_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    """Once the while is over."""
    now_s = time.monotonic()
    visitors = Visitors(lambda: now_s)
    for _ in range(TOLD_MAX + 5):
        visitors.tell("it.came", None)
    assert capsys.readouterr().out.count("it.came") == TOLD_MAX
    now_s += WHILE_S
    visitors.tell("it.came", None)
    assert re.search(r"it\.came.*more.*5", capsys.readouterr().out)
