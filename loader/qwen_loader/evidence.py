"""Looks at the disk for the gate: ready files, seals, the snapshot against its listing, and hashes where nothing else
proves a file.

Only reads. Each file is hashed once: what was found is remembered with the file's seal and counts while that holds.
What the findings mean is for `gate`; when to look is for `hook`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from qwen_api import places
from qwen_api.indexes import read_config
from qwen_api.inventory import Inventory, find_snapshot, hash_file, listing_beside, look
from qwen_api.language import _
from qwen_api.manifest import Manifest, WantedFile, component_of
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal, read_ready, seal_matches, take_seal
from qwen_api.undecodable import UNDECODABLE
from qwen_loader.faults import explain
from qwen_loader.foreign_code import index_names_code, is_code, is_pickle
from qwen_loader.gate import Candidate, Disk, Proof
from qwen_loader.strays import read_strays

SYSTEM_STATE_DIR = Path("/var/lib/qwen-daemon")

HashProgress = Callable[[int, int], None]
"""Given the bytes hashed so far and the bytes to hash."""


class Examined(NamedTuple):
    """What was found out about a candidate's files without reading them through."""

    candidate: Candidate
    proofs: dict[str, Proof]
    seals: dict[str, Seal]  # what each proven file looked like when it was proven
    strays: tuple[str, ...]
    listing: Manifest | None


class HashMemory:
    """The hashes found in this process, each good while its file's seal holds."""

    def __init__(self) -> None:
        self._found: dict[Path, tuple[Seal, str]] = {}

    def put(self, path: Path, seal: Seal, digest: str) -> None:
        """Remember that `path` had this hash while it had this seal."""
        self._found[path] = (seal, digest)

    def get(self, path: Path) -> str | None:
        """The hash of `path`, if it was hashed and is untouched since."""
        known = self._found.get(path)
        return known[1] if known is not None and seal_matches(path, known[0]) else None

    def seal(self, path: Path) -> Seal | None:
        """What `path` looked like when it was hashed."""
        known = self._found.get(path)
        return known[0] if known is not None else None


def read_ready_files(env: Mapping[str, str], key: str, *more: Path) -> list[Ready]:
    """Every ready file of this model: in the state directories in `more`, this user's and the system's."""
    folders = dict.fromkeys((*more, places.state_dir(env), SYSTEM_STATE_DIR))
    found = (read_ready(places.ready_file(folder, key)) for folder in folders)
    return [ready for ready in found if ready is not None]


def look_at_disk(cache: Path, ref: ModelRef) -> Disk:
    """The snapshot that the cache holds for `ref`, against the listing beside it; sizes only."""
    found = find_snapshot(cache, ref)
    if found is None:
        return Disk(why=_("nothing of {ref} is in {cache}", ref=ref, cache=cache))
    if found.manifest is None:
        why = found.listing_error or "there is no listing beside it"
        return Disk(commit=found.commit, why=_("{folder} cannot be checked: {why}", folder=found.folder, why=why))
    here = look(found.folder).by_path()
    wanted = tuple(f for f in found.manifest.files if f.path in here or not (is_code(f.path) or is_pickle(f.path)))
    missing = [f for f in wanted if f.path not in here or here[f.path].size_bytes != f.size_bytes]
    size_bytes = sum(f.size_bytes for f in wanted)
    return Disk(
        commit=found.commit,
        path=str(found.folder),
        files=tuple(f.path for f in wanted),
        size_bytes=size_bytes,
        done_bytes=size_bytes - sum(f.size_bytes for f in missing),
        missing=tuple(f.path for f in missing),
        cause=explain(found.folder, found.manifest, [f.path for f in missing], {}) if missing else "",
    )


def last_change_ns(cache: Path, ref: ModelRef) -> int:
    """When somebody last wrote to the model's folder in the cache, finished or not; 0 if there is none.

    Downloads write beside the blobs (`*.incomplete` and the daemon's own), and rename.
    """
    newest_ns = 0
    folder = places.repo_dir(cache, ref.repo) / "blobs"
    with suppress(OSError):
        for path in (folder, *folder.iterdir()):
            with suppress(OSError):  # renamed meanwhile
                newest_ns = max(newest_ns, path.stat().st_mtime_ns)
    return newest_ns


