"""The API on the real daemon's sockets, spoken to by curl, by plain sockets and by the client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Client, DaemonRefused
from qwen_api.commands import AddModel, LoaderReport
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running

REPO, KEY = "org/name", "org--name"
FILES = {**transformers_model("Qwen2ForCausalLM"), "model.safetensors": safetensors("w")}
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES), SimRepo(id="org/slow", files=FILES))) as hub:
        yield hub


@pytest.fixture(scope="module")
def daemon(hub: SimHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon with one complete model, for all tests here; each leaves it as it was."""
    with Running(tmp_path_factory.mktemp("api"), endpoint=hub.endpoint, models=[REPO]) as daemon:
        daemon.wait_complete(KEY)
        yield daemon


def curl(daemon: Running, url: str, *options: str, control: bool = True) -> tuple[int, str, bytes]:
    """Status, content type and body, by curl."""
    path = daemon.control if control else places.events_socket(daemon.control)
    command = ["curl", "-sS", "--max-time", str(TIMEOUT_S), "--unix-socket", str(path)]
    command += ["-w", "\n%{http_code} %{content_type}", f"http://d{url}", *options]
    body, _, trailer = subprocess.check_output(command).rpartition(b"\n")
    status, _, content_type = trailer.decode().partition(" ")
    return int(status), content_type, body


