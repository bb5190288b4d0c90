"""The tiny pipeline's models: the real classes, in sizes a test can afford.

Models are made on torch's meta device: they have shapes and names and take no memory. Values and files are left
to demo.tiny_weights, the pipeline around them to demo.tiny_pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SizeName = Literal["22mb", "118mb", "2gb"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers that decide how many bytes the weights take."""

    hidden: int
    text_layers: int
    intermediate: int
    text_heads: int
    vocabulary: int
    transformer_layers: int
    transformer_heads: int
    head_dim: int
    vae_base_dim: int


SHAPES: Mapping[SizeName, Shape] = {
    "22mb": Shape(
        hidden=256,
        text_layers=4,
        intermediate=688,
        text_heads=4,
        vocabulary=2048,
        transformer_layers=6,
        transformer_heads=4,
        head_dim=32,
        vae_base_dim=16,
    ),
    "118mb": Shape(
        hidden=512,
        text_layers=6,
        intermediate=1376,
        text_heads=8,
        vocabulary=4096,
        transformer_layers=12,
        transformer_heads=8,
        head_dim=32,
        vae_base_dim=24,
    ),
    "2gb": Shape(
        hidden=1280,
        text_layers=16,
        intermediate=4096,
        text_heads=10,
        vocabulary=8192,
        transformer_layers=18,
        transformer_heads=16,
        head_dim=64,
        vae_base_dim=24,
    ),
}


def text_encoder(shape: Shape, tokenizer: Any) -> Any:
    """The vision-language model that reads prompt and pictures; its token numbers are the tokenizer's."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number: Callable[[str], int] = tokenizer.convert_tokens_to_ids
    head_dim = shape.hidden // shape.text_heads
    config = Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        hidden_size=shape.hidden,
        num_hidden_layers=shape.text_layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.text_heads,
        num_key_value_heads=max(1, shape.text_heads // 4),
        max_window_layers=shape.text_layers,
        vocab_size=shape.vocabulary,
        # Time, height and width share half a head as 16, 24 and 24 share 64 in the real one.
        rope_scaling={"type": "mrope", "mrope_section": _split_in_three(head_dim // 2)},
        bos_token_id=number("<|endoftext|>"),
        eos_token_id=number("<|im_end|>"),
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        dtype="bfloat16",
        vision_config={
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_size": shape.hidden // 2,
            "intermediate_size": shape.intermediate // 2,
            "num_heads": shape.text_heads,
            "out_hidden_size": shape.hidden,
        },
    )
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(config)


def transformer(shape: Shape) -> Any:
    """The denoiser."""
    import torch
    from diffusers import QwenImageTransformer2DModel

    first_axis = shape.head_dim // 8
    other_axis = (shape.head_dim - first_axis) // 2
    with torch.device("meta"):
        return QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=64,
            out_channels=16,
            num_layers=shape.transformer_layers,
            num_attention_heads=shape.transformer_heads,
            attention_head_dim=shape.head_dim,
            joint_attention_dim=shape.hidden,
            axes_dims_rope=(first_axis, other_axis, other_axis),
            guidance_embeds=False,
            zero_cond_t=True,
        )


def vae(shape: Shape) -> Any:
    """The autoencoder between pixels and latents."""
    import torch
    from diffusers import AutoencoderKLQwenImage

    with torch.device("meta"):
        return AutoencoderKLQwenImage(base_dim=shape.vae_base_dim, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)


def scheduler() -> Any:
    """The real repository's scheduler: it has no weights, so nothing in it is tiny."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        shift_terminal=0.02,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        time_shift_type="exponential",
    )


def _split_in_three(total: int) -> list[int]:
    first = total // 4
    second = (total - first) // 2
    return [first, second, total - first - second]
