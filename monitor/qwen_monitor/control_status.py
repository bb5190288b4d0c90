"""`qwenctl status`, `ls` and `version`: questions, answered by the daemon, or by the disk when there is none."""

from __future__ import annotations

import argparse
import shlex
from datetime import UTC, datetime
from pathlib import Path

from qwen_api.client import Client, DaemonUnreachable, find_socket
from qwen_api.language import _, ngettext
from qwen_api.models import ModelRef, is_repo
from qwen_api.status import ModelStatus, Status
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.limits import limits_words
from qwen_monitor.report_text import EMOJI, WORDS
from qwen_monitor.status_text import (
    BriefList,
    brief_of_report,
    brief_of_status,
    endpoint_lines,
    list_lines,
    status_lines,
)
from qwen_monitor.view import matches

_INDENT = 2
_FILE_ROWS_MAX, _FILE_WIDTH = 40, 80
_CACHED_MODELS_MAX = 200  # a cache with more is listed in part: each is looked at file by file


def status(arguments: argparse.Namespace, ref: ModelRef | None, console: Console) -> int:
    """Every model, or one; 0 if all of them are complete, 4 if one is not or there is none. Raises Refusal."""
    try:
        state = Client(find_socket(console.env, arguments.socket)).state()
    except DaemonUnreachable as error:
        if arguments.socket is not None:
            raise
        why = _("no daemon answers") if error.code == "E_DAEMON_DOWN" else f"{safe(error.why)} ({safe(error.fix)})"
        console.hint(_("{why}; this is what the disk shows", why=why))
        return _of_disk(ref, console)
    models = [m for m in state.models.values() if matches(m, ref)]
    if ref is not None and not models:
        why = _("the daemon was not asked for {ref} (qwenctl add {ref})", ref=ref)
        console.hint(_("{why}; this is what the disk shows", why=why))
        return _of_disk(ref, console)
    return _of_daemon(models, state, console)


def file_status(arguments: argparse.Namespace, ref: ModelRef | None, console: Console) -> int:
    """One file of a model, as far as the daemon knows it; 0 if it is verified, 4 if not. Raises Refusal."""
    if ref is None:
        raise Refusal(
            "E_USAGE",
            _("--file needs the model, too"),
            fix=f"qwenctl status MODEL --file {shlex.quote(arguments.file)}",
        )
    from qwen_monitor.details import details_rows
    from qwen_monitor.scene import Scene

    client = Client(find_socket(console.env, arguments.socket))
    state, found = client.state(), client.file(ref.key, arguments.file)
    if console.as_json:
        console.json(found)
    else:
        scene, now = Scene(status=state, whereabouts=found.whereabouts), datetime.now(UTC).astimezone()
        rows = details_rows(scene, state.models[ref.key], found.file, _FILE_ROWS_MAX, _FILE_WIDTH, now, console.glyphs)
        console.data(row.text for row in rows)
    return exits.OK if found.file.is_verified else exits.INCOMPLETE


def ls(arguments: argparse.Namespace, console: Console) -> int:
    """One line for each model that the daemon was asked for."""
    models = Client(find_socket(console.env, arguments.socket)).state().models.values()
    briefs = tuple(brief_of_status(m) for m in models)
    if console.as_json:
        console.json(BriefList(source="daemon", models=briefs))
    else:
        console.data(list_lines(briefs, console.glyphs))
        if not briefs:
            console.hint(_("no model is wanted; add one: qwenctl add qwen-image-edit"))
    return exits.OK


def version(arguments: argparse.Namespace, console: Console) -> int:
    """This program's version, and the daemon's with the places it uses."""
    import importlib.metadata

    own = importlib.metadata.version("qwen-daemon")
    socket = ""
    try:
        found = find_socket(console.env, arguments.socket)
        daemon, socket = Client(found).version(), str(found)
    except DaemonUnreachable as error:
        daemon = None
        console.hint(safe(error.why))
    if console.as_json:
        console.json({"qwenctl": own, "socket": socket, "daemon": daemon})
        return exits.OK
    console.data([f"qwenctl {own}"])
    if daemon is not None:
        facts = (
            ("pid", daemon.pid),
            (_("socket"), socket),
            (_("cache"), daemon.cache_dir),
            (_("state"), daemon.state_dir),
            ("hub", daemon.endpoint),
        )
        console.data([f"qwen-daemon {safe(daemon.version)}"])
        console.data(f"  {name:<6} {safe(str(value), glyphs=console.glyphs)}" for name, value in facts)
    return exits.OK


def _of_daemon(models: list[ModelStatus], state: Status, console: Console) -> int:
    endpoints = list(state.endpoints.values())
    if console.as_json:
        briefs = tuple(map(brief_of_status, models))
        console.json(BriefList(source="daemon", models=briefs, endpoints=tuple(endpoints), limits=state.limits))
    signs = EMOJI if console.emoji else WORDS
    for model in models if not console.as_json else ():
        console.data(status_lines(model, signs, console.glyphs), indent=_INDENT)
    if not console.as_json:
        console.data(endpoint_lines(endpoints, None, console.glyphs))
        if words := limits_words(state.limits):
            console.data([_("The daemon: {limits}", limits=words)])
    if not models:
        console.hint(_("no model is wanted; add one: qwenctl add qwen-image-edit"))
    return exits.OK if models and all(m.state == "complete" for m in models) else exits.INCOMPLETE


def _of_disk(ref: ModelRef | None, console: Console) -> int:
    from qwen_monitor.check import Wish, check, print_check  # half of all imports, and a daemon's answer needs none

    cache = console.cache(None)
    refs = [ref] if ref is not None else cached_models(cache)
    # What is here is asked, not what could be: the Hub is left alone unless one model was named.
    results = [
        (r, *check(Wish(cache=cache, ref=r, may_ask_hub=ref is not None), console)[:2])
        for r in refs[:_CACHED_MODELS_MAX]
    ]
    if console.as_json:
        console.json(BriefList(source="disk", models=tuple(brief_of_report(report, r) for r, report, _ in results)))
    elif ref is not None:
        return print_check(results[0][1], results[0][2], console, short=True)
    else:
        console.data(list_lines([brief_of_report(report, r) for r, report, _ in results], console.glyphs))
    if not results:
        console.hint(_("no model in {cache}; fetch one: qwenctl download qwen-image-edit", cache=safe(str(cache))))
    if len(refs) > _CACHED_MODELS_MAX:
        rest = len(refs) - _CACHED_MODELS_MAX
        console.hint(ngettext("{count} more model was not looked at", "{count} more models were not looked at", rest))
    return exits.OK if results and all(report.complete for _, report, _ in results) else exits.INCOMPLETE


def cached_models(cache: Path) -> list[ModelRef]:
    """Every model repository of the cache that has a snapshot, at its default revision."""
    try:
        folders = sorted(p for p in cache.iterdir() if p.name.startswith("models--") and (p / "snapshots").is_dir())
    except OSError:
        return []
    repos = [p.name.removeprefix("models--").replace("--", "/") for p in folders]
    return [ModelRef(repo=repo) for repo in repos if is_repo(repo)]
