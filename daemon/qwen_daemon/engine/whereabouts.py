"""Where one file's bytes are, for somebody who asks: from the try under way, else from what is on record.

Asked for, never told: nothing of it is on the event stream, so it costs nothing while nobody looks.
"""

from __future__ import annotations

import msgspec

from qwen_api.commands import Whereabouts
from qwen_daemon.core.choice import UnknownFile, same_name
from qwen_daemon.core.errors import FilesUnknown
from qwen_daemon.core.spans import recorded_bytes
from qwen_daemon.engine.keeper import Keeper


async def whereabouts(keeper: Keeper, path: str) -> Whereabouts:
    """Of the wanted file at `path`. Raises FilesUnknown before the files are known, and UnknownFile."""
    manifest = keeper.manifest
    if manifest is None:
        raise FilesUnknown(keeper.ref.key)
    files = manifest.by_path()
    file = files.get(path)
    if file is None:
        raise UnknownFile(path, same_name(list(files), path))  # a stranger may ask: nothing dearer is looked for
    supply, transfer = keeper.supply, keeper.transfer(path)
    look = transfer.look if transfer is not None else None
    if look is not None:
        found = look()
    else:
        _part, spans = await keeper.disk.ledger.spans(keeper.disk.where(manifest, file), file.etag, file.size_bytes)
        found = Whereabouts(
            etag=file.etag,
            has_ranges=supply.splits(manifest.repo, file),
            durable_bytes=recorded_bytes(spans),
            present=_joined([(span.offset, span.end) for span in spans]),
        )
    return msgspec.structs.replace(
        found, endpoint=supply.url(manifest.repo, file), host=supply.host(manifest.repo, file)
    )


def _joined(stretches: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted, disjoint stretches with those that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in stretches:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
