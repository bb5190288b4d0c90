"""`qwenctl download` and `add`: bring a model to complete, by the running daemon or by a private one.

The decisions are `download_job`'s and the bytes are the daemon's work; this module asks, follows and reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from qwen_api import commands, places
from qwen_api.client import Client, DaemonUnreachable, Disconnected, find_socket
from qwen_api.inventory import find_snapshot
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus
from qwen_monitor import exits
from qwen_monitor.check import say_waiting
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.download_job import Job, Settled, serves, settle
from qwen_monitor.exits import Ended, Refusal, exit_code_of
from qwen_monitor.follow_model import follow_model
from qwen_monitor.host import judge_fit, read_host, weights_bytes
from qwen_monitor.listing import ask_hub, cached_listing
from qwen_monitor.patterns import keep_wanted
from qwen_monitor.private_daemon import PrivateDaemon
from qwen_monitor.sentences import of_daemon

_AT_WORK = ("checking", "downloading")
LAST_WORDS_S = 30.0  # after its stream ended, a private daemon closes its ledger
_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
# The Hub's word on these is final: there is nothing that a daemon could do about them either.
_FINAL = ("E_NOT_FOUND", "E_REVISION_NOT_FOUND", "E_AUTH", "E_GATED", "E_LISTING", "E_CONFIG")


def download(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Run the command; the exit code. Raises Refusal."""
    env = dict(console.env)
    if arguments.token:
        env["HF_TOKEN"] = arguments.token  # never argv, which everybody on the machine can read
        console.env = env
        console.hint(_("hint: --token stands in the process list; HF_TOKEN=... does not"))
    given = arguments.cache_dir.expanduser().absolute() if arguments.cache_dir else None
    job = Job(
        ref=ref,
        include=(*arguments.files, *arguments.include),
        exclude=tuple(arguments.exclude),
        cache=given or (places.hub_cache(env) if any(env.get(v) for v in _CACHE_VARIABLES) else None),
        endpoint=places.endpoint(env) if env.get("HF_ENDPOINT") else "",
        has_token=bool(arguments.token),
        rate_limit_bps=arguments.limit_rate,
        local_dir=arguments.local_dir.expanduser().resolve() if arguments.local_dir else None,
    )
    if arguments.dry_run:
        from qwen_monitor.dry_run import dry_run

        return dry_run(job, console)
    daemon = _running_daemon(job, arguments.socket, console)
    warn_of_size(job.ref, job, env, console)
    if daemon is not None:
        return _by_running(job, daemon, console)
    return _by_private(job, env, console)


def add(arguments: argparse.Namespace, ref: ModelRef, console: Console) -> int:
    """Ask the running daemon to want a model; the exit code. Raises Refusal and what Client raises."""
    socket = find_socket(console.env, arguments.socket)
    job = Job(ref=ref, include=tuple(arguments.include), exclude=tuple(arguments.exclude))
    warn_of_size(ref, job, console.env, console)
    accepted = Client(socket).add(_request(job))
    if console.as_json:
        console.json(accepted)
    else:
        console.data([_("{ref} is wanted", ref=safe(str(ref), glyphs=console.glyphs))])
        console.hint(_("watch it with: qwen-monitor {ref}; wait for it with: qwenctl wait {ref}", ref=ref))
    return exits.OK


def warn_of_size(ref: ModelRef, job: Job, env: Mapping[str, str], console: Console) -> None:
    """Say before the first byte that this machine cannot hold the model, if it is so."""
    cache = job.cache or places.hub_cache(env)
    manifest = cached_listing(cache, ref)
    if manifest is None:
        try:
            manifest = ask_hub(ref, env, on_wait=partial(say_waiting, env, console))
        except Refusal as error:
            if error.code in _FINAL:
                raise
            if error.code == "E_OFFLINE":
                return  # and nobody will be asked
            # The daemon tries longer than a warning is worth.
            why = safe(error.why or error.what, glyphs=console.err_glyphs)
            console.hint(_("no answer from the Hub yet ({why}); it is asked again", why=why))
            return
    host = read_host()
    judgement = judge_fit(
        weights_bytes(keep_wanted(manifest, job.include, job.exclude)), host.gpu_bytes, host.ram_bytes
    )
    if judgement.sentence:
        console.hint(_("warning: {what}", what=judgement.sentence))


