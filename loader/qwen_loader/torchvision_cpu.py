"""Lets a CUDA-built torchvision be imported over a CPU torch.

transformers cannot construct Qwen2VLProcessor without torchvision, and the torchvision wheels on PyPI are
CUDA builds: over a CPU torch their extension does not load, and `import torchvision` then dies because two
operators it describes (nms, qnms) were never defined. Defining their schemas first is enough: no Qwen
pipeline calls them. Call this before anything imports torchvision, transformers' processors included.

Which device or dtype is used, and whether torchvision is installed at all, is left to others.
"""

from __future__ import annotations

import sys
from importlib import machinery, util

_OPERATORS = ("nms", "qnms")  # the two that torchvision describes at import without asking if they exist
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def define_missing_operators() -> None:
    """Define torchvision's nms and qnms where its own extension cannot; harmless to call again."""
    import torch

    if "torchvision" in sys.modules or torch.version.cuda or torch.version.hip:
        return
    if hasattr(torch.ops.torchvision, _OPERATORS[0]) or _extension_loads():
        return
    for name in _OPERATORS:
        torch.library.define(f"torchvision::{name}", _SCHEMA)


def _extension_loads() -> bool:
    """Ask the extension itself: a CPU build of it defines the operators, and would refuse ours beside them."""
    import torch

    package = util.find_spec("torchvision")  # finds, does not import
    if package is None or package.submodule_search_locations is None:
        return False
    extension = machinery.PathFinder.find_spec("_C", list(package.submodule_search_locations))
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:  # libcudart or libtorch_cuda is absent: the case this module is for
        return False
    return True
