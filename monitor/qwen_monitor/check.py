"""`qwenctl check` and the disk side of `status`: is this model or folder complete, and what would make it so.

Works with no daemon and no network. What should be there comes from the cached listing, else from the Hub (a process
of the daemon's package), else from the model's own files; `qwen_api.report` decides, `report_text` says it.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.client import ASIDE_TIMEOUT_S, Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.inventory import (
    Inventory,
    Snapshot,
    explain_mismatch,
    find_snapshot,
    listing_beside,
    look,
)
from qwen_api.language import _
from qwen_api.last_rates import recall
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef, is_commit, is_repo
from qwen_api.report import Report, make_report
from qwen_api.snapshots import snapshot_parts
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal
from qwen_monitor.hash_run import Hashed, HashJob, hash_all
from qwen_monitor.listing import ask_hub, cached_listing
from qwen_monitor.patterns import keep_wanted
from qwen_monitor.report_text import EMOJI, WORDS, Advice, report_lines

# Answers of the Hub that no other source of knowledge can contradict, if nothing of the model is here.
_FINAL = ("E_NOT_FOUND", "E_REVISION_NOT_FOUND", "E_AUTH", "E_GATED", "E_CONFIG")

ODD_BYTES_MAX = 256_000_000  # hashed in a second or two; a check without --verify full takes no longer


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: a model in a cache or a folder, which of its files, and how deep to look."""

    cache: Path
    ref: ModelRef | None = None
    folder: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    full: bool = False
    may_ask_hub: bool = True
    names_cache: bool = False  # --cache-dir was given, so the command to repeat must give it too
    is_local_dir: bool = False  # the folder is the model's local_dir, which a download may fill
    socket: Path | None = None  # of the daemon that may have seen how fast downloads are, if it was named


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What was found to compare: a folder (it need not exist) and perhaps the listing it should match."""

    folder: Path
    commit: str = ""
    manifest: Manifest | None = None


def check(wish: Wish, console: Console) -> tuple[Report, Advice, Hashed | None]:
    """Look at the disk and compare; the third is how fast a full check was.

    Raises Refusal if there is nothing to compare with at all.
    """
    subject = _find_subject(wish, console)
    manifest = subject.manifest
    listed = manifest.by_path() if manifest else {}
    if manifest is not None:
        manifest = keep_wanted(manifest, wish.include, wish.exclude)
    elif wish.include or wish.exclude:
        console.hint(_("no listing is known, so --include and --exclude are not applied"))
    inventory = look(subject.folder)

    def judged(hashes: Mapping[str, str]) -> Report:
        return make_report(
            ref=wish.ref,
            inventory=inventory,
            manifest=manifest,
            hashes=hashes,
            explanations=_explanations(manifest, inventory, hashes),
            listed=listed,
            folder=subject.folder,
            commit=subject.commit,
        )

    hashed = None
    if wish.full:
        hashes, hashed = _hashes(manifest, inventory, console)
        report = judged(hashes)
    else:
        report = judged({})
        if manifest is not None and (odd := _odd(report)):
            report = judged(_hashes(manifest.keep(odd), inventory, console)[0])
    return report, _advice(report, wish, console.env), hashed


def print_check(
    report: Report,
    advice: Advice,
    console: Console,
    *,
    hashed: Hashed | None = None,
    all_files: bool = False,
    short: bool = False,
) -> int:
    """The report on stdout; the exit code: 0 complete, 4 not."""
    if console.as_json:
        console.json(msgspec.to_builtins(report) | {"advice": advice} | ({"hashed": hashed} if hashed else {}))
    else:
        signs = EMOJI if console.emoji else WORDS
        console.data(report_lines(report, advice, signs=signs, glyphs=console.glyphs, all_files=all_files, short=short))
        if hashed is not None:
            console.hint(hashed.text())
    return exits.OK if report.complete else exits.INCOMPLETE


def _find_subject(wish: Wish, console: Console) -> Subject:
    if wish.folder is not None:
        return _find_folder(wish, wish.folder, console)
    assert wish.ref is not None, "a wish names a model or a folder"
    found = find_snapshot(wish.cache, wish.ref)
    if found is not None and found.manifest is not None:
        _say_how_found(found, console)
        return Subject(folder=found.folder, commit=found.commit, manifest=found.manifest)
    if found is not None:
        if found.listing_error:
            console.hint(_("the cached listing cannot be used: {why}", why=safe(found.listing_error)))
        pinned = ModelRef(repo=wish.ref.repo, revision=found.commit)
        return Subject(folder=found.folder, commit=found.commit, manifest=_ask(pinned, wish, console, is_here=True))
    manifest = _ask(wish.ref, wish, console, is_here=False)
    if manifest is None:
        return Subject(folder=places.repo_dir(wish.cache, wish.ref.repo) / "snapshots" / wish.ref.revision)
    folder = places.snapshot_dir(wish.cache, wish.ref.repo, manifest.commit)
    return Subject(folder=folder, commit=manifest.commit, manifest=manifest)


def _find_folder(wish: Wish, folder: Path, console: Console) -> Subject:
    """A folder given by its path. `--model` says what it should be; else its own bookkeeping or its path may."""
    if not folder.is_dir() and not (wish.is_local_dir and not folder.exists()):
        raise Refusal(
            "E_NOT_FOUND",
            _("{folder} is not a folder", folder=folder),
            _("there is nothing at this path"),
            _("check the path"),
        )
    parts = snapshot_parts(folder)
    if wish.ref is not None and wish.is_local_dir:
        manifest = _listing_of_local_dir(wish.ref, folder) or _ask(wish.ref, wish, console, is_here=folder.is_dir())
    elif wish.ref is not None:
        manifest = cached_listing(wish.cache, wish.ref) or _ask(wish.ref, wish, console, is_here=True)
    else:
        manifest = listing_beside(folder)
        if manifest is None and parts is not None and is_repo(parts.repo) and is_commit(parts.commit):
            manifest = _ask(ModelRef(repo=parts.repo, revision=parts.commit), wish, console, is_here=True)
    return Subject(folder=folder, commit=manifest.commit if manifest else "", manifest=manifest)


def _listing_of_local_dir(ref: ModelRef, folder: Path) -> Manifest | None:
    """The listing that the last download left there; it does not say of which repository or branch it is."""
    listing = listing_beside(folder, ref.repo)
    return listing if listing is not None and (not ref.is_pinned or listing.commit == ref.revision) else None


def _ask(ref: ModelRef, wish: Wish, console: Console, *, is_here: bool) -> Manifest | None:
    """The Hub's listing, or None with a hint why not; a refusal that settles the matter is raised."""
    if not wish.may_ask_hub:
        return None
    try:
        return ask_hub(ref, console.env, on_wait=partial(say_waiting, console.env, console))
    except Refusal as error:
        if error.code in _FINAL and not is_here:
            raise
        why = f" ({safe(error.why)})" if error.why else ""
        console.hint(_("no listing from the Hub: {what}{why}", what=safe(error.what), why=why))
        return None


