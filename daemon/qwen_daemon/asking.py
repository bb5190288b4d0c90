"""Asks the endpoints as the running daemon does, once: for a model's listing, and for how the way to them is.

The configuration's endpoints in its order, each with its own token; nothing is written. `questions` has the commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef
from qwen_api.probe import EndpointProbe, Probe, ThroughputProbe, TokenState
from qwen_daemon.config import Config, endpoint_in_force, endpoints_in_force
from qwen_daemon.core.errors import AskHuman, Trouble
from qwen_daemon.endpoint_keys import Named
from qwen_daemon.endpoints import Opener, token_of
from qwen_daemon.engine.endpoints import Endpoints
from qwen_daemon.engine.supply import Supply
from qwen_daemon.shell import hub
from qwen_daemon.shell.clock import SystemClock
from qwen_daemon.shell.fetch import FetchConfig, http_session
from qwen_daemon.shell.reach import Greeting, greet, proxy_name

THROUGHPUT_BYTES_MAX = 32 << 20  # enough for a rate on a fast line
THROUGHPUT_S = 3.0  # enough on a slow one
_BUFFER_BYTES = 1 << 20
_CONNECTIONS_MAX = 8


async def listing(config: Config, env: Mapping[str, str], ref: ModelRef) -> bytes:
    """huggingface_hub's trees/<commit>.json with `repo` and `commit` in it. Raises Trouble."""
    if config.offline:
        raise AskHuman("E_OFFLINE", "the configuration says: offline")
    async with _session(config) as session:
        return _document(await _manifest(_supply(config, env, session, ref), ref))


async def probe(config: Config, env: Mapping[str, str], ref: ModelRef, *, with_bytes: bool) -> Probe:
    """How each endpoint answers, the model's listing, and how fast bytes of its largest file come."""
    async with _session(config) as session:
        named = endpoints_in_force(config, endpoint_in_force(env, config))
        endpoints = await asyncio.gather(*(_greeted(session, one, env) for one in named))
        if all(endpoint.code for endpoint in endpoints):
            return Probe(endpoints=tuple(endpoints))
        supply = _supply(config, env, session, ref)
        try:
            manifest = await _manifest(supply, ref)
        except Trouble as trouble:
            failed = ThroughputProbe(code=trouble.code, detail=trouble.detail)
            return Probe(endpoints=tuple(endpoints), throughput=failed)
        throughput = await _throughput(supply, manifest) if with_bytes else None
        return Probe(endpoints=tuple(endpoints), listing=msgspec.Raw(_document(manifest)), throughput=throughput)


@asynccontextmanager
async def _session(config: Config) -> AsyncIterator[aiohttp.ClientSession]:
    network = config.network
    fetch = FetchConfig(
        user_agent=hub.user_agent(),
        connect_timeout_s=network.connect_timeout_s,
        read_timeout_s=network.read_timeout_s,
        connections_max=_CONNECTIONS_MAX,
    )
    async with http_session(fetch) as session:
        yield session


def _supply(config: Config, env: Mapping[str, str], session: aiohttp.ClientSession, ref: ModelRef) -> Supply:
    endpoints = Endpoints(SystemClock(), lambda _event: 0)
    opener = Opener(
        endpoints, session, env, endpoint_in_force(env, config), on_throttled=lambda _origin, _after_s: None
    )
    opener.configure(config)
    return Supply(endpoints, ref.key)


async def _manifest(supply: Supply, ref: ModelRef) -> Manifest:
    return await supply.list_files(ref.repo, await supply.resolve(ref))


def _document(manifest: Manifest) -> bytes:
    tree = msgspec.json.decode(write_tree(manifest))
    return msgspec.json.encode({"repo": manifest.repo, "commit": manifest.commit, **tree})


async def _greeted(session: aiohttp.ClientSession, one: Named, env: Mapping[str, str]) -> EndpointProbe:
    found = EndpointProbe(name=one.name, url=one.url, proxy=proxy_name(one.url))
    try:
        token = token_of(one, env)()
        greeting = await greet(session, one.url, token)
    except Trouble as trouble:
        return msgspec.structs.replace(found, code=trouble.code, detail=trouble.detail)
    code, detail = _trouble_in(greeting)
    return msgspec.structs.replace(
        found,
        code=code,
        detail=detail,
        latency_s=greeting.latency_s,
        clock_ahead_s=greeting.clock_ahead_s,
        token=_token_state(token, greeting),
        user=greeting.user,
    )


def _trouble_in(greeting: Greeting) -> tuple[str, str]:
    """Any answer of an API will do: a mirror may not know the question."""
    if greeting.is_page:
        return "E_CAPTIVE_PORTAL", "a web page answered in the place of the Hub"
    if greeting.status >= 500:
        return "E_HTTP", f"HTTP {greeting.status}"
    if greeting.status == 429:
        return "E_RATE_LIMITED", "HTTP 429"
    return "", ""


def _token_state(token: str | None, greeting: Greeting) -> TokenState:
    if token is None:
        return "none"
    if greeting.status in (401, 403):
        return "refused"
    return "ok" if greeting.user else "unknown"


async def _throughput(supply: Supply, manifest: Manifest) -> ThroughputProbe | None:
    file = max(manifest.files, key=lambda file: file.size_bytes, default=None)
    if file is None or not file.size_bytes:
        return None
    begun_s, came_bytes = time.monotonic(), 0
    try:
        async for count in _first_bytes(supply, manifest, file):
            came_bytes += count
            if time.monotonic() - begun_s >= THROUGHPUT_S:
                break
    except Trouble as trouble:
        return ThroughputProbe(path=file.path, size_bytes=came_bytes, code=trouble.code, detail=trouble.detail)
    return ThroughputProbe(path=file.path, size_bytes=came_bytes, duration_s=time.monotonic() - begun_s)


async def _first_bytes(supply: Supply, manifest: Manifest, file: WantedFile) -> AsyncIterator[int]:
    room = memoryview(bytearray(_BUFFER_BYTES))
    end = min(file.size_bytes, THROUGHPUT_BYTES_MAX)
    async with supply.read(manifest.repo, manifest.commit, file, 0, end) as body:
        while count := await body.read_into(room):
            yield count
