"""Which files of a component the report shows, in which order, and which shards together: pure.

A component with an index is shown whole, its index first, so that people see what the index promises and what is there;
shards in a row that are alike in being good or missing are one entry, so that a hundred of them fit a screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # what a report is made of costs more imports than all the rest
    from qwen_api.report import ComponentReport, FileReport

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\..+)", re.ASCII)
_INDEX_SUFFIX = ".index.json"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report: one file, or a row of shards, `numbers` (`00001-00004`, as in their names) of `count`."""

    files: tuple[FileReport, ...]
    numbers: str = ""
    count: int = 0


def entries(component: ComponentReport, *, all_files: bool) -> list[Entry]:
    """Index, shards, and other files if they are bad; with `all_files` every file by itself.

    Of a component that has nothing here, or has no shards, only what is bad is shown; nothing at all is one fact, and
    no entry.
    """
    if all_files:
        return [Entry(files=(file,)) for file in sorted(component.files, key=_rank)]
    if not component.found_files and not component.done_bytes:
        return []
    indexes = [file for file in component.files if file.path.endswith(_INDEX_SUFFIX)]
    shards = [file for file in component.files if _SHARD.fullmatch(file.path)]
    shown = {file.path for file in (*indexes, *shards)}
    others = [file for file in component.files if not file.is_well and file.path not in shown]
    return [*map(_alone, indexes), *_rows(shards), *map(_alone, others)]


def _rows(shards: Iterable[FileReport]) -> Iterator[Entry]:
    """Neighbours of one set with one fate."""
    places = sorted((_place(file) for file in shards), key=lambda place: place[:2])
    for _fate, row in groupby(enumerate(places), key=lambda item: _fate_of(*item)):
        files = tuple(file for _rank, (_set, _number, file) in row)
        if len(files) == 1:
            yield _alone(files[0])
        else:
            first, last = _SHARD.fullmatch(files[0].path), _SHARD.fullmatch(files[-1].path)
            assert first is not None and last is not None, "only shards are in a row"
            yield Entry(files=files, numbers=f"{first['number']}-{last['number']}", count=int(first["count"]))


def _place(file: FileReport) -> tuple[tuple[str, str, str], int, FileReport]:
    """Which set of shards, which of them."""
    found = _SHARD.fullmatch(file.path)
    assert found is not None, "only shards have a place"
    return (found["stem"], found["count"], found["suffix"]), int(found["number"]), file


def _fate_of(rank: int, place: tuple[tuple[str, str, str], int, FileReport]) -> tuple[object, ...]:
    """Equal for neighbours that may share a line: a row without a gap; what is cut or corrupt is told by itself."""
    shards, number, file = place
    fate = "well" if file.is_well else file.finding
    return (shards, number - rank, fate, "" if fate in ("well", "missing") else file.path)


def _alone(file: FileReport) -> Entry:
    return Entry(files=(file,))


def _rank(file: FileReport) -> tuple[int, str]:
    is_index, is_shard = file.path.endswith(_INDEX_SUFFIX), _SHARD.fullmatch(file.path) is not None
    return (0 if is_index else 1 if is_shard else 2), file.path