def examine(candidate: Candidate, readies: Iterable[Ready], memory: HashMemory) -> Examined:
    """What the seals and the earlier hashes prove of the candidate's files, and what else lies among them.

    What would be read with them has to be proven like them, whoever put it there.
    """
    folder = Path(candidate.path)
    here = look(folder)
    listing = listing_beside(folder, candidate.repo)
    if listing is not None and listing.commit != candidate.commit:
        listing = None
    listed = listing.by_path() if listing is not None else {}
    seals = _seals_of(candidate, readies)
    known = set(candidate.files)
    strays = tuple(file.path for file in here.files if file.path not in known)
    also_read = read_strays(candidate.files, strays)
    candidate = msgspec.structs.replace(candidate, files=(*candidate.files, *also_read))
    proofs = {path: _prove(folder / path, seals.get(path), listed.get(path), memory) for path in candidate.files}
    proofs |= {path: Proof.STRAY for path in also_read if path not in listed}
    taken = {
        path: seals[path] if proof is Proof.SEALED else memory.seal(folder / path)
        for path, proof in proofs.items()
        if proof in (Proof.SEALED, Proof.HASHED)
    }
    if _names_code(here):
        candidate = msgspec.structs.replace(candidate, has_code=True)
    return Examined(candidate, proofs, {path: seal for path, seal in taken.items() if seal}, strays, listing)


def cause_of(candidate: Candidate, paths: Iterable[str], memory: HashMemory) -> str:
    """Why the first of these files is not what the listing says, in words; empty if nothing can tell."""
    folder = Path(candidate.path)
    listing = listing_beside(folder, candidate.repo)
    if listing is None or listing.commit != candidate.commit:
        return ""
    paths = tuple(paths)
    hashes = {path: digest for path in paths if (digest := memory.get(folder / path)) is not None}
    return explain(folder, listing, paths, hashes)


def hash_listed(
    folder: Path,
    files: Iterable[WantedFile],
    memory: HashMemory,
    *,
    progress: HashProgress | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Hash these files into `memory`. Raises qwen_api.inventory.Stopped; a file that cannot be read is left out."""
    files = tuple(files)
    to_hash_bytes = sum(f.size_bytes for f in files)
    hashed_bytes = 0

    def count(more_bytes: int) -> None:
        nonlocal hashed_bytes
        hashed_bytes += more_bytes
        if progress is not None:
            progress(hashed_bytes, to_hash_bytes)

    for file in files:
        path = folder / file.path
        try:
            before = take_seal(path)
            digest = hash_file(
                path,
                algorithm="sha256" if file.sha256 else "git-sha1",
                size_bytes=before.size_bytes,
                progress=count,
                stop=stop,
            )
        except OSError:
            continue
        if seal_matches(path, before):  # written to while it was read: the hash is of neither content
            memory.put(path, before, digest)


def components_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The components that these files belong to, each once."""
    return tuple(dict.fromkeys(component_of(path) or "the root" for path in paths))


def _seals_of(candidate: Candidate, readies: Iterable[Ready]) -> Mapping[str, Seal]:
    same = (r.seals for r in readies if r.repo == candidate.repo and (r.commit, r.path) == _place(candidate))
    return next(same, {})


def _place(candidate: Candidate) -> tuple[str, str]:
    return candidate.commit, candidate.path


def _prove(path: Path, seal: Seal | None, listed: WantedFile | None, memory: HashMemory) -> Proof:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb"):  # a seal needs no right to read; loading does
            pass
    except PermissionError:
        return Proof.UNREADABLE
    except OSError:
        return Proof.MISSING
    if seal is not None and seal_matches(path, seal):
        return Proof.SEALED
    if listed is None:
        return Proof.UNLISTED
    if size_bytes != listed.size_bytes:
        return Proof.WRONG
    digest = memory.get(path)
    if digest is None:
        return Proof.UNPROVEN
    return Proof.HASHED if digest == listed.etag else Proof.WRONG


def _names_code(here: Inventory) -> bool:
    """Whether an index or a config asks for code, its own or another repository's: nobody's word is needed for that."""
    configs = (file.text for file in here.files if file.path.endswith("config.json") and file.text)
    return _index_names_code(here) or any(read_config(text).has_auto_map for text in configs)


def _index_names_code(here: Inventory) -> bool:
    index = here.by_path().get("model_index.json")
    if index is None or index.text is None:
        return False
    try:
        return index_names_code(msgspec.json.decode(index.text, type=dict[str, Any]))
    except UNDECODABLE:
        return False  # a broken index: the hash will say so
