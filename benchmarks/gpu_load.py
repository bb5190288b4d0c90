"""How fast a large pipeline comes onto a GPU: qwen-loader beside what people use, in one call, with JSON as the result.

    python -m benchmarks.gpu_load > gpu.json                  25 GB of random weights, made here from a seed
    python -m benchmarks.gpu_load --device cpu --size 22mb    does the script itself work?

Needs this repository with the `loader` extra (or PYTHONPATH=daemon:monitor:loader:. and its dependencies), nothing from
the network, and room for the model under --dir. Each contestant runs in a process of its own, after its imports and its
CUDA context, with the files in the page cache ("warm") or out of it ("cold", by posix_fadvise; `cached_share` says what
came of it): first those that the goals need, then the others. One whose library is missing, or that fails, is told as
such and the next one goes on; none is given more than half of what is left of --budget, and what there is no time for
is told as skipped. `--out` has all that is known after each run. `peak_ram_bytes` is by how much resident memory grew
at most, pages of mapped files included: they count although the kernel takes them back as it likes. `peak_vram_bytes`
is what torch had handed out at most. What each contestant is, is in `benchmarks.gpu_contestants`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b
from math import prod, sqrt
from pathlib import Path
from typing import Any, get_args

from benchmarks.gpu_contestants import NEEDS, WAYS, Facts, import_all
from demo import tiny_pipeline
from demo.tiny_models import SHAPES, Shape, SizeName
from qwen_loader.libraries import version_of
from qwen_loader.memory import give_back
from qwen_loader.torchvision_cpu import define_missing_operators

SEED = 2511
DRIVER = Path("/proc/driver/nvidia/version")
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
LARGE_VRAM_BYTES = 27_000_000_000  # its weights, and what a context and a check of them take
READ_BYTES = 16 << 20
SAMPLE_EVERY_BYTES = 64 << 20
LEFT_MIN_S = 20.0  # importing torch and diffusers takes as long as this on a slow disk
# What the goals are judged by; whatever the budget leaves time for follows.
FIRST = (
    ("copy-rate", "warm"),
    ("qwen-loader", "warm"),
    ("to", "warm"),
    ("overlap", "warm"),
    ("qwen-loader", "cold"),
    ("to", "cold"),
)
COLD = ("device_map", "fastsafetensors", "runai-model-streamer", "accelerate")
VERSIONS = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "fastsafetensors",
    "runai-model-streamer",
)
SPEEDUP, COPY_SHARE, OVERLAP = 2.0, 0.70, 1.2
EXIT_NO_ROOM, EXIT_NO_GPU = 1, 69


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, print JSON: 0; 69 where there is no GPU, 1 where the model does not fit on it."""
    options = _parser().parse_args(argv)
    if options.run:
        print(json.dumps(_run(options.run, options.dir, options.device)))
        return 0
    define_missing_operators()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error[E_NO_GPU]: nothing was measured\n  why: torch sees no CUDA device\n"
            "  fix: check nvidia-smi and that torch is a CUDA build; --device cpu --size 22mb tries the script",
            file=sys.stderr,
        )
        return EXIT_NO_GPU
    free_bytes = torch.cuda.mem_get_info(0)[0] if options.device == "cuda" else LARGE_VRAM_BYTES
    if options.size == "large" and free_bytes < LARGE_VRAM_BYTES:
        print(
            "error[E_NO_ROOM]: nothing was measured\n"
            f"  why: the model needs {LARGE_VRAM_BYTES / 1e9:.0f} GB of VRAM and {free_bytes / 1e9:.1f} GB are free\n"
            "  fix: --size 2gb",
            file=sys.stderr,
        )
        return EXIT_NO_ROOM
    begun_s = time.monotonic()
    folder = _build(options.dir, options.size, options.device)
    about = _about(folder, options.device, build_s=round(time.monotonic() - begun_s, 1))
    runs: list[Facts] = []
    document = ""
    for name, cache in _programme(options.only):
        runs.append(_contest(name, cache, folder, options.device, until_s=begun_s + options.budget))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        document = json.dumps({**about, "goals": goals(runs, int(str(about["weights_bytes"]))), "runs": runs}, indent=2)
        if options.out is not None:  # what a run that is cut short leaves
            _replace(options.out, document)
    print(document)
    return 0


def goals(runs: Sequence[Facts], weights_bytes: int) -> list[Facts]:
    """What the numbers say of the goals; `met` is None where something was not measured."""
    found = {(run["name"], run["cache"]): run for run in runs if run.get("on_device", True)}

    def number(name: str, fact: str, cache: str = "warm") -> float | None:
        value = found.get((name, cache), {}).get(fact)
        return float(value) if isinstance(value, int | float) and value else None

    def share(over: float | None, under: float | None) -> float | None:
        return None if over is None or under is None else round(over / under, 3)

    rows: list[tuple[str, float | None, float, bool]] = []
    for cache in ("warm", "cold"):
        ours_s, theirs_s = number("qwen-loader", "load_s", cache), number("to", "load_s", cache)
        rows.append((f"times faster than from_pretrained().to(), {cache}", share(theirs_s, ours_s), SPEEDUP, True))
    ours_s, copy_bps = number("qwen-loader", "load_s"), number("copy-rate", "pinned_bytes_per_s")
    rate_bps = weights_bytes / ours_s if ours_s else None
    rows.append(("share of the host-to-device copy rate, warm", share(rate_bps, copy_bps), COPY_SHARE, True))
    after = share(number("overlap", "load_s"), number("overlap", "alone_s"))
    rows.append(("last byte -> ready, over the last component alone", after, OVERLAP, False))
    return [
        {
            "goal": f"{'>=' if is_least else '<='} {goal} {what}",
            "measured": value,
            "met": None if value is None else (value >= goal if is_least else value <= goal),
        }
        for what, value, goal, is_least in rows
    ]


