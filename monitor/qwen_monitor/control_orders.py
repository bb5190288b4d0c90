"""`qwenctl pause|resume|retry|update|rm|wait`: one command to the running daemon.

Each needs a daemon and says so when there is none (exit 69); what a refusal means is in the daemon's own words.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec

from qwen_api.client import Client, find_socket
from qwen_api.commands import Accepted
from qwen_api.events import Bookmark, Hello, Live, Snapshot
from qwen_api.language import N_, _
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.control_limits import of_model
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.follow_model import follow_model
from qwen_monitor.sentences import of_daemon

_SHOWN_MISSING_MAX = 20
_TYPES_NOT_EVENTS = (Hello, Snapshot, Live, Bookmark)

Verb = Literal["pause", "resume", "retry", "update"]
_DONE: dict[Verb, str] = {
    "pause": N_("{ref} pauses; what is recorded stays (go on: qwenctl resume {ref})"),
    "resume": N_("{ref} goes on (watch: qwen-monitor {ref})"),
    "update": N_("{ref} is brought to its newest commit (watch: qwen-monitor {ref})"),
    "retry": N_("{ref} is tried again now (watch: qwen-monitor {ref})"),
}


class _Type(msgspec.Struct, frozen=True):
    type: str = ""


def order(arguments: argparse.Namespace, verb: Verb, ref: ModelRef, console: Console) -> int:
    """Give one command; the exit code."""
    client = Client(find_socket(console.env, arguments.socket))
    calls: dict[Verb, Callable[[str], Accepted]] = {
        "pause": client.pause,
        "resume": client.resume,
        "retry": client.retry,
        "update": client.update,
    }
    if getattr(arguments, "files", ()):
        return _order_files(client, arguments.files, verb, ref, console)
    accepted = calls[verb](ref.key)
    if console.as_json:
        console.json(accepted)
    else:
        console.hint(_(_DONE[verb], ref=ref))
    return exits.OK


def _order_files(client: Client, words: Sequence[str], verb: Verb, ref: ModelRef, console: Console) -> int:
    calls = {"pause": client.pause_files, "resume": client.resume_files, "retry": client.retry_files}
    accepted = calls[verb](ref.key, words)
    if console.as_json:
        console.json(accepted)
        return exits.OK
    done = {
        "pause": N_("paused; what is recorded stays"),
        "resume": N_("fetched again"),
        "retry": N_("tried again now"),
    }
    console.hint(f"{of_model(accepted, ref)}: {_(done[verb])}")
    for path in (accepted.files or ())[:_SHOWN_MISSING_MAX]:
        console.hint(f"  {safe(path, 76, console.err_glyphs)}")
    if verb == "pause":
        command = shlex.join(["qwenctl", "resume", str(ref), *(part for word in words for part in ("--file", word))])
        console.hint(_("until the daemon ends, or: {command}", command=command))
    return exits.OK


def remove(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Want the model no more, and perhaps delete its files; asks first. Raises Refusal without a yes."""
    client = Client(find_socket(console.env, arguments.socket))
    if arguments.delete_files:
        question = _("remove {ref} and delete its files from the cache? [y/N]", ref=ref)
    else:
        question = _("remove {ref} (its files stay)? [y/N]", ref=ref)
    if not arguments.yes and not _agreed(question, arguments.delete_files, console):
        raise Refusal("E_USAGE", _("{ref} was not removed", ref=ref), _("nobody said yes"), _("say yes, or give --yes"))
    accepted = client.remove(ref.key, delete_files=arguments.delete_files)
    if console.as_json:
        console.json(accepted)
    else:
        console.hint(_("{ref} is no longer wanted", ref=ref))
    return exits.OK


def wait(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Block until it has come to what is waited for; 75 after the time given, with what is missing. Raises Refusal."""
    find = partial(find_socket, console.env, arguments.socket)
    if arguments.no_wait:
        find()
    decide = _failed if arguments.goal == "failed" else partial(_waited, verified=arguments.goal == "verified")
    ended, model = follow_model(find, ref, console, partial(decide, ref), timeout_s=arguments.timeout)
    if ended is None:
        return _timed_out(ref, model, console)
    if arguments.goal == "failed":
        return _tell_failed(ref, ended, console)
    if console.as_json:
        console.json({"complete": True, "model": ref.repo, "commit": ended.commit, "path": ended.path})
    else:
        console.data([safe(ended.path, glyphs=console.glyphs)])
    return exits.OK


def _agreed(question: str, deletes: bool, console: Console) -> bool:
    if not console.asks:
        return not deletes  # a script that names the command means it; deleting needs the word
    console.err.write(f"{question} ")
    console.err.flush()
    try:
        return input().strip().lower() in ("y", "yes", "д", "да")
    except EOFError:
        return False


def _waited(ref: ModelRef, model: ModelStatus | None, _has_news: bool, *, verified: bool) -> ModelStatus | None:
    """The model once it is complete (and, if asked, rests), None to go on; Refusal when waiting is of no use."""
    model = _known(ref, model)
    if model.state == "failed":
        code = model.code or "E_INCOMPLETE"
        raise Refusal(code, _("{ref} needs a person", ref=ref), *of_daemon(code, model.detail, ""))
    return model if model.state == "complete" and not (verified and model.verifying) else None


def _failed(ref: ModelRef, model: ModelStatus | None, _has_news: bool) -> ModelStatus | None:
    """The model once it needs a person, None to go on."""
    model = _known(ref, model)
    return model if model.state == "failed" else None


def _known(ref: ModelRef, model: ModelStatus | None) -> ModelStatus:
    if model is None:
        raise Refusal("E_UNKNOWN_MODEL", _("the daemon was not asked for {ref}", ref=ref), fix=f"qwenctl add {ref}")
    return model


def _tell_failed(ref: ModelRef, model: ModelStatus, console: Console) -> int:
    if console.as_json:
        facts = {"code": model.code, "detail": model.detail}
        console.json({"complete": False, "model": ref.repo, "state": model.state, **facts})
    else:
        console.data([f"{safe(model.code, glyphs=console.glyphs)} {safe(model.detail, glyphs=console.glyphs)}".strip()])
    return exits.OK


def _timed_out(ref: ModelRef, model: ModelStatus | None, console: Console) -> int:
    missing = sorted(f.path for f in model.files.values() if not f.is_verified) if model else []
    if console.as_json:
        state = model.state if model else ""
        console.json({"complete": False, "model": ref.repo, "state": state, "missing": missing})
    count = len(missing) or _("no list of files yet")
    console.hint(_("{ref} is not complete yet; not verified: {count}", ref=ref, count=count))
    for path in missing[:_SHOWN_MISSING_MAX]:
        console.hint(f"  {safe(path, 76, console.err_glyphs)}")
    if len(missing) > _SHOWN_MISSING_MAX:
        console.hint("  " + _("and {count} more", count=len(missing) - _SHOWN_MISSING_MAX))
    return exits.TIMED_OUT
