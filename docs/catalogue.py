"""Keep the translations: read the marked strings out of the sources, merge them into the .po, compile the .mo.

`python docs/catalogue.py` (`make docs`) adds what is new, untranslated, to the .po, drops what is used no more, and
writes the .mo that is committed beside it. Tests fail on a string that is missing, fuzzy or unused, and on a stale .mo.
The formats are GNU gettext's (gettext manual, "PO Files", "MO Files"); Poedit and msgfmt read them too.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("daemon/qwen_api", "daemon/qwen_daemon", "monitor/qwen_monitor", "loader/qwen_loader")
FOLDER = ROOT / "daemon/qwen_api/locale/ru/LC_MESSAGES"
PO, MO = FOLDER / "qwen-daemon.po", FOLDER / "qwen-daemon.mo"
HEADER = """\
Content-Type: text/plain; charset=UTF-8
Language: ru
Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);
"""
FORMS = 3  # of a Russian plural: 1 файл, 2 файла, 5 файлов

_FUNCTIONS = {"_": 1, "N_": 2, "ngettext": 2}  # how many arguments of each are messages at most


@dataclass(frozen=True)
class Entry:
    """One message: `texts` has one translation, or one for each plural form; "" where there is none."""

    msgid: str
    plural: str = ""
    texts: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    is_fuzzy: bool = False


@dataclass
class _Block:
    fields: dict[str, str] = field(default_factory=dict)
    is_fuzzy: bool = False


def extract() -> dict[str, Entry]:
    """Every marked string of the sources, with the files that use it."""
    found: dict[str, Entry] = {}
    for path in _source_files():
        place = str(path.relative_to(ROOT))
        for entry in _marked(ast.parse(path.read_text(encoding="utf-8")), place):
            before = found.get(entry.msgid, entry)
            places = dict.fromkeys((*before.places, place))
            found[entry.msgid] = replace(entry, plural=entry.plural or before.plural, places=tuple(places))
    return found


def read_po(text: str) -> dict[str, Entry]:
    """The messages of a .po file, without its header."""
    entries = (_entry(block) for block in _blocks(text.splitlines()))
    return {entry.msgid: entry for entry in entries if entry.msgid}


def write_po(entries: Iterable[Entry]) -> str:
    """The text of the .po file."""
    header = ["# Russian. Kept by docs/catalogue.py: translate here, then `make docs`.", 'msgid ""', 'msgstr ""']
    header += [_quoted(line + "\n") for line in HEADER.splitlines()]
    return "\n\n".join(["\n".join(header), *map(_written, entries)]) + "\n"


def compile_mo(entries: Iterable[Entry]) -> bytes:
    """The .mo file: messages sorted by their bytes, untranslated and fuzzy ones left out."""
    pairs = {b"": HEADER.encode()}
    for entry in entries:
        if all(entry.texts) and entry.texts and not entry.is_fuzzy:
            key = f"{entry.msgid}\0{entry.plural}" if entry.plural else entry.msgid
            pairs[key.encode()] = "\0".join(entry.texts).encode()
    keys = sorted(pairs)
    tables, strings = b"", b""
    begin = 28 + 16 * len(keys)
    for texts in (keys, [pairs[key] for key in keys]):
        for text in texts:
            tables += struct.pack("<II", len(text), begin + len(strings))
            strings += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0) + tables + strings


def merged() -> list[Entry]:
    """What the sources mark, with the translations that the .po has."""
    known = read_po(PO.read_text(encoding="utf-8")) if PO.exists() else {}
    entries = []
    for msgid, entry in extract().items():
        old = known.get(msgid)
        is_same = old is not None and bool(old.plural) == bool(entry.plural)
        blank = ("",) * (FORMS if entry.plural else 1)
        entries.append(
            replace(entry, texts=old.texts if old and is_same else blank, is_fuzzy=bool(old and old.is_fuzzy))
        )
    return entries


def main() -> None:
    """Write both files."""
    entries = merged()
    FOLDER.mkdir(parents=True, exist_ok=True)
    PO.write_text(write_po(entries), encoding="utf-8")
    MO.write_bytes(compile_mo(entries))
    missing = [entry.msgid for entry in entries if not all(entry.texts)]
    if missing:
        print(f"{len(missing)} without a translation, such as {missing[0]!r}: see {PO.relative_to(ROOT)}")


def _source_files() -> Iterator[Path]:
    for source in SOURCES:
        path = ROOT / source
        yield from sorted(path.rglob("*.py")) if path.is_dir() else (path,)


def _marked(tree: ast.Module, place: str) -> Iterator[Entry]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        assert isinstance(call.func, ast.Name)
        texts = call.args[: _FUNCTIONS.get(call.func.id, 0)]
        words = [a.value for a in texts if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if words:
            yield Entry(msgid=words[0], plural=words[1] if len(words) > 1 else "", places=(place,))


def _blocks(lines: Iterable[str]) -> Iterator[_Block]:
    block, name = _Block(), ""
    for line in (*lines, ""):
        if line.startswith("#,"):
            block.is_fuzzy = block.is_fuzzy or "fuzzy" in line
        elif line.startswith('"'):
            block.fields[name] += ast.literal_eval(line)
        elif line and not line.startswith("#"):
            name, _, quoted = line.partition(" ")
            block.fields[name] = ast.literal_eval(quoted)
        elif not line and block.fields:
            yield block
            block = _Block()


def _entry(block: _Block) -> Entry:
    fields = block.fields
    texts = tuple(fields[name] for name in sorted(fields) if name.startswith("msgstr"))
    return Entry(
        msgid=fields["msgid"],
        plural=fields.get("msgid_plural", ""),
        texts=texts,
        is_fuzzy=block.is_fuzzy,
    )


def _written(entry: Entry) -> str:
    lines = [f"#: {' '.join(entry.places)}"]
    lines += ["#, fuzzy"] if entry.is_fuzzy else []
    lines.append(f"msgid {_many(entry.msgid)}")
    if entry.plural:
        lines.append(f"msgid_plural {_many(entry.plural)}")
        lines += [f"msgstr[{index}] {_many(text)}" for index, text in enumerate(entry.texts)]
    else:
        lines.append(f"msgstr {_many(entry.texts[0])}")
    return "\n".join(lines)


def _many(text: str) -> str:
    """A string of several lines as gettext's tools write it: one quoted string for each."""
    parts = text.splitlines(keepends=True)
    return "\n".join(['""', *map(_quoted, parts)]) if len(parts) > 1 else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


if __name__ == "__main__":
    main()
