"""`qwenctl config check|show`: is the configuration right, and what would a daemon started here run with, and why.

`qwen-daemon config` reads it, as the daemon does; this module asks (`questions`) and prints. Nothing secret is shown:
it never comes here.
"""

from __future__ import annotations

import argparse

import msgspec

from qwen_api.language import N_, _, ngettext
from qwen_api.settings import Configuration, Origin, Setting
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import cell_width, padded, safe
from qwen_monitor.exits import Refusal
from qwen_monitor.questions import ask

ANSWER_S = 30.0  # it reads one file
_VALUE_WIDTH_MAX = 42  # so that the origin, a variable of the environment perhaps, fits on 80 columns

_ORIGINS: dict[Origin, str] = {
    "default": N_("default"),
    "file": N_("file"),
    "environment": N_("environment"),
    "command line": N_("command line"),
}


def config(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; the exit code. Raises Refusal (E_CONFIG)."""
    given = arguments.file or arguments.config
    if arguments.file and arguments.config:
        raise Refusal("E_USAGE", _("two files were given"), fix="qwenctl config check FILE")
    flags = (
        ("--config", given),
        ("--cache-dir", arguments.cache_dir),
        ("--state-dir", arguments.state_dir),
        ("--socket", arguments.socket),
    )
    told = ask(
        ("config", *(f"{flag}={value}" for flag, value in flags if value is not None)),
        console.env,
        failed=_("the configuration cannot be used"),
        late=_("the configuration could not be read within {seconds:.0f} s", seconds=ANSWER_S),
        limit_s=ANSWER_S,
    )
    found = msgspec.json.decode(told, type=Configuration)
    if arguments.what == "check":
        _say_right(found, console)
    elif console.as_json:
        console.json(found)
    else:
        console.data(_lines(found, console, with_origin=arguments.origin), indent=4)
    return exits.OK


def _say_right(found: Configuration, console: Console) -> None:
    if console.as_json:
        console.json({"ok": True, "file": found.file, "models": found.models, "mirrors": found.mirrors})
        return
    if not found.file:
        console.data([_("there is no configuration file; the defaults are used")])
        return
    models = ngettext("{count} model", "{count} models", found.models)
    mirrors = ngettext("{count} mirror", "{count} mirrors", found.mirrors)
    path = safe(found.file, glyphs=console.glyphs)
    console.data([_("{path} is right: {models}, {mirrors}", path=path, models=models, mirrors=mirrors)])


def _lines(found: Configuration, console: Console, *, with_origin: bool) -> list[str]:
    rows = [(safe(f"{s.key} = {s.value}", glyphs=console.glyphs), s) for s in found.settings]
    if not with_origin:
        return [text for text, _setting in rows]
    width = min(_VALUE_WIDTH_MAX, max((cell_width(text) for text, _setting in rows), default=0))
    return [f"{padded(text, width)}  # {_origin(setting, console)}" for text, setting in rows]


def _origin(setting: Setting, console: Console) -> str:
    place = f" {safe(setting.place, glyphs=console.glyphs)}" if setting.place else ""
    return f"{_(_ORIGINS[setting.origin])}{place}"
