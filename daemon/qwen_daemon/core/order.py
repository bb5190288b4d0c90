"""Which file goes first: small files, then component by component, in the order in which a loader loads them.

While one component loads, the next downloads: two machines in a row. The order that ends both soonest is Johnson's rule
(S. M. Johnson, "Optimal two- and three-stage production schedules with setup times included", 1954): where every job
takes longer on the first machine, the one that is longest on the second goes first. A line is slower than a loader
nearly everywhere, and loading takes its time by the byte, so the largest component comes first: what is left to load
after the last byte is then the smallest. A loader that knows better says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qwen_api.manifest import ROOT, WantedFile

SMALL_BYTES = 1 << 20  # configs and indexes: fetched first, so that a broken repository shows in seconds
PIPELINE_INDEX = "model_index.json"


class Place(NamedTuple):
    """Where one file stands in the queue. Places compare as tuples: the smaller is served sooner."""

    model: int = 0  # minus the model's priority
    file: int = 0  # minus the file's own
    turn: int = 0  # of the model among those of its priority: who was wanted first
    component: int = 0  # 0 for small files, then in the order of `component_order`
    number: int = 0  # within the component

    @property
    def of_component(self) -> Place:
        """The same for all files of one component, which share connections as they need them."""
        return self._replace(number=0)


def component_order(files: Iterable[WantedFile], told: Sequence[str] = ()) -> tuple[str, ...]:
    """The components with large files, in the order in which they are to come: those a loader told, then by size.

    Beside a pipeline's folders, large files at the root are what it does not load: they come last.
    """
    sizes: dict[str, int] = {}
    is_pipeline = False
    for file in files:
        is_pipeline = is_pipeline or file.path == PIPELINE_INDEX
        if file.size_bytes > SMALL_BYTES:
            sizes[file.component] = sizes.get(file.component, 0) + file.size_bytes
    by_size = sorted(sizes, key=lambda name: (is_pipeline and name == ROOT, -sizes[name], name))
    return tuple(dict.fromkeys([*(name for name in told if name in sizes), *by_size]))


def file_places(files: Sequence[WantedFile], told: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """(component, number) of each file's Place, by path."""
    ranks = {name: number for number, name in enumerate(component_order(files, told), start=1)}

    def component(file: WantedFile) -> int:
        return ranks[file.component] if file.size_bytes > SMALL_BYTES else 0

    def order(file: WantedFile) -> tuple[int, int, str]:
        return component(file), ranks.get(file.component, len(ranks) + 1), file.path

    ordered = sorted(files, key=order)
    return {file.path: (component(file), number) for number, file in enumerate(ordered)}
