"""The benchmarks' own decisions, and one small benchmark from the command line to the tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import goals, gpu_load, picture, profile, results, tables, wire
from benchmarks.cases import CASES
from benchmarks.clients import CLIENTS
from benchmarks.results import Machine, Report, Run

ROOT = Path(__file__).parent.parent


def served(*, start: int = 0, size: int = 10, path: str = "/m/f", began_s: float = 0.0, ended_s: float = 1.0):
    return wire.Served(
        run=1,
        path=path,
        status=206,
        start=start,
        body_bytes=size,
        wire_bytes=size + 100,
        began_s=began_s,
        ended_s=ended_s,
    )


def ran(
    client: str, *, case: str = "1", wall_s: float = 1.0, number: int = 1, exit_code: int = 0, **more: object
) -> Run:
    facts = {"cpu_s": wall_s, "rss_bytes": 100_000_000, "correct": True, **more}
    return Run(
        case=case,
        variant="a file",
        client=client,
        round=number,
        size_bytes=10**9,
        files=1,
        wall_s=wall_s,
        exit_code=exit_code,
        **facts,  # type: ignore[arg-type]
    )


def reported(*runs: Run) -> Report:
    machine = Machine(cores=2, processor="a", memory_bytes=1, system="b", versions={})
    return Report(date="2026-01-01", machine=machine, settings={}, runs=runs)


def test_a_line_of_nginx_names_run_file_and_range():
    """The range's first byte counts for a partial answer only."""
    line = "1700000002.500\t1.500\t206\t/m/a%20b?x=y&run=7\tbytes=100-199\t100\t350\n"
    expected = wire.Served(
        run=7, path="/m/a b", status=206, start=100, body_bytes=100, wire_bytes=350,
        began_s=1700000001.0, ended_s=1700000002.5,
    )  # fmt: skip
    assert expected == wire.parse_nginx(line)


def test_bytes_sent_twice_are_counted_per_file():
    """Overlap within a file counts; the same offsets of another file do not."""
    log = [served(start=0, size=10), served(start=5, size=10), served(path="/m/g", start=0, size=10)]
    assert wire.account(log).twice_bytes == 5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_twice_is_what_a_bitmap_says(spans: list[tuple[int, int]]):
    """Whatever the ranges and their order."""
    sent = [byte for start, size in spans for byte in range(start, start + size)]
    counted = wire.account(served(start=start, size=size) for start, size in spans)
    assert counted.twice_bytes == len(sent) - len(set(sent))


def test_a_connection_that_asks_again_is_one_stream():
    """Requests one after the other are one stream, overlapping ones two."""
    one_after_another = [served(began_s=0, ended_s=1), served(began_s=1, ended_s=2)]
    assert wire.account(one_after_another).streams_max == 1
    assert wire.account([*one_after_another, served(began_s=0.5, ended_s=1.5)]).streams_max == 2


def test_goals_are_judged_on_medians():
    """One slow round of ours does not decide; the median does."""
    runs = [ran("ours", wall_s=wall, number=i) for i, wall in enumerate((1.0, 1.05, 9.0))]
    verdicts = {verdict.goal: verdict for verdict in goals.judge([*runs, ran("curl"), ran("hf_transfer")])}
    assert verdicts["wall <= 1.1 x curl"].met
    assert not verdicts["wall <= 1 x hf_transfer"].met


def test_wrong_bytes_and_failures_meet_no_goal():
    """However fast they were."""
    for bad in (ran("ours", exit_code=1), ran("ours", correct=False)):
        (verdict,) = goals.judge([bad, ran("curl", wall_s=100.0)])
        assert not verdict.met
        assert any(line.startswith("NOT MET") for line in tables.goal_lines([verdict]))


def test_running_a_case_again_replaces_it_alone():
    """The day's file keeps the other cases."""
    old = reported(ran("ours", case="1"), ran("ours", case="10"))
    new = reported(ran("ours", case="1b"), ran("curl", case="10"))
    merged = results.merged(old, new)
    assert [(run.case, run.client) for run in merged.runs] == [("1", "ours"), ("1b", "ours"), ("10", "curl")]


def test_the_profile_sums_the_innermost_functions_of_each_thread():
    """Thread numbers and line numbers are not part of the name."""
    one = "thread (0x7F01): hash_0;run (threading.py:1);update (a/b/c.py:7) 3"
    other = "thread (0x7F02): hash_1;x (d.py:1);update (a/b/c.py:9) 1"
    stacks = f"{one}\n{other}\n"
    (spot,) = profile.spots(stacks)
    assert (spot.thread, spot.function, spot.share) == ("hash", "update (b/c.py)", 1.0)


def test_every_case_names_known_clients_and_fits_a_scale():
    """And no two comparisons share a name, which is what results are grouped by."""
    variants = [variant for case in CASES for variant in case.variants(0.01)]
    assert {client for variant in variants for client in variant.clients} <= CLIENTS.keys()
    assert len({variant.name for variant in variants}) == len(variants)


def test_rendering_replaces_only_what_is_between_the_markers(tmp_path: Path):
    """Hand-written text stays, and rendering twice gives the same."""
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.render(reported(ran("ours")), document, None)
    once = document.read_text()
    tables.render(reported(ran("ours")), document, None)
    assert once == document.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once


def test_the_picture_is_well_formed():
    """Names with characters that XML knows included."""
    ET.fromstring(picture.draw([ran("ours"), ran("curl & <co>"), ran("failed", exit_code=1)]))


