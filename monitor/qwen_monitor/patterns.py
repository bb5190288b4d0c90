"""--include and --exclude with exactly the meaning that `hf download` gives them.

The only module here that imports huggingface_hub (25 ms), and only when a pattern was given.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen_api.manifest import Manifest


def keep_wanted(manifest: Manifest, include: Sequence[str], exclude: Sequence[str]) -> Manifest:
    """The manifest with the files that the patterns leave; `dir/` means everything below it."""
    if not include and not exclude:
        return manifest
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # it is exported lazily

    paths = [f.path for f in manifest.files]
    kept = filter_repo_objects(paths, allow_patterns=list(include) or None, ignore_patterns=list(exclude) or None)
    return manifest.keep(kept)
