"""Loads a pipeline from a proven snapshot and edits one picture with it: what a program calls, and the command.

Everything heavy is imported inside functions, because torch takes seconds and gigabytes that a process still waiting
for its model should not hold. Loading reads local files only, safetensors only, and runs no code of the repository;
how, is in `assembly` and `components`. Whether the files are the right ones is for `gate` to say, before.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qwen_api.models import ModelRef
from qwen_loader.assembly import Assembly, Loaded, Step, Wishes
from qwen_loader.libraries import Device, Dtype, LoadFailed, import_libraries, translating
from qwen_loader.picture_areas import picture_areas
from qwen_loader.placement import AskedPlacement
from qwen_loader.ready import ReadyModel

Progress = Callable[[str, int], None]
"""Called with a component's name and the bytes of all that is loaded so far: after each, and on a GPU meanwhile."""

STEPS_MIN = 2  # with one step the scheduler's shift_terminal divides by zero: NaN sigmas, a black picture
VAE_SIDE_MAX_PX, CONDITION_SIDE_MAX_PX = 1024, 384  # what QwenImageEditPlusPipeline resizes every input picture to
CONDITION_SIDE_MIN_PX = 112  # four 28-pixel patches: the smallest picture that the text encoder's vision part takes


def load_pipeline(
    ready: ReadyModel,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    placement: AskedPlacement = "auto",
    progress: Progress | None = None,
) -> Any:
    """Load the diffusers pipeline at `ready.path`, component by component.

    `auto` is cuda where there is one, the dtype that the weights are stored in, and the fastest placement that fits.
    With `progress` the libraries' own bars are off. Sets HF_HUB_OFFLINE=1 and DIFFUSERS_DISABLE_REMOTE_CODE=1 in this
    process. Raises LoadFailed.
    """

    def tell(step: Step) -> None:
        if isinstance(step, Loaded) and progress is not None:
            progress(step.component, step.loaded_bytes)

    wishes = Wishes(device=device, dtype=dtype, placement=placement)
    return Assembly(wishes, tell, bars=progress is None).finish(ready)


def load_from_hub(ref: ModelRef, *, device: Device = "auto", dtype: Dtype = "auto") -> Any:
    """Let diffusers fetch the model itself, past the daemon: nothing of it is verified. Raises LoadFailed."""
    torch, diffusers = import_libraries(offline=False)
    where = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    wanted = "bfloat16" if dtype == "auto" else dtype  # nothing is on the disk yet to look at
    with translating(torch, "E_LOAD", "diffusers cannot load it"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            ref.repo, revision=ref.revision, use_safetensors=True, dtype=getattr(torch, wanted)
        )
        return pipeline.to(where)


def edit(
    pipeline: Any,
    image_path: Path,
    prompt: str,
    output_path: Path,
    *,
    steps: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> Path:
    """Edit one picture with any pipeline that takes an image and a prompt; `steps` and `size_px` None: its own default.

    The output appears whole or not at all. Raises LoadFailed when the pipeline takes no picture, ValueError for
    fewer than STEPS_MIN steps.
    """
    if steps is not None and steps < STEPS_MIN:
        raise ValueError(f"at least {STEPS_MIN} steps are needed: with one, the picture is black")
    import torch
    from PIL import Image

    accepted = inspect.signature(pipeline.__call__).parameters
    if not {"image", "prompt"} <= set(accepted):
        raise LoadFailed(
            "E_NOT_AN_EDITOR",
            f"{type(pipeline).__name__} does not take a picture and a prompt",
            "load it without --edit",
        )
    wanted: dict[str, object] = {
        "num_inference_steps": steps,
        "width": size_px,
        "height": size_px,
        "generator": torch.Generator().manual_seed(seed),  # on the CPU: the same noise on every device
        # Without a negative prompt true_cfg_scale is ignored; a blank one is what the model's card uses.
        "negative_prompt": " " if "true_cfg_scale" in accepted else None,
    }
    options = {name: value for name, value in wanted.items() if value is not None and name in accepted}
    pipeline.set_progress_bar_config(disable=None)  # None: a bar on a terminal, nothing in a log
    with Image.open(image_path) as opened:
        picture = opened.convert("RGB")
    with _areas(pipeline, size_px), torch.inference_mode(), translating(torch, "E_EDIT", "the edit failed"):
        edited = pipeline(image=picture, prompt=prompt, **options).images[0]
    part = output_path.with_name(f".{output_path.stem}.{os.getpid()}{output_path.suffix}")
    try:
        edited.save(part)
        part.replace(output_path)
    finally:
        part.unlink(missing_ok=True)
    return output_path


def describe(pipeline: Any) -> tuple[str, str, int]:
    """Where a loaded pipeline is: device, dtype, and the bytes of GPU memory that this process holds."""
    import torch

    dtype = str(getattr(pipeline, "dtype", "")).removeprefix("torch.")
    vram_bytes = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return str(getattr(pipeline, "device", "")), dtype, vram_bytes


def _areas(pipeline: Any, size_px: int | None) -> Any:
    if size_px is None or not type(pipeline).__module__.endswith(".pipeline_qwenimage_edit_plus"):
        return nullcontext()
    return picture_areas(
        vae_side_px=min(VAE_SIDE_MAX_PX, size_px),
        condition_side_px=min(CONDITION_SIDE_MAX_PX, max(CONDITION_SIDE_MIN_PX, size_px)),
    )
