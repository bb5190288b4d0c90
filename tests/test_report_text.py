"""The check report as text: its exact shape, its width, and names that cannot hurt."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from qwen_api.inventory import PartFile, look
from qwen_api.language import speak
from qwen_api.models import ModelRef
from qwen_api.report import Report, make_report
from qwen_monitor.display import ASCII, cell_width
from qwen_monitor.report_text import EMOJI, WIDTH, Advice, report_lines
from tests.fakes import model_folder as fake

REF = ModelRef(repo=fake.REPO)
SHARD = "transformer/diffusion_pytorch_model-0000{}-of-00003.safetensors"


def small() -> fake.Files:
    """A pipeline of two components, three shards."""
    named = {
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    return {
        "model_index.json": fake.model_index("QwenImageEditPlusPipeline", named),
        "transformer/config.json": fake.diffusers_config("QwenImageTransformer2DModel"),
        **fake.in_folder("transformer", fake.sharded("diffusion_pytorch_model", 3)),
        "vae/config.json": fake.diffusers_config("AutoencoderKLQwenImage"),
        "vae/diffusion_pytorch_model.safetensors": fake.safetensors("decoder.w"),
    }


def report_of(folder: Path, present: fake.Files, wanted: fake.Files | None) -> Report:
    """The report on a folder that holds `present` where `wanted` is listed (None: no listing)."""
    inventory = look(fake.write(folder, present))
    return make_report(
        ref=REF, inventory=inventory, manifest=None if wanted is None else fake.listing(wanted), folder="/models/qwen"
    )


def test_the_report_of_a_small_model(tmp_path: Path) -> None:
    """One line for each component, its index and shards below, the totals, the reasons, what to do at what price."""
    files = small()
    present = {p: c for p, c in files.items() if p != SHARD.format(3)}
    present[SHARD.format(2)] = files[SHARD.format(2)][:300]
    advice = Advice(command="qwenctl download X/Y", fetch_bytes=1404, free_bytes=412_000_000_000, place="/srv/hf")

    lines = report_lines(report_of(tmp_path, present, files), advice, signs=EMOJI)

    assert (
        """\
Qwen/Qwen-Image-Edit-2511 @ 6f3ccc0b
✅ (root)           1/1           224 B
❌ transformer      3/5      1.6/2.7 kB
   ✅ diffusion_pytorch_model.safetensors.index.json  494 B
   ✅ diffusion_pytorch_model-00001-of-00003.safetensors  704 B
   ❌ diffusion_pyto…l-00002-of-00003.safetensors  300/704 B (incomplete, 42.6%)
   ❌ diffusion_pytorch_model-00003-of-00003.safetensors  missing (704 B)
✅ vae              2/2           455 B
Files: 8 total, 6 found, 1 missing, 1 incomplete
Bytes: 2.3/3.4 kB
Checked: names and sizes of the Hub's listing, headers of the weights
Model complete: no
Missing: the index names this shard
  transformer/diffusion_pytorch_model-00003-of-00003.safetensors  704 B
Incomplete: the file ends too early
  transformer/diffusion_pytorch_model-00002-of-00003.safetensors  704 B
    300 of 704 bytes
To do: qwenctl download X/Y
       fetches 1.4 kB at most; 412.0 GB free on /srv/hf""".splitlines()
        == lines
    )


EVERY_TROUBLE = {
    "en": """\
Qwen/Qwen-Image-Edit-2511 @ 6f3ccc0b
[ok] (root)            1/1           224 B
[--] text_encoder      1/6      0.8/4.1 kB
   [ok] model.safetensors.index.json  598 B
   [--] model-00001-of-00005.safetensors  0 B (empty)
   [--] shards 00002-00004 of 5  missing (2.1 kB)
   [--] model-00005-of-00005.safetensors  200/704 B (incomplete, 28.4%)
[--] transformer       6/8      4.1/5.2 kB
   [ok] diffusion_pytorch_model.safetensors.index.json  920 B
   [ok] shards 00001-00004 of 6  2.8 kB
   [--] diffusion_pyt…-00005-of-00006.safetensors  300/704 B (incomplete, 42.6%)
   [--] diffusion_pytorch_model-00006-of-00006.safetensors  704 B (corrupt)
[--] vae               1/2        79/455 B
   [--] diffusion_pytorch_model.safetensors  381 B (too long)
Files: 17 total, 9 found, 3 missing, 3 incomplete, 2 corrupt
Bytes: 5.2/10.0 kB
Checked: names and sizes of the Hub's listing, headers of the weights
Model complete: no
Missing: the file is not there
  text_encoder/model-00002-of-00005.safetensors  704 B
  text_encoder/model-00003-of-00005.safetensors  704 B
  text_encoder/model-00004-of-00005.safetensors  704 B
Incomplete: the file ends too early
  transformer/diffusion_pytorch_model-00005-of-00006.safetensors  704 B
    300 of 704 bytes
Incomplete: a download of this file was begun and not finished
  text_encoder/model-00005-of-00005.safetensors  704 B
    begun in blobs/x.incomplete
Incomplete: the file has no content
  text_encoder/model-00001-of-00005.safetensors  704 B
