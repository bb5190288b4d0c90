"""Reads what stands behind `qwenctl`: into arguments, into help, or into what was probably meant by a typo.

The commands stand in `control_commands`. Little more than argparse is imported, so that `--help` and a mistyped flag
answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from qwen_api.language import LANGUAGES, N_, _
from qwen_monitor.control_commands import COMMANDS

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
            129 hang-up, 130 Ctrl-C, 143 SIGTERM
""")


class UsageError(Exception):
    """What was written cannot be understood; `why` and `fix` are for people."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, _("see: {command}", command=f"{self.prog} --help"))

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """argparse names the choices; a word that is nearly one of them was meant to be it."""
        if action.choices is None or value in action.choices:
            return
        if near := _near(str(value), list(map(str, action.choices))):
            raise UsageError(
                _("{word!r} is none of: {words}", word=value, words=", ".join(map(str, action.choices))),
                _("did you mean: {near}", near=near),
            )
        super()._check_value(action, value)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; `.command` names the command. Raises UsageError, and SystemExit for --help."""
    parser, commands = make_parser()
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


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole command line, and each command's part of it by its name."""
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
    for name, (message, examples, build) in COMMANDS.items():
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
