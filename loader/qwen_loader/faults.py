"""What is wrong with files of a model, by cause and in words: what diffusers and transformers hide or misname.

They load half a shard of zeros, another revision's shard and a default model of 144 GB without a word, and call a
missing index a missing `.bin`. The causes are qwen_api's; what to do about them is for the caller. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from qwen_api.causes import CAUSES
from qwen_api.inventory import explain_mismatch, look
from qwen_api.manifest import Manifest
from qwen_api.report import Problem, make_report


def find_faults(folder: Path, *, component: str | None = None) -> tuple[Problem, ...]:
    """What a loader would stumble over in the folder (or in one component of it), by the model's own files."""
    found = make_report(ref=None, inventory=look(folder)).findings
    return tuple(problem for problem in found if component is None or problem.component == component)


def explain(folder: Path, listing: Manifest, paths: Collection[str], hashes: Mapping[str, str]) -> str:
    """The first of these files that is not as listed, and why, in words; empty if nothing shows."""
    explanations = {}
    for path in paths:
        if path in hashes:
            try:
                explanations[path] = explain_mismatch(folder / path)
            except OSError:
                continue
    report = make_report(
        ref=None, inventory=look(folder), manifest=listing.keep(paths), hashes=hashes, explanations=explanations
    )
    about = [problem for problem in report.findings if problem.path in paths]
    return fault_text(about[0]) if about else ""


def fault_text(problem: Problem) -> str:
    """`vae/config.json: without this configuration the component cannot be built`."""
    detail = f" ({problem.detail})" if problem.detail else ""
    return f"{problem.path}: {CAUSES[problem.cause]}{detail}"
