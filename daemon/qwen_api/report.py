"""Is this model folder complete, and if not, which file is missing, short, empty, too long or corrupt, and why.

Pure: listing (if there is one) x inventory x hashes (if somebody computed them) -> components, files, totals and
findings, all of it encodable as JSON. One file's verdict is `judgement`'s, what a model needs without a listing is
`structure`'s; the text that people read is the monitor's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from qwen_api.causes import CAUSES, code_of
from qwen_api.contents import WEIGHT_SUFFIXES
from qwen_api.events import Finding
from qwen_api.inventory import Inventory
from qwen_api.judgement import Facts, Verdict, judge
from qwen_api.language import _
from qwen_api.manifest import Manifest, component_of
from qwen_api.models import ModelRef
from qwen_api.structure import ComponentStructure, Structure, find_structure
from qwen_api.weight_needs import IndexSummary

__all__ = [
    "CAUSES",
    "ComponentReport",
    "FileReport",
    "IndexSummary",
    "Problem",
    "Report",
    "Totals",
    "make_report",
]

Source = Literal["listing", "structure"]
Verified = Literal["none", "sizes", "sha256"]


class FileReport(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `size_bytes` is what it should have (what it has, where nothing says); None if unknown."""

    path: str
    finding: Finding
    size_bytes: int | None
    found_bytes: int
    cause: str = ""

    @property
    def is_well(self) -> bool:
        """True when the file is there and nothing is known against it."""
        return self.finding in ("present", "unverified")


class ComponentReport(msgspec.Struct, frozen=True, kw_only=True):
    """One component; "" is the root. `required`: model_index.json names it (the root always is).

    `done_bytes` are those of good files, and of short ones as far as they go; `size_bytes` those of all files whose
    size is known. `class_name` is "" where the folder does not say.
    """

    name: str
    class_name: str
    library: str
    required: bool
    files: tuple[FileReport, ...]
    found_files: int
    size_bytes: int
    done_bytes: int
    complete: bool
    index: IndexSummary | None = None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """files = found + missing + incomplete + corrupt. `incomplete`: short or empty. `corrupt`: too long included.

    `extra`: files in the folder that the listing does not have; they are ignored. `present_bytes` as `done_bytes`.
    """

    files: int
    found: int
    missing: int
    incomplete: int
    corrupt: int
    extra: int
    size_bytes: int
    present_bytes: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One file that keeps the model from being complete.

    `code` is an E_ code, `cause` a key of CAUSES (whose sentence says it in English), `detail` the particulars;
    `other_path` is the file whose content this is, for `swapped_with`. `expected_bytes` is None if unknown. `path`
    is "" for `no_model_here`. `in_repository`: so it is in the repository itself, and no download will mend it.
    """

    path: str
    component: str
    finding: Finding
    code: str
    cause: str
    expected_bytes: int | None
    found_bytes: int
    detail: str = ""
    other_path: str = ""
    in_repository: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. `verified` says how far `complete` was proven.

    `source`: `listing` when the Hub's list of files was there to compare with, `structure` when only the model's own
    files were. `verified`: `sha256` when every file that was found had its hash compared, `sizes` when a listing's
    sizes were, `none` without a listing. `notes` are remarks in English that make nothing incomplete.
    """

    model: str
    folder: str
    commit: str
    source: Source
    verified: Verified
    complete: bool
    shape: str
    class_name: str
    components: tuple[ComponentReport, ...]
    totals: Totals
    findings: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    has_code: bool = False
    has_pickle: bool = False


