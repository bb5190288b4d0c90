"""The command line of qwen-loader: what may be asked, refused before anything is waited for."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

from qwen_api.commands import LOADER_NAME_MAX, is_loader_name
from qwen_api.durations import parse_duration_s
from qwen_api.language import LANGUAGES, N_, _
from qwen_api.models import BadModelName, ModelRef, parse_model
from qwen_loader import words
from qwen_loader.editing import SEED_MAX, SEED_MIN, SIZE_MIN_PX, STEPS_MIN, BadPicture, read_picture
from qwen_loader.gate import Policy
from qwen_loader.libraries import Device, Dtype, version_of
from qwen_loader.placement import AskedPlacement

PATIENCE_S = 300.0  # containers start in any order: longer than a daemon takes to come
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

_EXAMPLES = N_("""\
examples:
  qwen-loader qwen-image-edit            wait, load on the GPU, print the path
  qwen-loader qwen-image-edit --keep     the same, and hold it until a signal
  qwen-loader qwen-image-edit --edit cat.png --prompt "Give the cat a red hat" \\
    --output hat.png
  qwen-loader org/name@v1 -- python serve.py
                                         wait, then become that command:
                                         HF_HUB_OFFLINE=1, and the verified
                                         files are in $QWEN_MODEL_PATH
  qwen-loader qwen-image-edit --timeout 0 --json
                                         is it ready, right now?

exit codes: 0 ok, 2 usage, 3 not found, 4 incomplete, 5 token or licence,
            6 network, 9 disk full, 10 wrong content, 69 no daemon and nothing
            on the disk, 75 timeout, 126/127 COMMAND cannot run/not found,
            129/130/143 SIGHUP, Ctrl-C, SIGTERM, 1 other""")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One picture to make."""

    images: tuple[Path, ...]
    prompt: str
    output: Path
    steps: int | None
    size_px: int | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for."""

    ref: ModelRef
    device: Device
    dtype: Dtype
    placement: AskedPlacement
    early: bool
    timeout_s: float | None
    patience_s: float
    fallback: Literal["hub", "none"]
    edit: Edit | None
    policy: Policy
    cache_dir: Path | None
    socket: Path | None
    json: bool
    name: str
    keep: bool
    until_update: bool
    debug: bool
    command: tuple[str, ...]


class UsageError(ValueError):
    """The command line cannot be followed; the message says why, `fix` what was meant, if that is known."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


