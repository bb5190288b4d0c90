"""`qwenctl doctor`: everything a download and a load depend on, looked at once, each in one line with a way out.

`examine` looks, `doctor` judges, this module asks in order and prints. It changes nothing.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.client import Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.commands import Version
from qwen_api.language import N_, _
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef, parse_model
from qwen_api.probe import Probe
from qwen_api.status import Status
from qwen_monitor import doctor, examine, exits
from qwen_monitor.console import Console
from qwen_monitor.display import padded, safe
from qwen_monitor.doctor import Finding
from qwen_monitor.exits import Refusal, exit_code_of
from qwen_monitor.host import read_host, weights_bytes
from qwen_monitor.listing import cached_listing, read_listing
from qwen_monitor.sentences import about, reason
from qwen_monitor.summary import left_bytes

DEFAULT_MODEL = "qwen-image-edit"
_Need = tuple[Path, int | None]  # a place, and the bytes still to come to it; None if nobody knows
_WIDTH = 80
_CHECK_WIDTH = 14
_CHECKS = {
    "socket": N_("daemon"),
    "groups": N_("groups"),
    "cache": N_("cache"),
    "disk": N_("disk"),
    "hub": N_("Hub"),
    "token": N_("token"),
    "proxy": N_("proxy"),
    "clock": N_("clock"),
    "speed": N_("speed"),
    "gpu": N_("GPU"),
}


class _Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """The running one, or (code, why, fix) of why there is none."""

    socket: str = ""
    version: Version | None = None
    status: Status = Status()
    folders: dict[str, Path] = {}  # of the models that are not all here, where the daemon names them
    lost: tuple[str, str, str] = ("", "", "")


def examined(arguments: argparse.Namespace, ref: ModelRef | None, console: Console) -> int:
    """Run the command; 0 if nothing failed, else the exit code of the first that did."""
    daemon = _ask_daemon(arguments.socket, console)
    ref = ref or _first_model(daemon.status)
    findings = []
    for found in _findings(daemon, ref, console, with_bytes=not arguments.quick):
        finding = _explained(found, ref)
        findings.append(finding)
        if not console.as_json:
            console.data(_lines(finding, console))
    failed = next((finding for finding in findings if finding.state == "fail"), None)
    if console.as_json:
        console.json({"model": str(ref), "ok": failed is None, "checks": findings})
    return exits.OK if failed is None else exit_code_of(failed.code)


def _findings(daemon: _Daemon, ref: ModelRef, console: Console, *, with_bytes: bool) -> Iterator[Finding]:
    """What is near first; the Hub takes seconds."""
    env = console.env
    ours = places.hub_cache(env)
    cache = Path(daemon.version.cache_dir) if daemon.version else ours
    yield doctor.of_socket(daemon.socket, daemon.version, daemon.lost)
    user = examine.user_name()
    if (groups := doctor.of_groups(user, examine.groups_of(user))) is not None:
        yield groups
    is_same = cache.resolve() == ours.resolve()  # a link to the other is no other
    yield doctor.of_cache(str(cache if is_same else ours), daemon.version)
    manifest = cached_listing(cache, ref)
    found: Probe | Finding = _probe(ref, console, with_bytes=with_bytes)
    if isinstance(found, Probe) and manifest is None and bytes(found.listing) != b"null":
        manifest = read_listing(bytes(found.listing), ref)
    needs = _needs(daemon, ref, cache, manifest, env)
    yield from _of_disks(needs, daemon, found)
    known = [needed_bytes for _place, needed_bytes in needs if needed_bytes is not None]
    yield from _of_network(found, sum(known) if known else None) if isinstance(found, Probe) else (found,)
    yield doctor.of_gpu(str(ref), weights_bytes(manifest) if manifest else None, read_host())


def _of_disks(needs: Sequence[_Need], daemon: _Daemon, found: Probe | Finding) -> Iterator[Finding]:
    """The cache's first; a model's own folder may be on another one."""
    if daemon.version is not None:
        reserve_bytes = daemon.version.reserve_bytes
    else:
        reserve_bytes = found.reserve_bytes if isinstance(found, Probe) else 0
    rooms = examine.rooms_in(needs, reserve_bytes=reserve_bytes, is_ours_to_write=daemon.version is None)
    yield from map(doctor.of_disk, rooms)


def _of_network(found: Probe, needed_bytes: int | None) -> Iterator[Finding]:
    if found.is_offline:
        why, fix = reason("E_OFFLINE")
        yield Finding(check="hub", state="warn", what=_("not asked"), code="E_OFFLINE", why=why, fix=fix)
        return
    for endpoint in found.endpoints:
        yield doctor.of_endpoint(endpoint)
        if not endpoint.code and (endpoint.name == "hub" or endpoint.token != "none"):  # noqa: S105  # a state
            yield doctor.of_token(endpoint)
    yield doctor.of_proxy(found.endpoints)
    if (clock := doctor.of_clock(found.endpoints)) is not None:
        yield clock
    if found.throughput is not None:
        yield doctor.of_throughput(found.throughput, needed_bytes)


def _probe(ref: ModelRef, console: Console, *, with_bytes: bool) -> Probe | Finding:
    def say_waiting() -> None:
        console.hint(_("asking {endpoint} ...", endpoint=safe(places.endpoint(console.env), glyphs=console.err_glyphs)))

    try:
        return examine.probe(ref, console.env, with_bytes=with_bytes, on_wait=say_waiting)
    except Refusal as error:
        return Finding(check="hub", state="fail", what=error.what, code=error.code, why=error.why, fix=error.fix)


def _ask_daemon(given: Path | None, console: Console) -> _Daemon:
    try:
        socket = find_socket(console.env, given)
        client = Client(socket)
        status = client.state()
        wanting = [key for key, model in status.models.items() if left_bytes(model)]
        folders = {key: Path(folder) for key in wanting if (folder := client.files(key).folder)}
        return _Daemon(socket=str(socket), version=client.version(), status=status, folders=folders)
    except DaemonUnreachable as error:
        return _Daemon(lost=(error.code, error.why, error.fix))
    except DaemonRefused as error:  # too busy, say: the rest can be looked at all the same
        return _Daemon(lost=(error.problem.code, error.problem.detail or error.problem.title, error.problem.fix))


def _first_model(status: Status) -> ModelRef:
    first = next(iter(status.models.values()), None)
    return first.ref if first else parse_model(DEFAULT_MODEL)


def _needs(
    daemon: _Daemon, ref: ModelRef, cache: Path, manifest: Manifest | None, env: Mapping[str, str]
) -> list[_Need]:
    """What the daemon has still to fetch, and the model that was asked about if that is none of its own."""
    needs: list[_Need] = [(cache, None)]
    needs += [(daemon.folders.get(key, cache), left_bytes(model)) for key, model in daemon.status.models.items()]
    if ref.key not in daemon.status.models and manifest is not None:
        needs.append((cache, examine.lacking_bytes(cache, manifest, has_links=places.has_links(env))))
    return needs


def _explained(finding: Finding, ref: ModelRef) -> Finding:
    """With the general words of its code where it has none of its own."""
    if finding.state == "ok":
        return finding
    why, fix = reason(finding.code)
    return msgspec.structs.replace(finding, why=finding.why or why, fix=about(str(ref), finding.fix or fix))


def _lines(finding: Finding, console: Console) -> list[str]:
    kind, _space, name = finding.check.partition(" ")
    check = f"{_(_CHECKS.get(kind, kind))} {name}".rstrip()
    head = f"{padded(finding.state, 6)}{padded(safe(check, _CHECK_WIDTH - 2, console.glyphs), _CHECK_WIDTH)}"
    indent = " " * (6 + _CHECK_WIDTH)
    said = [(head, finding.what)]
    if finding.state != "ok":
        said += [(f"{indent}{_('why:')} ", finding.why), (f"{indent}{_('fix:')} ", finding.fix)]
    lines = []
    for begin, text in said:
        lines += textwrap.wrap(
            safe(text, glyphs=console.glyphs),
            _WIDTH,
            initial_indent=begin,
            subsequent_indent=" " * len(begin),
            break_long_words=False,  # a path, an address or a command is copied whole
            break_on_hyphens=False,
        )
    return lines
