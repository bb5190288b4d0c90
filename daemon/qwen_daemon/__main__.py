"""The command `qwen-daemon`: the service, one model once, a listing, or a mirror."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from qwen_api.models import BadModelName, parse_model
from qwen_api.rates import BadRate, parse_rate_bps

if TYPE_CHECKING:
    from qwen_daemon.config import ConfiguredModel

USAGE = """\
qwen-daemon [options]
       qwen-daemon listing MODEL
       qwen-daemon mirror DIR --listen HOST:PORT"""

EXAMPLES = """\
examples:
  qwen-daemon                                   run in the foreground with the configuration found
  qwen-daemon --config ./config.toml            with this one
  qwen-daemon --once qwen-image-edit            bring one model to complete, then exit
  qwen-daemon --once qwen-image-edit --local-dir ./qwen
                                                into a folder instead of the Hub cache
  qwen-daemon listing qwen-image-edit           print the Hub's listing of the model as JSON
  qwen-daemon mirror ~/.cache/huggingface --listen 127.0.0.1:8090
                                                serve what is here to other machines (see mirror --help)

Watch and command a running one with qwen-monitor and qwenctl.
exit codes: 0 ok, 1 other error, 2 usage, 78 bad configuration; with --once and listing also 3 not found,
            4 incomplete, 5 token or licence, 6 network, 7 stopped, 9 disk full, 10 wrong content
