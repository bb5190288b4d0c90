"""What the daemon writes down: no secret whatever is logged, one record a line whatever strangers put into names."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_daemon import logs
from tests import canary
from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.fakes.hub_kinds import listing_adds
from tests.fakes.model_folder import safetensors, transformers_model
from tests.running import Running

FORMS = ("json", "plain", "journal")
START = {"plain": re.compile(r"\d\d:\d\d:\d\d \[\w+ *\] \S"), "journal": re.compile(r"<[2-7]>event=\S")}
FORGED_START = re.compile(r"(\d\d:\d\d:\d\d \[\w+ *\] |<\d>event=)forged")
FORGED = '\n{"level":"info","event":"forged"}\n00:00:00 [info] forged\n<6>event=forged \r'
HOSTILE = f"x{FORGED}\x1b[2J\x1b]0;owned\x07\x9b31m\x85\u2028\u202eevil\u2066\u200b\x00"
WITHOUT_SPACE = "x\x1b[2J\x9b31m\u202e\u2028\x7f"

words = st.text(max_size=20).filter(lambda word: not any(secret in word for secret in canary.PLANTED))
prefixes = st.sampled_from(
    ["", "Bearer ", "bearer\t", "token=", "Authorization: Bearer ", "http://u:", "hf_", "?", "'"]
)
tokens = st.builds(lambda before, prefix: f"{before}{prefix}{canary.TOKEN}", words, prefixes)
paths = st.text(st.characters(exclude_characters="\ud800", exclude_categories=["Cs"]), max_size=20)
SIGNED = (
    "https://cdn.example/{path}?X-Amz-Signature={signature}&x={path}",
    "/{path}?Policy=e30_&Signature={signature}",
    "Location: //cdn/{path}?Expires=1&Signature={signature}",
    "next=https%3A%2F%2Fcdn%2F%3FSignature%3D{signature}",
    "Cookie: {signature}",
    "{{'Set-Cookie': '{signature}; Path=/'}}",
    "http://user:{signature}@proxy:3128/{path}",
    "http://user:p@{signature}@proxy:3128",
    "Proxy-Authorization: Basic {signature}",
)
addresses = st.builds(
    lambda form, path: form.format(path=path, signature=canary.SIGNATURE), st.sampled_from(SIGNED), paths
)
secrets = st.one_of(tokens, addresses)
logged = st.recursive(
    secrets,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(words, secrets), inner, max_size=3),
        inner.map(lambda value: ValueError(value)),
        inner.map(lambda value: Path(str(value).replace("\0", ""))),
    ),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What configure() sets up for a process ends with the test."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    before = (list(root.handlers), root.level, server.level)
    yield
    root.handlers[:], root.level, server.level = before
    structlog.reset_defaults()


@contextlib.contextmanager
def written(form: str) -> Iterator[io.StringIO]:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        logs.configure({"QWEN_DAEMON_LOG": form}, level="debug")
        yield stderr


def write(what: object, error: BaseException) -> None:
    """As our modules do, and as libraries do."""
    ours = structlog.get_logger()
    ours.info("a.thing", what=what, event_text=str(what))
    logging.getLogger("library").warning("it said %s", what, extra={"more": what})
    try:
        raise RuntimeError(what) from error
    except RuntimeError as raised:
        ours.error("it.failed", exc_info=raised)
        logging.getLogger("library").exception("failed: %s", what)


@pytest.mark.fault("T2", "T3", "T4")
@pytest.mark.parametrize("form", FORMS)
@example(what=Path("[\"{'Set-Cookie': '" + canary.SIGNATURE + "; Path=/'}\"]"))
@given(what=logged)
def test_whatever_is_logged_no_secret_is_written(form: str, what: Any) -> None:
    """Headers, addresses, exceptions and their causes; nested, in our records and in those of libraries."""
    with written(form) as stderr:
        write(what, OSError(what))
    said = stderr.getvalue()
    assert "it.failed" in said
    canary.refuse({"the log": said})


@pytest.mark.fault("T2", "T3")
@given(text=st.one_of(words, secrets, st.lists(st.one_of(words, secrets)).map(" ".join)))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    """So a text may pass through any number of doors."""
    once = logs.redact(text)
    assert logs.redact(once) == once
    canary.refuse({"the text": once})


@given(name=st.text(st.characters(exclude_characters="=:%"), max_size=60).filter(lambda name: "hf_" not in name))
def test_harmless_text_is_left_as_it_is(name: str) -> None:
    """Names and sentences; and addresses without a query."""
    spoken = re.search(r"(?i)bearer|authorization|cookie", name)
    assert spoken or logs.redact(name) == name
    for text in (
        "https://hub.example/org/name/resolve/main/model.safetensors",
        "size=5 commit=main",
        "a token is kept",
    ):
        assert logs.redact(text) == text


def assert_records(form: str, said: str) -> list[str]:
    """Every line is a record of its own, or of a traceback set in below one, and moves no cursor."""
    lines = said.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable(), repr(line)
        if form == "json":
            record = json.loads(line)
            assert {"level", "timestamp", "event"} <= set(record) and record["event"] != "forged", line
        else:
            assert START[form].match(line) or (line.startswith("  ") and form == "plain"), repr(line)
            assert not FORGED_START.match(line), line
    return lines


@pytest.mark.fault("X2")
@pytest.mark.parametrize("form", FORMS)
@given(
    what=st.one_of(st.text(), st.sampled_from([HOSTILE, WITHOUT_SPACE]), st.binary(max_size=20), st.lists(st.text()))
)
def test_whatever_is_logged_stays_on_its_line(form: str, what: object) -> None:
    """As a field, as the message, as an exception's text, of ours and of libraries."""
    with written(form) as stderr:
        write(what, OSError(what))
    lines = assert_records(form, stderr.getvalue())
    assert len([line for line in lines if not line.startswith("  ")]) == 4


