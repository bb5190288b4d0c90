"""Hashes a file as the Hub does, and afterwards looks for the reason why a hash was not the expected one.

The only places of this package that read whole files. Which hash is expected of which file is the manifest's to say.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from qwen_api.headers import read_header

Algorithm = Literal["sha256", "git-sha1"]

CHUNK_BYTES = 4 << 20  # one buffer; larger ones hash no faster
SAMPLES = 256  # how many places of a file are looked at in search of a hole
SAMPLE_BYTES_MAX = 4096
HOLE_SHARE = 0.1  # a run of zeros this long is a hole: one unwritten stream of eight is 0.125 of a file


class Stopped(Exception):
    """`stop` asked to end the hashing before the file's end."""


def hash_file(
    path: Path,
    *,
    algorithm: Algorithm,
    size_bytes: int,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> str:
    """The file's sha256, or its git blob id: sha1 of `blob <size_bytes>\\0` and the content; lower-case hex.

    `progress` is given the number of bytes hashed since it was last called. `stop` is asked before every chunk of
    CHUNK_BYTES; when it says True, Stopped is raised. One buffer of CHUNK_BYTES is all the memory used.
    Raises OSError.
    """
    # git's blob id is a name the Hub chose, not a protection; sha256 is used wherever the Hub gives one.
    digest = hashlib.sha256() if algorithm == "sha256" else hashlib.sha1(usedforsecurity=False)
    if algorithm == "git-sha1":
        digest.update(b"blob %d\0" % size_bytes)
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads ahead twice as far
        while True:
            if stop is not None and stop():
                raise Stopped(str(path))
            count = file.readinto(buffer)
            if not count:
                return digest.hexdigest()
            digest.update(view[:count])
            if progress is not None:
                progress(count)


def explain_mismatch(path: Path) -> str:
    """Why a file of the right size has the wrong hash: `hole_of_zeros`, or `hash_mismatch` when nothing shows.

    Looks at SAMPLES places of at most SAMPLE_BYTES_MAX, so it costs a megabyte of reading for any size. Only to be
    asked after a mismatch: weights may hold long runs of zeros by right. Raises OSError.
    """
    size_bytes = path.stat().st_size
    begin = read_header(path, size_bytes).data_offset_bytes if path.suffix == ".safetensors" else 0
    data_bytes = size_bytes - begin
    if data_bytes <= 0:
        return "hash_mismatch"
    return "hole_of_zeros" if _longest_zero_run(path, begin, data_bytes) >= HOLE_SHARE else "hash_mismatch"


def _longest_zero_run(path: Path, begin: int, data_bytes: int) -> float:
    """The longest run of all-zero samples, as a share of the data."""
    step = max(1, data_bytes // SAMPLES)
    places = range(begin, begin + data_bytes, step)
    longest = run = 0
    with path.open("rb") as file:
        for place in places:
            file.seek(place, os.SEEK_SET)
            sample = file.read(min(step, SAMPLE_BYTES_MAX))
            run = run + 1 if not sample.strip(b"\0") else 0
            longest = max(longest, run)
    return longest / len(places)
