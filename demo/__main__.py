"""`make run`: the whole job, told as it happens.

Without a model: on an embedded default that needs no Hub. A small real Qwen-Image-Edit pipeline is made, served by a
rate-limited mirror, downloaded by the daemon, sabotaged twice (SIGKILL in mid-file, flipped bytes in a finished shard),
and in the end loaded to edit a picture. With MODEL: the same job on the real Hub, without the sabotage. Exit 0 only if
all of it happened. The steps are in demo.steps; this module is their order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo import steps
from demo.stage import Stage, StepFailed
from qwen_api.models import BadModelName, parse_model

EMBEDDED_MODEL = "Qwen/Qwen-Image-Edit-2511"


def main() -> int:
    """Run it; 0 if everything that should happen did."""
    parser = argparse.ArgumentParser(
        prog="make run",
        description=__doc__,
        epilog="with make: make run MODEL=qwen-image-edit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="", help="alias or org/name: do it on the real Hub")
    parser.add_argument("--var", type=Path, default=Path("var/demo"), help="where everything is put")
    parser.add_argument("--rate-limit", default="15M", help="bytes per second of the embedded mirror")
    options = parser.parse_args()
    try:
        model = str(parse_model(options.model)) if options.model else ""
    except BadModelName as error:
        parser.error(str(error))
    stage = Stage(options.var)
    try:
        with stage:
            picture = _real(stage, model) if model else _embedded(stage, options.rate_limit)
    except StepFailed as failed:
        stage.say(f"FAILED: {failed}")
        stage.say(f"logs are in {stage.logs}")
        return 1
    except KeyboardInterrupt:
        stage.say("stopped; what was downloaded is kept")
        return 130
    stage.say(f"all of it happened. The edited picture: {picture}")
    return 0


def _embedded(stage: Stage, rate_limit: str) -> Path:
    folder = steps.make_model(stage, EMBEDDED_MODEL)
    mirror = steps.start_mirror(stage, folder, rate_limit)
    daemon = steps.start_daemon(stage, EMBEDDED_MODEL, endpoint=mirror)
    steps.start_monitor(stage)
    loader = steps.start_loader(stage, EMBEDDED_MODEL, is_tiny=True)
    cut = steps.kill_in_mid_file(stage, daemon)
    steps.start_daemon(stage, EMBEDDED_MODEL, endpoint=mirror)
    steps.see_resume(stage, cut)
    steps.flip_bytes(stage)
    steps.tell_bytes(stage, mirror, "because of the SIGKILL")
    steps.see_complete(stage, repaired=True)
    steps.tell_bytes(stage, mirror, "with the repair")
    return steps.see_picture(stage, loader)


def _real(stage: Stage, model: str) -> Path:
    steps.start_daemon(stage, model, endpoint=None)
    steps.start_monitor(stage)
    loader = steps.start_loader(stage, model, is_tiny=False)
    steps.see_complete(stage, repaired=False)
    return steps.see_picture(stage, loader)


if __name__ == "__main__":
    sys.exit(main())
