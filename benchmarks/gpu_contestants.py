"""The ways to bring a pipeline's weights onto a device that `benchmarks.gpu_load` puts side by side, one per process.

`what` says what one ends in: "pipeline", ready to use; "weights", all tensors on the device and no model around them;
"component", the last one of a pipeline whose others were there; "proof", no time but whether all of it arrived right.
fastsafetensors and runai-model-streamer are imported here only, and called as fastsafetensors 0.5 and
runai-model-streamer 0.17 document it (docs/overview.md and docs/src/usage.md of their repositories).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from qwen_loader import ReadyModel, load_pipeline
from qwen_loader.assembly import Assembly, Wishes
from qwen_loader.memory import give_back
from qwen_loader.placement import AskedPlacement
from qwen_loader.transfer import READERS, Transfer

MODELS = {
    "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
    "transformer": ("diffusers", "QwenImageTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLQwenImage"),
}
NEEDS = {"fastsafetensors": "fastsafetensors", "runai-model-streamer": "runai_model_streamer"}
COPY_BYTES = 1 << 30
COPY_ROUNDS = 8

Facts = dict[str, object]


class Cost(NamedTuple):
    """What something took: seconds, by how much resident memory grew at most, what torch had handed out at most."""

    load_s: float
    peak_ram_bytes: int
    peak_vram_bytes: int


def qwen_loader(folder: Path, device: str) -> Facts:
    """Ours. `again_s` is the second load in the same process, which has everything imported, and the files warm."""
    pipeline, cost = timed(device, lambda: _load(folder, device))
    on_device = _is_on(pipeline, device)
    del pipeline
    give_back()
    again_s = timed(device, lambda: _load(folder, device))[1].load_s
    return {"what": "pipeline", **cost._asdict(), "again_s": again_s, "on_device": on_device}


def to(folder: Path, device: str) -> Facts:
    """from_pretrained(...).to(device): what every example does."""
    import diffusers

    def load() -> Any:
        return diffusers.DiffusionPipeline.from_pretrained(str(folder), **_options()).to(device)

    pipeline, cost = timed(device, load)
    return {"what": "pipeline", **cost._asdict(), "on_device": _is_on(pipeline, device)}


def device_map(folder: Path, device: str) -> Facts:
    """from_pretrained(..., device_map=device)."""
    import diffusers

    def load() -> Any:
        return diffusers.DiffusionPipeline.from_pretrained(str(folder), device_map=device, **_options())

    pipeline, cost = timed(device, load)
    return {"what": "pipeline", **cost._asdict(), "on_device": _is_on(pipeline, device)}


def accelerate(folder: Path, device: str) -> Facts:
    """accelerate.load_checkpoint_in_model into models that were made without weights."""
    import torch

    load_checkpoint_in_model = importlib.import_module("accelerate").load_checkpoint_in_model

    def load() -> list[Any]:
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

    return {"what": "weights", **timed(device, load)[1]._asdict()}


def fastsafetensors(folder: Path, device: str) -> Facts:
    """fastsafetensors without GPUDirect Storage, which few machines have set up."""
    library = importlib.import_module("fastsafetensors")

    def load() -> list[Any]:
        held = []
        for name in MODELS:
            loader = library.SafeTensorsFileLoader(library.SingleGroup(), _numbered(device), nogds=True)
            loader.add_filenames({0: _weights(folder / name)})
            buffer = loader.copy_files_to_device()
            held.append((loader, buffer, [buffer.get_tensor(key) for key in loader.get_keys()]))
        return held

    held, cost = timed(device, load)
    tensors = [tensor for _loader, _buffer, own in held for tensor in own]
    return {"what": "weights", **cost._asdict(), "tensors": len(tensors)}


def runai(folder: Path, device: str) -> Facts:
    """The Run:ai streamer, all files at once; each tensor is sent when it was read, and its memory is used again."""
    library = importlib.import_module("runai_model_streamer")

    def load() -> list[Any]:
        with library.SafetensorsStreamer() as streamer:
            paths = [path for name in MODELS for path in _weights(folder / name)]
            streamer.stream_files(paths, device=_numbered(device))
            return [tensor for _name, tensor in streamer.get_tensors()]

    tensors, cost = timed(device, load)
    return {"what": "weights", **cost._asdict(), "tensors": len(tensors)}


def overlap(folder: Path, device: str) -> Facts:
    """Everything but the last component is there already, as it is when the last byte comes: what is left to do?"""
    order = sorted(MODELS, key=lambda name: -_size_bytes(folder / name))
    wishes = Wishes(device=_kind(device), placement=_placement(device), mmap=False)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.glob("*/*")}

    def early(name: str) -> Assembly:
        assembly.load_early(folder, name, sizes, {})
        return assembly

    assembly = Assembly(wishes, lambda _step: None)
    alone_s = float("inf")
    for _ in range(2):  # the first one pays for pinned memory too
        alone_s = min(alone_s, timed(device, lambda: early(order[-1]))[1].load_s)
        assembly.free("it was measured")
    for name in ("processor", "scheduler", "tokenizer", *order[:-1]):
        early(name)
    pipeline, cost = timed(device, lambda: assembly.finish(_ready(folder)))
    on_device = _is_on(pipeline, device)
    return {"what": "component", **cost._asdict(), "last": order[-1], "alone_s": alone_s, "on_device": on_device}


def copy_rate(_folder: Path, device: str) -> Facts:
    """What the device takes from pinned and from ordinary memory: the best of several copies of a gigabyte."""
    import torch

    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    rates = {}
    for kind in ("pinned", "ordinary"):
        source = torch.ones(COPY_BYTES, dtype=torch.uint8)
        source = source.pin_memory() if kind == "pinned" and device != "cpu" else source
        copy = partial(target.copy_, source, non_blocking=True)
        times_s = [timed(device, copy)[1].load_s for _ in range(COPY_ROUNDS)]
        rates[f"{kind}_bytes_per_s"] = int(COPY_BYTES / min(times_s))
    return {"what": "copy", **rates}


def transfer(readers: int) -> Callable[[Path, str], Facts]:
    """Only the way of the bytes, with so many readers: models that are mapped already."""

    def run(folder: Path, device: str) -> Facts:
        models = {name: _mapped(folder, name) for name in MODELS}
        read_bytes, cost = timed(device, lambda: _move(folder, models, device, readers))
        return {"what": "weights", **cost._asdict(), "readers": readers, "read_bytes": read_bytes}

    return run


def proof(folder: Path, device: str) -> Facts:
    """Is every tensor that ours brought to the device what safetensors' own mapping of the files has, byte by byte?

    The other side is from_pretrained on the CPU, tensor by tensor sent to the device. `direct_share` is of all bytes,
    how many went from the files to the device without a copy of the model in between.
    """
    import torch

    pipeline = _load(folder, device)
    models = {name: _mapped(folder, name) for name in MODELS}
    unequal: list[str] = []
    compared = all_bytes = 0
    for name, model in models.items():
        ours, theirs = _tensors(getattr(pipeline, name)), _tensors(model)
        unequal += [f"{name}.{key}" for key in sorted(ours.keys() ^ theirs.keys())]
        for key in ours.keys() & theirs.keys():
            compared, all_bytes = compared + 1, all_bytes + theirs[key].numel() * theirs[key].element_size()
            expected = theirs[key].to(_numbered(device))
            if ours[key].dtype != expected.dtype or not torch.equal(ours[key], expected):
                unequal.append(f"{name}.{key}")
    del pipeline, ours
    direct_share = round(_move(folder, models, device, READERS) / all_bytes, 6)
    facts: Facts = {"what": "proof", "tensors": compared, "compared_bytes": all_bytes, "direct_share": direct_share}
    return {**facts, "unequal": unequal[:20], "proven": bool(compared) and not unequal}


WAYS: dict[str, Callable[[Path, str], Facts]] = {
    "copy-rate": copy_rate,
    "qwen-loader": qwen_loader,
    "to": to,
    "overlap": overlap,
    "proof": proof,
    "device_map": device_map,
    "accelerate": accelerate,
    "fastsafetensors": fastsafetensors,
    "runai-model-streamer": runai,
    **{f"transfer-{readers}": transfer(readers) for readers in (READERS // 2, READERS, 2 * READERS)},
}


def import_all() -> None:
    """What a server imports before it loads anything is not the loading's time."""
    for library, class_name in (*MODELS.values(), ("diffusers", "QwenImageEditPlusPipeline")):
        getattr(importlib.import_module(library), class_name)


