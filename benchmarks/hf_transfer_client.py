"""hf_transfer as huggingface_hub 1.x used it, eight files at once.

A program of its own, because huggingface_hub 2 dropped it and only the peers' environment has it. Takes a file of lines
`address<TAB>path`. The values are those of huggingface_hub's former file_download.py.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hf_transfer

FILES_AT_ONCE = 8  # snapshot_download's max_workers
CHUNK_BYTES = 10 << 20
STREAMS = 128


def _fetch(line: str) -> None:
    address, path = line.split("\t")
    hf_transfer.download(address, path, STREAMS, CHUNK_BYTES, parallel_failures=3, max_retries=5)


with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
    list(pool.map(_fetch, Path(sys.argv[1]).read_text().splitlines()))
