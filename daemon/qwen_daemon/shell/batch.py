"""Many small files published at once, in the order of a single one, each step for all before the next.

Every content is written, then all are synced at the same time (a file system waits for the disk once for everybody who
asks meanwhile), then all are renamed to their blobs and that folder is synced once, then all links are made and their
folders synced once. A crash anywhere leaves what a crash while publishing one file leaves.
Synchronous on purpose: the caller runs it in a thread, where a call costs less than a Path's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import Trouble
from qwen_daemon.shell import durable
from qwen_daemon.shell.way import leads_straight

# For all batches; its threads start when they are needed. More than four wait no shorter.
_syncing = ThreadPoolExecutor(4, "sync")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class _One:
    file: WantedFile
    content: bytes
    part: str
    descriptor: int = -1
    outcome: Seal | Trouble | None = None


@dataclass
class Batch:
    """Publishes batches into one snapshot. `new_part` names a part of an etag.

    `replace` (a part over a blob) and `link` (the snapshot's name for a file) are for what has something in its way or
    its folder missing, or behind a link that somebody planted: they are slower, and make way.
    """

    blobs: Path
    snapshot: Path
    replace: Callable[[str, str], None]
    link: Callable[[WantedFile], None]
    new_part: Callable[[str], str]
    _ways: dict[str, str] = field(default_factory=dict)  # from a folder of the snapshot to the blobs, as links have it

    def publish(self, contents: Iterable[tuple[WantedFile, bytes]]) -> list[Seal | Trouble]:
        """The seal of each, or why it failed. Raises OSError if all did."""
        durable.make_folder(self.blobs)
        batch = [_One(file, content, os.path.join(self.blobs, self.new_part(file.etag))) for file, content in contents]
        try:
            _each(self._write, batch)
            list(_syncing.map(lambda one: _each(self._sync, [one]), batch))
            _each(self._rename, batch)
            durable.sync_folder(self.blobs)
            _each(self._link, batch)
            for folder in {os.path.dirname(self._named(one)) for one in batch if one.outcome is None}:
                durable.sync_folder(Path(folder))
            _each(self._seal, batch)
        finally:
            for one in batch:
                _clear(one)
        return [one.outcome for one in batch if one.outcome is not None]

    def _write(self, one: _One) -> None:
        one.descriptor = os.open(one.part, _NEW, 0o666)
        rest = memoryview(one.content)
        while rest:
            rest = rest[os.write(one.descriptor, rest) :]

    def _sync(self, one: _One) -> None:
        os.fdatasync(one.descriptor)

    def _rename(self, one: _One) -> None:
        blob = os.path.join(self.blobs, one.file.etag)
        try:
            os.replace(one.part, blob)
        except IsADirectoryError:
            self.replace(one.part, blob)
        one.part = ""

    def _link(self, one: _One) -> None:
        named = self._named(one)
        folder = os.path.dirname(named)
        way = self._ways.get(folder)
        if way is None:
            if not leads_straight(folder, below=os.path.dirname(self.snapshot)):
                self.link(one.file)  # which makes way, so that the folder's next file finds it straight
                return
            way = self._ways[folder] = os.path.relpath(self.blobs, folder)
        try:
            os.symlink(f"{way}/{one.file.etag}", named)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            self.link(one.file)

    def _seal(self, one: _One) -> None:
        one.outcome = take_seal(Path(self._named(one)))

    def _named(self, one: _One) -> str:
        return os.path.join(self.snapshot, one.file.path)


def _each(step: Callable[[_One], None], batch: Sequence[_One]) -> None:
    """Do a step for those that came so far; a refusal is that one's alone."""
    for one in batch:
        if one.outcome is None:
            try:
                step(one)
            except OSError as error:
                one.outcome = durable.translate(error)


def _clear(one: _One) -> None:
    if one.descriptor >= 0:
        os.close(one.descriptor)
    if one.part:
        with suppress(OSError):
            os.unlink(one.part)
