"""The only door to torch and diffusers: loads a pipeline from a proven snapshot, and edits one picture with it.

Everything heavy is imported inside functions, because torch takes seconds and gigabytes that a process still waiting
for its model should not hold. Loading reads local files only, safetensors only, and runs no code of the repository;
diffusers older than 0.42.1 is refused because it ran such code in spite of that (CVE-2026-44513 and its second fix).
Whether the files are the right ones is for `gate` to say, before.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from qwen_api.models import ModelRef
from qwen_loader.picture_areas import picture_areas
from qwen_loader.ready import ReadyModel
from qwen_loader.stored import BadHeader, pick_variant, stored_dtype, weight_files

Device = Literal["auto", "cuda", "cpu"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Progress = Callable[[str, int], None]
"""Called with a component's name and the bytes loaded so far, after each component."""

DIFFUSERS_MIN = (0, 42, 1)
STEPS_MIN = 2  # with one step the scheduler's shift_terminal divides by zero: NaN sigmas, a black picture
VAE_SIDE_MAX_PX, CONDITION_SIDE_MAX_PX = 1024, 384  # what QwenImageEditPlusPipeline resizes every input picture to
CONDITION_SIDE_MIN_PX = 112  # four 28-pixel patches: the smallest picture that the text encoder's vision part takes
_INSTALL = "pip install 'qwen-daemon[loader]'"


class LoadFailed(RuntimeError):
    """The pipeline cannot be loaded or run. `code` is stable; `why` and `fix` are for people."""

    def __init__(self, code: str, why: str, fix: str) -> None:
        super().__init__(f"{why}; {fix}")
        self.code, self.why, self.fix = code, why, fix


