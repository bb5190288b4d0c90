"""Log lines, through structlog: readable on a terminal, `<N>`-prefixed logfmt for journald, JSON if asked for.

Events are typed first; one subscriber turns them into lines here, so log level and wording are never part of the
protocol. One processor redacts tokens and signed addresses in every field of every record, foreign ones included, and
one keeps a record on one line of what can be printed: names, headers and paths are strangers' words.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from structlog.types import Processor

from qwen_api import events as e
from qwen_daemon.core.order import SMALL_BYTES

# Credentials in the shapes they come in: bare, in headers (also of a printed dict), in addresses whole or in pieces.
_SECRETS = (
    (re.compile(r"hf_[A-Za-z0-9]{8,}"), "hf_***"),
    (
        # With backslashes where a printed dict was printed in another; of cookies all that stand in a row.
        re.compile(
            r"(?i)((?:authorization|cookie)[\\\"']*\s*[:=,]\s*[\\\"']*)(?:(?:basic|bearer|token)\s+)?"
            r"[^\s\"',;]+(?:;\s*[^\s\"',;]+)*"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)bearer\s+\S+"), "Bearer ***"),
    # No address goes on into the next: a thousand in a row without a query would be looked through a thousand times.
    (re.compile(r"(https?://(?:(?!https?://)[^\s?\"'])+)\?[^\s\"']+"), r"\1?***"),
    (re.compile(r"(:/+)[^\s/?#\"']+@"), r"\1***@"),
    (re.compile(r"(?i)((?:x-amz-[a-z-]+|signature|policy|key-pair-id|token)(?:=|%3d))[^\s&\"']+"), r"\1***"),
)
_HINT = re.compile(r"(?i)hf_|bearer|authorization|cookie|:/|=|%3d")  # one look spares the others, nearly always
# syslog(3) priorities, as sd-daemon(3) wants them in front of a line
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_WARNINGS = (
    "file.retry",
    "file.stalled",
    "file.corrupt",
    "hub.throttled",
    "hub.renamed",
    "config.rejected",
    "model.changed",
)
_NOISY = ("aiohttp.access", "asyncio", "watchfiles", "filelock", "httpx", "httpx2", "httpcore", "huggingface_hub")
_ERRORS = ("file.failed",)
_events = structlog.get_logger("qwen_daemon.events")
_LONG_FIELDS = ("files",)  # lists of every file: counted, not spelled out


def configure(env: Mapping[str, str], *, level: str = "info") -> None:
    """Set up logging for the process: QWEN_DAEMON_LOG=json|plain|journal, else by what stderr is."""
    form = env.get("QWEN_DAEMON_LOG") or _form_for_stderr(env)
    renderers = _renderers(form, env)
    rest: list[Processor] = [structlog.processors.format_exc_info, _redact]
    if form != "json":  # which escapes by itself
        rest.append(_on_one_line)
    foreign: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(), *rest]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=foreign,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It writes a traceback for every malformed request; what goes wrong inside handlers is logged by the API itself.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # Ours do not go through the standard library: with thousands of files that was a sixth of the event loop's work.
    structlog.configure(
        processors=[structlog.processors.add_log_level, *rest, *renderers],
        logger_factory=lambda *_names: _Lines(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Writes finished lines to stderr; one that nobody can take is lost, as in the standard library's handlers."""

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # closed at the other end, or at ours
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = _write


def write_event(event: e.Event) -> None:
    """One event as one log line; progress is not logged, nor is the start of a small file: its end follows at once."""
    if not e.is_durable(event) or (isinstance(event, e.FileStarted) and event.size_bytes <= SMALL_BYTES):
        return
    name = e.type_of(event)
    fields = {key: _field(key, value) for key, value in msgspec.structs.asdict(event).items() if _is_said(key, value)}
    if name in _ERRORS or (isinstance(event, e.ModelStateChanged) and event.state == "failed"):
        _events.error(name, **fields)
    elif name in _WARNINGS or _is_a_setback(event):
        _events.warning(name, **fields)
    else:
        _events.info(name, **fields)


def _is_a_setback(event: e.Event) -> bool:
    match event:
        case e.ModelStateChanged():
            return event.state == "waiting" or event.code == "E_DISK_STUCK"
        case e.EndpointChanged():
            return event.state == "aside"
        case _:
            return False


def redact(text: str) -> str:
    """The text without tokens, passwords and the query of any address (signatures live there)."""
    if _HINT.search(text):
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
    return text


def printable(text: str) -> str:
    r"""The text with all that moves a cursor, ends a line or turns a reading direction as \x1b, \n, \u202e."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _is_said(key: str, value: object) -> bool:
    return key != "ts" and value not in ("", (), None)


def _field(key: str, value: object) -> object:
    return len(value) if key in _LONG_FIELDS and isinstance(value, tuple) else value


def _redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _redacted(value) for key, value in event.items()}


def _redacted(value: object) -> object:
    """JSON's kinds of values, whatever it was: what a renderer would spell out itself would go unseen."""
    match value:
        case str():
            return redact(value)
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(inner) for inner in value]
        case _:
            return redact(str(value))


def _on_one_line(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A traceback keeps its lines, each set in: on the left edge stands nothing but records."""
    traceback = event.pop("exception", "")
    shown = {
        key: printable(str(value)) if isinstance(value, str | list | dict) else value for key, value in event.items()
    }
    if traceback:
        shown["exception"] = "\n".join("  " + printable(line) for line in traceback.split("\n"))
    return shown


def _form_for_stderr(env: Mapping[str, str]) -> str:
    if _is_journal(env):
        return "journal"
    return "plain"


def _is_journal(env: Mapping[str, str]) -> bool:
    """systemd sets JOURNAL_STREAM=device:inode of the stream it connected (systemd.exec(5))."""
    found = os.fstat(sys.stderr.fileno())
    return env.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _renderers(form: str, env: Mapping[str, str]) -> list[Processor]:
    if form == "json":
        return [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()]
    if form == "journal":
        return [_journal_line]
    colors = sys.stderr.isatty() and not env.get("NO_COLOR")
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=18, pad_level=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _journal_line(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    priority = _PRIORITIES.get(str(event.pop("level", "info")), 6)
    line = structlog.processors.LogfmtRenderer(key_order=["event"])(logger, name, event)
    return f"<{priority}>" + str(line).replace("\n", "\\n")
