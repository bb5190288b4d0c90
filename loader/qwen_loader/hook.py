"""What a program of its own calls: `wait_ready` and `wait_ready_async`, or `loaded` for the pipeline itself.

    ready = wait_ready("qwen-image-edit")
    pipeline = DiffusionPipeline.from_pretrained(ready.path, local_files_only=True, use_safetensors=True)

    with loaded("qwen-image-edit") as pipeline:     # loads while it downloads, shows itself in the monitor
        ...

The waiting itself is in `wait`, the `qwen-loader` command in `__main__`. Imports no torch.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypedDict

from qwen_api.commands import LoaderReport
from qwen_api.models import parse_model
from qwen_loader.arrival import Arrival, News, report_of
from qwen_loader.assembly import Wishes, give_back
from qwen_loader.gate import Policy, Waiting
from qwen_loader.libraries import Device, Dtype, LoadFailed
from qwen_loader.pipeline import describe
from qwen_loader.placement import AskedPlacement
from qwen_loader.presence import Presence
from qwen_loader.ready import NotReady, ReadyModel
from qwen_loader.updates import OnUpdate, Updates
from qwen_loader.wait import OnEvent, Wait


def wait_ready(
    model: str,
    *,
    timeout_s: float | None = None,
    on_event: OnEvent | None = None,
    socket: Path | None = None,
    env: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    cache_dir: Path | None = None,
) -> ReadyModel:
    """Return once every file of `model` (alias, org/name, org/name@revision) is proven; at once if it already is.

    `timeout_s` limits the waiting (0: look once); hashing that has begun is work, not waiting, and is not cut short.
    `on_event` is called in this thread with each Waiting. `socket` is the daemon's control socket, `env` stands for
    os.environ, `cache_dir` for the Hub cache that is looked at without a daemon.
    Raises BadModelName, ModelUnavailable when waiting will not help, ReadyTimeout (a TimeoutError).
    """
    wait = Wait(
        parse_model(model),
        timeout_s=timeout_s,
        on_event=on_event,
        socket=socket,
        env=env,
        policy=policy,
        cache_dir=cache_dir,
    )
    return wait.run()


async def wait_ready_async(
    model: str,
    *,
    timeout_s: float | None = None,
    on_event: OnEvent | None = None,
    socket: Path | None = None,
    env: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    cache_dir: Path | None = None,
) -> ReadyModel:
    """`wait_ready` in a thread of its own; `on_event` is called on the loop. Cancelling ends the thread first."""
    loop = asyncio.get_running_loop()
    wait = Wait(
        parse_model(model),
        timeout_s=timeout_s,
        on_event=None if on_event is None else lambda waiting: _tell_on(loop, on_event, waiting),
        socket=socket,
        env=env,
        policy=policy,
        cache_dir=cache_dir,
    )
    waiting = asyncio.ensure_future(asyncio.to_thread(wait.run))
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        wait.close()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.exception()  # taken, so that nobody is told that it was not
        raise


def _tell_on(loop: asyncio.AbstractEventLoop, on_event: OnEvent, waiting: Waiting) -> None:
    loop.call_soon_threadsafe(on_event, waiting)


@contextmanager
def loaded(
    model: str,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    placement: AskedPlacement = "auto",
    early: bool = True,
    name: str = "",
    timeout_s: float | None = None,
    on_event: Callable[[News], None] | None = None,
    on_update: OnUpdate | None = None,
    socket: Path | None = None,
    env: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    cache_dir: Path | None = None,
) -> Iterator[Any]:
    """The diffusers pipeline of `model`, ready to use: waited for, and with `early` loaded as its components come.

    `on_event` is given every step (`text_of` makes a line of it), from more than one thread; `on_update` each newer
    commit that becomes complete while the pipeline is in use, from a thread. `name` is what the monitor shows. Leaving
    it frees what nothing else refers to. Raises what `wait_ready` raises, and LoadFailed.
    """
    ref = parse_model(model)
    where: _Where = {"socket": socket, "env": env, "policy": policy, "cache_dir": cache_dir}
    with Presence(name or f"{Path(sys.argv[0]).name or 'python'}-{os.getpid()}", ref.key, socket=socket, env=env) as us:

        def tell(news: News) -> None:
            report = report_of(news)
            if report is not None:
                us.say(report)
            if on_event is not None:
                on_event(news)

        us.say(LoaderReport(state="waiting"))
        wishes = Wishes(device=device, dtype=dtype, placement=placement)
        arrival = Arrival(ref, wishes, tell=tell, early=early, timeout_s=timeout_s, **where)
        try:
            ready = arrival.wait()
            pipeline = arrival.load(ready)
        except (NotReady, LoadFailed) as error:
            us.leave("failed", f"{error.code}: {error.why}")
            raise
        at, _, vram_bytes = describe(pipeline)
        us.say(LoaderReport(state="ready", device=at, vram_bytes=vram_bytes))
        try:
            with Updates(ref, ready.commit, on_update, **where) if on_update is not None else nullcontext():
                yield pipeline
        finally:
            del pipeline
            give_back()


class _Where(TypedDict):
    socket: Path | None
    env: Mapping[str, str] | None
    policy: Policy | None
    cache_dir: Path | None
