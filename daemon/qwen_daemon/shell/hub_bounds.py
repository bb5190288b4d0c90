"""How much the Hub may say in one answer: huggingface_hub reads whatever comes, and makes objects of all of it.

A listing of as many files as are allowed fits; one that would cost hundreds of megabytes to look at is refused before
it is parsed. What the answer means is for `hub` and `hub_listing`.
"""

from __future__ import annotations

import httpx2

from qwen_api.manifest import FILES_MAX, BadManifest

ANSWER_BYTES_MAX = 64 << 20  # unpacked; 100,000 files with sizes and hashes are 25 MB
FACTS_MAX = 8 * FILES_MAX  # commas; a file with its size and hashes has six
PIECE_BYTES = 1 << 16
_NAME = b'"rfilename"'


def raise_huge(response: httpx2.Response) -> None:
    """Read the answer, in bounded pieces. Raises BadManifest if it is larger than any listing that would be taken."""
    content = bytearray()
    for piece in response.iter_bytes(PIECE_BYTES):
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise BadManifest(f"the Hub's answer has more than {ANSWER_BYTES_MAX >> 20} MiB")
    if content.count(_NAME) > FILES_MAX or content.count(b",") > FACTS_MAX:
        raise BadManifest(f"the Hub's answer names more than {FILES_MAX} files")
    response._content = bytes(content)  # what its own read() would have kept
