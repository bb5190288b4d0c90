"""Asks the Hub for a model's listing through `qwen-daemon listing`, a process of its own.

The clients never talk to the Hub: the daemon's package does, in one place, and costs its imports only when it is
needed. The answer is huggingface_hub's trees/<commit>.json with `repo` and `commit` in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.inventory import find_snapshot
from qwen_api.language import _, spoken
from qwen_api.manifest import BadManifest, Manifest, read_tree
from qwen_api.models import ModelRef
from qwen_api.undecodable import UNDECODABLE
from qwen_monitor.exits import Refusal
from qwen_monitor.sentences import of_daemon

SILENT_S = 3.0  # a person wonders after that long without a word
LISTING_S = 120.0  # a listing of 100,000 files is 100 pages; a dead proxy must not hold a check for ever
# -P: `python -m` would otherwise prefer a qwen_daemon/ in the current folder, which may be anybody's.
DAEMON = (sys.executable, "-P", "-m", "qwen_daemon")

_ERROR = re.compile(r"^error\[(?P<code>\w+)\]: (?P<what>.*)$")


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    repo: str
    commit: str


def cached_listing(cache: Path, ref: ModelRef) -> Manifest | None:
    """The listing that the cache already has; None if it has none."""
    found = find_snapshot(cache, ref)
    return found.manifest if found else None


def ask_hub(ref: ModelRef, env: Mapping[str, str], *, on_wait: Callable[[], None] = lambda: None) -> Manifest:
    """The listing as the Hub gives it now; `on_wait` is called once if that takes longer than SILENT_S.

    Raises Refusal: E_OFFLINE when the environment forbids asking, else what the daemon's command said.
    """
    if places.is_offline(env):
        raise Refusal(
            "E_OFFLINE", _("the list of files of {ref} was not asked for", ref=ref), _("HF_HUB_OFFLINE is set")
        )
    # Nothing secret stands in argv: a token travels in HF_TOKEN.
    command = (*DAEMON, "listing", ref.repo, "--revision", ref.revision)
    try:
        told, complaint, code = _run(command, env, on_wait)
    except subprocess.TimeoutExpired as error:
        raise Refusal(
            "E_TIMEOUT", _("the Hub did not list {ref} within {seconds:.0f} s", ref=ref, seconds=LISTING_S)
        ) from error
    except OSError as error:
        raise Refusal("E_INTERNAL", _("qwen-daemon could not be started"), str(error)) from error
    if code != 0:
        raise read_error(complaint.decode(errors="replace"), _("{ref} could not be listed", ref=ref))
    return _read(told, ref)


def _run(command: Sequence[str], env: Mapping[str, str], on_wait: Callable[[], None]) -> tuple[bytes, bytes, int]:
    """stdout, stderr and exit code. Raises TimeoutExpired, with the process gone."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    with process:
        try:
            try:
                told, complaint = process.communicate(timeout=SILENT_S)
            except subprocess.TimeoutExpired:
                on_wait()
                told, complaint = process.communicate(timeout=LISTING_S)
        except BaseException:
            process.kill()
            raise
    return told, complaint, process.returncode


def read_error(text: str, what: str) -> Refusal:
    """The last three-line error in what a command of ours wrote to stderr; E_INTERNAL with its last line if none."""
    lines = text.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if found := _ERROR.match(lines[number]):
            after = dict(_field(line) for line in lines[number + 1 : number + 3])
            why, fix = of_daemon(found["code"], after.get("why", ""), after.get("fix", ""))
            # Its words are English: in another language `what` and its code say it.
            return Refusal(found["code"], found["what"] if spoken() == "en" else what, why, fix)
    last = next((line for line in reversed(lines) if line.strip()), _("it said nothing"))
    return Refusal("E_INTERNAL", what, last.strip())


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.strip().partition(": ")
    return name, value


def _read(raw: bytes, ref: ModelRef) -> Manifest:
    try:
        named = msgspec.json.decode(raw, type=_Named)
        return read_tree(named.repo, named.commit, raw)
    except (*UNDECODABLE, BadManifest) as error:
        raise Refusal("E_LISTING", _("the list of files of {ref} cannot be used", ref=ref), str(error)) from error
