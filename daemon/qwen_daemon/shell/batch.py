"""Many small files published at once, in the order of a single one, each step for all before the next.

Every content is written, then all are synced at the same time (a file system waits for the disk once for everybody who
asks meanwhile), then all are renamed to their blobs and that folder is synced once, then the links are made, folder by
folder, each synced once. A crash anywhere leaves what a crash while publishing one file leaves.
Synchronous on purpose: the caller runs it in a thread, where a call costs less than a Path's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import Trouble
from qwen_daemon.shell import durable, way
from qwen_daemon.shell.beneath import Root

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
    """Publishes batches into one snapshot. `inside` is that of the cache's root; `new_part` names a part of an etag."""

    inside: Callable[..., AbstractContextManager[Path]]
    blobs: Path
    snapshot: Path
    new_part: Callable[[str], str]

    def publish(self, contents: Iterable[tuple[WantedFile, bytes]]) -> list[Seal | Trouble]:
        """The seal of each, or why it failed. Raises OSError and Troubles if all did."""
        with self.inside(self.blobs, make=True) as blobs:
            batch = [_One(file, content, os.path.join(blobs, self.new_part(file.etag))) for file, content in contents]
            try:
                _each(_write, batch)
                list(_syncing.map(lambda one: _each(_sync, [one]), batch))
                _each(partial(_rename, blobs), batch)
                durable.sync_folder(blobs)
                folders: dict[str, list[_One]] = {}
                for one in batch:
                    folders.setdefault(os.path.dirname(one.file.path), []).append(one)
                with self.inside(self.snapshot, make=True) as snapshot:
                    # What is held is a root as good as any, and nearer.
                    root = Root(snapshot, may_be_renewed=lambda _names: True)
                    for folder, together in folders.items():
                        to_blobs = os.path.relpath(self.blobs, self.snapshot / folder)
                        _link(root, snapshot / folder, to_blobs, together)
                _each(_seal, batch)
            finally:
                for one in batch:
                    _clear(one)
        return [one.outcome for one in batch if one.outcome is not None]


def _write(one: _One) -> None:
    one.descriptor = os.open(one.part, _NEW, 0o666)
    rest = memoryview(one.content)
    while rest:
        rest = rest[os.write(one.descriptor, rest) :]


def _sync(one: _One) -> None:
    os.fdatasync(one.descriptor)


def _rename(blobs: Path, one: _One) -> None:
    blob = os.path.join(blobs, one.file.etag)
    try:
        os.replace(one.part, blob)
    except IsADirectoryError:
        way.put(Path(one.part), Path(blob))
    one.part = ""


def _link(root: Root, folder: Path, to_blobs: str, together: Sequence[_One]) -> None:
    """The snapshot's names in one of its folders, durable."""
    try:
        with root.inside(folder, make=True) as held:
            _each(lambda one: _link_one(held, to_blobs, one), together)
            durable.sync_folder(held)
    except OSError as error:
        _refuse(together, durable.translate(error))
    except Trouble as trouble:
        _refuse(together, trouble)


def _link_one(folder: Path, to_blobs: str, one: _One) -> None:
    way.link(folder / os.path.basename(one.file.path), f"{to_blobs}/{one.file.etag}")


def _seal(one: _One) -> None:
    one.outcome = take_seal(one.descriptor)  # of what was written, whatever its name leads to by now


def _refuse(together: Sequence[_One], trouble: Trouble) -> None:
    for one in together:
        one.outcome = one.outcome or trouble


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
