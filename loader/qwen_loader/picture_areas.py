"""Turns down the two picture sizes that QwenImageEditPlusPipeline fixes in its module.

Whatever height and width say, diffusers resizes every input picture to 1024x1024 pixels for the VAE and to
384x384 for the text encoder. That is right for the real model; for a tiny one it makes a 64-pixel edit sixty
times slower than it needs to be, and there is no argument for it, so two module constants are replaced for as
long as a `with` block lasts. The pipeline's own height, width and steps are left to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def picture_areas(*, vae_side_px: int, condition_side_px: int) -> Iterator[None]:
    """Give input pictures about these sides (squared to an area, rounded to 32 px) instead of 1024 and 384.

    Process-wide while it lasts: edits running at the same time in other threads see it too.
    """
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    real = module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE
    module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = vae_side_px**2, condition_side_px**2
    try:
        yield
    finally:
        module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = real
