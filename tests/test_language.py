"""Two languages: the catalogue is whole, the language is chosen as documented, and both fit the screen."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import runpy
import string
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api.client import Follower, find_socket
from qwen_api.commands import Problem
from qwen_api.errors import ERRORS
from qwen_api.language import ARGPARSE, LANGUAGES, _, choose, ngettext, speak, spoken
from qwen_api.status import Status
from qwen_loader import text_of
from qwen_loader.assembly import Dropped, Loaded
from qwen_loader.gate import Waiting
from qwen_loader.words import STATES, for_daemon
from qwen_monitor import event_text as event_text_module
from qwen_monitor.amounts import Amounts
from qwen_monitor.control_arguments import make_parser
from qwen_monitor.display import (
    RATE_WIDTH,
    UNICODE,
    bytes_text,
    cell_width,
    duration_text,
    pair_text,
    percent_text,
    rate_text,
)
from qwen_monitor.event_text import WORD_WIDTH, event_text
from qwen_monitor.exits import refusal_of
from qwen_monitor.feed import Picture
from qwen_monitor.report_text import WORDS, Advice, report_lines
from qwen_monitor.rows import draw
from qwen_monitor.scene import Link, Scene, Size
from qwen_monitor.sentences import FILE_STATES, error_text
from qwen_monitor.status_text import status_lines
from qwen_monitor.summary import farewell
from qwen_monitor.view import KEYS, View
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon
from tests.terminal import Terminal
from tests.test_plain import followed
from tests.test_report_text import report_of, small
from tests.test_rows import status_of

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 11, 23, 14, 25, 50, tzinfo=UTC)
DETAIL = "27.6 GB more on /srv/hf"
MODULES = ("qwen_monitor.control", "qwen_monitor", "qwen_loader")
catalogue = runpy.run_path(str(ROOT / "docs" / "catalogue.py"))
USED = catalogue["extract"]()
KNOWN = catalogue["read_po"](catalogue["PO"].read_text(encoding="utf-8"))


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    speak(request.param)
    return str(request.param)


# The catalogue


def test_every_text_has_a_russian_form_and_none_is_left_over() -> None:
    """A string that is marked and not translated, fuzzy, or no longer used fails here; `make docs` finds them."""
    assert set(USED) - set(KNOWN) == set()
    assert set(KNOWN) - set(USED) == set()
    assert [entry.msgid for entry in KNOWN.values() if entry.is_fuzzy] == []
    assert [entry.msgid for entry in KNOWN.values() if not all(entry.texts)] == []


def test_plurals_have_three_forms_and_nothing_else_has() -> None:
    """1 файл, 2 файла, 5 файлов: where the source counts, the translation does."""
    assert {key: len(entry.texts) for key, entry in KNOWN.items()} == {
        key: catalogue["FORMS"] if entry.plural else 1 for key, entry in USED.items()
    }
    assert all(KNOWN[key].plural == entry.plural for key, entry in USED.items())


def test_translations_have_the_same_placeholders_and_edges() -> None:
    """A translation that lost `{ref}` or a leading space would fail only when somebody meets it."""
    for entry in KNOWN.values():
        for text in entry.texts:
            assert placeholders(text) == placeholders(entry.plural or entry.msgid), text
            assert edges(text) == edges(entry.msgid), text


def test_what_people_are_told_is_marked() -> None:
    """Help, hints and refusals are never bare strings: an unmarked one would stay English unnoticed."""
    bare = []
    daemon = ROOT / "daemon/qwen_daemon"
    own = (daemon / name for name in ("__main__.py", "complaints.py", "questions.py", "mirror/command.py"))
    checked = (daemon / "config.py", daemon / "endpoint_keys.py", ROOT / "loader/qwen_loader/arguments.py")
    for path in (*(ROOT / "monitor").rglob("*.py"), *own, *checked):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            bare += [f"{path.name}:{text.lineno}" for text in told(call) if is_sentence(text)]
    assert bare == []


def told(call: ast.Call) -> list[ast.expr]:
    """The arguments of `call` that people read."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = {
        "hint": call.args,
        "Refusal": call.args[1:],
        "UsageError": call.args,
        "complain": call.args[1:],
        "complain_of": call.args[1:],
        "BadConfig": call.args,
        "BadEndpoint": call.args,
    }.get(name, [])
    named = ("help", "description", "epilog", "text") if name != "Row" else ()
    return [*arguments, *(keyword.value for keyword in call.keywords if keyword.arg in named)]


