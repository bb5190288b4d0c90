"""The process around the engine: signals, systemd, configuration reloads, loaders that vanish.

What app.py built, these duties run beside it until somebody asks to stop. A duty that fails takes the process down with
it: systemd starts it again, which beats a daemon that no longer hears SIGHUP.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from qwen_api import events as e
from qwen_daemon import config as configuration
from qwen_daemon.config import BadConfig, Network, Settings
from qwen_daemon.core.status_line import status_line
from qwen_daemon.endpoints import Opener
from qwen_daemon.engine.bus import Bus
from qwen_daemon.engine.controls import Controls, Limits
from qwen_daemon.engine.loaders import LOOK_EVERY_S, Loaders
from qwen_daemon.engine.reconcile import Engine
from qwen_daemon.layouts import Layouts
from qwen_daemon.shell.systemd import Notifier
from qwen_daemon.shell.watch import FileWatch

log = structlog.get_logger(__name__)

STATUS_INTERVAL_S = 2.0


def collect_rarely() -> None:
    """Make full garbage collections rare and short; to be called once everything is imported.

    With 10,000 files one of them stopped the event loop for 0.1 s, several times in a download. What imports made lives
    as long as the process and need not be walked; nearly all else is freed by its last reference.
    """
    gc.freeze()
    gc.set_threshold(5_000, 5, 2_000)


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
    controls: Controls
    endpoints: Opener
    layouts: Layouts
    loaders: Loaders
    signals: Signals
    notifier: Notifier


async def until_stopped(daemon: Daemon) -> None:
    """Do every duty until a signal asks to stop."""
    duties = (pulse(daemon), _reload_on_hup(daemon), _reload_on_change(daemon), _miss_loaders(daemon))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(duty) for duty in duties]
        await daemon.signals.stop.wait()
        for task in tasks:
            task.cancel()


async def pulse(daemon: Daemon) -> None:
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
        await _reload(daemon)
        daemon.engine.recheck("signal")
        daemon.notifier.ready(status_line(daemon.bus.status))


async def _reload_on_change(daemon: Daemon) -> None:
    path = daemon.settings.config_file
    if path is None:
        return
    async for changed in FileWatch().changes([path.parent]):
        if any(Path(name).name == path.name for name in changed):
            await _reload(daemon)


async def _reload(daemon: Daemon) -> None:
    """Take the file's models, limits and endpoints; a bad file keeps the old ones and says so."""
    path = daemon.settings.config_file
    if path is None:
        return
    try:
        config = configuration.read(path)
        configuration.local_dirs(config.models, daemon.settings.cache_dir)  # before anything is changed
        if not daemon.endpoints.configure(config):
            log.warning("config.needs_restart", key="endpoint", path=str(path))
        daemon.layouts.configure(config.models)
    except BadConfig as error:
        daemon.bus.publish(e.ConfigRejected(path=str(path), detail=str(error)))
        return
    daemon.controls.configure(limits_of(config.network))
    await daemon.engine.configure(config.models)
    daemon.bus.publish(e.ConfigReloaded(path=str(path), models=tuple(model.model for model in config.models)))


def limits_of(network: Network) -> Limits:
    """What the configuration says of that which can be changed while the daemon runs."""
    return Limits(
        rate_limit_bps=network.rate_limit_bps, max_files=network.max_files, max_connections=network.max_connections
    )


async def _miss_loaders(daemon: Daemon) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        daemon.loaders.miss()


def lives(pid: int) -> bool:
    """Asked of kill(2) and not of /proc, where ProtectProc= hides the processes of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
