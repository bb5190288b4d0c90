"""Commands as nobody would send them: each is refused in words, and what the daemon knows and wants stays as it was."""

from __future__ import annotations

import http.client
import json
import random
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwen_api import events as e
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY = "org/one", "org--one"
COMMANDS = (
    ("POST", "/v1/models"), ("PUT", "/v1/limits"), ("PUT", f"/v1/models/{KEY}/limits"),
    ("PUT", f"/v1/models/{KEY}/priority"), ("POST", f"/v1/models/{KEY}/files/pause"),
    ("PUT", f"/v1/models/{KEY}/files/priority"), ("PUT", "/v1/loaders/one"),
)  # fmt: skip
NAMES = (
    "model",
    "revision",
    "include",
    "rate_limit_bps",
    "max_files",
    "priority",
    "paths",
    "files",
    "state",
    "pid",
    "x",
)
ODD: tuple[Any, ...] = (
    None, True, -1, 1 << 70, 1e308, float("nan"), float("inf"), "", "../..", "/etc/passwd", "a\x00b", "\ud800",
    "x" * 5000, [], [[]], [None], {}, {"": {}}, [1, "two", {}],
)  # fmt: skip
BODIES = 40  # for each command


class Unix(http.client.HTTPConnection):
    """To a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("d", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def body(dice: random.Random) -> bytes:
    """JSON of a wrong shape, broken JSON, JSON too deep, or no JSON at all."""
    match dice.randrange(6):
        case 0:
            return b"\xff" + dice.randbytes(dice.randrange(200))
        case 1:
            return b"[" * dice.randrange(1, 20_000)
        case 2:
            text = json.dumps({dice.choice(NAMES): dice.choice(ODD)}).encode()
            return text[: dice.randrange(1, len(text))]
        case 3:
            return json.dumps([dice.choice(ODD)]).encode()
        case _:  # with a name that no command knows, so that nothing of it may be done
            return json.dumps({dice.choice(NAMES): dice.choice(ODD) for _ in range(3)} | {"unheard_of": 1}).encode()


@pytest.mark.fault("S3")
@pytest.mark.parametrize("seed", range(2))
def test_commands_of_any_shape_are_refused_and_change_nothing(tmp_path: Path, seed: int) -> None:
    """A 4xx in the one form for each, on one connection or many; no event, no other state, no traceback."""
    dice = random.Random(seed)
    files = model_folder.transformers_model("Qwen2ForCausalLM") | {"model.safetensors": model_folder.safetensors("w")}
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        daemon.wait_complete(KEY)
        before, mark = daemon.client.state(), daemon.mark
        for method, path in COMMANDS * BODIES:
            connection, sent = Unix(daemon.control), body(dice)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = msgspec.json.decode(answer.read())
            connection.close()
            assert 400 <= answer.status < 500 and said["code"].startswith("E_"), (method, path, sent, said)
        after = daemon.client.state()
        assert (after.models, after.loaders, after.limits) == (before.models, before.loaders, before.limits)
        assert [event for event in daemon.events[mark:] if not isinstance(event, e.FileProgress)] == []
        assert "Traceback" not in daemon.stderr
