"""What `status` and `ls` say of a model: one small record for JSON, the same facts as lines, from daemon or disk.

Pure. The record has one shape whether a daemon was asked or the disk was read, so that scripts need not care.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Literal

import msgspec

from qwen_api.language import N_, _
from qwen_api.models import ModelRef
from qwen_api.status import ComponentStatus, EndpointStatus, LimitsStatus, ModelStatus
from qwen_monitor.display import UNICODE, Glyphs, bytes_text, cell_width, padded, pair_text, percent_text, safe
from qwen_monitor.event_text import clock_text
from qwen_monitor.limits import model_limits_words
from qwen_monitor.pace import Pace
from qwen_monitor.report_text import Signs
from qwen_monitor.sentences import FILE_WORDS, reason, state_word
from qwen_monitor.summary import model_line

if TYPE_CHECKING:  # what a report is made of costs more imports than all the rest
    from qwen_api.report import Report

WIDTH = 80
_NAME_MAX = 28
_MISSING_MAX = 20  # paths listed for people; --json has all


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """One model in numbers. `found_files`: verified ones (daemon), or those with nothing against them (disk)."""

    model: str
    repo: str
    revision: str
    commit: str
    state: str
    complete: bool
    path: str
    files: int
    found_files: int
    size_bytes: int
    done_bytes: int
    missing: tuple[str, ...]
    code: str = ""
    detail: str = ""
    retry_at: str = ""
    paused: tuple[str, ...] = ()
    rate_limit_bps: int = 0
    priority: int = 0


class BriefList(msgspec.Struct, frozen=True, kw_only=True):
    """What --json prints for `status` and `ls`. `endpoints`: what the daemon asks, if there are several."""

    source: Literal["daemon", "disk"]
    models: tuple[Brief, ...]
    endpoints: tuple[EndpointStatus, ...] = ()
    limits: LimitsStatus | None = None  # the daemon's; a rate of 0 is no limit


def brief_of_status(model: ModelStatus) -> Brief:
    """What the daemon knows of the model."""
    return Brief(
        model=model.model,
        repo=model.repo,
        revision=model.revision,
        commit=model.commit,
        state=model.state,
        complete=model.state == "complete",
        path=model.path,
        files=len(model.files),
        found_files=sum(f.is_verified for f in model.files.values()),
        size_bytes=model.size_bytes,
        done_bytes=model.done_bytes,
        missing=tuple(sorted(f.path for f in model.files.values() if not f.is_verified)),
        code=model.code,
        detail=model.detail,
        retry_at=model.retry_at,
        paused=tuple(sorted(f.path for f in model.files.values() if f.paused)),
        rate_limit_bps=model.rate_limit_bps,
        priority=model.priority,
    )


def brief_of_report(report: Report, ref: ModelRef) -> Brief:
    """What the disk shows of the model."""
    return Brief(
        model=ref.key,
        repo=ref.repo,
        revision=ref.revision,
        commit=report.commit,
        state="complete" if report.complete else "incomplete",
        complete=report.complete,
        path=report.folder if report.complete else "",
        files=report.totals.files,
        found_files=report.totals.found,
        size_bytes=report.totals.size_bytes,
        done_bytes=report.totals.present_bytes,
        missing=tuple(p.path for p in report.findings),
        code="" if report.complete else "E_INCOMPLETE",
    )


def status_lines(model: ModelStatus, signs: Signs, glyphs: Glyphs = UNICODE) -> list[str]:
    """A model that the daemon works on: its line, its components, what is wrong and what to do."""
    components = model.components()
    width = max((cell_width(_name(c, glyphs)) for c in components), default=0)
    lines = [model_line(model, Pace(), glyphs)]
    lines += [_component(c, width, signs, glyphs) for c in components]
    lines += _troubles(model, glyphs)
    lines.append(_("Model complete: yes") if model.state == "complete" else _("Model complete: no"))
    if words := model_limits_words(model):
        lines.append(_("Limits: {limits}", limits=words))
    if model.path:
        lines.append(_("Path: {path}", path=safe(model.path, glyphs=glyphs)))
    return lines


def endpoint_lines(endpoints: Iterable[EndpointStatus], zone: tzinfo | None, glyphs: Glyphs = UNICODE) -> list[str]:
    """One line for each of several endpoints: which, where, and until when and why it is left alone."""
    known = list(endpoints)
    width = max((cell_width(safe(one.endpoint, _NAME_MAX, glyphs)) for one in known), default=0)
    lines = []
    for one in known:
        until = _(" until {time}", time=clock_text(one.retry_at, zone)) if one.retry_at else ""
        why = f": {reason(one.code)[0]} ({safe(one.detail or one.code, glyphs=glyphs)})" if one.code else ""
        state = _("set aside{until}{why}", until=until, why=why) if one.state == "aside" else _("ok")
        name = padded(safe(one.endpoint, _NAME_MAX, glyphs), width)
        lines.append(_("Endpoint {name}", name=name) + f"  {safe(one.url, glyphs=glyphs)}  {state}")
    return lines


def list_lines(briefs: Sequence[Brief], glyphs: Glyphs = UNICODE) -> list[str]:
    """One line for each model."""
    if not briefs:
        return []
    names = [safe(f"{b.repo}@{b.commit[:8] or b.revision}", 44, glyphs) for b in briefs]
    width = max(map(cell_width, names))
    return [
        f"{padded(name, width)}  {state_word(b.state):<11} "
        f"{percent_text(b.done_bytes, b.size_bytes) if b.files else '-':>6}  {bytes_text(b.size_bytes):>8}".rstrip()
        for name, b in zip(names, briefs, strict=True)
    ]


def _component(component: ComponentStatus, width: int, signs: Signs, glyphs: Glyphs) -> str:
    name = padded(_name(component, glyphs), width)
    count = f"{component.verified_files}/{component.files}"
    if component.is_complete:
        return f"{signs.good} {name}  {count:>7}  {bytes_text(component.size_bytes):>14}"
    size = pair_text(component.done_bytes, component.size_bytes)
    return f"{signs.bad} {name}  {count:>7}  {size:>14}{_activity(component)}"


def _activity(component: ComponentStatus) -> str:
    counts = {
        N_("{count} active"): component.active_files,
        N_("{count} retrying"): component.retrying_files,
        N_("{count} stalled"): component.stalled_files,
        N_("{count} failed"): component.failed_files,
        N_("{count} paused"): component.paused_files,
    }
    return "".join(f"  {_(words, count=count)}" for words, count in counts.items() if count)


def _name(component: ComponentStatus, glyphs: Glyphs) -> str:
    return safe(component.name or _("(root)"), _NAME_MAX, glyphs)


def _troubles(model: ModelStatus, glyphs: Glyphs) -> Iterable[str]:
    bad = [f for f in model.files.values() if f.code or f.state == "missing" or f.is_held]
    for file in bad[:_MISSING_MAX]:
        what = f": {reason(file.code)[0]} ({safe(file.code)})" if file.code else ""
        yield f"   {safe(file.path, WIDTH - 16, glyphs)}  {_('paused') if file.is_held else _(FILE_WORDS[file.state])}"
        if what:
            yield f"     {what.removeprefix(': ')}"
    if len(bad) > _MISSING_MAX:
        yield "   " + _("and {count} more (--json has all)", count=len(bad) - _MISSING_MAX)
    if model.code:
        why, fix = reason(model.code, str(model.ref))
        yield _("Why: {why} ({code})", why=why, code=safe(model.code))
        yield _("Fix: {fix}", fix=fix)
