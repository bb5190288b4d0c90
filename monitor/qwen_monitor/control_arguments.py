"""What can be written behind `qwenctl`: commands, flags, help and examples; and what was probably meant by a typo.

Little more than argparse is imported here, so that `--help` and a mistyped flag answer at once. Flags that
`hf download` has too are spelled and meant as there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from qwen_api.durations import parse_duration_s
from qwen_api.language import LANGUAGES, N_, _

EXAMPLES = N_("""\
examples:
  qwenctl check qwen-image-edit                   is it complete; if not, why
  qwenctl check ./my-folder --verify full         a plain folder, every byte
  qwenctl download qwen-image-edit                fetch what is missing
  qwenctl status --json | jq '.models[].missing'  what is not there yet
  qwenctl wait qwen-image-edit && start-my-app    start when it is verified

MODEL is an alias (qwen-image-edit), org/name, or org/name@revision.
""")
EXITS = N_("""\
exit codes: 0 ok, 1 other error, 2 usage, 3 not found, 4 incomplete,
            5 token or licence, 6 network, 7 stopped unfinished, 9 disk full,
            10 wrong content, 69 no daemon, 75 timeout, 78 bad configuration,
            130 Ctrl-C
""")


class UsageError(Exception):
    """What was written cannot be understood; `why` and `fix` are for people."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, _("see: {command}", command=f"{self.prog} --help"))


