"""The models that are downloaded: files of random bytes from a seed, made once, with the hashes a Hub would list.

Weight files are real safetensors (header and all), because the daemon checks their structure before it says complete.
Nothing is sparse: a hole costs no reading and would flatter whoever serves or hashes it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

CHUNK_BYTES = 1 << 20
HEADER_ROOM_BYTES = 256  # more than the header of one tensor takes


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `path` is relative to the repository."""

    path: str
    size_bytes: int
    sha256: str


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One repository at one commit; its files lie under `folder`."""

    name: str
    commit: str
    folder: str
    items: tuple[Item, ...]

    @property
    def repo(self) -> str:
        """org/name."""
        return f"bench/{self.name}"

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(item.size_bytes for item in self.items)

    def source(self, item: Item) -> Path:
        """Where the original of a file lies."""
        return Path(self.folder) / item.path


def make(root: Path, name: str, files: Sequence[tuple[str, int]], *, seed: int) -> Model:
    """The model under `root`, made unless it is there already. Raises OSError."""
    key = hashlib.sha1(f"{seed} {name} {list(files)}".encode(), usedforsecurity=False).hexdigest()
    folder = root / f"{name}-{key[:8]}"
    index = root / f"{folder.name}.json"
    if index.exists():
        return msgspec.json.decode(index.read_bytes(), type=Model)
    items = tuple(_write(folder, path, size_bytes, seed) for path, size_bytes in files)
    # The real folder name is the model's name too, so that two sizes of one model are two repositories.
    model = Model(name=folder.name, commit=key, folder=str(folder), items=items)
    index.write_bytes(msgspec.json.encode(model))
    return model


def _write(folder: Path, path: str, size_bytes: int, seed: int) -> Item:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in _chunks(path, size_bytes, seed):
            file.write(chunk)
            digest.update(chunk)
    return Item(path=path, size_bytes=size_bytes, sha256=digest.hexdigest())


def _chunks(path: str, size_bytes: int, seed: int) -> Iterator[bytes]:
    dice = random.Random(f"{seed} {path}")
    header = _header(size_bytes) if path.endswith(".safetensors") else b""
    yield header
    left = size_bytes - len(header)
    while left > 0:
        yield dice.randbytes(min(left, CHUNK_BYTES))
        left -= CHUNK_BYTES


def _header(size_bytes: int) -> bytes:
    """A safetensors header of one tensor of bytes that fills the file."""
    body_bytes = size_bytes - 8 - HEADER_ROOM_BYTES
    if body_bytes <= 0:
        raise ValueError(f"a safetensors file of {size_bytes} bytes has no room for its header")
    tensor = {"w": {"dtype": "U8", "shape": [body_bytes], "data_offsets": [0, body_bytes]}}
    return HEADER_ROOM_BYTES.to_bytes(8, "little") + json.dumps(tensor).encode().ljust(HEADER_ROOM_BYTES)
