"""`qwen-monitor`: chooses between the screen, plain lines and JSON, and translates endings into exit codes.

Textual paints even where there is no terminal, so it is imported only after all three standard streams were found to
be one (it paints on stderr).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable, Follower, find_socket
from qwen_api.language import LANGUAGES, N_, _, choose, speak
from qwen_api.models import BadModelName, ModelRef, parse_model
from qwen_api.streams import open_streams, settle
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import Glyphs, choose_glyphs
from qwen_monitor.exits import refusal_of
from qwen_monitor.plain import Plain, follow, follow_json
from qwen_monitor.sentences import error_text
from qwen_monitor.view import View, matches

REFRESH_S, REFRESH_SSH_S = 0.5, 1.0
REFRESH_MIN_S, REFRESH_MAX_S = 0.5, 60.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STREAMS = ("stdin", "stdout", "stderr")

_EXAMPLES = N_("""\
examples:
  qwen-monitor                            every model, on the whole terminal
  qwen-monitor qwen-image-edit            one model
  qwen-monitor --once && start-my-app     0: complete, 4: not yet, 69: no daemon
  qwen-monitor --plain >> download.log    a line for each event, and summaries
  qwen-monitor --once --json | jq '.findings[].path'
  qwen-monitor --json | jq 'select(.type == "file.retry")'

exit codes: 0 ok (with --once: all complete), 2 usage, 3 not found,
            4 incomplete, 69 no daemon, 129 hang-up, 130 Ctrl-C, 143 SIGTERM
keys: q quit, p pause or resume, r retry now, v verify, Enter a file's details,
      / filter, s sort, a all files, + - speed limit, x remove, Tab next model,
      ? help with the command behind each key
""")


class Signalled(BaseException):
    """A signal asked to end; raised from its handler wherever the program waits."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    open_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    speak(choose(words, os.environ, sys.stdout.encoding))
    arguments = _parser().parse_args(words)
    try:
        wanted = parse_model(arguments.model) if arguments.model else None
    except BadModelName as error:
        near = shlex.join(["qwen-monitor", *(error.near if word == arguments.model else word for word in words)])
        fix = _("did you mean: {near}", near=near) if error.near else ""
        print(error_text("E_USAGE", _("no such model name"), str(error), fix), file=sys.stderr)
        return exits.USAGE
    glyphs = choose_glyphs(os.environ, sys.stdout.encoding, arguments.ascii)
    find = partial(find_socket, os.environ, arguments.socket)
    try:
        code = _chosen(arguments, find, wanted, glyphs)
        sys.stdout.flush()
        return code
    except Signalled as ended:
        return ended.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    except OSError as error:
        fix = _("check that path, its owner and its permissions")
        print(error_text("E_IO", _("the command cannot go on"), str(error), fix), file=sys.stderr)
        return exits.OTHER
    finally:
        settle()


def _chosen(arguments: argparse.Namespace, find: partial[Path], wanted: ModelRef | None, glyphs: Glyphs) -> int:
    if arguments.once:
        return _once(find, wanted, arguments)
    if not arguments.plain and not arguments.json and can_draw(os.environ, _terminals()):
        if importlib.util.find_spec("textual"):
            return _on_screen(arguments, find, wanted, glyphs)
        print(_("plain lines; for the whole screen: pip install 'qwen-daemon[monitor]'"), file=sys.stderr)
    return _as_lines(arguments, find, wanted, glyphs)


def can_draw(env: Mapping[str, str], terminals: Mapping[str, bool]) -> bool:
    """True if all of STREAMS are terminals and TERM names one that can move its cursor."""
    return all(terminals.get(name, False) for name in STREAMS) and env.get("TERM", "") not in ("", "dumb")


def _terminals() -> dict[str, bool]:
    streams = {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr}
    return {name: stream is not None and stream.isatty() for name, stream in streams.items()}


def _on_screen(arguments: argparse.Namespace, find: partial[Path], wanted: ModelRef | None, glyphs: Glyphs) -> int:
    if arguments.no_wait:
        try:
            find()
        except DaemonUnreachable as error:
            return _no_daemon(error)
    _raise_on_signals()
    from qwen_monitor.monitor import Monitor, watch  # 0.2 s and 20 MB that lines do not need

    slow = "SSH_CONNECTION" in os.environ
    view = View(wanted=wanted, read_only=arguments.read_only)
    refresh_s = arguments.refresh or (REFRESH_SSH_S if slow else REFRESH_S)
    app = Monitor(Follower(find, since=0), find, view=view, glyphs=glyphs, refresh_s=refresh_s)
    code, lines = watch(app, mouse=arguments.mouse)
    with suppress(OSError):  # the terminal may be gone
        print("\n".join(lines), flush=True)
    return code


