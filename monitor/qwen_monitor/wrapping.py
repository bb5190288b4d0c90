"""Sentences over several lines of a terminal, broken between words, and never inside a command that is to be copied.

Pure. A terminal breaks a long line by itself, in the middle of a word; a command on two lines does not run.
"""

from __future__ import annotations

import re
import textwrap

from qwen_monitor.display import cell_width

_COMMAND = re.compile(r"(?:qwenctl|qwen-[a-z]+|systemctl|sudo|export|newgrp) (?![^;,()]*: )[^;,()]+")
_UNBREAKABLE = "\N{NO-BREAK SPACE}"  # textwrap breaks at ASCII's spaces alone


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most `width` cells, but for longer words and commands; `indent` stands before all but the first."""
    if cell_width(text) <= width:
        return [text]
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _UNBREAKABLE), text)
    lines = textwrap.wrap(
        whole, max(20, width), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_UNBREAKABLE, " ") for line in lines]
