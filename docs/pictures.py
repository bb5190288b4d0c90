"""Draw docs/pictures/*.svg: what qwen-monitor shows of a download half-way, at two sizes and in two languages.

The rows are the program's own (`qwen_monitor.rows.draw`), from made-up events and a clock that stands still, so the
same program gives the same pictures: `python docs/pictures.py` (`make docs`) writes them, a test compares them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

from qwen_api import events as e
from qwen_api.commands import Connection, Whereabouts
from qwen_api.language import LANGUAGES, speak
from qwen_api.status import Status, fold
from qwen_monitor.display import UNICODE, cell_width
from qwen_monitor.event_text import EventText, event_text
from qwen_monitor.pace import Pace
from qwen_monitor.row import Row, Tone
from qwen_monitor.rows import draw
from qwen_monitor.scene import Scene, Size
from qwen_monitor.view import View

FOLDER = Path(__file__).parent / "pictures"
NOW = datetime(2026, 11, 23, 14, 25, 53, tzinfo=UTC)
MODEL, REPO = "Qwen--Qwen-Image-Edit-2511", "Qwen/Qwen-Image-Edit-2511"
COMMIT = "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9"
HOST = "cas-bridge.xethub.hf.co"
MB = 1_000_000

SIZES = {
    "model_index.json": 512,
    "scheduler/scheduler_config.json": 485,
    **{f"tokenizer/{name}": size for name, size in (("merges.txt", 1_671_853), ("vocab.json", 2_776_833))},
    "tokenizer/tokenizer_config.json": 4_686,
    "processor/tokenizer.json": 11_421_896,
    "processor/preprocessor_config.json": 788,
    "text_encoder/config.json": 3_217,
    "text_encoder/model.safetensors.index.json": 57_655,
    **{f"text_encoder/model-0000{n + 1}-of-00004.safetensors": s * MB for n, s in enumerate((4968, 4991, 4932, 1691))},
    "transformer/config.json": 339,
    "transformer/diffusion_pytorch_model.safetensors.index.json": 198_887,
    **{
        f"transformer/diffusion_pytorch_model-0000{n + 1}-of-00005.safetensors": s * MB
        for n, s in enumerate((9973, 9988, 9940, 9961, 990))
    },
    "vae/config.json": 730,
    "vae/diffusion_pytorch_model.safetensors": 253_806_966,
}
FETCHED = tuple(f"transformer/diffusion_pytorch_model-0000{n}-of-00005.safetensors" for n in (1, 2))
ACTIVE = {  # bytes on disk, bytes per second
    "transformer/diffusion_pytorch_model-00003-of-00005.safetensors": (6_120 * MB, 31 * MB),
    "transformer/diffusion_pytorch_model-00004-of-00005.safetensors": (1_820 * MB, 30 * MB),
    "text_encoder/model-00001-of-00004.safetensors": (2_200 * MB, 24 * MB),
}
SILENT, RETRIED = "text_encoder/model-00002-of-00004.safetensors", "vae/diffusion_pytorch_model.safetensors"
LOOKED_AT = next(iter(ACTIVE))

COLOURS: dict[Tone, str] = {
    "plain": "#d0d7de",
    "head": "#ffffff",
    "good": "#56d364",
    "active": "#56d4dd",
    "bad": "#ff7b72",
    "warn": "#e3b341",
    "dim": "#8b949e",
}
CELL_WIDTH, CELL_HEIGHT, MARGIN = 8.4, 18, 12


def ago(seconds: float) -> str:
    """A time of the past, as an event has it."""
    return (NOW - timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def happened() -> Iterator[e.Event]:
    """The events behind the pictures, oldest first."""
    listed = tuple(e.ListedFile(path=path, size_bytes=size, etag="0" * 40) for path, size in SIZES.items())
    yield e.ModelAdded(model=MODEL, repo=REPO, revision="main", ts=ago(845))
    yield e.ModelResolved(model=MODEL, commit=COMMIT, files=listed, size_bytes=sum(SIZES.values()), ts=ago(842))
    yield e.ModelStateChanged(model=MODEL, state="downloading", ts=ago(841))
    yield e.LimitsChanged(max_files=8, max_connections=16, ts=ago(845))
    for path, size in SIZES.items():
        if size < 20 * MB:
            yield fetched(path, 838, 1)
    for number, path in enumerate(FETCHED):
        yield fetched(path, 130 - 118 * number, 118)
    for path, (done_bytes, rate_bps) in ACTIVE.items():
        yield e.FileStarted(model=MODEL, path=path, attempt=1, size_bytes=SIZES[path], ts=ago(120))
        yield progress(path, done_bytes, rate_bps)
    trouble = e.FileRetry(
        model=MODEL,
        path=LOOKED_AT,
        attempt=2,
        attempts_max=4,
        retry_at=ago(45),
        code="E_CUT_SHORT",
        detail="the connection ended in the middle of the file",
        ts=ago(47),
    )
    yield trouble
    started = e.FileStarted(model=MODEL, path=LOOKED_AT, attempt=2, size_bytes=SIZES[LOOKED_AT], ts=ago(45))
    yield msgspec.structs.replace(started, offset_bytes=4_700 * MB)
    yield progress(LOOKED_AT, *ACTIVE[LOOKED_AT])
    yield progress(SILENT, 712 * MB, 0)
    yield e.FileStalled(model=MODEL, path=SILENT, idle_s=10, next_at=ago(-12), last_byte_at=ago(18), ts=ago(8))
    yield progress(RETRIED, 41 * MB, 0)
    yield e.FileRetry(
        model=MODEL,
        path=RETRIED,
        attempt=3,
        attempts_max=4,
        retry_at=ago(-7),
        code="E_NETWORK",
        detail=f"cannot connect to {HOST}:443: connection reset by peer",
        ts=ago(1),
    )
    yield e.DiskChanged(path="/srv/hf", state="ok", free_bytes=412_000 * MB, needed_bytes=27_600 * MB, ts=ago(400))
    yield e.LoaderChanged(name="image-api", state="waiting", model=MODEL, pid=4121, device="cuda:0", ts=ago(300))


def fetched(path: str, seconds_ago: float, duration_s: float) -> e.FileVerified:
    """A file that came and is right."""
    return e.FileVerified(
        model=MODEL,
        path=path,
        size_bytes=SIZES[path],
        algorithm="sha256",
        received_bytes=SIZES[path],
        duration_s=duration_s,
        ts=ago(seconds_ago),
    )


def progress(path: str, done_bytes: int, rate_bps: int) -> e.FileProgress:
    """A file that is on its way."""
    return e.FileProgress(
        model=MODEL,
        path=path,
        done_bytes=done_bytes,
        size_bytes=SIZES[path],
        received_bytes=done_bytes,
        durable_bytes=done_bytes,
        rate_bps=rate_bps,
    )


def pace(received_bytes: int) -> Pace:
    """Ten minutes of a line that is mostly full, and once was not."""
    rates = [84.9 * MB * (0.9 + 0.1 * math.sin(s / 23)) * (0.25 if 250 < s < 280 else 1.0) for s in range(600)]
    samples, count = [(600.0, received_bytes)], float(received_bytes)
    for second in reversed(range(600)):
        count -= rates[second]
        samples.append((float(second), int(count)))
    return Pace(samples=tuple(reversed(samples)))


def whereabouts() -> Whereabouts:
    """Where the bytes of the file are whose details are drawn."""
    size, hashed = SIZES[LOOKED_AT], 5_640 * MB
    leases = [(5_940, 6_210, 5_985), (6_210, 6_480, 6_330), (6_480, 6_750, 6_510)]
    return Whereabouts(
        etag="0" * 64,
        endpoint="https://huggingface.co",
        host=HOST,
        hashed_bytes=hashed,
        durable_bytes=6_050 * MB,
        present=((0, 5_985 * MB), (6_210 * MB, 6_330 * MB), (6_480 * MB, 6_510 * MB), (9_500 * MB, size)),
        connections=tuple(
            Connection(start=start * MB, end=end * MB, position=at * MB, rate_bps=(10 + number) * MB)
            for number, (start, end, at) in enumerate(leases)
        ),
    )


def scenes() -> dict[str, tuple[Scene, Size]]:
    """What is drawn, by the picture's name, in the language spoken."""
    status = Status(version="1.0.0", pid=4100, started_at=ago(842))
    texts: list[EventText] = []
    for seq, event in enumerate(happened(), 1):
        stamped = msgspec.structs.replace(event, seq=seq)
        status = fold(status, stamped)
        if text := event_text(stamped):
            texts.append(text)
    texts.sort(key=lambda text: text.ts)
    whole = Scene(status=status, events=tuple(texts), pace=pace(status.models[MODEL].received_bytes))
    looked = msgspec.structs.replace(whole, view=View(file=LOOKED_AT, details=True), whereabouts=whereabouts())
    return {
        "monitor-80x24": (whole, Size(width=80, height=24)),
        "monitor-120x40": (whole, Size(width=120, height=40)),
        "details-80x24": (looked, Size(width=80, height=24)),
    }


