"""Writes one component's weights: random values, and shards cut in the real repository's proportions.

A tensor's values depend on the seed, the component and its own name and on nothing else, so no library's order
of initialisation can change a byte. What models there are is left to demo.tiny_models.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

Make = Callable[[str, tuple[int, ...]], Any]

BFLOAT16_BYTES = 2  # the real weights are bfloat16 throughout


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How one component's weights are cut into files."""

    component: str
    stem: str
    shards: int
    last_share: float  # of the component's bytes that the last shard holds, as in the real repository


WEIGHTS = (
    Weights(component="text_encoder", stem="model", shards=4, last_share=0.102),
    Weights(component="transformer", stem="diffusion_pytorch_model", shards=5, last_share=0.024),
    Weights(component="vae", stem="diffusion_pytorch_model", shards=1, last_share=1.0),
)


def write(
    folder: Path, weights: Weights, model: Any, *, seed: int, say: Callable[[str], None], make: Make | None = None
) -> None:
    """Fill `folder`, which holds the component's config.json already, one shard in memory at a time.

    `make` makes a tensor from its name (seed and component before it) and shape; by default the same on every machine.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    split = _split(weights, {name: BFLOAT16_BYTES * math.prod(shape) for name, shape in shapes.items()})
    for filename, names in split.filename_to_tensors.items():
        say(f"{weights.component}/{filename}")
        _write_shard(
            folder / filename, ((name, shapes[name]) for name in names), f"{seed}/{weights.component}", make or _tensor
        )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{weights.stem}.safetensors.index.json").write_text(text)


def _write_shard(path: Path, shapes: Iterable[tuple[str, tuple[int, ...]]], prefix: str, make: Make) -> None:
    from safetensors.torch import save_file

    tensors = {name: make(f"{prefix}/{name}", shape) for name, shape in shapes}
    save_file(tensors, path, metadata={"format": "pt"})
    # safetensors makes its files 0600; a mirror run by another user has to read them as it reads the rest.
    shutil.copymode(path.with_name("config.json"), path)


def _split(weights: Weights, sizes_bytes: dict[str, int]) -> Any:
    """The shard limit that gives the wanted number of shards with a last one nearest to its real share."""
    total_bytes = sum(sizes_bytes.values())
    limits = (total_bytes * step // 1000 for step in range(1000 // weights.shards, 1001))
    splits = (_split_at(weights, sizes_bytes, limit_bytes) for limit_bytes in limits)
    fitting = [split for split in splits if len(split.filename_to_tensors) == weights.shards]

    def distance(split: Any) -> float:
        *_, last = split.filename_to_tensors.values()
        return abs(sum(sizes_bytes[name] for name in last) / total_bytes - weights.last_share)

    return min(fitting, key=distance)


def _split_at(weights: Weights, sizes_bytes: dict[str, int], limit_bytes: int) -> Any:
    from huggingface_hub import split_state_dict_into_shards_factory

    return split_state_dict_into_shards_factory(
        sizes_bytes,
        get_storage_size=lambda size_bytes: size_bytes,
        filename_pattern=weights.stem + "{suffix}.safetensors",
        max_shard_size=limit_bytes,
    )


def _tensor(name: str, shape: tuple[int, ...]) -> Any:
    """Spread so that a signal goes through: gains around one, small biases, matrices by their fan-in.

    Uniform rather than normal values, because these are made without logarithms and cosines, whose last bits
    differ between processors.
    """
    import torch

    digest = blake2b(name.encode(), digest_size=8).digest()
    dice = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)  # 63 bits: a seed is a signed 64-bit number
    noise = (torch.rand(shape, generator=dice) - 0.5) * math.sqrt(12)  # of unit variance
    if name.endswith("bias"):
        return (noise * 0.02).bfloat16()
    if math.prod(shape) == shape[0]:
        return (1 + noise * 0.02).bfloat16()
    fan_in = math.prod(shape) // shape[0]
    return (noise / math.sqrt(fan_in)).bfloat16()
