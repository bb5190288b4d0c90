"""What `qwenctl doctor` thinks of what `examine` found: each check a function from facts to one finding.

Pure. A finding is `ok`, `warn` (it works, but not as well as it could, or not for long) or `fail` (it cannot work), the
last two with why and what to do; its code is one of `qwen_api.errors`, and decides the exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

import msgspec

from qwen_api import places
from qwen_api.commands import Version
from qwen_api.language import _, decimal
from qwen_api.probe import EndpointProbe, ThroughputProbe
from qwen_monitor.display import bytes_text, duration_text, rate_text
from qwen_monitor.host import Host, judge_fit
from qwen_monitor.sentences import of_daemon, reason

State = Literal["ok", "warn", "fail"]

SLOW_ANSWER_S = 2.0  # thousands of small files cost an answer each
CLOCK_OFF_S = 60.0  # certificates and signed addresses allow for some seconds
SLOW_BPS = 1_000_000.0  # 57.7 GB take sixteen hours
SHORT_BYTES = 1_000_000  # fewer say nothing of a rate


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `check` is for programs, in English; `what` for people."""

    check: str
    state: State = "ok"
    what: str
    code: str = ""
    why: str = ""
    fix: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group of the system service: whether this process is in it, and whether the user is since the last log-in."""

    name: str
    is_ours: bool
    is_listed: bool


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """One disk: of the cache, or of a model's own folder. `needed_bytes` is None if nobody knows what is still to come.

    `reserve_bytes` of it are left free for everything else; `may_write`: by whoever is going to.
    """

    place: str
    free_bytes: int | None
    needed_bytes: int | None
    may_write: bool
    reserve_bytes: int = 0


def of_socket(socket: str, version: Version | None, lost: tuple[str, str, str]) -> Finding:
    """`lost`: (code, why, fix) if nobody answers. Without a daemon most commands work: a private one does the work."""
    if version is not None:
        if socket.endswith(places.EVENTS_SOCKET):
            return Finding(
                check="socket",
                state="warn",
                what=_("only the events socket may be opened: you can watch, not command"),
                code="E_SOCKET_DENIED",
                why=_("you are not in the group of {path}", path=socket),
                fix=_("join its group: sudo usermod -aG qwen-admin $USER (or qwen, only to watch), then log in again"),
            )
        what = _(
            "qwen-daemon {version} (pid {pid}) answers on {path}", version=version.version, pid=version.pid, path=socket
        )
        return Finding(check="socket", what=what)
    code, why, fix = lost
    is_denied = code == "E_SOCKET_DENIED"
    denied, none = _("a daemon runs that you may not talk to"), _("no daemon runs; downloads start one of their own")
    what = denied if is_denied else none
    return Finding(check="socket", state="fail" if is_denied else "warn", what=what, code=code, why=why, fix=fix)


def of_groups(user: str, groups: Sequence[Group]) -> Finding | None:
    """None where the system service, which has the groups, is not installed."""
    if not groups:
        return None
    names = ", ".join(group.name for group in groups if group.is_ours)
    late = [group.name for group in groups if group.is_listed and not group.is_ours]
    if late:
        return Finding(
            check="groups",
            state="warn",
            what=_(
                "{user} has joined {names}, but this session does not know it yet", user=user, names=", ".join(late)
            ),
            code="E_SOCKET_DENIED",
            why=_("groups are given at log-in"),
            fix=_("log out and in again, or: newgrp {name}", name=late[0]),
        )
    if not names:
        every = ",".join(group.name for group in groups)
        return Finding(
            check="groups",
            state="warn",
            what=_("{user} is in none of the system service's groups", user=user),
            code="E_SOCKET_DENIED",
            why=_("qwen may read models and events, qwen-admin may command"),
            fix=_("sudo usermod -aG {names} {user}, then log in again", names=every, user=user),
        )
    return Finding(check="groups", what=_("{user} is in {names}", user=user, names=names))


def of_cache(ours: str, version: Version | None) -> Finding:
    """Whether a program started here looks where the daemon puts things."""
    if version is None or version.cache_dir == ours:
        return Finding(check="cache", what=ours if version is None else _("{path}, the daemon's too", path=ours))
    return Finding(
        check="cache",
        state="warn",
        what=_(
            "programs started here look into {ours}, the daemon keeps {theirs}", ours=ours, theirs=version.cache_dir
        ),
        code="E_PATH_NOT_HERE",
        why=_("HF_HOME or HF_HUB_CACHE is another one for the daemon"),
        fix=f"export HF_HUB_CACHE={shlex.quote(version.cache_dir)}",
    )


def of_disk(room: Room) -> Finding:
    """Whether what is still to come fits, and may be written."""
    if room.free_bytes is None:
        return Finding(check="disk", state="fail", what=_("{place} cannot be looked at", place=room.place), code="E_IO")
    free = _("{size} free on {place}", size=bytes_text(room.free_bytes), place=room.place)
    if room.needed_bytes is None:
        what = free
    else:
        what = _("{free}, {size} still to come", free=free, size=bytes_text(room.needed_bytes))
    lacking_bytes = (room.needed_bytes or 0) + room.reserve_bytes - room.free_bytes
    if room.needed_bytes and room.reserve_bytes:
        what = _("{what}, {size} kept in reserve", what=what, size=bytes_text(room.reserve_bytes))
    if room.needed_bytes and lacking_bytes > 0:
        lacking = bytes_text(lacking_bytes)
        fix = _("free {size}, or set HF_HOME to another disk", size=lacking)
        return Finding(
            check="disk",
            state="fail",
            what=what,
            code="E_DISK_FULL",
            why=_("{size} are lacking", size=lacking),
            fix=fix,
        )
    if not room.may_write:
        why = _("you may not write into {place}", place=room.place)
        return Finding(check="disk", state="warn", what=what, code="E_PERMISSION", why=why)
    return Finding(check="disk", what=what)


def of_endpoint(found: EndpointProbe) -> Finding:
    """Whether the Hub, or a mirror, answers, and how soon."""
    check = "hub" if found.name == "hub" else f"mirror {found.name}"
    if found.code:
        why, fix = _told(found.code, found.detail)
        return Finding(
            check=check, state="fail", what=_("{url} does not answer", url=found.url), code=found.code, why=why, fix=fix
        )
    what = _("{url} answers in {time} ms", url=found.url, time=round(found.latency_s * 1000))
    if found.latency_s > SLOW_ANSWER_S:
        why = _("an answer takes longer than {seconds} s", seconds=decimal(f"{SLOW_ANSWER_S:g}"))
        fix = _("many small files will be slow; look at the proxy and the DNS")
        return Finding(check=check, state="warn", what=what, why=why, fix=fix)
    return Finding(check=check, what=what)


def of_token(found: EndpointProbe) -> Finding:
    """Whose the token is; it is never shown."""
    check = "token" if found.name == "hub" else f"token {found.name}"
    match found.token:
        case "ok":
            return Finding(check=check, what=_("good, of the account {user}", user=found.user))
        case "none":
            what = _("none: public models only, with a lower rate limit")
            return Finding(check=check, what=what)
        case "refused":
            why, fix = reason("E_AUTH")
            if found.name != "hub":
                fix = _("mend token_file or token_env of [mirrors.{name}] in the configuration", name=found.name)
            what = _("{url} refuses the token", url=found.url)
            return Finding(check=check, state="fail", what=what, code="E_AUTH", why=why, fix=fix)
        case _:
            return Finding(check=check, what=_("there is one; {url} does not say whose", url=found.url))


def of_proxy(endpoints: Sequence[EndpointProbe]) -> Finding:
    """Which proxy stands between; that it is broken is told by its endpoint."""
    proxies = sorted({endpoint.proxy for endpoint in endpoints if endpoint.proxy})
    return Finding(check="proxy", what=", ".join(proxies) or _("none"))


def of_clock(endpoints: Sequence[EndpointProbe]) -> Finding | None:
    """Our clock against that of the endpoint which answered soonest; None if none named a time."""
    dated = [e for e in endpoints if e.clock_ahead_s is not None]
    if not dated:
        return None
    soonest = min(dated, key=lambda e: e.latency_s)
    ahead_s = soonest.clock_ahead_s or 0.0
    if abs(ahead_s) <= CLOCK_OFF_S:
        return Finding(check="clock", what=_("right, as {url} has it", url=soonest.url))
    off = f"{abs(ahead_s):.0f}"
    fast, slow = (
        _("{seconds} s ahead of {url}", seconds=off, url=soonest.url),
        _("{seconds} s behind {url}", seconds=off, url=soonest.url),
    )
    return Finding(
        check="clock",
        state="warn",
        what=fast if ahead_s > 0 else slow,
        why=_("certificates and waits are reckoned by it"),
        fix="sudo timedatectl set-ntp true",
    )


def of_throughput(found: ThroughputProbe, left_bytes: int | None) -> Finding:
    """How fast bytes come on one connection, and what that means for what is still to come."""
    if found.code:
        why, fix = _told(found.code, found.detail)
        return Finding(check="speed", state="fail", what=_("no bytes came"), code=found.code, why=why, fix=fix)
    rate_bps = found.size_bytes / found.duration_s if found.duration_s > 0 else 0.0
    what = _("{rate} on one connection", rate=rate_text(rate_bps))
    if found.size_bytes < SHORT_BYTES:
        return Finding(check="speed", what=_("{size} came, too few to tell a speed", size=bytes_text(found.size_bytes)))
    if rate_bps < SLOW_BPS:
        why = _("that is little for a model")
        fix = _("a mirror nearby may be faster ([mirrors] in the configuration); look for a proxy or a limit between")
        return Finding(check="speed", state="warn", what=what, why=why, fix=fix)
    if left_bytes:
        left, time = bytes_text(left_bytes), duration_text(left_bytes / rate_bps)
        what = _("{what}: {size} would take {time} on one alone", what=what, size=left, time=time)
    return Finding(check="speed", what=what)


def of_gpu(model: str, weights_bytes: int | None, host: Host) -> Finding:
    """Whether the model's weights fit the GPU, or the memory."""
    if host.gpu_bytes == 0:
        gpu = _("no GPU")
    else:
        gpu = (
            _("a GPU of {size}", size=bytes_text(host.gpu_bytes))
            if host.gpu_bytes
            else _("a GPU that does not say its size")
        )
    if not weights_bytes:
        return Finding(check="gpu", what=gpu)
    judged = judge_fit(weights_bytes, host.gpu_bytes, host.ram_bytes)
    what = _("{gpu}; the weights of {model} are {size}", gpu=gpu, model=model, size=bytes_text(weights_bytes))
    if not judged.sentence:
        return Finding(check="gpu", what=what)
    code = "E_NO_ROOM" if judged.fit == "too_large" else "E_NO_VRAM"
    return Finding(check="gpu", state="warn", what=what, code=code, why=judged.sentence, fix=reason(code)[1])


def _told(code: str, detail: str) -> tuple[str, str]:
    why = of_daemon(code, detail, "")[0] or reason(code)[0]
    if code in ("E_NETWORK", "E_TIMEOUT", "E_STALLED", "E_CUT_SHORT", "E_HTTP"):
        return why, _("check the network, the proxy and HF_ENDPOINT")  # nobody here tries again by himself
    return why, reason(code)[1]
