"""`qwen-monitor --once`: the daemon's word on each model, the check of what lies on its disk, and an exit code.

The daemon's word decides the code. Its files may be out of reach from here (another user's, another machine's mount);
then its own account of them is shown instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from qwen_api.client import Client
from qwen_api.language import _
from qwen_api.status import ModelStatus, Status
from qwen_monitor import exits
from qwen_monitor.check import Wish, check
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.pace import Pace
from qwen_monitor.report_text import EMOJI, WORDS, report_lines
from qwen_monitor.status_text import status_lines
from qwen_monitor.summary import model_line


def show_once(client: Client, status: Status, models: Sequence[ModelStatus], console: Console) -> int:
    """0 if all of `models` are complete, 4 if not. Raises DaemonUnreachable, DaemonRefused."""
    if console.as_json:
        console.json(msgspec.structs.replace(status, models={model.model: model for model in models}))
    else:
        cache = Path(client.version().cache_dir)
        for model in models:
            console.data(_lines(model, _wish(model, cache, client), console))
    return exits.OK if all(model.state == "complete" for model in models) else exits.INCOMPLETE


def _wish(model: ModelStatus, cache: Path, client: Client) -> Wish:
    """What the daemon wants of it, where it keeps it: in the cache, or in a folder of the person's own."""
    folder = Path(client.files(model.model).folder)
    is_local_dir = folder.is_absolute() and not folder.is_relative_to(cache)
    return Wish(
        cache=cache,
        ref=model.ref,
        folder=folder if is_local_dir else None,
        is_local_dir=is_local_dir,
        include=model.include,
        exclude=model.exclude,
        may_ask_hub=False,
    )


def _lines(model: ModelStatus, wish: Wish, console: Console) -> list[str]:
    signs = EMOJI if console.emoji else WORDS
    try:
        next((wish.folder or wish.cache).iterdir(), None)  # what cannot be entered would look empty
        report, advice, _hashed = check(wish, console)
    except Refusal as refusal:
        console.hint(_("its files cannot be looked at from here: {why}", why=safe(refusal.why or refusal.what)))
    except OSError as error:
        console.hint(_("its files cannot be looked at from here: {why}", why=error.strerror or error))
    else:
        head = safe(model_line(model, Pace(), console.glyphs), glyphs=console.glyphs)
        return [head, *report_lines(report, advice, signs=signs, glyphs=console.glyphs)]
    return status_lines(model, signs, console.glyphs)
