"""The command `qwen-daemon`: the service, one model once, a listing, or a mirror."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qwen_api.commands import AddModel
from qwen_api.models import BadModelName, parse_model

EXAMPLES = """\
examples:
  qwen-daemon                                   run in the foreground with the configuration found
  qwen-daemon --config ./config.toml            with this one
  qwen-daemon --once qwen-image-edit            bring one model to complete, then exit
  qwen-daemon listing qwen-image-edit           print the Hub's listing of the model as JSON
  qwen-daemon mirror ~/.cache/huggingface       serve what is here to other machines (see mirror --help)

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
T = TypeVar("T")
EXIT_NETWORK = 6  # any other code is the network's


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["mirror"]:
        from qwen_daemon.mirror.command import main as mirror

        return mirror(arguments[1:])
    if arguments[:1] == ["listing"]:
        return _listing(_listing_parser().parse_args(arguments[1:]), os.environ)
    return _daemon(_parser().parse_args(arguments), os.environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen-daemon",
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
    parser.add_argument("--socket", type=Path, metavar="PATH", help="control socket to listen on")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="ledger, ready files and lock")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _listing_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen-daemon listing",
        description="Print the Hub's listing of a model as JSON: sizes and hashes of its files.",
    )
    parser.add_argument("model", metavar="MODEL", help="alias, org/name or org/name@revision")
    parser.add_argument("--revision", help="branch, tag or commit")
    return parser


def _daemon(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    from qwen_daemon import app, logs
    from qwen_daemon import config as configuration
    from qwen_daemon.shell.instance import AlreadyRunning

    try:
        wanted = _wanted(options)
        found, path = configuration.load(env, options.config)
    except BadModelName as error:
        return _complain("E_USAGE", "no such model name", str(error), "see qwen-daemon --help", EXIT_USAGE)
    except configuration.BadConfig as error:
        return _complain("E_CONFIG", "the configuration cannot be used", str(error), "mend the file", EXIT_CONFIG)
    settings = configuration.settle(
        found,
        path,
        env,
        cache_dir=options.cache_dir,
        state_dir=options.state_dir,
        control_socket=options.socket,
    )
    logs.configure(env, level=options.log_level)
    try:
        if wanted is None:
            _run(app.run_for_ever(settings, env))
            return EXIT_OK
        code, detail = _run(app.run_once(settings, env, wanted))
    except AlreadyRunning as error:
        return _complain("E_ALREADY_RUNNING", str(error), f"{error.what} is held", "stop that one first", EXIT_ERROR)
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        return _complain("E_START", "the daemon cannot start", why, "check the path and its permissions", EXIT_ERROR)
    if code:
        _complain(code, f"{options.once} is not complete", detail or "stopped", "run it again: it resumes", 0)
    return EXIT_OF_CODE.get(code, EXIT_NETWORK)


def _listing(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    import msgspec

    from qwen_api import places
    from qwen_api.manifest import write_tree
    from qwen_daemon.core.errors import Trouble
    from qwen_daemon.shell import hub

    async def ask() -> bytes:
        ref = parse_model(options.model, revision=options.revision)
        api = hub.HubApi(places.endpoint(env), lambda: hub.read_token(env))
        commit = await api.resolve(ref)
        tree = msgspec.json.decode(write_tree(await api.list_files(ref.repo, commit)))
        return msgspec.json.encode({"repo": ref.repo, "commit": commit, **tree})

    hub.quiet()
    try:
        sys.stdout.write(asyncio.run(ask()).decode() + "\n")
    except BadModelName as error:
        return _complain("E_USAGE", "no such model name", str(error), "see qwen-daemon listing --help", EXIT_USAGE)
    except Trouble as error:
        fix = "check the name, the token (HF_TOKEN) and the network"
        what = f"the Hub gave no listing of {options.model}"
        return _complain(error.code, what, error.detail, fix, EXIT_OF_CODE.get(error.code, EXIT_NETWORK))
    return EXIT_OK


def _wanted(options: argparse.Namespace) -> AddModel | None:
    if options.once is None:
        return None
    ref = parse_model(options.once, revision=options.revision)
    return AddModel(model=str(ref), include=tuple(options.include), exclude=tuple(options.exclude), follow="auto")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """uvloop, where there is one: 20 % less CPU in the receive path."""
    import uvloop

    return uvloop.run(work)


def _version() -> str:
    import importlib.metadata

    return f"qwen-daemon {importlib.metadata.version('qwen-daemon')}"


def _complain(code: str, what: str, why: str, fix: str, exit_code: int) -> int:
    sys.stderr.write(f"error[{code}]: {what}\n  why: {why}\n  fix: {fix}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
