"""What this machine has to hold a model in, and what to say when the model is larger than that.

Asked before the first byte: 57 GB that cannot be loaded afterwards are better known of now. The decision is a pure
function of three numbers; reading them (/proc/meminfo, nvidia-smi) is the rest. How a model is then placed is the
loader's business.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from qwen_api.language import _
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.weight_sets import ALL_BASES, choose
from qwen_monitor.display import bytes_text

NVIDIA_SMI_S = 5.0  # it answers in 0.1-1 s; on a broken driver it hangs
CPU_BYTES_MAX = 2_000_000_000  # weights up to this run on a CPU well enough not to be warned of: a rule of thumb
WORK_SHARE = 0.1  # of a device's memory, for activations, the CUDA context and fragmentation: a rule of thumb
MEMINFO = Path("/proc/meminfo")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt")

Fit = Literal["fits", "offload", "cpu_only", "too_large", "unknown"]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Memory at hand. `gpu_bytes`: the largest GPU, 0 without one, None if there is one of unknown size."""

    ram_bytes: int | None
    gpu_bytes: int | None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the weights can be loaded here; `sentence` is "" when there is nothing to warn of."""

    fit: Fit
    sentence: str = ""


def judge_fit(weights_bytes: int, gpu_bytes: int | None, ram_bytes: int | None) -> Judgement:
    """Compare the weights with the memory at hand.

    1. They fit the GPU with room to work: nothing to say.
    2. They fit RAM and GPU together: with offload, slower.
    3. No GPU, but RAM holds them: on the CPU, slowly if they are large.
    4. They fit nowhere.
    """
    if weights_bytes <= 0 or gpu_bytes is None or ram_bytes is None:
        return Judgement(fit="unknown")
    weights, ram = bytes_text(weights_bytes), bytes_text(ram_bytes)
    usable_gpu, usable_ram = gpu_bytes * (1 - WORK_SHARE), ram_bytes * (1 - WORK_SHARE)
    if weights_bytes <= usable_gpu:
        return Judgement(fit="fits")
    if weights_bytes > usable_gpu + usable_ram:
        if gpu_bytes:
            sentence = _(
                "the weights ({weights}) are larger than the GPU ({gpu}) and RAM ({ram}) together: "
                "this machine cannot load them unquantized",
                weights=weights,
                gpu=bytes_text(gpu_bytes),
                ram=ram,
            )
        else:
            sentence = _(
                "the weights ({weights}) are larger than RAM ({ram}), and no GPU: "
                "this machine cannot load them unquantized",
                weights=weights,
                ram=ram,
            )
        return Judgement(fit="too_large", sentence=sentence)
    if not gpu_bytes and weights_bytes <= CPU_BYTES_MAX:
        return Judgement(fit="cpu_only")
    if not gpu_bytes:
        sentence = _(
            "no GPU was found: the weights ({weights}) fit RAM ({ram}), and run on the CPU, slowly",
            weights=weights,
            ram=ram,
        )
        return Judgement(fit="cpu_only", sentence=sentence)
    return Judgement(
        fit="offload",
        sentence=_(
            "the weights ({weights}) are larger than the GPU ({gpu}): load with CPU offload, "
            "RAM ({ram}) takes the rest",
            weights=weights,
            gpu=bytes_text(gpu_bytes),
            ram=ram,
        ),
    )


def weights_bytes(manifest: Manifest) -> int:
    """Bytes of the weight files that a loader would open: one set per component, no variants, no copies at the root."""
    components = manifest.components()
    is_pipeline = any(f.path == "model_index.json" for f in manifest.files)
    return sum(_opened_bytes(files) for name, files in components.items() if name or not is_pipeline)


def read_host() -> Host:
    """Ask the machine; what cannot be read is None. Raises nothing."""
    return Host(ram_bytes=_ram_bytes(), gpu_bytes=_gpu_bytes())


def parse_meminfo(text: str) -> int | None:
    """MemTotal in bytes (proc(5): the unit is kB, meaning 1024 bytes); None if it is not there."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if name == "MemTotal" and number and number[0].isdigit():
            return int(number[0]) * 1024
    return None


def parse_nvidia_smi(text: str) -> int | None:
    """The largest GPU of `--query-gpu=memory.total --format=csv,noheader,nounits` (MiB per line); None if none."""
    sizes = [int(line) << 20 for line in map(str.strip, text.splitlines()) if line.isdigit()]
    return max(sizes, default=None)


def _opened_bytes(files: Iterable[WantedFile]) -> int:
    sizes = {PurePosixPath(f.path).name: f.size_bytes for f in files}
    chosen = choose(sizes, ALL_BASES)
    if chosen is None:
        return sum(size for name, size in sizes.items() if name.endswith(_WEIGHTS))
    names = chosen.shards or (chosen.single,)
    return sum(sizes.get(name, 0) for name in names)


def _ram_bytes() -> int | None:
    try:
        return parse_meminfo(MEMINFO.read_text())
    except OSError:
        return None


def _gpu_bytes() -> int | None:
    command = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        # The driver's own folder says that a GPU is there, but not how large it is.
        return None if NVIDIA_DRIVER.is_dir() else 0
    return parse_nvidia_smi(answer.stdout)
