"""Which weight files one component needs: the chosen set's single file, or its index and every shard that it names.

Pure. It also finds what an index and the shards' own headers say against each other: a shard of another revision
has the right name and a perfect header, but not the tensors that the index looks for in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qwen_api.headers import Header
from qwen_api.indexes import BadIndex, WeightsIndex, read_weights_index
from qwen_api.inventory import FoundFile
from qwen_api.language import _
from qwen_api.weight_sets import WeightSet, absent_numbers, choose

_NAMED_MAX = 3  # tensors named in a detail


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """A file that must be there; `cause` (a key of causes.CAUSES) and `detail` are for when it is not."""

    path: str
    cause: str
    detail: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is there and contradicts the others."""

    path: str
    cause: str
    detail: str
    other_path: str = ""


class IndexSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A weights index in numbers. `total_size_bytes` is the index's own claim of tensor bytes, None if it has none."""

    path: str
    shards_expected: int
    shards_found: int
    tensors: int
    total_size_bytes: int | None = None


class WeightNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `is_absent`: there is no trace of weights at all."""

    needs: tuple[Need, ...] = ()
    faults: tuple[Fault, ...] = ()
    index: IndexSummary | None = None
    notes: tuple[str, ...] = ()
    is_pickle: bool = False
    is_absent: bool = False


def needs_of_weights(
    files: Mapping[str, FoundFile], folder: str, present: list[str], bases: tuple[str, ...], *, prefers_index: bool
) -> WeightNeeds:
    """What the weights in `folder` ("" or "vae/") need; `present` are the file names there.

    1. An index beside a whole file: diffusers takes the index (`prefers_index`), transformers the whole file.
    2. A whole file needs itself.
    3. Shards without an index need it, and those that their numbering misses.
    4. Nothing at all: the plain safetensors is named, for want of knowing better.
    """
    chosen = choose(present, bases)
    if chosen is None:
        detail = _("or {name}.safetensors.index.json with its shards", name=bases[0])
        need = Need(path=f"{folder}{bases[0]}.safetensors", cause="weights_missing", detail=detail)
        return WeightNeeds(needs=(need,), is_absent=True)
    is_pickle = chosen.suffix == "bin"
    if chosen.index and (prefers_index or not chosen.single):
        return _by_index(files, folder, chosen)
    if chosen.single:
        return WeightNeeds(needs=(Need(path=folder + chosen.single, cause="weights_missing"),), is_pickle=is_pickle)
    shards = sorted({*chosen.shards, *absent_numbers(chosen.shards)})
    return WeightNeeds(
        needs=(
            Need(path=folder + chosen.index_name, cause="index_missing"),
            *(
                Need(path=folder + s, cause="shard_missing", detail=_("the other shards are numbered so"))
                for s in shards
            ),
        ),
        is_pickle=is_pickle,
    )


def _by_index(files: Mapping[str, FoundFile], folder: str, chosen: WeightSet) -> WeightNeeds:
    path = folder + chosen.index
    is_pickle = chosen.suffix == "bin"
    by_number = tuple(
        Need(path=folder + s, cause="shard_missing", detail=_("the other shards are numbered so"))
        for s in sorted({*chosen.shards, *absent_numbers(chosen.shards)})
    )
    own = Need(path=path, cause="index_missing")
    text = files[path].text
    if text is None:  # its content is at fault, which the inventory says; the numbering is all there is
        return WeightNeeds(needs=(own, *by_number), is_pickle=is_pickle)
    try:
        index = read_weights_index(text)
    except BadIndex as error:
        fault = Fault(path=path, cause=error.cause, detail=str(error))
        return WeightNeeds(needs=(own, *by_number), faults=(fault,), is_pickle=is_pickle)
    headers = _headers(files, folder, index)
    return WeightNeeds(
        needs=(
            own,
            *(
                Need(path=folder + s, cause="shard_missing", detail=_("named in {path}", path=path))
                for s in index.shards
            ),
        ),
        faults=tuple(_contradictions(folder, index, headers)),
        index=IndexSummary(
            path=path,
            shards_expected=len(index.shards),
            shards_found=sum(folder + s in files for s in index.shards),
            tensors=sum(map(len, index.shards.values())),
            total_size_bytes=index.total_size_bytes,
        ),
        notes=_total_size_note(path, index, headers),
        is_pickle=is_pickle,
    )


def _headers(files: Mapping[str, FoundFile], folder: str, index: WeightsIndex) -> dict[str, Header]:
    """The shards' readable headers, by shard name."""
    return {
        shard: found.header
        for shard in index.shards
        if (found := files.get(folder + shard)) and found.header and found.header.is_readable
    }


def _contradictions(folder: str, index: WeightsIndex, headers: dict[str, Header]) -> list[Fault]:
    faults: list[Fault] = []
    for shard, header in headers.items():
        absent = index.shards[shard] - header.tensors
        if not absent:
            continue
        owner = next((s for s, tensors in index.shards.items() if s != shard and tensors <= header.tensors), "")
        names = ", ".join(sorted(absent)[:_NAMED_MAX]) + (", ..." if len(absent) > _NAMED_MAX else "")
        faults.append(
            Fault(
                path=folder + shard,
                cause="swapped_with" if owner else "other_revision",
                detail=_(
                    "it lacks {count} of the {total} tensors the index expects: {names}",
                    count=len(absent),
                    total=len(index.shards[shard]),
                    names=names,
                ),
                other_path=folder + owner if owner else "",
            )
        )
    return faults


def _total_size_note(path: str, index: WeightsIndex, headers: dict[str, Header]) -> tuple[str, ...]:
    """Neither library checks total_size, and shared tensors make it differ by right: a remark, not a fault."""
    if index.total_size_bytes is None or len(headers) < len(index.shards):
        return ()
    total = sum(h.end_bytes - h.data_offset_bytes for h in headers.values())
    if total == index.total_size_bytes:
        return ()
    return (
        _(
            "{path} says total_size {size}, its shards hold {total} bytes of tensors",
            path=path,
            size=index.total_size_bytes,
            total=total,
        ),
    )
