"""How a mapped model comes onto its device: which bytes are read is decided apart, and every byte arrives once.

There is no GPU here: on the device "cpu" the same threads, reads and copies end in ordinary memory.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import tiny_pipeline
from qwen_loader.mapped import Extent, Mapping, Piece, cut, extent_at, read_mappings

loader = pytest.mark.loader

SMAPS = """\
7f0000000000-7f0000004000 rw-p 00001000 fe:00 12 {pad}/models/a.safetensors
Size:                 16 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me sd
7f0000004000-7f0000008000 rw-p 00000000 fe:00 13 {pad}/models/b.safetensors
Anonymous:             4 kB
Swap:                  0 kB
7f0000008000-7f000000c000 rw-p 00000000 fe:00 14 {pad}/models/c.safetensors
Anonymous:             0 kB
Swap:                  4 kB
7f000000c000-7f0000010000 rw-p 00000000 fe:00 15 {pad}/models/d.safetensors (deleted)
Anonymous:             0 kB
7f0000010000-7f0000014000 r--p 00000000 fe:00 16 {pad}/lib/other.so
Anonymous:             0 kB
7f0000014000-7f0000018000 rw-p 00000000 00:00 0
Anonymous:             0 kB
"""
PATHS = [f"/models/{name}.safetensors" for name in "abcd"]


def test_only_untouched_mappings_of_the_model_count() -> None:
    """One that was written to, swapped out or whose file is gone may differ from what its name leads to."""
    found = read_mappings(SMAPS.format(pad="         "), PATHS)
    assert found == (Mapping(0x7F0000000000, 0x7F0000004000, 0x1000, PATHS[0]),)


def test_an_address_leads_to_a_file() -> None:
    """And to none where it lies beside, or only in part within."""
    mappings = (Mapping(100, 200, 1000, "a"), Mapping(200, 300, 0, "b"))
    assert extent_at(mappings, 110, 90) == Extent("a", 1010, 90)
    assert extent_at(mappings, 200, 100) == Extent("b", 0, 100)
    assert [extent_at(mappings, *at) for at in ((50, 10), (150, 51), (300, 1))] == [None, None, None]


@given(
    extents=st.lists(
        st.builds(Extent, st.sampled_from("ab"), st.integers(0, 20_000), st.integers(1, 9_000)), max_size=12
    ),
    piece_bytes=st.integers(1000, 8000),
)
def test_every_byte_is_read_in_bounded_pieces(extents: list[Extent], piece_bytes: int) -> None:
    """Whatever lies where, also over one another: each extent is put together again, byte by byte."""
    arrived = [bytearray(extent.size_bytes) for extent in extents]
    missing = [extent.size_bytes for extent in extents]
    files = {name: bytes((at * 7 + ord(name)) % 251 for at in range(30_000)) for name in "ab"}
    for piece in cut(extents, piece_bytes):
        assert 0 < piece.size_bytes <= piece_bytes
        read = files[piece.path][piece.offset : piece.offset + piece.size_bytes]
        for copy in piece.copies:
            arrived[copy.number][copy.target : copy.target + copy.size_bytes] = read[
                copy.source : copy.source + copy.size_bytes
            ]
            missing[copy.number] -= copy.size_bytes
    assert missing == [0] * len(extents)
    for extent, content in zip(extents, arrived, strict=True):
        assert content == files[extent.path][extent.offset : extent.offset + extent.size_bytes]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline.build(tmp_path_factory.mktemp("tiny") / "model", size="22mb")


def mapped(tiny: Path, name: str) -> tuple[Any, list[Path]]:
    """A component as the libraries map it, and its files."""
    import torch
    from diffusers import QwenImageTransformer2DModel

    from qwen_loader.torchvision_cpu import define_missing_operators

    define_missing_operators()
    from transformers import Qwen2_5_VLForConditionalGeneration

    kinds: dict[str, Any] = {
        "transformer": (QwenImageTransformer2DModel, "torch_dtype"),
        "text_encoder": (Qwen2_5_VLForConditionalGeneration, "dtype"),
    }
    kind, dtype = kinds[name]
    options = {dtype: torch.bfloat16, "local_files_only": True, "use_safetensors": True}
    return kind.from_pretrained(str(tiny / name), **options), sorted((tiny / name).glob("*.safetensors"))


@loader
@pytest.mark.parametrize("name", ["transformer", "text_encoder"])
def test_a_model_arrives_as_it_was(tiny: Path, name: str) -> None:
    """Bit by bit, all of its weights read from the files and none of them left in the mapping."""
    import torch

    from qwen_loader.transfer import Transfer

    model, files = mapped(tiny, name)
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    told: list[int] = []
    with Transfer("cpu", readers=3, tell_every_s=0.0) as transfer:
        transfer.begin(model, files, told.append).wait()
    assert all(torch.equal(expected[key], tensor) for key, tensor in model.state_dict().items())
    weights_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    assert max(told) == weights_bytes
    paths = frozenset(os.path.realpath(path) for path in files)
    assert read_mappings(Path("/proc/self/smaps").read_text(), paths) == ()


class Late:
    """A GPU that fetches from its buffer at the last moment it may: when somebody waits for it."""

    def __init__(self, _device: Any) -> None: ...

    def buffer(self, size_bytes: int) -> Any:
        from qwen_loader.lanes import make_buffer

        return make_buffer(size_bytes, is_pinned=False)

    def send(self, piece: Piece, buffer: Any, targets: list[Any], allocated: Any) -> LateCopy:
        return LateCopy(piece, buffer, targets)


class LateCopy:
    def __init__(self, piece: Piece, buffer: Any, targets: list[Any]) -> None:
        self._copy: tuple[Piece, Any, list[Any]] | None = (piece, buffer, targets)
        self._once = threading.Lock()

    def synchronize(self) -> None:
        from qwen_loader.lanes import scatter

        with self._once:
            copy, self._copy = self._copy, None
            if copy is not None:
                scatter(*copy)


@loader
@pytest.mark.parametrize("readers", [1, 3])
def test_no_buffer_is_filled_before_it_was_fetched(tiny: Path, readers: int) -> None:
    """A GPU fetches after `send` has returned: what is read into the buffer too early would arrive in its place, and
    what nobody waits for, not at all."""
    import torch

    from qwen_loader.transfer import Transfer

    model, files = mapped(tiny, "transformer")
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with Transfer("cpu", readers=readers, piece_bytes=1 << 16, link_to=Late) as transfer:
        transfer.begin(model, files, lambda _: None).wait()
    assert all(torch.equal(expected[key], tensor) for key, tensor in model.state_dict().items())


@loader
def test_the_interpreter_is_given_back_as_it_was(tiny: Path) -> None:
    """Readers get it more often while they read, as a program may have wished for all its threads before."""
    from qwen_loader.transfer import SWITCH_S, Transfer

    before_s = sys.getswitchinterval()
    with Transfer("cpu", readers=1):
        assert sys.getswitchinterval() <= SWITCH_S
        with Transfer("cpu", readers=1):
            pass
        assert sys.getswitchinterval() <= SWITCH_S
    assert sys.getswitchinterval() == before_s


@loader
def test_what_was_written_to_in_memory_is_not_read_from_the_file(tiny: Path) -> None:
    """The mapping is private: whoever changes a weight changes memory, and that is what counts."""
    import torch

    from qwen_loader.transfer import Transfer

    model, files = mapped(tiny, "transformer")
    name, weight = max(model.named_parameters(), key=lambda item: item[1].numel())
    with torch.no_grad():
        weight.zero_()
    with Transfer("cpu") as transfer:
        transfer.begin(model, files, lambda _: None).wait()
    assert not model.state_dict()[name].any()


@loader
def test_tensors_that_are_one_stay_one(tiny: Path) -> None:
    """Tied weights take their memory once."""
    from qwen_loader.transfer import Transfer

    model, files = mapped(tiny, "transformer")
    blocks = model.transformer_blocks
    one, other = blocks[0].attn.to_q, blocks[1].attn.to_q
    other.weight.data = one.weight.data
    with Transfer("cpu") as transfer:
        transfer.begin(model, files, lambda _: None).wait()
    assert one.weight.data_ptr() == other.weight.data_ptr()


@loader
def test_a_tensor_and_its_transpose_stay_two(tiny: Path) -> None:
    """They share their bytes and, where they are square, their shape."""
    import torch

    from qwen_loader.transfer import Transfer

    model, files = mapped(tiny, "transformer")
    one, other = model.transformer_blocks[0].attn.to_q.weight, model.transformer_blocks[1].attn.to_q.weight
    assert one.shape[0] == one.shape[1]
    other.data = one.data.T
    expected = one.detach().clone()
    with Transfer("cpu") as transfer:
        transfer.begin(model, files, lambda _: None).wait()
    assert torch.equal(expected, one)
    assert torch.equal(expected.T, other)


@loader
def test_a_caller_in_inference_mode_has_its_model_too(tiny: Path) -> None:
    """The mode is one thread's, and what is made in it cannot be written to outside of it."""
    import torch

    from qwen_loader.transfer import Transfer

    with torch.inference_mode():
        model, files = mapped(tiny, "transformer")
        expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with Transfer("cpu") as transfer:
            transfer.begin(model, files, lambda _: None).wait()
        assert all(torch.equal(expected[key], tensor) for key, tensor in model.state_dict().items())