def load_pipeline(
    ready: ReadyModel, *, device: Device = "auto", dtype: Dtype = "auto", progress: Progress | None = None
) -> Any:
    """Load the diffusers pipeline at `ready.path`; the result is on `device` and in `dtype`.

    `auto` is cuda where there is one, and the dtype that the weights are stored in. With `progress` the libraries'
    own bars are off. Sets HF_HUB_OFFLINE=1 and
    DIFFUSERS_DISABLE_REMOTE_CODE=1 in this process. Raises LoadFailed.
    """
    folder = Path(ready.path)
    if not (folder / "model_index.json").is_file():
        raise LoadFailed(
            "E_NOT_DIFFUSERS",
            f"{ready.repo} is not a diffusers pipeline: it has no model_index.json",
            f"hand the verified files to a program of your own: qwen-loader {ready.repo} -- COMMAND ...",
        )
    variant = pick_variant(path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors"))
    try:
        wanted = stored_dtype(weight_files(folder, variant)) if dtype == "auto" else dtype
    except (BadHeader, OSError) as error:
        raise LoadFailed("E_CORRUPT", str(error), f"qwenctl verify {ready.repo}") from error
    os.environ["HF_HUB_OFFLINE"] = "1"
    options: dict[str, object] = {"local_files_only": True, **({"variant": variant} if variant else {})}
    return _load(str(folder), options, device, wanted, progress, folder)


def load_from_hub(ref: ModelRef, *, device: Device = "auto", dtype: Dtype = "auto") -> Any:
    """Let diffusers fetch the model itself, past the daemon: nothing of it is verified. Raises LoadFailed."""
    wanted = "bfloat16" if dtype == "auto" else dtype  # nothing is on the disk yet to look at
    return _load(ref.repo, {"revision": ref.revision}, device, wanted, None, None)


def edit(
    pipeline: Any,
    image_path: Path,
    prompt: str,
    output_path: Path,
    *,
    steps: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> Path:
    """Edit one picture with any pipeline that takes an image and a prompt; `steps` and `size_px` None: its own default.

    The output appears whole or not at all. Raises LoadFailed when the pipeline takes no picture, ValueError for
    fewer than STEPS_MIN steps.
    """
    if steps is not None and steps < STEPS_MIN:
        raise ValueError(f"at least {STEPS_MIN} steps are needed: with one, the picture is black")
    import torch
    from PIL import Image

    accepted = inspect.signature(pipeline.__call__).parameters
    if not {"image", "prompt"} <= set(accepted):
        raise LoadFailed(
            "E_NOT_AN_EDITOR",
            f"{type(pipeline).__name__} does not take a picture and a prompt",
            "load it without --edit",
        )
    wanted: dict[str, object] = {
        "num_inference_steps": steps,
        "width": size_px,
        "height": size_px,
        "generator": torch.Generator().manual_seed(seed),  # on the CPU: the same noise on every device
        # Without a negative prompt true_cfg_scale is ignored; a blank one is what the model's card uses.
        "negative_prompt": " " if "true_cfg_scale" in accepted else None,
    }
    options = {name: value for name, value in wanted.items() if value is not None and name in accepted}
    pipeline.set_progress_bar_config(disable=None)  # None: a bar on a terminal, nothing in a log
    with Image.open(image_path) as opened:
        picture = opened.convert("RGB")
    with _areas(pipeline, size_px), torch.inference_mode(), _translating(torch, "E_EDIT", "the edit failed"):
        edited = pipeline(image=picture, prompt=prompt, **options).images[0]
    part = output_path.with_name(f".{output_path.stem}.{os.getpid()}{output_path.suffix}")
    try:
        edited.save(part)
        part.replace(output_path)
    finally:
        part.unlink(missing_ok=True)
    return output_path


def describe(pipeline: Any) -> tuple[str, str, int]:
    """Where a loaded pipeline is: device, dtype, and the bytes of GPU memory that this process holds."""
    import torch

    dtype = str(getattr(pipeline, "dtype", "")).removeprefix("torch.")
    vram_bytes = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return str(getattr(pipeline, "device", "")), dtype, vram_bytes


def _load(
    source: str,
    options: dict[str, object],
    device: Device,
    dtype: str,
    progress: Progress | None,
    folder: Path | None,
) -> Any:
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
    torch, diffusers = _import()
    where = _device(torch, device)
    with _translating(torch, "E_LOAD", "diffusers cannot load it"), _following(progress, folder):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            source, use_safetensors=True, dtype=getattr(torch, dtype), **options
        )
        return pipeline.to(where)


@contextmanager
def _translating(torch: Any, code: str, what: str) -> Iterator[None]:
    """torch, diffusers and transformers have no exception in common, and tokenizers raises a bare Exception."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise LoadFailed(
            "E_NO_VRAM", f"the GPU has too little memory: {_first_line(error)}", "use a larger GPU, or --device cpu"
        ) from error
    except Exception as error:
        raise LoadFailed(code, f"{what}: {_first_line(error)}", "the whole story: add --debug") from error


def _import() -> tuple[Any, Any]:
    _require_diffusers()
    try:
        from qwen_loader.torchvision_cpu import define_missing_operators

        define_missing_operators()
        import diffusers
        import torch
    except ImportError as error:
        raise LoadFailed("E_NO_TORCH", f"cannot import what loads a pipeline: {error}", _INSTALL) from error
    return torch, diffusers


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


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading three numbers of a version: enough to compare with a floor."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _device(torch: Any, device: Device) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise LoadFailed("E_NO_GPU", "torch sees no CUDA device", "check nvidia-smi and the driver, or: --device cpu")
    return device


@contextmanager
def _following(progress: Progress | None, folder: Path | None) -> Iterator[None]:
    """Hear of each loaded component from the line that diffusers logs for it; without that line, of none."""
    if progress is None:
        yield
        return
    _silence_bars()
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    level, listener = logger.level, _ComponentListener(progress, folder)
    logger.addFilter(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(listener)


def _silence_bars() -> None:
    """Whoever listens to the progress prints it; two libraries' bars would be drawn through those lines."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


class _ComponentListener(logging.Filter):
    def __init__(self, progress: Progress, folder: Path | None) -> None:
        super().__init__()
        self._progress, self._folder, self._loaded_bytes = progress, folder, 0

    def filter(self, record: logging.LogRecord) -> bool:
        found = re.match(r"Loaded (\w+) as ", record.getMessage())
        if found:
            if self._folder is not None:
                files = (self._folder / found[1]).glob("*")
                self._loaded_bytes += sum(path.stat().st_size for path in files if path.is_file())
            self._progress(found[1], self._loaded_bytes)
        return record.levelno > logging.INFO


def _areas(pipeline: Any, size_px: int | None) -> Any:
    if size_px is None or not type(pipeline).__module__.endswith(".pipeline_qwenimage_edit_plus"):
        return nullcontext()
    return picture_areas(
        vae_side_px=min(VAE_SIDE_MAX_PX, size_px),
        condition_side_px=min(CONDITION_SIDE_MAX_PX, max(CONDITION_SIDE_MIN_PX, size_px)),
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