configuration: --config, $QWEN_DAEMON_CONFIG, ~/.config/qwen-daemon/config.toml, /etc/qwen-daemon/config.toml
"""

# Exit codes: 2 usage and 78 configuration (sysexits.h EX_CONFIG) must not be restarted by systemd.
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_CONFIG = 0, 1, 2, 78
EXIT_OF_CODE = {
    "": 0,
    "E_NOT_FOUND": 3,
    "E_REVISION_NOT_FOUND": 3,
    "E_FILE_NOT_FOUND": 3,
    "E_NOTHING_WANTED": 3,
    "E_DISABLED": 3,
    "E_OFFLINE": 4,
    "E_STRUCTURE": 4,
    "E_AUTH": 5,
    "E_GATED": 5,
    "E_FORBIDDEN": 5,
    "E_STOPPED": 7,
    "E_DISK_FULL": 9,
    "E_READ_ONLY": 9,
    "E_CORRUPT": 10,
    "E_INTERNAL": 1,
    "E_DISK_IO": 1,
    "E_PERMISSION": 1,
    "E_LISTING": 1,
}
M_ARENA_MAX = -8  # malloc.h
EXIT_NETWORK = 6  # any other code is the network's
FIX_NETWORK = "check the network, HTTPS_PROXY and HF_ENDPOINT; the same command resumes"
FIX_OF_CODE = {
    "E_NOT_FOUND": "check the spelling; for a private repository set HF_TOKEN",
    "E_REVISION_NOT_FOUND": "check the branch, tag or commit behind '@', or leave it out for main",
    "E_NOTHING_WANTED": "check the --include and --exclude patterns",
    "E_OFFLINE": "unset HF_HUB_OFFLINE, or bring the files by other means",
    "E_AUTH": "check HF_TOKEN (`hf auth whoami`)",
    "E_GATED": "accept the terms on the model's page, and set HF_TOKEN of that account",
    "E_FORBIDDEN": "check the token's rights on the Hub",
    "E_PROXY": "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; NO_PROXY names hosts that are asked directly",
    "E_DISK_FULL": "free some room, choose another disk (HF_HOME), or lower [disk] reserve_bytes in the configuration",
    "E_READ_ONLY": "remount the disk writable, or choose another one (HF_HOME)",
    "E_PERMISSION": "check the owner and the mode of that folder, or choose another cache (HF_HOME)",
    "E_DISK_IO": "look at `dmesg` and the disk's health first",
    "E_STOPPED": "the same command resumes",
    "E_CORRUPT": "run it again; if it repeats, test the disk and the memory",
    "E_STRUCTURE": "see what is wrong with: qwenctl check MODEL; it is the repository's own fault",
    "E_LISTING": "check HF_ENDPOINT; if it is the Hub's own, report the repository to its owner",
    "E_INTERNAL": "run it again with --log-level debug, and report what it says",
}
T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        what = "the command line cannot be read"
        raise SystemExit(_complain("E_USAGE", what, message, f"see: {self.prog} --help", EXIT_USAGE))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["mirror"]:
        from qwen_daemon.mirror.command import main as mirror

        return mirror(arguments[1:])
    if arguments[:1] == ["listing"]:
        return _leave(_listing(_listing_parser().parse_args(arguments[1:]), os.environ))
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
    near = get_close_matches(word, ("mirror", "listing"), n=1)
    fix = f"did you mean: qwen-daemon {near[0]}" if near else "qwenctl has the commands; see also: qwen-daemon --help"
    return _complain("E_USAGE", "the command line cannot be read", f"there is no command {word!r}", fix, EXIT_USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen-daemon",
        usage=USAGE,
        description="Keep Hugging Face Hub models complete and verified on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    parser.add_argument("--once", metavar="MODEL", help="bring this one model to complete, then exit")
    parser.add_argument("--revision", help="with --once: branch, tag or commit")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="with --once: only these files")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="with --once: not these files")
    parser.add_argument(
        "--local-dir", metavar="DIR", help="with --once: put the files there, as `hf download --local-dir` does"
    )
    parser.add_argument("--limit-rate", metavar="RATE", help="with --once: at most 20MB/s, 500k or 1.5MiB a second")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="control socket to listen on")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="ledger, ready files and lock")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="default: info; the form is chosen by $QWEN_DAEMON_LOG: json, plain or journal",
    )
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _listing_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen-daemon listing",
        description="Print the Hub's listing of a model as JSON: sizes and hashes of its files.",
        epilog="example:\n  qwen-daemon listing qwen-image-edit | jq",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="alias, org/name or org/name@revision")
    parser.add_argument("--revision", help="branch, tag or commit")
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
        return _complain("E_USAGE", "no such model name", str(error), "see qwen-daemon --help", EXIT_USAGE)
    except BadRate as error:
        return _complain("E_USAGE", "no such speed", str(error), "--limit-rate 20MB/s", EXIT_USAGE)
    except configuration.BadConfig as error:
        fix = "mend what it names; every key is in README.md and in systemd/config.toml"
        return _complain("E_CONFIG", "the configuration cannot be used", str(error), fix, EXIT_CONFIG)
    logs.configure(env, level=options.log_level)
    try:
        if wanted is None:
            _run(app.run_for_ever(settings, env))
            return EXIT_OK
        code, detail = _run(app.run_once(settings, env, wanted))
    except AlreadyRunning as error:
        fix = "use it (qwenctl status), or stop it; a second one needs its own --socket and --state-dir"
        why = f"it uses {error.what} ({error.holder or 'it does not say who it is'})"
        return _complain("E_ALREADY_RUNNING", "another qwen-daemon is running", why, fix, EXIT_ERROR)
    except SocketPathTooLong as error:
        fix = "give a shorter one with --socket PATH (and tell the clients: QWEN_DAEMON_SOCKET=PATH)"
        return _complain("E_START", "the daemon cannot start", str(error), fix, EXIT_ERROR)
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        return _complain("E_START", "the daemon cannot start", why, "check the path and its permissions", EXIT_ERROR)
    if code:
        _complain(code, f"{options.once} is not complete", detail or "stopped", FIX_OF_CODE.get(code, FIX_NETWORK), 0)
    return EXIT_OF_CODE.get(code, EXIT_NETWORK)


def _listing(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    import msgspec

    from qwen_api.manifest import write_tree
    from qwen_daemon import config as configuration
    from qwen_daemon.core.errors import Trouble
    from qwen_daemon.shell import hub

    async def ask() -> bytes:
        ref = parse_model(options.model, revision=options.revision)
        api = hub.HubApi(configuration.endpoint_in_force(env), lambda: hub.read_token(env))
        commit = await api.resolve(ref)
        tree = msgspec.json.decode(write_tree(await api.list_files(ref.repo, commit)))
        return msgspec.json.encode({"repo": ref.repo, "commit": commit, **tree})

    hub.quiet()
    try:
        sys.stdout.write(asyncio.run(ask()).decode() + "\n")
    except BadModelName as error:
        return _complain("E_USAGE", "no such model name", str(error), "see qwen-daemon listing --help", EXIT_USAGE)
    except configuration.BadConfig as error:
        return _complain("E_CONFIG", "the Hub cannot be asked", str(error), "mend it, or unset it", EXIT_CONFIG)
    except Trouble as error:
        what, fix = f"the Hub gave no listing of {options.model}", FIX_OF_CODE.get(error.code, FIX_NETWORK)
        return _complain(error.code, what, error.detail, fix, EXIT_OF_CODE.get(error.code, EXIT_NETWORK))
    return EXIT_OK


def _wanted(options: argparse.Namespace) -> ConfiguredModel | None:
    from qwen_daemon.config import BadConfig, ConfiguredModel

    if options.once is None:
        if options.local_dir is not None:
            raise BadConfig("--local-dir needs --once MODEL; for the service write local_dir under [[models]]")
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


def _way_out(code: str) -> str:
    if code in ("E_NOT_FOUND", "E_REVISION_NOT_FOUND", "E_DISABLED"):
        return "check the name and the revision; a private repository needs a token (HF_TOKEN)"
    if code in ("E_AUTH", "E_GATED", "E_FORBIDDEN"):
        return "accept the licence on the repository's page, and give a token that may read it (HF_TOKEN)"
    if code == "E_STRUCTURE":
        return "the repository itself is broken: choose another revision, or tell its authors"
    if code == "E_NOTHING_WANTED":
        return "check the patterns: they are those of `hf download`"
    if code == "E_DISK_FULL":
        return "free some room, or set HF_HOME to another disk; then run it again: it resumes"
    return "run it again: it resumes"


def _run(work: Coroutine[Any, Any, T]) -> T:
    """uvloop, where there is one: 20 % less CPU in the receive path."""
    import uvloop

    from qwen_daemon.process import collect_rarely

    _use_one_arena()
    collect_rarely()
    gc.enable()
    return uvloop.run(work)


def _version() -> str:
    import importlib.metadata

    return f"qwen-daemon {importlib.metadata.version('qwen-daemon')}"


def _complain(code: str, what: str, why: str, fix: str, exit_code: int) -> int:
    sys.stderr.write(f"error[{code}]: {what}\n  why: {why}\n  fix: {fix}\n")
    return exit_code


def _use_one_arena() -> None:
    """One heap for all threads (mallopt(3), M_ARENA_MAX): glibc has sixteen, where 40 MB of freed buffers pile up."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none and needs none
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


if __name__ == "__main__":
    sys.exit(main())
