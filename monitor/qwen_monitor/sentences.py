"""Codes to sentences: why something went wrong and what a person can do about it, in the language spoken.

The daemon speaks in stable codes; only its clients speak to people. Pure: the sentences stand in `qwen_api.errors`, an
unknown code of a newer daemon gets an honest general one. Facts (paths, sizes) come from the caller.
"""

from __future__ import annotations

import re

from qwen_api.errors import ERRORS
from qwen_api.events import DiskState, FileState, LoaderState, ModelState
from qwen_api.language import N_, _, spoken
from qwen_monitor.display import UNICODE, Glyphs, safe

# In one word, for a column and a header.
STATE_WORDS: dict[str, str] = {
    "queued": N_("queued"),
    "checking": N_("checking"),
    "downloading": N_("downloading"),
    "complete": N_("complete"),
    "incomplete": N_("incomplete"),
    "paused": N_("paused"),
    "waiting": N_("waiting"),
    "failed": N_("failed"),
}

MODEL_STATES: dict[ModelState, str] = {
    "queued": N_("waits for its turn"),
    "checking": N_("is being checked"),
    "downloading": N_("is being downloaded"),
    "complete": N_("is complete and verified"),
    "incomplete": N_("is incomplete"),
    "paused": N_("is paused"),
    "waiting": N_("waits for the next try"),
    "failed": N_("needs a person"),
}

# A file's state where there is room for the whole word.
FILE_WORDS: dict[FileState, str] = {
    "missing": N_("missing"),
    "queued": N_("queued"),
    "downloading": N_("downloading"),
    "stalled": N_("stalled"),
    "retrying": N_("retrying"),
    "verifying": N_("verifying"),
    "verified": N_("verified"),
    "failed": N_("failed"),
}

FILE_STATES: dict[FileState, str] = {
    "missing": N_("missing"),
    "queued": N_("queued"),
    "downloading": N_("active"),  # before it has a rate
    "stalled": N_("stalled"),
    "retrying": N_("retry"),
    "verifying": N_("verifying"),
    "verified": N_("verified"),
    "failed": N_("failed"),
}

DISK_STATES: dict[DiskState, str] = {
    "ok": N_("DISK OK"),
    "low": N_("DISK LOW"),
    "full": N_("DISK FULL"),
}

LOADER_STATES: dict[LoaderState, str] = {
    "waiting": N_("waits for the model"),
    "loading": N_("is loading"),
    "ready": N_("is ready"),
    "failed": N_("has failed"),
    "gone": N_("is gone"),
}


def state_word(state: str) -> str:
    """A model's state in one word; as it is, if a newer daemon has one more."""
    return _(STATE_WORDS[state]) if state in STATE_WORDS else safe(state)


def reason(code: str, model: str = "") -> tuple[str, str]:
    """(why, fix) of an error code, `model` as in `about`; a general pair for one this version does not know."""
    if code in ERRORS:
        why, fix = ERRORS[code]
        return _(why), about(model, _(fix))
    why = _("the daemon gave the code {code}", code=safe(code))
    return why, _("look at `journalctl -u qwen-daemon`, or try a newer qwen-monitor")


def about(model: str, fix: str) -> str:
    """The commands in `fix` for this model, ready to be copied; for `MODEL`, as they stand, if there is none."""
    return re.sub(r"\bMODEL\b", lambda _match: model, fix) if model else fix


def of_daemon(code: str, detail: str, fix: str) -> tuple[str, str]:
    """(why, fix) for what the daemon said, which is always English: in another language by its code.

    The daemon's own words follow in brackets, for the facts (paths, sizes) that only it has.
    """
    if spoken() == "en" or code not in ERRORS:
        return detail, fix
    why, table_fix = reason(code)
    return f"{why} ({detail})" if detail and detail not in why else why, table_fix


def short_reason(code: str, detail: str = "", glyphs: Glyphs = UNICODE) -> str:
    """One clause for an event line: why, and the code that can be searched for."""
    if not code:
        return safe(detail, glyphs=glyphs)
    why = reason(code)[0] if code in ERRORS else safe(detail, glyphs=glyphs) or _("unknown reason")
    return f"{why} ({safe(code, glyphs=glyphs)})"


def error_text(code: str, what: str, why: str = "", fix: str = "", glyphs: Glyphs = UNICODE) -> str:
    """The three lines of every error: what happened, why, and what to do; empty `why` or `fix` come from the table.

    No newline at the end. All parts are made safe for a terminal.
    """
    table_why, table_fix = reason(code)
    return "\n".join(
        (
            f"{_('error')}[{safe(code, glyphs=glyphs)}]: {safe(what, glyphs=glyphs)}",
            f"  {_('why:')} {safe(why or table_why, glyphs=glyphs)}",
            f"  {_('fix:')} {safe(fix or table_fix, glyphs=glyphs)}",
        )
    )
