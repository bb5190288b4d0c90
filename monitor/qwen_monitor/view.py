"""What the person at the monitor has chosen, and what each key does to it: one table, no terminal.

Pure. A key gives a new `View` and perhaps an `Action` for the shell to carry out. `rows` draws a View; `monitor`
feeds it keys and carries out actions.
"""

from __future__ import annotations

import shlex
from typing import Literal, TypeAlias

import msgspec

from qwen_api.language import N_, _
from qwen_api.models import ModelRef
from qwen_api.status import FileStatus, ModelStatus, Status
from qwen_monitor.file_pane import SORTS, Sort, listed_files
from qwen_monitor.limits import next_limit_bps

PRIORITY_MAX = 100  # the API's (qwen_api.commands)
FILTER_MAX = 60  # characters of a filter; more than a row shows

Verb = Literal["pause", "resume", "retry", "verify", "remove"]
_COMMANDS: dict[Verb, str] = {"remove": "rm"}  # where qwenctl's word is another one


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The person's choices. `model` is the key of the drawn model, "" for the first one; `file` the chosen path.

    `help` counts how often its page was turned, 0 while it is not shown. `removing` is the key of the model about which
    a yes or no is waited for.
    """

    model: str = ""
    wanted: ModelRef | None = None
    filter: str = ""
    typing: bool = False
    all_files: bool = False
    sort: Sort = "state"
    help: int = 0
    file: str = ""
    details: bool = False
    removing: str = ""
    read_only: bool = False


class Leave(msgspec.Struct, frozen=True, kw_only=True):
    """Quit with this exit code."""

    code: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the daemon for `verb` on the model with this key."""

    verb: Verb
    model: str


class FileOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the daemon for `verb` on one file of a model, or with `priority` set to give it that."""

    verb: Literal["pause", "resume", "prio"]
    model: str
    path: str
    priority: int = 0


class Priority(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the daemon to give a model's files this priority."""

    model: str
    priority: int


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the daemon to limit its speed; None is no limit."""

    rate_limit_bps: int | None


class Say(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the person this in the message line."""

    text: str


Asked: TypeAlias = Order | FileOrder | Priority | Limit  # of the daemon
Action: TypeAlias = Leave | Asked | Say

# (key as drawn, label, long explanation, the command that does the same)
KEYS: tuple[tuple[str, str, str, str], ...] = (
    ("q", N_("Quit"), N_("leave; the daemon goes on"), ""),
    ("p", N_("Pause"), N_("stop or go on fetching this model"), "qwenctl pause | resume MODEL"),
    ("r", N_("Retry"), N_("cut every wait short and try failed files now"), "qwenctl retry MODEL"),
    ("v", N_("Verify"), N_("hash every file of this model again"), "qwenctl verify MODEL"),
    ("Ent", N_("Details"), N_("tries, source, segments, error of a file"), "qwenctl status MODEL --file F"),
    (
        "Spc",
        N_("File"),
        N_("choose with up, down; stop or go on fetching"),
        "qwenctl pause MODEL --file F",
    ),
    ("<>", N_("First"), N_("the chosen file, or model: later, sooner"), "qwenctl prio MODEL N [--file F]"),
    (
        "/",
        N_("Filter"),
        N_("only paths with the text, !text: without; Esc clears"),
        "qwenctl check MODEL",
    ),
    ("s", N_("Sort"), N_("files by state, name, size, rate"), ""),
    ("+-", N_("Limit"), N_("raise or lower the speed limit of everything"), "qwenctl limit 20MB/s"),
    ("a", N_("All files"), N_("show verified files too"), "qwenctl check MODEL --all"),
    ("x", N_("Remove"), N_("want this model no more; asks"), "qwenctl rm MODEL"),
    ("Tab", N_("Model"), N_("the next model"), "qwenctl ls"),
    ("?", N_("Help"), N_("this page"), "qwenctl --help"),
)


YES = ("y", "Y", "д", "Д")  # whatever the language: the keyboard's is another matter


def models_shown(status: Status, view: View) -> tuple[ModelStatus, ...]:
    """The models to show, in the daemon's order, narrowed to the wanted one if it was named."""
    return tuple(m for m in status.models.values() if matches(m, view.wanted))


def matches(model: ModelStatus, wanted: ModelRef | None) -> bool:
    """True if `model` is what was named: the same repository, and the same revision unless none was named."""
    if wanted is None:
        return True
    return model.repo == wanted.repo and (model.revision == wanted.revision or wanted.revision == "main")


def chosen(status: Status, view: View) -> ModelStatus | None:
    """The model to draw: the chosen one while it exists, else the first."""
    models = models_shown(status, view)
    return next((m for m in models if m.model == view.model), models[0] if models else None)


def press(view: View, key: str, character: str, status: Status) -> tuple[View, Action | None]:
    """What `key` (Textual's name of it) or the printable `character` does."""
    if key == "ctrl+c":
        return view, Leave(code=130)
    if view.typing:
        return _typed(view, key, character), None
    if view.help:
        return _with(view, help=view.help + 1 if character == "?" else 0), None
    if view.removing:
        yes = Order(verb="remove", model=view.removing) if character in YES else None
        return _with(view, removing=""), yes
    match character if character.isprintable() and character else key:
        case "q":
            return view, Leave(code=0)
        case "p" | "r" | "v" as letter:
            return view, _order(letter, view, status)
        case "/":
            return _with(view, typing=True), None
        case "?":
            return _with(view, help=1), None
        case "s":
            return _with(view, sort=_next_sort(view.sort)), None
        case "enter":
            return _looked(view, status)
        case "x":
            return _removed(view, status)
        case "a":
            return _with(view, all_files=not view.all_files), None
        case "escape":
            return _with(view, details=False) if view.details else _with(view, filter="", file=""), None
        case " " | "<" | ">" as sign:
            return view, _file_order(sign, view, status)
        case "+" | "=" | "-" as sign:
            return view, _limit(-1 if sign == "-" else 1, view, status)
        case "tab" | "right":
            return _next_model(view, status, 1), None
        case "shift+tab" | "left":
            return _next_model(view, status, -1), None
        case other:
            return _moved(view, other, status), None


