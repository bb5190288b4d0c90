"""`qwenctl download --dry-run`: which files would be fetched, what of them lies here already, and whether they fit.

Nothing is fetched and nobody is asked but for the listing.
"""

from __future__ import annotations

from qwen_api import places
from qwen_api.language import _, ngettext
from qwen_api.models import ModelRef
from qwen_monitor import exits
from qwen_monitor.check import Wish, check, fetch_bytes, free_bytes
from qwen_monitor.console import Console
from qwen_monitor.display import bytes_text, padded, safe
from qwen_monitor.download_job import Job
from qwen_monitor.elsewhere import bytes_elsewhere
from qwen_monitor.exits import Refusal
from qwen_monitor.listing import ask_hub, cached_listing

_TABLE_WIDTH = 80


def dry_run(job: Job, console: Console) -> int:
    """Print it; the exit code. Raises Refusal (E_OFFLINE) if no listing can be had."""
    cache = job.cache or places.hub_cache(console.env)
    folder = job.local_dir
    wish = Wish(
        cache=cache,
        ref=job.ref,
        folder=folder,
        include=job.include,
        exclude=job.exclude,
        is_local_dir=folder is not None,
    )
    report, *_rest = check(wish, console)
    if report.source != "listing":
        raise Refusal(
            "E_OFFLINE",
            _("the list of files of {ref} is not known here", ref=job.ref),
            _("and the Hub did not tell it"),
        )
    wanted = {p.path for p in report.findings}
    files = [
        {"path": f.path, "size_bytes": f.size_bytes or 0, "fetch": f.path in wanted}
        for component in report.components
        for f in component.files
    ]
    total, free = fetch_bytes(report), free_bytes(folder or cache)
    here = _bytes_elsewhere(job, ModelRef(repo=job.ref.repo, revision=report.commit), wanted, console)
    if console.as_json:
        facts = {"model": report.model, "commit": report.commit, "fetch_files": len(wanted), "fetch_bytes": total}
        console.json({**facts, "elsewhere_bytes": here, "free_bytes": free, "files": files})
        return exits.OK
    console.data(
        _table([(f.path, f.size_bytes or 0) for c in report.components for f in c.files if f.path in wanted], console)
    )
    room = _("; {size} free", size=bytes_text(free)) if free is not None else ""
    will = ngettext(
        "Will download {count} file (out of {total}) totalling {size}",
        "Will download {count} files (out of {total}) totalling {size}",
        len(wanted),
        total=len(files),
        size=bytes_text(total),
    )
    console.data([f"[dry-run] {will}{room}"])
    if here:
        words = _("{size} of it lies in another model's folder and need not be fetched", size=bytes_text(here))
        console.data([f"[dry-run] {words}"])
    return exits.OK


def _bytes_elsewhere(job: Job, pinned: ModelRef, paths: set[str], console: Console) -> int:
    if not paths:
        return 0
    cache = job.cache or places.hub_cache(console.env)
    manifest = cached_listing(cache, pinned) or ask_hub(pinned, console.env)
    return bytes_elsewhere(cache, manifest, paths, may_be_own=job.local_dir is not None)


def _table(rows: list[tuple[str, int]], console: Console) -> list[str]:
    if not rows:
        return []
    room = _TABLE_WIDTH - 10
    header = f"{padded(_('FILE'), room)}{_('SIZE'):>10}"
    return [header, *(f"{padded(safe(p, room - 1, console.glyphs), room)}{bytes_text(s):>10}" for p, s in rows)]