def raw(daemon: Running, sent: bytes, *, half_close: bool = True) -> bytes:
    """Send bytes as they are; everything that comes back until the daemon closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(daemon.control))
        answer = b""
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
        except ConnectionError:
            pass
        return answer


def frames(body: bytes) -> list[str]:
    return [json.loads(line)["type"] for line in body.splitlines()]


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_questions_are_answered_to_curl(daemon: Running) -> None:
    """Every GET, on both sockets, as JSON."""
    for control in (True, False):
        for url in (
            "/v1/state",
            "/v1/models",
            f"/v1/models/{KEY}",
            f"/v1/models/{KEY}/files",
            "/v1/version",
            "/healthz",
        ):
            status, content_type, body = curl(daemon, url, control=control)
            assert (status, content_type.partition(";")[0]) == (200, "application/json"), url
            assert json.loads(body)
    files = json.loads(curl(daemon, f"/v1/models/{KEY}/files")[2])
    assert set(files["seals"]) == {file["path"] for file in files["files"]} == set(FILES)
    assert files["folder"] == files["path"] != ""
    assert {stat.S_IMODE(path.stat().st_mode) for path in daemon.control.parent.glob("*.sock")} == {0o660}


@needs_curl
def test_a_model_may_be_named_in_every_form_that_people_know(daemon: Running) -> None:
    """Its key, or its repository percent-encoded, in paths, in queries and in commands."""
    encoded = REPO.replace("/", "%2F")
    for name in (KEY, encoded, f"{encoded}%40main"):
        assert json.loads(curl(daemon, f"/v1/models/{name}")[2])["model"] == KEY
        assert json.loads(curl(daemon, f"/v1/models/{name}/files")[2])["model"] == KEY
        assert curl(daemon, f"/readyz?model={name}")[0] == 200
        status, _, body = curl(daemon, f"/v1/models/{name}/resume", "-X", "POST")
        assert (status, json.loads(body)["model"]) == (202, KEY)
    assert curl(daemon, f"/readyz?model={REPO}")[0] == 200
    # An alias of a model that is not here is understood, and refused for what it stands for.
    status, _, body = curl(daemon, "/readyz?model=qwen-image-edit")
    assert (status, json.loads(body)["detail"]) == (404, "Qwen--Qwen-Image-Edit-2511")


@needs_curl
def test_the_stream_starts_with_everything_and_can_be_filtered(daemon: Running) -> None:
    """follow=0 ends it after the greeting; since and epoch bring the backlog; types and model choose; SSE if asked."""
    epoch = daemon.client.version().epoch
    status, content_type, body = curl(daemon, "/v1/events?follow=0")
    assert (status, content_type, frames(body)) == (200, "application/x-ndjson", ["hello", "snapshot", "live"])
    backlog = frames(curl(daemon, f"/v1/events?follow=0&since=0&epoch={epoch}")[2])
    assert backlog[:3] == ["hello", "snapshot", "daemon.started"] and backlog[-1] == "live"
    asked = f"/v1/events?follow=0&since=0&epoch={epoch}&types=model.complete,component.*&model={KEY}"
    assert frames(curl(daemon, asked)[2]) == ["hello", "snapshot", "component.complete", "model.complete", "live"]
    other = frames(curl(daemon, f"/v1/events?follow=0&since=0&epoch={epoch}&model=other")[2])
    assert set(other) == {"hello", "snapshot", "daemon.started", "limits.changed", "disk.changed", "live"}
    _, content_type, body = curl(daemon, "/v1/events?follow=0", "-H", "Accept: text/event-stream")
    assert content_type == "text/event-stream"
    assert [json.loads(part.removeprefix(b"data: "))["type"] for part in body.split(b"\n\n") if part] == [
        "hello",
        "snapshot",
        "live",
    ]
    assert curl(daemon, "/v1/events?since=minus")[0] == 400


@pytest.mark.fault("S3")
@needs_curl
def test_refusals_have_one_shape(daemon: Running) -> None:
    """problem+json with a stable code: unknown model, bad name, bad body, configured model, unknown path, too much."""
    add = ("-X", "POST", "-d")
    refusals = [
        (curl(daemon, "/v1/models/none"), 404, "E_UNKNOWN_MODEL"),
        (curl(daemon, "/v1/models/none/pause", "-X", "POST"), 404, "E_UNKNOWN_MODEL"),
        (curl(daemon, "/v1/models", *add, '{"model": "../etc"}'), 400, "E_USAGE"),
        (curl(daemon, "/v1/models", *add, '{"model": "org/x", "path": "/etc"}'), 400, "E_USAGE"),
        (curl(daemon, "/v1/models", *add, '{"model": 7}'), 400, "E_USAGE"),
        (curl(daemon, "/v1/models", *add, "{"), 400, "E_USAGE"),
        (curl(daemon, "/v1/models", *add, '{"model": ' + "[" * 20000), 400, "E_USAGE"),
        (curl(daemon, "/v1/models", *add, json.dumps({"model": "x" * 70_000})), 413, "E_HTTP"),
        (curl(daemon, f"/v1/models/{KEY}", "-X", "DELETE"), 409, "E_CONFIGURED"),
        (curl(daemon, "/nothing"), 404, "E_HTTP"),
        (curl(daemon, "/nothing", "-X", "POST"), 404, "E_HTTP"),
        (curl(daemon, "/v1/state", "-X", "POST"), 405, "E_HTTP"),
    ]
    for (status, content_type, body), wanted, code in refusals:
        problem = json.loads(body)
        assert (status, problem["status"], problem["code"]) == (wanted, wanted, code), problem
        assert content_type.partition(";")[0] == "application/problem+json" and problem["title"]
    assert set(daemon.client.state().models) == {KEY}


@pytest.mark.fault("S4")
@needs_curl
def test_the_events_socket_takes_no_commands_but_a_loaders_own_state(daemon: Running) -> None:
    """403 for every command; PUT of a loader's state is taken, with the kernel's word for its pid."""
    for url, method in (
        ("/v1/models", "POST"),
        (f"/v1/models/{KEY}/pause", "POST"),
        (f"/v1/models/{KEY}", "DELETE"),
        (f"/v1/models/{KEY}/verify", "POST"),
    ):
        status, _, body = curl(daemon, url, "-X", method, "-d", '{"model": "org/x"}', control=False)
        assert (status, json.loads(body)["code"]) == (403, "E_READ_ONLY_SOCKET")
    mark = daemon.mark
    reader = Client(places.events_socket(daemon.control))
    reader.report_loader("gpu0", LoaderReport(state="loading", model=KEY, pid=1, device="cuda:0"))
    told = daemon.wait_event(e.LoaderChanged, after=mark)
    assert (told.name, told.state, told.pid) == ("gpu0", "loading", os.getpid())
    for name in ("x" * 65, "bad\nname"):
        with pytest.raises(DaemonRefused):
            reader.report_loader(name, LoaderReport(state="loading"))
    reader.report_loader("gpu0", LoaderReport(state="loading", model="qwen-image"))
    assert daemon.client.state().loaders["gpu0"].model == "Qwen--Qwen-Image", "an alias is told as what it stands for"
    reader.report_loader("gpu0", LoaderReport(state="gone"))


DIES = """
import os, pathlib, signal, sys
from qwen_api.client import Client
from qwen_api.commands import LoaderReport
Client(pathlib.Path(sys.argv[1])).report_loader(sys.argv[2], LoaderReport(state="loading", pid=int(sys.argv[3])))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_loader_that_dies_is_told_as_failed(daemon: Running) -> None:
    """SIGKILL, as the kernel does it when memory is out; one that never said it would stay is not missed."""
    mark = daemon.mark
    for name, pid in (("passer-by", "0"), ("gpu0", "1")):
        subprocess.run([sys.executable, "-c", DIES, str(daemon.control), name, pid], check=False)
    told = daemon.wait_event(e.LoaderChanged, after=mark, state="failed")
    assert told.name == "gpu0"
    assert told.detail.startswith("killed, or out of memory") and told.detail.endswith("without a word while loading")
    assert daemon.status.loaders["passer-by"].state == "loading"