def svg(rows: Sequence[Row], size: Size) -> str:
    """The screen as a picture; every word stands in its columns, whatever font the reader has."""
    width, height = size.width * CELL_WIDTH + 2 * MARGIN, size.height * CELL_HEIGHT + 2 * MARGIN
    font = "14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="s" viewBox="0 0 {width:g} {height:g}" xml:space="preserve">',
        f"<style>.s text{{font:{font};white-space:pre}}.s .h{{font-weight:bold}}</style>",
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#161b22"/>',
    ]
    lines += [part for number, row in enumerate(rows) for part in _parts(row, MARGIN + 13 + number * CELL_HEIGHT)]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _parts(row: Row, y: int) -> Iterator[str]:
    emphasis = ' class="h"' if row.tone == "head" else ""
    for run in re.finditer(r"\S+(?: \S+)*", row.text):
        x, width = cell_width(row.text[: run.start()]) * CELL_WIDTH + MARGIN, cell_width(run[0]) * CELL_WIDTH
        yield (
            f'<text x="{x:.1f}" y="{y}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
            f' fill="{COLOURS[row.tone]}"{emphasis}>{escape(run[0])}</text>'
        )


def pictures() -> dict[str, str]:
    """Every picture by its file's name."""
    drawn = {}
    for language in LANGUAGES:
        speak(language)
        for name, (scene, size) in scenes().items():
            drawn[f"{name}.{language}.svg"] = svg(draw(scene, size, NOW, UNICODE), size)
    speak("en")
    return drawn


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        (FOLDER / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
