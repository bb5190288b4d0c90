"""Asks the Hub for a model's listing through `qwen-daemon listing`: see `questions`.

The answer is huggingface_hub's trees/<commit>.json with `repo` and `commit` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.inventory import find_snapshot
from qwen_api.language import _
from qwen_api.manifest import BadManifest, Manifest, read_tree
from qwen_api.models import ModelRef
from qwen_monitor.exits import Refusal
from qwen_monitor.questions import ask

LISTING_S = 120.0  # a listing of 100,000 files is 100 pages; a dead proxy must not hold a check for ever


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    repo: str
    commit: str


def cached_listing(cache: Path, ref: ModelRef) -> Manifest | None:
    """The listing that the cache already has; None if it has none."""
    found = find_snapshot(cache, ref)
    return found.manifest if found else None


def ask_hub(ref: ModelRef, env: Mapping[str, str], *, on_wait: Callable[[], None] = lambda: None) -> Manifest:
    """The listing as the Hub gives it now; `on_wait` is called once if that takes longer than questions.SILENT_S.

    Raises Refusal: E_OFFLINE when the environment forbids asking, else what the daemon's command said.
    """
    if places.is_offline(env):
        raise Refusal(
            "E_OFFLINE", _("the list of files of {ref} was not asked for", ref=ref), _("HF_HUB_OFFLINE is set")
        )
    return read_listing(
        ask(
            ("listing", ref.repo, "--revision", ref.revision),
            env,
            failed=_("{ref} could not be listed", ref=ref),
            late=_("the Hub did not list {ref} within {seconds:.0f} s", ref=ref, seconds=LISTING_S),
            limit_s=LISTING_S,
            on_wait=on_wait,
        ),
        ref,
    )


def read_listing(raw: bytes, ref: ModelRef) -> Manifest:
    """What `qwen-daemon listing` printed. Raises Refusal (E_LISTING)."""
    try:
        named = msgspec.json.decode(raw, type=_Named)
        return read_tree(named.repo, named.commit, raw)
    except (msgspec.DecodeError, BadManifest) as error:
        raise Refusal("E_LISTING", _("the list of files of {ref} cannot be used", ref=ref), str(error)) from error
