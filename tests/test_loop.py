"""No callback keeps the event loop long: while it does, no byte is taken, no command answered, no watchdog fed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

from qwen_api.commands import AddModel
from qwen_daemon import app, config
from qwen_daemon.process import Daemon, collect_rarely
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.timed_loop import TimedLoop

CALLBACK_S_MAX = 0.02
SMALL_FILES, LISTED_FILES = 600, 10_000
LARGE = {f"data-{number}.dat": bytes([number]) * (20 << 20) for number in range(4)}
MODEL = {f"small/{number:04}.json": b"%d" % number for number in range(SMALL_FILES)} | LARGE
LISTED = {f"data/{number:05}.json": b"%d" % number for number in range(LISTED_FILES)} | {"chosen.txt": b"this one"}


async def keep(daemon: Daemon, wanted: AddModel) -> None:
    """Bring it to complete and hash it again, while a reader listens and asks for everything at the end."""

    async def read() -> None:
        async with aclosing(daemon.bus.lines(since=0)) as lines:
            async for _line in lines:
                pass

    reader = asyncio.create_task(read())
    key = await daemon.engine.add(wanted)
    keeper = daemon.engine.keepers()[key]
    await keeper.settled.wait()
    assert keeper.complete
    keeper.verify(full=True)
    await keeper.settled.wait()
    assert keeper.complete
    async with aclosing(daemon.bus.lines(follow=False)) as lines:
        assert len([line async for line in lines]) == 3
    reader.cancel()


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """As the command does; the tests that follow have the collector as it was."""
    before = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_no_callback_takes_more_than_twenty_milliseconds_of_cpu(tmp_path: Path) -> None:
    """While it downloads and verifies hundreds of files, large ones among them, and reads a list of ten thousand."""

    async def work(endpoint: str) -> None:
        settings = config.settle(
            config.Config(disk=config.Disk(reserve_bytes=0)),
            None,
            {
                "HOME": str(tmp_path),
                "HF_HOME": str(tmp_path / "hf"),
                "XDG_STATE_HOME": str(tmp_path / "state"),
                "XDG_RUNTIME_DIR": str(tmp_path / "run"),
                "HF_ENDPOINT": endpoint,
            },
        )
        async with app.running(settings, {}, ()) as daemon:
            loop.dearest_s.clear()  # what a start costs keeps nobody waiting
            await keep(daemon, AddModel(model="org/model"))
            await keep(daemon, AddModel(model="org/listed", include=("chosen.txt",)))

    hub = SimHub(SimRepo(id="org/model", files=MODEL), SimRepo(id="org/listed", files=LISTED))
    with ThreadedSimHub(hub) as running, collecting_rarely(), asyncio.Runner(loop_factory=TimedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, TimedLoop)
        runner.run(work(running.endpoint))
        assert {name: spent_s for name, spent_s in loop.dearest_s.items() if spent_s > CALLBACK_S_MAX} == {}