def _as_lines(arguments: argparse.Namespace, find: partial[Path], wanted: ModelRef | None, glyphs: Glyphs) -> int:
    follower, plain = Follower(find), Plain(glyphs=glyphs, wanted=wanted)
    _raise_on_signals()
    try:
        if arguments.json:
            return follow_json(follower, plain, sys.stdout.buffer, sys.stderr, no_wait=arguments.no_wait)
        no_wait: bool = arguments.no_wait
        return follow(follower, plain, sys.stdout, sys.stderr, no_wait=no_wait, monotonic=time.monotonic, wall=_now)
    except Signalled as ended:
        if not arguments.json:
            print("\n".join(plain.summary(follower.status, _now())), flush=True)
        return ended.exit_code


def _once(find: partial[Path], wanted: ModelRef | None, arguments: argparse.Namespace) -> int:
    from qwen_monitor.once import show_once  # what a check needs, the screen does not

    console = Console(os.environ, sys.stdout, sys.stderr, as_json=arguments.json, ascii_only=arguments.ascii)
    try:
        client = Client(find())
        models = [m for m in client.state().models.values() if matches(m, wanted)]
        if models:
            return show_once(client, models, console)
    except DaemonUnreachable as error:
        return _no_daemon(error)
    except DaemonRefused as error:
        refusal = refusal_of(error.problem)
        print(error_text(refusal.code, refusal.what, refusal.why, refusal.fix), file=sys.stderr)
        return exits.DAEMON_DOWN
    what = _("{ref} is not wanted by this daemon", ref=wanted) if wanted else _("no model is wanted by this daemon")
    fix = _("ask for it with: qwenctl add {ref}", ref=wanted or "qwen-image-edit")
    print(error_text("E_UNKNOWN_MODEL", what, fix=fix), file=sys.stderr)
    return exits.NOT_FOUND if wanted else exits.INCOMPLETE


def _no_daemon(error: DaemonUnreachable) -> int:
    print(error_text(error.code, _("cannot reach the daemon"), error.why, error.fix), file=sys.stderr)
    return exits.DAEMON_DOWN


def _raise_on_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, _raise_signalled)


def _raise_signalled(number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_signals()  # from here on it ends anyway; a second Ctrl-C would only print where it was
    raise Signalled(number)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _refresh(text: str) -> float:
    seconds = float(text)
    if not REFRESH_MIN_S <= seconds <= REFRESH_MAX_S:
        raise argparse.ArgumentTypeError(
            _("{text} is not between {low} and {high:.0f} seconds", text=text, low=REFRESH_MIN_S, high=REFRESH_MAX_S)
        )
    return seconds


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(
            error_text(
                "E_USAGE",
                _("the command cannot be understood"),
                message,
                _("see: {command}", command="qwen-monitor --help"),
            ),
            file=sys.stderr,
        )
        raise SystemExit(exits.USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen-monitor",
        description=_("Watch qwen-daemon download, verify and serve models."),
        epilog=_(_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = f"%(prog)s {importlib.metadata.version('qwen-daemon')}"
    parser.add_argument("--version", action="version", version=version, help=_("show the version and exit"))
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_("show only this model"))
    parser.add_argument("--socket", type=Path, metavar="PATH", help=_("the daemon's control socket"))
    form = parser.add_argument_group(_("form (chosen by itself when the output is no terminal)"))
    form.add_argument("--plain", action="store_true", help=_("one line for each event, a summary every 30 s"))
    form.add_argument("--json", action="store_true", help=_("the event stream; with --once as: qwenctl check --json"))
    form.add_argument("--once", action="store_true", help=_("print a report and exit (0 all complete, 4 or 69)"))
    form.add_argument("--ascii", action="store_true", help=_("no signs beyond ASCII"))
    form.add_argument("--refresh", type=_refresh, metavar="SECONDS", help=_("draw every SECONDS (0.5; over SSH 1)"))
    parser.add_argument("--no-wait", action="store_true", help=_("exit 69 when there is no daemon, instead of waiting"))
    parser.add_argument("--read-only", action="store_true", help=_("keys that command the daemon do nothing"))
    parser.add_argument(
        "--mouse",
        action=argparse.BooleanOptionalAction,
        default=False,
        help=_("click files, turn the wheel; without it the terminal selects text"),
    )
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of texts for people (default: the locale's)"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
