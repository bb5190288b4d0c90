"""Through a proxy, as companies have them: the environment says where, and a password meant for others stays here.

A proxy that fails is named itself, not the Hub that nobody reached, and its password stays in the environment.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from qwen_api import events as e
from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import TryAgain
from qwen_daemon.shell.fetch import FetchConfig, HttpOrigin, http_session
from qwen_daemon.shell.tokens import Token
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
FILES = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: model_folder.safetensors("w", floats=1 << 19)}


class ForwardProxy:
    """Takes requests in absolute form, one per connection, and passes them on; `asked` are their targets."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ForwardProxy:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self.asked.append(target)
            parts = urlsplit(target)
            there, out = await asyncio.open_connection(parts.hostname, parts.port)
            path = target.removeprefix(f"{parts.scheme}://{parts.netloc}")
            lines = [line for line in head.split(b"\r\n")[1:] if line and not line.lower().startswith(b"connection:")]
            out.write(b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *lines, b"Connection: close", b"", b""]))
            while data := await there.read(1 << 16):
                writer.write(data)
                await writer.drain()
            out.close()
        writer.close()


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def test_everything_goes_through_the_proxy_of_the_environment(hub: SimHub, tmp_path: Path) -> None:
    """The listing, the resolving and the bytes."""
    with ForwardProxy() as proxy:
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
        daemon.env |= {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with daemon:
            daemon.wait_complete(KEY)
        assert len(proxy.asked) == len(hub.log.requests())
    assert any("/tree/" in target for target in proxy.asked) and hub.log.requests(server="cdn", path=WEIGHTS)


def test_no_proxy_for_whom_no_proxy_names(hub: SimHub, tmp_path: Path) -> None:
    """A mirror in one's own network is asked directly."""
    with ForwardProxy() as proxy:
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
        daemon.env |= {"http_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": "127.0.0.1,example.org"}
        with daemon:
            daemon.wait_complete(KEY)
        assert proxy.asked == []


@pytest.mark.fault("T4")
def test_passwords_of_netrc_stay_here(hub: SimHub, tmp_path: Path) -> None:
    """Its `default` would go to any host, the CDN included."""
    daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
    netrc = Path(daemon.env["HOME"]) / ".netrc"
    netrc.parent.mkdir(parents=True, exist_ok=True)
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    with daemon:
        daemon.wait_complete(KEY)
    said = [request.header("authorization") for request in hub.log.requests(path=WEIGHTS)]
    assert said and not any(each.startswith("Basic") for each in said if each)
    assert not any(request.had_authorization for request in hub.log.requests(server="cdn", path=WEIGHTS))


def dead_port() -> int:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.fault("H35", "T4")
@pytest.mark.parametrize("endpoint", ["http://hub.example:8090", "https://hub.example"])
def test_a_dead_proxy_is_named_without_its_password(tmp_path: Path, endpoint: str) -> None:
    """While the listing is asked for: the proxy's host and port are what people need, its password is not."""
    port = dead_port()
    daemon = Running(tmp_path, endpoint=endpoint, models=[REPO])
    daemon.env |= {"ALL_PROXY": f"http://me:s3cret@127.0.0.1:{port}"}
    with daemon:
        daemon.wait_for(lambda: any(told.code for told in daemon.seen(e.ModelStateChanged)), "a reason")
        told = next(told for told in daemon.seen(e.ModelStateChanged) if told.code)
        assert told.code == "E_PROXY" and f"cannot connect to the proxy 127.0.0.1:{port}" in told.detail
        assert "hub.example" not in told.detail
        assert "s3cret" not in daemon.stderr + told.detail


@pytest.mark.fault("H35")
async def test_a_proxy_that_dies_later_is_named_too() -> None:
    """While bytes are asked for; and a proxy that wants another password says so."""
    port = dead_port()
    os.environ["HTTPS_PROXY"] = f"http://me:s3cret@127.0.0.1:{port}"
    assert await said_of_bytes() == ("E_PROXY", f"cannot connect to the proxy 127.0.0.1:{port}: connection refused")

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", port):
        code, detail = await said_of_bytes()
        assert code == "E_PROXY" and "HTTP 407" in detail and "s3cret" not in detail


async def said_of_bytes() -> tuple[str, str]:
    config = FetchConfig(user_agent="test", connect_timeout_s=5, read_timeout_s=5, connections_max=1)
    file = WantedFile(path=WEIGHTS, size_bytes=1, git_sha1="0" * 40)
    async with http_session(config) as session:
        origin = HttpOrigin(
            session, "https://hub.example", Token(lambda: None), on_throttled=lambda _origin, _after_s: None
        )
        with pytest.raises(TryAgain) as refused:
            async with origin.read(REPO, "0" * 40, file, 0, 1):
                pass
    return refused.value.code, refused.value.detail
