"""Edits a picture with a loaded pipeline, tells each step, and writes into the result what it was made with.

Any pipeline that takes pictures and a prompt will do; how it was loaded is for `pipeline`.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qwen_loader.libraries import LoadFailed, first_line, translating, version_of
from qwen_loader.picture_areas import picture_areas

OnStep = Callable[[int, int], None]
"""Called after each step with its number, from 1, and how many there are."""

SIZE_MIN_PX = 32  # one patch of the transformer after the VAE's eightfold reduction
SEED_MIN, SEED_MAX = -(1 << 63), (1 << 64) - 1  # what torch.Generator.manual_seed takes
STEPS_MIN = 2  # with one step the scheduler's shift_terminal divides by zero: NaN sigmas, a black picture
VAE_SIDE_MAX_PX, CONDITION_SIDE_MAX_PX = 1024, 384  # what QwenImageEditPlusPipeline resizes every input picture to
CONDITION_SIDE_MIN_PX = 112  # four 28-pixel patches: the smallest picture that the text encoder's vision part takes


class BadPicture(ValueError):
    """The file is no picture that can be edited; the message says why."""


def read_picture(path: Path) -> Any:
    """The picture, upright (cameras only note how they were held) and in RGB. Raises BadPicture."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns of 90 million pixels, which cameras have, and refuses twice as many.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # its readers have no exception in common
        raise BadPicture(first_line(error)) from error


def edit(
    pipeline: Any,
    images: Path | Sequence[Path],
    prompt: str,
    output_path: Path,
    *,
    steps: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Make one picture of one or several; `steps` and `size_px` None: the pipeline's own default.

    The output appears whole or not at all. A PNG names its prompt, steps, seed, versions and `about` (the model, say)
    in text chunks. With `on_step` the pipeline draws no bar of its own. Raises LoadFailed when the pipeline takes no
    picture or fails, ValueError for what cannot be asked of any: too few steps or pixels, a seed out of range, and
    BadPicture, which is one.
    """
    if steps is not None and steps < STEPS_MIN:
        raise ValueError(f"at least {STEPS_MIN} steps are needed: with one, the picture is black")
    if size_px is not None and size_px < SIZE_MIN_PX:
        raise ValueError(f"at least {SIZE_MIN_PX} pixels are needed")
    if not SEED_MIN <= seed <= SEED_MAX:
        raise ValueError(f"a seed is a number from {SEED_MIN} to {SEED_MAX}")
    import torch

    accepted = inspect.signature(pipeline.__call__).parameters
    if not {"image", "prompt"} <= set(accepted):
        raise LoadFailed(
            "E_NOT_AN_EDITOR",
            f"{type(pipeline).__name__} does not take a picture and a prompt",
            "load it without --edit",
        )
    taken = 0

    def count(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal taken
        taken = step + 1
        if on_step is not None:
            on_step(taken, int(getattr(pipeline, "num_timesteps", steps or 0)))
        return tensors

    wanted: dict[str, object] = {
        "num_inference_steps": steps,
        "width": size_px,
        "height": size_px,
        "generator": torch.Generator().manual_seed(seed),  # on the CPU: the same noise on every device
        # Without a negative prompt true_cfg_scale is ignored; a blank one is what the model's card uses.
        "negative_prompt": " " if "true_cfg_scale" in accepted else None,
        "callback_on_step_end": count,
    }
    options = {name: value for name, value in wanted.items() if value is not None and name in accepted}
    # None: a bar on a terminal, nothing in a log.
    pipeline.set_progress_bar_config(
        disable=True if on_step is not None and "callback_on_step_end" in options else None
    )
    pictures = [read_picture(path) for path in ([images] if isinstance(images, Path) else images)]
    picture = pictures[0] if len(pictures) == 1 else pictures
    with _areas(pipeline, size_px), torch.inference_mode(), translating(torch, "E_EDIT", "the edit failed"):
        edited = pipeline(image=picture, prompt=prompt, **options).images[0]
    settings = {"prompt": prompt, "steps": str(taken or steps or ""), "seed": str(seed), "images": str(len(pictures))}
    _save(edited, output_path, {**_made_with(pipeline), **(about or {}), **settings})
    return output_path


def _made_with(pipeline: Any) -> dict[str, str]:
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("qwen-daemon", "diffusers", "torch"))
    dtype = str(getattr(pipeline, "dtype", "")).removeprefix("torch.")
    return {"Software": versions, "pipeline": type(pipeline).__name__, "dtype": dtype}


def _save(picture: Any, path: Path, texts: Mapping[str, str]) -> None:
    from PIL.PngImagePlugin import PngInfo

    options: dict[str, object] = {}
    if path.suffix.lower() == ".png":
        chunks = PngInfo()
        for name, text in texts.items():
            chunks.add_itxt(name, text)  # UTF-8, whatever the prompt's letters
        options["pnginfo"] = chunks
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        picture.save(part, **options)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _areas(pipeline: Any, size_px: int | None) -> Any:
    if size_px is None or not type(pipeline).__module__.endswith(".pipeline_qwenimage_edit_plus"):
        return nullcontext()
    return picture_areas(
        vae_side_px=min(VAE_SIDE_MAX_PX, size_px),
        condition_side_px=min(CONDITION_SIDE_MAX_PX, max(CONDITION_SIDE_MIN_PX, size_px)),
    )
