"""Components in memory that are going to be one pipeline, whether they came one by one or all at once.

`load_early` takes a component as soon as its own files are proven; `finish` keeps of these what is still proven and in
the right terms (dtype, device, variant), loads the rest, and has diffusers assemble it all. Who calls `load_early`, and
when, is for `overlap`; how one component is read for `components`; where it goes for `placement`.
"""

from __future__ import annotations

import dataclasses
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from qwen_api.indexes import NamedComponent
from qwen_api.seals import Seal, seal_matches
from qwen_loader import words
from qwen_loader.components import Terms, counting, is_stored_as_loaded, load_component
from qwen_loader.libraries import Device, Dtype, LoadFailed, import_libraries, silence_bars, translating
from qwen_loader.memory import give_back, read_machine
from qwen_loader.placement import AskedPlacement, Machine, NoRoom, Plan, plan_placement
from qwen_loader.ready import ReadyModel
from qwen_loader.snapshot import MODEL_INDEX, bytes_in_memory, grouped, read_index, reading, refuse_unsound, seals_of
from qwen_loader.stored import pick_variant, stored_dtype, sum_by_component, weight_paths
from qwen_loader.transfer import Moving, Transfer


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the caller wants of the pipeline."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    placement: AskedPlacement = "auto"
    mmap: bool = True  # on a CPU: leave the weights pages of the files instead of reading them into memory


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`component` is loaded, or on its way to a GPU; `loaded_bytes` counts all so far, `component_bytes` what of this
    one has arrived, `component_size_bytes` what will.
    """

    component: str
    loaded_bytes: int
    component_bytes: int = 0
    component_size_bytes: int = 0


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
    """A loaded component; `terms` is None for one without weights, `seals` are what its files were proven with,
    `moving` is set while its weights are on their way.
    """

    component: Any
    terms: Terms | None
    seals: dict[str, Seal]
    size_bytes: int
    moving: Moving | None = None


class Assembly:
    """Components of one model. Not for two threads at once. `bars`: let the libraries draw their own progress.

    `machine` is what memory there is; None: it is looked at before the first component is loaded.
    """

    def __init__(
        self, wishes: Wishes, tell: Callable[[Step], None], *, bars: bool = False, machine: Machine | None = None
    ) -> None:
        self._wishes = wishes
        self._tell = tell
        self._bars = bars
        self._folder = Path()
        self._held: dict[str, _Held] = {}
        self._arrived: dict[str, int] = {}  # bytes, by component
        self._telling = threading.Lock()
        self._transfer: Transfer | None = None
        self._machine = machine
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
        refuse_unsound(folder, name)
        named = {c.name: c for c in read_index(folder).components}.get(name)
        own = [path for path in sizes if path.startswith(f"{name}/")]
        if named is None:
            return
        variant = pick_variant(sizes)
        weights = weight_paths(own, variant)
        dtype = self._dtype([folder / path for path in weights])
        here_bytes = bytes_in_memory(folder, weights, dtype)
        expected = sum_by_component(sizes, weight_paths(sizes, variant))
        if weights:  # what is not here yet has no header to read: it is taken to grow or shrink as this component does
            expected = {part: size * here_bytes // max(1, expected[name]) for part, size in expected.items()}
        try:
            try:
                self._load(named, self._terms(expected, dtype, variant), seals_of(name, seals), here_bytes, weights)
                self._settle()
            finally:
                self._end_transfer()
        except BaseException as error:
            _forget_frames(error)
            self._drop(tuple(self.held & {name}), "it could not be loaded early")
            give_back()  # also of one that never came to be held
            raise
        if not all(seal_matches(folder / path, seal) for path, seal in self._held_seals(name).items()):
            self._drop((name,), "its files were touched while it was loaded")

    def finish(self, ready: ReadyModel) -> Any:
        """The pipeline of the complete model `ready`; nothing is held here afterwards. Raises LoadFailed."""
        try:
            try:
                pipeline = self._finish(ready)
            finally:
                self._end_transfer()
        except BaseException as error:
            _forget_frames(error)
            self.free("it could not be loaded as a whole")
            give_back()
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
        refuse_unsound(folder, repo=ready.repo)
        index = read_index(folder)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.glob("*/*")}
        variant = pick_variant(sizes)
        weights = weight_paths(sizes, variant)
        groups = grouped(weights)
        dtype = self._dtype([folder / path for path in weights])
        in_memory = {name: bytes_in_memory(folder, own, dtype) for name, own in groups.items()}
        terms = self._terms(in_memory, dtype, variant)
        self._keep_what_holds(folder, ready.seals, terms)
        self._folder = folder
        for named in sorted(index.components, key=lambda c: (-in_memory.get(c.name, 0), c.name)):
            if named.name not in self._held:
                own_seals = seals_of(named.name, ready.seals)
                self._load(named, terms, own_seals, in_memory.get(named.name, 0), groups.get(named.name, []))
        self._settle()
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
        touched = [name for name, held in self._held.items() if held.seals != seals_of(name, seals)]
        self._drop(tuple(touched), "its files were touched after it was loaded: it is loaded again")
        other = [name for name, held in self._held.items() if held.terms not in (None, terms)]
        self._drop(tuple(other), f"the whole model is loaded as {terms.dtype} on {terms.device}: it is loaded again")

    def _dtype(self, weights: list[Path]) -> str:
        if self._wishes.dtype != "auto":
            return self._wishes.dtype
        with reading(self._folder):
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
            with translating(torch, "E_NO_GPU", "the GPU cannot be used"):
                self._machine = read_machine(torch)
        asked = "cpu" if self._wishes.device == "cpu" else self._wishes.placement
        plan = plan_placement(in_memory, self._machine, asked)
        if isinstance(plan, NoRoom):
            raise LoadFailed(plan.code, plan.why, plan.fix)
        if self._plan is None or plan.placement != self._plan.placement:
            self._tell(Placed(plan=plan))
        self._plan = plan
        return Terms(dtype=dtype, device=plan.load_on, variant=variant)

    def _load(
        self, named: NamedComponent, terms: Terms, seals: dict[str, Seal], size_bytes: int, weights: list[str]
    ) -> None:
        """Take a component in. Its weights may still be on their way afterwards: the next one is built meanwhile."""
        torch, _ = import_libraries()
        where, name = self._folder / named.name, named.name
        files = [self._folder / path for path in weights]
        may_move = bool(files) and (terms.device != "cpu" or not self._wishes.mmap)
        with reading(self._folder):
            moves = may_move and is_stored_as_loaded(where, files, terms)
        moving = None

        def count(arrived_bytes: int) -> None:
            self._count(name, min(arrived_bytes, size_bytes), size_bytes)

        with translating(torch, "E_LOAD", f"{name} cannot be loaded"), nullcontext() if moves else counting(count):
            if moves and self._transfer is None:
                self._transfer = Transfer(terms.device)  # makes its buffers while the component is built
            component = load_component(self._folder, named, terms, is_moved_later=moves)
            if moves and component is not None and self._transfer is not None:
                moving = self._transfer.begin(component, files, count)
        if component is None:
            return
        held_in = terms if size_bytes else None
        self._held[name] = _Held(component=component, terms=held_in, seals=seals, size_bytes=size_bytes, moving=moving)
        if moving is None:
            count(size_bytes)

    def _count(self, name: str, arrived_bytes: int, size_bytes: int) -> None:
        with self._telling:
            self._arrived[name] = arrived_bytes
            self._tell(
                Loaded(
                    component=name,
                    loaded_bytes=sum(self._arrived.values()),
                    component_bytes=arrived_bytes,
                    component_size_bytes=size_bytes,
                )
            )

    def _settle(self) -> None:
        """Return once every component is where it is wanted."""
        torch, _ = import_libraries()
        for name, held in self._held.items():
            if held.moving is not None:
                with translating(torch, "E_LOAD", f"{name} cannot be loaded"):
                    held.moving.wait()
                self._held[name] = dataclasses.replace(held, moving=None)
                self._count(name, held.size_bytes, held.size_bytes)

    def _end_transfer(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            torch, _ = import_libraries()
            with translating(torch, "E_LOAD", "the weights cannot be moved"):
                transfer.close()

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
                    pipeline.enable_model_cpu_offload(device=self._plan.gpu)
                case "sequential-offload":
                    pipeline.enable_sequential_cpu_offload(device=self._plan.gpu)
                case _:
                    others = [part for name, part in pipeline.components.items() if name not in components]
                    if any(isinstance(part, torch.nn.Module) for part in others):  # ours are there, and it looks long
                        pipeline = pipeline.to(terms.device)
        return pipeline

    def _held_seals(self, name: str) -> dict[str, Seal]:
        return self._held[name].seals if name in self._held else {}

    def _drop(self, names: tuple[str, ...], why: str) -> None:
        if not names:
            return
        for name in names:
            del self._held[name]
            self._arrived.pop(name, None)
        give_back()
        self._tell(Dropped(components=names, why=why))


def _forget_frames(error: BaseException) -> None:
    """The frames that an error came through refer to what was being loaded, as long as somebody keeps the error."""
    for one in (error, error.__cause__):
        if one is not None:
            traceback.clear_frames(one.__traceback__)