def timed(device: str, work: Callable[[], Any]) -> tuple[Any, Cost]:
    """What `work` returns, and what it took until the device was done."""
    import torch

    is_gpu = device != "cpu"
    with suppress(OSError):  # imports have a peak of their own; this forgets it (proc_pid_clear_refs(5))
        Path("/proc/self/clear_refs").write_text("5")
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    resident_bytes = _memory_bytes("VmRSS")
    begun_s = time.perf_counter()
    done = work()
    if is_gpu:
        torch.cuda.synchronize()
    return done, Cost(
        load_s=round(time.perf_counter() - begun_s, 4),
        peak_ram_bytes=max(0, _memory_bytes("VmHWM") - resident_bytes),
        peak_vram_bytes=torch.cuda.max_memory_allocated() if is_gpu else 0,
    )


def _memory_bytes(field: str) -> int:
    """A field of /proc/self/status, whose kB are KiB. Not ru_maxrss: that is inherited from the parent over exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _load(folder: Path, device: str) -> Any:
    """All of it onto the device, or out of memory: what takes turns there has not been loaded. On a CPU it is read."""
    options: dict[str, Any] = {"device": _kind(device), "placement": _placement(device), "mmap": False}
    return load_pipeline(_ready(folder), **options, progress=lambda *_step: None)


def _mapped(folder: Path, name: str) -> Any:
    """A component on the CPU, its weights pages of the files."""
    library, class_name = MODELS[name]
    options = _options()
    if library == "diffusers":
        options["torch_dtype"] = options.pop("dtype")
    return getattr(importlib.import_module(library), class_name).from_pretrained(str(folder / name), **options)


def _move(folder: Path, models: dict[str, Any], device: str, readers: int) -> int:
    """Move mapped models; returns the bytes that were read from the files."""
    with Transfer(device, readers=readers) as transfer:
        under_way = [
            transfer.begin(model, (folder / name).glob("*.safetensors"), lambda _bytes: None)
            for name, model in models.items()
        ]
        for one in under_way:
            one.wait()
    return sum(one.read_bytes for one in under_way)


def _tensors(model: Any) -> dict[str, Any]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _ready(folder: Path) -> ReadyModel:
    return ReadyModel(repo="benchmark/model", commit="", path=str(folder), verified="none", source="disk")


def _kind(device: str) -> Any:
    return "cpu" if device == "cpu" else "cuda"


def _placement(device: str) -> AskedPlacement:
    return "cpu" if device == "cpu" else "full"


def _numbered(device: str) -> str:
    return device if device == "cpu" else f"{device}:0"


def _options() -> dict[str, Any]:
    import torch

    return {"local_files_only": True, "use_safetensors": True, "dtype": torch.bfloat16}


def _weights(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.safetensors"))]


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _is_on(pipeline: Any, device: str) -> bool:
    """Every weight of every component is on the device, and is a number."""
    return all(
        weight.device.type == device and bool(weight.isfinite().all())
        for name in MODELS
        for weight in getattr(pipeline, name).parameters()
    )
