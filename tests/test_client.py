"""The client's place in the stream, when the stream breaks off at the worst moment."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api.client import Disconnected, Follower
from qwen_api.status import Status, encode_status

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"


def hello(epoch: str) -> bytes:
    return e.encode_line(e.Hello(v=e.WIRE_VERSION, epoch=epoch, server="test", seq=9, features=()))


def added(seq: int) -> bytes:
    return e.encode_line(e.ModelAdded(model="org--a", repo="org/a", revision="main", seq=seq, ts=""))


SNAPSHOT = e.encode_line(e.Snapshot(seq=9, ts="", state=msgspec.Raw(encode_status(Status()))))
LIVE = e.encode_line(e.Live(seq=9))


@pytest.mark.fault("S5")
@pytest.mark.parametrize(
    ("told", "asks_next"),
    [
        ((hello("one"), SNAPSHOT), "since=4&epoch=one"),
        ((hello("one"), SNAPSHOT, added(6)), "since=6&epoch=one"),
        ((hello("one"), SNAPSHOT, added(6), LIVE), "since=9&epoch=one"),
        ((hello("one"), SNAPSHOT, LIVE, added(10)), "since=10&epoch=one"),
        ((hello("one"), SNAPSHOT, LIVE, e.encode_line(e.Gap(first=10, last=20)), SNAPSHOT), "since=9&epoch=one"),
        ((hello("two"), SNAPSHOT), "since=0&epoch=two"),
    ],
    ids=[
        "before the backlog",
        "in the backlog",
        "after it",
        "later",
        "after a gap",
        "another daemon before its backlog",
    ],
)
def test_a_stream_that_breaks_off_goes_on_where_it_was(tmp_path: Path, told: tuple[bytes, ...], asks_next: str) -> None:
    """A snapshot holds the state but not the events that led to it: they are asked for again until they came."""
    asked = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            for lines in (told, (hello("two"),)):
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(4096).split()[1].decode().partition("?")[2])
                    connection.sendall(HEAD + b"".join(lines))

        server = threading.Thread(target=serve)
        server.start()
        follower = Follower(lambda: tmp_path / "s", since=4, epoch="one")
        cuts = 0
        for line in follower:
            cuts += isinstance(line, Disconnected)
            if cuts == 2:
                break
        server.join()
    assert asked == ["since=4&epoch=one", asks_next]
