"""Carries out what a key asked of the daemon, one command at a time, off the drawing thread.

A command is one short HTTP exchange; its effect shows in the event stream. Here only its acceptance or refusal
becomes a message for the person.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable
from qwen_monitor.display import UNICODE, Glyphs, safe
from qwen_monitor.view import Order


class Orders:
    """`find` gives the socket (and may raise DaemonUnreachable); `told` is called with each message, in a thread."""

    def __init__(self, find: Callable[[], Path], told: Callable[[str], None], glyphs: Glyphs = UNICODE) -> None:
        self._find = find
        self._told = told
        self._glyphs = glyphs
        self._busy = threading.Lock()

    def give(self, order: Order) -> None:
        """Begin `order`; while another is under way, say so instead."""
        if not self._busy.acquire(blocking=False):
            self._told("the daemon has not answered the last command yet")
            return
        self._told(f"asked the daemon to {order.verb} {order.model}")
        threading.Thread(target=self._carry_out, args=(order,), name=f"order-{order.verb}", daemon=True).start()

    def _carry_out(self, order: Order) -> None:
        try:
            message = self._answer(order)
        finally:
            self._busy.release()
        self._told(safe(message, glyphs=self._glyphs))

    def _answer(self, order: Order) -> str:
        try:
            client = Client(self._find())
            match order.verb:
                case "pause":
                    client.pause(order.model)
                case "resume":
                    client.resume(order.model)
                case "retry":
                    client.retry(order.model)
                case "verify":
                    client.verify(order.model)
        except DaemonRefused as refusal:
            fix = f"; {refusal.problem.fix}" if refusal.problem.fix else ""
            return f"refused: {refusal} [{refusal.problem.code}]{fix}"
        except DaemonUnreachable as lost:
            return f"not done: {lost}"
        return f"{order.verb}: accepted"
