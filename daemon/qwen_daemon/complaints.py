"""How `qwen-daemon` ends: the exit code of each error code, the way out that a person has, and the error's three lines.

A person at a terminal reads them in the language spoken; another program, or the journal, in English (`speak_to`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from qwen_api.errors import ERRORS
from qwen_api.language import LANGUAGES, N_, _, choose, speak, spoken

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
    "E_NO_INODES": 9,
    "E_QUOTA": 9,
    "E_READ_ONLY": 9,
    "E_CORRUPT": 10,
    "E_INTERNAL": 1,
    "E_DISK_IO": 1,
    "E_FILES": 1,
    "E_CACHE_GONE": 1,
    "E_DISK_STUCK": 1,
    "E_PERMISSION": 1,
    "E_LISTING": 1,
}
EXIT_NETWORK = 6  # any other code is the network's
FIX_NETWORK = N_("check the network, HTTPS_PROXY and HF_ENDPOINT; the same command resumes")
FIX_CONFIG = N_("mend what it names; every key is in README.md and in systemd/config.toml")
FIX_OF_CODE = {
    "E_NOT_FOUND": N_("check the spelling; for a private repository set HF_TOKEN"),
    "E_REVISION_NOT_FOUND": N_("check the branch, tag or commit behind '@', or leave it out for main"),
    "E_NOTHING_WANTED": N_("check the --include and --exclude patterns"),
    "E_OFFLINE": N_("unset HF_HUB_OFFLINE, or bring the files by other means"),
    "E_AUTH": N_("check HF_TOKEN (`hf auth whoami`)"),
    "E_GATED": N_("accept the terms on the model's page, and set HF_TOKEN of that account"),
    "E_FORBIDDEN": N_("check the token's rights on the Hub"),
    "E_PROXY": N_("check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; NO_PROXY names hosts that are asked directly"),
    "E_DISK_FULL": N_(
        "free some room, choose another disk (HF_HOME), or lower [disk] reserve_bytes in the configuration"
    ),
    "E_NO_INODES": N_("remove files from that disk (`df -i` counts them), or choose another disk (HF_HOME)"),
    "E_QUOTA": N_("free some of this user's room (`quota -s`), or choose another disk (HF_HOME)"),
    "E_READ_ONLY": N_("remount the disk writable, or choose another one (HF_HOME)"),
    "E_PERMISSION": N_("check the owner and the mode of that folder, or choose another cache (HF_HOME)"),
    "E_FILES": N_("raise the limit with `ulimit -n`, or lower [network] max_connections in the configuration"),
    "E_CACHE_GONE": N_("mount it again or make it anew with mkdir; the same command resumes"),
    "E_DISK_IO": N_("look at `dmesg` and the disk's health first, and run `fsck` on it"),
    "E_STOPPED": N_("the same command resumes"),
    "E_CORRUPT": N_("run it again; if it repeats, test the disk and the memory"),
    "E_STRUCTURE": N_("see what is wrong with: qwenctl check MODEL; it is the repository's own fault"),
    "E_LISTING": N_("check HF_ENDPOINT; if it is the Hub's own, report the repository to its owner"),
    "E_INTERNAL": N_("run it again with --log-level debug, and report what it says"),
}


def speak_to(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Use the language of the person who typed this.

    English unless stderr is a terminal: the journal and clients that start this command read it there. Help is for
    people wherever it goes, and `--lang` is an order.
    """
    is_asked = any(word in ("-h", "--help", "--lang") or word.startswith("--lang=") for word in argv)
    is_read = is_asked or sys.stderr.isatty()
    speak(choose(argv, env, sys.stdout.encoding) if is_read else "en")


def add_language(parser: argparse.ArgumentParser) -> None:
    """`--lang`, which `speak_to` has read before the parser is made; here it is only let through."""
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of texts for people (default: the locale's)"))


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake told in three lines."""

    def error(self, message: str) -> NoReturn:
        """End with 2."""
        fix = _("see: {command}", command=f"{self.prog} --help")
        raise SystemExit(complain("E_USAGE", _("the command line cannot be read"), message, fix, EXIT_USAGE))


def complain(code: str, what: str, why: str, fix: str, exit_code: int) -> int:
    """Write the error's three lines to stderr; gives `exit_code`."""
    sys.stderr.write(f"{_('error')}[{code}]: {what}\n  {_('why:')} {why}\n  {_('fix:')} {fix}\n")
    return exit_code


def complain_of(code: str, what: str, detail: str) -> int:
    """The same for a trouble with a code; gives the code's exit code."""
    exit_code = EXIT_OF_CODE.get(code, EXIT_NETWORK)
    return complain(code, what, _why(code, detail), _(FIX_OF_CODE.get(code, FIX_NETWORK)), exit_code)


def _why(code: str, detail: str) -> str:
    """The trouble's own words, which are English; in another language the code's sentence, and they behind it."""
    if spoken() == "en" or code not in ERRORS:
        return detail or code
    why = _(ERRORS[code][0])
    return f"{why} ({detail})" if detail else why
