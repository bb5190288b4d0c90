"""Which of the weight files in a folder a loader would open, told from their names.

One component may have the same weights many times: safetensors and pickles, `fp16` and `non_ema` variants, whole
and in shards. Pure; what an index inside says is left to `structure`. Names as in diffusers 0.42
(utils/constants.py, model_loading_utils.py) and transformers 5 (utils/__init__.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

DIFFUSERS_BASES = ("diffusion_pytorch_model",)
TRANSFORMERS_BASES = ("model", "pytorch_model")
ALL_BASES = (*TRANSFORMERS_BASES, *DIFFUSERS_BASES, "adapter_model")

_NAME = re.compile(
    r"(?P<base>[A-Za-z_]+)"
    r"(?:\.(?P<variant>\w+))?"
    r"(?:-(?P<number>\d+)-of-(?P<count>\d+))?"
    r"(?:\.(?P<late_variant>\w+))?"  # diffusers' legacy shards: -00001-of-00002.fp16.safetensors
    r"\.(?P<suffix>safetensors|bin)"
)
# Both spellings: model.safetensors.index.fp16.json, and the legacy model.safetensors.fp16.index.json.
_INDEX = re.compile(
    r"(?P<base>[A-Za-z_]+)\.(?P<suffix>safetensors|bin)(?:\.(?P<early>\w+))?\.index(?:\.(?P<late>\w+))?\.json"
)
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>\.[\w.]+)")


class WeightSet(msgspec.Struct, frozen=True, kw_only=True):
    """One way to load a component's weights: `single`, or `index` with its shards; names within the folder."""

    base: str
    suffix: str
    variant: str = ""
    single: str = ""
    index: str = ""
    shards: tuple[str, ...] = ()

    @property
    def is_startable(self) -> bool:
        """True when a loader has a file to begin with; shards alone are not found."""
        return bool(self.single or self.index)

    @property
    def index_name(self) -> str:
        """The name the index has, or would have."""
        variant = f".{self.variant}" if self.variant else ""
        return self.index or f"{self.base}.{self.suffix}.index{variant}.json"


class _Key(NamedTuple):
    suffix: str
    variant: str


def choose(names: Iterable[str], bases: tuple[str, ...]) -> WeightSet | None:
    """The set that decides whether the component is complete; None if no weights of these bases are there.

    1. Any trace of the plain safetensors decides: loaders take them first, even half of them.
    2. Otherwise the first set that can be begun: safetensors variants, plain pickles, pickle variants.
    3. Otherwise the first of the leftovers.
    """
    found = sorted(_sets(names, bases), key=_rank)
    if not found:
        return None
    if found[0].suffix == "safetensors" and not found[0].variant:
        return found[0]
    return next((s for s in found if s.is_startable), found[0])


def absent_numbers(names: Iterable[str]) -> tuple[str, ...]:
    """Files that the numbering `-00002-of-00005` says must exist and that are not among `names`."""
    present = set(names)
    expected: set[str] = set()
    for name in present:
        parts = _NUMBERED.fullmatch(name)
        if parts and 0 < int(parts["count"]) <= 10_000:
            count = int(parts["count"])
            expected |= {f"{parts['stem']}-{n:05d}-of-{count:05d}{parts['rest']}" for n in range(1, count + 1)}
    return tuple(sorted(expected - present))


def _sets(names: Iterable[str], bases: tuple[str, ...]) -> list[WeightSet]:
    found: dict[_Key, WeightSet] = {}
    for name in sorted(names):
        if (parts := _INDEX.fullmatch(name)) and parts["base"] in bases:
            key = _Key(parts["suffix"], parts["late"] or parts["early"] or "")
            _add(found, key, parts["base"], index=name)
        elif (parts := _NAME.fullmatch(name)) and parts["base"] in bases:
            key = _Key(parts["suffix"], parts["variant"] or parts["late_variant"] or "")
            _add(found, key, parts["base"], shard=name) if parts["number"] else _add(
                found, key, parts["base"], single=name
            )
    return list(found.values())


def _add(
    found: dict[_Key, WeightSet], key: _Key, base: str, *, single: str = "", index: str = "", shard: str = ""
) -> None:
    before = found.get(key) or WeightSet(base=base, suffix=key.suffix, variant=key.variant)
    found[key] = msgspec.structs.replace(
        before,
        single=single or before.single,
        index=index or before.index,
        shards=(*before.shards, shard) if shard else before.shards,
    )


def _rank(weights: WeightSet) -> tuple[bool, bool, bool, str]:
    """Plain safetensors, safetensors variants (non_ema last), plain pickles, pickle variants."""
    return (weights.suffix != "safetensors", bool(weights.variant), weights.variant == "non_ema", weights.variant)
