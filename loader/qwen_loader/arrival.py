"""One model on its way into memory: waited for, loaded as it comes, assembled when it is complete.

    arrival = Arrival(ref, Wishes(device="cuda"), tell=print)
    pipeline = arrival.load(arrival.wait())

Without a daemon, or where everything is here already, it is the same way with nothing to overlap. `job` (the command)
and `hook.loaded` (programs) both go it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from qwen_api.client import find_socket
from qwen_api.commands import LoaderReport
from qwen_api.language import _, spoken
from qwen_api.models import ModelRef
from qwen_loader import words
from qwen_loader.assembly import Assembly, Dropped, Loaded, Placed, Step, Wishes
from qwen_loader.gate import Policy, Waiting
from qwen_loader.overlap import Overlap
from qwen_loader.ready import ReadyModel
from qwen_loader.wait import Wait


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """The order in which components will be loaded: a daemon that is told of it fetches them so."""

    components: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Later:
    """This component is here and was not loaded early, because of `why`."""

    component: str
    why: str


News: TypeAlias = Waiting | Step | Ordered | Later


def report_of(news: News) -> LoaderReport | None:
    """What the daemon, and so the monitor, is told of this; None for what is of no interest there."""
    match news:
        case Ordered():
            return LoaderReport(state="waiting", components=news.components)
        case Loaded():
            return LoaderReport(
                state="loading",
                component=news.component,
                component_bytes=news.component_bytes,
                component_size_bytes=news.component_size_bytes,
                loaded_bytes=news.loaded_bytes,
            )
        case Dropped():
            return LoaderReport(state="waiting", detail=news.why if spoken() == "en" else "")
        case _:
            return None


def text_of(news: News) -> str:
    """One line for people, safe to print."""
    match news:
        case Waiting():
            return f"{_('checking') if news.phase == 'hashing' else _('waiting')}: {news.text}"
        case Ordered():
            text = _("order: {names}", names=", ".join(news.components))
        case Loaded():
            text = _("loading: {name}, {size}", name=news.component, size=words.size_text(news.loaded_bytes))
        case Placed():
            text = _("placement: {why}", why=news.plan.why)
        case Later():
            text = _("later: {name} could not be loaded early: {why}", name=news.component, why=news.why)
        case Dropped():
            text = _("freed: {names}: {why}", names=words.names_text(news.components), why=news.why)
    return words.printable(text)


class Arrival:
    """`wait` and `load` in one thread; `close` from any. `tell` is called in several, one at a time per component."""

    def __init__(
        self,
        ref: ModelRef,
        wishes: Wishes,
        *,
        tell: Callable[[News], None],
        early: bool = True,
        bars: bool = False,
        timeout_s: float | None = None,
        patience_s: float | None = None,
        socket: Path | None = None,
        env: Mapping[str, str] | None = None,
        policy: Policy | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        environment = os.environ if env is None else env
        self._early = early
        self._assembly = Assembly(wishes, tell, bars=bars)
        self._overlap = Overlap(
            self._assembly,
            lambda: find_socket(environment, socket),
            policy=policy or Policy(),
            on_order=lambda names: tell(Ordered(components=names)),
            on_trouble=lambda name, why: tell(Later(component=name, why=why)),
        )
        self._wait = Wait(
            ref,
            timeout_s=timeout_s,
            patience_s=patience_s,
            on_event=tell,
            socket=socket,
            env=environment,
            policy=policy,
            cache_dir=cache_dir,
            on_model=self._overlap.look if early else None,
        )

    def wait(self) -> ReadyModel:
        """Wait for the whole model, loading what is complete. What was loaded is freed when it ends in an exception.

        Raises what Wait.run raises, soon: a component that is being read then is freed when it has been read.
        """
        with self._overlap if self._early else nullcontext():
            return self._wait.run()

    @property
    def is_reading(self) -> bool:
        """A wait has failed and a component is still being read."""
        return self._overlap.is_reading

    def end_reading(self) -> None:
        """After a wait that has failed: return when nothing is in memory any more."""
        self._overlap.end_reading()

    def load(self, ready: ReadyModel) -> Any:
        """The pipeline. Raises LoadFailed."""
        return self._assembly.finish(ready)

    def close(self) -> None:
        """End `wait` at once, but for a component that is being read."""
        self._wait.close()