@loader
def test_a_device_that_cannot_be_had_is_told_by_its_own_error(tiny: Path) -> None:
    """And not as a pool of threads that is broken."""
    import torch

    from qwen_loader.transfer import Transfer

    if torch.cuda.is_available():
        pytest.skip("it can be had here")
    model, files = mapped(tiny, "transformer")
    with Transfer("cuda") as transfer, pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        transfer.begin(model, files, lambda _: None)


@loader
def test_where_no_memory_can_be_pinned_ordinary_memory_serves() -> None:
    """As on a machine without a GPU, where torch refuses to pin any."""
    import torch

    from qwen_loader.lanes import make_buffer

    if torch.cuda.is_available():
        pytest.skip("it can be pinned here")
    with pytest.raises(RuntimeError):
        torch.empty(1, dtype=torch.uint8, pin_memory=True)
    assert make_buffer(1000, is_pinned=True).numel() == 1000


@loader
def test_a_file_that_shrinks_meanwhile_is_an_error(tiny: Path, tmp_path: Path) -> None:
    """And no half model."""
    import shutil

    from qwen_loader.transfer import Transfer

    folder = tmp_path / "transformer"
    shutil.copytree(tiny / "transformer", folder)
    model, files = mapped(tmp_path, "transformer")
    os.truncate(files[0], 5000)
    with Transfer("cpu") as transfer, pytest.raises(OSError, match="ends before byte"):
        transfer.begin(model, files, lambda _: None).wait()
