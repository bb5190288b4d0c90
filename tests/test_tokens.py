"""A token that becomes another one while the daemon runs: seldom read, and never the reason why a download ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import AskHuman
from qwen_daemon.shell.fetch import FetchConfig, HttpOrigin, http_session
from qwen_daemon.shell.tokens import TOKEN_AGE_S, Token
from tests.fakes.bodies import read_out
from tests.fakes.hub import SimHub, SimRepo

NAMES = ("a.json", "b.json", "c.json")  # served by the Hub itself, so that each request needs the token
REPO = SimRepo(id="org/one", files={name: name.encode() for name in NAMES}, private=True)
CONFIG = FetchConfig(user_agent="test", connect_timeout_s=5, read_timeout_s=5, connections_max=4)


def sent(hub: SimHub) -> list[str | None]:
    return [request.header("authorization") for request in hub.log.requests(server="hub")]


async def fetch(origin: HttpOrigin, name: str) -> bytes:
    content, entry = bytearray(), REPO.entry(name)
    file = WantedFile(path=name, size_bytes=len(name), git_sha1=entry.oid, sha256=entry.sha256)
    async with origin.read(REPO.id, REPO.sha, file, 0, len(name)) as body:
        await read_out(body, content)
    return bytes(content)


def test_it_is_read_once_a_second() -> None:
    """However many requests there are; and nobody goes on with an old one for longer."""
    holds, reads, now_s = ["first"], [0], [0.0]

    def read() -> str:
        reads[0] += 1
        return holds[0]

    token = Token(read, now_s=lambda: now_s[0])
    assert [token() for _ in range(1000)] == ["first"] * 1000 and reads == [1]
    holds[0] = "second"
    now_s[0] = 0.99 * TOKEN_AGE_S
    assert token() == "first"
    now_s[0] = TOKEN_AGE_S
    assert token() == "second" and reads == [2]


@pytest.mark.fault("H20")
async def test_a_token_that_is_replaced_in_mid_job_stops_nothing(tmp_path: Path) -> None:
    """The old one is revoked just after it was read: what it is refused is asked for with the new one, at once."""
    place = tmp_path / "token"
    place.write_text("old")
    token = Token(place.read_text, now_s=lambda: 0.0)  # within this second
    async with SimHub(REPO, tokens=["old"]) as hub, http_session(CONFIG) as session:
        origin = HttpOrigin(session, hub.endpoint, token, on_throttled=lambda _origin, _after_s: None)
        assert await fetch(origin, "a.json") == b"a.json"
        place.write_text("new")
        hub.tokens = frozenset({"new"})
        assert await fetch(origin, "b.json") == b"b.json" and await fetch(origin, "c.json") == b"c.json"
        assert sent(hub) == ["Bearer old"] * 3 + ["Bearer new"] * 4  # two for each file, which is a redirect away


@pytest.mark.fault("H20")
async def test_a_token_that_is_only_revoked_is_refused_once(tmp_path: Path) -> None:
    """There is no other one to ask with: a person must give one."""
    place = tmp_path / "token"
    place.write_text("old")
    async with SimHub(REPO, tokens=["new"]) as hub, http_session(CONFIG) as session:
        origin = HttpOrigin(session, hub.endpoint, Token(place.read_text), on_throttled=lambda _origin, _after_s: None)
        with pytest.raises(AskHuman):
            await fetch(origin, "a.json")
        assert sent(hub) == ["Bearer old"]
        place.write_text("new")
        assert await fetch(origin, "a.json") == b"a.json"
