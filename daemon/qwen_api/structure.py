"""What a model's loader needs, derived from the model's own files: model_index.json, configs and weight indexes.

Pure: an inventory in, needs and contradictions out. It works with no listing and no Hub, so that a folder that was
copied by hand can be judged too. Sizes and hashes are `judgement`'s, the sums `report`'s.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from qwen_api.component_kinds import (
    Kind,
    has_tokenizer_traces,
    is_known_library,
    is_read_if_present,
    kind_of,
    small_files,
    vocabulary,
)
from qwen_api.contents import PICKLE_SUFFIXES, WEIGHT_SUFFIXES
from qwen_api.indexes import BadIndex, Config, NamedComponent, PipelineIndex, read_config, read_model_index
from qwen_api.inventory import FoundFile, Inventory
from qwen_api.language import _
from qwen_api.manifest import ROOT, component_of
from qwen_api.weight_needs import Fault, IndexSummary, Need, WeightNeeds, needs_of_weights
from qwen_api.weight_sets import ALL_BASES, DIFFUSERS_BASES, TRANSFORMERS_BASES, absent_numbers, choose

MODEL_INDEX = "model_index.json"

# Weights that can be a model by themselves; what other frameworks keep beside the safetensors cannot.
_SELF_CONTAINED = frozenset({".gguf", ".safetensors", ".ckpt", ".pt", ".pth", ".npz"})

Shape = Literal["diffusers", "transformers", "files", "nothing"]
"""diffusers: a pipeline. transformers: one model at the root. files: weights of any kind, each judged by itself."""


class ComponentStructure(msgspec.Struct, frozen=True, kw_only=True):
    """What one component needs (whether it is there or not), what contradicts itself, and what its loader opens."""

    name: str
    library: str = ""
    class_name: str = ""
    kind: Kind | None = None
    required: bool = True
    needs: tuple[Need, ...] = ()
    faults: tuple[Fault, ...] = ()
    reads: tuple[str, ...] = ()  # present, not required, but opened by the loader when present
    index: IndexSummary | None = None


class Structure(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole model needs. `notes` are observations that make nothing incomplete, in English, for people."""

    shape: Shape
    class_name: str = ""
    components: tuple[ComponentStructure, ...] = ()
    notes: tuple[str, ...] = ()
    has_code: bool = False
    has_pickle: bool = False

    def needs(self) -> dict[str, Need]:
        """Every needed file, by path."""
        return {need.path: need for c in self.components for need in c.needs}

    def faults(self) -> dict[str, Fault]:
        """Every contradiction, by the path of the file it is laid to."""
        return {fault.path: fault for c in self.components for fault in reversed(c.faults)}


def find_structure(inventory: Inventory) -> Structure:
    """Derive what the model in this inventory needs. Total: any folder gets an answer."""
    files = {f.path: f for f in inventory.files if not f.dangling}
    index, bad_index = _pipeline_index(files)
    named = index.components if index else _infer_components(files)
    if index or bad_index or named or MODEL_INDEX in files:
        return _pipeline(files, index, bad_index, named)
    weights = [p for p in files if _suffix(p) in WEIGHT_SUFFIXES]
    at_root = [p for p in files if component_of(p) == ROOT]
    if "config.json" in files or choose(at_root, TRANSFORMERS_BASES + DIFFUSERS_BASES):
        return _root_model(files, at_root)
    return _plain_files(files, weights)


def _pipeline_index(files: dict[str, FoundFile]) -> tuple[PipelineIndex | None, Fault | None]:
    found = files.get(MODEL_INDEX)
    if found is None or found.text is None:
        return None, None
    try:
        return read_model_index(found.text), None
    except BadIndex as error:
        return None, Fault(path=MODEL_INDEX, cause=error.cause, detail=str(error))


def _pipeline(
    files: dict[str, FoundFile],
    index: PipelineIndex | None,
    bad_index: Fault | None,
    named: tuple[NamedComponent, ...],
) -> Structure:
    root = ComponentStructure(
        name=ROOT,
        library="diffusers",
        class_name=index.class_name if index else "",
        needs=(Need(path=MODEL_INDEX, cause="model_index_missing"),),
        faults=(bad_index,) if bad_index else (),
    )
    parts = [_component(files, component) for component in named]
    is_custom = bool(index and index.is_custom) or any(not is_known_library(c.library) for c in named)
    return Structure(
        shape="diffusers",
        class_name=root.class_name,
        components=(root, *(component for component, _ in parts)),
        notes=tuple(note for _, weights in parts for note in weights.notes),
        has_code=is_custom or _has_code(files),
        has_pickle=any(weights.is_pickle for _, weights in parts),
    )


def _component(files: dict[str, FoundFile], named: NamedComponent) -> tuple[ComponentStructure, WeightNeeds]:
    folder = named.name + "/"
    present = [p.removeprefix(folder) for p in files if p.startswith(folder)]
    kind = kind_of(named.library, named.class_name)
    small = small_files(kind, library=named.library, class_name=named.class_name, present=present)
    weights = WeightNeeds()
    if kind == "model" or (kind == "custom" and choose(present, ALL_BASES)):
        prefers_index = named.library == "diffusers"
        weights = needs_of_weights(files, folder, present, _bases(named.library), prefers_index=prefers_index)
    needs = (*(Need(path=folder + n.name, cause=n.cause, detail=n.detail) for n in small), *weights.needs)
    if not present:  # no single file's fault: say that everything is gone, but keep the trap's name
        needs = tuple(
            n
            if n.cause == "missing_config_builds_default_model"
            else msgspec.structs.replace(n, cause="component_missing")
            for n in needs
        )
    return _with_reads(
        ComponentStructure(
            name=named.name,
            library=named.library,
            class_name=named.class_name,
            kind=kind,
            needs=needs,
            faults=weights.faults,
            index=weights.index,
        ),
        [folder + name for name in present],
    ), weights