def is_sentence(node: ast.expr) -> bool:
    """True for a string with words of ours in it, but for a command to type and for msgspec's way to name a key."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    text = "".join(texts).partition(" - at `")[0]
    return bool(re.search(r"[a-z]{2,} |[a-z] [a-z]{2,}", text)) and not text.startswith(("qwenctl ", "--"))


# One word for one thing: the one that is used, and those that mean the same.
CHOSEN = {"снапшот": ("снимок", "снимк"), "GPU": ("видеокарт",), "RAM": ("ОЗУ", "оперативн")} | {
    "конфигурация": ("настройк", "настроек"),
    "кеш": ("кэш",),
    "хеш": ("хэш",),
    "папка": ("директори", "каталог"),
    "код возврата": ("код выхода", "коды выхода", "кодом выхода"),
}


def test_one_thing_has_one_russian_word() -> None:
    """In the catalogue and in README.ru.md alike; a reader would look for a second thing behind a second word."""
    texts = [text for entry in KNOWN.values() for text in entry.texts]
    told = "\n".join([*texts, (ROOT / "README.ru.md").read_text(encoding="utf-8")])
    assert [word for word in CHOSEN if word[:5].lower() not in told.lower()] == []
    rejected = [word for words in CHOSEN.values() for word in words]
    assert [word for word in rejected if re.search(rf"\b{word}", told, re.IGNORECASE)] == []


def test_the_compiled_catalogue_is_current() -> None:
    """The .mo in the repository is what the .po gives: a clone needs no build step."""
    assert catalogue["compile_mo"](KNOWN.values()) == catalogue["MO"].read_bytes()


def test_the_catalogue_survives_being_read_and_written() -> None:
    """Quotes, backslashes and several lines come back from the .po as they were."""
    entry = catalogue["Entry"](msgid='a "b"\\\n  c\t{d}\n', texts=('х "у"\\\n  й\t{d}\n',), places=("x.py",))
    assert catalogue["read_po"](catalogue["write_po"]([entry])) == {
        entry.msgid: dataclasses.replace(entry, places=()),
    }


def placeholders(text: str) -> list[str]:
    named = [f"{name}!{conversion}:{spec}" for _, name, spec, conversion in string.Formatter().parse(text) if name]
    return sorted(set(named)) + sorted(re.findall(r"%(?:\(\w+\))?[sr]", text))


def edges(text: str) -> tuple[str, str]:
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


# The choice


@pytest.mark.parametrize(
    ("argv", "env", "chosen"),
    [
        ([], {}, "en"),
        ([], {"LANG": "ru_RU.UTF-8"}, "ru"),
        ([], {"LANG": "ru_RU.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ([], {"LANG": "en_GB.UTF-8", "LC_MESSAGES": "ru_UA.UTF-8"}, "ru"),
        ([], {"LANG": "de_DE.UTF-8"}, "en"),
        ([], {"LANG": "ru_RU.UTF-8", "LANGUAGE": "en:ru"}, "en"),
        ([], {"LANG": "C", "LANGUAGE": "ru"}, "en"),
        ([], {"LANG": "ru_RU.UTF-8", "QWEN_LANG": "en"}, "en"),
        (["check", "--lang", "ru"], {"QWEN_LANG": "en"}, "ru"),
        (["--lang=en", "ls"], {"LANG": "ru_RU.UTF-8"}, "en"),
        (["x", "--", "--lang", "ru"], {}, "en"),
        (["status", "--json"], {"QWEN_LANG": "ru"}, "en"),
        (["status", "--ascii"], {"QWEN_LANG": "ru"}, "en"),
        ([], {"QWEN_LANG": "ru", "TERM": "linux"}, "en"),
    ],
)
def test_the_language_is_the_flags_then_the_variables_then_the_locales(argv, env, chosen) -> None:
    """And English wherever a program reads, or only ASCII can be shown."""
    assert choose(argv, env) == chosen


def test_an_encoding_without_russian_letters_is_spoken_to_in_english() -> None:
    """Escapes of letters would help nobody."""
    assert choose([], {"QWEN_LANG": "ru"}, "ANSI_X3.4-1968") == "en"


def test_a_language_without_a_catalogue_is_english() -> None:
    """And going back to English leaves nothing behind."""
    speak("ru")
    assert spoken() == "ru"
    speak("tlh")
    assert spoken() == "en"


# Numbers


def test_russian_counts_units_and_decimal_commas() -> None:
    """As they are written in Russian, and as wide as in English."""
    speak("ru")
    assert [ngettext("{count} file", "{count} files", n) for n in (1, 2, 5, 11, 21, 22, 112)] == [
        *("1 файл", "2 файла", "5 файлов", "11 файлов", "21 файл", "22 файла", "112 файлов")
    ]
    assert bytes_text(57_700_000_000) == "57,7 ГБ" and bytes_text(485) == "485 Б"
    assert pair_text(30_100_000_000, 57_700_000_000) == "30,1/57,7 ГБ"
    assert rate_text(84_900_000) == "84,9 МБ/с"
    assert percent_text(521, 1000) == "52,1%"
    assert duration_text(5 * 86_400) == "5д 00ч"


# The screen


def scenes() -> list[Scene]:
    status = status_of(*download.half_way())
    stamped = [msgspec.structs.replace(event, ts="2026-11-23T14:25:40Z") for event in download.half_way()]
    events = tuple(text for event in stamped if (text := event_text(event)))
    failed = status_of(*download.half_way(), e.ModelStateChanged(model=download.MODEL, state="failed", code="E_GATED"))
    throttled = e.HubThrottled(origin="https://huggingface.co:443", retry_at=download.RETRY_AT)
    lost = Link(is_live=False, lost_s=14, retry_in_s=4, code="E_DAEMON_DOWN", why="why", fix="fix")
    return [
        Scene(status=status, events=events),
        Scene(status=status, events=events, view=View(all_files=True, file=download.ACTIVE)),
        Scene(status=status, view=View(help=1)),
        Scene(status=status, view=View(typing=True, filter="vae")),
        Scene(status=status, link=lost),
        Scene(status=failed),
        Scene(status=Status()),
        Scene(status=status, events=events, view=View(details=True, file=download.RETRYING)),
        Scene(status=status, view=View(removing=download.MODEL)),
        Scene(status=status_of(*download.half_way(), throttled), view=View(sort="size")),
    ]


@pytest.mark.parametrize("size", [Size(width=80, height=24), Size(width=60, height=16)], ids=["80x24", "60x16"])
def test_every_screen_fits_in_both_languages(language: str, size: Size) -> None:
    """No row is wider than the terminal, and no word of ours is cut: the ellipsis stands only in paths and details."""
    for scene in scenes():
        rows = draw(scene, size, NOW, UNICODE)
        assert len(rows) <= size.height
        assert [row.text for row in rows if cell_width(row.text) > size.width] == []
        ours = [row.text for row in rows if row.tone in ("head", "dim") and "/" not in row.text]
        assert [text for text in ours if "…" in text] == []


def crowded() -> Scene:
    """Everything that wants room at once: a stalled file, a failed one, a restart, bytes that were dropped."""
    events = [
        *download.half_way(),
        e.FileStarted(model=download.MODEL, path=THIRD, attempt=1, size_bytes=4_990_000_000),
        e.FileStalled(
            model=download.MODEL,
            path=THIRD,
            idle_s=18,
            next_at="2026-11-23T14:26:02.000Z",
            last_byte_at="2026-11-23T14:25:32.000Z",
        ),
        e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=90_000_000),
    ]
    status = status_of(*events)
    model = status.models[download.MODEL]
    amounts = Amounts(dropped_bytes=1_200_000_000, proven=frozenset({download.ACTIVE}), files=model.files)
    link = Link(restarts=1, back_s=2.0, away_s=12.0)
    told = tuple(text for event in events if (text := event_text(event)))
    return Scene(status=status, events=told, amounts=amounts, link=link)


THIRD = "text_encoder/model-00001-of-00002.safetensors"


@pytest.mark.parametrize("size", [Size(width=60, height=16), Size(width=80, height=24)], ids=["60x16", "80x24"])
def test_what_matters_most_is_on_a_small_screen_in_both_languages(language: str, size: Size) -> None:
    """State, share, rate, estimate, counts, free disk, components, three files, what happens next and when."""
    texts = [row.text for row in draw(crowded(), size, NOW, UNICODE)]
    whole = "\n".join(texts)
    words = {
        "en": ("DOWNLOADING", "free 412.0 GB", "1 retrying", "1 stalled", "the connection is cut in 0:12"),
        "ru": ("СКАЧИВАЕТСЯ", "свободно 412,0 ГБ", "повтор: 1", "замерло: 1", "соединение будет закрыто через 0:12"),
    }[language]
    assert all(word in whole for word in words)
    rate = "84.9 MB/s  ETA 4:42 ~14:30" if language == "en" else "84,9 МБ/с  ещё 4:42 ~14:30"
    assert rate in texts[2]
    assert "3/8" in texts[1]
    assert any("transformer 30%" in text or text.startswith(" ▶ transformer") for text in texts)
    files = [text for text in texts if text.startswith((" ↻ vae/", " ↻ text_encoder/", " ▶ transformer/"))]
    assert len(files) == 3
    dropped = "dropped 1.2 GB" if language == "en" else "отброшено 1,2 ГБ"
    assert (dropped in whole) == (size.width == 80)
    again = "was away 0:12" if language == "en" else "не отвечал 0:12"
    assert again in whole.replace("\n", "")


def test_components_have_their_verified_bytes_in_both_languages(language: str) -> None:
    """Beside files and bytes on disk, under a heading that stands over them."""
    texts = [row.text for row in draw(crowded(), Size(width=80, height=40), NOW, UNICODE)]
    title = "VERIFIED" if language == "en" else "ПРОВЕРЕНО"
    heading = next(text for text in texts if title in text)
    end = heading.index(title) + len(title)
    rows = texts[texts.index(heading) + 1 :]
    tokenizer = next(text for text in rows if text.startswith(" ✓ tokenizer"))
    assert tokenizer[end - 6 : end] == ("5.1 MB" if language == "en" else "5,1 МБ")
    vae = next(text for text in rows if text.startswith(" ↻ vae"))
    assert vae[:end].endswith("  0 B" if language == "en" else "  0 Б")


def test_the_columns_of_the_screen_are_aligned_in_both_languages(language: str) -> None:
    """Every row of the file list ends where its heading does."""
    rows = draw(scenes()[0], Size(width=80, height=24), NOW, UNICODE)
    texts = [row.text for row in rows]
    heading = next(i for i, text in enumerate(texts) if "DONE / SIZE" in text or "ЕСТЬ / РАЗМЕР" in text)
    assert len({len(text) for text in texts[heading : heading + 2]}) == 1


def test_every_key_is_explained_whole_on_80_columns(language: str) -> None:
    """The help page has room for each explanation and the command beside it."""
    texts = "\n".join(row.text for row in draw(scenes()[2], Size(width=80, height=24), NOW, UNICODE))
    assert "…" not in texts
    assert all(command in texts for *_, command in KEYS)
    assert ("the next model" in texts) == (language == "en")


def test_a_full_disk_is_told_whole_with_the_way_out_and_the_countdown(language: str) -> None:
    """At 80x24 and 60x16 the reason with its facts and the advice are there to the last word."""
    full = e.ModelStateChanged(
        model=download.MODEL, state="waiting", code="E_DISK_FULL", detail=DETAIL, retry_at="2026-11-23T14:26:32Z"
    )
    scene = Scene(status=status_of(*download.half_way(), full))
    for size in (Size(width=80, height=24), Size(width=60, height=16)):
        rows = [row.text for row in draw(scene, size, NOW, UNICODE)]
        text = " ".join(" ".join(row.split()) for row in rows)
        why, fix = (_(part) for part in ERRORS["E_DISK_FULL"])
        again = "again in 0:42" if language == "en" else "снова через 0:42"
        assert again in text
        assert f"{why} ({DETAIL})" in text.replace(f"{again} ", "")
        assert fix in text


def test_the_header_keeps_the_models_name(language: str) -> None:
    """Before it is shortened, how long the daemon runs is left out; a header that tells of a lost daemon has it too."""
    status = status_of(*download.half_way(), download.added("org--two", "org/two"))
    size = Size(width=80, height=24)
    name = "Qwen/Qwen-Image-Edit-2511@6f3ccc0b [1/2]"
    assert name in draw(Scene(status=status), size, NOW, UNICODE)[0].text
    lost = Link(is_live=False, lost_s=14, retry_in_s=4)
    header = draw(Scene(status=status, link=lost), size, NOW, UNICODE)[0].text
    assert "Qwen/" in header and "@6f3ccc0b [1/2]" in header and "0:14" in header and "0:04" in header


def test_the_lines_left_in_the_scrollback_fit_the_terminal(language: str) -> None:
    """Three lines are three rows, also with several models and a path that is long."""
    models = list(status_of(*download.half_way(), download.added("org--two", "org/two")).models.values())
    for width in (60, 80, 120):
        lines = farewell(models, Status(version="1.2.3", pid=4100), {}, NOW, width=width)
        assert [line for line in lines if cell_width(line) > width] == []
        assert len(lines) == 3 and "20.3%" in lines[0].replace(",", ".") and "qwen-monitor --once" in lines[1]
    alone = farewell(models[:1], Status(version="1.2.3", pid=4100), {}, NOW)
    assert "3/8" in alone[1] or "3 из 8" in alone[1]
    assert "text_en" in alone[1] and ".safetensors" in alone[1]


def test_the_states_of_files_fit_their_column(language: str) -> None:
    """Or the bar and the bytes before them would stand one cell further left than in the other rows."""
    assert [word for word in FILE_STATES.values() if cell_width(_(word)) > RATE_WIDTH] == []
    waits = [_(words, time="59:59") for words in ("retry {time}", "stall {time}", "fail {time}")]
    assert [word for word in waits if cell_width(word) > RATE_WIDTH + 1] == []


def test_the_words_of_event_lines_fit_their_column(language: str) -> None:
    """WORD_WIDTH is the widest of them, so that the lines below one another are aligned."""
    source = Path(event_text_module.__file__).read_text()
    words = [*re.findall(r'return _\("(\w+)"\),', source), "summary", "missed", "unknown", "restarted"]
    assert len(words) > 20
    shown = [word if language == "en" else KNOWN[word].texts[0] for word in words[:-1]]
    assert [word for word in shown if len(word) > WORD_WIDTH] == []


async def test_the_textual_screen_speaks_russian_and_fits(tmp_path: Path) -> None:
    """The real app, at both sizes."""
    pytest.importorskip("textual", reason="the monitor's screen is the extra [monitor]")
    from tests.test_monitor_app import drawn, make_app, settled, until

    speak("ru")
    with FakeDaemon(tmp_path, *download.half_way()) as daemon:
        for width, height in ((80, 24), (60, 16)):
            app = make_app(daemon)
            async with app.run_test(size=(width, height)) as pilot:
                await until(app, has_model)
                assert [line for line in drawn(app) if cell_width(line) > width] == []
                screen = "\n".join(drawn(app))
                assert "СКАЧИВАЕТСЯ" in screen and "84,9 МБ/с" in screen and "Справка" in screen
                await pilot.press("question_mark")
                await settled(app)
                assert "КЛАВИШИ" in "\n".join(drawn(app))


def has_model(picture: Picture) -> bool:
    return picture.link.is_live and download.MODEL in picture.status.models


# Lines


def test_plain_lines_are_russian_and_keep_their_columns(tmp_path: Path) -> None:
    """Time, word, text: the word's column is as wide as in English."""
    speak("ru")
    with FakeDaemon(tmp_path, *download.half_way()) as daemon:
        text = followed(daemon, "ГБ", since=0)
    lines = text.splitlines()
    assert any("сводка" in line and "ГБ" in line and "проверено 3 из 8 файлов" in line for line in lines)
    assert all(line[19] == " " and line[20 + WORD_WIDTH] == " " for line in lines)
    assert "downloading" not in text and "verified" not in text


