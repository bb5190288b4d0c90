"""Parts, the files that are being written: their names, how one is begun, and when it is nobody's any more.

They are called `.qwen-<etag>-<random>.part`, a name that neither `hf download` (*.incomplete) nor `hf cache prune`
touches. Which folder they lie in is the layout's to say; what is inside one is part.py's.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import TryAgain
from qwen_daemon.shell import clone, durable
from qwen_daemon.shell.part import PartFile

PART_NAME = re.compile(r"\.qwen-([0-9a-f]{40}|[0-9a-f]{64})-[0-9a-f]{8}\.part")
PARTS = ".qwen-*.part"
STRAY_AGE_S = 7 * 24 * 3600  # an unknown part this old belongs to nobody who still runs


def new_part_name(etag: str) -> str:
    """A name that no part has yet."""
    return f".qwen-{etag}-{secrets.token_hex(4)}.part"


async def open_part(folder: Path, file: WantedFile, name: str | None) -> PartFile:
    """See ports.Store.open_part; `folder` is held. Raises Troubles."""
    known = PART_NAME.fullmatch(name or "")
    if name is not None and (known is None or known[1] != file.etag):
        name = None  # a ledger is a hint; a name of another shape is never opened
    if name is not None:
        try:
            return await PartFile.open(folder / name, file.size_bytes)
        except TryAgain as trouble:
            if not (isinstance(trouble.__cause__, OSError) and durable.is_unreadable(trouble.__cause__)):
                raise
            await durable.in_thread(_drop, folder / name)  # whoever gets another one knows that nothing is kept
    part = await PartFile.open(folder / new_part_name(file.etag), file.size_bytes)
    await durable.in_thread(durable.sync_folder, folder)  # what is recorded must still have its name after a power cut
    return part


def _drop(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def write_part(folder: Path, etag: str, content: bytes) -> str:
    """A whole part at once, durable but for its name; returns the name. Raises OSError."""
    part = folder / new_part_name(etag)
    try:
        with part.open("xb") as out:
            out.write(content)
            out.flush()
            os.fdatasync(out.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part.name


def copy_to_part(source: Path, folder: Path, etag: str) -> str:
    """A durable copy of `source` that may be written to: its good spans will count. Raises OSError."""
    target = folder / new_part_name(etag)
    try:
        with source.open("rb") as damaged:
            if clone.clone(damaged.fileno(), target, ("reflink",)):  # never a hardlink: it will be written to
                return target.name
        shutil.copyfile(source, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())
        durable.sync_folder(target.parent)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return target.name


def drop_spent(folder: Path, etags: Collection[str]) -> None:
    """Remove the parts of files that are all published: a SIGKILL left them before anything was on record."""
    for part in folder.glob(PARTS):
        known = PART_NAME.fullmatch(part.name)
        if known is not None and known[1] in etags:
            part.unlink(missing_ok=True)


def drop_strays(parts: Iterable[Path], known: Collection[str] = ()) -> list[str]:
    """Remove those that are not known and that nobody wrote to for STRAY_AGE_S; returns their names."""
    oldest_s = time.time() - STRAY_AGE_S
    strays = [part for part in parts if part.name not in known and part.stat().st_mtime < oldest_s]
    for stray in strays:
        stray.unlink(missing_ok=True)
    return [stray.name for stray in strays]