def _programme(only: Sequence[str] | None) -> list[tuple[str, str]]:
    every = (*FIRST, *((name, "warm") for name in WAYS), *((name, "cold") for name in COLD))
    return [(name, cache) for name, cache in dict.fromkeys(every) if not only or name in only]


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text + "\n")
    part.replace(path)


def _about(folder: Path, device: str, *, build_s: float) -> Facts:
    import torch

    weights_bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    installed = [name for name in VERSIONS if importlib.util.find_spec(name.replace("-", "_")) is not None]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device} (a rehearsal: no numbers to go by)",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": platform.release(),
        "driver": _first_line(DRIVER),
        "cuda": torch.version.cuda or "",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in installed},
        "weights_bytes": weights_bytes,
        "build_s": build_s,
    }


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return ""


def _build(root: Path, size: str, device: str) -> Path:
    folder = root / f"{size}-{SEED}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        staged = root / f".{folder.name}.{os.getpid()}"
        make = _tensor_on_gpu if device == "cuda" else None
        shape = LARGE if size == "large" else SHAPES[_size_name(size)]
        tiny_pipeline.write(staged, shape, SEED, "hub", lambda line: print(line, file=sys.stderr, flush=True), make)
        staged.rename(folder)
        give_back()
    return folder


def _size_name(size: str) -> SizeName:
    return next(name for name in get_args(SizeName) if name == size)


def _tensor_on_gpu(name: str, shape: tuple[int, ...]) -> Any:
    """As demo.tiny_weights makes them, thousands of times faster, and the same only on the same kind of GPU."""
    import torch

    dice = torch.Generator("cuda").manual_seed(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) >> 1)
    width = sqrt(3 / max(1, prod(shape[1:])))
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").uniform_(-width, width, generator=dice).cpu()


def _contest(name: str, cache: str, folder: Path, device: str, *, until_s: float, least_s: float = LEFT_MIN_S) -> Facts:
    """One row. `until_s` is by time.monotonic(); with less than `least_s` until then it is not begun."""
    about: Facts = {"name": name, "cache": cache}
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        return {**about, "skipped": "not installed"}
    if until_s - time.monotonic() < least_s:
        return {**about, "skipped": "--budget is spent"}
    files = sorted(folder.glob("*/*.safetensors"))
    for path in files:
        _evict(path) if cache == "cold" else _read(path)
    about["cached_share"] = _cached_share(files)
    timeout_s = max(least_s, (until_s - time.monotonic()) / 2)
    command = [sys.executable, "-m", "benchmarks.gpu_load", "--run", name, "--dir", str(folder), "--device", device]
    # fastsafetensors reads past the page cache by default, which is no answer to what a warm one is worth.
    env = os.environ | ({"FASTSAFETENSORS_ODIRECT": "0"} if cache == "warm" else {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {**about, "failed": [f"timed out: half of what was left of --budget, {timeout_s:.0f} s"]}
    if done.returncode:
        return {**about, "failed": [f"ended with {done.returncode}", *done.stderr.strip().splitlines()[-3:]]}
    try:
        result: Facts = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {**about, "failed": ["ended without its result", *done.stdout.splitlines()[-3:]]}
    return {**about, **result}


def _evict(path: Path) -> None:
    """Out of the page cache, as far as the kernel does what it is advised: the pages are clean and nobody maps them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _cached_share(files: Sequence[Path]) -> float | None:
    """How much of the files is in the page cache, by samples that are read only if they are; None: it is not told."""
    buffer, asked, found = bytearray(1), 0, 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            for offset in range(0, path.stat().st_size, SAMPLE_EVERY_BYTES):
                asked += 1
                try:
                    found += os.preadv(file.fileno(), [buffer], offset, os.RWF_NOWAIT)
                except BlockingIOError:
                    pass
                except OSError:
                    return None
    return round(found / asked, 3) if asked else None


def _run(name: str, folder: Path, device: str) -> Facts:
    """One contestant, in this process."""
    define_missing_operators()
    import torch

    import_all()
    if device == "cuda":
        torch.zeros(1, device="cuda")
    facts = WAYS[name](folder, device)
    load_s = facts.get("load_s")
    size_bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    rate = (
        {"bytes_per_s": int(size_bytes / load_s)} if isinstance(load_s, float) and facts["what"] != "component" else {}
    )
    return {**facts, **rate}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("var/gpu-load"), help="for the model (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    sizes = ("large", *get_args(SizeName))
    parser.add_argument("--size", choices=sizes, default="large", help="large: 25 GB (default: %(default)s)")
    parser.add_argument("--only", choices=WAYS, action="append", help="this contestant; may be repeated")
    parser.add_argument(
        "--budget", type=float, default=540.0, metavar="S", help="be done after so long (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the result, written anew after each run")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