def _order(letter: str, view: View, status: Status) -> Action:
    model = chosen(status, view)
    if model is None:
        return Say(text=_("no model to do this to"))
    paused = model.state == "paused"
    verb: Verb = "retry" if letter == "r" else "verify" if letter == "v" else "resume" if paused else "pause"
    if view.read_only:
        return Say(text=_read_only(f"{verb} {model.repo}"))
    return Order(verb=verb, model=model.model)


def _removed(view: View, status: Status) -> tuple[View, Action | None]:
    model = chosen(status, view)
    if model is None:
        return view, Say(text=_("no model to do this to"))
    if view.read_only:
        return view, Say(text=_read_only(f"{_COMMANDS['remove']} {model.repo}"))
    return _with(view, removing=model.model), None


def _looked(view: View, status: Status) -> tuple[View, Action | None]:
    """Open the details of the chosen file, or of the first one; close them."""
    if view.details:
        return _with(view, details=False), None
    file = chosen_file(status, view) or next(iter(files_shown(status, view)), None)
    if file is None:
        return view, Say(text=_("no file to look at (a: all files)"))
    return _with(view, details=True, file=file.path), None


def _model_priority(sign: str, view: View, status: Status) -> Action:
    model = chosen(status, view)
    if model is None:
        return Say(text=_("no model to do this to"))
    priority = _stepped(model.priority, sign)
    if view.read_only:
        return Say(text=_read_only(f"prio {model.repo} {priority}"))
    return Priority(model=model.model, priority=priority)


def _stepped(priority: int, sign: str) -> int:
    return min(PRIORITY_MAX, max(-PRIORITY_MAX, priority + (1 if sign == ">" else -1)))


def _file_order(sign: str, view: View, status: Status) -> Action:
    model, file = chosen(status, view), chosen_file(status, view)
    if model is None or file is None:
        return Say(text=_("choose a file first: up, down")) if sign == " " else _model_priority(sign, view, status)
    if sign == " ":
        order = FileOrder(verb="resume" if file.paused else "pause", model=model.model, path=file.path)
        words = f"{order.verb} {model.repo}"
    else:
        priority = _stepped(file.priority, sign)
        order = FileOrder(verb="prio", model=model.model, path=file.path, priority=priority)
        words = f"prio {model.repo} {priority}"
    if view.read_only:
        return Say(text=_read_only(f"{words} --file {shlex.quote(file.path)}"))
    return order


def _limit(direction: Literal[-1, 1], view: View, status: Status) -> Action:
    rate_bps = sum(model.rate_bps for model in status.models.values())
    limit_bps = next_limit_bps(status.limits.rate_limit_bps, rate_bps, direction)
    if view.read_only:
        return Say(text=_read_only(f"limit {limit_bps or 'off'}"))
    return Limit(rate_limit_bps=limit_bps)


def _read_only(words: str) -> str:
    return _("read-only; elsewhere: {command}", command=f"qwenctl {words}")


def _typed(view: View, key: str, character: str) -> View:
    match key:
        case "enter":
            return _with(view, typing=False)
        case "escape":
            return _with(view, typing=False, filter="")
        case "backspace":
            return _with(view, filter=view.filter[:-1])
        case _ if character and character.isprintable() and len(view.filter) < FILTER_MAX:
            return _with(view, filter=view.filter + character)
        case _:
            return view


def _next_model(view: View, status: Status, step: int) -> View:
    models = models_shown(status, view)
    current = chosen(status, view)
    if current is None:
        return view
    index = (models.index(current) + step) % len(models)
    return _with(view, model=models[index].model, file="", details=False)


def _next_sort(sort: Sort) -> Sort:
    names = tuple(SORTS)
    return names[(names.index(sort) + 1) % len(names)]


_STEPS = {"down": 1, "up": -1, "pagedown": 10, "pageup": -10, "home": -(10**6), "end": 10**6, "j": 1, "k": -1}


def _moved(view: View, key: str, status: Status) -> View:
    """The first key of all chooses the first (or last) file; the others move on from the chosen one."""
    files = files_shown(status, view)
    if key not in _STEPS or not files:
        return view
    paths = [file.path for file in files]
    step = _STEPS[key]
    index = paths.index(view.file) + step if view.file in paths else step - 1 if step > 0 else 0
    return _with(view, file=paths[min(len(paths) - 1, max(0, index))])


def files_shown(status: Status, view: View) -> list[FileStatus]:
    """The files of the drawn model that are listed, in the order in which they are drawn."""
    model = chosen(status, view)
    return listed_files(model, view.filter, with_verified=view.all_files, sort=view.sort) if model else []


def chosen_file(status: Status, view: View) -> FileStatus | None:
    """The chosen file of the drawn model: one that is listed, or the one whose details are open."""
    model = chosen(status, view)
    if model is not None and view.details and view.file in model.files:
        return model.files[view.file]  # it may be verified by now, and listed no more
    return next((file for file in files_shown(status, view) if file.path == view.file), None)


def _with(view: View, **changes: object) -> View:
    return msgspec.structs.replace(view, **changes)
