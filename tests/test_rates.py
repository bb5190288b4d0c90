"""Speeds as people write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api.rates import RATE_BPS_MAX, RATE_BPS_MIN, BadRate, parse_limit_bps, parse_rate_bps


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("20MB/s", 20_000_000),
        ("20mb/s", 20_000_000),
        ("20 MB/s", 20_000_000),
        ("500k", 500_000),
        ("500kB", 500_000),
        ("1.5MiB", 1_572_864),
        ("1.5Mi", 1_572_864),
        (".5G/s", 500_000_000),
        ("12345678", 12_345_678),
        (" 10k ", 10_000),
    ],
)
def test_a_speed_is_read_as_it_is_meant(text: str, rate_bps: int) -> None:
    """k, M and G are decimal, Ki, Mi and Gi binary; /s and B may be left out."""
    assert parse_rate_bps(text) == rate_bps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20Mbit/s", "bits"),
        ("20Mbps", "bits"),
        ("100MBps", "bits"),
        ("20Mb/s", "bits"),
        ("fast", "such as 20MB/s"),
        ("", "such as 20MB/s"),
        ("-5M", "such as 20MB/s"),
        ("1e6", "such as 20MB/s"),
        ("5MB/m", "such as 20MB/s"),
        ("0", "between 10 kB/s"),
        ("1k", "between 10 kB/s"),
        ("9999TB", "between 10 kB/s"),
    ],
)
def test_what_is_no_speed_is_refused_with_a_way_out(text: str, said: str) -> None:
    """Bits are refused: the eightfold of what was meant would be worse than a question."""
    with pytest.raises(BadRate, match=said) as refused:
        parse_limit_bps(text)
    assert str(refused.value).endswith("no limit is: off")


def test_off_is_no_limit() -> None:
    """In any case."""
    assert parse_limit_bps("off") is parse_limit_bps(" OFF ") is None


@given(st.text(max_size=20))
def test_any_text_is_a_speed_or_is_refused(text: str) -> None:
    """And a speed is within the bounds."""
    with suppress(BadRate):
        assert RATE_BPS_MIN <= parse_rate_bps(text) <= RATE_BPS_MAX
