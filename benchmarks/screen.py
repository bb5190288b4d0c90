"""What the monitor costs while it is looked at: CPU and bytes to the terminal, four files on their way.

    python -m benchmarks.screen --runs 3 --seconds 20

A daemon of its own downloads a model of 35 files, four of them large, from the embedded mirror, which is slow enough
for all runs; the installed qwen-monitor draws on a pty whose other side reads as a terminal does. CPU is the process's
own (utime and stime), after the first seconds, in which it starts. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from demo import steps
from demo.stage import BIN, Stage
from qwen_api import events as e

REPO = "Qwen/Qwen-Image-Edit-2511"
LARGE = (
    *(f"transformer/diffusion_pytorch_model-0000{number}-of-00005.safetensors" for number in (1, 2)),
    *(f"text_encoder/model-0000{number}-of-00004.safetensors" for number in (1, 2)),
)
SMALL = tuple(f"processor/part-{number:02}.json" for number in range(31))
RATE_BPS = 4_000_000  # as much news as at any rate: a file says at most so often how far it is
SETTLE_S = 5.0  # starting, and the rows that only then fill
VAR = Path(__file__).parent.parent / "var"


class Way(NamedTuple):
    """One way to look at it."""

    name: str
    size: tuple[int, int]
    env: Mapping[str, str]


SSH = {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}
WAYS = (
    Way("120x40, twice a second", (120, 40), {}),
    Way("120x40, once a second (over SSH)", (120, 40), SSH),
    Way("80x24, twice a second", (80, 24), {}),
    Way("80x24, once a second (over SSH)", (80, 24), SSH),
)


class Cost(NamedTuple):
    """Of one run."""

    cpu_percent: float
    bytes_per_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screen", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: %(default)s)")
    parser.add_argument("--all-files", action="store_true", help="with the verified files shown too")
    options = parser.parse_args(argv)
    found: dict[str, list[Cost]] = {way.name: [] for way in WAYS}
    total_s = options.runs * len(WAYS) * (options.seconds + SETTLE_S + 1)
    VAR.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="screen-", dir=VAR) as scratch,
        contextlib.redirect_stdout(sys.stderr),  # the stage tells its story there; the table goes to standard output
        Stage(Path(scratch)) as stage,
    ):
        models = Path(scratch) / "models"
        make_model(models / REPO, int(1.5 * total_s * RATE_BPS))
        endpoint = steps.start_mirror(stage, models, str(RATE_BPS))
        steps.start_daemon(stage, REPO, endpoint=endpoint)
        under_way: set[str] = set()
        stage.wait_for("four files on their way", lambda event: _all_large(event, under_way))
        for _ in range(options.runs):
            for way in WAYS:
                found[way.name].append(watched(stage, way, options.seconds, b"a" if options.all_files else b""))
    print("| `qwen-monitor` | CPU, median | largest | bytes/s to the terminal, median | largest |")
    print("|---|---|---|---|---|")
    for name, costs in found.items():
        cpu, sent = zip(*costs, strict=True)
        print(
            f"| {name} | {statistics.median(cpu):.1f} % | {max(cpu):.1f} % "
            f"| {statistics.median(sent):.0f} | {max(sent):.0f} |"
        )
    return 0


def _all_large(event: e.Event, under_way: set[str]) -> bool:
    if isinstance(event, e.FileProgress) and event.path in LARGE:
        under_way.add(event.path)
    return len(under_way) == len(LARGE)


def make_model(folder: Path, size_bytes: int) -> None:
    """Four large files, sparse, that differ, and the small ones."""
    for number, path in enumerate((*LARGE, *SMALL)):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path in SMALL:
            file.write_text(json.dumps({"part": number}))
            continue
        data_bytes = size_bytes // len(LARGE)
        tensor = {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}
        head = json.dumps({"__metadata__": {"part": str(number)}, "weight": tensor}).encode()
        with file.open("wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            out.truncate(8 + len(head) + data_bytes)


def watched(stage: Stage, way: Way, seconds: float, keys: bytes) -> Cost:
    """The monitor on a pty of this size for so long. Raises RuntimeError if it ends."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", way.size[1], way.size[0], 0, 0))
    kept = {name: text for name, text in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    env = {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", "QWEN_DAEMON_SOCKET": str(stage.socket), **way.env}
    child = subprocess.Popen([BIN / "qwen-monitor"], env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        read_for(master, SETTLE_S)
        os.write(master, keys)
        read_for(master, 1.0)
        begun_s, cpu_s = time.monotonic(), cpu_seconds(child.pid)
        sent = read_for(master, seconds)
        took_s = time.monotonic() - begun_s
        return Cost(100 * (cpu_seconds(child.pid) - cpu_s) / took_s, sent / took_s)
    finally:
        child.kill()
        child.wait()
        os.close(master)


def read_for(master: int, seconds: float) -> int:
    """Read what it draws for so long; how many bytes that were. Raises RuntimeError when it ends."""
    end_s, count = time.monotonic() + seconds, 0
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([master], [], [], left_s)[0]:
            try:
                count += len(os.read(master, 65536))
            except OSError as error:
                raise RuntimeError("the monitor has ended") from error
    return count


def cpu_seconds(pid: int) -> float:
    """utime and stime of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
