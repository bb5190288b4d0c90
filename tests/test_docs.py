"""What the documentation says is what the program does."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import msgspec
import pytest

from qwen_api import events
from qwen_api.errors import ERRORS
from qwen_loader import words
from qwen_monitor import exits
from tests import readme

DOCS = Path(__file__).parent.parent / "docs"
SOURCES = ("daemon", "monitor", "loader")


def test_events_documentation_is_current() -> None:
    """docs/events.md and its schema are what docs/generate.py gives now; `make docs` writes them."""
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert generate["markdown"]() == (DOCS / "events.md").read_text()
    written = msgspec.json.decode((DOCS / "events.schema.json").read_bytes())
    assert msgspec.json.decode(msgspec.json.encode(generate["schema"]())) == written


def test_errors_documentation_is_current() -> None:
    """docs/errors.md is what docs/generate.py gives now; `make docs` writes it."""
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert generate["errors_markdown"]() == (DOCS / "errors.md").read_text()


def test_the_monitors_pictures_are_current() -> None:
    """docs/pictures/*.svg are what the program draws now, in both languages; `make docs` writes them."""
    pictures = runpy.run_path(str(DOCS / "pictures.py"))
    drawn = pictures["pictures"]()
    assert {path.name for path in pictures["FOLDER"].iterdir()} == set(drawn)
    assert [name for name, picture in drawn.items() if (pictures["FOLDER"] / name).read_text("utf-8") != picture] == []


def test_both_readmes_show_the_pictures_of_their_language() -> None:
    """And only files that are there."""
    for path, language in ((readme.ENGLISH, "en"), (readme.RUSSIAN, "ru")):
        shown = re.findall(r"\]\((docs/pictures/[^)]+)\)", path.read_text("utf-8"))
        assert {name.rsplit(".", 2)[1] for name in shown} == {language}
        assert set(shown) == {f"docs/pictures/{p.name}" for p in (DOCS / "pictures").glob(f"*.{language}.svg")}


def test_every_error_code_is_documented() -> None:
    """A code that the sources give is in docs/errors.md, and a code that stands there is given by some source."""
    tables = {"errors.py", "loader_errors.py", "exits.py", "words.py"}
    sources = [p for root in SOURCES for p in (DOCS.parent / root).rglob("*.py") if p.name not in tables]
    given = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"E_[A-Z_]+", node.value)
    }
    documented = set(re.findall(r"^\| `(E_[A-Z_]+)` ", (DOCS / "errors.md").read_text(), re.M))
    assert given - documented == set()
    assert documented - given == set()
    assert documented == set(ERRORS)


def test_every_exit_code_belongs_to_a_documented_error() -> None:
    """The two tables of exit codes name no code that does not exist."""
    assert set(exits._BY_CODE) | set(words._EXITS) | set(words.FIXES) <= set(ERRORS)


def test_the_fault_matrix_is_current_and_leaves_no_row_unexplained() -> None:
    """docs/reliability.md is what `make docs` writes; each row has a test or says why not; each marker names a row."""
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert generate["reliability"]() == (DOCS / "reliability.md").read_text(encoding="utf-8")
    rows = {row: words for group in generate["fault_groups"]().values() for row, words in group.items()}
    shown = {row for test in generate["fault_tests"]() for row in test.rows}
    explained = {row for row, words in rows.items() if row != "title" and "untested" in words}
    assert shown <= rows.keys(), "markers of rows that are not in docs/faults.toml"
    assert shown.isdisjoint(explained), "shown, and said not to be"
    assert shown | explained | {"title"} == rows.keys(), "neither shown nor explained"


def test_every_event_is_documented() -> None:
    """No event type is missing from docs/events.md, and each says what it means."""
    text = (DOCS / "events.md").read_text()
    assert [k for k in events.EVENT_TYPES if f"### `{k.__struct_config__.tag}`" not in text] == []
    assert [k for k in events.EVENT_TYPES if not (k.__doc__ or "").strip()] == []


def test_both_readmes_have_the_same_code() -> None:
    """Block by block and line by line; only comments are translated, and the translation drops none."""
    english, russian = readme.blocks(readme.ENGLISH), readme.blocks(readme.RUSSIAN)
    assert [readme.without_comments(b) for b in english] == [readme.without_comments(b) for b in russian]
    assert [b.count("# ") for b in english] == [b.count("# ") for b in russian]
    assert len(english) > 10


def test_both_readmes_have_the_same_structure() -> None:
    """Headings of the same depth in the same order, and each links to the other."""
    english, russian = (path.read_text(encoding="utf-8") for path in (readme.ENGLISH, readme.RUSSIAN))
    depths = [
        re.findall(r"^(#+) ", re.sub(r"^    .*", "", text, flags=re.M), flags=re.M) for text in (english, russian)
    ]
    assert depths[0] == depths[1]
    assert "](README.ru.md)" in english and "](README.md)" in russian


@pytest.mark.parametrize("path", [readme.ENGLISH, readme.RUSSIAN], ids=lambda path: path.name)
def test_links_of_the_readmes_lead_somewhere(path: Path) -> None:
    """Files exist; an anchor is a heading of the same file, in GitHub's spelling."""
    text = path.read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (readme.ROOT / target).exists(), target


def test_make_knows_every_target_that_the_readmes_name() -> None:
    """And `make help` lists them."""
    makefile = (readme.ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(readme.commands())))
    assert {"run", "test", "test-system", "install-user"} <= named
    assert [target for target in named if not re.search(rf"^{target}:.*## ", makefile, re.M)] == []