def read_arguments(argv: Sequence[str]) -> Asked:
    """Read the command line (without the program's name). Raises UsageError; SystemExit(0) after --help."""
    own, separator, command = _split(argv)
    given = _parser().parse_args(own)
    if separator and not command:
        raise UsageError(_("nothing stands behind '--'"))
    for name in ("edit", "json", "keep", "until-update"):
        if command and getattr(given, name.replace("-", "_")):
            raise UsageError(_("--{name} is for qwen-loader's own loading, and COMMAND takes its place", name=name))
    if command and given.fallback == "hub":
        raise UsageError(_("--fallback hub is for qwen-loader's own loading; COMMAND is only given verified files"))
    if given.device == "cpu" and given.placement not in ("auto", "cpu"):
        raise UsageError(
            _("--placement {placement} needs a GPU, and --device cpu forbids it", placement=given.placement)
        )
    if given.device == "cuda" and given.placement == "cpu":
        raise UsageError(_("--placement cpu and --device cuda contradict each other"))
    hub_does = {"cuda": ("auto", "full"), "cpu": ("auto", "cpu")}.get(given.device, ("auto",))
    if given.fallback == "hub" and given.placement not in hub_does:
        raise UsageError(
            _(
                "--placement {placement} is not for --fallback hub, which loads all of it on one device: say --device",
                placement=given.placement,
            )
        )
    try:
        ref = parse_model(given.model, revision=given.revision)
    except BadModelName as error:
        near = shlex.join(["qwen-loader", *(error.near if word == given.model else word for word in argv)])
        raise UsageError(str(error), _("did you mean: {near}", near=near) if error.near else "") from error
    if given.name and not is_loader_name(given.name):
        raise UsageError(_("--name: at most {most} printable characters are needed", most=LOADER_NAME_MAX))
    return Asked(
        ref=ref,
        device=given.device,
        dtype=given.dtype,
        placement=given.placement,
        early=given.early,
        timeout_s=given.timeout,
        patience_s=given.patience,
        fallback=given.fallback,
        edit=_read_edit(given),
        policy=Policy(allow_code=given.allow_code, allow_pickle=given.allow_pickle),
        cache_dir=given.cache_dir,
        socket=given.socket,
        json=given.json,
        name=given.name or f"qwen-loader-{os.getpid()}",
        keep=given.keep or given.until_update,
        until_update=given.until_update,
        debug=given.debug,
        command=tuple(command),
    )


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return list(argv), False, []
    at = list(argv).index("--")
    return list(argv[:at]), True, list(argv[at + 1 :])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen-loader",
        usage=_("qwen-loader MODEL [options]\n       qwen-loader MODEL [options] -- COMMAND [ARGUMENT ...]"),
        description=_("Wait until a model is complete and verified, then load it from local files only."),
        epilog=_(_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = f"%(prog)s {version_of('qwen-daemon')}"
    parser.add_argument("--version", action="version", version=version, help=_("show the version and exit"))
    parser.add_argument("model", metavar="MODEL", help=_("an alias (qwen-image-edit), org/name or org/name@revision"))
    _add_waiting(parser.add_argument_group(_("waiting")))
    _add_loading(parser.add_argument_group(_("loading")))
    _add_editing(parser.add_argument_group(_("editing one picture")))
    output = parser.add_argument_group(_("output"))
    output.add_argument("--lang", choices=LANGUAGES, help=_("language of texts for people (default: the locale's)"))
    output.add_argument("--json", action="store_true", help=_("one JSON object on standard output"))
    output.add_argument("--debug", action="store_true", help=_("show tracebacks"))
    return parser


def _add_waiting(waiting: argparse._ArgumentGroup) -> None:
    waiting.add_argument("--revision", metavar="REVISION", help=_("a branch, a tag or a commit (default: main)"))
    waiting.add_argument(
        "--timeout", metavar="TIME", type=_seconds, help=_("give up after 90, 30m or 2h; 0: look once")
    )
    waiting.add_argument(
        "--patience",
        metavar="TIME",
        type=_seconds,
        default=PATIENCE_S,
        help=_("without a daemon, on files that nobody mends: give up after (default: 5m)"),
    )
    waiting.add_argument("--socket", metavar="PATH", type=Path, help=_("the daemon's control socket"))
    waiting.add_argument("--cache-dir", metavar="DIR", type=Path, help=_("the Hub cache looked at without a daemon"))
    waiting.add_argument(
        "--name", metavar="NAME", help=_("this loader's name in the monitor (default: qwen-loader-PID)")
    )
    waiting.add_argument("--allow-code", action="store_true", help=_("let in repositories that bring code"))
    waiting.add_argument("--allow-pickle", action="store_true", help=_("let in pickled weights (they are never read)"))


def _add_loading(loading: argparse._ArgumentGroup) -> None:
    loading.add_argument(
        "--device",
        choices=get_args(Device),
        default="auto",
        help=_("default: cuda if there is one; which: CUDA_VISIBLE_DEVICES"),
    )
    loading.add_argument("--dtype", choices=get_args(Dtype), default="auto", help=_("default: as stored"))
    loading.add_argument(
        "--placement",
        choices=get_args(AskedPlacement),
        default="auto",
        help=_("where weights go; default: on the GPU if they fit, else moved there in turns"),
    )
    loading.add_argument(
        "--no-early",
        dest="early",
        action="store_false",
        help=_("load nothing before the whole model is complete (default: each component as it comes)"),
    )
    loading.add_argument(
        "--fallback",
        choices=("hub", "none"),
        default="none",
        help=_("hub: when the daemon gives up, let diffusers fetch the model itself, unverified (default: none)"),
    )
    loading.add_argument("--keep", action="store_true", help=_("hold the pipeline until a signal"))
    loading.add_argument(
        "--until-update", action="store_true", help=_("hold it until a newer commit is complete too, then exit with 0")
    )


def _add_editing(editing: argparse._ArgumentGroup) -> None:
    editing.add_argument(
        "--edit", metavar="IN.png", type=Path, action="append", help=_("the picture; again for each further one")
    )
    editing.add_argument("--prompt", metavar="TEXT", help=_("what to do with it"))
    editing.add_argument("--output", metavar="OUT.png", type=Path, help=_("where the result goes"))
    editing.add_argument(
        "--steps", metavar="N", type=int, help=_("at least {least} (default: the pipeline's)", least=STEPS_MIN)
    )
    editing.add_argument("--size", metavar="N", type=int, help=_("side in pixels (default: the pipeline's)"))
    editing.add_argument("--seed", metavar="N", type=int, default=0, help=_("of the noise (default: %(default)s)"))


def _seconds(text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_edit(given: argparse.Namespace) -> Edit | None:
    if given.edit is None:
        for name in ("prompt", "output", "steps", "size"):
            if getattr(given, name) is not None:
                raise UsageError(_("--{name} needs --edit IN.png", name=name))
        return None
    if given.prompt is None or given.output is None:
        raise UsageError(_("--edit needs --prompt TEXT and --output OUT.png"))
    if given.steps is not None and given.steps < STEPS_MIN:
        raise UsageError(
            _(
                "--steps {steps}: at least {least} are needed; with one, the picture is black",
                steps=given.steps,
                least=STEPS_MIN,
            )
        )
    if given.size is not None and given.size < SIZE_MIN_PX:
        raise UsageError(_("--size {size}: at least {least} pixels are needed", size=given.size, least=SIZE_MIN_PX))
    if not SEED_MIN <= given.seed <= SEED_MAX:
        raise UsageError(_("--seed {seed}: a number of 64 bits is needed", seed=given.seed))
    _check_output(given.output)
    for image in given.edit:
        _check_picture(image)
    return Edit(
        images=tuple(given.edit),
        prompt=given.prompt,
        output=given.output,
        steps=given.steps,
        size_px=given.size,
        seed=given.seed,
    )


def _check_picture(path: Path) -> None:
    """Nobody waits an hour to hear that it cannot be read."""
    why = "" if path.is_file() else _("no such file")
    try:
        if not why:
            read_picture(path)
    except BadPicture as error:
        why = str(error)
    except ImportError:  # what loads a pipeline is missing too, and that is told with what mends it
        pass
    if why:
        name = words.printable(str(path))
        raise UsageError(_("{path} is not a picture that can be read: {why}", path=name, why=words.printable(why)))


def _check_output(path: Path) -> None:
    name = words.printable(str(path))
    if path.suffix.lower() not in PICTURE_ENDINGS:
        raise UsageError(
            _("--output {path} must end in one of {endings}", path=name, endings=", ".join(PICTURE_ENDINGS))
        )
    if path.is_dir():
        raise UsageError(_("--output {path} is a folder", path=name))
    if not path.parent.is_dir():
        raise UsageError(_("--output {path}: there is no such folder", path=name))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(_("--output {path}: nothing may be written to that folder", path=name))