def _running_daemon(job: Job, given: Path | None, console: Console) -> Path | None:
    """The control socket of a daemon that can do the job; None if there is none."""
    try:
        socket = find_socket(console.env, given)
        version = Client(socket).version()
    except DaemonUnreachable as error:
        if given is not None:
            raise
        if error.code == "E_SOCKET_DENIED":
            console.hint(_("a daemon runs, but {why}; {fix}", why=safe(error.why), fix=safe(error.fix)))
        return None
    why_not = serves(version, job)
    if socket.name == places.EVENTS_SOCKET:
        why_not = _("it may only be watched here, not commanded")
    if why_not:
        console.hint(_("a daemon runs, but {why}: a private one does this download", why=safe(why_not)))
        return None
    return socket


def _by_running(job: Job, socket: Path, console: Console) -> int:
    client = Client(socket)
    before = client.state().models.get(job.ref.key)
    client.add(_request(job))
    if before is not None and before.state in _AT_WORK:
        console.hint(_("qwen-daemon works on {ref} already; this shows how far it is", ref=job.ref))
    if job.rate_limit_bps is not None:
        client.limit(job.ref.key, job.rate_limit_bps)  # and not wanted with it: for this download, not for ever
    if before is not None and before.state == "paused":
        client.resume(job.ref.key)
    elif before is not None and before.state in ("waiting", "failed"):
        client.retry(job.ref.key)
    try:
        settled, model = follow_model(
            lambda: socket, job.ref, console, lambda model, has_news: settle(model, has_news, before, job)
        )
    except (KeyboardInterrupt, Ended):
        console.hint(
            _("qwen-daemon goes on; to stop it: qwenctl pause {ref}; to watch it: qwen-monitor {ref}", ref=job.ref)
        )
        raise
    return _report_end(job, settled, model, console)


def _by_private(job: Job, env: Mapping[str, str], console: Console) -> int:
    cache = job.cache or places.hub_cache(env)
    if job.local_dir is None:
        waits = _("another qwenctl download works in this cache; waiting for it to end (Ctrl-C: do not wait)")
    else:
        waits = _("another qwenctl download works in this folder; waiting for it to end (Ctrl-C: do not wait)")
    with PrivateDaemon(
        job.ref,
        env,
        cache,
        include=job.include,
        exclude=job.exclude,
        rate_limit_bps=job.rate_limit_bps,
        local_dir=job.local_dir,
        on_wait=lambda: console.hint(waits),
    ) as daemon:
        try:
            settled, model = follow_model(
                lambda: daemon.socket,
                job.ref,
                console,
                lambda model, _: Settled() if model is not None and model.state == "complete" else None,
                on_lost=partial(_on_lost, daemon),
            )
        except BaseException:
            stopping = _("stopping; what has arrived is being recorded (once more: at once) ...")
            daemon.stop(lambda: console.hint(stopping))
            console.hint(_("stopped; the same command resumes where it was"))
            raise
        if settled is not None and settled.code:
            return _report_private_failure(daemon, settled, console)
        return _report_end(job, settled, model, console)


def _on_lost(daemon: PrivateDaemon, _lost: Disconnected) -> Settled | None:
    """The stream ended: by the child's end, which says why, or by a reader that was too slow."""
    code = daemon.ended(LAST_WORDS_S)
    if code is None:
        return None
    return Settled() if code == 0 else Settled(code="E_STOPPED")


def _report_private_failure(daemon: PrivateDaemon, settled: Settled, console: Console) -> int:
    complaint = daemon.complaint()
    console.refuse(complaint)
    code = daemon.ended()
    known = exit_code_of(complaint.code)
    return code if code is not None and code > 0 else known if known else exit_code_of(settled.code)


def _report_end(job: Job, settled: Settled | None, model: ModelStatus | None, console: Console) -> int:
    if settled is None or settled.code:
        code = settled.code if settled else "E_STOPPED"
        why, fix = of_daemon(code, settled.detail if settled else "", "")
        raise Refusal(code, _("{ref} is not complete", ref=job.ref), why, fix)
    path, commit = (model.path, model.commit) if model else ("", "")
    if not path and job.local_dir is not None:
        path = str(job.local_dir)
    elif not path and (found := find_snapshot(job.cache or places.hub_cache(console.env), job.ref)):
        path, commit = str(found.folder), found.commit  # it was complete before its stream could be read
    if console.as_json:
        console.json({"path": path, "model": job.ref.repo, "commit": commit, "complete": True})
    else:
        console.data([safe(path, glyphs=console.glyphs)])
    return exits.OK


def _request(job: Job) -> commands.AddModel:
    return commands.AddModel(model=str(job.ref), include=job.include, exclude=job.exclude)
