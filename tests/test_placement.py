"""Where weights go is decided from numbers alone; the numbers are read from the kernel and from headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_loader.libraries import LoadFailed, translating
from qwen_loader.memory import free_ram_bytes, read_machine
from qwen_loader.placement import Machine, NoRoom, Plan, plan_placement
from qwen_loader.stored import BadHeader, loaded_bytes, sum_by_component, weight_paths
from tests.fakes.small_model import safetensors

GB = 10**9
QWEN = {"transformer": 41 * GB, "text_encoder": 16 * GB + GB // 2, "vae": GB // 4}


def machine(vram_gb: float | None, ram_gb: float | None) -> Machine:
    return Machine(
        vram_bytes=None if vram_gb is None else int(vram_gb * GB),
        ram_bytes=None if ram_gb is None else int(ram_gb * GB),
    )


@pytest.mark.parametrize(
    ("vram_gb", "ram_gb", "expected"),
    [
        (80, 8, "full"),
        (80, None, "full"),
        (62, 128, "model-offload"),
        (48, 64, "model-offload"),
        (24, 64, "sequential-offload"),
        (8, 64, "sequential-offload"),
        (None, 128, "cpu"),
        (None, None, "cpu"),
    ],
)
def test_the_fastest_that_fits(vram_gb: float | None, ram_gb: float | None, expected: str) -> None:
    """Qwen-Image-Edit in bfloat16, 57.7 GB, on machines that people have."""
    plan = plan_placement(QWEN, machine(vram_gb, ram_gb))
    assert isinstance(plan, Plan)
    assert plan.placement == expected
    assert plan.load_on == ("cuda:0" if expected == "full" else "cpu")


def test_a_plan_says_why_with_the_numbers() -> None:
    """What the faster ones would have needed, and what is free."""
    plan = plan_placement(QWEN, machine(24, 64))
    assert isinstance(plan, Plan)
    assert plan.why == (
        "sequential-offload: 57.8 GB of weights, the largest part (transformer) 41.0 GB; "
        "full needs about 62.6 GB of VRAM and 24.0 GB are free; "
        "model-offload needs about 45.8 GB of VRAM and 24.0 GB are free"
    )


@pytest.mark.parametrize(("vram_gb", "ram_gb"), [(24, 32), (None, 32), (2, 128)])
def test_what_fits_nowhere_is_refused_with_the_numbers(vram_gb: float | None, ram_gb: float) -> None:
    """Before minutes are spent on loading it."""
    refused = plan_placement(QWEN, machine(vram_gb, ram_gb))
    assert isinstance(refused, NoRoom)
    assert refused.code == "E_NO_ROOM"
    assert "57.8 GB of weights" in refused.why
    assert f"{min(vram_gb or ram_gb, ram_gb):.1f} GB are free" in refused.why
    assert "--placement" in refused.fix


def test_what_was_asked_for_is_done_in_spite_of_the_estimate() -> None:
    """It is an estimate, and people know their pictures; the doubt is told."""
    plan = plan_placement(QWEN, machine(48, 64), "full")
    assert isinstance(plan, Plan)
    assert plan.placement == "full"
    assert plan.why == "full, as asked, although full needs about 62.6 GB of VRAM and 48.0 GB are free"


@pytest.mark.parametrize("asked", ["full", "model-offload", "sequential-offload"])
def test_a_gpu_that_is_not_there_cannot_be_asked_for(asked: str) -> None:
    """Offloading needs one too: it computes there."""
    refused = plan_placement(QWEN, machine(None, 128), asked)  # type: ignore[arg-type]  # of parametrize
    assert isinstance(refused, NoRoom)
    assert refused.code == "E_NO_GPU"


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100 * GB)),
    st.integers(0, 200 * GB),
    st.integers(0, 200 * GB),
    st.integers(0, 100 * GB),
)
def test_more_memory_is_never_worse(sizes: dict[str, int], vram: int, ram: int, more: int) -> None:
    """Nor is there a plan that needs more than there is."""
    order = ["full", "model-offload", "sequential-offload", "refused"]

    def place(vram_bytes: int, ram_bytes: int) -> str:
        plan = plan_placement(sizes, Machine(vram_bytes=vram_bytes, ram_bytes=ram_bytes))
        return plan.placement if isinstance(plan, Plan) else "refused"

    here = place(vram, ram)
    assert order.index(place(vram + more, ram + more)) <= order.index(here)
    assert here != "full" or sum(sizes.values()) <= vram
    assert here in ("full", "refused") or sum(sizes.values()) <= ram


# What is read.


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    """The least of the machine and every control group above; page cache is free memory."""
    meminfo, own = tmp_path / "meminfo", tmp_path / "own"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    own.write_text("0::/a/b\n")
    assert free_ram_bytes(meminfo, tmp_path / "cgroup", own) == 5000 * 1024
    group = tmp_path / "cgroup" / "a"
    (group / "b").mkdir(parents=True)
    (group / "b" / "memory.max").write_text("max\n")
    (group / "b" / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("4000\n")
    (group / "memory.current").write_text("3000\n")
    (group / "memory.stat").write_text("anon 1000\nfile 2000\n")
    assert free_ram_bytes(meminfo, tmp_path / "cgroup", own) == 3000


@dataclass(frozen=True)
class Gpu:
    """What torch.cuda says of one."""

    free_bytes: int
    reserved_bytes: int
    allocated_bytes: int

    def is_available(self) -> bool:
        return True

    def mem_get_info(self, _device: int) -> tuple[int, int]:
        return self.free_bytes, 24 * GB

    def memory_reserved(self, _device: int) -> int:
        return self.reserved_bytes

    def memory_allocated(self, _device: int) -> int:
        return self.allocated_bytes


def test_what_torch_keeps_for_later_is_free() -> None:
    """A pipeline that was let go of leaves its memory with torch, where the driver counts it as taken."""
    torch = SimpleNamespace(cuda=Gpu(free_bytes=4 * GB, reserved_bytes=18 * GB, allocated_bytes=1 * GB))
    assert read_machine(torch).vram_bytes == 21 * GB


@pytest.mark.loader
@pytest.mark.parametrize(
    ("said", "code"),
    [("CUDA error: out of memory\nCompile with ...", "E_NO_VRAM"), ("CUDA error: no kernel image", "E_LOAD")],
)
def test_the_drivers_own_lack_of_memory_is_told_as_such(said: str, code: str) -> None:
    """A context is not made by torch's allocator, and its error is of no class of its own."""
    import torch

    with pytest.raises(LoadFailed) as failed, translating(torch, "E_LOAD", "it cannot be loaded"):
        raise RuntimeError(said)
    assert failed.value.code == code
    with pytest.raises(LoadFailed) as failed, translating(torch, "E_LOAD", "it cannot be loaded"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert failed.value.code == "E_NO_VRAM"


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    """None, and never a number that was made up."""
    assert free_ram_bytes(tmp_path / "x", tmp_path / "y", tmp_path / "z") is None


def test_the_size_in_memory_is_that_of_the_dtype_it_is_loaded_in(tmp_path: Path) -> None:
    """Floats are converted, whole numbers stay as they are."""
    path = tmp_path / "w.safetensors"
    for stored, dtype, expected in (
        ("BF16", "bfloat16", 16),
        ("BF16", "float32", 32),
        ("F32", "bfloat16", 16),
        ("I64", "bfloat16", 64),
    ):
        path.write_bytes(safetensors(bytes(8), stored))
        assert loaded_bytes(path, dtype) == expected
    path.write_bytes(b"<html>")
    with pytest.raises(BadHeader):
        loaded_bytes(path, "bfloat16")


def test_weights_are_summed_by_the_component_that_reads_them() -> None:
    """Not the variants that it leaves, nor single files at the root; the largest first."""
    sizes = {
        "vae/m.safetensors": 5,
        "vae/m.fp16.safetensors": 3,
        "unet/m-00001-of-00002.safetensors": 40,
        "unet/m-00002-of-00002.safetensors": 1,
        "whole.safetensors": 99,
        "unet/deep/m.safetensors": 7,
    }
    assert sum_by_component(sizes, weight_paths(sizes, None)) == {"unet": 41, "vae": 5}
    assert list(sum_by_component(sizes, weight_paths(sizes, "fp16")).items()) == [("unet", 41), ("vae", 3)]
