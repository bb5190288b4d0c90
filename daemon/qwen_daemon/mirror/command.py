"""``qwen-daemon mirror``: serves a folder of models to any Hugging Face client, read-only.

It exists so that a second machine on a LAN, a demo or a test can download with HF_ENDPOINT pointing here instead
of at the Hub. This module is the way in: configuration, the command line, start and stop. Answering requests is
left to ``http``.
"""

import argparse
import asyncio
import errno
import ipaddress
import logging
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from aiohttp import http_exceptions, web

from qwen_api.language import LANGUAGES, N_, _, spoken
from qwen_daemon.mirror.answers import printable
from qwen_daemon.mirror.disk import models_in
from qwen_daemon.mirror.hash import HASH_REPORT_BYTES, HashProgress
from qwen_daemon.mirror.http import Listeners, MirrorConfig, build_app
from qwen_daemon.mirror.routes import is_repo_id

__all__ = ["Listeners", "MirrorConfig", "build_app", "main", "serve"]

# How long answers under way may still run when the mirror stops; a client resumes what is cut off.
SHUTDOWN_GRACE_S = 0.5
MODELS_NAMED_MAX = 5  # in the greeting

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

EXAMPLES = N_("""\
DIR is one of:
  a folder of models    DIR/<org>/<name>/<files>
  a Hugging Face cache  DIR/models--<org>--<name>/..., or the HF_HOME around it
  one model             its files themselves, with --repo ORG/NAME

examples:
  qwen-daemon mirror ~/.cache/huggingface --listen 127.0.0.1:8090
  qwen-daemon mirror ./model --repo acme/tiny --listen 127.0.0.1:8090 \\
    --rate-limit 5M
  qwen-daemon mirror /srv/models --listen 0.0.0.0:8090 --allow-lan

and on the client's side:
  HF_ENDPOINT=http://127.0.0.1:8090 hf download acme/tiny

GET /-/mirror/stats tells which bytes of which file were sent, and how many of
them twice.
""")

_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}


async def serve(config: MirrorConfig, *, ready: Callable[[str], None], listeners: Listeners | None = None) -> None:
    """Serve until cancelled; ``ready`` is called once with the base URL, when connections are accepted.

    Raises:
        ValueError: the host is not a loopback address and ``allow_lan`` is not set.
        OSError: the address cannot be listened on (in use, not ours, not permitted).
    """
    if not config.allow_lan and not is_loopback(config.host):
        raise ValueError(f"{config.host} is not a loopback address, and allow_lan is not set")
    app = build_app(config, listeners or Listeners())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        ready(_base_url(config.host, runner.addresses[0][1]))
        await asyncio.Event().wait()  # for ever: cancelling is how it ends
    finally:
        await runner.cleanup()


def _base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: whatever it means today, it may mean something else tomorrow
        return False


