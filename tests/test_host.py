"""What is said when a model is larger than the machine, decided from three numbers."""

from __future__ import annotations

import pytest

from qwen_api.manifest import Manifest, WantedFile, make_manifest
from qwen_monitor.host import judge_fit, parse_meminfo, parse_nvidia_smi, weights_bytes

GB = 1_000_000_000
QWEN = 58 * GB


def manifest(**sizes: int) -> Manifest:
    """A listing of these files; `__` stands for `/`."""
    files = [
        WantedFile(path=path.replace("__", "/"), size_bytes=size, git_sha1=f"{n:040x}")
        for n, (path, size) in enumerate(sizes.items())
    ]
    return make_manifest("org/name", "0" * 40, files)


@pytest.mark.parametrize(
    ("weights", "gpu", "ram", "fit", "words"),
    [
        (QWEN, 141 * GB, 128 * GB, "fits", ""),
        (QWEN, 24 * GB, 128 * GB, "offload", "load with CPU offload"),
        (QWEN, 24 * GB, 16 * GB, "too_large", "the GPU (24.0 GB) and RAM (16.0 GB) together"),
        (QWEN, 0, 128 * GB, "cpu_only", "no GPU was found"),
        (QWEN, 0, 16 * GB, "too_large", "RAM (16.0 GB), and no GPU"),
        (GB, 0, 16 * GB, "cpu_only", ""),
        (QWEN, None, 128 * GB, "unknown", ""),
        (QWEN, 24 * GB, None, "unknown", ""),
        (0, 0, 16 * GB, "unknown", ""),
    ],
)
def test_the_weights_are_compared_with_gpu_and_ram(
    weights: int, gpu: int | None, ram: int | None, fit: str, words: str
) -> None:
    """What fits says nothing; offload, CPU and too large say what and how large; unknown memory claims nothing."""
    judged = judge_fit(weights, gpu, ram)

    assert fit == judged.fit
    assert bool(words) == bool(judged.sentence)
    assert words in judged.sentence


def test_a_model_as_large_as_the_gpu_does_not_fit_it() -> None:
    """Activations and the CUDA context need room as well."""
    assert judge_fit(24 * GB, 24 * GB, 128 * GB).fit == "offload"


def test_only_one_set_of_weights_of_each_component_is_counted() -> None:
    """Variants, pickles and single-file copies at the root are not loaded together with the rest."""
    listed = manifest(
        **{
            "model_index.json": 1,
            "flux1-dev.safetensors": 1000,
            "unet__diffusion_pytorch_model.safetensors": 100,
            "unet__diffusion_pytorch_model.fp16.safetensors": 50,
            "unet__diffusion_pytorch_model.bin": 101,
            "vae__diffusion_pytorch_model-00001-of-00002.safetensors": 7,
            "vae__diffusion_pytorch_model-00002-of-00002.safetensors": 8,
            "vae__diffusion_pytorch_model.safetensors.index.json": 3,
            "tokenizer__vocab.json": 5,
        }
    )

    assert weights_bytes(listed) == 115


def test_a_file_with_a_name_of_its_own_counts_where_it_is_the_model() -> None:
    """A repository of single-file weights, with no pipeline in it."""
    assert weights_bytes(manifest(**{"qwen-q4.gguf": 9, "README.md": 1})) == 9


def test_memory_is_read_in_the_kernels_and_the_drivers_units() -> None:
    """meminfo says kB for 1024 bytes; nvidia-smi gives MiB, a line for each GPU; errors are no number."""
    assert parse_meminfo("MemFree: 3 kB\nMemTotal:       16 kB\n") == 16 * 1024
    assert parse_meminfo("nothing") is None
    assert parse_nvidia_smi("24564\n81559\n") == 81559 << 20
    assert parse_nvidia_smi("[N/A]\n") is None
