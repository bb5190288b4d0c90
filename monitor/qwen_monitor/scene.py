"""Everything a screen is drawn from, apart from the terminal and the time."""

from __future__ import annotations

import msgspec

from qwen_api.commands import Whereabouts
from qwen_api.status import Status
from qwen_monitor.amounts import Amounts
from qwen_monitor.event_text import EventText
from qwen_monitor.pace import Pace
from qwen_monitor.view import View


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal, in cells."""

    width: int
    height: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to the daemon as a person sees it; seconds are ages, counted by the caller.

    `restarts` counts how often another daemon answered than before; the last time was `back_s` ago, after `away_s`.
    """

    is_live: bool = True
    lost_s: float = 0.0
    retry_in_s: float = 0.0
    code: str = ""
    why: str = ""
    fix: str = ""
    was_live: bool = True
    restarts: int = 0
    back_s: float = 0.0
    away_s: float = 0.0


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a screen is drawn from, apart from the terminal and the time.

    `whereabouts` are those of the file whose details are open, once they are known.
    """

    status: Status
    view: View = View()
    pace: Pace = Pace()
    amounts: Amounts = Amounts()
    link: Link = Link()
    events: tuple[EventText, ...] = ()
    message: str = ""
    whereabouts: Whereabouts | None = None
