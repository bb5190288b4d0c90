"""What the documentation says is what the program does."""

from __future__ import annotations

import runpy
from pathlib import Path

import msgspec

from qwen_api import events

DOCS = Path(__file__).parent.parent / "docs"


def test_events_documentation_is_current() -> None:
    """docs/events.md and its schema are what docs/generate.py gives now; `make docs` writes them."""
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert generate["markdown"]() == (DOCS / "events.md").read_text()
    written = msgspec.json.decode((DOCS / "events.schema.json").read_bytes())
    assert msgspec.json.decode(msgspec.json.encode(generate["schema"]())) == written


def test_every_event_is_documented() -> None:
    """No event type is missing from docs/events.md, and each says what it means."""
    text = (DOCS / "events.md").read_text()
    assert [k for k in events.EVENT_TYPES if f"### `{k.__struct_config__.tag}`" not in text] == []
    assert [k for k in events.EVENT_TYPES if not (k.__doc__ or "").strip()] == []
