"""Carries out what a key asked of the daemon, one command at a time, off the drawing thread.

A command is one short HTTP exchange; its effect shows in the event stream. Here only its acceptance or refusal
becomes a message for the person.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable
from qwen_api.commands import SetLimits
from qwen_api.language import _
from qwen_monitor.display import UNICODE, Glyphs, safe
from qwen_monitor.limits import rate_words
from qwen_monitor.sentences import of_daemon
from qwen_monitor.view import Asked, FileOrder, Limit, Order, Priority


class Orders:
    """`find` gives the socket (and may raise DaemonUnreachable); `told` is called with each message, in a thread."""

    def __init__(self, find: Callable[[], Path], told: Callable[[str], None], glyphs: Glyphs = UNICODE) -> None:
        self._find = find
        self._told = told
        self._glyphs = glyphs
        self._busy = threading.Lock()

    def give(self, order: Asked) -> None:
        """Begin `order`; while another is under way, say so instead."""
        if not self._busy.acquire(blocking=False):
            self._told(_("the daemon has not answered the last command yet"))
            return
        self._told(safe(_words(order), glyphs=self._glyphs))
        threading.Thread(target=self._carry_out, args=(order,), name="order", daemon=True).start()

    def _carry_out(self, order: Asked) -> None:
        try:
            message = self._answer(order)
        finally:
            self._busy.release()
        self._told(safe(message, glyphs=self._glyphs))

    def _answer(self, order: Asked) -> str:
        try:
            client = Client(self._find())
            match order:
                case Order():
                    _give(client, order)
                case FileOrder():
                    _give_file(client, order)
                case Priority():
                    client.prioritise(order.model, order.priority)
                case Limit():
                    client.set_limits(SetLimits(rate_limit_bps=order.rate_limit_bps))
        except DaemonRefused as refusal:
            problem = refusal.problem
            why, fix = of_daemon(problem.code, str(refusal), problem.fix)
            return _("refused: {why} [{code}]", why=why, code=problem.code) + (f"; {fix}" if fix else "")
        except DaemonUnreachable as lost:
            return _("not done: {why}", why=lost)
        if isinstance(order, Limit):
            return _("limit: {limit}", limit=rate_words(order.rate_limit_bps))
        return _("{verb}: accepted", verb="prio" if isinstance(order, Priority) else order.verb)


def _words(order: Asked) -> str:
    match order:
        case Order():
            what = f"{order.verb} {order.model}"
        case FileOrder():
            what = f"{order.verb}{f' {order.priority}' if order.verb == 'prio' else ''} {order.path}"
        case Priority():
            what = f"prio {order.priority} {order.model}"
        case Limit():
            return _("asked the daemon to give everything {limit}", limit=rate_words(order.rate_limit_bps))
    return _("asked the daemon to {command}", command=what)


def _give(client: Client, order: Order) -> None:
    match order.verb:
        case "pause":
            client.pause(order.model)
        case "resume":
            client.resume(order.model)
        case "retry":
            client.retry(order.model)
        case "verify":
            client.verify(order.model)
        case "remove":
            client.remove(order.model)


def _give_file(client: Client, order: FileOrder) -> None:
    match order.verb:
        case "pause":
            client.pause_files(order.model, [order.path])
        case "resume":
            client.resume_files(order.model, [order.path])
        case "prio":
            client.prioritise_files(order.model, [order.path], order.priority)
