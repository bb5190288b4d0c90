"""Loads a pipeline from a proven snapshot: what a program calls, and the command.

Everything heavy is imported inside functions, because torch takes seconds and gigabytes that a process still waiting
for its model should not hold. Loading reads local files only, safetensors only, and runs no code of the repository;
how, is in `assembly` and `components`. Whether the files are the right ones is for `gate` to say, before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qwen_api.models import ModelRef
from qwen_loader.assembly import Assembly, Loaded, Step, Wishes
from qwen_loader.libraries import Device, Dtype, import_libraries, translating
from qwen_loader.placement import AskedPlacement
from qwen_loader.ready import ReadyModel

Progress = Callable[[str, int], None]
"""Called with a component's name and the bytes of all that is loaded so far: after each, and on a GPU meanwhile."""


def load_pipeline(
    ready: ReadyModel,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    placement: AskedPlacement = "auto",
    mmap: bool = True,
    progress: Progress | None = None,
) -> Any:
    """Load the diffusers pipeline at `ready.path`, component by component.

    `auto` is cuda where there is one, the dtype that the weights are stored in, and the fastest placement that fits;
    cuda is always cuda:0, and CUDA_VISIBLE_DEVICES says which GPU that is. On a CPU the weights stay pages of the
    files, read when they are needed; `mmap=False` reads them into memory, where nobody who writes to the files changes
    them. With `progress` the libraries' own bars are off. Sets HF_HUB_OFFLINE=1
    and DIFFUSERS_DISABLE_REMOTE_CODE=1 in this process. Raises LoadFailed.
    """

    def tell(step: Step) -> None:
        if isinstance(step, Loaded) and progress is not None:
            progress(step.component, step.loaded_bytes)

    wishes = Wishes(device=device, dtype=dtype, placement=placement, mmap=mmap)
    return Assembly(wishes, tell, bars=progress is None).finish(ready)


def load_from_hub(ref: ModelRef, *, device: Device = "auto", dtype: Dtype = "auto") -> Any:
    """Let diffusers fetch the model itself, past the daemon: nothing of it is verified. Raises LoadFailed."""
    torch, diffusers = import_libraries(offline=False)
    is_gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    wanted = "bfloat16" if dtype == "auto" else dtype  # nothing is on the disk yet to look at
    with translating(torch, "E_LOAD", "diffusers cannot load it"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            ref.repo, revision=ref.revision, use_safetensors=True, dtype=getattr(torch, wanted)
        )
        return pipeline.to("cuda:0" if is_gpu else "cpu")


def describe(pipeline: Any) -> tuple[str, str, int]:
    """Where a loaded pipeline computes: device, dtype, and the bytes of the first GPU's memory that this process holds.

    Its `device` would be where its weights are: "cpu" or "meta" for one that is offloaded and computes on the GPU.
    """
    import torch

    dtype = str(getattr(pipeline, "dtype", "")).removeprefix("torch.")
    vram_bytes = torch.cuda.memory_allocated(0) if torch.cuda.is_available() else 0
    device = getattr(pipeline, "_execution_device", None) or getattr(pipeline, "device", "")
    return str(device), dtype, vram_bytes
