"""Components in memory that are going to be one pipeline, whether they came one by one or all at once.

`load_early` takes a component as soon as its own files are proven; `finish` keeps of these what is still proven and in
the right terms (dtype, device, variant), loads the rest, and has diffusers assemble it all. Who calls `load_early`, and
when, is for `overlap`; how one component is read for `components`; where it goes for `placement`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from qwen_api.indexes import BadIndex, NamedComponent, PipelineIndex, read_model_index
from qwen_api.language import _
from qwen_api.manifest import component_of
from qwen_api.seals import Seal, seal_matches
from qwen_loader import words
from qwen_loader.components import Terms, counting, load_component
from qwen_loader.faults import fault_text, find_faults
from qwen_loader.libraries import Device, Dtype, LoadFailed, import_libraries, silence_bars, translating
from qwen_loader.memory import read_machine
from qwen_loader.placement import AskedPlacement, Machine, NoRoom, Plan, plan_placement
from qwen_loader.ready import ReadyModel
from qwen_loader.stored import BadHeader, loaded_bytes, pick_variant, stored_dtype, sum_by_component, weight_paths

MODEL_INDEX = "model_index.json"
MENDING = "qwenctl download MODEL, or with a daemon: qwenctl verify MODEL"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the caller wants of the pipeline."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    placement: AskedPlacement = "auto"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`component` is loaded, or on its way to a GPU; `loaded_bytes` counts all so far."""

    component: str
    loaded_bytes: int


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """These components were loaded and are not any more, or could not be loaded early; `why` says it to people."""

    components: tuple[str, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the weights go, and why."""

    plan: Plan


Step: TypeAlias = Loaded | Dropped | Placed


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A loaded component; `terms` is None for one without weights, `seals` are what its files were proven with."""

    component: Any
    terms: Terms | None
    seals: dict[str, Seal]
    size_bytes: int


class Assembly:
    """Components of one model. Not for two threads at once. `bars`: let the libraries draw their own progress."""

    def __init__(self, wishes: Wishes, tell: Callable[[Step], None], *, bars: bool = False) -> None:
        self._wishes = wishes
        self._tell = tell
        self._bars = bars
        self._folder = Path()
        self._held: dict[str, _Held] = {}
        self._machine: Machine | None = None
        self._plan: Plan | None = None

    @property
    def held(self) -> frozenset[str]:
        """The names of the components in memory."""
        return frozenset(self._held)

    def load_early(self, folder: Path, name: str, sizes: Mapping[str, int], seals: Mapping[str, Seal]) -> None:
        """Load component `name` of the unfinished snapshot in `folder`; its files and model_index.json are proven.

        `sizes` are those of all files of the model, `seals` those that the proof rests on. What diffusers alone can
        load stays for `finish`. Raises LoadFailed.
        """
        if folder != self._folder:
            self.free("another commit is downloaded now")
            self._folder = folder
        _refuse_unsound(folder, name)
        named = {c.name: c for c in _read_index(folder).components}.get(name)
        own = [path for path in sizes if path.startswith(f"{name}/")]
        if named is None:
            return
        variant = pick_variant(sizes)
        weights = weight_paths(own, variant)
        dtype = self._dtype([folder / path for path in weights])
        here_bytes = _in_memory(folder, weights, dtype)
        expected = sum_by_component(sizes, weight_paths(sizes, variant))
        if weights:  # what is not here yet has no header to read: it is taken to grow or shrink as this component does
            expected = {part: size * here_bytes // max(1, expected[name]) for part, size in expected.items()}
        self._load(named, self._terms(expected, dtype, variant), _seals_of(name, seals), here_bytes)
        if not all(seal_matches(folder / path, seal) for path, seal in self._held_seals(name).items()):
            self._drop((name,), "its files were touched while it was loaded")

    def finish(self, ready: ReadyModel) -> Any:
        """The pipeline of the complete model `ready`; nothing is held here afterwards. Raises LoadFailed."""
        try:
            pipeline = self._finish(ready)
        except BaseException:
            self.free("it could not be loaded as a whole")
            raise
        self._held.clear()
        return pipeline

    def free(self, why: str) -> None:
        """Let go of everything that is loaded, and give the memory back."""
        self._drop(tuple(self._held), why)

    def _finish(self, ready: ReadyModel) -> Any:
        folder = Path(ready.path)
        if not (folder / MODEL_INDEX).is_file():
            raise LoadFailed(
                "E_NOT_DIFFUSERS",
                f"{ready.repo} is not a diffusers pipeline: it has no model_index.json",
                f"hand the verified files to a program of your own: qwen-loader {ready.repo} -- COMMAND ...",
            )
        _refuse_unsound(folder)
        index = _read_index(folder)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.glob("*/*")}
        variant = pick_variant(sizes)
        weights = weight_paths(sizes, variant)
        dtype = self._dtype([folder / path for path in weights])
        in_memory = {name: _in_memory(folder, own, dtype) for name, own in _grouped(weights)}
        terms = self._terms(in_memory, dtype, variant)
        self._keep_what_holds(folder, ready.seals, terms)
        self._folder = folder
        for named in sorted(index.components, key=lambda c: (-in_memory.get(c.name, 0), c.name)):
            if named.name not in self._held:
                own_seals = _seals_of(named.name, ready.seals)
                self._load(named, terms, own_seals, in_memory.get(named.name, 0))
        pipeline = self._assemble(folder, terms)
        touched = [path for path, seal in ready.seals.items() if not seal_matches(folder / path, seal)]
        if touched:
            raise LoadFailed(
                "E_CORRUPT",
                f"files were touched while they were loaded: {words.names_text(touched)}",
                f"find out who writes there, then: qwenctl verify {ready.repo}",
            )
        return pipeline

    def _keep_what_holds(self, folder: Path, seals: Mapping[str, Seal], terms: Terms) -> None:
        if folder != self._folder:
            self._drop(tuple(self._held), "another commit was completed")
        touched = [name for name, held in self._held.items() if held.seals != _seals_of(name, seals)]
        self._drop(tuple(touched), "its files were touched after it was loaded: it is loaded again")
        other = [name for name, held in self._held.items() if held.terms not in (None, terms)]
        self._drop(tuple(other), f"the whole model is loaded as {terms.dtype} on {terms.device}: it is loaded again")

    def _dtype(self, weights: list[Path]) -> str:
        if self._wishes.dtype != "auto":
            return self._wishes.dtype
        with _reading(self._folder):
            return stored_dtype(weights)

    def _terms(self, in_memory: Mapping[str, int], dtype: str, variant: str | None) -> Terms:
        """Where these weights go by what was free before the first was loaded. Raises LoadFailed if nowhere."""
        torch, _ = import_libraries()
        if not self._bars:
            silence_bars()
        if self._wishes.device == "cuda" and not torch.cuda.is_available():
            raise LoadFailed(
                "E_NO_GPU", "torch sees no CUDA device", "check nvidia-smi and the driver, or: --device cpu"
            )
        if self._machine is None:
            self._machine = read_machine(torch)
        asked = "cpu" if self._wishes.device == "cpu" else self._wishes.placement
        plan = plan_placement(in_memory, self._machine, asked)
        if isinstance(plan, NoRoom):
            raise LoadFailed(plan.code, plan.why, plan.fix)
        if self._plan is None or plan.placement != self._plan.placement:
            self._tell(Placed(plan=plan))
        self._plan = plan
        return Terms(dtype=dtype, device=plan.load_on, variant=variant)

    def _load(self, named: NamedComponent, terms: Terms, seals: dict[str, Seal], size_bytes: int) -> None:
        torch, _ = import_libraries()
        before = sum(held.size_bytes for held in self._held.values())

        def count(arrived_bytes: int) -> None:
            self._tell(Loaded(component=named.name, loaded_bytes=before + min(arrived_bytes, size_bytes)))

        with translating(torch, "E_LOAD", f"{named.name} cannot be loaded"), counting(count):
            component = load_component(self._folder, named, terms)
        if component is None:
            return
        self._held[named.name] = _Held(
            component=component, terms=terms if size_bytes else None, seals=seals, size_bytes=size_bytes
        )
        self._tell(Loaded(component=named.name, loaded_bytes=before + size_bytes))

    def _assemble(self, folder: Path, terms: Terms) -> Any:
        torch, diffusers = import_libraries()
        options = {"variant": terms.variant} if terms.variant else {}
        components = {name: held.component for name, held in self._held.items()}
        assert self._plan is not None  # made with the terms
        with translating(torch, "E_LOAD", "diffusers cannot load it"):
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                dtype=getattr(torch, terms.dtype),
                **options,
                **components,
            )
            match self._plan.placement:
                case "model-offload":
                    pipeline.enable_model_cpu_offload()
                case "sequential-offload":
                    pipeline.enable_sequential_cpu_offload()
                case _:
                    pipeline = pipeline.to(terms.device)
        return pipeline

    def _held_seals(self, name: str) -> dict[str, Seal]:
        return self._held[name].seals if name in self._held else {}

    def _drop(self, names: tuple[str, ...], why: str) -> None:
        if not names:
            return
        for name in names:
            del self._held[name]
        give_back()
        self._tell(Dropped(components=names, why=why))


