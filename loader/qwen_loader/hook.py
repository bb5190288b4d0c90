"""`wait_ready` and `wait_ready_async`: how a program of its own waits for a model before it loads it.

    ready = wait_ready("qwen-image-edit")
    pipeline = DiffusionPipeline.from_pretrained(ready.path, local_files_only=True, use_safetensors=True)

The waiting itself is in `wait`, a pipeline for a program in `hold`, the command in `__main__`. Imports no torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from qwen_api.models import parse_model
from qwen_loader.gate import Policy, Waiting
from qwen_loader.ready import ReadyModel
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
