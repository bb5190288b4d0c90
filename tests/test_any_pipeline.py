"""Any pipeline of diffusers: its classes are those that its model_index.json names.

A Stable Diffusion pipeline of a few kilobytes, made here: other classes, a component of a folder of diffusers' own, and
one that is left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwen_api.seals import take_seal
from qwen_loader import ReadyModel
from qwen_loader.assembly import Assembly, Dropped, Loaded, Step, Wishes

pytestmark = pytest.mark.loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as `save_pretrained` leaves it."""
    from qwen_loader.torchvision_cpu import define_missing_operators

    define_missing_operators()
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    torch.manual_seed(0)
    words = tmp_path_factory.mktemp("words")
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=4, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, **small)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **small)
    channels = {"block_out_channels": (8, 16), "norm_num_groups": 2, "layers_per_block": 1}
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            **channels,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt")),
        unet=UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            **channels,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=StableDiffusionSafetyChecker(CLIPConfig(text_config=text, vision_config=vision)),
        feature_extractor=CLIPImageProcessor(),
    )
    target = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(target)
    return target


def ready(folder: Path) -> ReadyModel:
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    seals = {path: take_seal(folder / path) for path in paths}
    return ReadyModel(repo="org/sd", commit="", path=str(folder), verified="sha256", source="disk", seals=seals)


def states(pipeline: Any) -> dict[str, Any]:
    names = ("vae", "unet", "text_encoder", "safety_checker")
    return {f"{name}.{key}": value for name in names for key, value in getattr(pipeline, name).state_dict().items()}


@pytest.mark.parametrize("mmap", [True, False])
def test_it_is_what_diffusers_itself_would_load(folder: Path, mmap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two components while the rest is not needed yet, the rest at the end; weights are equal bit by bit.

    Without mmap they come the way they come to a GPU.
    """
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")  # loading sets them; here they are taken back
    import torch
    from diffusers import DiffusionPipeline

    told: list[Step] = []
    model = ready(folder)
    sizes = {path: seal.size_bytes for path, seal in model.seals.items()}
    assembly = Assembly(Wishes(device="cpu", mmap=mmap), told.append)
    for name in ("unet", "safety_checker"):
        assembly.load_early(folder, name, sizes, model.seals)
    assert {"unet", "safety_checker"} >= assembly.held >= {"unet"}
    pipeline = assembly.finish(model)
    expected = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert type(pipeline) is type(expected)
    assert pipeline.image_encoder is None
    ours, theirs = states(pipeline), states(expected)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not [step for step in told if isinstance(step, Dropped)]
    whole = [step.loaded_bytes for step in told if isinstance(step, Loaded)]
    assert whole == sorted(whole)
    assert whole[-1] == sum(
        path.numel() * path.element_size()
        for name in ("vae", "unet", "text_encoder", "safety_checker")
        for path in getattr(pipeline, name).parameters()
    )


def test_a_file_that_changes_while_it_moves_ends_the_load(folder: Path, tmp_path: Path) -> None:
    """Truncated under the reader: an error with a code, and nothing stays in memory."""
    import shutil

    from qwen_loader import LoadFailed

    copied = shutil.copytree(folder, tmp_path / "model")
    model = ready(copied)
    told: list[Step] = []

    def tell(step: Step) -> None:
        told.append(step)
        weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
        if isinstance(step, Loaded) and weights.stat().st_size > 5000:
            os.truncate(weights, 5000)

    assembly = Assembly(Wishes(device="cpu", mmap=False), tell)
    with pytest.raises(LoadFailed) as raised:
        assembly.finish(model)
    assert raised.value.code in ("E_LOAD", "E_CORRUPT")
    assert assembly.held == frozenset()
