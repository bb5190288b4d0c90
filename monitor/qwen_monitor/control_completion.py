"""`qwenctl completion bash|zsh|fish`: a script for the shell, made by shtab from the command line that is parsed.

Names of models are asked for while completing (`qwenctl completion models`): aliases, what the daemon keeps, what the
cache holds. bash's compgen expands the words it is given, so none is printed that could be more than a name.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from qwen_api import places
from qwen_api.client import ASIDE_TIMEOUT_S, Client, DaemonRefused, DaemonUnreachable, find_socket
from qwen_api.models import ALIASES, is_repo
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.control_arguments import make_parser
from qwen_monitor.control_status import cached_models

PREAMBLE = {
    "bash": """\
_qwenctl_models() {
  compgen -W "$(qwenctl completion models 2>/dev/null)" -- "$1"
}
""",
    "zsh": """\
_qwenctl_models() {
  local -a names
  names=(${(f)"$(qwenctl completion models 2>/dev/null)"})
  compadd -a names
}
""",
}
MODELS = {"bash": "_qwenctl_models", "zsh": "_qwenctl_models", "fish": "(qwenctl completion models 2>/dev/null)"}


def completion(arguments: argparse.Namespace, console: Console) -> int:
    """Print the script, or the models; the exit code."""
    if arguments.shell == "models":
        console.data(model_names(console))
        return exits.OK
    import shtab

    parser, commands = make_parser()
    for action in (action for command in commands.values() for action in command._actions):
        if (how := _how(action)) is not None:
            action.complete = how  # type: ignore[attr-defined]  # shtab's own name for it
    preamble = PREAMBLE.get(arguments.shell, "")
    console.data([shtab.complete(parser, shell=arguments.shell, preamble=preamble).rstrip("\n")])
    return exits.OK


def model_names(console: Console) -> list[str]:
    """Aliases, and the models of the daemon and of the cache, each once; a daemon that does not answer has none."""
    try:
        client = Client(find_socket(console.env), timeout_s=ASIDE_TIMEOUT_S)
        kept = [m.repo for m in client.state().models.values() if is_repo(m.repo)]
    except (DaemonUnreachable, DaemonRefused):
        kept = []
    cached = [ref.repo for ref in cached_models(places.hub_cache(console.env))]
    return sorted({*ALIASES, *kept, *cached})


def _how(action: argparse.Action) -> Mapping[str, object] | None:
    """What completes the value of an argument; None: its choices, or nothing."""
    import shtab

    is_first_word = action.dest == "words" and "MODEL" in str(action.metavar)
    if action.dest in ("model", "subject") or is_first_word:
        return MODELS
    if action.type is Path:
        return shtab.DIRECTORY if "DIR" in str(action.metavar) else shtab.FILE
    return None
