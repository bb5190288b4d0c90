"""The real bus and event stream on a socket, events at a steady rate, and a loop that counts its callbacks.

    python -m tests.fakes.event_source SOCKET EVENTS PER_SECOND BEFORE

It tells BEFORE events at once, goes on when it reads a line, and ends with one line of JSON: the dearest callbacks in
CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from aiohttp import web

from qwen_api import events as e
from qwen_daemon import logs
from qwen_daemon.engine.bus import Bus
from qwen_daemon.process import collect_rarely
from qwen_daemon.shell.api_stream import EventStream
from qwen_daemon.shell.clock import SystemClock
from qwen_daemon.shell.visitors import Visitors
from tests.fakes.timed_loop import TimedLoop

TICK_S = 0.01


async def serve(path: str, count: int, per_second: int, before: int) -> None:
    """Listen, wait for a line, publish, say goodbye."""
    bus = Bus(SystemClock(), "test")
    for number in range(before):
        publish(bus, number)
        await asyncio.sleep(0)
    app = web.Application()
    app.add_routes([web.get("/v1/events", EventStream(bus, lambda name: name, Visitors()).answer)])
    runner = web.AppRunner(app, shutdown_timeout=10)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    loop = asyncio.get_running_loop()
    began_s, done = loop.time(), 0
    while done < count:
        await asyncio.sleep(TICK_S)
        due = min(count, round((loop.time() - began_s) * per_second))
        for number in range(done, due):
            publish(bus, number)
        done = due
    bus.close()
    await runner.cleanup()


def publish(bus: Bus, number: int) -> None:
    """One of many events that are alike."""
    bus.publish(e.FileStarted(model="org--m", path=f"{number % 100}.bin", attempt=1, size_bytes=number))


if __name__ == "__main__":
    logs.configure(os.environ)
    collect_rarely()
    with asyncio.Runner(loop_factory=TimedLoop) as runner:
        timed = runner.get_loop()
        assert isinstance(timed, TimedLoop)
        runner.run(serve(sys.argv[1], *map(int, sys.argv[2:5])))
    print(json.dumps(timed.dearest_s), flush=True)
