"""docs/benchmarks.md from the JSON: tables per case, the goals, and what the machine was. The text around stays.

Everything between the two markers is replaced; `python -m benchmarks --render FILE` does it again without measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.goals import Verdict, judge
from benchmarks.profile import Spot
from benchmarks.results import Group, Report, groups

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MILLION = 1e6

Column = tuple[str, Callable[[Group], str]]


def render(report: Report, document: Path, picture: str | None) -> None:
    """Put the results into the document, which is made if it does not exist."""
    text = document.read_text() if document.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(f"{head}{BEGIN}\n{markdown(report, picture)}\n{END}{tail}")


def markdown(report: Report, picture: str | None) -> str:
    """The part between the markers."""
    verdicts = judge(report.runs)
    parts = [_about(report)]
    if picture:
        parts.append(f"![Wall time of every comparison]({picture})\n")
    parts.append(_goals(verdicts))
    for case in CASES:
        found = groups(run for run in report.runs if run.case == case.key)
        if found:
            parts.append(_case(case, found, report))
    return "\n".join(parts)


def goal_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """For the terminal."""
    for verdict in verdicts:
        state = "met    " if verdict.met else "NOT MET"
        yield f"{state}  {verdict.case:>3} {verdict.variant}: {verdict.goal} (measured: {verdict.measured})"


def _about(report: Report) -> str:
    machine = report.machine
    versions = "; ".join(f"{name}: {said}" for name, said in machine.versions.items())
    return (
        f"{report.date}, {machine.cores} cores ({machine.processor}), {machine.memory_bytes / 1e9:.0f} GB of memory, "
        f"{machine.system}. {versions}.\n"
    )


def _goals(verdicts: Sequence[Verdict]) -> str:
    met = sum(verdict.met for verdict in verdicts)
    rows = [
        f"| {v.case} | {v.variant} | {v.goal} | {v.measured} | {'met' if v.met else '**NOT MET**'} |" for v in verdicts
    ]
    head = ["| case | comparison | goal | measured | |", "|---|---|---|---|---|"]
    return "\n".join([f"## Goals: {met} of {len(verdicts)} met\n", *head, *rows, ""])


def _case(case: Case, found: Sequence[Group], report: Report) -> str:
    parts = [f"## {case.key}. {case.title}\n", f"Goal: {case.goal}. {report.settings.get(case.key, '')}\n"]
    if case.key == "10":
        return "\n".join([*parts, _table("growth", found, lead=("variant", lambda group: group.variant))])
    for variant in dict.fromkeys(group.variant for group in found):
        parts.append(_table(variant, [group for group in found if group.variant == variant]))
        if profile := report.profiles.get(variant):
            parts.append(_profile(profile))
    return "\n".join(parts)


def _profile(spots: Sequence[Spot]) -> str:
    """A run under py-spy that counts for nothing else."""
    lines = [f"    {spot.share:6.1%}  {spot.thread}: {spot.function}" for spot in spots]
    return "\n".join(
        ["Where ours spends its time (share of samples, thread, innermost Python function):\n", *lines, ""]
    )


def _table(title: str, found: Sequence[Group], *, lead: Column | None = None) -> str:
    columns = [lead or ("client", lambda group: f"**{group.client}**" if group.client == "ours" else group.client)]
    columns += [column for column in _COLUMNS if any(column[1](group) for group in found)]
    names = "| " + " | ".join(name for name, _ in columns) + " |"
    rows = ["| " + " | ".join(cell(group) for _, cell in columns) + " |" for group in found]
    return "\n".join([f"**{title}**\n", names, "|---" * len(columns) + "|", *rows, ""])


def _spread(field: str, *, unit: float = 1.0, digits: int = 2) -> Callable[[Group], str]:
    def cell(group: Group) -> str:
        values, median = group.values(field), group.median(field)
        if median is None:
            return ""
        text, low, high = (f"{value / unit:.{digits}f}" for value in (median, min(values), max(values)))
        if low != high:
            text += f" ({low}-{high})"
        return text

    return cell


def _outcome(group: Group) -> str:
    failed = sum(not run.is_good for run in group.runs)
    wrong = sum(not run.correct for run in group.runs)
    if failed or wrong:
        return f"**{failed} failed, {wrong} wrong of {len(group.runs)}**"
    return "right"


def _verifies(group: Group) -> str:
    return "yes" if group.runs[0].verifies else "no"


def _rate(group: Group) -> str:
    wall = group.median("wall_s")
    return f"{group.runs[0].size_bytes / wall / MILLION:.0f}" if wall else ""


def _files_rate(group: Group) -> str:
    rate = group.median("files_per_s")
    return f"{rate:.0f}" if rate and group.runs[0].files > 100 else ""


_COLUMNS: Sequence[Column] = (
    ("wall s", _spread("wall_s")),
    ("MB/s", _rate),
    ("files/s", _files_rate),
    ("CPU s/GB", _spread("cpu_s_per_gb")),
    ("CPU s", _spread("cpu_s")),
    ("peak RSS MB", _spread("rss_bytes", unit=MILLION, digits=0)),
    ("on the wire MB", _spread("wire_bytes", unit=MILLION, digits=1)),
    ("twice MB", _spread("twice_bytes", unit=MILLION, digits=1)),
    ("streams", _spread("streams_max", digits=0)),
    ("last byte to end s", _spread("complete_s")),
    ("exec to ready s", _spread("start_s")),
    ("ready to complete s", _spread("daemon_s", digits=3)),
    ("verifies", _verifies),
    ("bytes afterwards", _outcome),
)
