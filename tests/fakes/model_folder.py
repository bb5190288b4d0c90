"""Small real model folders for tests: true safetensors, true indexes, true configs, and the listing that fits them.

A folder is a dict of path -> bytes until `write` puts it on a disk, so that a test says what is wrong with it in one
line. No torch: a safetensors file is a length, a JSON header and bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from qwen_api.manifest import Manifest, WantedFile, make_manifest, write_tree

Files = dict[str, bytes]

COMMIT = "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9"
REPO = "Qwen/Qwen-Image-Edit-2511"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:2a0c30c9ba44a5f11c21ca139e37951430bbde814ff4e0b5b1a68b80530e7a1a\nsize 9973578592\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>"


@cache  # several test modules want the same tens of megabytes
def safetensors(*names: str, seed: int = 1, floats: int = 64) -> bytes:
    """A file with these tensors, `floats` F32 numbers each; equal shapes and other bytes for another seed."""
    size = floats * 4
    header: dict[str, object] = {
        name: {"dtype": "F32", "shape": [floats], "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(names)
    }
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    raw += b" " * (-len(raw) % 8)
    data = b"".join(hashlib.shake_128(f"{seed}/{name}".encode()).digest(size) for name in names)
    return struct.pack("<Q", len(raw)) + raw + data


def sharded(stem: str, count: int, *, index: str = "", shard: str = "", tensors: int = 2) -> Files:
    """An index and its shards; `index` and `shard` are names with other spellings ({n} and {count} are filled in)."""
    shard = shard or stem + "-{n:05d}-of-{count:05d}.safetensors"
    names = {shard.format(n=n, count=count): [f"block.{n}.{t}" for t in range(tensors)] for n in range(1, count + 1)}
    files = {name: safetensors(*held, seed=len(stem)) for name, held in names.items()}
    weight_map = {tensor: name for name, held in names.items() for tensor in held}
    total = count * tensors * 64 * 4
    files[index or f"{stem}.safetensors.index.json"] = to_json(
        {"metadata": {"total_size": total}, "weight_map": weight_map}
    )
    return files


def in_folder(name: str, files: Mapping[str, bytes]) -> Files:
    """The same files, one folder deeper."""
    return {f"{name}/{path}": content for path, content in files.items()}


def qwen(*, native: bool = False, shards: int = 5) -> Files:
    """A Qwen-Image-Edit-Plus pipeline in the Hub's names, or in those that transformers 5 writes."""
    named = {
        "processor": ["transformers", "Qwen2VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    words = {"tokenizer_config.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
    old = {**words, "vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\na b\n", "added_tokens.json": b"{}"}
    new = {**words, "tokenizer.json": b'{"model": {}}'}
    seeing = {"preprocessor_config.json": b"{}", "video_preprocessor_config.json": b"{}", "tokenizer.json": b"{}"}
    return {
        "README.md": b"# A model\n",
        "model_index.json": model_index("QwenImageEditPlusPipeline", named),
        **in_folder("processor", {**new, "processor_config.json": b"{}"} if native else {**old, **seeing}),
        "scheduler/scheduler_config.json": to_json({"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        **in_folder("text_encoder", transformers_model("Qwen2_5_VLForConditionalGeneration")),
        **in_folder("text_encoder", sharded("model", 4)),
        "text_encoder/generation_config.json": b"{}",
        **in_folder("tokenizer", new if native else old),
        "transformer/config.json": diffusers_config("QwenImageTransformer2DModel"),
        **in_folder("transformer", sharded("diffusion_pytorch_model", shards)),
        "vae/config.json": diffusers_config("AutoencoderKLQwenImage"),
        "vae/diffusion_pytorch_model.safetensors": safetensors("encoder.w", "decoder.w"),
    }


def model_index(class_name: object, named: Mapping[str, object]) -> bytes:
    """model_index.json with these components."""
    return to_json({"_class_name": class_name, "_diffusers_version": "0.36.0.dev0", **named})


def transformers_model(architecture: str) -> Files:
    """config.json as transformers writes it."""
    return {"config.json": to_json({"architectures": [architecture], "transformers_version": "5.0.0"})}


def diffusers_config(class_name: str) -> bytes:
    """config.json as diffusers writes it."""
    return to_json({"_class_name": class_name, "_diffusers_version": "0.42.1"})


def to_json(value: object) -> bytes:
    """JSON as the libraries write it."""
    return json.dumps(value, indent=2).encode()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Put the files there as plain files."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def listing(files: Mapping[str, bytes], *, commit: str = COMMIT) -> Manifest:
    """What the Hub would list for these files: sha256 for weights, git sha1 for the rest."""
    return make_manifest(REPO, commit, [wanted(path, content) for path, content in files.items()])


def wanted(path: str, content: bytes) -> WantedFile:
    """One line of the listing."""
    is_lfs = path.endswith((".safetensors", ".bin"))
    return WantedFile(
        path=path,
        size_bytes=len(content),
        git_sha1=git_sha1(content),
        sha256=hashlib.sha256(content).hexdigest() if is_lfs else None,
    )


def git_sha1(content: bytes) -> str:
    """The git blob id."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def write_cache(
    cache: Path, files: Mapping[str, bytes], *, ref: str = "main", tree: bool = True, snapshot: bool = True
) -> Path:
    """Put the files into a Hub cache as huggingface_hub does (blobs and relative links); returns the snapshot."""
    repo_dir = cache / f"models--{REPO.replace('/', '--')}"
    folder = repo_dir / "snapshots" / COMMIT
    manifest = listing(files)
    for file in manifest.files if snapshot else ():
        blob = repo_dir / "blobs" / file.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(files[file.path])
        link = folder / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../" * (file.path.count("/") + 2) + f"blobs/{file.etag}")
    if tree:
        write(repo_dir / "trees", {f"{COMMIT}.json": write_tree(manifest)})
    if ref:
        write(repo_dir / "refs", {ref: COMMIT.encode()})
    return folder
