"""Reads the header of a safetensors file and says whether the file is the length its header says.

Reading is bounded: 8 bytes and at most HEADER_BYTES_MAX of header, never the tensors. Format: 8 bytes little-endian
header length N, N bytes of JSON {tensor: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {...}}, then the
data, which the offsets cover without a hole (safetensors 0.8, tensor.rs). The tensors' values are not looked at: a
file whose data is damaged has a perfect header.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import msgspec

from qwen_api.language import _, whole

HEADER_BYTES_MAX = 100_000_000  # safetensors' own limit (MAX_HEADER_SIZE)
LENGTH_BYTES = 8

# Bits per element, for the dtypes that safetensors 0.8 names; others are not checked against their shape.
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a safetensors file says of itself.

    `data_offset_bytes`: where the tensors begin. `end_bytes`: where the file must end. Both are 0, and `tensors` is
    empty, when the header cannot be read; `cause` (a key of causes.CAUSES) and `detail` then say why.
    """

    data_offset_bytes: int = 0
    end_bytes: int = 0
    tensors: frozenset[str] = frozenset()
    cause: str = ""
    detail: str = ""

    @property
    def is_readable(self) -> bool:
        """True when the header itself is sound, whatever the file's length."""
        return self.end_bytes > 0


class _BadHeader(ValueError):
    pass


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path, size_bytes: int) -> Header:
    """Read the header of the file at `path`, which stat(2) says has `size_bytes`. Raises OSError."""
    if size_bytes == 0:
        return Header(cause="empty", detail=_("0 bytes"))
    if size_bytes < LENGTH_BYTES:
        return Header(cause="truncated", detail=_("{count} bytes cannot hold a header", count=size_bytes))
    with path.open("rb") as file:
        length = int(struct.unpack("<Q", file.read(LENGTH_BYTES))[0])
        if length == 0:
            return Header(cause="zero_filled_header", detail=_("the header's length is 0"))
        if length > HEADER_BYTES_MAX:
            return Header(
                cause="bad_header", detail=_("the header's length would be {count} bytes", count=whole(length))
            )
        if LENGTH_BYTES + length > size_bytes:
            return Header(
                cause="truncated", detail=_("the header alone needs {count} bytes", count=whole(LENGTH_BYTES + length))
            )
        raw = file.read(length)
    return parse_header(raw, size_bytes)


def parse_header(raw: bytes, size_bytes: int) -> Header:
    """Judge the header's JSON against the size of the whole file. Pure."""
    if not raw.strip(b"\0"):
        return Header(
            cause="zero_filled_header", detail=_("the header's {count} bytes are all zero", count=whole(len(raw)))
        )
    try:
        tensors = _decode(raw)
        data_bytes = _data_bytes(tensors)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, _BadHeader) as error:
        return Header(cause="bad_header", detail=str(error))
    offset = LENGTH_BYTES + len(raw)
    cause, detail = _compare(offset + data_bytes, size_bytes)
    return Header(
        data_offset_bytes=offset,
        end_bytes=offset + data_bytes,
        tensors=frozenset(tensors),
        cause=cause,
        detail=detail,
    )


def _decode(raw: bytes) -> dict[str, _Tensor]:
    entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {name: msgspec.json.decode(e, type=_Tensor) for name, e in entries.items() if name != "__metadata__"}


def _data_bytes(tensors: dict[str, _Tensor]) -> int:
    """The length of the data, or _BadHeader if the tensors do not cover it one after the other."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        begin, next_end = tensor.data_offsets
        if begin != end or next_end < begin:
            raise _BadHeader(
                _(
                    "the offsets of {name!r} are [{begin}, {end}] after {last}",
                    name=name,
                    begin=begin,
                    end=next_end,
                    last=end,
                )
            )
        bits = _BITS.get(tensor.dtype)
        if bits is not None and (next_end - begin) * 8 != prod(tensor.shape) * bits:
            raise _BadHeader(
                _("{name!r} has {count} bytes, which its shape and dtype contradict", name=name, count=next_end - begin)
            )
        end = next_end
    return end


def _compare(end_bytes: int, size_bytes: int) -> tuple[str, str]:
    if size_bytes < end_bytes:
        return "truncated", _("{found} of {expected} bytes", found=whole(size_bytes), expected=whole(end_bytes))
    if size_bytes > end_bytes:
        count = whole(size_bytes - end_bytes)
        return "trailing_bytes", _("{count} bytes after the end of the tensors", count=count)
    return "", ""
