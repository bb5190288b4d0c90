"""Which model was probably meant, when the daemon or the Hub knows none of the name that was given."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.models import ALIASES

VERY_NEAR = 0.9  # the Hub has a million names that are less alike, and one of them may have been meant
NEAR = 0.6  # difflib's own measure; less alike is no typing error


def nearest_model(name: str, env: Mapping[str, str], socket: Path | None) -> str:
    """The daemon's model that looks most like `name`; "" if none does, or it cannot be asked. Raises nothing."""
    try:
        models = Client(find_socket(env, socket)).state().models.values()
    except (DaemonUnreachable, DaemonRefused):
        return ""
    given = ALIASES.get(name, name).lower()
    known = {text.lower(): text for model in models for text in (model.repo, f"{model.repo}@{model.revision}")}
    short = {repo.partition("/")[2]: text for repo, text in known.items()}
    found = get_close_matches(given, [*known, *short], n=1, cutoff=NEAR)
    return (known | short)[found[0]] if found and found[0] != given else ""


def nearest_alias(name: str) -> str:
    """The repository of an alias that looks very much like `name`; "" if none does."""
    known = {repo.lower(): repo for repo in ALIASES.values()}
    found = get_close_matches(name.lower(), known, n=1, cutoff=VERY_NEAR)
    return known[found[0]] if found and known[found[0]] != name else ""
