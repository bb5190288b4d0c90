"""`qwenctl verify`: have the daemon hash a model's files again; with --wait, see how far that is and how it ends.

The model stays complete meanwhile, and Ctrl-C ends only the watching.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from qwen_api.client import Client, Disconnected, Follower, Line, find_socket
from qwen_api.events import Live, ModelComplete, ModelStateChanged, ModelVerified
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.event_text import event_text
from qwen_monitor.exits import Refusal
from qwen_monitor.progress import Progress
from qwen_monitor.sentences import of_daemon


def verify(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Give the command; the exit code. Raises Refusal if, waited for, it ends with something for a person to do."""
    find = partial(find_socket, console.env, arguments.socket)
    if arguments.wait:
        return _watched(find(), arguments, ref, console)
    accepted = Client(find()).verify(ref.key, full=not arguments.quick)
    if console.as_json:
        console.json(accepted)
    else:
        console.hint(_("{ref} is being verified (watch: qwenctl verify --wait {ref}, or qwen-monitor {ref})", ref=ref))
    return exits.OK


def _watched(socket: Path, arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """The stream first and then the command, so that nothing of its end is missed."""
    follower, progress = Follower(lambda: socket), Progress(ref, console)
    asked_seq, verified = -1, None
    try:
        for line in follower:
            if isinstance(line, Disconnected):
                raise Refusal(line.code, _("the daemon is gone"), line.why, line.fix)
            if isinstance(line, Live):
                asked_seq = Client(socket).verify(ref.key, full=not arguments.quick).seq
                continue
            progress.take(line, follower.status)
            if asked_seq < 0 or getattr(line, "model", "") != ref.key or getattr(line, "seq", 0) <= asked_seq:
                continue
            verified = line if isinstance(line, ModelVerified) else verified
            if _has_ended(line, ref):
                break
    finally:
        follower.close()
        console.end_progress()
    _tell(verified, ref, console)
    return exits.OK


def _has_ended(line: Line | Disconnected, ref: ModelRef) -> bool:
    if isinstance(line, ModelStateChanged) and line.state == "failed":
        code = line.code or "E_INCOMPLETE"
        raise Refusal(code, _("{ref} needs a person", ref=ref), *of_daemon(code, line.detail, ""))
    return isinstance(line, ModelComplete)


def _tell(verified: ModelVerified | None, ref: ModelRef, console: Console) -> None:
    if console.as_json:
        facts = ("files", "size_bytes", "damaged", "duration_s", "rate_bps")
        numbers = {name: getattr(verified, name) if verified else 0 for name in facts}
        console.json({"complete": True, "model": ref.repo, "verified": numbers})
        return
    said = event_text(verified, console.glyphs) if verified else None
    what = said.detail if said else _("nothing to hash")
    console.data([_("{ref} is complete: {what}", ref=safe(str(ref), glyphs=console.glyphs), what=what)])
