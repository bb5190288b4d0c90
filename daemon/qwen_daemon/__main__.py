"""The command `qwen-daemon`: the service, or one model once; `questions` and `mirror` have the other commands."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qwen_api.language import N_, _, in_english
from qwen_api.models import BadModelName, parse_model
from qwen_api.rates import BadRate, parse_rate_bps
from qwen_api.streams import open_streams
from qwen_daemon.complaints import (
    EXIT_CONFIG,
    EXIT_ERROR,
    EXIT_OK,
    EXIT_USAGE,
    FIX_CONFIG,
    Parser,
    add_language,
    complain,
    complain_of,
    speak_to,
)

if TYPE_CHECKING:
    from qwen_daemon.config import ConfiguredModel

USAGE = N_("""\
qwen-daemon [options]
       qwen-daemon listing MODEL
       qwen-daemon probe MODEL
       qwen-daemon config
       qwen-daemon mirror DIR --listen HOST:PORT""")

EXAMPLES = N_("""\
examples:
  qwen-daemon                           run in the foreground as configured
  qwen-daemon --config ./config.toml    with this configuration
  qwen-daemon --once qwen-image-edit    bring one model to complete, then exit
  qwen-daemon --once qwen-image-edit --local-dir ./qwen
                                        into a folder instead of the Hub cache
  qwen-daemon listing qwen-image-edit   print the Hub's listing of it as JSON
  qwen-daemon mirror ~/.cache/huggingface --listen 127.0.0.1:8090
                                        serve what is here to other machines
                                        (see qwen-daemon mirror --help)

Watch and command a running one with qwen-monitor and qwenctl.
exit codes: 0 ok, 1 other error, 2 usage, 78 bad configuration; with --once and
            listing also 3 not found, 4 incomplete, 5 token or licence,
            6 network, 7 stopped, 9 disk full, 10 wrong content
configuration: --config, else $QWEN_DAEMON_CONFIG, else
               ~/.config/qwen-daemon/config.toml, else
               /etc/qwen-daemon/config.toml
