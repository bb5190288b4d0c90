"""Reads from file names and safetensors headers how a model's weights are stored: which variant, which dtype.

diffusers reads bfloat16 weights as float32 unless told otherwise, while transformers obeys its config: half of the
pipeline would not fit the other half. So what is stored is looked up here, without torch, before anything is loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from qwen_api.headers import HEADER_BYTES_MAX, LENGTH_BYTES
from qwen_api.undecodable import UNDECODABLE

_WEIGHTS = re.compile(r"(?P<stem>[^.]+)(?:\.(?P<variant>[A-Za-z0-9_]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float32"}
_PACKED = ("F8_E4M3", "F8_E5M2")  # stored small, computed in bfloat16
_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I8": 1, "BOOL": 1}
_BYTES_LOADED = {"bfloat16": 2, "float16": 2, "float32": 4}


class BadHeader(ValueError):
    """The file is not safetensors."""


def pick_variant(paths: Iterable[str]) -> str | None:
    """The variant (`fp16`) to ask diffusers for: one that a component has instead of plain weights; else None."""
    plain: set[str] = set()
    variants: dict[str, set[str]] = {}
    for path in paths:
        folder, found = str(PurePosixPath(path).parent), _WEIGHTS.fullmatch(PurePosixPath(path).name)
        if found is None or folder == ".":
            continue
        if found["variant"]:
            variants.setdefault(folder, set()).add(found["variant"])
        else:
            plain.add(folder)
    only = [names for folder, names in variants.items() if folder not in plain]
    return min(set.intersection(*only), default=None) if only else None


def weight_paths(paths: Iterable[str], variant: str | None) -> list[str]:
    """Of a repository's paths, the safetensors of its components that a load with `variant` reads."""
    found = sorted(path for path in paths if PurePosixPath(path).match("*/*.safetensors") and path.count("/") == 1)
    marked = [path for path in found if _variant_of(path) == variant]
    with_variant = {PurePosixPath(path).parent for path in marked}
    return marked + [
        path for path in found if _variant_of(path) is None and PurePosixPath(path).parent not in with_variant
    ]


def sum_by_component(sizes: Mapping[str, int], paths: Iterable[str]) -> dict[str, int]:
    """Bytes of these files by the component they belong to, the largest first: the order in which to load them."""
    sums: dict[str, int] = {}
    for path in paths:
        name = str(PurePosixPath(path).parent)
        sums[name] = sums.get(name, 0) + sizes[path]
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def loaded_bytes(path: Path, dtype: str) -> int:
    """What one file's tensors take in memory when those of floats are loaded as `dtype`. Raises BadHeader, OSError."""
    as_loaded = dict.fromkeys(_NAMES, _BYTES_LOADED[dtype])
    return sum(elements * as_loaded.get(stored, _BYTES.get(stored, 8)) for stored, elements in _read_header(path))


def stored_dtype(files: Iterable[Path]) -> str:
    """The dtype that most bytes of these files are stored in: bfloat16, float16 or float32.

    Raises BadHeader or OSError for a file that cannot be read.
    """
    bytes_by_dtype: Counter[str] = Counter()
    for path in files:
        for dtype, elements in _read_header(path):
            if dtype in _NAMES or dtype in _PACKED:
                bytes_by_dtype[_NAMES.get(dtype, "bfloat16")] += elements * _BYTES[dtype]
    return max(bytes_by_dtype, key=lambda name: (bytes_by_dtype[name], name), default="float32")


def _variant_of(path: str) -> str | None:
    found = _WEIGHTS.fullmatch(PurePosixPath(path).name)
    return found["variant"] if found else None


def _read_header(path: Path) -> list[tuple[str, int]]:
    """(dtype, number of elements) of each tensor. The format: 8 bytes of length, then that many bytes of JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 2 <= length <= HEADER_BYTES_MAX:
            raise BadHeader(f"{path} is not a safetensors file")
        raw = file.read(length)
    try:
        header: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
        return [
            (str(tensor["dtype"]), _product(tensor["shape"]))
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
    except (*UNDECODABLE, KeyError, TypeError) as error:
        raise BadHeader(f"{path} is not a safetensors file") from error


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
