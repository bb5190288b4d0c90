"""Standard input, output and error that are always open, also when a command was started without (`>&-`).

Otherwise the first file that is opened gets the closed one's number, and what some library prints goes into it: the
ledger, say. And Python's own streams are None then. What is said on them is left to whoever speaks.
"""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Lead to /dev/null what was closed; to be called before anything else is opened."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a number


def settle() -> None:
    """Bring out what was printed, at the end; what nobody takes is dropped, or Python complains of it at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