def main(argv: list[str]) -> int:
    """Run the command with the arguments after ``qwen-daemon mirror``; return the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        config = _config(arguments)
    except _UsageError as bad:
        return _fail(EXIT_USAGE, "E_USAGE", bad.what, bad.why, bad.fix)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    try:
        asyncio.run(_run(config, _listeners(verbose=arguments.verbose)))
    except ExceptionGroup as failed:
        error = failed.exceptions[0]
        if not isinstance(error, OSError):
            raise
        return _cannot_listen(arguments.listen, error)
    return EXIT_OK


async def _run(config: MirrorConfig, listeners: Listeners) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        greet = partial(_greet, config)
        serving = tasks.create_task(serve(config, ready=greet, listeners=listeners))
        await stop.wait()
        serving.cancel()


def _cannot_listen(address: str, error: OSError) -> int:
    what = _("cannot listen on {address}", address=address)
    if error.errno == errno.EADDRINUSE:
        why, fix = _("another program listens there"), _("choose another port, or 0 for any free one")
        return _fail(EXIT_FAILED, "E_PORT_IN_USE", what, why, fix)
    return _fail(EXIT_FAILED, "E_LISTEN", what, error.strerror or str(error), _("choose another address"))


def _greet(config: MirrorConfig, url: str) -> None:
    """Print the address alone to stdout, for scripts, and what people want to know to stderr."""
    print(url, flush=True)
    if config.allow_lan and not is_loopback(config.host):
        _say(_("warning: every machine that reaches this address can read everything served here"))
    models = models_in(config.folder, config.repo)
    named = ", ".join(models[:MODELS_NAMED_MAX]) + (", ..." if len(models) > MODELS_NAMED_MAX else "")
    if models:
        _say(
            _("serving {models} from {folder}; clients: HF_ENDPOINT={url}", models=named, folder=config.folder, url=url)
        )
    else:
        empty = N_("warning: {folder} holds no model yet (DIR/<org>/<name>/ or a cache); is it one? --repo ORG/NAME")
        _say(_(empty, folder=config.folder))


def _listeners(*, verbose: bool) -> Listeners:
    if verbose:
        return Listeners(hashing=_tell_hashing, notes=_say, requests=_say)
    return Listeners(hashing=_tell_hashing, notes=_say)


def _tell_hashing(progress: HashProgress) -> None:
    if progress.total_bytes >= HASH_REPORT_BYTES:
        done_gb, total_gb = progress.done_bytes / 1e9, progress.total_bytes / 1e9
        _say(f"hashing {progress.path}: {done_gb:.2f} of {total_gb:.2f} GB")


def _say(line: str) -> None:
    print(printable(line) if spoken() == "en" else _without_controls(line), file=sys.stderr, flush=True)


def _without_controls(text: str) -> str:
    """As `printable`, with the letters of the language spoken left as they are."""
    return "".join(c if c.isprintable() else printable(c) for c in text)


def _fail(exit_code: int, code: str, what: str, why: str, fix: str) -> int:
    for line in (f"{_('error')}[{code}]: {what}", f"  {_('why:')} {why}", f"  {_('fix:')} {fix}"):
        _say(line)
    return exit_code


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record is about us: a scanner's broken request is no reason for a traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], http_exceptions.HttpProcessingError)


class _UsageError(Exception):
    def __init__(self, what: str, *, why: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix or _("see: {command}", command="qwen-daemon mirror --help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(_("the command line cannot be read"), why=message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen-daemon mirror",
        description=_("Serve a folder of models in the Hugging Face Hub's own HTTP shape, read-only."),
        epilog=_(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help=_("what to serve; nothing outside it ever is"))
    parser.add_argument("--listen", metavar="HOST:PORT", required=True, help=_("where; port 0 takes any free one"))
    parser.add_argument("--repo", metavar="ORG/NAME", help=_("serve this model only: DIR is it, or a cache"))
    parser.add_argument("--rate-limit", metavar="BYTES_PER_S", help=_("over all connections; k, M, G are decimal"))
    parser.add_argument("--allow-lan", action="store_true", help=_("let other machines connect"))
    parser.add_argument("--verbose", action="store_true", help=_("one line per request to stderr"))
    # Read before the parser is made (qwen_daemon.complaints.speak_to); here it is only let through.
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of texts for people (default: the locale's)"))
    return parser


def _config(arguments: argparse.Namespace) -> MirrorConfig:
    host, port = _listen_address(arguments.listen)
    if not arguments.allow_lan and not is_loopback(host):
        what = _("will not listen on {address}", address=arguments.listen)
        why = _("{host} can be reached from other machines", host=host)
        raise _UsageError(what, why=why, fix=_("listen on 127.0.0.1, or --allow-lan"))
    if arguments.repo is not None and not is_repo_id(arguments.repo):
        raise _UsageError(f"--repo {arguments.repo!r}", why=_("it is not of the form {form}", form="ORG/NAME"))
    return MirrorConfig(
        folder=_folder(arguments.folder),
        repo=arguments.repo,
        host=host,
        port=port,
        allow_lan=arguments.allow_lan,
        rate_limit_bps=None if arguments.rate_limit is None else _bytes_per_s(arguments.rate_limit),
    )


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        what = _("cannot serve {folder}", folder=folder)
        raise _UsageError(what, why=_("it is not a folder"), fix=_("name a folder that exists"))
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        why = _("it is a snapshot: its files are links into the cache around it")
        fix = _("serve the cache: {folder}", folder=folder.parents[2])
        raise _UsageError(_("cannot serve {folder}", folder=folder), why=why, fix=fix)
    return folder


def _listen_address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})", text, re.ASCII)
    if match is None or int(match[2]) > 65535:
        why = _("it is not of the form {form}", form="HOST:PORT")
        raise _UsageError(f"--listen {text!r}", why=why, fix=_("e.g. {example}", example="127.0.0.1:8090"))
    return match[1].strip("[]"), int(match[2])


def _bytes_per_s(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kMG]?)", text, re.ASCII)
    rate = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if rate < 1:
        why = _("it is no number of bytes per second")
        raise _UsageError(f"--rate-limit {text!r}", why=why, fix=_("e.g. {example}", example="5M"))
    return rate