def make_report(
    *,
    ref: ModelRef | None,
    inventory: Inventory,
    manifest: Manifest | None = None,
    hashes: Mapping[str, str] | None = None,
    explanations: Mapping[str, str] | None = None,
    listed: Collection[str] = (),
    folder: Path | str = "",
    commit: str = "",
) -> Report:
    """Compare what should be there with what is.

    `manifest` holds the wanted files only: include and exclude patterns have been applied by the caller. `hashes` are
    by path, in the algorithm of each file's etag; a file without one counts by its size. `explanations` are what
    inventory.explain_mismatch said of paths whose hash was wrong. `listed` are all paths of the commit, before the
    patterns: weights that a loader must have and that are not among them keep the model from being complete, for no
    download will bring them. Without a manifest the model's own files decide.
    """
    structure = find_structure(inventory)
    facts = [
        *_gather(inventory, manifest, structure, hashes or {}, explanations or {}),
        *(_lacking(inventory, structure, listed) if manifest and listed else ()),
    ]
    verdicts = {f.path: judge(f) for f in facts}
    components = _components(verdicts, structure)
    totals = _totals(verdicts, _extra(inventory, manifest))
    return Report(
        model=str(ref) if ref else manifest.repo if manifest else "",
        folder=str(folder or inventory.folder),
        commit=commit or (manifest.commit if manifest else ""),
        source="listing" if manifest else "structure",
        verified=_verified(manifest, verdicts, hashes or {}),
        complete=0 < totals.files == totals.found,
        shape=structure.shape,
        class_name=structure.class_name,
        components=components,
        totals=totals,
        findings=tuple(_problem(path, verdict) for path, verdict in verdicts.items() if not verdict.is_well),
        notes=_notes(inventory, manifest, structure, verdicts),
        has_code=structure.has_code,
        has_pickle=structure.has_pickle,
    )


def _gather(
    inventory: Inventory,
    manifest: Manifest | None,
    structure: Structure,
    hashes: Mapping[str, str],
    explanations: Mapping[str, str],
) -> list[Facts]:
    """The facts about every path to be judged, in path order."""
    wanted = manifest.by_path() if manifest else {}
    found = inventory.by_path()
    needs, faults = structure.needs(), structure.faults()
    owners = {file.etag: path for path, file in wanted.items()}
    parts = {part.etag: part for part in inventory.parts if part.etag}
    facts = []
    for path in sorted(wanted) if manifest else _paths_by_structure(inventory, structure):
        file = wanted.get(path)
        owner = owners.get(hashes.get(path, ""), "")
        facts.append(
            Facts(
                path=path,
                wanted=file,
                found=found.get(path),
                need=needs.get(path),
                fault=faults.get(path),
                hash=hashes.get(path, ""),
                explanation=explanations.get(path, ""),
                owner=owner if owner != path else "",
                part=parts.get(file.etag) if file else None,
            )
        )
    return facts


def _lacking(inventory: Inventory, structure: Structure, listed: Collection[str]) -> list[Facts]:
    """The weights without which no loader can build a component, and which the repository does not have at all.

    Only where there can be no doubt: a shard that an index names, and the weights of a component in whose folder the
    repository has none of any framework.
    """
    found = inventory.by_path()
    absent = [need for need in structure.needs().values() if need.path not in listed and need.path not in found]
    return [
        Facts(path=need.path, need=need, is_in_repository=False)
        for need in absent
        if (need.cause == "shard_missing" and _has_index(structure, need.path))
        or (need.cause == "weights_missing" and "/" in need.path and not _has_weights(listed, need.path))
    ]


def _has_weights(listed: Collection[str], path: str) -> bool:
    folder = path.rpartition("/")[0] + "/"
    return any(p.startswith(folder) and PurePosixPath(p).suffix.lower() in WEIGHT_SUFFIXES for p in listed)


def _has_index(structure: Structure, path: str) -> bool:
    folder = path.rpartition("/")[0]
    return any(c.index and c.index.path.rpartition("/")[0] == folder for c in structure.components)


def _paths_by_structure(inventory: Inventory, structure: Structure) -> list[str]:
    """Without a listing: what is needed, what a loader would open, and whatever else is there and sound."""
    needed = set(structure.needs())
    opened = {path for component in structure.components for path in component.reads}
    sound = {f.path for f in inventory.files if not f.cause}
    return sorted(needed | opened | sound)


def _components(verdicts: Mapping[str, Verdict], structure: Structure) -> tuple[ComponentReport, ...]:
    known = {component.name: component for component in structure.components}
    names = sorted({component_of(path) for path in verdicts} | set(known))
    return tuple(
        _component(name, {p: v for p, v in verdicts.items() if component_of(p) == name}, known.get(name))
        for name in names
    )


