"""The same content lying elsewhere: which of those files are worth taking, and whose seals stay good.

A blob's name in the cache is its hash, so it is found by name; a plain file, because its folder's listing says so.
That it has the hash is believed only of a file whose seal is on record. Taking it is the shell's work, recording it the
engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from qwen_api.events import AdoptedHow
from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.order import SMALL_BYTES
from qwen_daemon.core.spans import Span

SHARED_STORE = ""  # the "repository" of what lies in huggingface_hub's store for all repositories

Refusal = Literal["wrong", "no way"]
"""wrong: it is not the content, or changed, or cannot be read. no way: none of the ways works between the two."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A file elsewhere that should have the content. `where` is its place in the ledger (ports.Ledger).

    `shared`: it is the very file (inode) that our own name leads to.
    """

    repo: str
    where: str
    seal: Seal
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The content as a part of ours. `seal` is the part's; `spans` are known if it was read on the way."""

    name: str
    how: AdoptedHow
    seal: Seal
    spans: tuple[Span, ...] | None


def proven(twins: Iterable[Twin], on_record: Mapping[str, Seal]) -> dict[str, Seal]:
    """The seals, by place, of the twins that still look as they did when they were verified."""
    return {twin.where: twin.seal for twin in twins if on_record.get(twin.where) == twin.seal}


def candidates(file: WantedFile, twins: Iterable[Twin], sealed: Mapping[str, Seal]) -> tuple[Twin, ...]:
    """What can be taken, files that need no hash first; never the file that our own name leads to already."""
    usable = [twin for twin in twins if twin.seal.size_bytes == file.size_bytes and not twin.shared]
    return tuple(sorted(usable, key=lambda twin: (twin.where not in sealed, twin.where)))


def ways_without_room(file: WantedFile) -> tuple[AdoptedHow, ...]:
    """How to take it if it shall cost nothing.

    Small files (configs) are not hardlinked: people edit them in place, and would edit another model's with them.
    """
    return ("reflink", "hardlink") if file.size_bytes > SMALL_BYTES else ("reflink",)


def is_same_file(before: Seal, after: Seal) -> bool:
    """Nothing but the ctime differs: a link to it was made or removed, its content was not touched."""
    return msgspec.structs.replace(after, ctime_ns=before.ctime_ns) == before