Corrupt: the file goes on after its content ends
  vae/diffusion_pytorch_model.safetensors  376 B
    5 bytes too many
Corrupt: the size is right, but the content is not: its hash differs
  transformer/diffusion_pytorch_model-00006-of-00006.safetensors  704 B
    expected ddf166566e42018ca8297cf128ee630ee5de241621620785b32c0c6b9402a89b,
    found e1a81c5d38e38b6399ba5e9b04c43a888fd3a7e8dd9314eebc3c9c1d6ad51fe2
To do: qwenctl download qwen-image-edit
       fetches 4.1 kB at most, 0:41 at the last seen 100 B/s; 412.0 GB free on
       /srv/hf""",
    "ru": """\
Qwen/Qwen-Image-Edit-2511 @ 6f3ccc0b
[ok] (корень)          1/1           224 Б
[--] text_encoder      1/6      0,8/4,1 кБ
   [ok] model.safetensors.index.json  598 Б
   [--] model-00001-of-00005.safetensors  0 Б (пуст)
   [--] шарды 00002-00004 из 5  нет (2,1 кБ)
   [--] model-00005-of-00005.safetensors  200/704 Б (не целиком, 28,4%)
[--] transformer       6/8      4,1/5,2 кБ
   [ok] diffusion_pytorch_model.safetensors.index.json  920 Б
   [ok] шарды 00001-00004 из 6  2,8 кБ
   [--] diffusion_pyt…-00005-of-00006.safetensors  300/704 Б (не целиком, 42,6%)
   [--] diffusion_pytorch_model-00006-of-00006.safetensors  704 Б (повреждён)
[--] vae               1/2        79/455 Б
   [--] diffusion_pytorch_model.safetensors  381 Б (слишком длинный)
Файлы: всего 17, найдено 9, нет 3, не целиком 3, повреждено 2
Байты: 5,2/10,0 кБ
Проверено: имена и размеры по списку Hub, заголовки весов
Модель скачана целиком: нет
Не хватает: файла нет
  text_encoder/model-00002-of-00005.safetensors  704 Б
  text_encoder/model-00003-of-00005.safetensors  704 Б
  text_encoder/model-00004-of-00005.safetensors  704 Б
Не целиком: файл обрывается раньше времени
  transformer/diffusion_pytorch_model-00005-of-00006.safetensors  704 Б
    300 из 704 байт
Не целиком: скачивание этого файла начали и не закончили
  text_encoder/model-00005-of-00005.safetensors  704 Б
    начато в blobs/x.incomplete
Не целиком: файл пуст
  text_encoder/model-00001-of-00005.safetensors  704 Б
Повреждено: файл продолжается после конца своего содержимого
  vae/diffusion_pytorch_model.safetensors  376 Б
    лишних байт: 5
Повреждено: размер верный, а содержимое нет: хеш не совпадает
  transformer/diffusion_pytorch_model-00006-of-00006.safetensors  704 Б
    ожидался ddf166566e42018ca8297cf128ee630ee5de241621620785b32c0c6b9402a89b,
    получен e1a81c5d38e38b6399ba5e9b04c43a888fd3a7e8dd9314eebc3c9c1d6ad51fe2
