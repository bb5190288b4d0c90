"""The whole daemon on a loop that counts what its callbacks cost, as `qwen-daemon` on its command line.

    python -m tests.fakes.timed_daemon --config FILE

SIGUSR1 begins the count anew; SIGUSR2 writes one line of JSON to standard output: the dearest callbacks since then, in
CPU seconds. What uvloop does in C instead of this loop in Python can only be cheaper.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
from pathlib import Path

from qwen_daemon import app, logs
from qwen_daemon import config as configuration
from qwen_daemon.process import collect_rarely
from tests.fakes.timed_loop import TimedLoop


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    found, path = configuration.load(os.environ, parser.parse_args().config)
    settings = configuration.settle(found, path, os.environ)
    logs.configure(os.environ)
    loop = TimedLoop()
    signal.signal(signal.SIGUSR1, lambda *_: loop.dearest_s.clear())
    signal.signal(signal.SIGUSR2, lambda *_: print(json.dumps(loop.dearest_s), flush=True))
    collect_rarely()
    gc.enable()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(app.run_for_ever(settings, os.environ))


if __name__ == "__main__":
    main()
