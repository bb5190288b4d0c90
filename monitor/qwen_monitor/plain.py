"""The monitor without a screen: one line for each durable event, a summary now and then, or the raw JSON lines.

For pipes, logs and terminals that cannot draw; needs nothing but the standard library and msgspec. `Plain` decides
what is printed; `follow` moves lines from the socket to the streams it is given. While the daemon is away, the log says
so: when it went, now and then how long it is gone, and when it came back.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import BinaryIO, TextIO

from qwen_api.client import Disconnected, Follower, Line
from qwen_api.events import Bookmark, Gap, Hello, Live, LoaderChanged, Snapshot, Unknown
from qwen_api.language import _, ngettext
from qwen_api.models import ModelRef
from qwen_api.status import LoaderStatus, ModelStatus, Status
from qwen_monitor import exits
from qwen_monitor.amounts import Amounts
from qwen_monitor.display import Glyphs, duration_text, safe
from qwen_monitor.event_text import WORD_WIDTH, event_text, parse_time
from qwen_monitor.pace import Pace
from qwen_monitor.sentences import error_text
from qwen_monitor.summary import model_line
from qwen_monitor.view import matches

SUMMARY_S = 30.0  # often enough to see a rate, rare enough for a log file
AWAY_S = 30.0  # how often it is said that the daemon is still away
STAMP = "%Y-%m-%d %H:%M:%S"
UNKNOWN_WIDTH = 200  # how much of a newer daemon's line is shown


class Plain:
    """Turns stream lines into text lines. Each call is told the status after the line and the time."""

    def __init__(self, *, glyphs: Glyphs, wanted: ModelRef | None = None) -> None:
        self._glyphs = glyphs
        self._wanted = wanted
        self._epoch = ""
        self._paces: dict[str, Pace] = {}
        self._summed_at_s = float("-inf")
        self._last_summary: dict[str, str] = {}
        self._amounts: dict[str, Amounts] = {}
        self._loaders_told: dict[str, tuple[str, str]] = {}
        self._went_at_s: float | None = None
        self._said_away_at_s = 0.0

    @property
    def was_live(self) -> bool:
        """True once a daemon has answered."""
        return bool(self._epoch)

    def lost(self, lost: Disconnected, now_s: float, now: datetime) -> list[str]:
        """The text lines for a connection that was lost, or could not be had again."""
        if self._went_at_s is None:
            self._went_at_s = self._said_away_at_s = now_s
            return [_stamped(now, _("daemon"), waiting_text(lost))]
        if now_s - self._said_away_at_s < AWAY_S:
            return []
        self._said_away_at_s = now_s
        age = _("away for {time}", time=duration_text(now_s - self._went_at_s))
        return [_stamped(now, _("daemon"), f"{age}, {waiting_text(lost)}")]

    def lines(self, line: Line, status: Status, now_s: float, now: datetime) -> list[str]:
        """The text lines for `line`; every SUMMARY_S a summary of each model as well."""
        said = self._about(line, status, now_s, now)
        for model in self._models(status):
            self._paces[model.model] = self._paces.get(model.model, Pace()).fed(now_s, model.received_bytes)
        is_first = isinstance(line, Snapshot)
        if is_first or (self._summed_at_s > float("-inf") and now_s - self._summed_at_s >= SUMMARY_S):
            self._summed_at_s = now_s
            said += self.summary(status, now, repeat=is_first)
            said += self._loaders(status, now) if is_first else []
        return said

    def summary(self, status: Status, now: datetime, *, repeat: bool = True) -> list[str]:
        """One line for each model; without `repeat` only for those that are not done or have changed."""
        lines = []
        for told in self._models(status):
            amounts = self._amounts[told.model] = self._amounts.get(told.model, Amounts()).fed(told)
            model = amounts.shown(told)
            text = model_line(model, self._paces.get(model.model, Pace()), self._glyphs)
            is_news = self._last_summary.get(model.model) != text or model.state not in ("complete", "paused")
            if repeat or is_news:
                lines.append(_stamped(now, _("summary"), text))
            self._last_summary[model.model] = text
        return lines

    def concerns(self, line: Line, status: Status) -> bool:
        """False for an event of a model that was not asked for."""
        key = getattr(line, "model", "")
        if self._wanted is None or not key:
            return True
        model = status.models.get(key)
        # A removed one is not in status; a loader may name the repository.
        return matches(model, self._wanted) if model else key in (self._wanted.key, self._wanted.repo)

    def _models(self, status: Status) -> list[ModelStatus]:
        return [m for m in status.models.values() if matches(m, self._wanted)]

    def _loaders(self, status: Status, now: datetime) -> list[str]:
        """Loaders that failed before anybody listened: they say it once."""
        said = []
        for loader in status.loaders.values():
            if loader.state == "failed":
                facts = {fact: getattr(loader, fact) for fact in LoaderStatus.__struct_fields__ if fact != "since"}
                said += self._event(LoaderChanged(ts=loader.since, **facts), status, now)
        return said

    def _is_old(self, event: LoaderChanged, status: Status) -> bool:
        """True if it was told already: from the snapshot, or before the connection was lost."""
        known = self._loaders_told.get(event.name)
        told = {name: told for name, told in self._loaders_told.items() if name in status.loaders}  # not all for ever
        self._loaders_told = told | {event.name: (event.ts, event.state)}
        return bool(event.ts) and known == (event.ts, event.state)

    def _greeted(self, hello: Hello, now_s: float, now: datetime) -> list[str]:
        epoch, went_at_s = self._epoch, self._went_at_s
        self._epoch, self._went_at_s = hello.epoch, None
        if epoch in ("", hello.epoch) and (not epoch or went_at_s is None):
            return []  # the first one, or the same one as ever
        if went_at_s is None:
            return [_stamped(now, _("daemon"), _("restarted"))]
        away = duration_text(now_s - went_at_s)
        is_same = epoch == hello.epoch
        text = _("back, was away {time}", time=away) if is_same else _("restarted, was away {time}", time=away)
        return [_stamped(now, _("daemon"), text)]

    def _about(self, line: Line, status: Status, now_s: float, now: datetime) -> list[str]:
        match line:
            case Hello():
                return self._greeted(line, now_s, now)
            case Gap():
                return [
                    _stamped(now, _("missed"), ngettext("{count} event", "{count} events", line.last - line.first + 1))
                ]
            case Unknown():
                text = line.raw.decode(errors="replace").strip()
                return [_stamped(now, _("unknown"), safe(text, UNKNOWN_WIDTH, self._glyphs))]
            case Snapshot() | Live() | Bookmark():
                return []
            case _:
                return self._event(line, status, now)

    def _event(self, line: Line, status: Status, now: datetime) -> list[str]:
        if isinstance(line, Hello | Snapshot | Gap | Live | Bookmark | Unknown) or not self.concerns(line, status):
            return []
        if isinstance(line, LoaderChanged) and self._is_old(line, status):
            return []
        text = event_text(line, self._glyphs)
        if text is None:
            return []
        about = " ".join(safe(s, glyphs=self._glyphs) for s in _who(text.model, text.subject) if s)
        when = parse_time(text.ts)
        stamp = when.astimezone(now.tzinfo) if when else now
        return [_stamped(stamp, text.word, f"{about}: {text.detail}" if about else text.detail)]


def follow(
    follower: Follower,
    plain: Plain,
    out: TextIO,
    err: TextIO,
    *,
    no_wait: bool,
    monotonic: Callable[[], float],
    wall: Callable[[], datetime],
) -> int:
    """Print until the follower is closed, or (`no_wait`) until there is no daemon; the exit code.

    The summary at the end is the caller's (`Plain.summary`), since a signal may end this anywhere.
    """
    for line in follower:
        if isinstance(line, Disconnected) and no_wait:
            return _gone(line, err)
        if isinstance(line, Disconnected):
            _write(out if plain.was_live else err, plain.lost(line, monotonic(), wall()))
        else:
            _write(out, plain.lines(line, follower.status, monotonic(), wall()))
    return 0


def follow_json(follower: Follower, plain: Plain, out: BinaryIO, err: TextIO, *, no_wait: bool) -> int:
    """Copy the stream's lines as they came, without the events of other models."""
    waiting = False
    for line in follower:
        if isinstance(line, Disconnected):
            if no_wait:
                return _gone(line, err)
            waiting = waiting or _say_waiting(line, err)
            continue
        waiting = False
        if plain.concerns(line, follower.status):
            out.write(follower.raw)
            out.flush()
    return 0


def _who(model: str, subject: str) -> tuple[str, str]:
    return model, "" if subject == model else subject


def _stamped(when: datetime, word: str, text: str) -> str:
    return f"{when.strftime(STAMP)} {word:<{WORD_WIDTH}} {text}"


def _write(stream: TextIO, texts: list[str]) -> None:
    for text in texts:
        stream.write(f"{text}\n")
    stream.flush()


def _say_waiting(lost: Disconnected, err: TextIO) -> bool:
    err.write(waiting_text(lost) + "\n")
    err.flush()
    return True


def waiting_text(lost: Disconnected) -> str:
    """That the daemon is waited for, and why it must be."""
    return _("waiting for the daemon ... ({why}; {fix})", why=safe(lost.why), fix=safe(lost.fix))


def _gone(lost: Disconnected, err: TextIO) -> int:
    err.write(error_text(lost.code, _("cannot follow the daemon"), lost.why, lost.fix) + "\n")
    return exits.DAEMON_DOWN
