"""How torch and diffusers come into the process, and how what they raise is told to people.

diffusers older than 0.42.1 is refused, because it runs code that a repository brings (CVE-2026-44513 and its second
fix). Imported inside functions: they take seconds and gigabytes that a waiting process should not hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

Device = Literal["auto", "cuda", "cpu"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]

DIFFUSERS_MIN = (0, 42, 1)
_INSTALL = "pip install 'qwen-daemon[loader]'"


class LoadFailed(RuntimeError):
    """The pipeline cannot be loaded or run. `code` is stable; `why` and `fix` are for people."""

    def __init__(self, code: str, why: str, fix: str) -> None:
        super().__init__(f"{why}; {fix}")
        self.code, self.why, self.fix = code, why, fix


@contextmanager
def translating(torch: Any, code: str, what: str) -> Iterator[None]:
    """Raise LoadFailed for whatever is raised inside; `what` begins its sentence.

    torch, diffusers and transformers have no exception in common, and tokenizers raises a bare Exception.
    """
    try:
        yield
    except Exception as error:
        why, fix = f"{what}: {first_line(error)}", "the whole story: add --debug"
        if _is_out_of_memory(torch, error):
            code, why = "E_NO_VRAM", f"the GPU has too little memory: {first_line(error)}"
            fix = "let components take turns on it with --placement model-offload, or use a larger GPU, or --device cpu"
        raise LoadFailed(code, why, fix) from error


def _is_out_of_memory(torch: Any, error: Exception) -> bool:
    """torch's allocator says it with a class, the driver (a context, a library's own memory) in words."""
    return isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in str(error)


def import_libraries(*, offline: bool = True) -> tuple[Any, Any]:
    """torch and diffusers, without the Hub and without remote code from here on. Raises LoadFailed."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
    _require_diffusers()
    try:
        from qwen_loader.torchvision_cpu import define_missing_operators

        define_missing_operators()
        import diffusers
        import torch
    except ImportError as error:
        raise LoadFailed("E_NO_TORCH", f"cannot import what loads a pipeline: {error}", _INSTALL) from error
    _tell_what_was_imported_before(offline=offline)
    return torch, diffusers


def _tell_what_was_imported_before(*, offline: bool) -> None:
    """These read the environment when they are imported, and a program may have done that long ago."""
    import diffusers.utils.constants
    import diffusers.utils.dynamic_modules_utils
    import huggingface_hub.constants

    if offline:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    for module in (diffusers.utils.constants, diffusers.utils.dynamic_modules_utils):
        module.DIFFUSERS_DISABLE_REMOTE_CODE = True


def require_libraries() -> None:
    """Raise LoadFailed, importing nothing, if what loads a pipeline is not installed or is too old."""
    if find_spec("torch") is None:
        raise LoadFailed("E_NO_TORCH", "torch is not installed", _INSTALL)
    _require_diffusers()


@cache
def _require_diffusers() -> None:
    try:
        version = metadata.version("diffusers")
    except metadata.PackageNotFoundError as error:
        raise LoadFailed("E_NO_TORCH", "diffusers is not installed", _INSTALL) from error
    if version_numbers(version) < DIFFUSERS_MIN:
        raise LoadFailed(
            "E_OLD_DIFFUSERS",
            f"diffusers {version} may run code that a repository brings (CVE-2026-44513)",
            "pip install -U 'diffusers>=0.42.1'",
        )


def version_of(package: str) -> str:
    """Its version; "unknown" where it runs from a checkout that is only on PYTHONPATH."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading three numbers of a version: enough to compare with a floor."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def silence_bars() -> None:
    """Whoever listens to the progress prints it; two libraries' bars would be drawn through those lines."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def first_line(error: BaseException) -> str:
    """The exception's class and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
