"""Readers of the event stream that stop reading, while others lose nothing and the daemon neither grows nor waits."""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qwen_daemon.engine.bus import RING_EVENTS
from tests import long_run

MIB = 1 << 20
READERS, PER_SECOND = 64, 2000
RSS_MAX_BYTES, CALLBACK_S_MAX = 16 * MIB, 0.01
WAIT_S = 60.0
SEQ = re.compile(rb'"type":"file\.started"[^\n]*?"seq":(\d+)|"seq":(\d+)[^\n]*?"type":"file\.started"')


def rss_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def connect(path: Path, asked: str, *, stalled: bool) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if stalled:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(WAIT_S)
    reader.connect(str(path))
    reader.sendall(f"GET /v1/events{asked} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
    assert reader.recv(1) == b"H"
    return reader


def read_all(readers: list[socket.socket]) -> list[bytes]:
    """Everything each is sent, until the daemon ends the streams."""
    came: dict[socket.socket, list[bytes]] = {reader: [] for reader in readers}
    with selectors.DefaultSelector() as waiting:
        for reader in readers:
            waiting.register(reader, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(WAIT_S)
            assert ready, "nothing comes any more"
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                piece = key.fileobj.recv(1 << 18)
                came[key.fileobj].append(piece)
                if not piece:
                    waiting.unregister(key.fileobj)
    return [b"".join(pieces) for pieces in came.values()]


def stall(folder: Path, count: int, *, reading: int = READERS // 2, before: int = 0, asked: str = "") -> int:
    """So many events to 64 readers, of whom only `reading` read; `before` events happened before they came."""
    path = folder / "events.sock"
    numbers = (str(number) for number in (count, PER_SECOND, before))
    command = [sys.executable, "-m", "tests.fakes.event_source", str(path), *numbers]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[1]) as source:
        assert source.stdin is not None and source.stdout is not None
        assert source.stdout.readline() == b"listening\n"
        before_bytes = rss_bytes(source.pid, "VmRSS")
        readers = [connect(path, asked, stalled=number >= reading) for number in range(READERS)]
        source.stdin.write(b"\n")
        source.stdin.flush()
        texts = read_all(readers[:reading])
        grown_bytes = rss_bytes(source.pid, "VmHWM") - before_bytes
        for reader in readers:
            reader.close()
        dearest_s = json.loads(source.stdout.readline())
        source.stdin.close()
    for text in texts:
        seqs = [int(one or other) for one, other in SEQ.findall(text)]
        assert seqs == list(range(1, before + count + 1)), f"{len(seqs)} of {before + count} events"
        assert b'"type":"gap"' not in text
    assert grown_bytes <= RSS_MAX_BYTES
    assert {name: spent_s for name, spent_s in dearest_s.items() if spent_s > CALLBACK_S_MAX} == {}
    return count


@pytest.mark.fault("S1", "S6")
def test_half_of_the_readers_stall_and_the_others_lose_nothing(tmp_path: Path) -> None:
    """Two seconds of it: every event, in order, no gap; no more memory than is promised, no callback that is dear."""
    stall(tmp_path, 2 * PER_SECOND)


@pytest.mark.fault("S1", "S6")
def test_readers_who_ask_for_all_there_was_and_never_read_cost_little(tmp_path: Path) -> None:
    """Sixty of them, and four who read: these have every event, and the others hold no copy of what they are owed."""
    stall(tmp_path, PER_SECOND // 10, reading=4, before=RING_EVENTS, asked="?since=0")


def stall_again(number: int) -> int:
    del number
    with tempfile.TemporaryDirectory() as folder:
        return stall(Path(folder), 30 * PER_SECOND)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("S1", "S6")
def test_thirty_two_stalled_readers_for_a_minute() -> None:
    """The same, twice half a minute."""
    long_run.run("events", "events to 64 readers, 32 of them stalled, at 2,000 a second", stall_again, range(2))