def give_back() -> None:
    """Free what nothing refers to any more, on the GPU too; imports nothing."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _seals_of(component: str, seals: Mapping[str, Seal]) -> dict[str, Seal]:
    return {path: seal for path, seal in seals.items() if component_of(path) == component}


def _grouped(weights: list[str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for path in weights:
        groups.setdefault(component_of(path), []).append(path)
    return list(groups.items())


def _in_memory(folder: Path, weights: list[str], dtype: str) -> int:
    with _reading(folder):
        return sum(loaded_bytes(folder / path, dtype) for path in weights)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (BadHeader, OSError) as error:
        raise LoadFailed("E_CORRUPT", str(error), f"qwenctl check {folder} --verify full") from error


def _read_index(folder: Path) -> PipelineIndex:
    try:
        return read_model_index((folder / MODEL_INDEX).read_bytes())
    except (BadIndex, OSError) as error:
        raise LoadFailed("E_CORRUPT", f"model_index.json: {error}", f"qwenctl check {folder}") from error


def _refuse_unsound(folder: Path, component: str | None = None) -> None:
    """LoadFailed for what the libraries would hide or misname, told by its cause, before torch is imported."""
    found = find_faults(folder, component=component)
    if found:
        more = _("; and {count} more", count=len(found) - 1) if len(found) > 1 else ""
        raise LoadFailed(
            found[0].code, fault_text(found[0]) + more, f"see all with: qwenctl check {folder}; mend with: {MENDING}"
        )
