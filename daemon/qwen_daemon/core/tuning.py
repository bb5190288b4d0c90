"""The sizes by which a fetch is cut up; benchmarks/ shows what they cost and bring. Tests use smaller ones.

Times and shares stand where they decide: core.growth, core.slowness, core.pace.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Of one file's fetch; in bytes, and bytes per second."""

    align_bytes: int = 1 << 20  # leases are as long as a multiple of it
    batch_bytes: int = 1 << 20  # received and written at once; 64 KiB cost four times the CPU
    window_bytes: int = 4 << 30  # ahead of the hash
    hash_bps: int = 1_400_000_000  # sha256 of what was just written, where processors have instructions for it
    lease_min_bytes: int = 32 << 20  # less does not outlast the first byte's wait
    lease_near_bytes: int = 16 << 20  # but it does where the server answers at once
    lease_max_bytes: int = 256 << 20  # bounded: the Hub refuses open ranges above 50 GB
    eager_bytes: int = 64 << 20  # a file with less to fetch has one connection, others begin with more
    proven_bytes: int = 4 << 20  # what a connection has to bring before others follow it
    step_bytes: int = 8 << 20  # hashed at once while more is to come: a hop to a thread costs a tenth of it
    checkpoint_bytes: int = 64 << 20  # what a SIGKILL can cost per connection, and for one that has just ended


DEFAULT_TUNING = Tuning()
