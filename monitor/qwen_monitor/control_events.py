"""`qwenctl events`: the daemon's stream as lines or JSON, narrowed to a model, types, files, trouble, a time.

A filter only hides: the stream is followed whole, so that the status behind the sentences is right.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec

from qwen_api.client import Client, Disconnected, Follower, Line, find_socket
from qwen_api.events import EVENT_TYPES, Bookmark, Gap, Hello, Live, Snapshot, Unknown, type_of
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.undecodable import UNDECODABLE
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.event_text import event_text, parse_time
from qwen_monitor.exits import Refusal
from qwen_monitor.plain import Plain, waiting_text
from qwen_monitor.view import matches

_TYPES_NOT_EVENTS = (Hello, Snapshot, Live, Bookmark)


_INDENT = 4  # a long path fits behind it


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are shown. `begin` is the time of the first, None for all."""

    types: tuple[str, ...] = ()
    file: str = ""
    only_bad: bool = False
    begin: datetime | None = None


class _Peek(msgspec.Struct, frozen=True):
    type: str = ""
    path: str = ""
    ts: str = ""


def events(arguments: argparse.Namespace, ref: ModelRef | None, console: Console) -> int:
    """Print the stream until Ctrl-C, or with --no-follow up to now."""
    find = partial(find_socket, console.env, arguments.socket)
    client = Client(find())
    epoch = client.version().epoch
    if ref is not None and not any(matches(model, ref) for model in client.state().models.values()):
        _say_unknown(ref, arguments, console)
    is_ago = isinstance(arguments.since, float)
    choice = Choice(
        types=arguments.types,
        file=arguments.file or "",
        only_bad=arguments.bad,
        begin=datetime.now(UTC) - timedelta(seconds=arguments.since) if is_ago else None,
    )
    for unknown in _types_of_none(choice.types):
        console.hint(_unknown_type(unknown))
    whole = is_ago or (arguments.since is None and arguments.no_follow)
    follower = Follower(find, since=0 if whole else arguments.since, epoch=epoch)
    plain = Plain(glyphs=console.glyphs, wanted=ref)
    try:
        for line in follower:
            if isinstance(line, Live) and arguments.no_follow:
                return exits.OK
            if isinstance(line, Disconnected):
                if arguments.no_follow:
                    raise Refusal(line.code, _("the daemon is gone"), line.why, line.fix)
                console.hint(waiting_text(line))
            elif is_chosen(line, choice) and plain.concerns(line, follower.status):
                _print_event(line, plain, follower, console)
    finally:
        follower.close()
    return exits.OK


def is_chosen(line: Line, choice: Choice) -> bool:
    """Whether this line is shown; that some are lost (a gap) is always."""
    if isinstance(line, _TYPES_NOT_EVENTS):
        return False
    if isinstance(line, Gap):
        return True
    if isinstance(line, Unknown):
        facts = _peek(line.raw)
    else:
        facts = _Peek(type=type_of(line), path=getattr(line, "path", ""), ts=getattr(line, "ts", ""))
    when = parse_time(facts.ts)
    if choice.begin is not None and when is not None and when < choice.begin:
        return False
    if choice.types and not any(fnmatch.fnmatchcase(facts.type, pattern) for pattern in choice.types):
        return False
    if choice.file and not (facts.path and fnmatch.fnmatchcase(facts.path, choice.file)):
        return False
    return not choice.only_bad or _is_bad(line)


def _is_bad(line: Line) -> bool:
    if isinstance(line, Unknown | Hello | Snapshot | Gap | Live | Bookmark):
        return False
    said = event_text(line)
    return said is not None and said.is_bad


def _types_of_none(patterns: tuple[str, ...]) -> Iterator[str]:
    known = [kind.__struct_config__.tag for kind in EVENT_TYPES]
    yield from (p for p in patterns if not any(fnmatch.fnmatchcase(str(name), p) for name in known))


def _unknown_type(pattern: str) -> str:
    from difflib import get_close_matches  # 5 ms that only a typo needs

    near = get_close_matches(pattern, [str(kind.__struct_config__.tag) for kind in EVENT_TYPES], n=1)
    if near:
        return _("no event is called {word!r}; did you mean: {near}", word=pattern, near=near[0])
    return _("no event is called {word!r}", word=pattern)


def _say_unknown(ref: ModelRef, arguments: argparse.Namespace, console: Console) -> None:
    """Of a model that was removed there are events still, and one may be added later: a remark, and no refusal."""
    from qwen_monitor.meant import nearest_model

    console.hint(_("the daemon was not asked for {ref}: nothing new will come until it is", ref=ref))
    near = nearest_model(arguments.model, console.env, arguments.socket)
    console.hint(_("did you mean: {near}", near=near) if near else _("ask for it with: qwenctl add {ref}", ref=ref))


def _print_event(line: Line, plain: Plain, follower: Follower, console: Console) -> None:
    if console.as_json:
        console.data([follower.raw.decode(errors="replace").rstrip("\n")])
        return
    console.data(plain.lines(line, follower.status, 0.0, datetime.now(UTC).astimezone()), indent=_INDENT)


def _peek(raw: bytes) -> _Peek:
    try:
        return msgspec.json.decode(raw, type=_Peek)
    except UNDECODABLE:
        return _Peek()
