"""The commands of `qwenctl`: what each is for, its arguments and its examples.

Flags that `hf download` has too are spelled and meant as there. Reading them is `control_arguments`' work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from qwen_api.language import N_, _
from qwen_monitor.argument_values import between, duration_s, globs, rate_bps, since

SHELLS = ("bash", "zsh", "fish")
GOALS = ("complete", "verified", "failed")

Build = Callable[[argparse.ArgumentParser], None]


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_("alias, org/name or org/name@revision"))


def _maybe_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=_("alias, org/name or org/name@revision (default: all)")
    )


def _status(parser: argparse.ArgumentParser) -> None:
    _maybe_model(parser)
    parser.add_argument(
        "--file", metavar="PATH", help=_("one file of the model: its tries, segments, connections, last error")
    )


def _choice_of_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help=_("branch, tag or commit (default: main)"))
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help=_("only these files; repeatable")
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help=_("not these files; repeatable"))


def _cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help=_("Hub cache (default: as HF_HUB_CACHE, HF_HOME)")
    )


def _local_dir(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--local-dir", type=Path, metavar="DIR", help=purpose)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", metavar="MODEL|PATH", nargs="?", help=_("a model in the cache, or a folder as ./dir")
    )
    parser.add_argument("--model", metavar="MODEL", help=_("the model; with PATH: compare the folder with its listing"))
    parser.add_argument(
        "--verify",
        choices=("sizes", "full"),
        default="sizes",
        help=_("sizes: names, sizes, headers (default); full: hash every byte"),
    )
    _choice_of_files(parser)
    _cache(parser)
    _local_dir(parser, _("the folder that a download --local-dir filled"))
    parser.add_argument("--all", action="store_true", help=_("list every file, good ones too"))


def _download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="MODEL [FILE ...]", help=_("the model, and files if not all of them")
    )
    parser.add_argument("--model", metavar="MODEL", help=_("the model, if not given first"))
    _choice_of_files(parser)
    _cache(parser)
    _local_dir(parser, _("put the files there, as `hf download` does; by a daemon of its own"))
    parser.add_argument("--token", help=_("access token (better: HF_TOKEN, which other users cannot see)"))
    parser.add_argument(
        "--limit-rate", type=rate_bps, metavar="RATE", help=_("at most 20MB/s, 500k or 1.5MiB a second")
    )
    parser.add_argument(
        "--dry-run", action="store_true", help=_("list the files to fetch and their sizes; fetch nothing")
    )
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress; the snapshot's path at the end"))


def _add(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _choice_of_files(parser)


def _rm(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--delete-files", action="store_true", help=_("delete its files from the cache as well"))
    parser.add_argument("-y", "--yes", action="store_true", help=_("do not ask"))


def _verify(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--quick", action="store_true", help=_("hash only what was touched since it was verified"))
    parser.add_argument("--wait", action="store_true", help=_("show how far it is, and end with what was found"))


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="[MODEL] RATE|off", help=_("20MB/s, 500k, 1.5MiB, or off"))
    parser.add_argument("--max-files", type=between(1, 64), metavar="N", help=_("files in flight over all models"))
    parser.add_argument("--max-connections", type=between(1, 64), metavar="N", help=_("connections over all files"))


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        dest="files",
        action="append",
        default=[],
        metavar="GLOB",
        help=_("only these files: a path, or a pattern as in `hf download`; repeatable"),
    )


def _model_or_files(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _files(parser)


def _prio(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _files(parser)
    parser.add_argument("priority", type=between(-100, 100), metavar="N", help=_("the greater the sooner; 0 at first"))


def _wait(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--timeout", type=duration_s, metavar="TIME", help=_("give up after 90, 45s, 30m or 2h (exit 75)")
    )
    parser.add_argument(
        "--for",
        dest="goal",
        choices=GOALS,
        default="complete",
        help=_("complete (default); verified: and no file is being hashed again; failed: it needs a person"),
    )
    parser.add_argument("--no-wait", action="store_true", help=_("exit 69 at once when there is no daemon"))
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress"))


def _events(parser: argparse.ArgumentParser) -> None:
    _maybe_model(parser)
    parser.add_argument("--types", type=globs, default=(), metavar="GLOBS", help=_("such as file.*,model.*"))
    parser.add_argument("--file", metavar="GLOB", help=_("only events of these files"))
    parser.add_argument("--bad", action="store_true", help=_("only what went wrong"))
    parser.add_argument(
        "--since",
        type=since,
        metavar="SEQ|TIME",
        help=_("begin with the durable events after this number, or with those of the last 30m, 2h ..."),
    )
    parser.add_argument("--no-follow", action="store_true", help=_("print what has happened so far, then exit"))


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=_("the model to fit in (default: the daemon's first)")
    )
    parser.add_argument("--quick", action="store_true", help=_("measure no speed"))


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help=_("go on with what comes"))
    parser.add_argument("--since", metavar="TIME", help=_("30m, 2h, yesterday, or a date as journalctl takes it"))
    parser.add_argument("-n", "--lines", type=between(0, 1_000_000), metavar="N", help=_("the last N lines"))


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("check", "show"), help=_("check: is it right; show: every value in force"))
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help=_("this file, not the one that is found"))
    parser.add_argument("--origin", action="store_true", help=_("say where each value comes from"))
    for flag, metavar in (("--config", "FILE"), ("--cache-dir", "DIR"), ("--state-dir", "DIR")):
        parser.add_argument(flag, type=Path, metavar=metavar, help=_("as if qwen-daemon were started with it"))


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell", choices=(*SHELLS, "models"), help=_("the shell; models: print the names that are completed")
    )


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


COMMANDS: dict[str, tuple[str, str, Build]] = {
    "check": (
        N_("say what is missing or broken of a model or a folder, and why (needs no daemon)"),
        "  qwenctl check qwen-image-edit\n"
        "  qwenctl check Qwen/Qwen-Image-Edit-2511 --verify full\n"
        "  qwenctl check ./models/qwen --model qwen-image-edit --json\n"
        "  qwenctl check qwen-image-edit --local-dir ./models/qwen",
        _check,
    ),
    "download": (
        N_("bring a model to complete and print its path"),
        "  qwenctl download qwen-image-edit\n"
        "  qwenctl download Qwen/Qwen-Image --exclude '*.md' --dry-run\n"
        "  qwenctl download qwen-image-edit --local-dir ./models/qwen\n"
        "  MODEL_PATH=$(qwenctl download --quiet qwen-image-edit)",
        _download,
    ),
    "add": (N_("have the daemon keep a model complete from now on"), "  qwenctl add qwen-image-edit", _add),
    "rm": (N_("have the daemon want a model no more"), "  qwenctl rm qwen-image-2512 --delete-files", _rm),
    "ls": (N_("list the models that the daemon keeps"), "  qwenctl ls", _nothing),
    "status": (
        N_("how complete the models are (without a daemon: what the disk shows)"),
        "  qwenctl status\n  qwenctl status qwen-image-edit --json | jq -r '.models[].missing[]'\n"
        "  qwenctl status qwen-image-edit --file model_index.json",
        _status,
    ),
    "pause": (
        N_("stop fetching a model, or files of it; what is recorded stays"),
        "  qwenctl pause qwen-image-edit\n  qwenctl pause qwen-image-edit --file 'transformer/*'",
        _model_or_files,
    ),
    "resume": (
        N_("go on after a pause"),
        "  qwenctl resume qwen-image-edit\n  qwenctl resume qwen-image-edit --file '*'",
        _model_or_files,
    ),
    "limit": (
        N_("limit the speed of all models or of one; alone: show the limits"),
        "  qwenctl limit 20MB/s\n  qwenctl limit qwen-image-edit 500k\n  qwenctl limit off\n"
        "  qwenctl limit --max-connections 4",
        _limit,
    ),
    "prio": (
        N_("begin a model's files before or after others', or some of its files first"),
        "  qwenctl prio qwen-image-edit 10\n  qwenctl prio qwen-image-edit 5 --file 'vae/*'",
        _prio,
    ),
    "update": (
        N_("take the newest commit of the branch a model follows"),
        "  qwenctl update qwen-image-edit\n  qwenctl update qwen-image-edit && qwenctl wait qwen-image-edit",
        _model,
    ),
    "retry": (
        N_("cut every wait short and try failed files now"),
        "  qwenctl retry qwen-image-edit\n  qwenctl retry qwen-image-edit --file '*-00003-of-*'",
        _model_or_files,
    ),
    "verify": (
        N_("have the daemon hash a model's files again; it stays complete unless damaged"),
        "  qwenctl verify qwen-image-edit --wait\n  qwenctl verify qwen-image-edit --quick",
        _verify,
    ),
    "wait": (
        N_("block until a model is complete and verified; prints its path"),
        "  qwenctl wait qwen-image-edit --timeout 2h && exec start-my-app\n"
        "  qwenctl wait qwen-image-edit --for failed && mail -s 'a model needs you' me",
        _wait,
    ),
    "events": (
        N_("print what the daemon does, as it does it"),
        "  qwenctl events --types 'file.retry,file.failed'\n"
        "  qwenctl events --since 2h --bad --no-follow\n"
        "  qwenctl events --json | jq -c 'select(.type == \"file.retry\")'",
        _events,
    ),
    "doctor": (
        N_("look at all that a download and a load depend on, and say how to mend it"),
        "  qwenctl doctor\n"
        "  qwenctl doctor Qwen/Qwen-Image --quick\n"
        "  qwenctl doctor --json | jq '.checks[] | select(.state != \"ok\")'",
        _doctor,
    ),
    "logs": (
        N_("show the daemon's log: its unit's journal, or the file it writes to"),
        "  qwenctl logs -f\n  qwenctl logs --since 2h\n  qwenctl logs -n 500",
        _logs,
    ),
    "config": (
        N_("check the configuration, or show every value in force and where it comes from"),
        "  qwenctl config check ./config.toml\n  qwenctl config show --origin",
        _config,
    ),
    "completion": (
        N_("print a script that completes commands, flags and models in your shell"),
        "  qwenctl completion bash > ~/.local/share/bash-completion/completions/qwenctl\n"
        "  qwenctl completion zsh > ~/.zfunc/_qwenctl     # with fpath+=~/.zfunc\n"
        "  qwenctl completion fish > ~/.config/fish/completions/qwenctl.fish",
        _completion,
    ),
    "version": (
        N_("versions of this program and of the daemon, and where it keeps things"),
        "  qwenctl version --json",
        _nothing,
    ),
}