def test_the_report_and_the_status_fit_80_columns(language: str, tmp_path: Path) -> None:
    """Every line but the command to type, which must be whole, and the one-line summary, which wraps as it likes."""
    cut = {path: content[: len(content) // 2] for path, content in small().items()}
    reports = [
        report_of(tmp_path / "nothing", {"x": b"1"}, small()),
        report_of(tmp_path / "cut", cut, small()),
        report_of(tmp_path / "unlisted", {**small(), "vae/config.json": b"<html>"}, None),
        report_of(tmp_path / "whole", small(), small()),
    ]
    advice = Advice(command="qwenctl download X/Y", fetch_bytes=10**12, free_bytes=10**11, place="/srv/" + "x" * 60)
    lines = [line for report in reports for line in report_lines(report, advice, signs=WORDS, all_files=True)]
    model = status_of(*download.half_way()).models[download.MODEL]
    lines += status_lines(model, WORDS)[1:]
    assert [line for line in lines if cell_width(line) > 80 and "qwenctl" not in line] == []
    assert any("Model complete: no" in line for line in lines) == (language == "en")
    assert len(farewell([model], Status(), {}, NOW)) == 3


def test_what_the_daemon_refuses_is_told_by_its_code() -> None:
    """Its own English words follow for their facts; without a sentence for the code they are all there is."""
    problem = Problem(code="E_DISK_FULL", title="it could not be done", detail=DETAIL, fix="free it", status=503)
    speak("ru")
    refusal = refusal_of(problem)
    assert refusal.what == "выполнить не удалось"
    assert refusal.why == "на диске не хватает места (27.6 GB more on /srv/hf)"
    assert refusal.fix.startswith("освободите место")
    unknown = refusal_of(Problem(code="E_NEWER", title="something new", detail="a fact", fix="a way out", status=500))
    assert (unknown.what, unknown.why, unknown.fix) == ("something new", "a fact", "a way out")


def test_every_error_code_has_its_three_lines(language: str) -> None:
    """What, why and what to do, with the code as it is in every language."""
    for code in ERRORS:
        first, why, fix = error_text(code, "x").splitlines()
        assert f"[{code}]" in first
        assert why.startswith("  why: " if language == "en" else "  почему: ")
        assert fix.startswith("  fix: " if language == "en" else "  что делать: ")


# The commands


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    bare = {k: v for k, v in os.environ.items() if k not in ("QWEN_LANG", "LANG", "LC_ALL", "LC_MESSAGES", "LANGUAGE")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=bare | {"COLUMNS": "80", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_help_fits_80_columns_and_has_no_word_of_the_other_language(lang: str) -> None:
    """argparse's own words included."""
    pages = [command(module, "--help", QWEN_LANG=lang).stdout for module in MODULES]
    of_daemon = ((), ("mirror",), ("listing",), ("probe",), ("config",))
    pages += [command("qwen_daemon", *words, "--help", QWEN_LANG=lang).stdout for words in of_daemon]
    os.environ["COLUMNS"] = "80"
    speak(lang)
    pages += [parser.format_help() for parser in make_parser()[1].values()]
    assert len(pages) > 15
    for page in pages:
        assert [line for line in page.splitlines() if len(line) > 80] == []
        english = ("usage:", "options:", "positional arguments", "exit codes", "examples:", "example:", "show t")
        assert any(word in page for word in english) == (lang == "en"), page


def test_the_locale_chooses_and_the_flag_wins(tmp_path: Path) -> None:
    """LANG=ru_RU.UTF-8 need not be generated on the machine."""
    gone = str(tmp_path / "none.sock")
    asked = partial(command, "qwen_monitor.control", "ls", "--socket", gone, LANG="ru_RU.UTF-8")
    assert asked().stderr.startswith("ошибка[E_DAEMON_DOWN]: ")
    english = command("qwen_monitor.control", "ls", "--socket", gone, "--lang", "en", LANG="ru_RU.UTF-8")
    assert english.stderr.startswith("error[E_DAEMON_DOWN]: ")
    assert asked().returncode == english.returncode == 69


def test_mistakes_on_the_command_line_are_told_in_russian() -> None:
    """Ours and argparse's."""
    typo = command("qwen_monitor.control", "chek", QWEN_LANG="ru").stderr
    assert "нет команды 'chek'" in typo and "может быть: qwenctl check" in typo
    missing = command("qwen_monitor.control", "rm", QWEN_LANG="ru").stderr
    assert "не хватает аргументов: MODEL" in missing
    choice = command("qwen_monitor.control", "check", "--verify", "no", QWEN_LANG="ru").stderr
    assert "недопустимое значение: 'no'" in choice


def test_a_choice_of_language_is_not_inherited() -> None:
    """What qwen-loader becomes, and every other child, has the environment that it would have had."""
    before = dict(os.environ)
    speak("ru")
    assert dict(os.environ) == before


def test_the_loaders_errors_are_told_by_their_code(tmp_path: Path) -> None:
    """Three lines, the code as it is, and the exit code of every language."""
    gone = ("--socket", str(tmp_path / "none.sock"), "--cache-dir", str(tmp_path))
    run = command("qwen_loader", "org/name", "--timeout", "0", *gone, QWEN_LANG="ru")
    assert "ошибка[E_DAEMON_DOWN]: org/name: не готово" in run.stderr and "  что делать: " in run.stderr
    assert run.returncode == 69


def test_json_is_the_same_in_every_language(tmp_path: Path) -> None:
    """Programs must not depend on who started them: keys, codes and sentences are English."""
    words = ("qwen_monitor.control", "check", str(tmp_path), "--json")
    russian, english = command(*words, QWEN_LANG="ru"), command(*words, QWEN_LANG="en")
    told = [re.sub(r'"free_bytes":\d+', "", run.stdout) for run in (russian, english)]
    assert told[0] == told[1] and '"complete":false' in told[0]


def test_the_daemon_speaks_english_to_programs_whatever_its_locale() -> None:
    """Where stderr is no terminal its words go to the journal, and to clients that may speak another language."""
    said = command("qwen_daemon", "listing", "org/name", QWEN_LANG="ru", LANG="ru_RU.UTF-8", LANGUAGE="ru").stderr
    assert said.startswith("error[E_") and "why: " in said


def test_the_daemon_speaks_to_a_person_at_a_terminal_in_the_locales_language() -> None:
    """The three lines of an error; `--lang` goes before the locale, and counts without a terminal too."""
    words = (sys.executable, "-m", "qwen_daemon", "mirorr")
    with (
        Terminal(words, LANG="ru_RU.UTF-8") as russian,
        Terminal((*words, "--lang", "en"), LANG="ru_RU.UTF-8") as other,
    ):
        assert russian.end() == other.end() == 2
        told, also = russian.output.decode(), other.output.decode()
    assert "ошибка[E_USAGE]" in told and "что делать: может быть: qwen-daemon mirror" in told
    assert "error[E_USAGE]" in also and "fix: did you mean: qwen-daemon mirror" in also
    asked = command("qwen_daemon", "mirror", "--lang", "ru", "--listen", "nowhere", ".")
    assert asked.stderr.splitlines()[1] == "  почему: нужен вид HOST:PORT"
    assert asked.returncode == 2


def test_the_daemons_log_is_english_where_its_last_words_are_not(tmp_path: Path) -> None:
    """A log is searched and sent to others; the error at the end is for who typed the command."""
    places = ("--cache-dir", str(tmp_path), "--state-dir", str(tmp_path / "s"), "--socket", str(tmp_path / "s.sock"))
    run = command("qwen_daemon", "--once", "org/name", "--lang", "ru", *places)
    *log, what, why, fix = run.stderr.splitlines()
    assert any("E_OFFLINE" in line for line in log) and "\n".join(log).isascii()
    assert what == "ошибка[E_OFFLINE]: org/name: скачано не всё"
    assert why.startswith("  почему: демону запрещено пользоваться сетью (the Hub may not be asked")
    assert fix == "  что делать: уберите HF_HUB_OFFLINE или принесите файлы другим путём"
    assert run.returncode == 4


def test_what_the_daemon_prints_for_programs_is_the_same_in_every_language(tmp_path: Path) -> None:
    """What a probe found, and the configuration in force."""
    (tmp_path / "config.toml").write_text("offline = true\n")
    for words in (("probe", "org/name"), ("config",)):
        told = {
            command("qwen_daemon", *words, "--lang", lang, QWEN_DAEMON_CONFIG=str(tmp_path / "config.toml")).stdout
            for lang in LANGUAGES
        }
        assert len(told) == 1 and "{" in min(told)


def test_a_mistake_in_the_configuration_is_told_in_russian(tmp_path: Path) -> None:
    """By the daemon itself and by qwenctl, which reads the code in what its child says in English."""
    path = tmp_path / "config.toml"
    path.write_text('endpoints = ["lam"]\n[mirrors]\nlan = "http://10.0.0.5:8090"\n')
    own = command("qwen_daemon", "--config", str(path), "--lang", "ru")
    assert own.stderr.startswith("ошибка[E_CONFIG]: конфигурацию использовать нельзя\n")
    assert "нет зеркала с именем 'lam'; может быть, 'lan'? - at `$.endpoints`" in own.stderr
    through = command("qwen_monitor.control", "config", "show", QWEN_DAEMON_CONFIG=str(path), QWEN_LANG="ru")
    assert through.stderr.startswith("ошибка[E_CONFIG]: ") and "there is no endpoint 'lam'" in through.stderr
    assert own.returncode == through.returncode == 78


def test_argparses_words_are_those_that_it_uses() -> None:
    """A word that this Python's argparse no longer says would be translated for nobody."""
    import argparse

    source = Path(argparse.__file__).read_text()
    assert [word for word in ARGPARSE if word not in source.replace("'\n                      '", "")] == []


def test_the_follower_is_not_confused_by_the_language(tmp_path: Path) -> None:
    """Nothing decides by a translated word: the state folded from events is the same."""
    speak("ru")
    with FakeDaemon(tmp_path, *download.half_way()) as daemon:
        follower = Follower(partial(find_socket, {}, daemon.control), since=0)
        for _line in follower:
            if follower.status.models:
                break
        follower.close()
    assert follower.status.models[download.MODEL].state == "downloading"


def test_the_loaders_progress_lines_are_russian_and_what_the_daemon_hears_is_not(language: str) -> None:
    """Numbers, states and labels; a failure is told to the daemon by its code."""
    waiting = Waiting(code="", why=_(STATES["downloading"]), size_bytes=57_700_000_000, done_bytes=30_100_000_000)
    loaded = Loaded(component="vae", loaded_bytes=253_800_000)
    lines = [text_of(news) for news in (waiting, loaded, Dropped(components=("vae",), why=_("the wait was ended")))]

    assert (
        lines
        == {
            "en": [
                "waiting: 52 % 30.1/57.7 GB, the daemon downloads it",
                "loading: vae, 253.8 MB",
                "freed: vae: the wait was ended",
            ],
            "ru": [
                "ожидание: 52 % 30,1/57,7 ГБ, демон её скачивает",
                "загрузка: vae, 253,8 МБ",
                "освобождено: vae: ожидание прервано",
            ],
        }[language]
    )
    assert for_daemon("E_NO_ROOM", lines[0]).isascii()
