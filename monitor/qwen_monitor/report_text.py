"""The check report as lines of text: components with their signs, what is wrong and why, the totals, what to do.

Pure: a `qwen_api.report.Report` in, lines of at most WIDTH cells out. Every name is made safe here. What was looked
at and how is `check`'s; JSON readers get the Report itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from qwen_api.causes import CAUSES
from qwen_api.events import Finding
from qwen_api.language import N_, _, whole
from qwen_monitor.display import (
    UNICODE,
    Glyphs,
    bytes_text,
    cell_width,
    duration_text,
    padded,
    pair_text,
    percent_text,
    rate_text,
    safe,
)
from qwen_monitor.shards import Entry, entries

if TYPE_CHECKING:  # what a report is made of costs more imports than all the rest
    from qwen_api.report import ComponentReport, FileReport, Problem, Report

WIDTH = 80
_NAME_MAX = 28  # cells of a component's name; longer ones are shortened
_NOTES_MAX = 20
_LISTED_MAX = 200  # paths in one list of findings; --json has all

_HEADINGS: dict[Finding, str] = {
    "missing": N_("Missing"),
    "short": N_("Incomplete"),
    "empty": N_("Incomplete"),
    "long": N_("Corrupt"),
    "corrupt": N_("Corrupt"),
}
_WORDS: dict[Finding, str] = {
    "short": N_("incomplete"),
    "empty": N_("empty"),
    "long": N_("too long"),
    "corrupt": N_("corrupt"),
}


class Signs(msgspec.Struct, frozen=True, kw_only=True):
    """The marks of a good and a bad line, equally wide."""

    good: str
    bad: str


EMOJI = Signs(good="✅", bad="❌")
WORDS = Signs(good="[ok]", bad="[--]")


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about an incomplete model. `fetch_bytes` is None if no listing says; `command` "" if none helps."""

    command: str = ""
    fetch_bytes: int | None = None
    rate_bps: int | None = None  # of the last download seen
    free_bytes: int | None = None
    place: str = ""