def _component(name: str, verdicts: Mapping[str, Verdict], known: ComponentStructure | None) -> ComponentReport:
    return ComponentReport(
        name=name,
        class_name=known.class_name if known else "",
        library=known.library if known else "",
        required=known.required if known else name == "",
        files=tuple(_file(path, verdict) for path, verdict in verdicts.items()),
        found_files=sum(v.is_well for v in verdicts.values()),
        size_bytes=sum(_size(v) or 0 for v in verdicts.values()),
        done_bytes=sum(map(_done, verdicts.values())),
        complete=all(v.is_well for v in verdicts.values()),
        index=known.index if known else None,
    )


def _file(path: str, verdict: Verdict) -> FileReport:
    return FileReport(
        path=path,
        finding=verdict.finding,
        size_bytes=_size(verdict),
        found_bytes=verdict.found_bytes,
        cause=verdict.cause,
    )


def _totals(verdicts: Mapping[str, Verdict], extra: int) -> Totals:
    findings = [v.finding for v in verdicts.values()]
    return Totals(
        files=len(findings),
        found=sum(v.is_well for v in verdicts.values()),
        missing=findings.count("missing"),
        incomplete=findings.count("short") + findings.count("empty"),
        corrupt=findings.count("corrupt") + findings.count("long"),
        extra=extra,
        size_bytes=sum(_size(v) or 0 for v in verdicts.values()),
        present_bytes=sum(map(_done, verdicts.values())),
    )


def _size(verdict: Verdict) -> int | None:
    """What the file should have; what it has, when it is well and nothing says more."""
    if verdict.expected_bytes is None and verdict.is_well:
        return verdict.found_bytes
    return verdict.expected_bytes


def _done(verdict: Verdict) -> int:
    return verdict.found_bytes if verdict.is_well or verdict.finding == "short" else 0


def _extra(inventory: Inventory, manifest: Manifest | None) -> int:
    return len({f.path for f in inventory.files} - set(manifest.by_path())) if manifest else 0


def _verified(manifest: Manifest | None, verdicts: Mapping[str, Verdict], hashes: Mapping[str, str]) -> Verified:
    if manifest is None:
        return "none"
    found = [path for path, v in verdicts.items() if v.is_well]
    return "sha256" if found and all(path in hashes for path in found) else "sizes"


def _problem(path: str, verdict: Verdict) -> Problem:
    return Problem(
        path=path,
        component=component_of(path),
        finding=verdict.finding,
        code=code_of(verdict.cause),
        cause=verdict.cause,
        expected_bytes=verdict.expected_bytes,
        found_bytes=verdict.found_bytes,
        detail=verdict.detail,
        other_path=verdict.other_path,
        in_repository=verdict.in_repository,
    )


def _notes(
    inventory: Inventory, manifest: Manifest | None, structure: Structure, verdicts: Mapping[str, Verdict]
) -> tuple[str, ...]:
    return (
        *structure.notes,
        *((_("no file is wanted: the repository has none, or the patterns leave none"),) if not verdicts else ()),
        *(v.note for v in verdicts.values() if v.note),
        *_needed_but_unlisted(manifest, structure, verdicts),
        *(
            _("{path} is not judged, but: {why}", path=f.path, why=_(CAUSES[f.cause]))
            for f in inventory.files
            if f.cause and f.path not in verdicts
        ),
        *(
            _("{path} leads outside the folder and its cache", path=f.path)
            for f in inventory.files
            if f.outside and not f.dangling
        ),
        *(
            (_("the folder has more files than a model can have; the rest was not looked at"),)
            if inventory.cut_short
            else ()
        ),
    )


def _needed_but_unlisted(
    manifest: Manifest | None, structure: Structure, verdicts: Mapping[str, Verdict]
) -> Iterable[str]:
    """The listing decides what is wanted; what a loader would miss all the same is worth a remark."""
    if manifest is None:
        return ()
    absent = sorted(path for path in structure.needs() if path and path not in verdicts)
    return (_("{path} is needed by the loader and is not among the wanted files", path=path) for path in absent)
