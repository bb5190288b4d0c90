"""How `qwen-daemon` ends: the exit code of each error code, the way out that a person has, and the error's three lines.

English, as everything the daemon says; the clients translate by the code.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

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
FIX_NETWORK = "check the network, HTTPS_PROXY and HF_ENDPOINT; the same command resumes"
FIX_CONFIG = "mend what it names; every key is in README.md and in systemd/config.toml"
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
    "E_NO_INODES": "remove files from that disk (`df -i` counts them), or choose another disk (HF_HOME)",
    "E_QUOTA": "free some of this user's room (`quota -s`), or choose another disk (HF_HOME)",
    "E_READ_ONLY": "remount the disk writable, or choose another one (HF_HOME)",
    "E_PERMISSION": "check the owner and the mode of that folder, or choose another cache (HF_HOME)",
    "E_FILES": "raise the limit with `ulimit -n`, or lower [network] max_connections in the configuration",
    "E_CACHE_GONE": "mount it again or make it anew with mkdir; the same command resumes",
    "E_DISK_IO": "look at `dmesg` and the disk's health first, and run `fsck` on it",
    "E_STOPPED": "the same command resumes",
    "E_CORRUPT": "run it again; if it repeats, test the disk and the memory",
    "E_STRUCTURE": "see what is wrong with: qwenctl check MODEL; it is the repository's own fault",
    "E_LISTING": "check HF_ENDPOINT; if it is the Hub's own, report the repository to its owner",
    "E_INTERNAL": "run it again with --log-level debug, and report what it says",
}


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake told in three lines."""

    def error(self, message: str) -> NoReturn:
        """End with 2."""
        what = "the command line cannot be read"
        raise SystemExit(complain("E_USAGE", what, message, f"see: {self.prog} --help", EXIT_USAGE))


def complain(code: str, what: str, why: str, fix: str, exit_code: int) -> int:
    """Write the error's three lines to stderr; gives `exit_code`."""
    sys.stderr.write(f"error[{code}]: {what}\n  why: {why}\n  fix: {fix}\n")
    return exit_code


def complain_of(code: str, what: str, detail: str) -> int:
    """The same for a trouble with a code; gives the code's exit code."""
    exit_code = EXIT_OF_CODE.get(code, EXIT_NETWORK)
    return complain(code, what, detail or code, FIX_OF_CODE.get(code, FIX_NETWORK), exit_code)
