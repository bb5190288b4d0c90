"""A small model in a real Hub cache, written as huggingface_hub writes it, and the daemon's words about it.

For tests of whatever reads a cache or waits for a model. It has weights of a few bytes, a listing with true hashes,
and blobs behind links; tests damage it by writing to `file(...)` or unlinking it.
"""

from __future__ import annotations

import json
from hashlib import sha1, sha256
from pathlib import Path

import msgspec

from qwen_api import events as e
from qwen_api import places
from qwen_api.manifest import WantedFile, make_manifest, write_tree
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, take_seal

REPO = "test-org/small-model"
COMMIT = "c0ffee" + "0" * 34
WEIGHTS = "unet/weights.safetensors"


def safetensors(values: bytes, dtype: str = "U8") -> bytes:
    """A safetensors file with one tensor of these bytes."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


CONTENTS = {"config.json": b'{"a": 1}\n', "README.md": b"# small\n", WEIGHTS: safetensors(bytes(range(256)) * 40)}


class SmallModel:
    """The model under `cache`; `folder` is its snapshot."""

    def __init__(self, cache: Path, contents: dict[str, bytes] | None = None) -> None:
        self.cache = cache
        self.ref = ModelRef(repo=REPO)
        self.contents = CONTENTS if contents is None else contents
        self.folder = places.snapshot_dir(cache, REPO, COMMIT)
        self.manifest = make_manifest(REPO, COMMIT, [_wanted(p, c) for p, c in self.contents.items()])

    def write(self) -> SmallModel:
        """Put all of it into the cache."""
        _put(places.tree_file(self.cache, REPO, COMMIT), write_tree(self.manifest))
        for file in self.manifest.files:
            blob = places.repo_dir(self.cache, REPO) / "blobs" / file.etag
            _put(blob, self.contents[file.path])
            link = self.folder / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        _put(places.ref_file(self.cache, REPO, "main"), COMMIT.encode())
        return self

    def file(self, path: str) -> Path:
        """The blob behind a file of the snapshot."""
        return (self.folder / path).resolve()

    def ready(self) -> Ready:
        """What the daemon writes when all of it is verified, with the seals of this moment."""
        return Ready(
            repo=REPO,
            revision="main",
            commit=COMMIT,
            path=str(self.folder),
            verified="sha256",
            seals={f.path: take_seal(self.folder / f.path) for f in self.manifest.files},
            has_code=False,
            has_pickle=False,
        )

    def write_ready(self, state: Path) -> SmallModel:
        """Put the ready file where a daemon with this state directory puts it."""
        _put(places.ready_file(state, self.ref.key), msgspec.json.encode(self.ready()))
        return self

    def wanted_events(self) -> list[e.Event]:
        """Added, resolved, downloading; nothing has arrived."""
        files = tuple(e.ListedFile(path=f.path, size_bytes=f.size_bytes, etag=f.etag) for f in self.manifest.files)
        return [
            e.ModelAdded(model=self.ref.key, repo=REPO, revision="main"),
            e.ModelResolved(model=self.ref.key, commit=COMMIT, files=files, size_bytes=self.manifest.size_bytes),
            e.ModelStateChanged(model=self.ref.key, state="downloading"),
        ]

    def verified_event(self, path: str) -> e.Event:
        """One file has arrived and is right."""
        size_bytes = self.manifest.by_path()[path].size_bytes
        return e.FileVerified(model=self.ref.key, path=path, size_bytes=size_bytes, algorithm="sha256")

    def complete_events(self, *, has_code: bool = False, has_pickle: bool = False) -> list[e.Event]:
        """All has arrived."""
        complete = e.ModelComplete(
            model=self.ref.key,
            repo=REPO,
            commit=COMMIT,
            path=str(self.folder),
            files=len(self.manifest.files),
            size_bytes=self.manifest.size_bytes,
            has_code=has_code,
            has_pickle=has_pickle,
        )
        return [*[self.verified_event(f.path) for f in self.manifest.files], complete]


def folder_as_model(cache: Path, folder: Path) -> SmallModel:
    """Any folder as the content of such a model, files and all."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return SmallModel(cache, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


def _wanted(path: str, content: bytes) -> WantedFile:
    return WantedFile(
        path=path,
        size_bytes=len(content),
        git_sha1=sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        sha256=sha256(content).hexdigest() if path.endswith(".safetensors") else None,
    )


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
