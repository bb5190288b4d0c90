"""The goals, judged on medians. Pure. A goal that is not met is said to be NOT MET, with the two numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.cases import MIB
from benchmarks.results import Group, Run, groups

OURS = "ours"
RSS_BYTES_MAX = 150_000_000
SEGMENT_BYTES = 16 * MIB
SEALED_S_MAX = 0.1
COMPLETE_S_MAX = 1.0
FLAT_MAX = 1.5
FILES_MIN = 1000


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One goal and what was measured."""

    case: str
    variant: str
    goal: str
    measured: str
    met: bool


def judge(runs: Sequence[Run]) -> list[Verdict]:
    """Every goal that the runs can tell about, case by case."""
    verdicts: list[Verdict] = []
    for case in dict.fromkeys(run.case for run in runs):
        found = groups(run for run in runs if run.case == case)
        if case == "10":
            verdicts += _growth(found)
            continue
        for variant in dict.fromkeys(group.variant for group in found):
            by_client = {group.client: group for group in found if group.variant == variant}
            if OURS in by_client and case in _JUDGES:
                verdicts += _judged(case, variant, by_client)
    return verdicts


_Found = tuple[str, str, bool]  # goal, measured, met
_Groups = dict[str, Group]


def _judged(case: str, variant: str, by_client: _Groups) -> Iterator[Verdict]:
    ours = by_client[OURS]
    bad = [run for run in ours.runs if not (run.is_good and run.correct)]
    share = f"{len(ours.runs) - len(bad)} of {len(ours.runs)} runs"
    yield Verdict(case=case, variant=variant, goal="completes with the right bytes", measured=share, met=not bad)
    if len(bad) == len(ours.runs):
        return
    for goal, measured, met in _JUDGES[case](by_client):
        yield Verdict(case=case, variant=variant, goal=goal, measured=measured, met=met)


def _ratio(found: _Groups, client: str, field: str, *, most: float) -> Iterator[_Found]:
    """Ours over theirs, at most so much."""
    ours = found[OURS].median(field)
    theirs = found[client].median(field) if client in found else None
    if ours is not None and theirs:
        ratio = ours / theirs
        yield f"{_NAMES[field]} <= {most:g} x {client}", f"{ratio:.2f} x", ratio <= most


def _faster(found: _Groups, client: str, *, least: float) -> Iterator[_Found]:
    """Their wall over ours, at least so much."""
    ours = found[OURS].median("wall_s")
    theirs = found[client].median("wall_s") if client in found else None
    if ours and theirs is not None:
        yield f">= {least:g} x as fast as {client}", f"{theirs / ours:.2f} x", theirs / ours >= least


def _most(found: _Groups, goal: str, field: str, limit: float, form: Callable[[float], str]) -> Iterator[_Found]:
    """The worst of our rounds, at most so much."""
    values = found[OURS].values(field)
    if values:
        yield goal, form(max(values)), max(values) <= limit


def _unthrottled(found: _Groups) -> Iterator[_Found]:
    for client in ("hf_transfer", "aria2c -x8", "hf download"):
        yield from _ratio(found, client, "wall_s", most=1.0)
    yield from _ratio(found, "curl", "wall_s", most=1.1)
    yield from _faster(found, "aria2c -x8 --checksum", least=3)
    is_tls = "TLS" in found[OURS].variant
    yield from _ratio(found, "curl, openssl", "cpu_s_per_gb", most=1.2 if is_tls else 1.0)
    yield from _most(found, "RSS <= 150 MB", "rss_bytes", RSS_BYTES_MAX, _megabytes)


def _line_bound(found: _Groups) -> Iterator[_Found]:
    walls = {c: wall for c, g in found.items() if c != OURS and (wall := g.median("wall_s")) is not None}
    if walls:
        yield from _ratio(found, min(walls, key=lambda client: walls[client]), "wall_s", most=1.02)


