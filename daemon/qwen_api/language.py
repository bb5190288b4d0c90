"""The language that people are spoken to in: English as written in the sources, or Russian from the catalogue.

Strings are marked where they are used: `_("{ref} is not complete", ref=ref)`, `ngettext(...)` where something is
counted, `N_(...)` in a table that is made before the language is known (its reader calls `_`). Only a command's `main`
calls `speak`, and qwen-daemon works `in_english`, so what the daemon says (events, logs, answers) is English whatever
its locale. The catalogue, locale/ru/LC_MESSAGES/qwen-daemon.po, is kept by docs/catalogue.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported when a language other than English is spoken: 3 ms
    from gettext import GNUTranslations

LANGUAGES = ("en", "ru")
VARIABLE = "QWEN_LANG"
DOMAIN = "qwen-daemon"
LOCALE = Path(__file__).parent / "locale"

_catalogue: GNUTranslations | None = None  # None: English. One process speaks to one person.


def N_(message: str, plural: str = "") -> str:  # gettext's own name for it, which its tools know
    """Mark `message` (and its plural) for the catalogue and leave it as it is."""
    del plural
    return message


# What argparse of Python 3.11 to 3.14 says to people through gettext.
ARGPARSE = (
    N_("usage: "),
    N_("options"),
    N_("positional arguments"),
    N_("show this help message and exit"),
    N_("argument %(argument_name)s: %(message)s"),
    N_("invalid choice: %(value)r (choose from %(choices)s)"),
    N_("invalid %(type)s value: %(value)r"),
    N_("expected one argument"),
    N_("expected at most one argument"),
    N_("expected at least one argument"),
    N_("expected %s argument", "expected %s arguments"),
    N_("the following arguments are required: %s"),
    N_("one of the arguments %s is required"),
    N_("not allowed with argument %s"),
    N_("unrecognized arguments: %s"),
    N_("ambiguous option: %(option)s could match %(matches)s"),
    N_("ignored explicit argument %r"),
)


def _(message: str, **facts: object) -> str:
    """`message` in the language spoken, its `{...}` filled with `facts`."""
    text = _catalogue.gettext(message) if _catalogue and message else message  # "" is the catalogue's header
    return text.format(**facts) if facts else text


def ngettext(one: str, many: str, count: int, **facts: object) -> str:
    """As `_`, in the form that goes with `count`, which `{count}` stands for."""
    english = one if count == 1 else many
    text = _catalogue.ngettext(one, many, count) if _catalogue else english
    return text.format(count=count, **facts)


def decimal(text: str) -> str:
    """A number as Python writes it (`57.7`), with the decimal point of the language spoken."""
    return text.replace(".", ",") if _catalogue else text


def whole(number: int) -> str:
    """A whole number, its digits in groups where the language has them (`1 234 567`, with no-break spaces)."""
    return f"{number:,}".replace(",", "\u00a0") if _catalogue else str(number)


def spoken() -> str:
    """`en` or `ru`."""
    return "ru" if _catalogue else "en"


def choose(argv: Sequence[str], env: Mapping[str, str], encoding: str | None = "utf-8") -> str:
    """The language of a command: `--lang`, QWEN_LANG, then the locale's variables as gettext(3) reads them.

    With `--json` it is English, since what a program reads must not depend on who started it; and where only ASCII
    can be shown (`--ascii`, an `encoding` other than UTF-8, the Linux console).
    """
    own = argv[: argv.index("--")] if "--" in argv else argv
    is_utf8 = (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
    if "--json" in own or "--ascii" in own or not is_utf8 or env.get("TERM") == "linux":
        return "en"
    for index, word in enumerate(own):
        if word.startswith("--lang="):
            return _known(word.partition("=")[2])
        if word == "--lang" and index + 1 < len(own):
            return _known(own[index + 1])
    if given := env.get(VARIABLE, ""):
        return _known(given)
    locale = env.get("LC_ALL") or env.get("LC_MESSAGES") or env.get("LANG") or ""
    if locale.partition(".")[0] in ("", "C", "POSIX"):
        return "en"
    return _known(env.get("LANGUAGE", "").partition(":")[0] or locale)


def speak(language: str) -> None:
    """Use `language` from here on, argparse's own words included; English if there is no catalogue of it."""
    import argparse  # which every command has, and the daemon's engine need not

    global _catalogue
    _catalogue = None if language == "en" else _read(language)
    # Through gettext's own way, the environment, every child would inherit the choice.
    argparse._ = _  # type: ignore[attr-defined]  # the names under which it imports gettext's functions
    argparse.ngettext = ngettext  # type: ignore[attr-defined]


@contextmanager
def in_english() -> Iterator[None]:
    """English inside, whatever is spoken outside: for work whose words go into logs and to other programs."""
    before = spoken()
    speak("en")
    try:
        yield
    finally:
        speak(before)


def _read(language: str) -> GNUTranslations | None:
    import gettext

    try:
        found = gettext.translation(DOMAIN, LOCALE, [language])
    except OSError:
        return None
    assert isinstance(found, gettext.GNUTranslations), "gettext.translation gives nothing else"
    return found


def _known(name: str) -> str:
    short = name.partition(".")[0].partition("_")[0].lower()
    return short if short in LANGUAGES else "en"
