"""How long after the last byte a pipeline is ready: loaded as its components come, all of it afterwards, or by a
program that waits and calls `from_pretrained`.

    python -m benchmarks.loader                          118 MB at 10 MB/s, on the CPU
    python -m benchmarks.loader --size 2gb --rate 100M --rounds 3

The real daemon, a rate-limited mirror on the loopback and the real qwen-loader. On a CPU weights stay the file's own
pages, so reading them costs nothing and what is saved is mostly the import of torch and diffusers; `--dtype float32`
converts every weight, which takes time by the byte as a copy to a GPU does. For a GPU there is `benchmarks.gpu_load`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from demo import steps, tiny_pipeline
from demo.stage import Stage
from demo.tiny_models import SizeName
from qwen_api import events as e

REPO = "Qwen/Qwen-Image-Edit-2511"
VAR = Path(__file__).parent.parent / "var" / "loader-bench"
SILENCE_S = 120.0  # importing torch on a busy machine
DEVICE = ("--device", "cpu", "--keep")
# What people write after waiting for a model. It says that it is ready where the benchmark listens.
PLAIN = """
import os, sys
from pathlib import Path
from qwen_api.client import Client, find_socket
from qwen_api.commands import LoaderReport
from qwen_loader.torchvision_cpu import define_missing_operators
define_missing_operators()  # without which no program can, over a CPU torch
import torch
from diffusers import DiffusionPipeline
options = {"dtype": getattr(torch, sys.argv[1])}
pipeline = DiffusionPipeline.from_pretrained(os.environ["QWEN_MODEL_PATH"], local_files_only=True, **options).to("cpu")
Client(find_socket(os.environ, None)).report_loader("plain", LoaderReport(state="ready"))
"""
WAYS = ("as they come", "all at the end", "from_pretrained")


class Times(NamedTuple):
    """Seconds of one run."""

    download_s: float  # from the first try to the last verified file
    after_s: float  # from then until the loader says ready
    early: int  # components that were loaded before the last byte


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table (or JSON)."""
    options = _parser().parse_args(argv)
    models = VAR / f"models-{options.size}"
    tiny_pipeline.build(models / REPO, size=options.size)
    found: dict[str, list[Times]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            print(f"round {number + 1}: {way}", file=sys.stderr, flush=True)
            found[way].append(_measure(models, options.rate, _arguments(way, options.dtype)))
    if options.json:
        print(json.dumps({way: [times._asdict() for times in runs] for way, runs in found.items()}))
        return 0
    print(f"{options.size} at {options.rate} bytes/s, dtype {options.dtype}, CPU, medians of {options.rounds}\n")
    print("| components loaded | download | last byte -> ready | loaded before the last byte |")
    print("|---|---|---|---|")
    for way, runs in found.items():
        download_s, after_s, early = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {way} | {download_s:.1f} s | {after_s:.2f} s | {early:.0f} |")
    return 0


def _arguments(way: str, dtype: str) -> tuple[str, ...]:
    match way:
        case "from_pretrained":
            return ("--", sys.executable, "-c", PLAIN, "bfloat16" if dtype == "auto" else dtype)
        case "all at the end":
            return (*DEVICE, "--dtype", dtype, "--no-early")
        case _:
            return (*DEVICE, "--dtype", dtype)


def _measure(models: Path, rate: str, arguments: tuple[str, ...]) -> Times:
    with (
        tempfile.TemporaryDirectory(prefix="loader-") as scratch,
        contextlib.redirect_stdout(sys.stderr),  # the stage tells its story there; the table goes to standard output
        Stage(Path(scratch)) as stage,
    ):
        endpoint = steps.start_mirror(stage, models, rate)
        steps.start_daemon(stage, REPO, endpoint=endpoint)
        command = ("qwen-loader", REPO, "--timeout", "3600", *arguments)
        stage.start(*command, log="loader.log")
        ear = _Ear()
        stage.wait_for("the pipeline is ready", ear.hear, silence_s=SILENCE_S)
        return ear.times()


class _Ear:
    """Notes when things were heard."""

    def __init__(self) -> None:
        self._begun_s = self._last_s = self._ready_s = 0.0
        self._early: set[str] = set()
        self._complete = False

    def hear(self, event: object) -> bool:
        """True with the loader's `ready`."""
        now_s = time.monotonic()
        match event:
            case e.FileStarted():
                self._begun_s = self._begun_s or now_s
            case e.FileVerified():
                self._last_s = now_s
            case e.ModelComplete():
                self._complete = True
            case e.LoaderChanged(state="loading") if event.component and not self._complete:
                self._early.add(event.component)
            case e.LoaderChanged(state="ready"):
                self._ready_s = now_s
                return True
        return False

    def times(self) -> Times:
        """What was heard, in seconds."""
        return Times(self._last_s - self._begun_s, self._ready_s - self._last_s, len(self._early))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=get_args(SizeName), default="118mb", help="default: %(default)s")
    parser.add_argument("--rate", metavar="BYTES_PER_S", default="10M", help="of the mirror (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32"), default="auto", help="default: as stored")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="every run, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