def _cdn(found: _Groups) -> Iterator[_Found]:
    ours = found[OURS]
    wall, ideal = ours.median("wall_s"), ours.median("ideal_s")
    discard = found["discard"].median("wall_s") if "discard" in found else None
    if wall and ideal:
        limit = max(ideal, discard or 0.0)
        name = "the discarding client" if discard and discard > ideal else "16 streams"
        yield f">= 0.9 x what {name} can reach", f"{limit / wall:.2f} x", limit / wall >= 0.9
    yield from _faster(found, "hf download", least=6)
    yield from _faster(found, "aria2c -x8", least=1.3)
    yield from _twice(found, 0.01)


def _tail(found: _Groups) -> Iterator[_Found]:
    wall, ideal = found[OURS].median("wall_s"), found[OURS].median("ideal_s")
    if wall and ideal:
        yield "wall <= 1.1 x ideal of 8 streams", f"{wall / ideal:.2f} x", wall / ideal <= 1.1


def _twice(found: _Groups, share: float) -> Iterator[_Found]:
    worst = max(run.twice_bytes / run.size_bytes for run in found[OURS].runs)
    yield f"bytes fetched twice <= {share:.0%}", f"{worst:.2%}", worst <= share


def _kill(found: _Groups) -> Iterator[_Found]:
    for run in found[OURS].runs[:1]:
        limit = 64 * MIB * max(1, run.streams_max)
        goal = f"bytes fetched twice <= 64 MiB x {run.streams_max} connections"
        yield from _most(found, goal, "twice_bytes", limit, _megabytes)


def _damage(found: _Groups) -> Iterator[_Found]:
    size = found[OURS].runs[0].size_bytes
    limit = SEGMENT_BYTES * (2 if "zeros" in found[OURS].variant else 1) + 0.01 * SEGMENT_BYTES
    goal = "fetched <= the 16 MiB segments that are damaged + 1 %"
    yield from _most(found, goal, "body_bytes", min(limit, size), _megabytes)


def _recheck(found: _Groups) -> Iterator[_Found]:
    if "sealed" in found[OURS].variant:
        yield from _most(found, "<= 100 ms from ready to complete", "daemon_s", SEALED_S_MAX, _milliseconds)
        return
    ours = found[OURS].median("daemon_s")
    limit = found["openssl"].median("wall_s") if "openssl" in found else None
    if ours and limit:
        yield ">= 0.9 x openssl on every core", f"{limit / ours:.2f} x", limit / ours >= 0.9


def _small(found: _Groups) -> Iterator[_Found]:
    yield from _faster(found, "hf download", least=2)


def _complete(found: _Groups) -> Iterator[_Found]:
    yield from _most(found, "last byte to complete <= 1 s", "complete_s", COMPLETE_S_MAX, _milliseconds)


def _resets(found: _Groups) -> Iterator[_Found]:
    yield from _twice(found, 0.02)


def _growth(found: Sequence[Group]) -> Iterator[Verdict]:
    """Flat: the largest of a series against the smallest figure in it."""
    for word in ("connections", "size", "files"):
        series = [group for group in found if word in group.variant.split()]
        for field, name in (("cpu_s_per_gb", "CPU per GB"), ("rss_bytes", "RSS")):
            values = [value for group in series if _counts(group, field, word) and (value := group.median(field))]
            if len(values) > 1:
                growth = values[-1] / min(values)
                goal = f"{name} grows <= {FLAT_MAX} x with {word}"
                yield Verdict(
                    case="10", variant=f"by {word}", goal=goal, measured=f"{growth:.2f} x", met=growth <= FLAT_MAX
                )


def _counts(group: Group, field: str, word: str) -> bool:
    """CPU per GB of a few small files is nothing but Python's start."""
    return field != "cpu_s_per_gb" or word != "files" or group.runs[0].files >= FILES_MIN


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.0f} ms"


_NAMES = {"wall_s": "wall", "cpu_s_per_gb": "CPU"}
_JUDGES: dict[str, Callable[[_Groups], Iterator[_Found]]] = {
    "1": _unthrottled,
    "1b": _line_bound,
    "2": _cdn,
    "3": _tail,
    "4": _resets,
    "5": _kill,
    "6": _damage,
    "7": _recheck,
    "8": _small,
    "9": _complete,
}
