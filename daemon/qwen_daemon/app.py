"""The only place that knows every part: build them, run them, stop them in reverse order.

Order of a start: locks, ledger, sockets listening, engine, READY. Order of a stop: STOPPING, downloads record what
they have, streams end, sockets close, ledger closes, locks go. A signal only sets an event.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from aiohttp import web

from qwen_api import commands, places
from qwen_api import events as e
from qwen_api.seals import Seal
from qwen_daemon import config as configuration
from qwen_daemon import logs
from qwen_daemon.config import BadConfig, Settings
from qwen_daemon.core.status_line import status_line
from qwen_daemon.engine.bus import Bus
from qwen_daemon.engine.cancel import beside
from qwen_daemon.engine.files import Budget, Disk
from qwen_daemon.engine.keeper import Keeper, Rhythm
from qwen_daemon.engine.reconcile import Engine
from qwen_daemon.engine.room import Room
from qwen_daemon.engine.round import World
from qwen_daemon.shell import hub as hub_module
from qwen_daemon.shell import instance
from qwen_daemon.shell.api import Api
from qwen_daemon.shell.clock import SystemClock
from qwen_daemon.shell.fetch import FetchConfig, HttpOrigin
from qwen_daemon.shell.hub import HubApi
from qwen_daemon.shell.ledger import SqliteLedger
from qwen_daemon.shell.locks import CacheLocks
from qwen_daemon.shell.store import HubCache
from qwen_daemon.shell.structure import SnapshotStructure
from qwen_daemon.shell.systemd import Notifier, inherited_sockets
from qwen_daemon.shell.watch import FileWatch

log = structlog.get_logger(__name__)

STATUS_INTERVAL_S = 2.0
STREAM_END_GRACE_S = 2.0  # for readers to take the last lines
HASHES_AT_ONCE = 2  # sha256 runs at 1.5 GB/s a core; more would starve the GPU's own process
LOADER_GONE_S = 5.0  # how often the processes of loaders are looked for


@dataclass
class Signals:
    """What the process was asked to do from outside."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads; asked again, nothing more happens."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """The running parts that the two ways of running (for ever, once) work with."""

    settings: Settings
    bus: Bus
    engine: Engine
    signals: Signals
    notifier: Notifier


@asynccontextmanager
async def running(settings: Settings, env: Mapping[str, str]) -> AsyncIterator[Daemon]:
    """A daemon whose sockets answer. Raises AlreadyRunning, OSError (sockets, directories)."""
    async with AsyncExitStack() as stack:
        signals, notifier, clock = Signals(), Notifier(env), SystemClock()
        signals.install()
        _lock(stack, settings)
        version = importlib.metadata.version("qwen-daemon")
        bus = Bus(clock, f"qwen-daemon/{version}")
        bus.listen(logs.write_event)
        ledger = SqliteLedger(settings.state_dir)
        damage = await ledger.open()
        stack.push_async_callback(ledger.close)
        if damage is not None:
            log.warning("ledger.set_aside", why=damage)
        store = HubCache(settings.cache_dir)
        swept = await store.sweep(await ledger.part_names())
        if swept:
            log.info("parts.swept", parts=len(swept))
        hub_module.quiet()
        world = await stack.enter_async_context(_world(settings, env, bus, clock, store, ledger))
        engine = Engine(
            world=world,
            watch=FileWatch(),
            watched=store.watched,
            rhythm=Rhythm(check_s=settings.config.check.disk_interval_s, hub_s=settings.config.check.hub_interval_s),
            removing=store,
        )
        about = commands.Version(
            version=version,
            wire=e.WIRE_VERSION,
            epoch=bus.epoch,
            pid=os.getpid(),
            cache_dir=str(settings.cache_dir),
            state_dir=str(settings.state_dir),
            endpoint=settings.endpoint,
        )
        await _serve(stack, settings, env, Api(bus, engine, about, _seals(engine, ledger)), bus)
        bus.publish(e.DaemonStarted(version=version, pid=os.getpid()))
        await stack.enter_async_context(_engine(engine))
        yield Daemon(settings=settings, bus=bus, engine=engine, signals=signals, notifier=notifier)
        notifier.stopping("recording what is here")
        bus.publish(e.DaemonStopping(reason="asked to"))


async def run_for_ever(settings: Settings, env: Mapping[str, str]) -> None:
    """The service: until a signal."""
    async with running(settings, env) as daemon:
        daemon.engine.configure(settings.config.models)
        daemon.notifier.ready(status_line(daemon.bus.status))
        async with (
            beside(_pulse(daemon)),
            beside(_reload_on_hup(daemon)),
            beside(_reload_on_change(daemon)),
            beside(_miss_loaders(daemon)),
        ):
            await daemon.signals.stop.wait()


async def run_once(settings: Settings, env: Mapping[str, str], wanted: commands.AddModel) -> tuple[str, str]:
    """Work on one model until its round ends; returns (error code or "", detail). A signal gives ("E_STOPPED", "")."""
    async with running(settings, env) as daemon:
        daemon.engine.configure([wanted])
        (keeper,) = daemon.engine.keepers().values()
        async with beside(_pulse(daemon)), beside(_stop_on_settled(keeper, daemon.signals)):
            await daemon.signals.stop.wait()
        outcome = keeper.outcome
        if outcome is None:
            return "E_STOPPED", ""
        return (outcome.code, outcome.detail) if not outcome.complete else ("", "")