Что делать: qwenctl download qwen-image-edit
       скачает не больше 4,1 кБ, 0:41 при последней скорости 100 Б/с; свободно
       412,0 ГБ на /srv/hf""",
}


@pytest.mark.parametrize("language", EVERY_TROUBLE)
def test_the_report_of_every_trouble_at_once(tmp_path: Path, language: str) -> None:
    """Missing, empty, cut, begun, too long and other bytes: each is marked, listed under its reason, and paid for."""
    speak(language)
    files = small() | fake.in_folder("text_encoder", fake.sharded("model", 5))
    files = {path: content for path, content in files.items() if "transformer/diff" not in path}
    files |= fake.in_folder("transformer", fake.sharded("diffusion_pytorch_model", 6))
    te, tr = "text_encoder/model-0000{}-of-00005.safetensors", SHARD.replace("00003", "00006")
    present = {path: content for path, content in files.items() if path not in map(te.format, (2, 3, 4, 5))}
    present[te.format(1)] = b""
    present[tr.format(5)] = files[tr.format(5)][:300]
    present[tr.format(6)] = files[tr.format(6)][:-1] + b"!"
    present["vae/diffusion_pytorch_model.safetensors"] += b"again"
    manifest = fake.listing(files)
    begun = PartFile(path="blobs/x.incomplete", size_bytes=200, etag=manifest.by_path()[te.format(5)].etag)
    inventory = msgspec.structs.replace(look(fake.write(tmp_path, present)), parts=(begun,))
    wrong = {tr.format(6): hashlib.sha256(present[tr.format(6)]).hexdigest()}
    report = make_report(ref=REF, inventory=inventory, manifest=manifest, hashes=wrong)
    advice = Advice(
        command="qwenctl download qwen-image-edit",
        fetch_bytes=4100,
        rate_bps=100,
        free_bytes=412_000_000_000,
        place="/srv/hf",
    )

    lines = report_lines(report, advice)

    assert EVERY_TROUBLE[language].splitlines() == lines
    assert [line for line in lines if cell_width(line) > WIDTH] == []


def test_rows_of_shards_are_one_line_and_gaps_are_not_bridged(tmp_path: Path) -> None:
    """A hundred shards of which some are here fit a screen; each set of shards is told apart."""
    files = {"config.json": fake.transformers_model("Qwen2ForCausalLM")["config.json"], **fake.sharded("model", 100)}
    shard = "model-{:05d}-of-00100.safetensors"
    gone = {shard.format(n) for n in (*range(4, 60), 62, 100)}
    present = {path: content for path, content in files.items() if path not in gone}

    lines = report_lines(report_of(tmp_path, present, files), Advice())

    assert [line[3:].partition("  ")[0] for line in lines if line.startswith("   [")] == [
        "[ok] model.safetensors.index.json",
        "[ok] shards 00001-00003 of 100",
        "[--] shards 00004-00059 of 100",
        "[ok] shards 00060-00061 of 100",
        f"[--] {shard.format(62)}",
        "[ok] shards 00063-00099 of 100",
        f"[--] {shard.format(100)}",
    ]


def test_a_complete_model_says_so_and_how_to_be_surer(tmp_path: Path) -> None:
    """Sizes are not hashes, and the report does not claim them."""
    files = small()

    lines = report_lines(report_of(tmp_path, files, files), Advice())

    assert "Model complete: yes" in lines
    assert lines[-1] == "To be sure of every byte: add --verify full"
    assert not any("[--]" in line for line in lines)


def test_short_leaves_single_files_out_and_all_lists_good_ones(tmp_path: Path) -> None:
    """Three depths of the same report."""
    files = small()
    present = {p: c for p, c in files.items() if p != SHARD.format(3)}
    report = report_of(tmp_path, present, files)

    assert not any("00003" in line for line in report_lines(report, Advice(), short=True))
    assert any("[ok] config.json" in line for line in report_lines(report, Advice(), all_files=True))


def test_a_component_of_which_nothing_is_here_is_one_line(tmp_path: Path) -> None:
    """Its files are named once, among the missing."""
    files = small()
    present = {p: c for p, c in files.items() if not p.startswith("vae/")}

    lines = report_lines(report_of(tmp_path, present, files), Advice())

    assert sum("vae/config.json" in line for line in lines) == 1
    assert not any(line.startswith("   [--]") for line in lines)


def test_without_a_listing_no_sum_is_claimed(tmp_path: Path) -> None:
    """The size of a missing shard is not known, so 3.1 of 3.1 kB would be a lie."""
    present = {p: c for p, c in small().items() if p != SHARD.format(3)}

    lines = report_lines(report_of(tmp_path, present, None), Advice())

    assert "Checked: by the model's own files; the Hub's listing is not known here" in lines
    assert next(line for line in lines if "transformer " in line).endswith("2.0 kB")


def test_the_cost_is_told_in_time_where_a_speed_was_seen(tmp_path: Path) -> None:
    """Bytes, time at the last seen rate, and room."""
    report = report_of(tmp_path, {}, {"config.json": b"{}"})
    advice = Advice(command="qwenctl download X/Y", fetch_bytes=57_700_000_000, rate_bps=84_900_000, free_bytes=10**12)
    said = " ".join(" ".join(report_lines(report, advice)).split())
    assert "fetches 57.7 GB at most, 11:19 at the last seen 84.9 MB/s; 1.0 TB free" in said


def test_too_little_room_is_shouted(tmp_path: Path) -> None:
    """Before the download, not in the middle of it."""
    advice = Advice(command="qwenctl download X/Y", fetch_bytes=2000, free_bytes=1000, place="/")

    assert report_lines(report_of(tmp_path, {}, small()), advice)[-1].endswith("NOT ENOUGH ROOM")


@pytest.mark.parametrize("signs", [EMOJI, None])
def test_every_line_but_the_command_fits_80_columns(tmp_path: Path, signs: object) -> None:
    """Also with names as long as a listing allows; the command stays whole."""
    long = {f"{'folder' * 20}/{'name' * 50}.safetensors": b"1", **small()}
    report = report_of(tmp_path, {"x": b"1"}, long)
    chosen = {"signs": EMOJI} if signs else {}

    lines = report_lines(report, Advice(), glyphs=ASCII, all_files=True, **chosen)

    assert [line for line in lines if cell_width(line) > WIDTH] == []


@pytest.mark.fault("X1")
def test_hostile_names_are_shown_as_escapes(tmp_path: Path) -> None:
    """Neither a file's name nor a folder's can move the cursor or turn the text around."""
    report = report_of(tmp_path, {}, small())
    bad = msgspec.structs.replace(report.findings[0], path="a\x1b[2J/\u202eb", detail="\x07\x9b")
    hostile = msgspec.structs.replace(report, model="x\x1b]0;", findings=(bad,), notes=("n\x1b",))

    text = "".join(report_lines(hostile, Advice(command="qwenctl \x1b", free_bytes=1, fetch_bytes=1, place="\x1b")))

    assert not any(c in text for c in "\x1b\x07\x9b\u202e")