_Build = Callable[[argparse.ArgumentParser], None]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; `.command` names the command. Raises UsageError, and SystemExit for --help."""
    parser, commands = _parser()
    if not argv:
        raise UsageError(_("no command was given"), _("see: {command}", command="qwenctl --help"))
    if argv[0] == "--version":
        argv = ("version", *argv[1:])
    if not argv[0].startswith("-") and argv[0] not in commands:
        near = _near(argv[0], list(commands))
        raise UsageError(
            _("there is no command {word!r}", word=argv[0]),
            _("did you mean: {near}", near=f"qwenctl {near}") if near else "qwenctl --help",
        )
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        raise _unknown(rest[0], commands[arguments.command])
    return arguments


def duration_s(text: str) -> float:
    """Seconds in `90`, `45s`, `30m`, `2h`, `1h30m`, `1d`."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rate_bps(text: str) -> int:
    """Bytes per second in `20MB/s`, `500k`, `1.5MiB`."""
    from qwen_api.rates import parse_rate_bps  # msgspec's 10 ms, which --help does not need

    try:
        return parse_rate_bps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _between(low: int, high: int) -> Callable[[str], int]:
    """A whole number in these bounds, which are the API's (qwen_api.commands)."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                _("{text!r} is not a whole number from {low} to {high}", text=text, low=low, high=high)
            )
        return number

    return read


def _unknown(word: str, parser: argparse.ArgumentParser) -> UsageError:
    if not word.startswith("-"):
        see = _("see: {command}", command=f"{parser.prog} --help")
        return UsageError(_("{word!r} is one argument too many", word=word), see)
    options = [o for action in parser._actions for o in action.option_strings]
    near = _near(word.partition("=")[0], options)
    return UsageError(
        _("{command} has no option {word!r}", command=parser.prog, word=word),
        _("did you mean: {near}", near=near) if near else f"{parser.prog} --help",
    )


def _near(word: str, words: Sequence[str]) -> str:
    from difflib import get_close_matches  # 5 ms that only a typo needs

    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), "")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="qwenctl",
        description=_("Check, download and command Hugging Face Hub models; the daemon does the work."),
        epilog=_(EXAMPLES) + _(EXITS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_language(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    made: dict[str, argparse.ArgumentParser] = {}
    for name, (message, examples, build) in _COMMANDS.items():
        purpose = _(message)
        made[name] = commands.add_parser(
            name,
            help=purpose,
            description=purpose[0].upper() + purpose[1:] + ".",
            epilog=f"{_('examples:')}\n{examples}\n\n{_(EXITS)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        build(made[name])
        _add_common(made[name])
    return parser, made


def _add_common(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group(_("everywhere"))
    common.add_argument("--json", action="store_true", help=_("machine-readable answer on stdout; sizes in bytes"))
    common.add_argument("--socket", type=Path, metavar="PATH", help=_("the daemon's control socket"))
    common.add_argument("--ascii", action="store_true", help=_("no signs beyond ASCII"))
    common.add_argument("--emoji", action="store_true", help=_("signs of the report as emoji, also into a pipe"))
    _add_language(common)


def _add_language(parser: argparse._ActionsContainer) -> None:
    # Read before the parser is made (qwen_api.language.choose); here it is only let through.
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of texts for people (default: the locale's)"))


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_("alias, org/name or org/name@revision"))


def _maybe_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=_("alias, org/name or org/name@revision (default: all)")
    )


def _choice_of_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help=_("branch, tag or commit (default: main)"))
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help=_("only these files; repeatable")
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help=_("not these files; repeatable"))


def _cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help=_("Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    )


def _local_dir(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--local-dir", type=Path, metavar="DIR", help=purpose)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", metavar="MODEL|PATH", nargs="?", help=_("a model in the cache, or a folder as ./dir")
    )
    parser.add_argument("--model", metavar="MODEL", help=_("the model; with PATH: compare the folder with its listing"))
    parser.add_argument(
        "--verify",
        choices=("sizes", "full"),
        default="sizes",
        help=_("sizes: names, sizes, headers (default); full: hash every byte"),
    )
    _choice_of_files(parser)
    _cache(parser)
    _local_dir(parser, _("the folder that a download --local-dir filled"))
    parser.add_argument("--all", action="store_true", help=_("list every file, good ones too"))


def _download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="MODEL [FILE ...]", help=_("the model, and files if not all of them")
    )
    parser.add_argument("--model", metavar="MODEL", help=_("the model, if not given first"))
    _choice_of_files(parser)
    _cache(parser)
    _local_dir(parser, _("put the files there, as `hf download` does; by a daemon of its own"))
    parser.add_argument("--token", help=_("access token (better: HF_TOKEN, which other users cannot see)"))
    parser.add_argument(
        "--limit-rate", type=rate_bps, metavar="RATE", help=_("at most 20MB/s, 500k or 1.5MiB a second")
    )
    parser.add_argument(
        "--dry-run", action="store_true", help=_("list the files to fetch and their sizes; fetch nothing")
    )
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress; the snapshot's path at the end"))


def _add(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _choice_of_files(parser)


def _rm(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--delete-files", action="store_true", help=_("delete its files from the cache as well"))
    parser.add_argument("-y", "--yes", action="store_true", help=_("do not ask"))


def _verify(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--quick", action="store_true", help=_("hash only what was touched since it was verified"))
    parser.add_argument("--wait", action="store_true", help=_("show how far it is, and end with what was found"))


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="[MODEL] RATE|off", help=_("20MB/s, 500k, 1.5MiB, or off"))
    parser.add_argument("--max-files", type=_between(1, 64), metavar="N", help=_("files in flight over all models"))
    parser.add_argument("--max-connections", type=_between(1, 64), metavar="N", help=_("connections over all files"))


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        dest="files",
        action="append",
        default=[],
        metavar="GLOB",
        help=_("only these files: a path, or a pattern as in `hf download`; repeatable"),
    )


def _model_or_files(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _files(parser)


def _prio(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _files(parser)
    parser.add_argument("priority", type=_between(-100, 100), metavar="N", help=_("the greater the sooner; 0 at first"))


def _wait(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--timeout", type=duration_s, metavar="TIME", help=_("give up after 90, 45s, 30m or 2h (exit 75)")
    )
    parser.add_argument("--for", dest="goal", choices=("complete",), default="complete", help=_("what to wait for"))
    parser.add_argument("--no-wait", action="store_true", help=_("exit 69 at once when there is no daemon"))
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress"))


def _events(parser: argparse.ArgumentParser) -> None:
    _maybe_model(parser)
    parser.add_argument(
        "--types",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="GLOBS",
        help=_("such as file.*,model.*"),
    )
    parser.add_argument("--since", type=int, metavar="SEQ", help=_("begin with the durable events after SEQ"))
    parser.add_argument("--no-follow", action="store_true", help=_("print what has happened so far, then exit"))


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


_COMMANDS: dict[str, tuple[str, str, _Build]] = {
    "check": (
        N_("say what is missing or broken of a model or a folder, and why (needs no daemon)"),
        "  qwenctl check qwen-image-edit\n"
        "  qwenctl check Qwen/Qwen-Image-Edit-2511 --verify full\n"
        "  qwenctl check ./models/qwen --model qwen-image-edit --json\n"
        "  qwenctl check qwen-image-edit --local-dir ./models/qwen",
        _check,
    ),
    "download": (
        N_("bring a model to complete and print its path"),
        "  qwenctl download qwen-image-edit\n"
        "  qwenctl download Qwen/Qwen-Image --exclude '*.md' --dry-run\n"
        "  qwenctl download qwen-image-edit --local-dir ./models/qwen\n"
        "  MODEL_PATH=$(qwenctl download --quiet qwen-image-edit)",
        _download,
    ),
    "add": (N_("have the daemon keep a model complete from now on"), "  qwenctl add qwen-image-edit", _add),
    "rm": (N_("have the daemon want a model no more"), "  qwenctl rm qwen-image-2512 --delete-files", _rm),
    "ls": (N_("list the models that the daemon keeps"), "  qwenctl ls", _nothing),
    "status": (
        N_("how complete the models are (without a daemon: what the disk shows)"),
        "  qwenctl status\n  qwenctl status qwen-image-edit --json | jq -r '.models[].missing[]'",
        _maybe_model,
    ),
    "pause": (
        N_("stop fetching a model, or files of it; what is recorded stays"),
        "  qwenctl pause qwen-image-edit\n  qwenctl pause qwen-image-edit --file 'transformer/*'",
        _model_or_files,
    ),
    "resume": (
        N_("go on after a pause"),
        "  qwenctl resume qwen-image-edit\n  qwenctl resume qwen-image-edit --file '*'",
        _model_or_files,
    ),
    "limit": (
        N_("limit the speed of all models or of one; alone: show the limits"),
        "  qwenctl limit 20MB/s\n  qwenctl limit qwen-image-edit 500k\n  qwenctl limit off\n"
        "  qwenctl limit --max-connections 4",
        _limit,
    ),
    "prio": (
        N_("begin a model's files before or after others', or some of its files first"),
        "  qwenctl prio qwen-image-edit 10\n  qwenctl prio qwen-image-edit 5 --file 'vae/*'",
        _prio,
    ),
    "update": (N_("take the newest commit of the branch a model follows"), "", _model),
    "retry": (
        N_("cut every wait short and try failed files now"),
        "  qwenctl retry qwen-image-edit\n  qwenctl retry qwen-image-edit --file '*-00003-of-*'",
        _model_or_files,
    ),
    "verify": (
        N_("have the daemon hash a model's files again; it stays complete unless damaged"),
        "  qwenctl verify qwen-image-edit --wait\n  qwenctl verify qwen-image-edit --quick",
        _verify,
    ),
    "wait": (
        N_("block until a model is complete and verified; prints its path"),
        "  qwenctl wait qwen-image-edit --timeout 2h && exec start-my-app",
        _wait,
    ),
    "events": (
        N_("print what the daemon does, as it does it"),
        "  qwenctl events --types 'file.retry,file.failed'\n"
        "  qwenctl events --json | jq -c 'select(.type == \"file.retry\")'",
        _events,
    ),
    "version": (
        N_("versions of this program and of the daemon, and where it keeps things"),
        "  qwenctl version --json",
        _nothing,
    ),
}
