"""Loads a verified model: waits until the daemon says complete, then opens the pipeline from local files only.

For programs: `with loaded(model) as pipeline`; or `wait_ready` (or `await wait_ready_async`), then `load_pipeline` or a
loader of their own on `ReadyModel.path`. Importing this package imports neither torch nor diffusers; loading does.
"""

from qwen_loader.arrival import text_of
from qwen_loader.editing import edit
from qwen_loader.gate import Policy, Waiting
from qwen_loader.hold import loaded, loaded_async
from qwen_loader.hook import wait_ready, wait_ready_async
from qwen_loader.libraries import LoadFailed
from qwen_loader.pipeline import load_pipeline
from qwen_loader.presence import Presence
from qwen_loader.ready import ModelUnavailable, NotReady, ReadyModel, ReadyTimeout

__all__ = [
    "LoadFailed",
    "ModelUnavailable",
    "NotReady",
    "Policy",
    "Presence",
    "ReadyModel",
    "ReadyTimeout",
    "Waiting",
    "edit",
    "load_pipeline",
    "loaded",
    "loaded_async",
    "text_of",
    "wait_ready",
    "wait_ready_async",
]
