"""`qwenctl limit` and `prio`: how fast, how much at once, and which model first, while the daemon runs.

What is set here holds until the daemon ends; what shall hold always stands in its configuration.
"""

from __future__ import annotations

import argparse

import msgspec

from qwen_api.client import Client, find_socket
from qwen_api.commands import Accepted, SetLimits
from qwen_api.language import _, ngettext
from qwen_api.models import ModelRef, parse_model
from qwen_api.rates import BadRate, parse_limit_bps
from qwen_api.status import LimitsStatus, Status
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.limits import connections_text, files_text, limits_words, model_limits_words, rate_words


class _ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    rate_limit_bps: int
    priority: int


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`qwenctl limit --json`; a rate of 0 is no limit."""

    limits: LimitsStatus
    models: tuple[_ModelLimits, ...]


def limit(arguments: argparse.Namespace, console: Console) -> int:
    """Set limits, or show them if none is given; the exit code. Raises Refusal."""
    words: list[str] = arguments.words
    counts = {
        name: value
        for name, value in (("max_files", arguments.max_files), ("max_connections", arguments.max_connections))
        if value is not None
    }
    if not words and not counts:
        return _show(Client(find_socket(console.env, arguments.socket)).state(), console)
    if len(words) > 2:
        raise Refusal(
            "E_USAGE", _("too many words"), _("{count} were given", count=len(words)), "qwenctl limit MODEL 20MB/s"
        )
    if len(words) == 2:
        if counts:
            raise Refusal(
                "E_USAGE", _("a model has no such limit"), _("--max-files and --max-connections are the daemon's")
            )
        return _limit_model(arguments, parse_model(words[0]), _rate(words[1]), console)
    rate = {"rate_limit_bps": _rate(words[0])} if words else {}
    accepted = Client(find_socket(console.env, arguments.socket)).set_limits(
        msgspec.convert({**rate, **counts}, SetLimits)
    )
    parts = [rate_words(rate["rate_limit_bps"])] if rate else []
    told = {"max_files": files_text, "max_connections": connections_text}
    parts += [_("{what} at once", what=told[name](count)) for name, count in counts.items()]
    _say(_("the daemon: {limits}, until it ends or is told otherwise", limits=", ".join(parts)), accepted, console)
    return exits.OK


def prioritise(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Give a model its place among the others, or files theirs within the model; the exit code."""
    client = Client(find_socket(console.env, arguments.socket))
    if arguments.files:
        accepted = client.prioritise_files(ref.key, arguments.files, arguments.priority)
        priority = _("priority {priority}", priority=arguments.priority)
        _say(f"{of_model(accepted, ref)}: {priority}", accepted, console)
        return exits.OK
    accepted = client.prioritise(ref.key, arguments.priority)
    done = _("{ref} has priority {priority}; what is under way goes on", ref=ref, priority=arguments.priority)
    _say(done, accepted, console)
    return exits.OK


def of_model(accepted: Accepted, ref: ModelRef) -> str:
    """`3 files of org/name`: those that a command was about."""
    return ngettext("{count} file of {ref}", "{count} files of {ref}", len(accepted.files or ()), ref=ref)


def _limit_model(arguments: argparse.Namespace, ref: ModelRef, rate_bps: int | None, console: Console) -> int:
    accepted = Client(find_socket(console.env, arguments.socket)).limit(ref.key, rate_bps)
    rate = rate_words(rate_bps)
    _say(_("{ref}: {rate}, until the daemon ends or is told otherwise", ref=ref, rate=rate), accepted, console)
    return exits.OK


def _rate(text: str) -> int | None:
    try:
        return parse_limit_bps(text)
    except BadRate as error:
        raise Refusal(
            "E_USAGE", _("no such speed"), str(error), "qwenctl limit MODEL 20MB/s; qwenctl limit off"
        ) from error


def _say(done: str, accepted: Accepted, console: Console) -> None:
    if console.as_json:
        console.json(accepted)
    else:
        console.hint(done)


def _show(status: Status, console: Console) -> int:
    limits = status.limits
    models = tuple(
        _ModelLimits(model=m.model, rate_limit_bps=m.rate_limit_bps, priority=m.priority)
        for m in status.models.values()
        if m.rate_limit_bps or m.priority
    )
    if console.as_json:
        console.json(_Answer(limits=limits, models=models))
        return exits.OK
    console.data([_("the daemon: {limits}", limits=limits_words(limits) or _("it does not say"))])
    named = (status.models[m.model] for m in models)
    console.data(f"{safe(m.model, glyphs=console.glyphs)}: {model_limits_words(m)}" for m in named)
    return exits.OK