""")

M_ARENA_MAX = -8  # malloc.h
QUESTIONS = ("config", "listing", "probe")
T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    speak_to(arguments, os.environ)
    if arguments[:1] == ["mirror"]:
        from qwen_daemon.mirror.command import main as mirror

        return mirror(arguments[1:])
    if arguments and arguments[0] in QUESTIONS:
        from qwen_daemon import questions

        return _leave(questions.answer(arguments[0], arguments[1:], os.environ))
    if arguments and not arguments[0].startswith("-"):
        return _no_such_command(arguments[0])
    return _leave(_daemon(_parser().parse_args(arguments), os.environ))


def _leave(code: int) -> int:
    """The exit code; but while a question to the Hub, which cannot be interrupted, is still on its way, end at once.

    OpenSSL tidies up at exit(3), under the thread that is still using it: now and then that was a SIGSEGV. Everything
    that matters is closed and durable by now.
    """
    hub = sys.modules.get("qwen_daemon.shell.hub")
    if hub is not None and hub.is_asking():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _no_such_command(word: str) -> int:
    near = get_close_matches(word, ("mirror", *QUESTIONS), n=1)
    fix = _("qwenctl has the commands; see also: qwen-daemon --help")
    if near:
        fix = _("did you mean: {near}", near=f"qwen-daemon {near[0]}")
    why = _("there is no command {word!r}", word=word)
    return complain("E_USAGE", _("the command line cannot be read"), why, fix, EXIT_USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="qwen-daemon",
        usage=_(USAGE),
        description=_("Keep Hugging Face Hub models complete and verified on this machine."),
        epilog=_(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=_("configuration file (TOML)"))
    parser.add_argument("--once", metavar="MODEL", help=_("bring this one model to complete, then exit"))
    parser.add_argument("--revision", help=_("with --once: branch, tag or commit"))
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help=_("with --once: only these files")
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help=_("with --once: not these files")
    )
    parser.add_argument(
        "--local-dir", metavar="DIR", help=_("with --once: put the files there, as `hf download --local-dir` does")
    )
    parser.add_argument("--limit-rate", metavar="RATE", help=_("with --once: at most 20MB/s, 500k or 1.5MiB a second"))
    parser.add_argument("--socket", type=Path, metavar="PATH", help=_("control socket to listen on"))
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help=_("ledger, ready files and lock"))
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help=_("Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help=_("default: info; the form is chosen by $QWEN_DAEMON_LOG: json, plain or journal"),
    )
    parser.add_argument("--version", action="version", version=_version(), help=_("show the version and exit"))
    add_language(parser)
    return parser


def _daemon(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    gc.disable()  # until _run: what imports make stays for good, and looking at it costs a tenth of the start
    from qwen_daemon import app, logs
    from qwen_daemon import config as configuration
    from qwen_daemon.shell.instance import AlreadyRunning, SocketPathTooLong

    try:
        wanted = _wanted(options)
        found, path = configuration.load(env, options.config)
        settings = configuration.settle(
            found,
            path,
            env,
            cache_dir=options.cache_dir,
            state_dir=options.state_dir,
            control_socket=options.socket,
        )
        if wanted is not None:
            configuration.local_dirs(app.once_models(settings, wanted), settings.cache_dir)
    except BadModelName as error:
        fix = _("see: {command}", command="qwen-daemon --help")
        if error.near:
            fix = _("did you mean: {near}", near=f"qwen-daemon --once {error.near}")
        return complain("E_USAGE", _("no such model name"), str(error), fix, EXIT_USAGE)
    except BadRate as error:
        return complain("E_USAGE", _("no such speed"), str(error), "--limit-rate 20MB/s", EXIT_USAGE)
    except configuration.BadConfig as error:
        return complain("E_CONFIG", _("the configuration cannot be used"), str(error), _(FIX_CONFIG), EXIT_CONFIG)
    logs.configure(env, level=options.log_level)
    try:
        if wanted is None:
            _run(app.run_for_ever(settings, env))
            return EXIT_OK
        code, detail = _run(app.run_once(settings, env, wanted))
    except AlreadyRunning as error:
        fix = _("use it (qwenctl status), or stop it; a second one needs its own --socket and --state-dir")
        holder = _(error.holder or N_("it does not say who it is"))
        why = _("it uses {path} ({holder})", path=error.what, holder=holder)
        return complain("E_ALREADY_RUNNING", _("another qwen-daemon is running"), why, fix, EXIT_ERROR)
    except SocketPathTooLong as error:
        fix = _("give a shorter one with --socket PATH (and tell the clients: QWEN_DAEMON_SOCKET=PATH)")
        return complain("E_START", _("the daemon cannot start"), str(error), fix, EXIT_ERROR)
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        fix = _("check the path and its permissions")
        return complain("E_START", _("the daemon cannot start"), why, fix, EXIT_ERROR)
    return complain_of(code, _("{model} is not complete", model=options.once), detail or "stopped") if code else EXIT_OK


def _wanted(options: argparse.Namespace) -> ConfiguredModel | None:
    from qwen_daemon.config import BadConfig, ConfiguredModel

    if options.once is None:
        if options.local_dir is not None:
            raise BadConfig(_("--local-dir needs --once MODEL; for the service write local_dir under [[models]]"))
        return None
    ref = parse_model(options.once, revision=options.revision)
    return ConfiguredModel(
        model=str(ref),
        local_dir="" if options.local_dir is None else str(Path(options.local_dir or ".").expanduser().absolute()),
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        follow="auto",
        rate_limit_bps=None if options.limit_rate is None else parse_rate_bps(options.limit_rate),
    )


def _run(work: Coroutine[Any, Any, T]) -> T:
    """uvloop, where there is one: 20 % less CPU in the receive path."""
    import uvloop

    from qwen_daemon.process import collect_rarely

    _use_one_arena()
    collect_rarely()
    gc.enable()
    with in_english():
        return uvloop.run(work)


def _version() -> str:
    import importlib.metadata

    return f"qwen-daemon {importlib.metadata.version('qwen-daemon')}"


def _use_one_arena() -> None:
    """One heap for all threads (mallopt(3), M_ARENA_MAX): glibc has sixteen, where 40 MB of freed buffers pile up."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none and needs none
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


if __name__ == "__main__":
    sys.exit(main())
