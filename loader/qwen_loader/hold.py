"""`loaded` and `loaded_async`: a pipeline for as long as a program needs it, shown in the monitor all the while.

    with loaded("qwen-image-edit", device="cuda") as pipeline:
        pipeline(image=..., prompt=...)

It is waited for, loaded while it still downloads, and given back at the end. Waiting without loading is in `hook`, the
command in `__main__`. Imports no torch.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import msgspec

from qwen_api.commands import LoaderReport
from qwen_api.models import parse_model
from qwen_loader.arrival import Arrival, News, report_of
from qwen_loader.assembly import Wishes
from qwen_loader.gate import Policy
from qwen_loader.libraries import Device, Dtype, LoadFailed, require_libraries
from qwen_loader.memory import give_back
from qwen_loader.pipeline import describe
from qwen_loader.placement import AskedPlacement
from qwen_loader.presence import Presence
from qwen_loader.ready import NotReady, WaitClosed
from qwen_loader.updates import OnUpdate, Updates


class LoadOptions(TypedDict, total=False):
    """What `loaded` takes besides the model; everything may be left out.

    `device`, `dtype`, `placement`: as `qwen-loader --help` says. `early=False`: load nothing before all is complete.
    `name`: what the monitor shows. `timeout_s` limits the waiting, not the loading. `on_event` is given every step
    (`text_of` makes a line of it), from more than one thread; `on_update` each newer commit that becomes complete while
    the pipeline is held, from a thread. `socket`, `env`, `policy`, `cache_dir`: as for `wait_ready`.
    """

    device: Device
    dtype: Dtype
    placement: AskedPlacement
    early: bool
    name: str
    timeout_s: float | None
    on_event: Callable[[News], None]
    on_update: OnUpdate
    socket: Path | None
    env: Mapping[str, str] | None
    policy: Policy | None
    cache_dir: Path | None


@contextmanager
def loaded(model: str, **options: Unpack[LoadOptions]) -> Iterator[Any]:
    """The diffusers pipeline of `model` (alias, org/name, org/name@revision), ready to use.

    Leaving it frees what nothing else refers to. Raises what `wait_ready` raises, and LoadFailed.
    """
    with _Stay(model, options) as stay:
        pipeline = stay.load()
        with stay.updates():
            yield pipeline
        del pipeline


@asynccontextmanager
async def loaded_async(model: str, **options: Unpack[LoadOptions]) -> AsyncIterator[Any]:
    """`loaded` with its work in threads, so that a server answers meanwhile. Callbacks come from those threads.

    Cancelling ends the wait at once; a component that is being read is read to its end first.
    """
    stay = await asyncio.to_thread(_Stay, model, options)
    try:
        loading = asyncio.ensure_future(asyncio.to_thread(stay.load))
        try:
            pipeline = await asyncio.shield(loading)
        except asyncio.CancelledError:
            stay.close()
            await asyncio.wait([loading])
            if not loading.cancelled():
                loading.exception()  # taken, so that nobody is told that it was not
            del loading  # it has the pipeline, and the error that is raised has this frame
            raise
        del loading
        updates = stay.updates()
        await asyncio.to_thread(updates.__enter__)
        try:
            yield pipeline
        finally:
            del pipeline
            await asyncio.to_thread(updates.__exit__, None, None, None)
    finally:
        await asyncio.to_thread(stay.leave)


class _Stay:
    """One pipeline's time in this process, as the daemon is told of it."""

    def __init__(self, model: str, options: LoadOptions) -> None:
        self._ref = parse_model(model)
        self._on_update = options.get("on_update")
        self._on_event = options.get("on_event")
        self._policy, self._cache_dir = options.get("policy"), options.get("cache_dir")
        self._socket, self._env = options.get("socket"), options.get("env")
        name = options.get("name") or f"{Path(sys.argv[0]).name or 'python'}-{os.getpid()}"
        self._presence = Presence(name, self._ref.key, socket=self._socket, env=self._env)
        self._presence.say(LoaderReport(state="waiting"))
        self._commit = ""
        self._components: tuple[str, ...] = ()
        self._arrival = Arrival(
            self._ref,
            Wishes(
                device=options.get("device", "auto"),
                dtype=options.get("dtype", "auto"),
                placement=options.get("placement", "auto"),
            ),
            tell=self._tell,
            early=options.get("early", True),
            timeout_s=options.get("timeout_s"),
            socket=self._socket,
            env=self._env,
            policy=self._policy,
            cache_dir=self._cache_dir,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def load(self) -> Any:
        try:
            require_libraries()
            ready = self._arrival.wait()
            pipeline = self._arrival.load(ready)
        except WaitClosed:
            raise  # our own wish is no failure
        except (NotReady, LoadFailed) as error:
            self._presence.leave("failed", f"{error.code}: {error.why}")
            raise
        self._commit = ready.commit
        at, _, vram_bytes = describe(pipeline)
        self._say(LoaderReport(state="ready", device=at, vram_bytes=vram_bytes))
        return pipeline

    def updates(self) -> Updates | nullcontext[None]:
        if self._on_update is None:
            return nullcontext()
        return Updates(
            self._ref,
            self._commit,
            self._on_update,
            socket=self._socket,
            env=self._env,
            policy=self._policy,
            cache_dir=self._cache_dir,
        )

    def close(self) -> None:
        self._arrival.close()

    def leave(self) -> None:
        self._presence.leave()
        give_back()

    def _tell(self, news: News) -> None:
        self._say(report_of(news))
        if self._on_event is not None:
            self._on_event(news)

    def _say(self, report: LoaderReport | None) -> None:
        """The order of the components goes with every report: a daemon that was restarted hears only the last one."""
        if report is not None:
            self._components = report.components or self._components
            self._presence.say(msgspec.structs.replace(report, components=self._components))
