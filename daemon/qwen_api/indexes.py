"""Reads the JSON texts that say what a model consists of: model_index.json, weight indexes and config.json.

Pure: bytes in, frozen structs out, nothing kept as a dict. Rules as in diffusers 0.42 (pipeline_utils.py,
hub_utils.py) and transformers 5 (utils/hub.py).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from qwen_api.language import _


class BadIndex(ValueError):
    """The text is JSON without the content that a loader needs; `cause` is a key of causes.CAUSES."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class NamedComponent(msgspec.Struct, frozen=True, kw_only=True):
    """One `"name": [library, class]` of model_index.json."""

    name: str
    library: str
    class_name: str


class PipelineIndex(msgspec.Struct, frozen=True, kw_only=True):
    """model_index.json. `is_custom`: `_class_name` is a list, so the pipeline's own code comes with it."""

    class_name: str
    components: tuple[NamedComponent, ...]
    null_components: tuple[str, ...] = ()
    is_custom: bool = False


class WeightsIndex(msgspec.Struct, frozen=True, kw_only=True):
    """An index of sharded weights: which tensors each shard holds, and the total size its metadata claim (or None)."""

    shards: dict[str, frozenset[str]]
    total_size_bytes: int | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What config.json says of itself."""

    library: str = ""  # "diffusers" or "transformers", "" when it does not show
    class_name: str = ""
    has_auto_map: bool = False  # transformers is to run code that the repository (or another one) brings


def read_model_index(text: bytes) -> PipelineIndex:
    """Read model_index.json; BadIndex if it names no components.

    A value that is a list is a component, `[null, null]` one that is left out on purpose; everything else, and every
    key that begins with `_`, is an argument or a remark.
    """
    raw = _read_object(text)
    components: list[NamedComponent] = []
    null: list[str] = []
    for name, value in sorted(raw.items()):
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        if _is_unsafe(name):
            raise BadIndex("bad_index", _("the component {name!r} is no folder's name", name=name))
        if isinstance(value[0], str) and isinstance(value[1], str):
            components.append(NamedComponent(name=name, library=value[0], class_name=value[1]))
        elif value[0] is None or value[1] is None:
            null.append(name)
    class_name = raw.get("_class_name")
    is_custom = isinstance(class_name, list)
    if not components and not class_name:
        raise BadIndex("bad_index", "it has no `_class_name` and names no components")
    return PipelineIndex(
        class_name=str(class_name[-1] if isinstance(class_name, list) and class_name else class_name or ""),
        components=tuple(components),
        null_components=tuple(null),
        is_custom=is_custom,
    )


def read_weights_index(text: bytes) -> WeightsIndex:
    """Read a `*.index.json`; BadIndex if a loader would refuse it."""
    raw = _read_object(text)
    weight_map = raw.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadIndex("bad_index", "it has no `weight_map`")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard:
            raise BadIndex("bad_index", _("the weight_map gives {tensor!r} no file name", tensor=tensor))
        if _is_unsafe(shard):
            raise BadIndex("unsafe_shard_name", _("the shard {shard!r} is not a plain file name", shard=shard))
        shards.setdefault(shard, set()).add(tensor)
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        raise BadIndex("index_without_metadata", "it has no `metadata`")
    total = metadata.get("total_size")
    return WeightsIndex(
        shards={name: frozenset(tensors) for name, tensors in sorted(shards.items())},
        total_size_bytes=_whole(total),
    )


def read_config(text: bytes) -> Config:
    """Read a config.json as far as it says which class it is for; what it does not say is left empty."""
    try:
        raw = _read_object(text)
    except BadIndex:
        return Config()
    own = raw.get("_class_name")
    names = raw.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    is_transformers = bool(architecture) or "model_type" in raw or "transformers_version" in raw
    return Config(
        library="diffusers" if own or "_diffusers_version" in raw else "transformers" if is_transformers else "",
        class_name=own if isinstance(own, str) else architecture,
        has_auto_map=bool(raw.get("auto_map")) or isinstance(own, list),
    )


def _whole(number: object) -> int | None:
    """Some writers give total_size as 1.0e9; NaN and infinities are no size."""
    if isinstance(number, float):
        return int(number) if number.is_integer() else None
    return number if isinstance(number, int) else None


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)  # as both libraries read it: NaN and Infinity included
    except (ValueError, RecursionError) as error:
        raise BadIndex("bad_json", str(error)) from error
    if not isinstance(raw, dict):
        raise BadIndex("bad_index", _("it is a {kind}, not an object", kind=type(raw).__name__))
    return raw


def _is_unsafe(name: str) -> bool:
    return "/" in name or "\\" in name or "\0" in name or name in ("", ".", "..")
