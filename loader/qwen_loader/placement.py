"""Decides where a model's weights go, before any of them is read: all on the GPU, moved there in turns, or the CPU.

Pure: the machine's free memory and the components' sizes are arguments (`memory` and `stored` find them out). Running
out of memory after minutes of loading is the worst way to learn that a model does not fit, so what cannot fit is
refused with the numbers. What a picture needs beside the weights depends on its size; `WORK_SHARE` of the largest
component is an estimate, made known in `why`, and `--placement` overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from qwen_api.language import N_, _
from qwen_loader.words import size_text

Placement = Literal["full", "model-offload", "sequential-offload", "cpu"]
AskedPlacement = Literal["auto", "full", "model-offload", "sequential-offload", "cpu"]

CONTEXT_BYTES = 700 << 20  # a CUDA context with its kernels: 0.4 to 0.7 GB before the first tensor
WORK_SHARE = 0.10  # of the largest component, for activations


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What is free now. `vram_bytes` is None where there is no GPU, `ram_bytes` where it could not be read.

    `gpu` is the first one, whichever a thread has made its current one: CUDA_VISIBLE_DEVICES says which that is.
    """

    ram_bytes: int | None
    vram_bytes: int | None
    gpu: str = "cuda:0"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights go, and why in one sentence. `gpu` computes, unless all is on the CPU."""

    placement: Placement
    why: str
    gpu: str = "cuda:0"

    @property
    def load_on(self) -> str:
        """The device that weights are read to: offloading begins in RAM."""
        return self.gpu if self.placement == "full" else "cpu"


class NoRoom(msgspec.Struct, frozen=True, kw_only=True):
    """It fits nowhere; `code` is E_NO_GPU or E_NO_ROOM."""

    code: str
    why: str
    fix: str


def plan_placement(components: Mapping[str, int], machine: Machine, asked: AskedPlacement = "auto") -> Plan | NoRoom:
    """Choose the fastest placement that fits. `components` are bytes in memory, by name.

    A placement that was asked for is taken even where the estimate says that it will not fit: then `why` says so.
    """
    if asked not in ("auto", "cpu") and machine.vram_bytes is None:
        return NoRoom(code="E_NO_GPU", why="torch sees no CUDA device", fix="check nvidia-smi and the driver, or: cpu")
    order: tuple[Placement, ...] = (
        ("cpu",) if machine.vram_bytes is None else ("full", "model-offload", "sequential-offload")
    )
    short = {placement: _shortage(placement, components, machine) for placement in (*order, "cpu")}
    if asked != "auto":
        doubt = _(", although {why}", why=short[asked]) if short.get(asked) else ""
        why = _("{placement}, as asked{doubt}", placement=asked, doubt=doubt)
        return Plan(placement=asked, why=why, gpu=machine.gpu)
    for placement in order:
        if not short[placement]:
            reasons = [short[other] for other in order[: order.index(placement)]]
            why = "; ".join([f"{placement}: {_what(components)}", *reasons])
            return Plan(placement=placement, why=why, gpu=machine.gpu)
    return NoRoom(
        code="E_NO_ROOM",
        why=_("{what} fit nowhere: {why}", what=_what(components), why="; ".join(short[one] for one in order)),
        fix="free memory, use a larger machine or a quantized model; to try all the same: --placement " + order[-1],
    )


def _shortage(placement: Placement, components: Mapping[str, int], machine: Machine) -> str:
    """Why it does not fit, with the numbers; empty if it does."""
    all_bytes, largest_bytes = sum(components.values()), max(components.values(), default=0)
    work_bytes = int(WORK_SHARE * largest_bytes)
    on_gpu = {
        "full": all_bytes + work_bytes + CONTEXT_BYTES,
        "model-offload": largest_bytes + work_bytes + CONTEXT_BYTES,
        "sequential-offload": work_bytes + CONTEXT_BYTES,
        "cpu": 0,
    }[placement]
    in_ram = {"full": 0, "cpu": all_bytes + work_bytes}.get(placement, all_bytes)
    needs = [
        (on_gpu, machine.vram_bytes, N_("{needed} of VRAM and {free} are free")),
        (in_ram, machine.ram_bytes, N_("{needed} of RAM and {free} are free")),
    ]
    lacking = [
        _(words, needed=size_text(needed), free=size_text(free))
        for needed, free, words in needs
        if needed and free is not None and needed > free
    ]
    if not lacking:
        return ""
    return _("{placement} needs about {what}", placement=placement, what=_(" and ").join(lacking))


def _what(components: Mapping[str, int]) -> str:
    largest = max(components, key=lambda name: components[name], default="")
    weights = _("{size} of weights", size=size_text(sum(components.values())))
    if len(components) < 2:
        return weights
    return _(
        "{weights}, the largest part ({name}) {size}",
        weights=weights,
        name=largest,
        size=size_text(components[largest]),
    )