async def _stop_on_settled(keeper: Keeper, signals: Signals) -> None:
    await keeper.settled.wait()
    signals.stop.set()


@asynccontextmanager
async def _world(
    settings: Settings, env: Mapping[str, str], bus: Bus, clock: SystemClock, store: HubCache, ledger: SqliteLedger
) -> AsyncIterator[World]:
    def token() -> str | None:
        return hub_module.read_token(env)

    def throttled(origin: str, after_s: float) -> None:
        bus.publish(e.HubThrottled(origin=origin, retry_at=clock.utc(after_s)))

    network = settings.config.network
    fetch = FetchConfig(
        endpoint=settings.endpoint,
        token=token,
        user_agent=hub_module.user_agent(),
        connect_timeout_s=network.connect_timeout_s,
        read_timeout_s=network.read_timeout_s,
        connections_max=2 * network.max_files,
    )
    async with HttpOrigin(fetch, on_throttled=throttled) as origin:
        yield World(
            hub=HubApi(settings.endpoint, token),
            origin=origin,
            disk=Disk(store=store, blobs=store, ledger=ledger, seals=ledger, locks=CacheLocks(settings.cache_dir)),
            listings=store,
            desires=ledger,
            clock=clock,
            budget=Budget(files=asyncio.Semaphore(network.max_files), hashes=asyncio.Semaphore(HASHES_AT_ONCE)),
            room=Room(store, str(settings.cache_dir), settings.config.disk.reserve_bytes, bus.publish),
            publish=bus.publish,
            select=hub_module.select,
            structure=SnapshotStructure(settings.cache_dir),
            offline=settings.offline,
        )


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


def _lock(stack: AsyncExitStack, settings: Settings) -> None:
    about = f"pid {os.getpid()}, socket {settings.control_socket}"
    locks = (settings.state_dir / "lock", settings.control_socket.with_name(settings.control_socket.name + ".lock"))
    for path in locks:
        stack.callback(instance.InstanceLock(path, about).release)


async def _serve(stack: AsyncExitStack, settings: Settings, env: Mapping[str, str], api: Api, bus: Bus) -> None:
    """Both sockets, inherited from systemd or bound here; at the end, streams end before connections are cut."""
    given = inherited_sockets(env)
    for name, control in ((places.CONTROL_SOCKET, True), (places.EVENTS_SOCKET, False)):
        listener = given.get(name.removesuffix(".sock"))
        if listener is None:
            path = settings.control_socket if control else places.events_socket(settings.control_socket)
            listener = instance.listen(path)
            stack.callback(path.unlink, missing_ok=True)
        stack.callback(listener.close)
        await _site(stack, api.application(control=control), listener)
    stack.callback(bus.close)


async def _site(stack: AsyncExitStack, application: web.Application, listener: socket.socket) -> None:
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=STREAM_END_GRACE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener).start()


def _seals(engine: Engine, ledger: SqliteLedger) -> Callable[[str], Awaitable[Mapping[str, Seal]]]:
    async def of_model(key: str) -> Mapping[str, Seal]:
        keeper = engine.keepers().get(key)
        if keeper is None or keeper.manifest is None:
            return {}
        seals = await ledger.seals([file.etag for file in keeper.manifest.files])
        return {file.path: seals[file.etag] for file in keeper.manifest.files if file.etag in seals}

    return of_model


async def _pulse(daemon: Daemon) -> None:
    """STATUS every two seconds, and the watchdog at half its time: both from the loop, so both mean it is alive."""
    watchdog_s = daemon.notifier.watchdog_s
    interval_s = min(STATUS_INTERVAL_S, watchdog_s / 2) if watchdog_s else STATUS_INTERVAL_S
    last = ""
    while True:
        if watchdog_s:
            daemon.notifier.watchdog()
        line = status_line(daemon.bus.status)
        if line != last:
            daemon.notifier.status(line)
            last = line
        await asyncio.sleep(interval_s)


async def _reload_on_hup(daemon: Daemon) -> None:
    while True:
        await daemon.signals.reload.wait()
        daemon.signals.reload.clear()
        daemon.notifier.reloading()
        _reload(daemon)
        daemon.engine.recheck("signal")
        daemon.notifier.ready(status_line(daemon.bus.status))


async def _reload_on_change(daemon: Daemon) -> None:
    path = daemon.settings.config_file
    if path is None:
        return
    async for changed in FileWatch().changes([path.parent]):
        if any(Path(name).name == path.name for name in changed):
            _reload(daemon)


def _reload(daemon: Daemon) -> None:
    """Take the file's models; a bad file keeps the old ones and says so."""
    path = daemon.settings.config_file
    if path is None:
        return
    try:
        config = configuration.read(path)
    except BadConfig as error:
        daemon.bus.publish(e.ConfigRejected(path=str(path), detail=str(error)))
        return
    daemon.engine.configure(config.models)
    daemon.bus.publish(e.ConfigReloaded(path=str(path), models=tuple(model.model for model in config.models)))


async def _miss_loaders(daemon: Daemon) -> None:
    """A loader whose process is gone without a word is told as gone."""
    while True:
        await asyncio.sleep(LOADER_GONE_S)
        for loader in list(daemon.bus.status.loaders.values()):
            if loader.state != "gone" and loader.pid > 0 and not Path(f"/proc/{loader.pid}").exists():
                daemon.bus.publish(
                    e.LoaderChanged(name=loader.name, state="gone", model=loader.model, detail="its process is gone")
                )
