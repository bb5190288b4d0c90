"""Says what in a repository would run code: by file name, and by what model_index.json asks for. Pure.

The formats that are read by running them are refused by the gate unless the caller allows them by name; nothing here
looks into a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from qwen_api.contents import PICKLE_SUFFIXES

CODE_ENDINGS = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"})
# The Hub's pickles, and what numpy, joblib and Keras read by running it.
PICKLE_ENDINGS = PICKLE_SUFFIXES | {".joblib", ".npy", ".h5"}
# Where model_index.json may take classes from. Besides the two libraries, diffusers names folders of its own.
LIBRARIES = frozenset(
    {
        *("diffusers", "transformers", "flax", "onnxruntime"),
        *("audioldm2", "deepfloyd_if", "kandinsky", "latent_diffusion", "paint_by_example", "shap_e"),
        *("stable_audio", "stable_cascade", "stable_diffusion", "stable_diffusion_safe", "unclip", "wuerstchen"),
    }
)


def is_code(path: str) -> bool:
    """True for a file that an importer, a loader or a shell would run."""
    return PurePosixPath(path).suffix.lower() in CODE_ENDINGS


def is_pickle(path: str) -> bool:
    """True for weights in a format that is read by running it."""
    return PurePosixPath(path).suffix.lower() in PICKLE_ENDINGS


def read_pickles(paths: Collection[str]) -> tuple[str, ...]:
    """The pickles that a loader of safetensors would have to read: those of folders that hold no safetensors.

    Beside safetensors a pickle is a duplicate that nothing opens (`use_safetensors=True`), and nothing of a pipeline's
    own folder, where model_index.json is, is weights.
    """
    has_safetensors = {str(PurePosixPath(path).parent) for path in paths if path.endswith(".safetensors")}
    if "model_index.json" in paths:
        has_safetensors.add(".")
    return tuple(p for p in paths if is_pickle(p) and str(PurePosixPath(p).parent) not in has_safetensors)


def index_names_code(model_index: Mapping[str, object]) -> bool:
    """True when a model_index.json takes a class from anywhere but the libraries themselves.

    A component is `[library, class]`; a list as the pipeline's class, a dotted path or a folder of the repository as
    the library is how custom code is asked for (CVE-2026-44513: diffusers < 0.42.1 ran it without being told to).
    """
    if not isinstance(model_index.get("_class_name", ""), str):
        return True
    pairs = [value for name, value in model_index.items() if not name.startswith("_") and isinstance(value, list)]
    return any(not _is_library(pair[0]) for pair in pairs if len(pair) == 2)


def _is_library(name: object) -> bool:
    return not isinstance(name, str) or name in LIBRARIES
