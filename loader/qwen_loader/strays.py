"""Which files that nobody vouches for a load would read all the same, by where they lie and what they are called.

transformers takes a `model.safetensors` before the shards beside it, an `adapter_config.json` or an `added_tokens.json`
whoever put it there: a merge of one's own, or what an older revision left in a folder. Pure; what runs code is in
`foreign_code`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from qwen_api.manifest import component_of
from qwen_loader.stored import pick_variant, weight_paths

READ_ENDINGS = frozenset({".safetensors", ".json", ".jinja", ".model"})
READ_NAMES = frozenset({"vocab.txt", "merges.txt"})  # other texts are people's notes


def read_strays(files: Collection[str], strays: Collection[str]) -> tuple[str, ...]:
    """Of `strays`, what lies in a component of the model's own `files` and would be read with them.

    Of a pipeline's own folder nothing but model_index.json is read; of a component not the weights of another variant.
    """
    folders = {component_of(path) for path in files}
    if "model_index.json" in files:
        folders.discard("")
    present = (*files, *strays)
    weights = set(weight_paths(present, pick_variant(present)))
    return tuple(path for path in strays if component_of(path) in folders and _is_read(path, weights))


def _is_read(path: str, weights: Collection[str]) -> bool:
    if path.endswith(".safetensors") and path.count("/") == 1:
        return path in weights
    name = PurePosixPath(path)
    return name.suffix.lower() in READ_ENDINGS or name.name in READ_NAMES
