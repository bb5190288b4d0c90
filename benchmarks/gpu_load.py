"""How fast a large pipeline comes onto a GPU: qwen-loader beside what people use, in one call, with JSON as the result.

    python -m benchmarks.gpu_load > gpu.json                 25 GB of random weights, made here from a seed; needs a GPU
    python -m benchmarks.gpu_load --rehearse                 22 MB on the CPU: does the script itself work?

Needs this repository with the `loader` extra, nothing from the network, and room for the model under --dir. Each
contestant runs in a process of its own, after its imports and its CUDA context, once with the files out of the page
cache (posix_fadvise) and once with them in it. fastsafetensors and runai-model-streamer are measured if they are
installed; like accelerate they are given the weights only and build no pipeline, which `what` says.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import prod, sqrt
from pathlib import Path
from typing import Any

from demo import tiny_pipeline
from demo.tiny_models import SHAPES, Shape
from qwen_loader import ReadyModel, load_pipeline
from qwen_loader.torchvision_cpu import define_missing_operators

SEED = 2511
# Qwen2.5-VL-7B's text layers and 16 of the 60 layers of the real transformer: 25 GB in bfloat16.
LARGE = Shape(
    hidden=3584,
    text_layers=28,
    intermediate=18944,
    text_heads=28,
    vocabulary=8192,
    transformer_layers=16,
    transformer_heads=24,
    head_dim=128,
    vae_base_dim=96,
)
CONTESTANTS = ("qwen-loader", "to", "device_map", "accelerate", "fastsafetensors", "runai-model-streamer")
MODULES = {"fastsafetensors": "fastsafetensors", "runai-model-streamer": "runai_model_streamer"}
MODELS = {
    "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
    "transformer": ("diffusers", "QwenImageTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLQwenImage"),
}
EXIT_NO_GPU = 69


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, print JSON: 0; 69 where there is no GPU."""
    options = _parser().parse_args(argv)
    if options.run:
        print(json.dumps(_run(options.run, options.dir, "cpu" if options.rehearse else "cuda")))
        return 0
    define_missing_operators()
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        print(
            "error[E_NO_GPU]: nothing was measured\n  why: torch sees no CUDA device\n"
            "  fix: check nvidia-smi and that torch is a CUDA build; --rehearse tries the script on the CPU",
            file=sys.stderr,
        )
        return EXIT_NO_GPU
    folder = _build(options.dir, rehearse=options.rehearse)
    size_bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    runs = [
        _contest(name, folder, is_cold=is_cold, rehearse=options.rehearse)
        for name in options.only or CONTESTANTS
        for is_cold in ((False,) if options.rehearse else (True, False))
    ]
    about = {
        "device": "cpu (rehearsal)" if options.rehearse else torch.cuda.get_device_name(),
        "weights_bytes": size_bytes,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")},
    }
    print(json.dumps({**about, "runs": runs}, indent=2))
    return 0


def _build(root: Path, *, rehearse: bool) -> Path:
    folder = root / ("rehearsal" if rehearse else f"large-{SEED}")
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        staged = root / f".{folder.name}.{os.getpid()}"
        make = None if rehearse else _tensor_on_gpu
        shape = SHAPES["22mb"] if rehearse else LARGE
        tiny_pipeline.write(staged, shape, SEED, "hub", lambda line: print(line, file=sys.stderr, flush=True), make)
        staged.rename(folder)
    return folder


def _tensor_on_gpu(name: str, shape: tuple[int, ...]) -> Any:
    """As demo.tiny_weights makes them, thousands of times faster, and the same only on the same kind of GPU."""
    import torch

    dice = torch.Generator("cuda").manual_seed(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) >> 1)
    width = sqrt(3 / max(1, prod(shape[1:])))
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").uniform_(-width, width, generator=dice).cpu()


