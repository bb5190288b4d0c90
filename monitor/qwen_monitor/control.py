"""`qwenctl`: one-shot commands. Reads the arguments, calls the one module that a command needs, ends with its code.

Everything heavy is imported by the command that uses it. Errors have three lines on stderr (what, why, fix); data
goes to stdout, progress and hints to stderr; Ctrl-C ends with 130 after everything begun was put away.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from qwen_api.language import _, choose, speak
from qwen_api.streams import open_streams, settle
from qwen_monitor.control_arguments import UsageError, parse

if TYPE_CHECKING:  # importing these costs more than all that --help needs
    import argparse
    from pathlib import Path

    from qwen_api.models import ModelRef
    from qwen_monitor.console import Console
    from qwen_monitor.exits import Refusal

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    open_streams()
    words = sys.argv[1:] if argv is None else argv
    speak(choose(words, os.environ, sys.stdout.encoding))
    try:
        try:
            arguments = parse(words)
            arguments.typed = words
        except UsageError as error:
            return _usage(error, as_json="--json" in words)
        return _run(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    finally:
        settle()


def _usage(error: UsageError, *, as_json: bool) -> int:
    from qwen_monitor.console import Console
    from qwen_monitor.exits import Refusal

    refusal = Refusal("E_USAGE", _("the command cannot be understood"), error.why, error.fix)
    Console(os.environ, sys.stdout, sys.stderr, as_json=as_json).refuse(refusal)
    return EXIT_USAGE


def _run(arguments: argparse.Namespace) -> int:
    from qwen_api.client import DaemonRefused, DaemonUnreachable
    from qwen_api.models import BadModelName
    from qwen_monitor.console import Console
    from qwen_monitor.exits import Ended, Refusal, exit_code_of, refusal_of

    console = Console(
        os.environ,
        sys.stdout,
        sys.stderr,
        as_json=arguments.json,
        emoji=arguments.emoji,
        ascii_only=arguments.ascii,
        quiet=getattr(arguments, "quiet", False),
    )
    _hear_signals()
    try:
        code = _command(arguments, console)
        sys.stdout.flush()
        return code
    except Refusal as error:
        refusal = _with_nearest(error, arguments, console)
    except DaemonRefused as error:
        refusal = _with_nearest(refusal_of(error.problem), arguments, console)
    except DaemonUnreachable as error:
        refusal = Refusal(error.code, _("the daemon cannot be reached"), error.why, error.fix)
    except BadModelName as error:
        meant = _path_hint(arguments) or (_meant(error.near, arguments) if error.near else "")
        refusal = Refusal("E_USAGE", _("no such model name"), str(error), meant)
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        refusal = Refusal(
            "E_IO", _("the command cannot go on"), why, _("check that path, its owner and its permissions")
        )
    except (KeyboardInterrupt, Ended) as ended:
        console.end_progress()
        return ended.exit_code if isinstance(ended, Ended) else EXIT_INTERRUPTED
    console.refuse(_about_model(refusal, arguments))
    return exit_code_of(refusal.code)


def _about_model(refusal: Refusal, arguments: argparse.Namespace) -> Refusal:
    """With the name that was typed where the fix says `MODEL`."""
    from qwen_monitor.exits import Refusal as Other
    from qwen_monitor.sentences import about, reason

    name = _asked_about(arguments)
    if not name or refusal.code == "E_USAGE":  # which says how the command is written, whatever the model
        return refusal
    return Other(refusal.code, refusal.what, refusal.why, about(name, refusal.fix or reason(refusal.code)[1]))


def _asked_about(arguments: argparse.Namespace) -> str:
    """The model as it was typed; "" if none was."""
    names = (getattr(arguments, name, None) for name in ("model", "subject"))
    return next(filter(None, (*names, *getattr(arguments, "words", ()))), "")


def _with_nearest(refusal: Refusal, arguments: argparse.Namespace, console: Console) -> Refusal:
    """For a model that the daemon does not know: the one that was probably meant."""
    if refusal.code not in ("E_UNKNOWN_MODEL", "E_NOT_FOUND"):
        return refusal
    from qwen_monitor.exits import Refusal as Other
    from qwen_monitor.meant import nearest_alias, nearest_model

    name = _asked_about(arguments)
    is_daemons = refusal.code == "E_UNKNOWN_MODEL"
    near = nearest_model(name, console.env, arguments.socket) if is_daemons else nearest_alias(name)
    return Other(refusal.code, refusal.what, refusal.why, _meant(near, arguments)) if near else refusal


def _meant(near: str, arguments: argparse.Namespace) -> str:
    """The whole command, with this model in the place of the one that was typed."""
    import shlex

    name = _asked_about(arguments)
    words = [near if word == name else word for word in arguments.typed]
    command = shlex.join(["qwenctl", *words]) if near in words else near  # else it was typed as --model=NAME
    return _("did you mean: {near}", near=command)


def _command(arguments: argparse.Namespace, console: Console) -> int:
    command: str = arguments.command
    if command == "check":
        return _check(arguments, console)
    if command in ("download", "add"):
        return _fetch(arguments, console)
    if command in ("status", "ls", "version"):
        from qwen_monitor import control_status

        if command == "status":
            ref = _maybe_ref(arguments.model)
            if arguments.file is not None:
                return control_status.file_status(arguments, ref, console)
            return control_status.status(arguments, ref, console)
        return control_status.ls(arguments, console) if command == "ls" else control_status.version(arguments, console)
    if command in ("doctor", "logs", "config", "completion"):
        return _look_around(arguments, console)
    if command == "limit":
        from qwen_monitor import control_limits

        return control_limits.limit(arguments, console)
    if command == "events":
        from qwen_monitor import control_events

        return control_events.events(arguments, _maybe_ref(arguments.model), console)
    from qwen_monitor import control_orders

    ref = _ref(arguments.model)
    if command == "prio":
        from qwen_monitor import control_limits

        return control_limits.prioritise(arguments, ref, console)
    if command == "rm":
        return control_orders.remove(arguments, ref, console)
    if command == "verify":
        from qwen_monitor import control_verify

        return control_verify.verify(arguments, ref, console)
    if command == "wait":
        return control_orders.wait(arguments, ref, console)
    return control_orders.order(arguments, arguments.command, ref, console)


def _look_around(arguments: argparse.Namespace, console: Console) -> int:
    """What is asked of the machine and not of a model."""
    if arguments.command == "doctor":
        from qwen_monitor import control_doctor

        return control_doctor.examined(arguments, _maybe_ref(arguments.model), console)
    if arguments.command == "logs":
        from qwen_monitor import control_logs

        return control_logs.logs(arguments, console)
    if arguments.command == "config":
        from qwen_monitor import control_config

        return control_config.config(arguments, console)
    from qwen_monitor import control_completion

    return control_completion.completion(arguments, console)


def _check(arguments: argparse.Namespace, console: Console) -> int:
    from qwen_monitor.check import Wish, check, print_check
    from qwen_monitor.exits import Refusal

    subject, model = arguments.subject, arguments.model
    folder = _as_path(subject) if subject else None
    if folder is None and subject and model:
        raise Refusal(
            "E_USAGE",
            _("two models were given"),
            _("{one!r} and {other!r}", one=subject, other=model),
            _("for a folder write ./folder"),
        )
    name = model if folder is not None else subject or model
    if arguments.local_dir is not None:
        if folder is not None or not name:
            raise Refusal("E_USAGE", _("--local-dir goes with a model"), fix="qwenctl check MODEL --local-dir DIR")
        folder = arguments.local_dir.expanduser()
    if folder is None and not name:
        raise Refusal(
            "E_USAGE", _("no model and no folder was given"), fix=_("qwenctl check MODEL, or: qwenctl check ./folder")
        )
    wish = Wish(
        cache=console.cache(arguments.cache_dir),
        ref=_ref(name, arguments.revision) if name else None,
        folder=folder,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        full=arguments.verify == "full",
        names_cache=arguments.cache_dir is not None,
        is_local_dir=arguments.local_dir is not None,
        socket=arguments.socket,
    )
    report, advice, hashed = check(wish, console)
    return print_check(report, advice, console, hashed=hashed, all_files=arguments.all)


def _fetch(arguments: argparse.Namespace, console: Console) -> int:
    from qwen_monitor import control_download
    from qwen_monitor.exits import Refusal

    if arguments.command == "add":
        return control_download.add(arguments, _ref(arguments.model, arguments.revision), console)
    words: list[str] = arguments.words
    name = arguments.model or (words[0] if words else "")
    if not name:
        raise Refusal("E_USAGE", _("no model was given"), fix="qwenctl download MODEL")
    arguments.files = words if arguments.model else words[1:]
    return control_download.download(arguments, _ref(name, arguments.revision), console)


def _ref(text: str, revision: str | None = None) -> ModelRef:
    from qwen_api.models import parse_model

    return parse_model(text, revision=revision)


def _maybe_ref(text: str | None) -> ModelRef | None:
    return _ref(text) if text else None


def _as_path(text: str) -> Path | None:
    """A path is written as one: ./dir, ../dir, ~/dir, /dir, `.` or `..`; anything else names a model."""
    from pathlib import Path

    if text in (".", "..") or text.startswith(("./", "../", "/", "~/")):
        return Path(text).expanduser()
    return None


def _path_hint(arguments: argparse.Namespace) -> str:
    from pathlib import Path

    name = getattr(arguments, "subject", "") or ""
    return _("for the folder write ./{name}", name=name) if name and Path(name).is_dir() else ""


def _hear_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_ended)


def _raise_ended(number: int, _frame: FrameType | None) -> NoReturn:
    from qwen_monitor.exits import Ended

    raise Ended(number)


if __name__ == "__main__":
    sys.exit(main())
