"""What is read of a snapshot before torch is imported: its index, its headers, and whether anything is wrong with it.

Whatever cannot be loaded is told here, by its cause and with what mends it, as LoadFailed. Loading is for `assembly`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qwen_api.indexes import BadIndex, PipelineIndex, read_model_index
from qwen_api.language import _
from qwen_api.manifest import component_of
from qwen_api.seals import Seal
from qwen_api.snapshots import snapshot_parts
from qwen_loader.faults import fault_text, find_faults
from qwen_loader.libraries import LoadFailed
from qwen_loader.stored import BadHeader, loaded_bytes

MODEL_INDEX = "model_index.json"


def seals_of(component: str, seals: Mapping[str, Seal]) -> dict[str, Seal]:
    """The seals of one component's files."""
    return {path: seal for path, seal in seals.items() if component_of(path) == component}


def grouped(weights: list[str]) -> dict[str, list[str]]:
    """Paths by the component they are of."""
    groups: dict[str, list[str]] = {}
    for path in weights:
        groups.setdefault(component_of(path), []).append(path)
    return groups


def bytes_in_memory(folder: Path, weights: list[str], dtype: str) -> int:
    """What these weights take when they are loaded as `dtype`. Raises LoadFailed."""
    with reading(folder):
        return sum(loaded_bytes(folder / path, dtype) for path in weights)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Raise LoadFailed for what cannot be read inside."""
    try:
        yield
    except (BadHeader, OSError) as error:
        raise LoadFailed("E_CORRUPT", str(error), f"qwenctl check {folder} --verify full") from error


def read_index(folder: Path) -> PipelineIndex:
    """The folder's model_index.json. Raises LoadFailed."""
    try:
        return read_model_index((folder / MODEL_INDEX).read_bytes())
    except (BadIndex, OSError) as error:
        raise LoadFailed("E_CORRUPT", f"model_index.json: {error}", f"qwenctl check {folder}") from error


def refuse_unsound(folder: Path, component: str | None = None, *, repo: str = "") -> None:
    """LoadFailed for what the libraries would hide or misname, told by its cause, before torch is imported.

    `repo` is whose files they are; without it, it is read off the folder where that is a cache's snapshot.
    """
    found = find_faults(folder, component=component)
    if found:
        more = _("; and {count} more", count=len(found) - 1) if len(found) > 1 else ""
        parts = snapshot_parts(folder)
        model = repo or (parts.repo if parts is not None else "MODEL")
        raise LoadFailed(
            found[0].code,
            fault_text(found[0]) + more,
            f"see all with: qwenctl check {folder}; mend with: qwenctl download {model}, "
            f"or with a daemon: qwenctl verify {model}",
        )
