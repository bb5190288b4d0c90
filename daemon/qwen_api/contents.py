"""Looks into one file far enough to tell whether it is what its name says: a few bytes, a header or a JSON text.

Never hashes and never reads a weight file's data. What the file should be compared with is left to `judgement`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

import msgspec

from qwen_api.headers import Header, read_header
from qwen_api.language import _, whole
from qwen_api.undecodable import UNDECODABLE

TEXT_BYTES_MAX = 64 << 20  # the largest JSON text that is read: a tokenizer.json is 11-35 MB, an index under 10 MB
PEEK_BYTES = 1024  # an LFS pointer is at most 1024 bytes (git-lfs docs/spec.md)
ZIP_TAIL_BYTES = 22 + 0xFFFF  # a zip's end record with the longest comment: torch's .bin files are zips

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
WEIGHT_SUFFIXES = PICKLE_SUFFIXES | {".safetensors", ".gguf", ".msgpack", ".h5", ".onnx", ".npz"}
"""Names that weights are kept under. Whether a loader opens one is another matter."""

_NEVER_BEGINS_WITH_ZEROS = WEIGHT_SUFFIXES - {".bin"}  # OpenVINO's .bin is bare tensor data, which may

_LFS = b"version https://git-lfs.github.com/spec/v1"
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a look into a file found. `cause` is "" when nothing is wrong; `text` is kept only where asked for."""

    cause: str = ""
    detail: str = ""
    header: Header | None = None
    text: bytes | None = None


def look_into(path: Path, name: str, size_bytes: int, *, keep_text: bool = False) -> Content:
    """Look into the file at `path`, known in the repository as `name`. Raises OSError if it cannot be read."""
    suffix = PurePosixPath(name).suffix.lower()
    if size_bytes == 0:
        return Content(cause="empty", detail=_("0 bytes")) if suffix in WEIGHT_SUFFIXES | {".json"} else Content()
    if suffix in WEIGHT_SUFFIXES or suffix == ".json":
        return _impostor(path) or _look_by_suffix(path, suffix, size_bytes, keep_text=keep_text)
    if size_bytes <= PEEK_BYTES and _read(path, PEEK_BYTES).startswith(_LFS):
        return _POINTER
    return _look_at_merges(path, size_bytes) if name.rpartition("/")[2] == "merges.txt" else Content()


_POINTER = Content(cause="lfs_pointer", detail="begins with 'version https://git-lfs.github.com/spec/v1'")


def _impostor(path: Path) -> Content | None:
    """A pointer or a web page in the place of weights or JSON."""
    head = _read(path, PEEK_BYTES)
    if head.startswith(_LFS):
        return _POINTER
    return Content(cause="html_page", detail=_("begins with an HTML tag")) if _HTML.match(head) else None


def _look_by_suffix(path: Path, suffix: str, size_bytes: int, *, keep_text: bool) -> Content:
    if suffix == ".safetensors":
        header = read_header(path, size_bytes)
        return Content(cause=header.cause, detail=header.detail, header=header)
    if suffix == ".json":
        return _look_at_json(path, size_bytes, keep_text=keep_text)
    head = _read(path, PEEK_BYTES)
    if not head.strip(b"\0") and suffix in _NEVER_BEGINS_WITH_ZEROS:
        return Content(cause="zero_filled_header", detail=_("the first {count} bytes are all zero", count=len(head)))
    if suffix == ".gguf" and head[:4] != b"GGUF":
        return Content(cause="bad_header", detail=_("does not begin with GGUF"))
    if suffix in PICKLE_SUFFIXES and head[:4] == b"PK\x03\x04" and b"PK\x05\x06" not in _tail(path, size_bytes):
        return Content(cause="truncated", detail=_("a zip archive without its end record"))
    return Content()


def _look_at_json(path: Path, size_bytes: int, *, keep_text: bool) -> Content:
    if size_bytes > TEXT_BYTES_MAX:
        return Content(detail=_("larger than {count} bytes, not read", count=whole(TEXT_BYTES_MAX)))
    text = _read(path, TEXT_BYTES_MAX)
    if not text.strip(b"\0"):
        return Content(cause="zero_filled", detail=_("{count} zero bytes", count=whole(size_bytes)))
    error = json_error(text)
    return Content(
        cause="bad_json" if error else "",
        detail=error,
        text=text if keep_text and not error else None,
    )


def json_error(text: bytes) -> str:
    """What is wrong with a JSON text, in words; "" when Python's own parser takes it (NaN included, as loaders do)."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except UNDECODABLE:
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            return str(error)
    return ""


def _look_at_merges(path: Path, size_bytes: int) -> Content:
    """A BPE merge is two words; a last line with one is a cut file, at which tokenizers fails."""
    last = _tail(path, size_bytes).rstrip(b"\r\n").rpartition(b"\n")[2]
    if last.startswith(b"#") or len(last.split(b" ")) == 2:
        return Content()
    if not last.strip(b"\0"):
        return Content(cause="zero_filled", detail=_("the last line is all zeros"))
    return Content(cause="truncated", detail=_("the last line is {line!r}, not a pair", line=last[:80]))


def _tail(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - ZIP_TAIL_BYTES))
        return file.read(ZIP_TAIL_BYTES)


def _read(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        return file.read(bytes_max)
