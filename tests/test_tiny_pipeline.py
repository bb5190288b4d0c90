"""The tiny pipeline stands in for the real one, so it must have its names, load as it loads, and never vary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from demo import tiny_pipeline
from qwen_loader.picture_areas import picture_areas
from qwen_loader.torchvision_cpu import define_missing_operators

pytestmark = pytest.mark.loader

TEXT_ENCODER_SHARDS = [f"text_encoder/model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
TRANSFORMER_SHARDS = [f"transformer/diffusion_pytorch_model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
WEIGHTS = {*TEXT_ENCODER_SHARDS, *TRANSFORMER_SHARDS, "vae/diffusion_pytorch_model.safetensors"}
TOKENIZER = {
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
}
PROCESSOR = {*TOKENIZER, "preprocessor_config.json", "tokenizer.json", "video_preprocessor_config.json"}
NAMES_2511 = WEIGHTS | {
    ".gitattributes",
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/generation_config.json",
    "text_encoder/model.safetensors.index.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    *(f"processor/{name}" for name in PROCESSOR),
}


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> Any:
    return load(tiny)


def load(folder: Path) -> Any:
    define_missing_operators()
    import torch
    from diffusers import DiffusionPipeline

    # Without a dtype transformers obeys its config (bfloat16) and diffusers does not (float32): no edit can run.
    loaded = DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.bfloat16
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def digests(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def test_has_exactly_the_names_of_2511(tiny: Path) -> None:
    """The Hub layout is the real repository's 35 files, no more and no fewer."""
    assert len(NAMES_2511) == 35
    assert set(digests(tiny)) == NAMES_2511


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("text_encoder/model.safetensors.index.json", TEXT_ENCODER_SHARDS),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", TRANSFORMER_SHARDS),
    ],
)
def test_index_names_every_shard_and_the_last_is_small(tiny: Path, index: str, shards: list[str]) -> None:
    """As in the real repository: equal shards, then what was left over."""
    named = set(json.loads((tiny / index).read_bytes())["weight_map"].values())
    assert {Path(shard).name for shard in shards} == named
    *full, last = [(tiny / shard).stat().st_size for shard in shards]
    assert last < min(full) / 2
    assert max(full) < 1.2 * min(full)


def test_weights_are_as_readable_as_the_rest(tiny: Path) -> None:
    """A mirror that runs as another user serves all 35 files or none."""
    modes = {path.stat().st_mode for path in tiny.rglob("*") if path.is_file()}
    assert len(modes) == 1


def test_equal_seeds_give_equal_bytes(tiny: Path, tmp_path: Path) -> None:
    """Two builds cannot be told apart, the second made by the command in a process with one thread."""
    command = [sys.executable, "-m", "demo.tiny_pipeline", str(tmp_path / "again"), "--size", "22mb"]
    root = Path(tiny_pipeline.__file__).parents[1]
    subprocess.run(command, check=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    assert digests(tiny) == digests(tmp_path / "again")


def test_another_seed_changes_exactly_the_weights(tiny: Path, tmp_path: Path) -> None:
    """Two seeds are two revisions of one model: ten files differ, the other 25 are shared."""
    first, second = digests(tiny), digests(tiny_pipeline.build(tmp_path / "other", size="22mb", seed=7))
    assert {name for name in first if first[name] != second[name]} == WEIGHTS


def test_native_layout_is_what_transformers_5_writes(tiny: Path, native: Path) -> None:
    """Other names for the same words: a completeness check that hard-codes either set is wrong for the other."""
    assert {
        "processor/chat_template.jinja",
        "processor/processor_config.json",
        "processor/tokenizer.json",
        "processor/tokenizer_config.json",
        "tokenizer/chat_template.jinja",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    } == {name for name in digests(native) if name.startswith(("processor/", "tokenizer/"))}
    shared = WEIGHTS & set(digests(native))
    assert {name: digests(tiny)[name] for name in shared} == {name: digests(native)[name] for name in WEIGHTS}


def test_both_layouts_say_the_same_words(pipeline: Any, native: Path) -> None:
    """The tokenizer read from vocab.json and merges.txt equals the one read from tokenizer.json."""
    text = "<|im_start|>user\nMake the sky orange. Небо<|vision_start|><|image_pad|><|vision_end|><|file_sep|>"
    other = load(native)
    expected = other.tokenizer(text).input_ids
    assert expected == pipeline.tokenizer(text).input_ids == pipeline.processor.tokenizer(text).input_ids
    assert text == other.tokenizer.decode(expected)


def test_a_finished_build_is_kept(tiny: Path) -> None:
    """Asking again for the same thing says so and touches nothing."""
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    said: list[str] = []
    assert tiny == tiny_pipeline.build(tiny, size="22mb", say=said.append)
    assert [f"{tiny}: already built"] == said
    assert before == {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}


def test_a_damaged_build_is_made_again(tmp_path: Path) -> None:
    """A file that is gone makes the folder unfinished; the marker still says that it is ours to replace."""
    folder = tiny_pipeline.build(tmp_path / "model", size="22mb")
    (folder / "vae/config.json").unlink()
    assert set(digests(tiny_pipeline.build(folder, size="22mb"))) == NAMES_2511
    assert {"model", "model.build.json"} == {path.name for path in tmp_path.iterdir()}


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A folder with a file that we did not write is never replaced."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError):
        tiny_pipeline.build(tmp_path, size="22mb")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_loads_as_the_real_classes(pipeline: Any) -> None:
    """from_pretrained finds every component where model_index.json says."""
    expected = {name: pair[1] for name, pair in tiny_pipeline.MODEL_INDEX.items() if not name.startswith("_")}
    assert expected == {name: type(part).__name__ for name, part in pipeline.components.items()}


def test_edits_a_picture(pipeline: Any) -> None:
    """Two steps at 64 px give a picture of that size that is neither one colour nor chance."""
    first, second = edit(pipeline), edit(pipeline)
    assert first.size == (64, 64)
    assert all(low < high for low, high in first.getextrema())
    assert first.tobytes() == second.tobytes()


def edit(pipeline: Any) -> Any:
    import torch
    from PIL import Image

    with picture_areas(vae_side_px=64, condition_side_px=112):
        return pipeline(
            image=Image.linear_gradient("L").convert("RGB").resize((64, 64)),
            prompt="Make the sky orange.",
            width=64,
            height=64,
            num_inference_steps=2,  # one step has no sigma between first and last: NaN, a black picture
            true_cfg_scale=1.0,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