REPO = "org/name"
FILES = {**transformers_model("Qwen2ForCausalLM"), "model.safetensors": safetensors("w")}


def command(daemon: Running, method: str, target: str, body: object, agent: str) -> int:
    """As a client that minds nothing: header bytes as they are."""
    connection = http.client.HTTPConnection("d")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(daemon.control))
    headers = {"Content-Type": "application/json", "User-Agent": agent, "X-Request-Id": agent}
    try:
        connection.request(method, target, msgspec.json.encode(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.fault("X1", "X2")
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_hub_and_a_hostile_client_write_no_record_of_their_own(tmp_path: Path, form: str) -> None:
    """Names, hashes, headers and pages of a Hub; models, patterns, loaders and user agents of a client."""
    odd, agent = quote(HOSTILE), "x\x9b31m\x85\xad {'level': 'info'}"  # an ESC in a header is refused at once
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES), SimRepo(id="org/odd", files=FILES))) as hub:
        hub.faults.add(Fault(listing_adds(f"a/{HOSTILE}.json"), repo="org/odd"))
        page = kinds.Status(code=418, headers={"X-Error-Message": agent, "X-Error-Code": agent}, body=HOSTILE.encode())
        hub.faults.add(Fault(page, path="model.safetensors", on="cdn", times=1))
        hub.faults.add(Fault(page, path="config.json", times=1))
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], env={"QWEN_DAEMON_LOG": form}) as daemon:
            daemon.wait_complete("org--name")
            for body in ({"model": HOSTILE}, {"model": "org/name", "allow": [HOSTILE], HOSTILE: 1}, [HOSTILE]):
                assert command(daemon, "POST", "/v1/models", body, agent) >= 400
            assert command(daemon, "POST", "/v1/models", {"model": REPO, "revision": HOSTILE}, agent) >= 400
            assert command(daemon, "POST", f"/v1/models/{odd}/pause", {}, agent) >= 400
            assert command(daemon, "POST", "/v1/models/org--name/files/pause", {"paths": [HOSTILE]}, agent) >= 400
            assert command(daemon, "PUT", f"/v1/loaders/{odd}", {"model": HOSTILE, "state": "waiting"}, agent) >= 400
            report = {"model": HOSTILE, "state": "failed", "detail": HOSTILE, "code": HOSTILE}
            command(daemon, "PUT", "/v1/loaders/well", report, agent)
            assert command(daemon, "GET", f"/{odd}", {}, agent) >= 400
            assert command(daemon, "GET", "/v1/state", {}, "\x1b[2J") == 400
            assert command(daemon, "POST", "/v1/models", {"model": "org/odd"}, agent) == 201
            daemon.wait_state("org--odd", "failed")
            assert daemon.stop() == 0
        assert len(assert_records(form, daemon.stderr)) > 5
        assert "evil" in daemon.stderr, "nothing hostile was logged at all"
