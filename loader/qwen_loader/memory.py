"""Asks the machine how much memory is free: RAM (also as a container's limit has it), and VRAM of torch; gives it back.

What the numbers mean is for `placement`. Reads files of the kernel and nothing else; no torch is imported here.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

from qwen_loader.placement import Machine

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")


def read_machine(torch: Any) -> Machine:
    """What is free now, on the first GPU, with what torch keeps there for later and nothing is in.

    Makes torch's CUDA context where there is a GPU. Raises torch's errors: another process may have all of it.
    """
    vram_bytes = None
    if torch.cuda.is_available():
        unused_bytes = torch.cuda.memory_reserved(0) - torch.cuda.memory_allocated(0)
        vram_bytes = int(torch.cuda.mem_get_info(0)[0]) + unused_bytes
    return Machine(ram_bytes=free_ram_bytes(), vram_bytes=vram_bytes)


def give_back() -> None:
    """Free what nothing refers to any more, on the GPU and in pinned memory too; imports nothing."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # torch before 2.12 keeps its pinned memory to itself
            torch.accelerator.empty_host_cache()


def free_ram_bytes(
    meminfo: Path = MEMINFO, cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The lesser of what the machine and this process's control groups leave; None if neither can be read.

    Page cache counts as free, as in MemAvailable (proc(5)): a cgroup's `file` memory is given back under pressure.
    """
    free = [_of_machine(meminfo), *(_of_group(group) for group in _groups(cgroups, own))]
    return min((number for number in free if number is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    for line in _text(meminfo).splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if name == "MemAvailable" and number and number[0].isdigit():
            return int(number[0]) * 1024
    return None


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """This process's group of cgroup v2 and those above it; in a container the root is its own."""
    named = [line.removeprefix("0::/") for line in _text(own).splitlines() if line.startswith("0::/")]
    group = cgroups / named[0] if named and ".." not in named[0] else cgroups
    return [group, *(above for above in group.parents if above.is_relative_to(cgroups))]


def _of_group(group: Path) -> int | None:
    limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return None
    cached = [line.split()[1] for line in _text(group / "memory.stat").splitlines() if line.startswith("file ")]
    return max(0, int(limit) - int(used) + (int(cached[0]) if cached else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
