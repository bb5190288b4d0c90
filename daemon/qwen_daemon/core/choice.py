"""Which files a command means: paths and patterns, as `hf download` understands them.

A word that is a path means that file, also where it holds `[` or `*`; any other is huggingface_hub's pattern
(utils/_paths.py, filter_repo_objects: fnmatch over the whole path, and `dir/` for everything below it).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatch

NEAREST_AMONG_MAX = 2000  # comparing a typo with more names would hold up everybody else
NEAREST_WORD_MAX = 255  # characters, for the same reason


class UnknownFile(LookupError):
    """No file of the model is meant by `word`; `nearest` is the path it resembles most, or ""."""

    def __init__(self, word: str, nearest: str) -> None:
        super().__init__(word)
        self.word, self.nearest = word, nearest


def choose_files(paths: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Those of `paths`, in their order, that any of `words` means. Raises UnknownFile for a word that means none."""
    known, chosen = set(paths), set[str]()
    for word in words:
        meant = [word] if word in known else _matching(paths, word)
        if not meant:
            raise UnknownFile(word, nearest(paths, word))
        chosen.update(meant)
    return tuple(path for path in paths if path in chosen)


def _matching(paths: Sequence[str], word: str) -> list[str]:
    pattern = f"{word}*" if word.endswith("/") else word
    return [path for path in paths if fnmatch(path, pattern)]


def nearest(paths: Sequence[str], word: str) -> str:
    """A file of that very name in another folder, else what is spelled alike; "" if none is."""
    if (found := same_name(paths, word)) or len(word) > NEAREST_WORD_MAX:
        return found
    return next(iter(get_close_matches(word, paths[:NEAREST_AMONG_MAX], n=1, cutoff=0.5)), "")


def same_name(paths: Sequence[str], word: str) -> str:
    """A file of that very name in another folder, or "": what may be looked for on anybody's question."""
    return next((path for path in paths if path.rpartition("/")[2] == word), "")
