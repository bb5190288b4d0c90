"""Builds the tiny real Qwen-Image-Edit-Plus pipeline that the demo downloads, the tests load and benchmarks time.

Same classes, same 35 file names and same sharding as Qwen/Qwen-Image-Edit-2511, with random weights, from
diffusers and transformers alone and with no Hub. Equal parameters give equal bytes; another seed changes the ten
weight files and nothing else. Serving it, downloading it and loading it are left to others, and what goes in to
demo.tiny_models, demo.tiny_weights and demo.tiny_tokenizer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from demo import tiny_models, tiny_tokenizer, tiny_weights
from demo.tiny_models import SHAPES, Shape, SizeName
from qwen_loader.torchvision_cpu import define_missing_operators

Layout = Literal["hub", "native"]
Say = Callable[[str], None]

MODEL_INDEX = {
    "_class_name": "QwenImageEditPlusPipeline",
    "_diffusers_version": "0.36.0.dev0",  # what the real repository says; a constant, so that bytes are too
    "processor": ["transformers", "Qwen2VLProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}

_README = """---
license: apache-2.0
pipeline_tag: image-to-image
library_name: diffusers
---
A tiny Qwen-Image-Edit-Plus pipeline with random weights, for tests and demonstrations. It edits nothing well.
"""
_GITATTRIBUTES = (
    "*.safetensors filter=lfs diff=lfs merge=lfs -text\ntokenizer.json filter=lfs diff=lfs merge=lfs -text\n"
)


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker beside a finished build remembers."""

    size: SizeName
    seed: int
    layout: Layout
    files: dict[str, int]  # name -> bytes


def _silent(_line: str) -> None:
    pass


def build(
    target: Path, *, size: SizeName = "118mb", seed: int = 2511, layout: Layout = "hub", say: Say = _silent
) -> Path:
    """Put a finished pipeline at `target` and return it; an equal finished build is kept as it is.

    Nothing half-made is ever seen there: the build happens beside it and is renamed at the end. A folder that
    holds anything else is never replaced.
    """
    target = target.absolute()
    present, found = _files(target), _read_marker(target)
    if found is not None and (found.size, found.seed, found.layout, found.files) == (size, seed, layout, present):
        say(f"{target}: already built")
        return target
    if not present.keys() <= (found.files if found else {}).keys():
        raise FileExistsError(f"{target} holds files that were not built here; choose another folder")

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        staged = Path(scratch) / target.name
        write(staged, SHAPES[size], seed, layout, say)
        built = Built(size=size, seed=seed, layout=layout, files=_files(staged))
        _publish(staged, target, built)
    say(f"{target}: {len(built.files)} files, {sum(built.files.values()) / 1e6:.1f} MB")
    return target


def _publish(staged: Path, target: Path, built: Built) -> None:
    """Marker before folder: a build cut between the two is rebuilt, never taken for somebody else's folder."""
    if target.exists():
        shutil.rmtree(target)
    _marker(target).write_bytes(msgspec.json.encode(built))
    staged.rename(target)


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.build.json")


def _read_marker(target: Path) -> Built | None:
    try:
        return msgspec.json.decode(_marker(target).read_bytes(), type=Built)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _files(root: Path) -> dict[str, int]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}


# What is written, folder by folder.


def write(root: Path, shape: Shape, seed: int, layout: Layout, say: Say, make: tiny_weights.Make | None = None) -> None:
    """Make the folder `root` and a pipeline of any shape in it; `make` as in tiny_weights.write."""
    root.mkdir()
    say("importing torch, diffusers and transformers")
    define_missing_operators()  # before transformers looks for torchvision
    say("tokenizer, processor, scheduler")
    tokenizer = tiny_tokenizer.tokenizer()
    _write_words(root, tokenizer, layout)
    _write_json(root / "model_index.json", MODEL_INDEX)
    tiny_models.scheduler().save_config(root / "scheduler")
    if layout == "hub":
        (root / "README.md").write_text(_README)
        (root / ".gitattributes").write_text(_GITATTRIBUTES)

    models = {
        "text_encoder": tiny_models.text_encoder(shape, tokenizer),
        "transformer": tiny_models.transformer(shape),
        "vae": tiny_models.vae(shape),
    }
    for weights in tiny_weights.WEIGHTS:
        model = models[weights.component]
        _write_config(root / weights.component, model)
        tiny_weights.write(root / weights.component, weights, model, seed=seed, say=say, make=make)


def _write_words(root: Path, tokenizer: Any, layout: Layout) -> None:
    """Both folders as transformers 5 saves them, then for the Hub's layout under the names transformers 4 used."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=tiny_tokenizer.CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(root / "tokenizer")
    processor.save_pretrained(root / "processor")
    if layout == "native":
        return
    for folder in (root / "tokenizer", root / "processor"):
        for name, content in tiny_tokenizer.hub_files().items():
            (folder / name).write_text(content, encoding="utf-8")
    (root / "tokenizer" / "tokenizer.json").unlink()  # the real repository has it under processor/ only
    _split_processor_config(root / "processor")


def _split_processor_config(folder: Path) -> None:
    both = json.loads((folder / "processor_config.json").read_bytes())
    named = {"processor_class": both["processor_class"]}
    _write_json(folder / "preprocessor_config.json", both["image_processor"] | named)
    _write_json(folder / "video_preprocessor_config.json", both["video_processor"] | named)
    (folder / "processor_config.json").unlink()


def _write_config(folder: Path, model: Any) -> None:
    folder.mkdir()
    if hasattr(model, "save_config"):  # diffusers' models carry their own config
        model.save_config(folder)
        return
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Build from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.tiny_pipeline",
        description="Build a tiny real Qwen-Image-Edit-Plus pipeline with random weights.",
    )
    parser.add_argument("target", metavar="DIR", type=Path, help="where the pipeline goes")
    parser.add_argument("--size", choices=get_args(SizeName), default="118mb", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2511, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        default="hub",
        help="hub: the real repository's 35 names; native: what transformers 5 writes (default: %(default)s)",
    )
    asked = parser.parse_args()
    try:
        build(asked.target, size=asked.size, seed=asked.seed, layout=asked.layout, say=print)
    except FileExistsError as refusal:
        parser.error(str(refusal))


if __name__ == "__main__":
    main()