def _root_model(files: dict[str, FoundFile], at_root: list[str]) -> Structure:
    """One model at the root: transformers, or a lone diffusers model such as a ControlNet."""
    found = files.get("config.json")
    config = read_config(found.text) if found and found.text else Config()
    is_diffusers = config.library == "diffusers" or (
        not config.library and choose(at_root, DIFFUSERS_BASES) is not None
    )
    library = "diffusers" if is_diffusers else "transformers"
    small = list(small_files("model", library=library, class_name=config.class_name, present=at_root))
    if has_tokenizer_traces(at_root):
        small += vocabulary(config.class_name, at_root)
    weights = needs_of_weights(files, "", at_root, _bases(library), prefers_index=is_diffusers)
    others = [p for p in at_root if _suffix(p) in _SELF_CONTAINED and not choose([p], ALL_BASES)]
    if others and weights.is_absent:  # a config beside GGUF or single-file weights: those are the model
        weights = WeightNeeds(needs=_numbered(others))
        small = []
    root = ComponentStructure(
        name=ROOT,
        library=library,
        class_name=config.class_name,
        kind="model",
        needs=(*(Need(path=n.name, cause=n.cause, detail=n.detail) for n in small), *weights.needs),
        faults=weights.faults,
        index=weights.index,
    )
    return Structure(
        shape="diffusers" if is_diffusers else "transformers",
        class_name=config.class_name,
        components=(_with_reads(root, at_root),),
        notes=weights.notes,
        has_code=config.has_auto_map or _has_code(files),
        has_pickle=weights.is_pickle or any(_is_pickle(n.path) for n in weights.needs),
    )


def _plain_files(files: dict[str, FoundFile], weights: list[str]) -> Structure:
    needs = _numbered(weights) or (Need(path="", cause="no_model_here"),)
    by_component: dict[str, list[Need]] = {ROOT: []}
    for need in needs:
        by_component.setdefault(component_of(need.path), []).append(need)
    return Structure(
        shape="files" if weights else "nothing",
        components=tuple(
            ComponentStructure(name=name, needs=tuple(found)) for name, found in sorted(by_component.items())
        ),
        has_code=_has_code(files),
        has_pickle=any(_is_pickle(p) for p in weights),
    )


def _numbered(weights: list[str]) -> tuple[Need, ...]:
    """Weights that no index speaks of, with those that their numbering misses."""
    return tuple(
        Need(path=p, cause="shard_missing", detail=_("the other files are numbered so"))
        for p in sorted({*weights, *absent_numbers(weights)})
    )


def _infer_components(files: dict[str, FoundFile]) -> tuple[NamedComponent, ...]:
    """Components of a pipeline whose model_index.json cannot be read; none if the folders are no pipeline's."""
    folders: dict[str, list[str]] = {}
    for path in files:
        if (name := component_of(path)) != ROOT:
            folders.setdefault(name, []).append(path.removeprefix(name + "/"))
    found = [c for name, present in sorted(folders.items()) if (c := _infer(files, name, present))]
    is_pipeline = any(c.library == "diffusers" for c in found)
    return tuple(found) if is_pipeline and "config.json" not in files else ()


def _infer(files: dict[str, FoundFile], name: str, present: list[str]) -> NamedComponent | None:
    if "scheduler_config.json" in present:
        return NamedComponent(name=name, library="diffusers", class_name="Scheduler")
    found = files.get(f"{name}/config.json")
    config = read_config(found.text) if found and found.text else Config()
    if config.library:
        return NamedComponent(name=name, library=config.library, class_name=config.class_name)
    for library, bases in (("diffusers", DIFFUSERS_BASES), ("transformers", TRANSFORMERS_BASES)):
        if choose(present, bases):
            return NamedComponent(name=name, library=library, class_name="")
    if {"preprocessor_config.json", "processor_config.json"} & set(present):
        class_name = "Processor" if has_tokenizer_traces(present) else "ImageProcessor"
        return NamedComponent(name=name, library="transformers", class_name=class_name)
    if has_tokenizer_traces(present) or "tokenizer.json" in present:
        return NamedComponent(name=name, library="transformers", class_name="Tokenizer")
    return None


def _with_reads(component: ComponentStructure, present: list[str]) -> ComponentStructure:
    needed = {need.path for need in component.needs}
    reads = sorted(p for p in present if p not in needed and is_read_if_present(p) and ".index." not in p)
    return msgspec.structs.replace(component, reads=tuple(reads))


def _bases(library: str) -> tuple[str, ...]:
    known = {"diffusers": DIFFUSERS_BASES, "transformers": TRANSFORMERS_BASES}
    return known.get(library, TRANSFORMERS_BASES + DIFFUSERS_BASES)


def _has_code(files: dict[str, FoundFile]) -> bool:
    configs = (f.text for p, f in files.items() if p.endswith("config.json") and f.text)
    return any(p.endswith(".py") for p in files) or any(read_config(text).has_auto_map for text in configs)


def _is_pickle(path: str) -> bool:
    return _suffix(path) in PICKLE_SUFFIXES


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return "." + name.rpartition(".")[2].lower() if "." in name else ""
