"""The servers in docs/examples, as people run them: 503 with the progress while the model comes, then pictures."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeDaemon
from tests.fakes.small_model import REPO, SmallModel, folder_as_model

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
PATIENCE_S = 100.0
ENDS = (0, -signal.SIGTERM)  # uvicorn ends in order and then hands the signal on

pytestmark = pytest.mark.loader


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes, str]:
    """Status, body and Retry-After."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S) as answer:
            return answer.status, answer.read(), ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers.get("Retry-After", "")


def ask_until(url: str, wanted: str) -> tuple[int, dict[str, str]]:
    """Ask until the server's state is this one."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            status, body, _ = ask(url)
        except urllib.error.URLError:
            continue  # it does not listen yet
        said = json.loads(body)
        if said["state"] == wanted:
            return status, said
    raise AssertionError(f"never {wanted}")


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> SmallModel:
    return folder_as_model(tmp_path / "hub", tiny).write().write_ready(tmp_path / "run" / "qwen-daemon")


@pytest.fixture
def daemon(model: SmallModel, tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "run" / "qwen-daemon", *model.wanted_events(), bookmark_s=0.2) as daemon:
        yield daemon


@pytest.fixture(params=["edit_server.py", "fastapi_server.py"])
def server(
    request: pytest.FixtureRequest, daemon: FakeDaemon, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, str(EXAMPLES / request.param), REPO, "--device", "cpu", "--port", str(port)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_it_answers_while_it_loads_and_then_edits(
    server: tuple[subprocess.Popen[str], str], daemon: FakeDaemon, model: SmallModel
) -> None:
    """503 with what is missing, 200 when a picture can be edited, a picture, 400 for none; gone in order on SIGTERM."""
    from PIL import Image

    process, url = server
    status, said = ask_until(f"{url}/readyz", "waiting")
    assert status == 503
    assert "35 files missing" in said["text"]
    assert ask(f"{url}/edit?prompt=x", b"")[::2] == (503, "5")
    daemon.say(*model.complete_events())
    assert ask_until(f"{url}/readyz", "ready")[0] == 200
    picture = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(picture, "PNG")
    status, body, _ = ask(f"{url}/edit?prompt=Make+the+sky+orange&steps=2&size=64", picture.getvalue())
    assert status == 200
    with Image.open(io.BytesIO(body)) as edited:
        assert (edited.format, edited.size) == ("PNG", (64, 64))
    for query, body, why in [("", b"GIF87", "cannot identify"), ("&steps=1", picture.getvalue(), "black")]:
        status, told, _ = ask(f"{url}/edit?prompt=x{query}", body)
        assert status == 400 and why in json.loads(told)["error"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in ENDS
    assert [report.state for report in daemon.loader_reports()][-2:] == ["ready", "gone"]


def test_it_stops_while_it_waits(server: tuple[subprocess.Popen[str], str], daemon: FakeDaemon) -> None:
    """SIGTERM in the middle of a download: no orphan thread keeps it alive, and the daemon is told."""
    process, url = server
    ask_until(f"{url}/readyz", "waiting")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in ENDS
    assert daemon.loader_reports()[-1].state == "gone"
