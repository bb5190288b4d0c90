"""Loads one component of a pipeline, once and straight to its device: the part of `pipeline` that knows classes.

Any pipeline class will do: model_index.json names library and class of each component, and the class's own
from_pretrained reads its folder, from local files only, safetensors only, without code of the repository. What is not a
plain component (ONNX, a pipeline within, a class that is not there) is None here, and diffusers loads it itself when
the pipeline is assembled. Whether the files are the right ones is for `gate` to say, before.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from qwen_api.component_kinds import kind_of
from qwen_api.indexes import NamedComponent
from qwen_api.undecodable import UNDECODABLE
from qwen_loader.stored import stored_dtype

COUNT_EVERY_S = 1.0  # how often bytes on the device are counted while a component loads


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How every component is loaded; one that was loaded in other terms is loaded again."""

    dtype: str
    device: str
    variant: str | None = None


def load_component(folder: Path, named: NamedComponent, terms: Terms, *, is_moved_later: bool = False) -> Any | None:
    """The component in `folder / named.name`; None if only diffusers knows how. Raises whatever its library raises.

    One that `is_moved_later` stays on the CPU, where its weights are the file's own pages and nothing is read.
    """
    import torch

    where = folder / named.name
    found: Any = _class_of(named) if where.is_dir() else None
    if found is None or not hasattr(found, "from_pretrained"):
        return None
    options: dict[str, object] = {"local_files_only": True}
    if str(found.__module__).startswith("transformers.models.auto."):  # they look for code first
        options |= {"trust_remote_code": False}
    if named.class_name.startswith("AutoModel") or (inspect.isclass(found) and issubclass(found, torch.nn.Module)):
        options |= {"use_safetensors": True, "low_cpu_mem_usage": True, **_dtype_option(named, torch, terms)}
        options |= {"variant": terms.variant} if _has_variant(where, terms.variant) else {}
        # With a map each tensor is made on the device and filled from the file; without one, all of them are made in
        # RAM first. In RAM itself they stay the file's own pages.
        options |= {"device_map": {"": terms.device}} if terms.device != "cpu" and not is_moved_later else {}
    return found.from_pretrained(str(where), **options)


def is_stored_as_loaded(folder: Path, weights: Iterable[Path], terms: Terms) -> bool:
    """True when the weights of the component in `folder` need no conversion: their bytes can go where they are used.

    A quantized model is its library's business. Raises BadHeader, OSError.
    """
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, *UNDECODABLE):
        return False
    return "quantization_config" not in config and stored_dtype(weights) == terms.dtype


def _class_of(named: NamedComponent) -> Any | None:
    """The class that model_index.json names, from the libraries themselves."""
    import diffusers
    import transformers

    if kind_of(named.library, named.class_name) in ("onnx", "pipeline", "custom"):
        return None
    library = {"diffusers": diffusers, "transformers": transformers}.get(named.library)
    if library is None:
        library = getattr(diffusers.pipelines, named.library, None)
    return getattr(library, named.class_name, None)


def _dtype_option(named: NamedComponent, torch: Any, terms: Terms) -> dict[str, object]:
    """transformers says `dtype` and warns of the other; diffusers' models say `torch_dtype`."""
    name = "dtype" if named.library == "transformers" else "torch_dtype"
    return {name: getattr(torch, terms.dtype)}


def _has_variant(where: Path, variant: str | None) -> bool:
    return variant is not None and any(where.glob(f"*.{variant}*.safetensors"))


@contextmanager
def counting(tell: Callable[[int], None]) -> Iterator[None]:
    """While this lasts, tell every second how many bytes have come to the GPU; never called where there is none."""
    import torch

    if not torch.cuda.is_available():
        yield
        return
    done, begun_bytes = threading.Event(), torch.cuda.memory_allocated(0)

    def count() -> None:
        while not done.wait(COUNT_EVERY_S):
            tell(max(0, torch.cuda.memory_allocated(0) - begun_bytes))

    counter = threading.Thread(target=count, name="counting", daemon=True)
    counter.start()
    try:
        yield
    finally:
        done.set()
        counter.join()
