"""`qwenctl events`: which events its filters show."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from qwen_api import events as e
from qwen_monitor.control_events import Choice, is_chosen

AT = "2026-11-23T14:00:00.000Z"
RETRY = e.FileRetry(
    seq=1, ts=AT, model="org--one", path="vae/w.safetensors", attempt=2, attempts_max=4, retry_at=AT, code="E_NETWORK"
)
VERIFIED = e.FileVerified(seq=2, ts=AT, model="org--one", path="vae/w.safetensors", size_bytes=1, algorithm="sha256")
UNKNOWN = e.Unknown(raw=b'{"type":"file.sung","seq":3,"ts":"2026-11-23T14:00:00.000Z","path":"vae/w.safetensors"}')
GAP = e.Gap(first=1, last=9)


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (Choice(), (RETRY, VERIFIED, UNKNOWN, GAP)),
        (Choice(types=("file.retry",)), (RETRY, GAP)),
        (Choice(types=("file.*",)), (RETRY, VERIFIED, UNKNOWN, GAP)),
        (Choice(file="vae/*"), (RETRY, VERIFIED, UNKNOWN, GAP)),
        (Choice(file="text_encoder/*"), (GAP,)),
        (Choice(only_bad=True), (RETRY, GAP)),
        (Choice(begin=datetime(2026, 11, 23, 13, tzinfo=UTC)), (RETRY, VERIFIED, UNKNOWN, GAP)),
        (Choice(begin=datetime(2026, 11, 23, 15, tzinfo=UTC)), (GAP,)),
    ],
)
def test_filters_narrow_what_is_shown_and_a_gap_is_always_told(choice: Choice, shown: tuple[object, ...]) -> None:
    """By type, file, trouble and time, also for events that this version does not know; frames are never shown."""
    lines = (RETRY, VERIFIED, UNKNOWN, GAP, e.Bookmark(seq=9))
    assert tuple(line for line in lines if is_chosen(line, choice)) == shown
