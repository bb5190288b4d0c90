"""`qwen-monitor --once`: the daemon's word on each model, the check of what lies on its disk, and an exit code.

The daemon's word decides the code. Its files may be out of reach from here (another user's, another machine's mount);
then its own account of them is shown instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwen_api.client import Client
from qwen_api.language import _
from qwen_api.status import ModelStatus
from qwen_monitor import exits
from qwen_monitor.check import Wish, check, print_check
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.pace import Pace
from qwen_monitor.report_text import EMOJI, WORDS
from qwen_monitor.status_text import brief_of_status, status_lines
from qwen_monitor.summary import model_line


def show_once(client: Client, models: Sequence[ModelStatus], console: Console) -> int:
    """0 if all of `models` are complete, 4 if not. Raises DaemonUnreachable, DaemonRefused.

    With --json one document a model, as `qwenctl check --json` prints it.
    """
    cache = Path(client.version().cache_dir)
    for model in models:
        _show(model, _wish(model, cache, client), console)
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
        socket=client.control,
    )


def _show(model: ModelStatus, wish: Wish, console: Console) -> None:
    try:
        next((wish.folder or wish.cache).iterdir(), None)  # what cannot be entered would look empty
        report, advice, _hashed = check(wish, console)
    except (Refusal, OSError) as error:
        _show_unseen(model, error, console)
        return
    if not console.as_json:
        console.data([safe(model_line(model, Pace(), console.glyphs), glyphs=console.glyphs)])
    print_check(report, advice, console)


def _show_unseen(model: ModelStatus, error: Refusal | OSError, console: Console) -> None:
    """The daemon's own account, in its records' shape with --json (as `qwenctl status --json`)."""
    why = error.why or error.what if isinstance(error, Refusal) else error.strerror or str(error)
    console.hint(_("its files cannot be looked at from here: {why}", why=safe(why)))
    if console.as_json:
        console.json(brief_of_status(model))
    else:
        console.data(status_lines(model, EMOJI if console.emoji else WORDS, console.glyphs))
