"""The only place that knows every part: build them, run them, stop them in reverse order.

Order of a start: locks, ledger, sockets listening, engine, READY. Order of a stop: STOPPING, downloads record what
they have, streams end, sockets close, ledger closes, locks go. A signal only sets an event.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog
from aiohttp import web

from qwen_api import commands, last_rates, places
from qwen_api import events as e
from qwen_api.models import parse_model
from qwen_daemon import logs, process
from qwen_daemon.config import ConfiguredModel, Settings
from qwen_daemon.core.status_line import status_line
from qwen_daemon.endpoints import Opener
from qwen_daemon.engine.bus import Bus
from qwen_daemon.engine.cancel import beside
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.controls import Controls
from qwen_daemon.engine.disk import Budget, Contents
from qwen_daemon.engine.endpoints import Endpoints
from qwen_daemon.engine.keeper import Keeper, Rhythm
from qwen_daemon.engine.loaders import Loaders
from qwen_daemon.engine.reconcile import Engine
from qwen_daemon.engine.scrub import Scrub
from qwen_daemon.engine.speeds import Speeds
from qwen_daemon.engine.world import World
from qwen_daemon.layouts import Layouts
from qwen_daemon.process import Daemon, Signals
from qwen_daemon.shell import door, instance
from qwen_daemon.shell import hub as hub_module
from qwen_daemon.shell.api import Api, Holdings
from qwen_daemon.shell.clock import SystemClock
from qwen_daemon.shell.fetch import FetchConfig, http_session
from qwen_daemon.shell.ledger import SqliteLedger
from qwen_daemon.shell.scrub import BackgroundReader
from qwen_daemon.shell.systemd import Notifier, inherited_sockets
from qwen_daemon.shell.visitors import Visitors
from qwen_daemon.shell.watch import FileWatch

log = structlog.get_logger(__name__)

STREAM_END_GRACE_S = 2.0  # for readers to take the last lines
ACCEPTED_AT_ONCE = 16  # connections: a millisecond or two of the loop's time
HASHES_AT_ONCE_MAX = 4  # sha256 takes a core for 1.5 GB/s: no disk gives more to four, and others want cores too
CONTROL, EVENTS = "control", "events"  # FileDescriptorName= in the socket units


@asynccontextmanager
async def running(
    settings: Settings, env: Mapping[str, str], models: Sequence[ConfiguredModel]
) -> AsyncIterator[Daemon]:
    """A daemon whose sockets answer; `models` says which local_dirs there are.

    Raises BadConfig, AlreadyRunning, SocketPathTooLong, OSError (sockets, directories).
    """
    async with AsyncExitStack() as stack:
        signals, notifier, clock = Signals(), Notifier(env), SystemClock()
        signals.install()
        given = inherited_sockets(env)
        settings = _where_systemd_listens(settings, given)
        _lock(stack, settings, given)
        version = importlib.metadata.version("qwen-daemon")
        bus = Bus(clock, f"qwen-daemon/{version}")
        bus.listen(logs.write_event)
        await stack.enter_async_context(_speeds(settings, bus, clock))
        ledger = await _ledger(stack, settings)
        layouts = await _layouts(stack, settings, models, ledger, bus)
        hub_module.quiet()
        endpoints = Endpoints(clock, bus.publish)
        opener = await stack.enter_async_context(_opener(settings, env, bus, clock, endpoints))
        opener.configure(settings.config)
        world = _world(settings, bus, clock, layouts, ledger, endpoints)
        engine = Engine(
            world=world,
            watch=FileWatch(),
            rhythm=Rhythm(check_s=settings.config.check.disk_interval_s, hub_s=settings.config.check.hub_interval_s),
        )
        loaders = Loaders(clock, bus, process.lives)
        api = Api(bus, engine, _about(settings, version, bus), _holdings(engine), loaders.hear)
        await _serve(stack, settings, given, api, bus)
        bus.publish(e.DaemonStarted(version=version, pid=os.getpid()))
        world.controls.tell()
        await stack.enter_async_context(_engine(engine))
        if settings.config.check.scrub_interval_s:
            await stack.enter_async_context(_scrub(settings, world, engine, ledger))
        yield Daemon(
            settings=settings,
            bus=bus,
            engine=engine,
            controls=world.controls,
            endpoints=opener,
            layouts=layouts,
            loaders=loaders,
            signals=signals,
            notifier=notifier,
        )
        notifier.stopping("recording what is here")
        bus.publish(e.DaemonStopping(reason="asked to"))


async def run_for_ever(settings: Settings, env: Mapping[str, str]) -> None:
    """The service: until a signal."""
    async with running(settings, env, settings.config.models) as daemon:
        await daemon.engine.configure(settings.config.models)
        daemon.notifier.ready(status_line(daemon.bus.status))
        await process.until_stopped(daemon)


async def run_once(settings: Settings, env: Mapping[str, str], wanted: ConfiguredModel) -> tuple[str, str]:
    """Work on one model until its round ends; returns (error code or "", detail). A signal gives ("E_STOPPED", "")."""
    async with running(settings, env, once_models(settings, wanted)) as daemon:
        await daemon.engine.configure([wanted])
        (keeper,) = daemon.engine.keepers().values()
        async with beside(process.pulse(daemon)), beside(_stop_on_settled(keeper, daemon.signals)):
            await daemon.signals.stop.wait()
        outcome = keeper.outcome
        if outcome is None:
            return "E_STOPPED", ""
        return (outcome.code, outcome.detail) if not outcome.complete else ("", "")


def once_models(settings: Settings, wanted: ConfiguredModel) -> tuple[ConfiguredModel, ...]:
    """This one, and the configured ones, of which nothing is wanted now but what lies in their folders."""
    key = parse_model(wanted.model).key
    return (*(model for model in settings.config.models if parse_model(model.model).key != key), wanted)


async def _stop_on_settled(keeper: Keeper, signals: Signals) -> None:
    await keeper.settled.wait()
    signals.stop.set()


async def _ledger(stack: AsyncExitStack, settings: Settings) -> SqliteLedger:
    ledger = SqliteLedger(settings.state_dir)
    damage = await ledger.open()
    stack.push_async_callback(ledger.close)
    if damage is not None:
        log.warning("ledger.set_aside", why=damage)
    return ledger


async def _layouts(
    stack: AsyncExitStack, settings: Settings, models: Sequence[ConfiguredModel], ledger: SqliteLedger, bus: Bus
) -> Layouts:
    """Where models lie; parts that no record names are removed."""
    reader = BackgroundReader()
    stack.callback(reader.close)
    layouts = Layouts(settings, ledger, reader, bus.publish)
    layouts.configure(models)
    swept = await layouts.store.sweep(await ledger.part_names())
    if swept:
        log.info("parts.swept", parts=len(swept))
    return layouts


def _about(settings: Settings, version: str, bus: Bus) -> commands.Version:
    return commands.Version(
        version=version,
        wire=e.WIRE_VERSION,
        epoch=bus.epoch,
        pid=os.getpid(),
        cache_dir=str(settings.cache_dir),
        state_dir=str(settings.state_dir),
        endpoint=settings.endpoint,
        reserve_bytes=settings.config.disk.reserve_bytes,
    )


@asynccontextmanager
async def _opener(
    settings: Settings, env: Mapping[str, str], bus: Bus, clock: SystemClock, endpoints: Endpoints
) -> AsyncIterator[Opener]:
    def throttled(origin: str, after_s: float) -> None:
        bus.publish(e.HubThrottled(origin=origin, retry_at=clock.utc(after_s)))

    renamed = dict[str, str]()

    def follows(repo: str, name: str) -> None:
        if renamed.get(repo) != name:
            renamed[repo] = name
            bus.publish(e.HubRenamed(repo=repo, name=name))

    network = settings.config.network
    fetch = FetchConfig(
        user_agent=hub_module.user_agent(),
        connect_timeout_s=network.connect_timeout_s,
        read_timeout_s=network.read_timeout_s,
        connections_max=2 * commands.COUNT_MAX,  # a safety net: the budgets, which commands change, are smaller
    )
    async with http_session(fetch) as session:
        yield Opener(endpoints, session, env, settings.endpoint, on_throttled=throttled, on_renamed=follows)


def _world(
    settings: Settings, bus: Bus, clock: SystemClock, layouts: Layouts, ledger: SqliteLedger, endpoints: Endpoints
) -> World:
    network = settings.config.network
    connections = Connections(network.max_connections)
    controls = Controls(clock, bus.publish, process.limits_of(network), connections.resize)
    return World(
        endpoints=endpoints,
        place=layouts.cache,
        desires=ledger,
        clock=clock,
        controls=controls,
        budget=Budget(
            files=controls.files,
            connections=connections,
            hashes=asyncio.Semaphore(_hashes_at_once()),
            contents=Contents(controls.files.reorder),
        ),
        publish=bus.publish,
        select=hub_module.select,
        place_of=layouts.of,
        offline=settings.offline,
    )


def _hashes_at_once() -> int:
    return min(HASHES_AT_ONCE_MAX, len(os.sched_getaffinity(0)))


@asynccontextmanager
async def _engine(engine: Engine) -> AsyncIterator[None]:
    """Run the engine; at the end its downloads are cancelled and record what they have."""
    task = asyncio.create_task(engine.run())
    try:
        await engine.started()
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _scrub(settings: Settings, world: World, engine: Engine, ledger: SqliteLedger) -> AsyncIterator[None]:
    scrub = Scrub(
        interval_s=settings.config.check.scrub_interval_s,
        keepers=engine.keepers,
        readings=ledger,
        clock=world.clock,
        publish=world.publish,
    )
    async with beside(scrub.run()):
        yield


@asynccontextmanager
async def _speeds(settings: Settings, bus: Bus, clock: SystemClock) -> AsyncIterator[None]:
    """Keep how fast downloads were, for whoever asks what the next one costs; also of one that the end cuts off."""
    speeds = Speeds(clock, lambda: bus.status)
    bus.listen(speeds.hear)

    async def keep() -> None:
        for model, rate in speeds.take().items():
            await asyncio.to_thread(last_rates.remember, settings.state_dir, model, rate)

    async def keep_all() -> None:
        while True:
            await speeds.news.wait()
            await keep()

    async with beside(keep_all()):
        yield
    await keep()


def _where_systemd_listens(settings: Settings, given: Mapping[str, socket.socket]) -> Settings:
    """The settings with the path of the control socket that was handed over, if one was."""
    unknown = given.keys() - {CONTROL, EVENTS}
    if unknown:
        log.warning("socket.unknown", names=sorted(unknown), fix=f"FileDescriptorName= must be {CONTROL} or {EVENTS}")
    if CONTROL not in given:
        return settings
    return msgspec.structs.replace(settings, control_socket=Path(given[CONTROL].getsockname()))


def _lock(stack: AsyncExitStack, settings: Settings, given: Mapping[str, socket.socket]) -> None:
    """One daemon per state directory and per socket; a socket handed over has its owner, and its folder is not ours."""
    about = f"pid {os.getpid()}, socket {settings.control_socket}"
    locks = [settings.state_dir / "lock"]
    if CONTROL not in given:
        for socket_path in (settings.control_socket, places.events_socket(settings.control_socket)):
            instance.check_socket_path(socket_path)
        locks.append(settings.control_socket.with_name(settings.control_socket.name + ".lock"))
    for path in locks:
        stack.callback(instance.InstanceLock(path, about).release)


async def _serve(
    stack: AsyncExitStack, settings: Settings, given: Mapping[str, socket.socket], api: Api, bus: Bus
) -> None:
    """Both sockets, inherited from systemd or bound here; at the end, streams end before connections are cut."""
    visitors = Visitors()
    entrance = door.Door(lambda transport: visitors.tell("connection.refused", transport, code="E_BUSY"))
    for name, path in ((CONTROL, settings.control_socket), (EVENTS, places.events_socket(settings.control_socket))):
        listener = given.get(name)
        if listener is None:
            listener = instance.listen(path)
            stack.callback(_remove_socket, path)
        stack.callback(listener.close)
        await _site(stack, api.application(control=name == CONTROL), listener, entrance)
    stack.callback(bus.close)


def _remove_socket(path: Path) -> None:
    """One that stays is in nobody's way: the next start puts its own in its place."""
    with suppress(OSError):
        path.unlink()


async def _site(
    stack: AsyncExitStack, application: web.Application, listener: socket.socket, entrance: door.Door
) -> None:
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=STREAM_END_GRACE_S,
        keepalive_timeout=door.IDLE_S,
        lingering_time=door.LINGER_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    serve = runner.server
    assert serve is not None
    loop = asyncio.get_running_loop()
    # aiohttp's own sites have no door. asyncio's `backlog` is the kernel's queue and as many are accepted in one go,
    # which keeps the loop from everybody else: the queue gets its length again (listen(2) may be called twice).
    server = await loop.create_unix_server(entrance.before(serve), sock=listener, backlog=ACCEPTED_AT_ONCE)
    listener.listen(instance.BACKLOG)
    stack.callback(server.close)


def _holdings(engine: Engine) -> Callable[[str], Awaitable[Holdings]]:
    async def of_model(key: str) -> Holdings:
        keeper = engine.keepers().get(key)
        if keeper is None or keeper.manifest is None:
            return Holdings("", {})
        seals = await keeper.disk.sealed(keeper.manifest)
        return Holdings(str(keeper.place.listings.snapshot(keeper.manifest)), seals)

    return of_model
