"""What the values behind `qwenctl`'s flags may look like: durations, speeds, bounded numbers, a place in the stream.

Each reader is argparse's `type=`: it gives the value, or raises ArgumentTypeError with a sentence for people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from qwen_api.durations import parse_duration_s
from qwen_api.language import _


def duration_s(text: str) -> float:
    """Seconds in `90`, `45s`, `30m`, `2h`, `1h30m`, `1d`."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rate_bps(text: str) -> int:
    """Bytes per second in `20MB/s`, `500k`, `1.5MiB`."""
    from qwen_api.rates import parse_rate_bps  # msgspec's 10 ms, which --help does not need

    try:
        return parse_rate_bps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def between(low: int, high: int) -> Callable[[str], int]:
    """A whole number in these bounds, which are the API's (qwen_api.commands)."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                _("{text!r} is not a whole number from {low} to {high}", text=text, low=low, high=high)
            )
        return number

    return read


def since(text: str) -> int | float:
    """A number of the stream (int), or how many seconds ago (float) in `45s`, `30m`, `2h`."""
    if text.isascii() and text.isdigit():
        return int(text)
    return duration_s(text)


def globs(text: str) -> tuple[str, ...]:
    """The patterns in `file.*,model.*`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