def _contest(name: str, folder: Path, *, is_cold: bool, rehearse: bool) -> dict[str, object]:
    about: dict[str, object] = {"name": name, "cache": "cold" if is_cold else "warm"}
    module = MODULES.get(name)
    if module is not None and (importlib.util.find_spec(module) is None or rehearse):
        return {**about, "skipped": "on the CPU there is nothing to stream" if rehearse else "not installed"}
    for path in folder.glob("*/*.safetensors"):
        _evict(path) if is_cold else _read(path)
    command = [sys.executable, "-m", "benchmarks.gpu_load", "--run", name, "--dir", str(folder)]
    done = subprocess.run(
        [*command, *(["--rehearse"] if rehearse else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {**about, "failed": done.stderr.strip().splitlines()[-1:]}
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {**about, **result}


def _evict(path: Path) -> None:
    """Out of the page cache, as far as the kernel does what it is advised: the pages are clean and nobody maps them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(16 << 20):
            pass


def _run(name: str, folder: Path, device: str) -> dict[str, object]:
    """One contestant, in this process."""
    define_missing_operators()
    import torch

    # What a server imports before it loads anything is not the loading's time.
    for library, class_name in (*MODELS.values(), ("diffusers", "QwenImageEditPlusPipeline")):
        getattr(importlib.import_module(library), class_name)
    if device == "cuda":
        torch.zeros(1, device="cuda")
    ways: dict[str, tuple[str, Callable[[Path, str], object]]] = {
        "qwen-loader": ("pipeline", _qwen_loader),
        "to": ("pipeline", _to),
        "device_map": ("pipeline", _device_map),
        "accelerate": ("weights", _accelerate),
        "fastsafetensors": ("weights", _fastsafetensors),
        "runai-model-streamer": ("weights", _runai),
    }
    what, load = ways[name]
    base_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun_s = time.perf_counter()
    loaded = load(folder, device)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun_s
    size_bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    assert loaded is not None  # held until it was measured
    return {
        "what": what,
        "load_s": round(seconds, 3),
        "bytes_per_s": int(size_bytes / seconds),
        "peak_ram_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base_kib) * 1024,
        "vram_bytes": torch.cuda.memory_allocated() if device == "cuda" else 0,
    }


def _qwen_loader(folder: Path, device: str) -> object:
    ready = ReadyModel(repo="benchmark/large", commit="", path=str(folder), verified="none", source="disk")
    return load_pipeline(ready, device="cuda" if device == "cuda" else "cpu", progress=lambda *_step: None)


def _options() -> dict[str, Any]:
    import torch

    return {"local_files_only": True, "use_safetensors": True, "dtype": torch.bfloat16}


def _to(folder: Path, device: str) -> object:
    import diffusers

    return diffusers.DiffusionPipeline.from_pretrained(str(folder), **_options()).to(device)


def _device_map(folder: Path, device: str) -> object:
    import diffusers

    return diffusers.DiffusionPipeline.from_pretrained(str(folder), device_map=device, **_options())


def _accelerate(folder: Path, device: str) -> object:
    import torch

    load_checkpoint_in_model = importlib.import_module("accelerate").load_checkpoint_in_model
    models = []
    for name, (library, class_name) in MODELS.items():
        kind = getattr(importlib.import_module(library), class_name)
        with torch.device("meta"):
            if library == "diffusers":
                model = kind.from_config(kind.load_config(folder / name))
            else:
                model = kind(kind.config_class.from_pretrained(folder / name))
        single = folder / name / "diffusion_pytorch_model.safetensors"
        index = next((folder / name).glob("*.index.json"), single)
        load_checkpoint_in_model(model, str(index), device_map={"": device}, dtype=torch.bfloat16)
        models.append(model)
    return models


def _weights(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*/*.safetensors"))]


def _fastsafetensors(folder: Path, device: str) -> object:
    library = importlib.import_module("fastsafetensors")
    held = []
    for path in _weights(folder):
        loader = library.SafeTensorsFileLoader(library.SingleGroup(), device=f"{device}:0")
        loader.add_filenames({0: [path]})
        buffer = loader.copy_files_to_device()
        held.append((loader, buffer, [buffer.get_tensor(key) for key in buffer.key_to_rank_lidx]))
    return held


def _runai(folder: Path, device: str) -> object:
    library = importlib.import_module("runai_model_streamer")
    with library.SafetensorsStreamer() as streamer:
        streamer.stream_files(_weights(folder))
        return [tensor.to(device) for _, tensor in streamer.get_tensors()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("var/gpu-load"), help="for the model (default: %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="22 MB on the CPU; the numbers mean nothing")
    parser.add_argument("--only", choices=CONTESTANTS, action="append", help="this contestant; may be repeated")
    parser.add_argument("--run", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