def report_lines(
    report: Report,
    advice: Advice,
    *,
    signs: Signs = WORDS,
    glyphs: Glyphs = UNICODE,
    all_files: bool = False,
    short: bool = False,
) -> list[str]:
    """The whole report; `all_files` lists good files too, `short` leaves out single files and notes."""
    page = _Page(signs=signs, glyphs=glyphs)
    lines = [page.title(report)]
    lines += page.components(report.components, all_files=all_files, short=short)
    lines += page.totals(report)
    if not short:
        lines += page.problems(report.findings)
        lines += page.notes(report)
    return lines + page.advice(report, advice)


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    signs: Signs
    glyphs: Glyphs

    def title(self, report: Report) -> str:
        name = self.safe(report.model.partition("@")[0] or report.folder, WIDTH - 12)
        return f"{name} @ {self.safe(report.commit[:8])}" if report.commit else name

    def components(self, components: Iterable[ComponentReport], *, all_files: bool, short: bool) -> list[str]:
        shown = [c for c in components if c.files or c.required]
        width = max((cell_width(self._component_name(c)) for c in shown), default=0)
        lines = []
        for component in shown:
            lines.append(self._component(component, width))
            lines += map(self._entry, () if short else entries(component, all_files=all_files))
        return lines

    def totals(self, report: Report) -> list[str]:
        totals = report.totals
        counts = [_("{count} total", count=totals.files), _("{count} found", count=totals.found)]
        counts += [_("{count} missing", count=totals.missing), _("{count} incomplete", count=totals.incomplete)]
        counts += [_("{count} corrupt", count=totals.corrupt)] if totals.corrupt else []
        counts += [_("{count} extra", count=totals.extra)] if totals.extra else []
        all_known = all(map(_is_known, report.components))
        return [
            _("Files: {counts}", counts=", ".join(counts)),
            _("Bytes: {amount}", amount=_amount(totals.present_bytes, totals.size_bytes, is_whole=not all_known)),
            *self.wrapped(_("Checked: {how}", how=_how(report)), indent="  "),
            _("Model complete: yes") if report.complete else _("Model complete: no"),
        ]

    def problems(self, findings: Iterable[Problem]) -> list[str]:
        """What is wrong, grouped by its reason, the reason in words above its files."""
        ordered = sorted(findings, key=lambda p: (_rank(p.finding), p.cause, p.path))
        lines: list[str] = []
        for (heading, cause), group in groupby(ordered, key=lambda p: (_HEADINGS.get(p.finding, N_("Wrong")), p.cause)):
            reason = _(CAUSES.get(cause, cause))
            lines += self.wrapped(f"{_(heading)}: {reason}", indent="  ")
            problems = list(group)
            for problem in problems[:_LISTED_MAX]:
                lines += self._problem(problem)
            if len(problems) > _LISTED_MAX:
                lines.append("  " + _("and {count} more (--json has all)", count=len(problems) - _LISTED_MAX))
        return lines

    def notes(self, report: Report) -> list[str]:
        notes = [*report.notes[:_NOTES_MAX]]
        if len(report.notes) > _NOTES_MAX:
            notes.append(_("and {count} more remarks (--json has all)", count=len(report.notes) - _NOTES_MAX))
        if report.has_code:
            notes.append(_("the repository holds Python code; qwen-loader never runs it"))
        if report.has_pickle:
            notes.append(_("weights are pickles, which can run code when loaded; qwen-loader refuses them"))
        return [line for note in notes for line in self.wrapped(_("note: {note}", note=note), indent="      ")]

    def advice(self, report: Report, advice: Advice) -> list[str]:
        if report.complete:
            deeper = report.source == "listing" and report.verified != "sha256"
            return [_("To be sure of every byte: add --verify full")] if deeper else []
        if not advice.command:
            return []
        lines = [
            _("To do: {command}", command=self.safe(advice.command))
        ]  # a command may be long, but it must be whole
        if advice.fetch_bytes is not None:
            cost = _("fetches {size} at most", size=bytes_text(advice.fetch_bytes))
            if advice.rate_bps:
                time, rate = duration_text(advice.fetch_bytes / advice.rate_bps), rate_text(advice.rate_bps)
                cost = _("{cost}, {time} at the last seen {rate}", cost=cost, time=time, rate=rate)
            room = _("; {size} free", size=bytes_text(advice.free_bytes)) if advice.free_bytes is not None else ""
            short = advice.free_bytes is not None and advice.fetch_bytes > advice.free_bytes
            where = _(" on {place}", place=self.safe(advice.place, 40)) if room and advice.place else ""
            lines += self.wrapped(
                f"       {cost}{room}{where}{_(': NOT ENOUGH ROOM') if short else ''}", indent=" " * 7
            )
        return lines

    def safe(self, text: str, width: int | None = None) -> str:
        return safe(text, width, self.glyphs)

    def wrapped(self, text: str, *, indent: str) -> list[str]:
        """Words within WIDTH; a word that is too long (a path) is broken."""
        return textwrap.wrap(self.safe(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]

    def _component_name(self, component: ComponentReport) -> str:
        return self.safe(component.name or _("(root)"), _NAME_MAX)

    def _component(self, component: ComponentReport, name_width: int) -> str:
        is_good = component.complete
        name = padded(self._component_name(component), name_width)
        count = f"{component.found_files}/{len(component.files)}"
        size = _amount(component.done_bytes, component.size_bytes, is_whole=is_good or not _is_known(component))
        return f"{self._sign(is_good)} {name}  {count:>7}  {size:>14}".rstrip()

    def _entry(self, entry: Entry) -> str:
        file = entry.files[0]
        if entry.numbers:
            name = _("shards {numbers} of {count}", numbers=entry.numbers, count=entry.count)
            facts = _row_facts(entry.files)
        else:
            name, facts = file.path.partition("/")[2] or file.path, _file_facts(file)
        sign = self._sign(file.is_well)
        room = WIDTH - 3 - cell_width(sign) - 1 - 2 - cell_width(facts)
        return f"   {sign} {self.safe(name, room)}  {facts}"

    def _problem(self, problem: Problem) -> list[str]:
        if not problem.path:
            return []
        facts = bytes_text(problem.expected_bytes) if problem.expected_bytes is not None else ""
        if problem.finding in ("short", "long") and problem.expected_bytes is not None and not problem.detail:
            found, expected = whole(problem.found_bytes), whole(problem.expected_bytes)
            facts = _("{found} of {expected} bytes", found=found, expected=expected)
        path = self.safe(problem.path, WIDTH - 2 - 2 - len(facts))
        lines = [f"  {path}  {facts}".rstrip()]
        if problem.detail and problem.detail != problem.path:
            lines += self.wrapped(f"    {problem.detail}", indent="    ")
        return lines

    def _sign(self, is_good: bool) -> str:
        return self.signs.good if is_good else self.signs.bad


def _is_known(component: ComponentReport) -> bool:
    """Whether the sizes of all its files are; without a listing a missing file's is not, and no sum means anything."""
    return all(f.size_bytes is not None for f in component.files)


def _amount(done: int, size: int, *, is_whole: bool) -> str:
    return bytes_text(done) if is_whole else pair_text(done, size)


def _file_facts(file: FileReport) -> str:
    size = file.size_bytes
    if file.is_well:
        return bytes_text(file.found_bytes)
    if file.finding == "missing":
        return f"{_('missing')} ({bytes_text(size)})" if size is not None else _("missing")
    word = _(_WORDS.get(file.finding, file.finding))
    if file.finding == "short" and size:
        return f"{pair_text(file.found_bytes, size)} ({word}, {percent_text(file.found_bytes, size)})"
    return f"{bytes_text(file.found_bytes)} ({word})"


def _row_facts(files: Sequence[FileReport]) -> str:
    """Of files with one fate, which is well or missing: what they come to, if that is known."""
    if files[0].is_well:
        return bytes_text(sum(file.found_bytes for file in files))
    sizes = [file.size_bytes for file in files if file.size_bytes is not None]
    return f"{_('missing')} ({bytes_text(sum(sizes))})" if len(sizes) == len(files) else _("missing")


def _rank(finding: Finding) -> int:
    return list(_HEADINGS).index(finding) if finding in _HEADINGS else len(_HEADINGS)


def _how(report: Report) -> str:
    if report.source == "structure":
        return _("by the model's own files; the Hub's listing is not known here")
    if report.verified == "sha256":
        return _("every byte, by the hashes of the Hub's listing")
    return _("names and sizes of the Hub's listing, headers of the weights")