@needs_curl
def test_readiness_is_completeness(daemon: Running, hub: SimHub) -> None:
    """200 while every model, or the one asked for, is complete; else 503 with what it is doing and Retry-After."""
    assert curl(daemon, "/readyz")[0] == 200
    gate = hub.gate("*", 0, repo="org/slow")
    assert daemon.client.add(AddModel(model="org/slow")).model == "org--slow"
    status, _, body = curl(daemon, "/readyz")
    assert (status, json.loads(body)[KEY]["state"]) == (503, "complete")
    assert curl(daemon, f"/readyz?model={KEY}")[0] == 200
    assert curl(daemon, "/readyz?model=org--slow")[0] == 503
    assert curl(daemon, "/readyz?model=none")[0] == 404
    gate.open()
    daemon.wait_complete("org--slow")
    assert curl(daemon, "/readyz")[0] == 200
    daemon.client.remove("org--slow", delete_files=True)
    daemon.wait_event(e.ModelRemoved, model="org--slow")


def test_commands_answer_with_the_number_to_look_behind(daemon: Running) -> None:
    """The effect of a command shows at or after the answered number; adding twice with the same patterns is nothing."""
    mark = daemon.mark
    accepted = daemon.client.verify(KEY)
    complete = daemon.wait_complete(KEY, after=mark)
    assert accepted.model == KEY and complete.seq > accepted.seq - 1
    seq = daemon.client.state().seq
    assert daemon.client.add(AddModel(model=REPO)).seq >= seq
    assert daemon.seen(e.ModelAdded, after=mark) == []


@pytest.mark.fault("S2", "S6")
def test_junk_disturbs_nobody(daemon: Running) -> None:
    """Garbage, endless headers, half-closed and dropped connections: refused or closed, while others are answered."""
    answered = [
        raw(daemon, b"\x00\xff" * 500),
        raw(daemon, b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n"),
        raw(daemon, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000),
        raw(daemon, b"POST /v1/models HTTP/1.1\r\nHost: d\r\nContent-Length: -5\r\n\r\n"),
        raw(daemon, b"POST /v1/models HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\n{"),
        raw(daemon, b"POST /v1/models HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
        raw(daemon, b"GET /v1/events HTTP/9.9\r\n\r\n"),
    ]
    assert all(answer.startswith((b"HTTP/1.", b"")) and b" 200 " not in answer[:20] for answer in answered)
    assert raw(daemon, b"GET /healthz HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False).startswith(
        b"HTTP/1.1 200"
    )
    for _ in range(200):  # more than the streams that may be open at once
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(daemon.control))
            connection.settimeout(TIMEOUT_S)
            connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: d\r\n\r\n")
            assert connection.recv(1) == b"H"
    assert b" 200 " in raw(
        daemon, b"GET /v1/events?follow=0 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False
    )
    assert daemon.client.state().models[KEY].state == "complete"
    assert "Traceback" not in daemon.stderr


@pytest.mark.fault("C5")
def test_a_second_daemon_does_not_start_beside_the_first(daemon: Running) -> None:
    """Same state or same socket: it ends at once and names the other."""
    assert daemon.run("--config", str(daemon.config_file)) != 0
    assert str(daemon.pid) in daemon.stderr.rpartition("error[E_ALREADY_RUNNING]")[2]
    assert daemon.client.state().models[KEY].state == "complete"


def test_a_stop_says_goodbye_and_a_start_is_another_epoch(hub: SimHub, tmp_path: Path) -> None:
    """Streams end after daemon.stopping; sockets vanish; the next process has an epoch of its own."""
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        first = daemon.client.version().epoch
        daemon.wait_event(e.DaemonStarted)  # the ear is there
        daemon.signal(signal.SIGTERM)
        daemon.wait_event(e.DaemonStopping)
        assert daemon.stop() == 0
        assert not daemon.control.exists()
        daemon.start()
        assert daemon.client.version().epoch != first
        mark = daemon.mark
        daemon.configure([REPO])
        assert daemon.wait_event(e.ConfigReloaded, after=mark).models == (REPO,)
        daemon.wait_complete(KEY)
        daemon.config_file.write_text("models = 7")
        assert "$.models" in daemon.wait_event(e.ConfigRejected, after=mark).detail
        assert daemon.client.state().models[KEY].state == "complete"
        daemon.configure([])
        daemon.wait_event(e.ModelRemoved, after=mark, model=KEY)