def _odd(report: Report) -> list[str]:
    """Files of the right size whose content looks wrong: only a hash tells damage from what the repository holds."""
    return [p.path for p in report.findings if p.found_bytes == p.expected_bytes and p.found_bytes <= ODD_BYTES_MAX]


def say_waiting(env: Mapping[str, str], console: Console) -> None:
    """The Hub takes its time over the list of files."""
    endpoint = safe(places.endpoint(env), glyphs=console.err_glyphs)
    console.hint(_("waiting for the list of files from {endpoint} ...", endpoint=endpoint))


def _say_how_found(found: Snapshot, console: Console) -> None:
    if found.found_by == "newest":
        console.hint(
            _("the cache does not say which commit is main; the newest snapshot is {commit}", commit=found.commit[:8])
        )


def _hashes(
    manifest: Manifest | None, inventory: Inventory, console: Console
) -> tuple[Mapping[str, str], Hashed | None]:
    if manifest is None:
        console.hint(_("no listing is known, so there are no hashes to compare with"))
        return {}, None
    found = inventory.by_path()
    return hash_all(
        [
            _job(file, Path(inventory.folder))
            for file in manifest.files
            if (here := found.get(file.path)) and here.size_bytes == file.size_bytes and here.cause != "not_a_file"
        ],
        console,
    )


def _job(file: WantedFile, folder: Path) -> HashJob:
    return HashJob(
        path=file.path,
        file=folder / file.path,
        size_bytes=file.size_bytes,
        algorithm="sha256" if file.sha256 else "git-sha1",
    )


def _explanations(manifest: Manifest | None, inventory: Inventory, hashes: Mapping[str, str]) -> dict[str, str]:
    """For every hash that is wrong, what a closer look at the file shows."""
    wanted = manifest.by_path() if manifest else {}
    found: dict[str, str] = {}
    for path, digest in hashes.items():
        if digest != wanted[path].etag:
            try:
                found[path] = explain_mismatch(Path(inventory.folder) / path)
            except OSError:
                continue
    return found


def _advice(report: Report, wish: Wish, env: Mapping[str, str]) -> Advice:
    if all(problem.in_repository for problem in report.findings):
        return Advice()
    place = wish.folder or wish.cache
    return Advice(
        command=_command(report, wish),
        fetch_bytes=fetch_bytes(report) if report.source == "listing" else None,
        rate_bps=_last_rate_bps(wish, env),
        free_bytes=free_bytes(place),
        place=str(place),
    )


def _last_rate_bps(wish: Wish, env: Mapping[str, str]) -> int | None:
    """As this person's downloads saw it, or the daemon's: it runs for another user, perhaps, so it is asked where."""
    states = [places.state_dir(env)]
    with suppress(DaemonUnreachable, DaemonRefused):
        states.append(Path(Client(find_socket(env, wish.socket), timeout_s=ASIDE_TIMEOUT_S).version().state_dir))
    return recall(states, wish.ref.key if wish.ref else "")


def fetch_bytes(report: Report) -> int:
    """Bytes that a download would fetch at most: what the daemon kept of unfinished ones is not fetched again."""
    return sum(
        max(0, p.expected_bytes - (p.found_bytes if p.cause == "unfinished_download" else 0))
        for p in report.findings
        if p.expected_bytes is not None
    )


def free_bytes(place: Path) -> int | None:
    """Room on the file system that `place` is on, or will be on."""
    for folder in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def _command(report: Report, wish: Wish) -> str:
    """The exact command that makes it complete; "" for a folder of which nobody knows the repository."""
    ref = wish.ref
    parts = snapshot_parts(wish.folder) if wish.folder is not None else None
    cache = wish.cache if wish.names_cache else None
    if parts is not None and is_repo(parts.repo):
        ref, cache = ModelRef(repo=parts.repo, revision=parts.commit), parts.cache
    elif wish.folder is not None and not wish.is_local_dir:
        return ""  # a folder that no download filled, and that none would be asked to
    if ref is None:
        return ""
    words = ["qwenctl", "download", ref.repo]
    words += ["--revision", ref.revision] if ref.revision != "main" else []
    words += [word for pattern in wish.include for word in ("--include", pattern)]
    words += [word for pattern in wish.exclude for word in ("--exclude", pattern)]
    words += ["--cache-dir", str(cache)] if cache is not None else []
    words += ["--local-dir", str(wish.folder)] if wish.folder is not None and wish.is_local_dir else []
    return shlex.join(words)
