"""Asks a process of the daemon's package: `qwen-daemon listing`, `probe` or `config`, each of which prints JSON.

The clients neither talk to the Hub nor read the configuration themselves: the daemon's package does, in one place, and
costs its imports only when it is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from qwen_api.language import _, spoken
from qwen_monitor.exits import Refusal
from qwen_monitor.sentences import of_daemon

SILENT_S = 3.0  # a person wonders after that long without a word
# -P: `python -m` would otherwise prefer a qwen_daemon/ in the current folder, which may be anybody's.
DAEMON = (sys.executable, "-P", "-m", "qwen_daemon")

_ERROR = re.compile(r"^error\[(?P<code>\w+)\]: (?P<what>.*)$")


def ask(
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    failed: str,
    late: str,
    limit_s: float,
    on_wait: Callable[[], None] = lambda: None,
) -> bytes:
    """What `qwen-daemon WORDS` prints; `on_wait` is called once if that takes longer than SILENT_S.

    Raises Refusal: what the process said, or `failed` where that is English and another language is spoken; E_TIMEOUT
    with `late` after `limit_s`. Nothing secret may stand in `words`: a token travels in HF_TOKEN.
    """
    try:
        told, complaint, code = _run((*DAEMON, *words), env, limit_s, on_wait)
    except subprocess.TimeoutExpired as error:
        raise Refusal("E_TIMEOUT", late) from error
    except OSError as error:
        raise Refusal("E_INTERNAL", _("qwen-daemon could not be started"), str(error)) from error
    if code != 0:
        raise read_error(complaint.decode(errors="replace"), failed)
    return told


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


def _run(
    command: Sequence[str], env: Mapping[str, str], limit_s: float, on_wait: Callable[[], None]
) -> tuple[bytes, bytes, int]:
    """stdout, stderr and exit code. Raises TimeoutExpired, with the process gone."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    with process:
        try:
            try:
                told, complaint = process.communicate(timeout=SILENT_S)
            except subprocess.TimeoutExpired:
                on_wait()
                told, complaint = process.communicate(timeout=limit_s)
        except BaseException:
            process.kill()
            raise
    return told, complaint, process.returncode


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.strip().partition(": ")
    return name, value
