"""The code blocks of README.md and README.ru.md, so that tests compare them and run what they say.

A block is a run of lines indented by four spaces after an empty line, as Markdown has it, or a fenced one.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGLISH, RUSSIAN = ROOT / "README.md", ROOT / "README.ru.md"

_COMMENT = re.compile(r"(?<=\S)\s+# .*$")


def blocks(readme: Path) -> list[str]:
    """Its code blocks, without their indentation."""
    found: list[list[str]] = []
    fenced = inside = False
    previous = ""
    for line in readme.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            if fenced:
                found.append([])
        elif fenced:
            found[-1].append(line)
        elif line.startswith("    ") and (inside or not previous.strip()):
            if not inside:
                found.append([])
            found[-1].append(line[4:])
            inside = True
        elif not line.strip() and inside:
            found[-1].append("")
        else:
            inside = False
        previous = line
    return ["\n".join(block).strip("\n") for block in found]


def without_comments(block: str) -> list[str]:
    """What a machine would read, in order; a commented-out setting (`# key = value`) stays."""
    code = [_COMMENT.sub("", line).rstrip() for line in block.splitlines()]
    return [line for line in code if line and (not line.startswith("# ") or re.match(r"# \w+ = ", line))]


def commands(readme: Path = ENGLISH) -> list[str]:
    """Every line of every block, without comments."""
    return [line for block in blocks(readme) for line in without_comments(block)]


def block_with(start: str, readme: Path = ENGLISH) -> str:
    """The one block that has a line beginning so."""
    (found,) = [b for b in blocks(readme) if any(line.startswith(start) for line in b.splitlines())]
    return found


def command(start: str) -> str:
    """The first command of README.md that begins so. A test fails here when README.md no longer says it."""
    return next(line for line in commands() if line.startswith(start))