def test_a_small_benchmark_from_the_command_line_to_the_tables(tmp_path: Path):
    """`python -m benchmarks` writes the JSON and renders tables and picture; both clients end with the right bytes."""
    document = tmp_path / "benchmarks.md"
    small = ("--case", "8", "--scale", "0.01", "--rounds", "1", "--clients", "ours,curl", "--no-nginx")
    places = ("--dir", str(tmp_path / "work"), "--results", str(tmp_path), "--document", str(document))
    command = [sys.executable, "-m", "benchmarks", *small, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = results.read(next(tmp_path.glob("*.json")))
    assert report is not None
    assert {"ours", "curl"} == {run.client for run in report.runs}
    assert all(run.correct and run.body_bytes == run.size_bytes for run in report.runs)
    assert "**ours**" in document.read_text()
    assert document.with_suffix(".svg").exists()


@pytest.mark.loader
def test_loading_onto_a_gpu_is_refused_where_there_is_none(tmp_path: Path) -> None:
    """Before a model of 25 GB is made; a rehearsal on the CPU shows that the script itself works."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "benchmarks.gpu_load", "--dir", str(tmp_path / "models")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (69, "")
    assert "error[E_NO_GPU]" in refused.stderr
    assert not (tmp_path / "models").exists()
    wanted = [word for name in ("qwen-loader", "overlap", "fastsafetensors", "proof") for word in ("--only", name)]
    written = tmp_path / "gpu.json"
    rehearsing = [*command, "--device", "cpu", "--size", "22mb", "--out", str(written), *wanted]
    rehearsed = subprocess.run(rehearsing, capture_output=True, text=True, check=False)
    result = json.loads(rehearsed.stdout)
    assert [(run["name"], run["cache"]) for run in result["runs"]] == [
        ("qwen-loader", "warm"),
        ("overlap", "warm"),
        ("qwen-loader", "cold"),
        ("proof", "warm"),
        ("fastsafetensors", "warm"),
        ("fastsafetensors", "cold"),
    ]
    assert json.loads(written.read_text()) == result
    ours, overlap, _cold, proof, theirs, _theirs_cold = result["runs"]
    assert proof["proven"] and proof["tensors"] > 100, proof
    assert 0.99 < proof["direct_share"] <= 1
    assert 0 < ours["peak_ram_bytes"] < 2**30
    assert ours["on_device"] and overlap["on_device"]
    assert theirs.get("skipped") == "not installed" or theirs["tensors"]
    assert all(goal["met"] is None or "last byte" in goal["goal"] for goal in result["goals"])


def test_what_the_goals_need_is_measured_first() -> None:
    """A budget that runs out costs the others."""
    every = gpu_load._programme(None)
    assert every[: len(gpu_load.FIRST)] == list(gpu_load.FIRST)
    assert {name for name, _cache in every} == set(gpu_load.WAYS)
    assert len(every) == len(set(every))


def test_a_contestant_that_is_not_done_in_time_is_ended(tmp_path: Path) -> None:
    """Importing torch alone takes longer than this; its row says so. What there is no time for is not begun."""
    row = gpu_load._contest("to", "warm", tmp_path, "cpu", until_s=time.monotonic() + 0.05, least_s=0.0)
    assert (row["name"], str(row["failed"])[:12]) == ("to", "['timed out:")
    row = gpu_load._contest("to", "warm", tmp_path, "cpu", until_s=time.monotonic() + gpu_load.LEFT_MIN_S / 2)
    assert row == {"name": "to", "cache": "warm", "skipped": "--budget is spent"}


def test_a_contestant_that_fails_says_so_and_the_next_goes_on(tmp_path: Path) -> None:
    """Whatever it died of: an empty folder is no model, and a killed process leaves no result."""
    row = gpu_load._contest("to", "warm", tmp_path, "cpu", until_s=time.monotonic() + 600)
    assert str(row["failed"]).startswith("['ended with 1', ")


def test_what_is_in_the_page_cache_is_seen(tmp_path: Path) -> None:
    """A file that was just read is; one that was evicted is not, where the file system can tell."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(100_000))
    gpu_load._read(path)
    assert gpu_load._cached_share([path]) in (1.0, None)
    gpu_load._evict(path)
    assert gpu_load._cached_share([path]) in (0.0, None)


def test_a_load_that_did_not_end_on_the_device_meets_no_goal() -> None:
    """Components that take turns there have not been copied: their load is none to compare with."""
    runs: list[dict[str, object]] = [
        {"name": "qwen-loader", "cache": "warm", "load_s": 2.0, "on_device": False},
        {"name": "to", "cache": "warm", "load_s": 5.0, "on_device": True},
    ]
    assert [goal["met"] for goal in gpu_load.goals(runs, 28_000_000_000)] == [None] * 4


def test_a_goal_that_is_missed_is_told_so() -> None:
    """And one that could not be measured is neither met nor missed."""
    runs: list[dict[str, object]] = [
        {"name": "qwen-loader", "cache": "warm", "load_s": 2.0},
        {"name": "to", "cache": "warm", "load_s": 5.0},
        {"name": "qwen-loader", "cache": "cold", "load_s": 4.0},
        {"name": "to", "cache": "cold", "load_s": 5.0},
        {"name": "copy-rate", "cache": "warm", "pinned_bytes_per_s": 20_000_000_000},
    ]
    found = [(goal["measured"], goal["met"]) for goal in gpu_load.goals(runs, 28_000_000_000)]
    assert found == [(2.5, True), (1.25, False), (0.7, True), (None, None)]
