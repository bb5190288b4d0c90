"""`qwen-daemon listing`, `probe` and `config`: what clients learn through a process of this package, as JSON documents.

The clients neither talk to the Hub nor read the configuration: they would need this package's imports, and would do it
another way than the daemon. Errors have three lines on stderr and the exit codes of `complaints`; the documents are
English.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwen_api.language import _, in_english
from qwen_api.models import BadModelName, parse_model
from qwen_api.streams import settle
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
)


def answer(question: str, arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Print the answer to `listing`, `probe` or `config`; the exit code."""
    describe, ask = {
        "listing": (_listing_parser, _listing),
        "probe": (_probe_parser, _probe),
        "config": (_config_parser, _config),
    }[question]
    return _answered(ask, describe().parse_args(arguments), env)


def _listing_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "listing",
        _("Print the Hub's listing of a model as JSON: sizes and hashes of its files."),
        "qwen-daemon listing qwen-image-edit | jq",
    )
    _add_model(parser)
    return parser


def _probe_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "probe",
        _("Ask every endpoint who we are, and fetch a few bytes of a model; print what came\nof it as JSON."),
        "qwen-daemon probe qwen-image-edit | jq '.endpoints[].latency_s'",
    )
    _add_model(parser)
    parser.add_argument("--no-bytes", action="store_true", help=_("measure no speed"))
    return parser


def _config_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "config",
        _(
            "Print what a daemon started here would run with, and where each value comes\n"
            "from, as JSON; nothing secret."
        ),
        "qwen-daemon config --config ./config.toml \\\n    | jq -r '.settings[] | select(.origin == \"file\").key'",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=_("configuration file (TOML)"))
    parser.add_argument("--socket", type=Path, metavar="PATH", help=_("control socket to listen on"))
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help=_("ledger, ready files and lock"))
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help=_("Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    )
    return parser


def _answered(
    ask: Callable[[argparse.Namespace, Mapping[str, str]], bytes], options: argparse.Namespace, env: Mapping[str, str]
) -> int:
    from qwen_daemon.config import BadConfig
    from qwen_daemon.core.errors import Trouble

    try:
        text = ask(options, env).decode() + "\n"
    except BadModelName as error:
        fix = _("see: {command}", command="qwen-daemon listing --help")
        return complain("E_USAGE", _("no such model name"), str(error), fix, EXIT_USAGE)
    except BadConfig as error:
        return complain("E_CONFIG", _("the configuration cannot be used"), str(error), _(FIX_CONFIG), EXIT_CONFIG)
    except Trouble as error:
        return complain_of(error.code, _("the Hub gave no listing of {model}", model=options.model), error.detail)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        settle()
    except OSError as error:
        settle()
        fix = _("check that path, its owner and its permissions")
        return complain("E_IO", _("the command cannot go on"), str(error), fix, EXIT_ERROR)
    return EXIT_OK


def _listing(options: argparse.Namespace, env: Mapping[str, str]) -> bytes:
    ref = parse_model(options.model, revision=options.revision)
    from qwen_daemon import asking
    from qwen_daemon import config as configuration
    from qwen_daemon.shell import hub

    hub.quiet()
    return asyncio.run(asking.listing(configuration.load(env, None)[0], env, ref))


def _probe(options: argparse.Namespace, env: Mapping[str, str]) -> bytes:
    ref = parse_model(options.model, revision=options.revision)
    import msgspec

    from qwen_api import places
    from qwen_api.probe import Probe
    from qwen_daemon import asking
    from qwen_daemon import config as configuration
    from qwen_daemon.shell import hub

    hub.quiet()
    found = configuration.load(env, None)[0]
    if found.offline or places.is_offline(env):
        answer = Probe(is_offline=True)
    else:
        with in_english():
            answer = asyncio.run(asking.probe(found, env, ref, with_bytes=not options.no_bytes))
    return msgspec.json.encode(msgspec.structs.replace(answer, reserve_bytes=found.disk.reserve_bytes))


def _config(options: argparse.Namespace, env: Mapping[str, str]) -> bytes:
    import msgspec

    from qwen_daemon import origins

    flags = {
        "config": options.config,
        "cache_dir": options.cache_dir,
        "state_dir": options.state_dir,
        "control_socket": options.socket,
    }
    return msgspec.json.encode(origins.configuration(env, {name: path for name, path in flags.items() if path}))


def _parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"qwen-daemon {name}",
        description=description,
        epilog=_("example:") + f"\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_language(parser)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_("alias, org/name or org/name@revision"))
    parser.add_argument("--revision", help=_("branch, tag or commit"))
