"""How fast each model's bytes came the last time, kept for the next question: what a download would cost in time.

One small file in a state folder: the daemon's, and that of a person whose `qwenctl download` saw it. Nothing depends on
it: what cannot be read is not known, what cannot be written is forgotten, and of two who write at once one is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from qwen_api import places
from qwen_api.rates import RATE_BPS_MAX
from qwen_api.undecodable import UNDECODABLE

BELIEVED_S = 5.0  # a shorter download says more about its first answer than about the line
MODELS_MAX = 64  # that came last
FILE_BYTES_MAX = 64_000  # no file of ours is larger


class LastRate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per second, over all of a download that ended (or was stopped) at `at`, RFC 3339 UTC."""

    rate_bps: Annotated[int, msgspec.Meta(gt=0, le=RATE_BPS_MAX)]
    at: str


def remember(state: Path, key: str, rate: LastRate) -> None:
    """Keep it for the model of this key, in this state folder. Raises nothing."""
    place = places.last_rates_file(state)
    known = _read(state) | {key: rate}
    newest = sorted(known.items(), key=lambda item: item[1].at)[-MODELS_MAX:]
    with suppress(OSError):
        state.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f"{place.name}.new")
        beside.write_bytes(msgspec.json.encode(dict(newest)))
        beside.replace(place)


def recall(states: Iterable[Path], key: str) -> int | None:
    """Bytes per second of this model's last download, else of any's; None if none is known. Raises nothing."""
    known = [(name, rate) for state in states for name, rate in _read(state).items()]
    newest = max(known, key=lambda item: (item[0] == key, item[1].at), default=None)
    return newest[1].rate_bps if newest else None


def _read(state: Path) -> dict[str, LastRate]:
    try:
        with places.last_rates_file(state).open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=dict[str, LastRate])
    except (OSError, *UNDECODABLE):
        return {}
