"""Pipelines whose components take turns on the GPU: the same pictures as from one that is there as a whole.

There is no GPU here, and diffusers looks for one unless it is told a device. With the CPU as that device, its hooks and
accelerate's do all they do with a GPU; with "cuda:0" they are asked for what a GPU would be asked for, up to the first
byte that would go there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen_loader import ReadyModel, edit
from qwen_loader.assembly import Assembly, Placed, Step, Wishes
from qwen_loader.libraries import LoadFailed
from qwen_loader.pipeline import describe
from qwen_loader.placement import AskedPlacement, Machine

pytestmark = pytest.mark.loader

GB = 10**9


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading sets these for good; here they are taken back."""
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "in.png"
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(path)
    return path


def load(tiny: Path, placement: AskedPlacement, *, gpu: str = "cpu", told: list[Step] | None = None) -> Any:
    """As `load_pipeline` does it, on a machine whose GPU is this device."""
    machine = Machine(ram_bytes=64 * GB, vram_bytes=24 * GB, gpu=gpu)
    ready = ReadyModel(repo="org/tiny", commit="", path=str(tiny), verified="none", source="disk")
    assembly = Assembly(Wishes(placement=placement), (told if told is not None else []).append, machine=machine)
    return assembly.finish(ready)


def picture(pipeline: Any, source: Path) -> bytes:
    from PIL import Image

    output = edit(pipeline, source, "Make it blue", source.with_name("out.png"), steps=2, size_px=64)
    with Image.open(output) as made:
        return made.tobytes()


def weights(pipeline: Any) -> dict[str, Any]:
    import torch

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": weight for name, part in parts.items() for key, weight in part.named_parameters()}


def hooks(pipeline: Any) -> list[Any]:
    """accelerate's, each by itself: it chains those that one module has several of."""
    import torch

    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    found = [module._hf_hook for part in parts for module in part.modules() if hasattr(module, "_hf_hook")]
    return [one for hook in found for one in getattr(hook, "hooks", (hook,))]


def test_components_that_take_turns_paint_the_same_picture(tiny: Path, source: Path) -> None:
    """`enable_model_cpu_offload`, twice: its hooks are there again after the first picture."""
    told: list[Step] = []
    expected = picture(load(tiny, "full"), source)
    pipeline = load(tiny, "model-offload", told=told)
    assert [step.plan.placement for step in told if isinstance(step, Placed)] == ["model-offload"]
    assert len(pipeline._all_hooks) == len({key.partition(".")[0] for key in weights(pipeline)}) == 3
    assert [picture(pipeline, source), picture(pipeline, source)] == [expected, expected]


def test_layers_that_take_turns_paint_the_same_picture(tiny: Path, source: Path) -> None:
    """`enable_sequential_cpu_offload`: no weight is anywhere but in the offloaded state between two layers.

    diffusers puts a number behind the device, and torch copies a tensor that goes from "cpu" to "cpu:0": the copy of a
    Parameter is none, which accelerate trips over. A GPU's tensors have the number; so the hooks are told "cpu".
    """
    import torch

    expected = picture(load(tiny, "full"), source)
    pipeline = load(tiny, "sequential-offload")
    assert {weight.device.type for weight in weights(pipeline).values()} == {"meta"}
    assert {hook.execution_device for hook in hooks(pipeline) if hasattr(hook, "execution_device")} - {None} == {
        torch.device("cpu:0")
    }
    for hook in hooks(pipeline):
        if getattr(hook, "execution_device", None) is not None:
            hook.execution_device = torch.device("cpu")
    assert [picture(pipeline, source), picture(pipeline, source)] == [expected, expected]
    assert {weight.device.type for weight in weights(pipeline).values()} == {"meta"}


def test_the_first_gpu_is_what_they_take_turns_on(tiny: Path, source: Path) -> None:
    """By its number: a thread's current GPU may be another. The monitor sees where it computes, not where it lies."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("here it would not end at the first byte")
    pipeline = load(tiny, "model-offload", gpu="cuda:0")
    assert {hook.execution_device for hook in hooks(pipeline)} == {torch.device("cuda:0")}
    assert {weight.device.type for weight in weights(pipeline).values()} == {"cpu"}
    assert describe(pipeline)[0] == "cuda:0"
    with pytest.raises(LoadFailed, match="CUDA"):
        picture(pipeline, source)


def test_diffusers_left_to_itself_finds_no_gpu_and_says_so(tiny: Path) -> None:
    """What the loader asks for by name: without a name both refuse here, with the first line they run."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("it finds one")
    pipeline = load(tiny, "full")
    for enable in (pipeline.enable_model_cpu_offload, pipeline.enable_sequential_cpu_offload):
        with pytest.raises(RuntimeError, match="requires accelerator"):
            enable()
